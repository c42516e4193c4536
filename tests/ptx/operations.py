"""The arithmetic of PTX in NumPy: for each opcode its function and the types of its result and its sources.

Only opcodes that nvcc writes for this project's kernels are known.  Roundings other than to nearest, fused and
approximate operations are deliberately absent: the bit-equality contract excludes them.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[Any]

TYPES: dict[str, np.dtype[Any]] = {
    "pred": np.dtype(bool),
    **{f"b{size}": np.dtype(f"u{size // 8}") for size in (8, 16, 32, 64)},
    **{f"u{size}": np.dtype(f"u{size // 8}") for size in (8, 16, 32, 64)},
    **{f"s{size}": np.dtype(f"i{size // 8}") for size in (8, 16, 32, 64)},
    **{f"f{size}": np.dtype(f"f{size // 8}") for size in (32, 64)},
}
FLOATS = ("f32", "f64")
SIGNED = ("s16", "s32", "s64")
UNSIGNED = ("u16", "u32", "u64")
BITS = ("b16", "b32", "b64")


class Operation(NamedTuple):
    """``result = function(*sources)``, elementwise, with these types."""

    function: Callable[..., Array]
    result: str
    sources: tuple[str, ...]


def _same(function: Callable[..., Any], kind: str, count: int) -> Operation:
    return Operation(function, kind, (kind,) * count)


def _shift(function: Callable[..., Any]) -> Callable[[Array, Array], Array]:
    """NumPy's shifts return 0, or the sign, from the width of the type on, as PTX does."""

    def shift(a: Array, by: Array) -> Array:
        result: Array = function(a, np.minimum(by, 64).astype(a.dtype))
        return result

    return shift


def _larger(a: Array, b: Array) -> Array:
    """The larger number, the other one if one is NaN, and +0 of two zeros."""
    return np.where(a == b, np.where(np.signbit(a), b, a), np.fmax(a, b))


def _smaller(a: Array, b: Array) -> Array:
    return -_larger(-a, -b)


def _permute_bytes(low: Array, high: Array, selector: Array) -> Array:
    """Four of the eight bytes, each chosen by four bits: its number, and whether only its sign is repeated."""
    both = low.astype(np.uint64) | high.astype(np.uint64) << np.uint64(32)
    result = np.zeros_like(both)
    for i in range(4):
        chosen = selector.astype(np.uint64) >> np.uint64(4 * i) & np.uint64(15)
        byte = both >> (chosen & np.uint64(7)) * np.uint64(8) & np.uint64(255)
        signs = np.where(byte & np.uint64(128), np.uint64(255), np.uint64(0))
        result |= np.where(chosen & np.uint64(8), signs, byte) << np.uint64(8 * i)
    return np.asarray(result, np.uint32)


def _funnel_shift(low: Array, high: Array, by: Array) -> Array:
    """The upper word of two words, shifted to the left by the last five bits of `by`."""
    both = np.asarray(low).astype(np.uint64) | np.asarray(high).astype(np.uint64) << np.uint64(32)
    return np.asarray((both << (np.asarray(by).astype(np.uint64) & np.uint64(31))) >> np.uint64(32), np.uint64).astype(
        np.uint32
    )


def _insert_bits(field: Array, into: Array, begin: Array, length: Array) -> Array:
    kind, shift = into.dtype, np.asarray(begin).astype(np.uint64)
    mask = ((np.uint64(1) << np.asarray(length).astype(np.uint64)) - np.uint64(1)) << shift
    result: Array = into.astype(np.uint64) & ~mask | field.astype(np.uint64) << shift & mask
    return result.astype(kind)


def _to_integer(x: Array) -> Array:
    """Round toward zero; numbers outside the range become its ends.  NaN becomes -2**63, as PTX specifies."""
    inside = (x >= -(2.0**63)) & (x < 2.0**63)
    edge = np.where(x >= 2.0**63, 2**63 - 1, -(2**63))
    return np.where(inside, np.where(inside, x, 0).astype(np.int64), edge)


def _to_integer_32(x: Array) -> Array:
    """Round toward zero; numbers outside the range become its ends, and NaN becomes 0, as PTX specifies."""
    wide = np.clip(np.where(np.isnan(x), 0, x).astype(np.float64), -(2.0**31), 2.0**31 - 1)
    return np.asarray(np.trunc(wide).astype(np.int32))


def _ordered(a: Array, b: Array) -> Array:
    ordered: Array = ~(np.isnan(a) | np.isnan(b))
    return ordered


COMPARISONS: dict[str, Callable[..., Any]] = {
    "eq": np.equal,
    "lt": np.less,
    "le": np.less_equal,
    "gt": np.greater,
    "ge": np.greater_equal,
}


def _comparisons() -> dict[str, Operation]:
    table: dict[str, Operation] = {}
    of_integers: dict[str, Callable[..., Any]] = {**COMPARISONS, "ne": np.not_equal}
    for name, function in of_integers.items():
        for kind in (*SIGNED, *UNSIGNED, *(BITS if name in ("eq", "ne") else ())):
            table[f"setp.{name}.{kind}"] = Operation(function, "pred", (kind, kind))
    for kind in FLOATS:
        functions: dict[str, Callable[..., Any]] = {
            **COMPARISONS,
            "ne": lambda a, b: (a != b) & _ordered(a, b),
            "neu": np.not_equal,
            "num": _ordered,
            "nan": lambda a, b: ~_ordered(a, b),
            **{
                f"{name}u": lambda a, b, function=function: function(a, b) | ~_ordered(a, b)
                for name, function in COMPARISONS.items()
            },
        }
        for name, function in functions.items():
            table[f"setp.{name}.{kind}"] = Operation(function, "pred", (kind, kind))
    return table


