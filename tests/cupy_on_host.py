"""The part of CuPy's interface that fastoptim and its tests use, over the CPU's memory, for an emulated build.

Its arrays are no NumPy arrays and do not become one by themselves, as CuPy's do not.  Names and arguments are CuPy's.
"""

from __future__ import annotations

import copy as copying
import ctypes
from types import SimpleNamespace
from typing import Any

import numpy as np

import fastoptim.core

_current: dict[str, Any] = {"device": 0, "streams": {}}


def _refuse_in_capture() -> None:
    """Before work that would become a node of the graph, which the tests' graphs must not have."""
    assert not get_current_stream().is_capturing(), "CuPy's own work in a capture"


class MemoryPointer:
    """Where an array begins, and on which device."""

    __slots__ = ("device_id", "ptr")

    def __init__(self, ptr: int, device_id: int) -> None:
        self.ptr, self.device_id = ptr, device_id


class ndarray:  # noqa: N801  # CuPy's name
    """An array of a device's memory."""

    __slots__ = ("__weakref__", "data", "dtype", "host", "shape", "size", "strides")
    __array_ufunc__ = None
    __hash__ = None  # type: ignore[assignment]

    def __init__(self, host: Any, device: int | None = None) -> None:
        self.host = np.asarray(host)
        self.shape, self.strides = self.host.shape, self.host.strides
        self.dtype, self.size = self.host.dtype, self.host.size
        ptr = self.host.__array_interface__["data"][0] if self.size else 0
        self.data = MemoryPointer(ptr, _current["device"] if device is None else device)

    @property
    def __cuda_array_interface__(self) -> dict[str, Any]:
        strides = None if self.host.flags.c_contiguous else self.strides
        data = (self.data.ptr, False)
        return {"shape": self.shape, "typestr": self.dtype.str, "strides": strides, "data": data, "version": 3}

    def __array__(self, *_: Any, **__: Any) -> Any:
        raise TypeError("Implicit conversion to a NumPy array is not allowed.")

    def __setitem__(self, key: Any, value: Any) -> None:
        _refuse_in_capture()
        with np.errstate(all="ignore"):
            self.host[_host_of(key)] = _host_of(value)

    def __getitem__(self, key: Any) -> ndarray:
        return self._like(self.host[_host_of(key)])

    def __eq__(self, other: object) -> Any:
        raise AssertionError("compared element by element, which would launch a kernel")

    def _like(self, host: Any) -> ndarray:
        return ndarray(host, self.data.device_id)

    def _operate(self, operator: Any, other: Any) -> ndarray:
        assert not isinstance(other, np.ndarray)
        assert _current["device"] == self.data.device_id, "on a device that is not current"
        return self._like(operator(self.host, _host_of(other)))

    def __add__(self, other: Any) -> ndarray:
        return self._operate(np.add, other)

    def __sub__(self, other: Any) -> ndarray:
        return self._operate(np.subtract, other)

    def __mul__(self, other: Any) -> ndarray:
        return self._operate(np.multiply, other)

    def __rmul__(self, other: Any) -> ndarray:
        return self._operate(np.multiply, other)

    def __truediv__(self, other: Any) -> ndarray:
        return self._operate(np.divide, other)

    def __pow__(self, other: Any) -> ndarray:
        return self._operate(np.power, other)

    def __lt__(self, other: Any) -> ndarray:
        return self._operate(np.less, other)

    def __le__(self, other: Any) -> ndarray:
        return self._operate(np.less_equal, other)

    def __iadd__(self, other: Any) -> ndarray:
        np.add(self.host, other.host if isinstance(other, ndarray) else other, out=self.host)
        return self

    def __imul__(self, other: Any) -> ndarray:
        np.multiply(self.host, other.host if isinstance(other, ndarray) else other, out=self.host)
        return self

    def __ixor__(self, other: Any) -> ndarray:
        self.host ^= other
        return self

    def copy(self, order: Any = "C") -> ndarray:
        return ndarray(self.host.copy(order=order))

    def astype(self, dtype: Any, order: Any = "K") -> ndarray:
        return ndarray(self.host.astype(dtype, order=order))

    def view(self, dtype: Any = None) -> ndarray:
        return self._like(self.host.view() if dtype is None else self.host.view(dtype))

    def transpose(self, *axes: int) -> ndarray:
        return self._like(self.host.transpose(*axes))

    def reshape(self, *shape: Any) -> ndarray:
        return self._like(self.host.reshape(*shape))

    def swapaxes(self, one: int, other: int) -> ndarray:
        return self._like(self.host.swapaxes(one, other))

    def sum(self, axis: Any) -> ndarray:
        return self._like(self.host.sum(axis))

    def mean(self, axis: Any) -> ndarray:
        return self._like(self.host.mean(axis))

    def all(self) -> bool:
        return bool(self.host.all())

    @property
    def flags(self) -> Any:
        return self.host.flags

    @property
    def nbytes(self) -> int:
        return int(self.host.nbytes)

    def __deepcopy__(self, memo: Any) -> ndarray:
        return self._like(copying.deepcopy(self.host, memo))

    def __reduce__(self) -> Any:
        return ndarray, (self.host,)


