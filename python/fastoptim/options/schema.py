"""The schema of an optimizer's state: the shape, the storage format and the initial value of each array.

A rule declares the arrays that differ from the default.  Allocation, checks, checkpoints, `fastoptim.functional`, the
reference engine and the documentation read the schema.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, fields, replace
from typing import Any, Literal, NamedTuple, TypeAlias

import numpy as np

from ..block_codes import CODES, Code, blocks_of
from ..extra_bits import EXTRA_BITS, MASTER_BITS_8, MASTER_BITS_16
from ..reference_math import FORMATS, Format

#: The state array of `ema` and `swa_start`.
AVERAGE = "average"

#: The state array of `row_steps`.
ROW_STEPS = "row_steps"

_INTEGERS: Mapping[str, np.dtype[Any]] = {MASTER_BITS_8: np.dtype(np.int8), MASTER_BITS_16: np.dtype(np.int16)}

#: The formats that state may have.  "compute" is float64 for a float64 parameter, else float32.
STATE_FORMATS = tuple(FORMATS)

#: The end of the name of the array with the scales of a compressed one.
SCALES = ".scales"

Compress: TypeAlias = Literal["signed", "non-negative"]

Initial: TypeAlias = float | Literal["p"]


class Shape(NamedTuple):
    """A kind of shape that a state array may have."""

    of: Callable[[tuple[int, ...]], tuple[int, ...] | None]
    """From the parameter's shape to the state array's; None if a parameter of this shape has no such array."""

    dtype: np.dtype[Any] | None
    """The fixed dtype; None where the array's format decides."""

    keeps_layout: bool
    """True if the array has the parameter's memory order."""

    reason: str
    """The end of the message that names the expected shape."""

    on_host: bool = False
    """True if the array is in the CPU's memory, also where the parameter is in a GPU's."""

    has_rows: bool = True
    """True if row i of the array belongs to row i of the parameter, as far as the array has rows."""


def _row_shape(shape: tuple[int, ...]) -> tuple[int, ...] | None:
    return (*shape[:-1], 1) if len(shape) > 1 else None


def _column_shape(shape: tuple[int, ...]) -> tuple[int, ...] | None:
    return (*shape[:-2], 1, shape[-1]) if len(shape) > 1 else None


def _no_matrix_shape(shape: tuple[int, ...]) -> tuple[int, ...] | None:
    return None if len(shape) > 1 else shape


#: Shapes over the last two axes, which are those of matrices.  A parameter of fewer axes has one factor for each
#: element and one for all.
_OF_MATRICES: Mapping[str, tuple[Callable[[tuple[int, ...]], tuple[int, ...] | None], str]] = {
    "row_sums": (_row_shape, ", one number for each row of a matrix"),
    "column_sums": (_column_shape, ", one number for each column of a matrix"),
    "no_matrix": (_no_matrix_shape, " as the parameter's"),
    "row_factor": (lambda shape: _row_shape(shape) or shape, ", one number for each row of a matrix"),
    "column_factor": (
        lambda shape: _column_shape(shape) or (1,) * len(shape),
        ", one number for each column of a matrix",
    ),
}

SHAPES = {
    "param": Shape(lambda shape: shape, None, True, " as the parameter's"),
    "scalar": Shape(lambda shape: (), np.dtype(np.float64), False, ", one number for the whole array"),
    "matrix_rows": Shape(lambda shape: (*shape[:-1], 1), None, False, ", one number for each row of a matrix"),
    "blocks": Shape(
        lambda shape: (blocks_of(math.prod(shape)),),
        np.dtype(np.float32),
        False,
        ", one number for each block of 64 elements",
    ),
    **{
        name: Shape(of, None, False, reason, has_rows=name != "column_sums")
        for name, (of, reason) in _OF_MATRICES.items()
    },
    "row_block": Shape(
        lambda shape: _row_shape(shape) or (1,) * len(shape), None, False, ", one number for each row of a matrix"
    ),
    "rows": Shape(lambda shape: shape[:1] or (1,), None, False, ", one number for each row"),
    "row_counts": Shape(lambda shape: shape[:1] or (1,), np.dtype(np.int64), False, ", one count for each row", True),
}


