"""What is stepped: one array of a size, or a model with the true shapes of its arrays."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

Shape = tuple[int, ...]


@dataclass(frozen=True)
class Work:
    """Arrays to step, by their shapes."""

    name: str
    shapes: tuple[Shape, ...]

    @property
    def elements(self) -> int:
        """Of all arrays together."""
        return sum(map(math.prod, self.shapes))

    def capped(self, most: int) -> Work:
        """The arrays that fit into so many elements, one after another; where none does, the beginning of the first."""
        kept: list[Shape] = []
        for shape in self.shapes:
            if sum(map(math.prod, kept)) + math.prod(shape) <= most:
                kept.append(shape)
        return Work(self.name, tuple(kept) or ((most,),))

    def of_ones(self) -> Work:
        """As many arrays of one element: a step of these costs what does not depend on the elements."""
        return Work(self.name, ((1,),) * len(self.shapes))


def one_array(size: int) -> Work:
    """One array, named as one would write its size.

    >>> one_array(1_000_000).name, one_array(65_536).name, one_array(1_500).name
    ('1e6', '2^16', '1500')
    """
    exponent = len(str(size)) - len(str(size).rstrip("0"))
    if exponent >= 3 and len(str(size)) - exponent <= 3:
        digits = str(size)[: len(str(size)) - exponent]
        mantissa = f"{digits[0]}.{digits[1:]}" if digits[1:] else digits
        return Work(f"{mantissa}e{len(str(size)) - 1}", ((size,),))
    is_power = size >= 1024 and size & (size - 1) == 0
    return Work(f"2^{size.bit_length() - 1}" if is_power else str(size), ((size,),))


def gpt2() -> tuple[Shape, ...]:
    """GPT-2 of 124 million parameters, in the order of its published checkpoint; the output layer is the embedding."""
    width, layers, words, positions = 768, 12, 50257, 1024
    norm = ((width,), (width,))
    attention = ((width, 3 * width), (3 * width,), (width, width), (width,))
    network = ((width, 4 * width), (4 * width,), (4 * width, width), (width,))
    return ((words, width), (positions, width), *(norm + attention + norm + network) * layers, *norm)


def resnet50() -> tuple[Shape, ...]:
    """ResNet-50 for ImageNet, as in torchvision; without the running means, which no optimizer steps."""

    def convolution(inputs: int, outputs: int, side: int) -> tuple[Shape, ...]:
        return ((outputs, inputs, side, side), (outputs,), (outputs,))  # and the scale and shift of its norm

    shapes = [*convolution(3, 64, 7)]
    inputs = 64
    for blocks, width in ((3, 64), (4, 128), (6, 256), (3, 512)):
        for block in range(blocks):
            shapes += convolution(inputs, width, 1) + convolution(width, width, 3) + convolution(width, 4 * width, 1)
            if block == 0:
                shapes += convolution(inputs, 4 * width, 1)
            inputs = 4 * width
    return (*shapes, (1000, inputs), (1000,))


def mlp() -> tuple[Shape, ...]:
    """A network from 784 inputs through 256 to 10 outputs, as for handwritten digits."""
    return ((784, 256), (256,), (256, 10), (10,))


def tiny() -> tuple[Shape, ...]:
    """A few arrays of a handful each: what such a step costs is not its elements."""
    return ((4, 3), (4,), (2, 4), (2,))


MODELS: dict[str, Callable[[], tuple[Shape, ...]]] = {"gpt2": gpt2, "resnet50": resnet50, "mlp": mlp, "tiny": tiny}


def model(name: str) -> Work:
    """A model of `MODELS`.

    >>> model("gpt2").elements
    124439808
    """
    return Work(name, MODELS[name]())