def _host_of(thing: Any) -> Any:
    return thing.host if isinstance(thing, ndarray) else thing


def asarray(a: Any, dtype: Any = None) -> ndarray:
    if isinstance(a, ndarray):
        return a
    interface = getattr(a, "__cuda_array_interface__", None)
    return ndarray(np.array(a, dtype)) if interface is None else ndarray(np.asarray(_OnHost(interface)))


class _OnHost:
    def __init__(self, interface: dict[str, Any]) -> None:
        self.__array_interface__ = interface


def asnumpy(a: ndarray, stream: Any = None, order: Any = "C") -> Any:
    return a.host.copy(order=order)


def empty_like(a: ndarray) -> ndarray:
    return empty(a.shape, a.dtype)


def matmul(a: ndarray, b: ndarray, out: ndarray) -> None:
    np.matmul(a.host, b.host, out=out.host)


def _eigh(a: ndarray) -> tuple[ndarray, ndarray]:
    values, vectors = np.linalg.eigh(a.host)
    return ndarray(values), ndarray(vectors)


def _qr(a: ndarray) -> tuple[ndarray, ndarray]:
    q, r = np.linalg.qr(a.host)
    return ndarray(q), ndarray(r)


linalg = SimpleNamespace(eigh=_eigh, qr=_qr)


def isfinite(a: ndarray) -> ndarray:
    return ndarray(np.isfinite(a.host))


def ascontiguousarray(a: ndarray) -> ndarray:
    return ndarray(np.ascontiguousarray(a.host))


def zeros_like(a: ndarray, dtype: Any = None) -> ndarray:
    _refuse_in_capture()
    return ndarray(np.zeros_like(a.host, dtype))


def empty(shape: Any, dtype: Any = float) -> ndarray:
    return ndarray(np.full(shape, 7).astype(dtype))


def zeros(shape: Any, dtype: Any = float) -> ndarray:
    return ndarray(np.zeros(shape, dtype))


def full(shape: Any, fill_value: Any, dtype: Any = None) -> ndarray:
    return ndarray(np.full(shape, fill_value, dtype))


class Device:
    """The current device while it is entered."""

    def __init__(self, device: int | None = None) -> None:
        self.id = _current["device"] if device is None else device

    def __enter__(self) -> Device:
        self._before, _current["device"] = _current["device"], self.id
        return self

    def __exit__(self, *_: Any) -> None:
        _current["device"] = self._before


class Graph:
    """The launches recorded while a stream captured."""

    def __init__(self, number: int) -> None:
        self._number = number

    def launch(self, stream: Any = None) -> None:
        _emulation().fo_emulated_replay(self._number)


class Stream:
    """Work in an order, here the one in which it is handed over."""

    null: Stream

    def __init__(self, null: bool = False, non_blocking: bool = False) -> None:
        self.ptr = 0 if null else id(self)
        self._captures = False

    def __enter__(self) -> Stream:
        self._before = _current["streams"].get(_current["device"])
        _current["streams"][_current["device"]] = self
        return self

    def __exit__(self, *_: Any) -> None:
        _current["streams"][_current["device"]] = self._before

    def is_capturing(self) -> bool:
        return self._captures

    def begin_capture(self) -> None:
        self._captures = True
        _emulation().fo_emulated_begin_capture()

    def end_capture(self) -> Graph:
        self._captures = False
        return Graph(_emulation().fo_emulated_end_capture())

    def synchronize(self) -> None:
        pass


Stream.null = Stream(null=True)


def get_current_stream(device_id: int = -1) -> Stream:
    return _current["streams"].get(_current["device"] if device_id == -1 else device_id) or Stream.null


def _emulation() -> Any:
    return ctypes.CDLL(fastoptim.core.__dict__["_core"].__file__)


class MemoryPool:
    """Keeps nothing."""

    def free_bytes(self) -> int:
        return 0


def get_default_memory_pool() -> MemoryPool:
    return MemoryPool()


def _properties(device: int) -> dict[str, Any]:
    return {"name": b"emulated", "major": 0, "minor": 0, "totalGlobalMem": MEMORY, "multiProcessorCount": 1}


MEMORY = 2**30
runtime = SimpleNamespace(
    getDeviceProperties=_properties, driverGetVersion=lambda: 13000, memGetInfo=lambda: (MEMORY // 2, MEMORY)
)
cuda = SimpleNamespace(Device=Device, Stream=Stream, get_current_stream=get_current_stream, runtime=runtime)
__version__ = "on the host"