@dataclass(frozen=True)
class StateArray:
    """The declaration of one state array.

    Args:
        shape: A name in `SHAPES`.
        format: One of `STATE_FORMATS`; scalars are float64.
        initial: The value of every element before the first step: a number, "p" for a copy of the parameter, or a
            function of the options that returns either.
        starts_count: True if a parameter counts its steps from the first that uses the array, where an option that is
            assigned in mid-run calls for it.  Not while an average is kept, which depends on the count.
        compress: The code of the array's elements where `state_format` is not "native"; None for an array that keeps
            its format, or a function of the options that returns either.  For means that forget: a sum that only
            grows, or a maximum, would collect rounding errors.
    """

    shape: str = "param"
    format: str = "compute"
    initial: Initial | Callable[[Mapping[str, Any]], Initial] = 0.0
    starts_count: bool = False
    compress: Compress | Callable[[Mapping[str, Any]], Compress | None] | None = None

    def __post_init__(self) -> None:
        for name, known in (("shape", list(SHAPES)), ("format", list(STATE_FORMATS))):
            if getattr(self, name) not in known:
                raise ValueError(f"{name}: expected one of {known}, got {getattr(self, name)!r}")
        if not callable(self.compress) and self.compress not in (None, *CODES):
            raise ValueError(f"compress: expected None, a function or one of {list(CODES)}, got {self.compress!r}")
        if self.compress is not None and self.initial == "p":
            raise ValueError(f"compress: expected None with initial='p', an iterate, got {self.compress!r}")
        if SHAPES[self.shape].dtype is not None and self.format != "compute":
            raise ValueError(f"format: expected 'compute' with shape {self.shape!r}, got {self.format!r}")

    @property
    def is_scalar(self) -> bool:
        """True if the array is one number for the whole parameter."""
        return self.shape == "scalar"

    @property
    def is_of_rows(self) -> bool:
        """True if the array has one number of the formula for each row."""
        return self.shape == "rows"

    @property
    def storage(self) -> Format:
        """The encoding of the elements."""
        return FORMATS[self.format]

    @property
    def kind(self) -> Shape:
        """The kind of its shape."""
        return SHAPES[self.shape]

    def dtype_for(self, p_dtype: np.dtype[Any]) -> np.dtype[Any]:
        """Return the dtype of the array for a parameter of that dtype."""
        fixed = self.kind.dtype
        return self.storage.dtype(p_dtype) if fixed is None else fixed

    def belongs_to(self, p_shape: tuple[int, ...]) -> bool:
        """Return whether a parameter of that shape has the array."""
        return self.kind.of(p_shape) is not None

    def shape_for(self, p_shape: tuple[int, ...]) -> tuple[int, ...]:
        """Return the shape of the array for a parameter of that shape, which has it."""
        shape = self.kind.of(p_shape)
        assert shape is not None
        return shape

    def under(self, options: Mapping[str, Any]) -> StateArray:
        """Return the declaration under these options."""
        return self

    def initial_for(self, options: Mapping[str, Any]) -> Initial:
        """Return the initial value under these options."""
        return self.initial(options) if callable(self.initial) else self.initial

    def compress_for(self, options: Mapping[str, Any]) -> Compress | None:
        """Return the code under these options, whatever their `state_format`."""
        return self.compress(options) if callable(self.compress) else self.compress


@dataclass(frozen=True)
class SquareMatrices(StateArray):
    """The declaration of one square matrix for each axis of a parameter, packed into a vector.

    Args:
        sides: The length of a side of each, from the parameter's shape and the options.
        options: Those options.
    """

    sides: Callable[[tuple[int, ...], Mapping[str, Any]], tuple[int, ...]] = lambda shape, options: shape
    options: Mapping[str, Any] = field(default_factory=dict)

    @property
    def kind(self) -> Shape:
        """The kind of its shape."""
        return Shape(self._size, None, False, ", the squares of its axes that have factors", False, False)

    def _size(self, shape: tuple[int, ...]) -> tuple[int, ...]:
        return (sum(side * side for side in self.sides(shape, self.options)),)

    def under(self, options: Mapping[str, Any]) -> StateArray:
        """Return the declaration under these options."""
        return replace(self, options=options)


@dataclass(frozen=True)
class ExtraBits(StateArray):
    """The declaration of the bits that a parameter of 16 bits lacks; without `dtype` they have the parameter's."""

    dtype: np.dtype[Any] | None = None

    def dtype_for(self, p_dtype: np.dtype[Any]) -> np.dtype[Any]:
        """Return the dtype of the array."""
        return self.dtype or p_dtype


@dataclass(frozen=True)
class Codes(StateArray):
    """The declaration of a compressed array: codes of 8 bits, or bfloat16 where `code` is None."""

    code: Code | None = None

    def dtype_for(self, p_dtype: np.dtype[Any]) -> np.dtype[Any]:
        """Return the dtype of the codes."""
        return FORMATS["bfloat16"].dtype(p_dtype) if self.code is None else self.code.dtype

    def initial_for(self, options: Mapping[str, Any]) -> Initial:
        """Return the code of the initial value, which is the largest one of every block."""
        initial = super().initial_for(options)
        return self.code.largest if self.code and initial else initial

    @property
    def compression(self) -> str:
        """The name of the compression in native code."""
        return "rounded" if self.code is None else self.code.name


#: The declarations of the arrays that every optimizer may keep.
SHARED_STATE = {
    AVERAGE: StateArray(initial="p"),
    ROW_STEPS: StateArray("row_counts"),
    **{name: ExtraBits(dtype=_INTEGERS.get(name)) for name in EXTRA_BITS},
}


def stored_schema(
    schema: Mapping[str, StateArray], options: Mapping[str, Any], has_blocks: bool
) -> Mapping[str, StateArray]:
    """Return the declarations of a parameter's arrays in the format that these options select.

    `has_blocks` is False for a parameter that is too small for codes of 8 bits.
    """
    state_format = options["state_format"]
    if state_format == "native" or (state_format == "int8" and not has_blocks):
        return schema
    stored = dict(schema)
    for name, array in schema.items():
        if (compress := array.compress_for(options)) is None:
            continue
        own = {each.name: getattr(array, each.name) for each in fields(array)}
        stored[name] = Codes(**own, code=CODES[compress] if state_format == "int8" else None)
        if state_format == "int8":
            stored[name + SCALES] = StateArray("blocks", initial=array.initial)
    return stored


def shown_state(arrays: Mapping[str, Any]) -> dict[str, Any]:
    """Return a parameter's state arrays with those in blocks as ``{"codes": ..., "scales": ...}``."""
    return {
        name: {"codes": array, "scales": arrays[name + SCALES]} if name + SCALES in arrays else array
        for name, array in arrays.items()
        if not name.endswith(SCALES)
    }


def complete_schema(names: tuple[str, ...], declared: Mapping[str, StateArray]) -> dict[str, StateArray]:
    """Return the declaration of each of these state arrays, defaults filled in, and of those that all may keep."""
    return {**{name: declared.get(name, StateArray()) for name in names}, **SHARED_STATE}
