"""What an acceptable array is: dtypes, layout, overlap, and every refusal with its message."""

from __future__ import annotations

import sys
from bisect import bisect_right
from collections.abc import Iterable
from itertools import pairwise
from typing import Any

import numpy as np
import numpy.typing as npt

from .trees import describe

Array = npt.NDArray[Any]

_BUILTIN: list[np.dtype[Any]] = [np.dtype(np.float64), np.dtype(np.float32), np.dtype(np.float16)]
CACHE_LINE = 64

#: Bytes of a parameter from which the place of its state in a cache line is looked at.
LINED_UP = 8192

_EXPECTED = "float64, float32, float16 or bfloat16 in native byte order"


def bfloat16() -> np.dtype[Any] | None:
    """ml_dtypes' bfloat16, if the user has loaded it: whoever holds such an array has."""
    ml_dtypes = sys.modules.get("ml_dtypes")
    return np.dtype(ml_dtypes.bfloat16) if ml_dtypes else None


def canonical_dtype(dtype: np.dtype[Any]) -> np.dtype[Any] | None:
    """The one dtype object that stands for this format, or None if it is none of ours."""
    if not dtype.isnative:
        return None
    known: list[np.dtype[Any] | None] = [*_BUILTIN, bfloat16()]
    return next((own for own in known if own is not None and own == dtype), None)


def compute_dtype(dtype: np.dtype[Any]) -> np.dtype[Any]:
    """What a parameter of this dtype is computed in, and its state kept in."""
    return np.dtype(np.float64 if dtype == np.float64 else np.float32)


def check_array(array: Any, place: str) -> Array:
    """A NumPy array of one of the four formats."""
    if hasattr(array, "__cuda_array_interface__"):
        raise RuntimeError(
            f"{place}: got a CUDA array ({describe(array)}), but this fastoptim was built without CUDA; "
            f"expected a NumPy array"
        )
    if not isinstance(array, np.ndarray) or isinstance(array, np.ma.MaskedArray):
        raise TypeError(f"{place}: expected a NumPy array, got {describe(array)}")
    if canonical_dtype(array.dtype) is None:
        raise TypeError(f"{place}: expected dtype {_EXPECTED}, got {array.dtype!r}")
    return array


def check_target(array: Any, place: str) -> Array:
    """An array that a step may write: writeable and dense."""
    checked = check_array(array, place)
    if not checked.flags.writeable:
        raise ValueError(f"{place}: expected a writeable array, got a read-only one")
    if not is_dense(checked):
        raise ValueError(
            f"{place}: expected a dense array (C, Fortran or any permuted order without gaps), "
            f"got shape {checked.shape} with strides {checked.strides}"
        )
    return checked


def check_state(array: Any, place: str, p: Array) -> Array:
    """A state array for that parameter."""
    checked = check_target(array, place)
    expected = compute_dtype(p.dtype)
    if checked.dtype != expected:
        raise TypeError(f"{place}: expected {expected} beside a {p.dtype} parameter, got {checked.dtype}")
    if checked.shape != p.shape:
        raise ValueError(f"{place}: expected shape {p.shape} as the parameter's, got {checked.shape}")
    if not same_layout(checked, p):
        raise ValueError(f"{place}: expected the parameter's memory order, strides {_order(p)}, got {_order(checked)}")
    return checked


def check_scalar(array: Any, place: str, p: Array) -> Array:
    """A state array that is one number for the whole of a parameter."""
    checked = check_target(array, place)
    if checked.dtype != np.float64:
        raise TypeError(f"{place}: expected float64, got {checked.dtype}")
    if checked.shape != ():
        raise ValueError(f"{place}: expected shape (), one number for the whole array, got {checked.shape}")
    return checked


