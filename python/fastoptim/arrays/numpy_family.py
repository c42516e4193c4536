"""The array family of NumPy."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import AbstractContextManager
from typing import Any

import numpy as np

from ..reference_math import Array

#: Pairs of the least size of a state array and the alignment, in bytes, at which it shares its parameter's offset.
#: A page avoids 4K aliasing; for small arrays it would waste memory, and a cache line has to do.
STATE_ALIGNMENT = ((16384, 4096), (8192, 64))


def plain(array: Any) -> Array:
    """Return the array itself, or a view of the base class: a subclass may redefine its shape, strides and methods."""
    return array if type(array) is np.ndarray else np.asarray(array)


class Window:
    """The interface of an array, which it keeps alive, without its other protocols."""

    def __init__(self, array: Any) -> None:
        self.__array_interface__ = array.__array_interface__
        self._array = array


class NumPy:
    """NumPy arrays, in the CPU's memory."""

    name = "NumPy"
    multiplies_bfloat16 = False

    def owns(self, thing: Any) -> bool:
        """Return whether this is a NumPy array other than a masked one, of which an update would ignore the mask."""
        return isinstance(thing, np.ndarray) and not isinstance(thing, np.ma.MaskedArray)

    def metadata(self, array: Any, place: str) -> Array:
        """Return the array itself, or a view of the base class."""
        return self._plain(array)

    def _plain(self, array: Any) -> Array:
        return plain(array)

    def zeros(self, like: Any, dtype: np.dtype[Any]) -> Any:
        """Return zeros of the base class, with the parameter's offset in its page or cache line if they are large.

        Vector loads then straddle cache lines in both arrays or in neither.  Equal page offsets avoid 4K aliasing, in
        which a load waits for an earlier store because the last twelve bits of their addresses are equal.
        """
        like = self._plain(like)
        nbytes = like.size * dtype.itemsize
        place = next((place for least, place in STATE_ALIGNMENT if nbytes >= least), 0)
        if not place:
            return np.zeros_like(like, dtype=dtype, subok=False)
        memory = np.zeros(nbytes + place, np.uint8)
        where = like.ctypes.data if like.dtype == dtype else 0  # a parameter in another dtype is converted in a buffer
        first = (where - memory.ctypes.data) % place // dtype.itemsize * dtype.itemsize
        axes = sorted(range(like.ndim), key=lambda axis: -like.strides[axis])
        in_order = memory[first : first + nbytes].view(dtype).reshape([like.shape[axis] for axis in axes])
        return in_order.transpose(np.argsort(axes))

    def full(self, like: Any, shape: tuple[int, ...], value: float, dtype: np.dtype[Any]) -> Any:
        """Return an array of that shape in C order."""
        return np.full(shape, value, dtype)

    def check_takes_place(self, array: Any) -> None:
        """Do nothing: NumPy executes at once."""

    def copy(self, array: Any) -> Any:
        """Return a copy in the same memory order."""
        return self._plain(array).copy(order="K")

    def contiguous(self, array: Any) -> Any:
        """Return a copy in C order."""
        return self._plain(array).copy(order="C")

    def view(self, array: Any) -> Any:
        """Return a view of the same memory whose `base` is no array, so that nobody reaches and resizes `array`."""
        return np.asarray(Window(array)).view(array.dtype)

    def transpose(self, array: Any, axes: Sequence[int]) -> Any:
        """Return a view with the axes in another order."""
        return self._plain(array).transpose(axes)

    def assign(self, target: Any, source: Any) -> None:
        """Assign with a cast, without warnings."""
        with np.errstate(all="ignore"):
            self._plain(target)[...] = source if isinstance(source, (int, float)) else self._plain(source)

    def copy_rows(self, target: Any, rows: Array, source: Any, source_rows: Array) -> None:
        """Assign rows of `source` to rows of `target`."""
        self._plain(target)[rows] = self._plain(source)[source_rows]

    def astype(self, array: Any, dtype: np.dtype[Any]) -> Any:
        """Return a copy in that dtype."""
        return self._plain(array).astype(dtype)

    def to_numpy(self, array: Any) -> Array:
        """Return a copy in the same memory order."""
        return self._plain(array).copy(order="K")  # type: ignore[no-any-return]

    def matmul(self, a: Any, b: Any, out: Any) -> None:
        """Multiply by NumPy's BLAS, which takes half of the time where b is the transpose of a."""
        np.matmul(a, b, out=out)

    def eigh(self, matrix: Any) -> Any:
        """Decompose by NumPy's LAPACK."""
        return np.linalg.eigh(matrix)

    def orthonormal(self, matrix: Any) -> Any:
        """Decompose by NumPy's LAPACK."""
        return np.linalg.qr(matrix)[0]

    def arithmetic(self, array: Any) -> AbstractContextManager[Any]:
        """Return a context without floating-point warnings."""
        return np.errstate(all="ignore")


NUMPY = NumPy()
