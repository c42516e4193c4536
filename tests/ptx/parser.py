"""Read PTX: the kernels of a module, each as basic blocks of instructions.

Only the syntax that nvcc writes for this project's kernels is known; else a `PtxError` quotes the line.
"""

from __future__ import annotations

import ctypes
import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import cache
from typing import NamedTuple


class PtxError(Exception):
    """The PTX contains something unknown, or does something that it must not do."""


class Instruction(NamedTuple):
    """One instruction; `guard` is its predicate register, as in ``@%p1`` or ``@!%p1``, or empty."""

    text: str
    guard: str
    opcode: str
    operands: tuple[str, ...]
    used_bytes: int | None  # a mask of the bytes that a load needs, where the compiler tells


@dataclass
class BasicBlock:
    """Instructions of which only the last one may end the block."""

    code: list[Instruction] = field(default_factory=list)


@dataclass
class Kernel:
    """An entry function."""

    name: str
    threads: int
    param: tuple[str, int]  # name and bytes of the only parameter
    shared: dict[str, tuple[int, int]] = field(default_factory=dict)  # alignment and bytes of each variable
    registers: dict[str, str] = field(default_factory=dict)  # the type of each prefix, as in {"%fd": "f64"}
    blocks: list[BasicBlock] = field(default_factory=list)
    labels: dict[str, int] = field(default_factory=dict)  # the block that begins there

    def type_of(self, register: str) -> str:
        """Return the declared type of a register."""
        return self.registers[register.rstrip("0123456789")]


ENDS = ("bra", "bar", "ret")  # the instructions that end a basic block, without their suffixes

_ENTRY = re.compile(
    r"^\.visible \.entry (\w+)\(\s*\.param \.align \d+ \.b8 (\w+)\[(\d+)\]\s*\)\s*\.maxntid (\d+), 1, 1\s*"
    r"(?:\.minnctapersm \d+\s*)?\{\n(.*?)^\}",
    re.MULTILINE | re.DOTALL,
)
_REGISTERS = re.compile(r"\.reg \.(\w+)\s+(%[a-z]+)<\d+>;")
_SHARED = re.compile(r"\.shared \.align (\d+) \.b8 (\w+)\[(\d+)\];")
_USED_BYTES = re.compile(r'\.pragma "used_bytes_mask (\d+)";')
_INSTRUCTION = re.compile(r"(?:@(!?%p\d+)\s+)?([a-z][\w.]*)\s*(.*);")
_OPERAND = re.compile(r"\{[^}]*\}|\[[^\]]*\]|[^,\s]+")
_IGNORED = ("//", '.pragma "nounroll"')


@cache
def _demangler() -> ctypes.CDLL:
    library = ctypes.CDLL("libstdc++.so.6")
    library.__cxa_demangle.restype = ctypes.c_char_p
    return library


def demangle(name: str) -> str:
    """Return the C++ name of a mangled symbol or type without spaces and namespaces of the project."""
    # The few bytes that the library allocates are not released.
    found: bytes = _demangler().__cxa_demangle(name.encode(), None, None, ctypes.byref(ctypes.c_int()))
    return re.sub(r"fo::(\w+::)?|\s", "", found.decode())


def parse(ptx: str) -> dict[str, Kernel]:
    """Return the kernels of a module by the name of their body, as in ``Update<Adam<float>,float>``."""
    kernels = {}
    for mangled, param, size, threads, body in _ENTRY.findall(ptx):
        found = re.fullmatch(r"voidkernel<(.*)>\((?:Arguments|\1::Takes)\)", demangle(mangled))
        if not found:
            raise PtxError(f"expected an instance of kernel<Body>, got {demangle(mangled)}")
        kernel = Kernel(found[1], int(threads), (param, int(size)))
        for line in _lines(body):
            _read(kernel, line)
        kernels[kernel.name] = kernel
    if len(kernels) != ptx.count(".entry"):
        raise PtxError(f"expected {ptx.count('.entry')} kernels, could read {len(kernels)}")
    return kernels


def _lines(body: str) -> Iterator[str]:
    pragma = ""
    for line in map(str.strip, body.split("\n")):
        if _USED_BYTES.fullmatch(line):
            pragma = line  # of the next instruction
        elif line and not line.startswith(_IGNORED):
            yield pragma + line
            pragma = ""


def _read(kernel: Kernel, line: str) -> None:
    if found := _REGISTERS.fullmatch(line):
        kernel.registers[found[2]] = found[1]
    elif found := _SHARED.fullmatch(line):
        kernel.shared[found[2]] = int(found[1]), int(found[3])
    elif line.endswith(":"):
        kernel.labels[line[:-1]] = len(kernel.blocks)
        kernel.blocks.append(BasicBlock())
    else:
        instruction = _instruction(line)
        if not kernel.blocks:
            kernel.blocks.append(BasicBlock())
        kernel.blocks[-1].code.append(instruction)
        if instruction.opcode.split(".")[0] in ENDS:
            kernel.blocks.append(BasicBlock())


def _instruction(line: str) -> Instruction:
    used = _USED_BYTES.match(line)
    text = line[used.end() :] if used else line
    found = _INSTRUCTION.fullmatch(text)
    if not found:
        raise PtxError(f"unknown syntax: {line}")
    guard, opcode, operands = found.groups()
    return Instruction(text, guard or "", opcode, tuple(_OPERAND.findall(operands)), int(used[1]) if used else None)
