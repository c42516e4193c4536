"""Array families: the operations that an optimizer needs of an array, for each library that arrays come from.

A NumPy array is its own metadata.  An array in a GPU's memory has an `ArrayMetadata`, which every check accepts.
"""

from __future__ import annotations

from contextlib import AbstractContextManager
from typing import Any, Protocol

import numpy as np

from ..reference_math import Array
from .cuda_families import FAMILIES
from .numpy_family import NUMPY


class ArrayFamily(Protocol):
    """What an optimizer needs of the array family that its parameters come from."""

    name: str

    def owns(self, thing: Any) -> bool:
        """Whether this is one of the array family's arrays."""

    def metadata(self, array: Any, place: str) -> Array:
        """Its shape, strides, dtype, address and whether it may be written; or the refusal."""

    def zeros(self, like: Any, dtype: np.dtype[Any]) -> Any:
        """An array of that shape and memory order, beside it in memory."""

    def number(self, like: Any, value: float) -> Any:
        """A float64 array without dimensions, beside that array in memory."""

    def check_takes_place(self, array: Any) -> None:
        """RuntimeError where work on that array would not be done now."""

    def copy(self, array: Any) -> Any:
        """A copy in the same memory order."""

    def contiguous(self, array: Any) -> Any:
        """A copy in C order."""

    def view(self, array: Any) -> Any:
        """Another object over the same memory."""

    def assign(self, target: Any, source: Any) -> None:
        """Writes a number, or another array's elements in the target's dtype."""

    def astype(self, array: Any, dtype: np.dtype[Any]) -> Any:
        """A copy in that dtype, which the array family's operators take."""

    def to_numpy(self, array: Any) -> Array:
        """A NumPy array of its own memory."""

    def arithmetic(self, array: Any) -> AbstractContextManager[Any]:
        """Where its operators on arrays beside that one mean plain arithmetic."""


def family_of(thing: Any) -> ArrayFamily | None:
    """The array family that made this array; None of what is no array."""
    if isinstance(thing, np.ndarray):
        return NUMPY if NUMPY.owns(thing) else None
    return next((family for family in FAMILIES if family.owns(thing)), None)
