"""The array families of a GPU's memory: CuPy, and any array with a `__cuda_array_interface__`.

No package is imported here: a user who passes their arrays has imported them.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from contextlib import AbstractContextManager
from typing import Any, NamedTuple, NoReturn

import numpy as np

from ..core import cuda_device_of, cuda_status
from ..reference_math import Array
from ..texts import brief
from .tree import describe


class ArrayMetadata(np.ndarray[Any, Any]):
    """Shape, strides, dtype and address of an array in a GPU's memory.

    An ndarray whose elements are never read, so that checks work on it as on any NumPy array.  Reading an element would
    crash the process; its operators therefore raise TypeError.
    """

    __array_ufunc__: Any = None
    gpu: int
    """The number of the GPU."""

    def __array_finalize__(self, base: Any) -> None:
        self.gpu = getattr(base, "gpu", 0)


class _Interface:
    """An `__array_interface__` over an address, from which NumPy makes an array without access to its memory."""

    def __init__(
        self, address: int, shape: tuple[int, ...], strides: Any, itemsize: int, writeable: bool, owner: Any
    ) -> None:
        self._owner = owner  # of the memory, kept alive
        self.__array_interface__ = {
            "version": 3,
            "data": (address, not writeable),
            "shape": shape,
            "strides": strides,
            "typestr": f"|V{itemsize}",
        }


def array_at(
    address: int,
    shape: Sequence[int],
    strides: Sequence[int] | None,
    dtype: np.dtype[Any],
    *,
    writeable: bool = True,
    owner: Any = None,
) -> Array:
    """Return the array at an address, which keeps the memory's owner alive; strides are in bytes, None for C order."""
    in_bytes = None if strides is None else tuple(strides)
    return np.asarray(_Interface(address, tuple(shape), in_bytes, dtype.itemsize, writeable, owner)).view(dtype)


def make_metadata(*array: Any, writeable: bool = True, gpu: int) -> ArrayMetadata:
    """Return the metadata of an array; the arguments are those of `array_at`."""
    metadata = array_at(*array, writeable=writeable).view(ArrayMetadata)
    metadata.gpu = gpu
    return metadata


class Stream(NamedTuple):
    """A CUDA stream."""

    pointer: int
    records: bool
    """True if a graph is being captured on it."""


class Cuda:
    """Any array that has a `__cuda_array_interface__` (versions 2 and 3).

    That suffices for gradients and for buffers that the caller owns.  The interface cannot allocate; `CuPy` and `Torch`
    can.
    """

    name = "CUDA"
    multiplies_bfloat16 = False
    names_streams = True
    """True if each array names its own stream."""
    moves = True
    """True if an array object may get other memory between steps."""
    gives_memory_to_graphs = False
    """True if what is allocated while a graph is captured belongs to that graph, and not to later arrays."""
    reader: tuple[Sequence[str], str] | None = None
    """Attributes and methods for native code, as ``("shape", "stride()"), "data.ptr"``: those that differ between two
    arrays unless only their address and elements differ, and the one that is the address."""

    def owns(self, thing: Any) -> bool:
        """Return whether the interface is readable; on a PyTorch tensor on the CPU the attribute raises."""
        return hasattr(thing, "__cuda_array_interface__")

    def metadata(self, array: Any, place: str) -> ArrayMetadata:
        """Return the metadata of an array; raise RuntimeError if CUDA arrays cannot be used."""
        refuse_without_cuda(array, place)
        metadata = self._metadata(array, place)
        if not metadata.flags.aligned:
            raise ValueError(
                f"{place}: expected elements at multiples of their {metadata.itemsize} bytes, as GPUs read them, got "
                f"address {metadata.__array_interface__['data'][0]:#x} with strides {metadata.strides}"
            )
        return metadata

    def _metadata(self, array: Any, place: str) -> ArrayMetadata:
        interface = array.__cuda_array_interface__
        try:
            dtype = np.dtype(interface["typestr"])
            if dtype.kind == "V":  # bfloat16 has no typestr of its own
                dtype = np.dtype(getattr(array, "dtype", dtype))
            address, read_only = interface["data"]
            shape, strides = interface["shape"], interface.get("strides")
        except (KeyError, TypeError, ValueError):
            raise TypeError(
                f"{place}: expected a __cuda_array_interface__ as documented, got {brief(interface)}"
            ) from None
        if interface.get("mask") is not None:
            raise TypeError(f"{place}: expected an array without a mask, got {describe(array)} with one")
        device = cuda_device_of(address)
        return make_metadata(address, shape, strides, dtype, writeable=not read_only, gpu=device)

    def stream(self, gpu: int, array: Any = None) -> Stream:
        """Return the library's current stream on that GPU; here that of the array's producer, or the default stream."""
        return Stream(self.producer(gpu, array) or 0, False)

    def producer(self, gpu: int, array: Any) -> int | None:
        """Return the stream with the work that produces an array's elements; None if there is nothing to wait for."""
        return getattr(array, "__cuda_array_interface__", {}).get("stream")  # of version 3

    def check_takes_place(self, array: Any) -> None:
        """Raise RuntimeError if a CUDA graph is being captured on the array's current stream."""
        if self.stream(self._metadata(array, "").gpu).records:
            raise RuntimeError("step: expected an ordinary step before the one that a CUDA graph captures")

    def view(self, array: Any) -> Any:
        """Return the array itself."""
        return array

    def _refuse(self, array: Any, *_: Any) -> NoReturn:
        raise TypeError(
            f"expected CuPy arrays or PyTorch tensors, as others like them are to be made, got {describe(array)}; "
            f"cupy.asarray(array) is a CuPy array over the same memory"
        )

    zeros: Any = _refuse
    full: Any = _refuse
    copy: Any = _refuse
    contiguous: Any = _refuse
    transpose: Any = _refuse
    assign: Any = _refuse
    copy_rows: Any = _refuse
    astype: Any = _refuse
    to_numpy: Any = _refuse
    arithmetic: Any = _refuse
    matmul: Any = _refuse
    eigh: Any = _refuse
    orthonormal: Any = _refuse


