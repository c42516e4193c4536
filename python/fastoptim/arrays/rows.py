"""Gradients for some rows of a parameter: the class that users pass, its checks, and its meaning in NumPy."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from ..core import RowIndex
from ..options.settings import Settings
from ..reference_math import Array
from .checks import Partial, check_array, check_same_memory, metadata_of
from .cuda_families import Cuda
from .families import family_of
from .numpy_family import NUMPY
from .param_state import ParamState, check_whole_blocks
from .tree import describe
from .written_ranges import WrittenRanges

Indices = npt.NDArray[np.int64]


class Rows(Partial):
    """A gradient for some rows of a parameter, in the place of an array in the argument of `Optimizer.step`.

    Only these rows of the parameter, its state and its average change, as in a step of a dense array of these rows.
    The others keep every bit: they do not decay either.  The cost is proportional to the number of rows.

    Args:
        index: The rows, an array of shape (k,) of int32 or int64, in any order.  The gradients of a row that occurs
            several times are added in the order of their positions, in the compute type (float64 for float64
            parameters, otherwise float32).  Or a mask: a bool array of shape (n,), where n is the number of the
            parameter's rows.
        values: Their gradients, of shape (k, ...) and any dtype that a gradient may have.  With a mask, of shape
            (n, ...); only the rows where the mask is True are read.

    Raises:
        IndexError: In `Optimizer.step`, as the others, before anything is written: an index is negative or not below n.
        TypeError: `index` or `values` is not an array, or has another dtype.
        ValueError: A shape does not fit; the parameter is not in C order; a CUDA graph captures the step; with
            ``state_format="int8"`` a row is not a multiple of 64 elements; the parameter's optimizer has `cautious`,
            needs sums over whole arrays or keeps one number per array (`LAMB`, `LARS`, `MARS`, `NovoGrad`, `Prodigy`,
            `StableAdamW`, `ScheduleFreeSGD`, `ScheduleFreeAdamW`).

    `accumulate`, `GrokFast` and `SAM.ascent` reject rows, too.  Both arguments may be of any library whose arrays a
    gradient may have.  The parameter's rows are its first axis.  `values` is in the parameter's memory; the index may
    be on the CPU also if the parameter is on a GPU.

    >>> import numpy as np, fastoptim as fo
    >>> params = {"table": np.zeros((5, 2)), "bias": np.zeros(2)}
    >>> opt = fo.SGD(params, lr=1.0)
    >>> rows = fo.Rows(np.array([3, 0, 3]), np.array([[1.0, 2.0], [3.0, 4.0], [10.0, 20.0]]))
    >>> opt.step({"table": rows, "bias": np.ones(2)})
    >>> params["table"]
    array([[ -3.,  -4.],
           [  0.,   0.],
           [  0.,   0.],
           [-11., -22.],
           [  0.,   0.]])
    """

    __slots__ = ("index", "is_whole", "values")

    def __init__(self, index: Any, values: Any, is_whole: bool = False) -> None:
        self.index, self.values = index, values
        self.is_whole = is_whole  # made of a gradient for all rows, which messages name

    def __repr__(self) -> str:
        return f"<Rows of {getattr(self.index, 'shape', self.index)} indices, {describe(self.values)}>"


def check_rows(param: ParamState, rows: Rows, written: WrittenRanges, settings: Settings) -> Rows:
    """Return the same rows with a plain index on the CPU, or one that is read, and with the metadata of the values."""
    place, p = param.g_place, param.metadata
    if not settings.is_elementwise:
        raise ValueError(
            f"{place}: expected a gradient for the whole array, as {settings.why_not_elementwise}, got Rows"
        )
    read = rows.index if isinstance(rows.index, RowIndex) else None
    if p.ndim == 0 and not read:
        raise ValueError(f"{place}: expected an array of shape () as the parameter's, got Rows")
    if not p.flags.c_contiguous:
        raise ValueError(f"{param.p_place}: expected C order, as its gradient is Rows, got strides {p.strides}")
    check_whole_blocks(param, "its gradient is Rows", settings.optimizer.variants[settings.variant])
    index: Any = read or check_index(rows.index, f"{place}.index", len(p))
    values_place = place if rows.is_whole else f"{place}.values"
    values = check_array(rows.values, values_place)
    check_same_memory(values, values_place, p)
    expected = (read.gradient_rows if read else len(index), *p.shape[1:]) if p.ndim else ()
    if values.shape != expected:
        raise ValueError(f"{place}.values: expected shape {expected}, got {values.shape}")
    written.check_no_overlap(values, values_place)
    return Rows(index, values)


def check_index(given: Any, place: str, n: int, lowest: int = 0) -> Array:
    """Return an index as a NumPy array, checked for a parameter of n rows."""
    if family_of(given) is None:
        raise TypeError(f"{place}: expected an array of int32, int64 or bool, got {describe(given)}")
    index = _on_host(given, place)
    if index.dtype not in (np.int32, np.int64, np.bool_) or not index.dtype.isnative:
        raise TypeError(f"{place}: expected dtype int32, int64 or bool, got {index.dtype!r}")
    if index.ndim != 1:
        raise ValueError(f"{place}: expected one axis, got shape {index.shape}")
    if index.dtype == np.bool_:
        if len(index) != n:
            raise ValueError(f"{place}: expected a mask of the parameter's {n} rows, got shape {index.shape}")
    elif index.size and not (index.min() >= lowest and index.max() < n):
        first = int(np.argmax((index < lowest) | (index >= n)))
        raise IndexError(f"{place}: expected indices from {lowest} to {n - 1}, got {index[first]} at position {first}")
    return index


def _on_host(array: Any, place: str) -> Array:
    """Return an array as a NumPy array."""
    family = family_of(array)
    return NUMPY.metadata(family.to_numpy(array) if isinstance(family, Cuda) else metadata_of(array, place), place)


class Selection(NamedTuple):
    """The rows of a gradient in ascending order, each once, and their gradients; in NumPy."""

    rows: Indices
    values: Array

    @classmethod
    def of(cls, rows: Rows, dtype: np.dtype[Any]) -> Selection:
        """Return the selection of checked rows, with gradients added in this compute type."""
        index, values = rows.index, np.ascontiguousarray(rows.values).astype(dtype)  # norms sum in C order
        if index.dtype == np.bool_:
            return cls(np.flatnonzero(index), values[index])
        order = np.argsort(index, kind="stable")
        unique, begins, counts = np.unique(index[order], return_index=True, return_counts=True)
        sums = values[order[begins]]
        for extra in range(1, counts.max(initial=0)):
            has_more = counts > extra
            sums[has_more] = sums[has_more] + values[order[begins[has_more] + extra]]
        return cls(unique.astype(np.int64), sums)


def values_of(grads: Iterator[tuple[str, Any]]) -> Iterator[tuple[str, Any]]:
    """Yield each path with its gradient, for rows with the values: zeros where a mask is False."""
    for place, grad in grads:
        if not isinstance(grad, Rows):
            yield place, grad
            continue
        index, values = _on_host(grad.index, f"{place}.index"), grad.values
        if index.dtype == np.bool_:
            values = np.array(_on_host(values, f"{place}.values"))
            values[~index] = 0
        yield f"{place}.values", values
