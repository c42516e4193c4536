"""Parameters of 16 bits with the bits that they lack, and their random rounding: the twin of csrc/extra_bits.h.

A wide pattern is that of the parameter's format with k more bits of fraction, and without a sign.  Its upper bits,
rounded to nearest, are the parameter, and the rest of it is a signed integer of k bits.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np

from .reference_math import Array, rounded_to

#: The names of the state arrays.
MASTER_BITS_8, MASTER_BITS_16, COMPENSATION = "master_bits8", "master_bits16", "compensation"
EXTRA_BITS = (MASTER_BITS_8, MASTER_BITS_16, COMPENSATION)

#: The options of parameters of 16 bits, of which a group has at most one, where they are disabled.
WAYS: Mapping[str, Any] = {"master_weight_bits": None, "kahan": False, "stochastic_rounding": False}


class _Format(NamedTuple):
    """The numbers of a format of 16 bits: patterns, bits of fraction, and half a gap relative to a number."""

    infinity: int
    nan: int
    half_gap: float


_FLOAT16, _BFLOAT16 = _Format(0x7C00, 0x7E00, 2.0**-11), _Format(0x7F80, 0x7FC0, 2.0**-8)


def extra_bits_of(options: Mapping[str, Any]) -> str | None:
    """Return the name of the state array that these options need for parameters of 16 bits."""
    if options["kahan"]:
        return COMPENSATION
    return {None: None, 24: MASTER_BITS_8, 32: MASTER_BITS_16}[options["master_weight_bits"]]


def is_narrow(dtype: np.dtype[Any]) -> bool:
    """Return whether parameters of this dtype have 16 bits."""
    return dtype.itemsize == 2


def decode(p: Array, low: Array) -> Array:
    """Return parameters with their extra bits as float32."""
    if low.dtype == p.dtype:
        with np.errstate(all="ignore"):
            rounded, rest = p.astype(np.float32), low.astype(np.float32)
            belongs = (rest != 0) & (np.abs(rest) <= np.abs(rounded) * np.float32(_format(p.dtype).half_gap))
            return np.where(belongs, rounded + rest, rounded)
    k, infinity = 8 * low.itemsize, _format(p.dtype).infinity
    narrow = p.view(np.uint16).astype(np.int64)
    upper = narrow & 0x7FFF
    wide = np.maximum((upper << k) + low, 0)
    wide = np.where(upper > infinity, wide, np.minimum(wide, infinity << k))
    magnitude = _from_wide(wide, p.dtype, k)
    return np.asarray((magnitude | (narrow & 0x8000) << 16).astype(np.uint32).view(np.float32))


def encode(x: Array, dtype: np.dtype[Any], low_dtype: np.dtype[Any]) -> tuple[Array, Array]:
    """Return float32 values as parameters, and their extra bits."""
    if low_dtype == dtype:
        p = rounded_to(x, dtype)
        rounded = p.astype(np.float32)
        with np.errstate(all="ignore"):
            return p, rounded_to(np.where(np.isfinite(rounded), x - rounded, np.float32(0)), dtype)
    k = 8 * low_dtype.itemsize
    wide = _to_wide(x, dtype, k)
    upper = (wide + (1 << (k - 1))) >> k
    return _with_sign(upper, x, dtype), (wide - (upper << k)).astype(low_dtype)


def round_randomly(x: Array, dtype: np.dtype[Any], halves: Array) -> Array:
    """Return float32 values rounded to either neighbor by 16 random bits each; to nearest beyond the largest number."""
    wide = _to_wide(x, dtype, 16)
    largest = (_format(dtype).infinity - 1) << 16
    return _with_sign((wide + np.where(wide > largest, 0x8000, halves.astype(np.int64))) >> 16, x, dtype)


def _format(dtype: np.dtype[Any]) -> _Format:
    return _FLOAT16 if dtype == np.float16 else _BFLOAT16


def _with_sign(upper: Array, x: Array, dtype: np.dtype[Any]) -> Array:
    narrow: Array = (upper | (x.view(np.uint32).astype(np.int64) >> 16 & 0x8000)).astype(np.uint16)
    return narrow.view(dtype)


def _to_wide(x: Array, dtype: np.dtype[Any], k: int) -> Array:
    """Return the wide patterns of float32 values as int64."""
    magnitude = x.view(np.uint32).astype(np.int64) & 0x7FFFFFFF
    if dtype == np.float16:
        with np.errstate(all="ignore"):
            whole = np.rint(np.where(magnitude < 0x38800000, np.abs(x), 0).astype(np.float64) * 2.0 ** (24 + k))
        normal = _shorten(np.maximum(magnitude - (112 << 23), 0), 13 - k)
        wide = np.where(magnitude < 0x38800000, whole.astype(np.int64), normal)
        wide = np.where(magnitude >= 0x47800000, 0x7C00 << k, wide)
    else:
        wide = _shorten(magnitude, 16 - k)
    return np.where(magnitude > 0x7F800000, _format(dtype).nan << k, wide)


def _from_wide(wide: Array, dtype: np.dtype[Any], k: int) -> Array:
    """Return the float32 patterns, without a sign, of wide ones."""
    if dtype != np.float16:
        return wide << (16 - k)
    subnormal = (wide.astype(np.float32) * np.float32(2.0 ** -(24 + k))).view(np.uint32).astype(np.int64)
    normal = (wide << (13 - k) if k < 13 else wide >> (k - 13)) + (112 << 23)
    finite = np.where(wide < 1 << (10 + k), subnormal, normal)
    return np.where(wide >= 0x7C00 << k, np.where(wide > 0x7C00 << k, 0x7FC00000, 0x7F800000), finite)


def _shorten(pattern: Array, dropped: int) -> Array:
    """Return patterns without their last bits, rounded to nearest-even, or with zeros appended."""
    if dropped <= 0:
        return pattern << -dropped
    return np.asarray((pattern + (1 << (dropped - 1)) - 1 + (pattern >> dropped & 1)) >> dropped)