def check_gradient(grad: Any, place: str, p: Array) -> Array:
    """A gradient for that parameter, as an array in the parameter's memory order; a copy only where it has another."""
    if isinstance(grad, np.generic):  # what NumPy's own reductions return in place of a 0-d array
        grad = np.asarray(grad)
    checked = check_array(grad, place)
    if checked.shape != p.shape:
        raise ValueError(f"{place}: expected shape {p.shape} as the parameter's, got {checked.shape}")
    dtype = canonical_dtype(checked.dtype)
    assert dtype is not None
    if not same_layout(checked, p):
        ordered = np.empty_like(p, dtype=dtype, subok=False)
        ordered[...] = checked
        return ordered
    return checked if type(checked) is np.ndarray and checked.dtype is dtype else checked.view(dtype, np.ndarray)


def is_dense(array: Array) -> bool:
    """Whether the elements fill one stretch of memory, in whatever order of the axes."""
    if array.flags.c_contiguous or array.flags.f_contiguous:
        return True
    expected = array.itemsize
    for stride, length in sorted((s, n) for s, n in zip(array.strides, array.shape, strict=True) if n > 1):
        if stride != expected:
            return False
        expected *= length
    return True


def state_like(p: Array) -> Array:
    """Zeros for a parameter's state: its shape and memory order, in its compute type.

    An array of some size begins as far behind a cache line as its parameter, so that the loops' vectors straddle lines
    in none of the two or in both.
    """
    dtype = compute_dtype(p.dtype)
    if p.dtype != dtype or p.nbytes < LINED_UP:
        return np.zeros_like(p, dtype=dtype, subok=False)
    memory = np.zeros(p.nbytes + CACHE_LINE, np.uint8)
    first = (p.ctypes.data - memory.ctypes.data) % CACHE_LINE
    axes = sorted(range(p.ndim), key=lambda axis: -p.strides[axis])
    in_order = memory[first : first + p.nbytes].view(dtype).reshape([p.shape[axis] for axis in axes])
    state: Array = in_order.transpose(np.argsort(axes))
    return state


def same_layout(a: Array, b: Array) -> bool:
    """Whether the same elements of two arrays of one shape are at the same places."""
    return _order(a) == _order(b)


def _order(array: Array) -> tuple[int, ...]:
    """Strides in elements; none for axes of length one or for an array without elements, where they mean nothing."""
    if array.size == 0:
        return ()
    return tuple(s // array.itemsize for s, n in zip(array.strides, array.shape, strict=True) if n > 1)


class Territory:
    """The memory that a step writes: dense arrays of which no two share a byte."""

    def __init__(self, targets: Iterable[tuple[str, Array]]) -> None:
        """Refuses arrays that overlap, naming both places."""
        self._owned = sorted(
            ((*_bounds(array), place, array) for place, array in targets if array.size), key=lambda owned: owned[:2]
        )
        self._ends = [end for _, end, _, _ in self._owned]
        for (begin, end, place, _), (next_begin, next_end, next_place, _) in pairwise(self._owned):
            if next_begin < end:
                how = "is the same memory as" if (begin, end) == (next_begin, next_end) else "overlaps"
                raise ValueError(f"{next_place}: {how} {place}; expected parameters and state that share no memory")

    def check_clear(self, grad: Array, place: str) -> None:
        """Refuses a gradient, which is only read, that shares memory with what is written."""
        if not grad.size:
            return
        begin, end = _bounds(grad)
        for owned_begin, _, owned_place, owned in self._owned[bisect_right(self._ends, begin) :]:
            if owned_begin >= end:
                return
            if np.shares_memory(grad, owned):
                raise ValueError(f"{place}: overlaps {owned_place}; expected a gradient with memory of its own")


def _bounds(array: Array) -> tuple[int, int]:
    """The first byte and the one behind the last of an array with elements."""
    begin = end = int(array.__array_interface__["data"][0])
    for stride, length in zip(array.strides, array.shape, strict=True):
        reach = stride * (length - 1)
        begin, end = begin + min(reach, 0), end + max(reach, 0)
    return begin, end + array.itemsize
