"""The memory that a step writes, and the check that nothing overlaps it."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterable
from functools import cached_property
from itertools import pairwise

import numpy as np
import numpy.typing as npt

from ..core import address_of
from ..reference_math import Array


class WrittenRanges:
    """The memory ranges that a step writes: dense arrays of which no two share a byte."""

    def __init__(self, targets: Iterable[tuple[str, Array]]) -> None:
        """Raise ValueError if two arrays overlap; the message names both places."""
        self._owned = sorted(
            ((*_bounds(array), place, array) for place, array in targets if array.size), key=lambda owned: owned[:2]
        )
        self._ends = [end for _, end, _, _ in self._owned]
        for (begin, end, place, _), (next_begin, next_end, next_place, _) in pairwise(self._owned):
            if next_begin < end:
                how = "is the same memory as" if (begin, end) == (next_begin, next_end) else "overlaps"
                raise ValueError(f"{next_place}: {how} {place}; expected parameters and state that share no memory")

    def check_no_overlap(self, grad: Array, place: str) -> None:
        """Raise ValueError if a gradient, which is only read, shares memory with a written array."""
        if not grad.size:
            return
        begin, end = _bounds(grad)
        for i in range(bisect_right(self._ends, begin), len(self._owned)):
            owned_begin, _, owned_place, owned = self._owned[i]
            if owned_begin >= end:
                return
            if np.shares_memory(grad, owned):
                raise ValueError(f"{place}: overlaps {owned_place}; expected a gradient with memory of its own")

    def overlapping(self, begins: npt.NDArray[np.int64], ends: npt.NDArray[np.int64]) -> list[int]:
        """Return the indices of the ranges that share a byte with a written array."""
        owned_begins, owned_ends = self._borders
        reached = owned_begins[np.searchsorted(owned_ends, begins, "right")] < ends
        shared: list[int] = np.flatnonzero(reached & (begins < ends)).tolist()
        return shared

    @cached_property
    def _borders(self) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]:
        """All begins, with a sentinel at the end, and all ends."""
        begins = [begin for begin, _, _, _ in self._owned]
        return np.array([*begins, np.iinfo(np.int64).max]), np.array(self._ends, np.int64)


def _bounds(array: Array) -> tuple[int, int]:
    """Return the addresses of the first byte and past the last byte of a nonempty array."""
    begin = end = address_of(array)
    if array.flags.c_contiguous:
        return begin, begin + array.size * array.itemsize
    for stride, length in zip(array.strides, array.shape, strict=True):
        reach = stride * (length - 1)
        begin, end = begin + min(reach, 0), end + max(reach, 0)
    return begin, end + array.itemsize