def _float_arithmetic() -> dict[str, Operation]:
    table: dict[str, Operation] = {}
    for kind in FLOATS:
        one = TYPES[kind].type(1)
        table |= {
            f"add.rn.{kind}": _same(np.add, kind, 2),
            f"sub.rn.{kind}": _same(np.subtract, kind, 2),
            f"mul.rn.{kind}": _same(np.multiply, kind, 2),
            f"div.rn.{kind}": _same(np.divide, kind, 2),
            f"rcp.rn.{kind}": _same(lambda a, one=one: one / a, kind, 1),
            f"sqrt.rn.{kind}": _same(np.sqrt, kind, 1),
            f"max.{kind}": _same(_larger, kind, 2),
            f"min.{kind}": _same(_smaller, kind, 2),
            f"abs.{kind}": _same(np.abs, kind, 1),
            f"neg.{kind}": _same(np.negative, kind, 1),
            f"copysign.{kind}": _same(lambda sign, a: np.copysign(a, sign), kind, 2),
        }
    return table


def _integer_arithmetic() -> dict[str, Operation]:
    table: dict[str, Operation] = {}
    for kind in (*SIGNED, *UNSIGNED):
        table |= {
            f"add.{kind}": _same(np.add, kind, 2),
            f"sub.{kind}": _same(np.subtract, kind, 2),
            f"mul.lo.{kind}": _same(np.multiply, kind, 2),
            f"mad.lo.{kind}": _same(lambda a, b, c: a * b + c, kind, 3),
            f"min.{kind}": _same(np.minimum, kind, 2),
            f"max.{kind}": _same(np.maximum, kind, 2),
            f"shr.{kind}": Operation(_shift(np.right_shift), kind, (kind, "u32")),
        }
    for kind in SIGNED:
        table |= {f"neg.{kind}": _same(np.negative, kind, 1), f"abs.{kind}": _same(np.abs, kind, 1)}
    for kind in BITS:
        table |= {
            f"and.{kind}": _same(np.bitwise_and, kind, 2),
            f"or.{kind}": _same(np.bitwise_or, kind, 2),
            f"xor.{kind}": _same(np.bitwise_xor, kind, 2),
            f"not.{kind}": _same(np.invert, kind, 1),
            f"shl.{kind}": Operation(_shift(np.left_shift), kind, (kind, "u32")),
        }
    for narrow, wide in (("s32", "s64"), ("u32", "u64"), ("u16", "u32")):
        function = _widening(wide)
        table[f"mul.wide.{narrow}"] = Operation(function, wide, (narrow, narrow))
    for kind in ("s64", "u64", "u32"):  # the last one where both fit
        table[f"div.{kind}"] = _same(_quotient, kind, 2)
        table[f"rem.{kind}"] = _same(_remainder, kind, 2)
    table["shf.l.wrap.b32"] = Operation(_funnel_shift, "b32", ("b32", "b32", "u32"))
    table["prmt.b32"] = Operation(_permute_bytes, "b32", ("b32", "b32", "b32"))
    for kind in ("b32", "b64"):
        table[f"bfi.{kind}"] = Operation(_insert_bits, kind, (kind, kind, "u32", "u32"))
    return table


def _quotient(a: Array, b: Array) -> Array:
    """Rounded toward zero, as PTX specifies; lanes that take no part may divide by zero."""
    divisor = np.where(b == 0, b.dtype.type(1), b)
    result: Array = (a - np.fmod(a, divisor)) // divisor
    return result


def _remainder(a: Array, b: Array) -> Array:
    """With the sign of a; lanes that take no part may divide by zero."""
    result: Array = np.fmod(a, np.where(b == 0, b.dtype.type(1), b))
    return result


def _widening(wide: str) -> Callable[[Array, Array], Array]:
    return lambda a, b: np.multiply(a, b, dtype=TYPES[wide])


def _conversions() -> dict[str, Operation]:
    table: dict[str, Operation] = {
        "cvt.f64.f32": Operation(lambda x: x.astype(np.float64), "f64", ("f32",)),
        "cvt.rn.f32.f64": Operation(lambda x: x.astype(np.float32), "f32", ("f64",)),
        "cvt.rzi.s64.f64": Operation(_to_integer, "s64", ("f64",)),
        "cvt.rzi.s32.f32": Operation(_to_integer_32, "s32", ("f32",)),
        "cvt.rn.f32.s32": Operation(lambda x: x.astype(np.float32), "f32", ("s32",)),
        "cvt.s32.s8": Operation(lambda x: x.astype(np.int32), "s32", ("s8",)),
    }
    for of in ("s32", "u32", "s64", "u64"):
        table[f"cvt.rn.f64.{of}"] = Operation(lambda x: x.astype(np.float64), "f64", (of,))
    for to in (*SIGNED, *UNSIGNED):
        for of in (*SIGNED, *UNSIGNED):
            dtype = TYPES[to]
            table[f"cvt.{to}.{of}"] = Operation(lambda x, dtype=dtype: x.astype(dtype), to, (of,))
    return table


def _select(a: Array, b: Array, which: Array) -> Array:
    return np.where(which, a, b)


def _selections() -> dict[str, Operation]:
    kinds = (*FLOATS, *SIGNED, *UNSIGNED, *BITS)
    return {f"selp.{kind}": Operation(_select, kind, (kind, kind, "pred")) for kind in kinds}


OPERATIONS: dict[str, Operation] = {
    **_comparisons(),
    **_float_arithmetic(),
    **_integer_arithmetic(),
    **_conversions(),
    **_selections(),
    "and.pred": _same(np.logical_and, "pred", 2),
    "or.pred": _same(np.logical_or, "pred", 2),
    "xor.pred": _same(np.logical_xor, "pred", 2),
    "not.pred": _same(np.logical_not, "pred", 1),
}
