"""Sums over the rows and columns of matrices in a GPU's memory, and moments and factors from them, by native kernels.

No function waits for the GPU.  The formulas are those that optimizers of matrices compute with NumPy on the CPU, with
the same bits.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np

from .. import core
from ..arrays.cuda_families import ArrayMetadata, Cuda
from ..arrays.families import family_of
from .native import register_dtypes


class Moment(NamedTuple):
    """A moving average of means, ``(1 - weight) * old + weight * (sum / divide_by + eps)``, and factors that follow."""

    sums: Any
    """In double, of which the first of each `group` consecutive ones is a sum."""
    old: Any
    new: Any
    """The array that receives the averages, of the shape of `old`."""
    divide_by: float
    weight: float
    eps: float = 0.0
    group: int = 1
    factors: Any = None
    """The array that receives ``1 / (sqrt(new / divisor) + summand)``, equally many for each average; or None."""
    divisor: float = 1.0
    summand: float = 0.0
    is_kept: bool = False
    """True if the averages take the place of the sums, in double."""


class GpuAxes:
    """The kernels, on the current stream of a family for the GPU of an array."""

    def __init__(self, family: Cuda, like: Any, allocate: Callable[[str, int], Any]) -> None:
        """`allocate` returns memory for so many numbers in double, by a name."""
        gpu = family.metadata(like, "").gpu
        self._at = gpu, family.stream(gpu, like).pointer
        self._allocate = allocate
        register_dtypes()

    def reduce(
        self,
        x: Any,
        shape: tuple[int, int, int],
        *,
        rows: bool = True,
        columns: bool = True,
        largest: bool = False,
        scale: float = 1.0,
    ) -> tuple[Any, Any]:
        """Return the sums of squares over rows and over columns, or the largest elements, which are not negative.

        The shape is that of a batch of matrices with elements, which `scale` multiplies.
        The results are vectors in double, in memory that the next call uses again; None where they are not wanted.
        """
        batch, height, width = shape
        metadata = _metadata(x)
        if not metadata.flags.c_contiguous:
            family = family_of(x)
            assert family is not None
            x = family.contiguous(x)
            metadata = _metadata(x)
        scratch = self._allocate("scratch", core.cuda_axis_scratch(*shape))
        of_rows = self._allocate("of rows", batch * height) if rows else None
        of_columns = self._allocate("of columns", batch * width) if columns else None
        to_rows, to_columns = (None if each is None else _metadata(each) for each in (of_rows, of_columns))
        core.cuda_reduce_axes(metadata, *shape, _metadata(scratch), to_rows, to_columns, largest, scale, *self._at)
        return of_rows, of_columns

    def add_groups(self, numbers: Any, group: int) -> None:
        """Replace the first of each `group` consecutive numbers in double by their sum."""
        metadata = _metadata(numbers)
        core.cuda_add_groups(metadata, metadata.size // group, group, *self._at)

    def update_moments(self, moments: Sequence[Moment]) -> None:
        """Compute one or two moments of the same dtype."""
        core.cuda_update_moments([_native(each) for each in moments], *self._at)

    def set_row_factors(self, averages: Any, totals: Any, factors: Any, rows: int, least: float) -> None:
        """Assign ``1 / sqrt(r / max(mean, least))`` for the averages r of matrices of so many rows.

        The first of each `rows` consecutive totals is the sum of a matrix's averages.
        """
        averages, totals, factors = (_metadata(each) for each in (averages, totals, factors))
        core.cuda_set_row_factors(averages, totals, factors, rows, least, *self._at)

    def clip_units(self, p: Any, g: Any, clipped: Any, clipping: float, eps: float, output_axis: int) -> None:
        """Assign a gradient whose units are clipped, as `adaptive_clip` specifies; the gradient is in C order."""
        shape = tuple(g.shape)
        units = shape[output_axis] if len(shape) > 1 else 1
        factors = self._allocate("factors", 2 * units + 1)
        of_p, of_g = self._unit_sums(p, units, output_axis), self._unit_sums(g, units, output_axis)
        core.cuda_set_clip_factors(_native_sums(of_p), _native_sums(of_g), _metadata(factors), clipping, eps, *self._at)
        is_last = output_axis == -1 and len(shape) > 1
        core.cuda_clip_units(_metadata(g), _metadata(factors), is_last, _metadata(clipped), *self._at)

    def _unit_sums(self, x: Any, units: int, output_axis: int) -> list[Any]:
        """Return the sums of squares of each unit; in float64 also those of scaled elements."""
        shape, is_double = tuple(x.shape), _metadata(x).dtype == np.float64
        over_rows = len(shape) > 1 and output_axis == -1
        rest = math.prod(shape) // units
        matrix = (1, rest, units) if over_rows else (1, units, rest)

        def sums(scale: float) -> Any:
            return self.reduce(x, matrix, rows=not over_rows, columns=over_rows, scale=scale)[over_rows]

        return [sums(scale) for scale in ((1.0, 2.0**-538, 2.0**537) if is_double else (1.0,))]


def _native_sums(sums: list[Any]) -> core.UnitSums:
    squares, *scaled = (_metadata(each) for each in sums)
    return (squares, scaled[0], scaled[1]) if scaled else (squares, None, None)


def matrices_of(shape: tuple[int, ...]) -> tuple[int, int, int]:
    """Return the shape as that of a batch of matrices: one of a single row if there are fewer than two axes."""
    if len(shape) < 2:
        return 1, 1, math.prod(shape)
    return math.prod(shape[:-2]), shape[-2], shape[-1]


def _native(moment: Moment) -> core.Moment:
    sums = _metadata(moment.sums)
    return (
        sums,
        moment.group,
        _metadata(moment.old),
        _metadata(moment.new),
        sums if moment.is_kept else None,
        None if moment.factors is None else _metadata(moment.factors),
        moment.divide_by,
        moment.eps,
        moment.weight,
        moment.divisor,
        moment.summand,
    )


def _metadata(array: Any) -> ArrayMetadata:
    family = family_of(array)
    assert isinstance(family, Cuda)
    return family.metadata(array, "")
