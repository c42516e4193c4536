"""The array family of NumPy."""

from __future__ import annotations

from contextlib import AbstractContextManager
from typing import Any

import numpy as np

from ..reference_math import Array

#: How far state may be moved to lie as its parameter does, by the bytes that it has at least: no farther than a cache
#: line where a page would be too much beside them.
STATE_ALIGNMENT = ((16384, 4096), (8192, 64))


class NumPy:
    """Arrays of the CPU's memory."""

    name = "NumPy"

    def owns(self, thing: Any) -> bool:
        """Masked arrays are none: which elements count is theirs to say."""
        return isinstance(thing, np.ndarray) and not isinstance(thing, np.ma.MaskedArray)

    def metadata(self, array: Any, place: str) -> Array:
        """The array itself."""
        return array  # type: ignore[no-any-return]

    def zeros(self, like: Any, dtype: np.dtype[Any]) -> Any:
        """No subclass, whatever the parameter is; of some size, as far behind a page as that, or behind a cache line.

        The loops' vectors then straddle lines in none of the two or in both.  And no load looks as if it met an earlier
        store: processors compare the last twelve bits of the two addresses first.
        """
        nbytes = like.size * dtype.itemsize
        place = next((place for least, place in STATE_ALIGNMENT if nbytes >= least), 0)
        if not place:
            return np.zeros_like(like, dtype=dtype, subok=False)
        memory = np.zeros(nbytes + place, np.uint8)
        where = like.ctypes.data if like.dtype == dtype else 0  # a parameter in another dtype is worked on elsewhere
        first = (where - memory.ctypes.data) % place // dtype.itemsize * dtype.itemsize
        axes = sorted(range(like.ndim), key=lambda axis: -like.strides[axis])
        in_order = memory[first : first + nbytes].view(dtype).reshape([like.shape[axis] for axis in axes])
        return in_order.transpose(np.argsort(axes))

    def number(self, like: Any, value: float) -> Any:
        """Of float64."""
        return np.full((), value, np.float64)

    def check_takes_place(self, array: Any) -> None:
        """It always is."""

    def copy(self, array: Any) -> Any:
        """In the same memory order."""
        return array.copy(order="K")

    def contiguous(self, array: Any) -> Any:
        """In C order."""
        return array.copy(order="C")

    def view(self, array: Any) -> Any:
        """Over the same memory."""
        return array.view()

    def assign(self, target: Any, source: Any) -> None:
        """Casts without a warning."""
        with np.errstate(all="ignore"):
            target[...] = source

    def astype(self, array: Any, dtype: np.dtype[Any]) -> Any:
        """A copy."""
        return array.astype(dtype)

    def to_numpy(self, array: Any) -> Array:
        """A copy in the same memory order."""
        return np.array(array, order="K")

    def arithmetic(self, array: Any) -> AbstractContextManager[Any]:
        """Without warnings."""
        return np.errstate(all="ignore")


NUMPY = NumPy()
