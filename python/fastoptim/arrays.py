"""What an acceptable array is: dtypes, layout, overlap, and every refusal with its message."""

from __future__ import annotations

import sys
from bisect import bisect_right
from collections.abc import Iterable
from functools import cached_property
from itertools import pairwise
from typing import Any

import numpy as np
import numpy.typing as npt

from .cuda_libraries import ArrayMetadata
from .libraries import family_of
from .trees import describe

Array = npt.NDArray[Any]

_BUILTIN: list[np.dtype[Any]] = [np.dtype(np.float64), np.dtype(np.float32), np.dtype(np.float16)]
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
    """The metadata of an array of one of the four formats: NumPy's own, or of an array in a GPU's memory."""
    family = family_of(array)
    if family is None:
        raise TypeError(f"{place}: expected a NumPy array, got {describe(array)}")
    metadata = family.metadata(array, place)
    if canonical_dtype(metadata.dtype) is None:
        raise TypeError(f"{place}: expected dtype {_EXPECTED}, got {metadata.dtype!r}")
    return metadata


def memory_of(metadata: Array) -> str:
    """Whose memory an array is in."""
    return f"CUDA device {metadata.gpu}" if isinstance(metadata, ArrayMetadata) else "the CPU"


def check_beside(metadata: Array, place: str, p: Array) -> None:
    """Refuses an array that is not in the memory that the parameter is in."""
    expected, got = memory_of(p), memory_of(metadata)
    if got != expected:
        raise ValueError(f"{place}: expected an array on {expected} as the parameter, got one on {got}")


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
    check_beside(checked, place, p)
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
    check_beside(checked, place, p)
    if checked.dtype != np.float64:
        raise TypeError(f"{place}: expected float64, got {checked.dtype}")
    if checked.shape != ():
        raise ValueError(f"{place}: expected shape (), one number for the whole array, got {checked.shape}")
    return checked


def check_gradient(grad: Any, place: str, p: Array) -> Array:
    """The metadata of a gradient for that parameter, in whatever memory order."""
    if isinstance(grad, np.generic):  # what NumPy's own reductions return in place of a 0-d array
        grad = np.asarray(grad)
    checked = check_array(grad, place)
    check_beside(checked, place, p)
    if checked.shape != p.shape:
        raise ValueError(f"{place}: expected shape {p.shape} as the parameter's, got {checked.shape}")
    return checked


def in_order_of(p: Array, grad: Array) -> Array:
    """A gradient as a plain array in the parameter's memory order; a copy only where it has another."""
    dtype = canonical_dtype(grad.dtype)
    assert dtype is not None
    if not same_layout(grad, p):
        ordered = np.empty_like(p, dtype=dtype, subok=False)
        ordered[...] = grad
        return ordered
    return grad if type(grad) is np.ndarray and grad.dtype is dtype else grad.view(dtype, np.ndarray)


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


def same_layout(a: Array, b: Array) -> bool:
    """Whether the same elements of two arrays of one shape are at the same places."""
    return _order(a) == _order(b)


def _order(array: Array) -> tuple[int, ...]:
    """Strides in elements; none for axes of length one or for an array without elements, where they mean nothing."""
    if array.size == 0:
        return ()
    return tuple(s // array.itemsize for s, n in zip(array.strides, array.shape, strict=True) if n > 1)


class WrittenRanges:
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

    def check_no_overlap(self, grad: Array, place: str) -> None:
        """Refuses a gradient, which is only read, that shares memory with what is written."""
        if not grad.size:
            return
        begin, end = _bounds(grad)
        for owned_begin, _, owned_place, owned in self._owned[bisect_right(self._ends, begin) :]:
            if owned_begin >= end:
                return
            if np.shares_memory(grad, owned):
                raise ValueError(f"{place}: overlaps {owned_place}; expected a gradient with memory of its own")

    def overlapping(self, begins: npt.NDArray[np.int64], ends: npt.NDArray[np.int64]) -> list[int]:
        """Which of these stretches share a byte with what is written."""
        owned_begins, owned_ends = self._borders
        reached = owned_begins[np.searchsorted(owned_ends, begins, "right")] < ends
        shared: list[int] = np.flatnonzero(reached & (begins < ends)).tolist()
        return shared

    @cached_property
    def _borders(self) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]:
        """All begins, and one that is never reached; all ends."""
        begins = [begin for begin, _, _, _ in self._owned]
        return np.array([*begins, np.iinfo(np.int64).max]), np.array(self._ends, np.int64)


def address_of(array: Array) -> int:
    """Of the first element."""
    return int(array.__array_interface__["data"][0])


def _bounds(array: Array) -> tuple[int, int]:
    """The first byte and the one behind the last of an array with elements."""
    begin = end = address_of(array)
    for stride, length in zip(array.strides, array.shape, strict=True):
        reach = stride * (length - 1)
        begin, end = begin + min(reach, 0), end + max(reach, 0)
    return begin, end + array.itemsize
