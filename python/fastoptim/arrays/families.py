"""Array families: the operations that an optimizer needs of an array, for each library that arrays come from.

A plain NumPy array is its own metadata, and that of any other array of the CPU is a NumPy array over its memory.  An
array in a GPU's memory has an `ArrayMetadata`, which every check accepts.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import AbstractContextManager
from typing import Any, Protocol

import numpy as np

from ..reference_math import Array
from .cuda_families import ArrayMetadata, Cuda, CuPy
from .exported_family import Exported
from .numpy_family import NUMPY
from .torch_families import TorchCpu, TorchCuda


class ArrayFamily(Protocol):
    """The operations on the arrays of one library."""

    name: str
    multiplies_bfloat16: bool
    """True if the library has matrix products in bfloat16, and the family the methods for them."""

    def owns(self, thing: Any) -> bool:
        """Return whether this is an array of the family."""

    def metadata(self, array: Any, place: str) -> Array:
        """Return the shape, strides, dtype, address and writeability of an array, or raise an error."""

    def zeros(self, like: Any, dtype: np.dtype[Any]) -> Any:
        """Return zeros of the shape and memory order of `like`, in the same memory."""

    def full(self, like: Any, shape: tuple[int, ...], value: float, dtype: np.dtype[Any]) -> Any:
        """Return an array of that shape in C order, in the same memory as `like`."""

    def check_takes_place(self, array: Any) -> None:
        """Raise RuntimeError if work on that array would be recorded instead of executed."""

    def copy(self, array: Any) -> Any:
        """Return a copy in the same memory order."""

    def contiguous(self, array: Any) -> Any:
        """Return a copy in C order."""

    def view(self, array: Any) -> Any:
        """Return another array object over the same memory."""

    def transpose(self, array: Any, axes: Sequence[int]) -> Any:
        """Return a view with the axes in another order."""

    def assign(self, target: Any, source: Any) -> None:
        """Assign a number, or another array's elements converted to the target's dtype."""

    def copy_rows(self, target: Any, rows: Array, source: Any, source_rows: Array) -> None:
        """Assign rows of `source` to rows of `target`, both given as NumPy arrays of int64."""

    def astype(self, array: Any, dtype: np.dtype[Any]) -> Any:
        """Return a copy in that dtype, on which the family's operators work."""

    def to_numpy(self, array: Any) -> Array:
        """Return a NumPy array with memory of its own."""

    def matmul(self, a: Any, b: Any, out: Any) -> None:
        """Assign the matrix product a b to `out`, an array in C order."""

    def eigh(self, matrix: Any) -> Any:
        """Return the eigenvalues of a symmetric matrix in ascending order, and its eigenvectors as columns."""

    def orthonormal(self, matrix: Any) -> Any:
        """Return the orthogonal matrix of a QR decomposition."""

    def arithmetic(self, array: Any) -> AbstractContextManager[Any]:
        """Return a context in which the family's operators do plain arithmetic in the memory of that array."""


#: The families of other libraries, the more specific ones first.
FAMILIES: list[ArrayFamily] = [CuPy(), TorchCuda(), TorchCpu(), Cuda(), Exported()]


def family_of(thing: Any) -> ArrayFamily | None:
    """Return the family of an array, or None if this is not an array."""
    if type(thing) is np.ndarray:  # the usual case, in a fraction of the time
        return NUMPY
    if isinstance(thing, np.ndarray):
        return NUMPY if NUMPY.owns(thing) else None
    return next((family for family in FAMILIES if family.owns(thing)), None)


def family_in(array: Any) -> ArrayFamily:
    """Return the family of an array."""
    family = family_of(array)
    assert family is not None
    return family


def in_numpy(array: Any) -> Array:
    """Return a CPU's array as a NumPy array over the same memory: one of NumPy itself, which may change later."""
    if isinstance(array, np.ndarray):
        return array
    return family_in(array).metadata(array, "")


def on_host(array: Any) -> Array:
    """Return an array's elements: a CPU's memory itself, or a copy of a GPU's, which may be in another memory order."""
    family = family_in(array)
    metadata = family.metadata(array, "")
    return family.to_numpy(array) if isinstance(metadata, ArrayMetadata) else metadata
