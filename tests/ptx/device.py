"""Let the emulated build's launches run in the interpreter, with the arguments and memory that a GPU would get."""

from __future__ import annotations

import ctypes
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import numpy as np

import fastoptim.core

from .machine import Grid, Program
from .memory import Fault, Region
from .parser import PtxError, demangle

_LAUNCH = ctypes.CFUNCTYPE(
    None, ctypes.c_char_p, ctypes.c_uint32, ctypes.c_uint32, ctypes.POINTER(ctypes.c_uint8), ctypes.c_size_t
)
_MEMORY = ctypes.CFUNCTYPE(None, ctypes.c_int, ctypes.c_size_t, ctypes.c_size_t)


class Device:
    """Launches by the name of their body, and the memory that they may use."""

    def __init__(self, programs: Mapping[str, Program]) -> None:
        self.programs = programs
        self.launched: set[str] = set()
        self._regions: dict[int, Region] = {}
        self._arrays: list[Any] = []  # whose memory must not be used again
        self._errors: list[Exception] = []

    def own(self, name: str, array: Any, *, writable: bool = True) -> None:
        """Let kernels use the memory of an array; it is defined."""
        address, size = array.data.ptr, array.size * array.dtype.itemsize
        self._arrays.append(array)
        if size > 0:
            self._add(name, address, size, defined=True, writable=writable)

    def _add(self, name: str, address: int, size: int, *, defined: bool, writable: bool = True) -> None:
        data = np.ctypeslib.as_array((ctypes.c_uint8 * size).from_address(address))
        self._regions[address] = Region(name, address, data, np.full(size, defined), writable)

    @contextmanager
    def interpreting(self) -> Iterator[None]:
        """Run launches here, and raise the first error of one afterwards."""

        def launch(body: bytes, blocks: int, threads: int, arguments: Any, size: int) -> None:
            self._keep_errors(self._launch, demangle(body.decode()), blocks, threads, bytes(arguments[:size]))

        def memory(event: int, address: int, size: int) -> None:
            self._keep_errors((self._allocate, self._release, self._write, self._read)[event], address, size)

        callbacks = _LAUNCH(launch), _MEMORY(memory)
        library = ctypes.CDLL(fastoptim.core.__dict__["_core"].__file__)
        library.fo_emulated_interpret(*callbacks)
        try:
            yield
        finally:
            library.fo_emulated_interpret(None, None)
            if self._errors:  # also where results that are missing have led to another error
                raise self._errors[0]

    def _keep_errors(self, function: Callable[..., None], *arguments: Any) -> None:
        """Call the function unless an earlier call failed: an exception must not pass native code."""
        if self._errors:
            return
        try:
            function(*arguments)
        except Exception as error:
            self._errors.append(error)

    def _launch(self, body: str, blocks: int, threads: int, arguments: bytes) -> None:
        if body not in self.programs:
            raise PtxError(f"no kernel {body}")
        program = self.programs[body]
        if threads != program.kernel.threads:
            raise PtxError(f"{body}: expected {program.kernel.threads} threads, got {threads}")
        Grid(program, blocks, arguments, [*self._regions.values()]).run()
        self.launched.add(body)

    def _allocate(self, address: int, size: int) -> None:
        self._add(f"allocation {len(self._regions)}", address, size, defined=False)

    def _release(self, address: int, _: int) -> None:
        self._regions.pop(address, None)  # none: of an optimizer from before, which is collected now

    def _write(self, address: int, size: int) -> None:
        self._defined(address, size)[:] = True

    def _read(self, address: int, size: int) -> None:
        if not self._defined(address, size).all():
            raise Fault(f"the host reads {size} bytes at {address:#x} that nothing has written")

    def _defined(self, address: int, size: int) -> Any:
        """Return the flags of a range, which one region must contain."""
        for region in self._regions.values():
            if 0 <= address - region.address <= region.data.size - size:
                begin = address - region.address
                return region.defined[begin : begin + size]
        raise Fault(f"{size} bytes at {address:#x} are outside of all arrays")
