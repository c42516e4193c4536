"""Faulty versions of a kernel: operations that round otherwise, missing barriers, and loads that are too wide."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

import numpy as np

from .machine import Program
from .operations import OPERATIONS, Array, Operation
from .parser import BasicBlock, Instruction, Kernel


def _fused(a: Array, b: Array, c: Array) -> Array:
    return (np.multiply(a, b, dtype=np.longdouble) + c).astype(np.float32)


def _toward_zero(a: Array, b: Array) -> Array:
    exact = np.add(a, b, dtype=np.float64)
    nearest = exact.astype(np.float32)
    return np.where(np.abs(nearest) > np.abs(exact), np.nextafter(nearest, np.float32(0)), nearest)


def _approximate_sqrt(x: Array) -> Array:
    return np.where(x > 0, x * (np.float32(1) / np.sqrt(x)), np.sqrt(x))


# What the interpreter does not run by itself.
INEXACT = {
    "fma.rn.f32": Operation(_fused, "f32", ("f32", "f32", "f32")),
    "add.rz.f32": Operation(_toward_zero, "f32", ("f32", "f32")),
    "sqrt.approx.f32": Operation(_approximate_sqrt, "f32", ("f32",)),
}


def _with(kernel: Kernel, block: int, at: int, *instructions: Instruction) -> Program:
    """Return the kernel with other instructions in place of one."""
    code = kernel.blocks[block].code
    changed = BasicBlock([*code[:at], *instructions, *code[at + 1 :]])
    return Program(
        replace(kernel, blocks=[*kernel.blocks[:block], changed, *kernel.blocks[block + 1 :]]), OPERATIONS | INEXACT
    )


def _find(program: Program, opcode: str) -> Iterator[tuple[int, int, Instruction]]:
    """Yield the instructions with this opcode that were executed, those of the longest blocks first."""
    for block in sorted(program.executed, key=lambda i: -len(program.kernel.blocks[i].code)):
        for at, instruction in enumerate(program.kernel.blocks[block].code):
            if instruction.opcode == opcode:
                yield block, at, instruction


def fused(program: Program) -> Iterator[Program]:
    """Replace the addition of a product by a fused operation."""
    for block, at, product in _find(program, "mul.rn.f32"):
        to, a, b = product.operands
        for later, add in enumerate(program.kernel.blocks[block].code[at + 1 :], at + 1):
            if add.opcode == "add.rn.f32" and to in add.operands[1:]:
                (other,) = [each for each in add.operands[1:] if each != to] or [to]
                made = add._replace(opcode="fma.rn.f32", operands=(add.operands[0], a, b, other))
                yield _with(program.kernel, block, later, made)
            if add.operands[0] in (a, b, to):
                break


def renamed(program: Program, opcode: str, other: str) -> Iterator[Program]:
    """Replace an operation."""
    for block, at, instruction in _find(program, opcode):
        yield _with(program.kernel, block, at, instruction._replace(opcode=other))


def without_barrier(program: Program) -> Iterator[Program]:
    """Leave out a barrier."""
    for block, at, _ in _find(program, "bar.sync"):
        yield _with(program.kernel, block, at)


def widened(program: Program) -> Iterator[Program]:
    """Load two neighbours at once."""
    for block, at, load in _find(program, "ld.global.f32"):
        to, of = load.operands
        yield _with(
            program.kernel, block, at, load._replace(opcode="ld.global.v2.f32", operands=(f"{{{to}, {to}}}", of))
        )
