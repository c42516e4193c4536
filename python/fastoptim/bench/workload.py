"""The arrays and settings that one row of a table is about: one array of a size, or a model with its true shapes."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from ..optimizer.base import OPTIMIZERS

Shapes = tuple[tuple[int, ...], ...]

#: Options that change the formats of arrays, where they are disabled.
FORMATS = {"state_format": "native", "master_weight_bits": None, "kahan": False, "stochastic_rounding": False}


@dataclass(frozen=True)
class Workload:
    """An optimizer with its options, the arrays it steps, and where it runs."""

    optimizer: str
    name: str
    shapes: Shapes
    dtype: str = "float32"
    grad_dtype: str = "float32"
    threads: int | None = None  # None: as set; always None on a GPU, as is the instruction set
    isa: str | None = None
    device: str = "cpu"
    options: Mapping[str, Any] = field(default_factory=dict)

    @property
    def elements(self) -> int:
        """The number of elements of all parameters."""
        return sum(map(math.prod, self.shapes))

    @property
    def in_float32(self) -> Workload | None:
        """The workload with float32 parameters, gradients and state; None if no option changes a format."""
        if all(self.options.get(name, default) == default for name, default in FORMATS.items()):
            return None
        options = {name: value for name, value in self.options.items() if name not in FORMATS}
        return replace(self, dtype="float32", grad_dtype="float32", options=options)

    def capped(self, most: int) -> Workload:
        """Return it over the arrays that fit into `most` elements, or over the first rows of one if none does."""
        kept: list[tuple[int, ...]] = []
        for shape in self.shapes:
            if sum(map(math.prod, kept)) + math.prod(shape) <= most:
                kept.append(shape)
        row = self.shapes[0][1:]
        rows = most // math.prod(row)
        return replace(self, shapes=tuple(kept) or ((rows, *row) if rows else (most,),))


#: The elements of a row of one array whose rows have a number each.
ROW = 64


def shapes_of(work: int | Shapes, optimizer: str) -> Shapes:
    """Return the shapes of a model, or of one array of that many elements.

    The array has rows if the optimizer keeps a number for each of these.

    >>> shapes_of(1024, "adam"), shapes_of(1024, "rowwise_adam"), shapes_of(100, "rowwise_adam")
    (((1024,),), ((16, 64),), ((100,),))
    """
    if not isinstance(work, int):
        return work
    has_rows = any(array.is_of_rows for array in OPTIMIZERS[optimizer].state_schema.values())
    return ((work // ROW, ROW) if has_rows and work % ROW == 0 else (work,),)


def has_formats(options: Mapping[str, Any]) -> bool:
    """Return whether an option that changes formats was given, whatever its value."""
    return not FORMATS.keys().isdisjoint(options)


def name_size(size: int) -> str:
    """Write a number of elements as one reads it best.

    >>> [name_size(size) for size in (1_000_000, 65_536, 1_500, 16_000_000)]
    ['1e6', '2^16', '1500', '1.6e7']
    """
    digits = str(size).rstrip("0")
    if size >= 1000 and len(digits) <= 3 <= len(str(size)) - len(digits):
        return f"{digits[0]}{'.' if digits[1:] else ''}{digits[1:]}e{len(str(size)) - 1}"
    return f"2^{size.bit_length() - 1}" if size >= 1024 and size & (size - 1) == 0 else str(size)


def gpt2() -> Shapes:
    """GPT-2 with 124 million parameters, as in its published checkpoint; the output layer is the embedding."""
    width, layers, vocabulary, positions = 768, 12, 50257, 1024
    norm = ((width,), (width,))
    attention = ((width, 3 * width), (3 * width,), (width, width), (width,))
    feed_forward = ((width, 4 * width), (4 * width,), (4 * width, width), (width,))
    return ((vocabulary, width), (positions, width), *(norm + attention + norm + feed_forward) * layers, *norm)


def resnet50() -> Shapes:
    """ResNet-50 for ImageNet as in torchvision, without the running means, which no optimizer steps."""

    def convolution(inputs: int, outputs: int, side: int) -> Shapes:
        return ((outputs, inputs, side, side), (outputs,), (outputs,))  # and scale and shift of its normalization

    shapes = [*convolution(3, 64, 7)]
    inputs = 64
    for blocks, width in ((3, 64), (4, 128), (6, 256), (3, 512)):
        for block in range(blocks):
            shapes += convolution(inputs, width, 1) + convolution(width, width, 3) + convolution(width, 4 * width, 1)
            if block == 0:
                shapes += convolution(inputs, 4 * width, 1)
            inputs = 4 * width
    return (*shapes, (1000, inputs), (1000,))


MODELS: dict[str, Shapes] = {
    "gpt2": gpt2(),
    "resnet50": resnet50(),
    "mlp": ((784, 256), (256,), (256, 10), (10,)),  # for handwritten digits
    "tiny": ((4, 3), (4,), (2, 4), (2,)),  # such a step costs its overhead alone
}