class CuPy(Cuda):
    """CuPy arrays, each with the same memory for life."""

    names_streams = False
    moves = False
    reader = (("shape", "strides", "dtype", "data.device_id"), "data.ptr")

    def __init__(self, module: str = "cupy") -> None:
        self.name = "CuPy"
        self._module = module

    @property
    def _cupy(self) -> Any:
        return sys.modules[self._module]

    def owns(self, thing: Any) -> bool:
        """Return whether this is a CuPy array, subclasses included."""
        module = sys.modules.get(self._module)
        return module is not None and isinstance(thing, getattr(module, "ndarray", ()))

    def _metadata(self, array: Any, place: str) -> ArrayMetadata:
        device = int(array.data.device_id)
        return make_metadata(int(array.data.ptr), array.shape, array.strides, array.dtype, gpu=device)

    def stream(self, gpu: int, array: Any = None) -> Stream:
        """Return CuPy's current stream."""
        stream = self._cupy.cuda.get_current_stream(gpu)
        return Stream(stream.ptr, stream.is_capturing())

    def producer(self, gpu: int, array: Any) -> int | None:
        """Return CuPy's current stream, as its interface does."""
        return self.stream(gpu).pointer

    def zeros(self, like: Any, dtype: np.dtype[Any]) -> Any:
        """Return zeros on the device of `like`."""
        with self.arithmetic(like):
            return self._cupy.zeros_like(like, dtype=dtype)

    def full(self, like: Any, shape: tuple[int, ...], value: float, dtype: np.dtype[Any]) -> Any:
        """Return an array of that shape on the device of `like`."""
        with self.arithmetic(like):
            return self._cupy.full(shape, value, dtype)

    def copy(self, array: Any) -> Any:
        """Return a copy in the same memory order."""
        with self.arithmetic(array):
            return array.copy(order="K")

    def contiguous(self, array: Any) -> Any:
        """Return a copy in C order."""
        with self.arithmetic(array):
            return array.copy(order="C")

    def view(self, array: Any) -> Any:
        """Return a view of the same memory."""
        return array.view()

    def transpose(self, array: Any, axes: Sequence[int]) -> Any:
        """Return a view with the axes in another order."""
        return array.transpose(*axes)

    def assign(self, target: Any, source: Any) -> None:
        """Assign a number, a NumPy array, or any array that CuPy can convert."""
        with self.arithmetic(target):
            target[...] = source if isinstance(source, (int, float)) else self._cupy.asarray(source)

    def copy_rows(self, target: Any, rows: Array, source: Any, source_rows: Array) -> None:
        """Assign rows of `source` to rows of `target`."""
        with self.arithmetic(target):
            target[self._cupy.asarray(rows)] = source[self._cupy.asarray(source_rows)]

    def astype(self, array: Any, dtype: np.dtype[Any]) -> Any:
        """Return a copy in that dtype."""
        with self.arithmetic(array):
            return array.astype(dtype)

    def to_numpy(self, array: Any) -> Array:
        """Return a NumPy copy, after a wait for the current stream."""
        with self.arithmetic(array):
            return np.asarray(self._cupy.asnumpy(array))

    def matmul(self, a: Any, b: Any, out: Any) -> None:
        """Multiply by cuBLAS."""
        self._cupy.matmul(a, b, out=out)

    def eigh(self, matrix: Any) -> Any:
        """Decompose by cuSOLVER."""
        return self._cupy.linalg.eigh(matrix)

    def orthonormal(self, matrix: Any) -> Any:
        """Decompose by cuSOLVER."""
        return self._cupy.linalg.qr(matrix)[0]

    def arithmetic(self, array: Any) -> AbstractContextManager[Any]:
        """Return a context in which the array's device is CuPy's current one, on which it allocates."""
        return self._cupy.cuda.Device(array.data.device_id)  # type: ignore[no-any-return]


def refuse_without_cuda(array: Any, place: str) -> None:
    """Raise RuntimeError if this process cannot use CUDA arrays; the message gives the reason."""
    if status := cuda_status():
        raise RuntimeError(f"{place}: got a CUDA array ({describe(array)}), but {status}; expected a NumPy array")
