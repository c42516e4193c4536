"""The array family of every other library: arrays in the CPU's memory that others may use without a copy."""

from __future__ import annotations

from typing import Any

import numpy as np

from ..reference_math import Array
from .numpy_family import NumPy, Window
from .tree import describe

#: Libraries whose arrays never change, whether or not what they export says so.
IMMUTABLE = frozenset({"jax", "jaxlib", "mlx", "pyarrow", "tensorflow"})

_CPU = 1  # DLPack's number of the device


def library_of(thing: Any) -> str:
    """Return the package that defines the type of an object."""
    return type(thing).__module__.partition(".")[0]


class Exported(NumPy):
    """Arrays with an `__array_interface__` or DLPack's methods.

    State and copies are NumPy arrays, and so is the metadata, a view of the same memory.
    """

    name = "another library"

    def owns(self, thing: Any) -> bool:
        """Return whether the array exports memory of the CPU; NumPy's own types are no arrays of another library."""
        if isinstance(thing, (type, np.generic, np.ndarray)):
            return False
        if hasattr(thing, "__array_interface__"):
            return True
        device = getattr(thing, "__dlpack_device__", None)
        try:
            return device is not None and hasattr(thing, "__dlpack__") and int(device()[0]) == _CPU
        except (BufferError, RuntimeError, ValueError):  # of an array without memory, such as PyTorch's on "meta"
            return False

    def metadata(self, array: Any, place: str) -> Array:
        """Return a NumPy array over the memory; read-only where the library does not let others write."""
        by_interface = hasattr(array, "__array_interface__")
        try:
            exported = np.asarray(Window(array)) if by_interface else np.from_dlpack(array)
        except (BufferError, RuntimeError, TypeError, ValueError) as error:
            raise TypeError(
                f"{place}: expected an array that NumPy can view without a copy, got {describe(array)}: {error}"
            ) from None
        if exported.dtype.kind == "V":  # bfloat16 has no name of its own in the interface
            exported = exported.view(np.dtype(getattr(array, "dtype", exported.dtype)))
        if exported.flags.writeable and library_of(array) in IMMUTABLE:
            exported.flags.writeable = False
        return exported

    def _plain(self, array: Any) -> Array:
        return array if isinstance(array, np.ndarray) else self.metadata(array, "")
