"""Codes of 8 bits for state arrays, in blocks of 64 elements with one scale each: the twin of csrc/block_codes.h.

Arrays are flat, in the order of the parameter's memory.  The operations are those of float32, each rounded once.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from .reference_math import Array

#: The elements of a block; the last one of an array may have fewer.
BLOCK = 64

_number = np.float32

#: Half of the exponent of 1, in the pattern of a float.
_HALF_BIAS = np.uint32(0x1FC00000)


class Code(NamedTuple):
    """A code: it counts places, which are nearly square roots, from the place of zero."""

    name: str
    dtype: np.dtype[np.int8] | np.dtype[np.uint8]
    largest: int
    zero: int
    """The place of zero."""
    units_of_zero: int
    """The number whose approximate square root that is."""
    units: int
    """How much larger the number of the last place is."""


SIGNED = Code("signed", np.dtype(np.int8), 127, 88, 7168, 37376)
NON_NEGATIVE = Code("non-negative", np.dtype(np.uint8), 255, 2, 4, 66044)

#: The codes by name.
CODES = {code.name: code for code in (SIGNED, NON_NEGATIVE)}

#: In the place of random numbers: rounds to nearest.
NEAREST = np.float32(1.5)


def blocks_of(size: int) -> int:
    """Return the number of blocks of an array."""
    return -(-size // BLOCK)


def random_of(halves: Array) -> Array:
    """Return random numbers of (1, 2) from the upper 14 of 16 bits each."""
    pattern = (halves.astype(np.uint32) >> np.uint32(2)) << np.uint32(9) | np.uint32(0x3F800100)
    return np.asarray(pattern.view(np.float32))


def place_of(x: Array, factor: Array, code: Code) -> Array:
    """Return the place of each magnitude, for the factor of its block."""
    units = np.abs(x) * factor + _number(code.units_of_zero)
    return np.asarray(((units.view(np.uint32) >> np.uint32(1)) + _HALF_BIAS).view(np.float32))


def encode(x: Array, code: Code, random: Array | np.float32 = NEAREST) -> tuple[Array, Array]:
    """Return the codes and the scales of float32 elements, each rounded up with the probability of its nearness.

    An inf has the largest code of its sign, a NaN the largest one.  Of a non-negative array, a positive element never
    has code zero.
    """
    magnitude = np.abs(x)
    padded = np.zeros(blocks_of(x.size) * BLOCK, np.float32)
    padded[: x.size] = np.where(np.isfinite(x), magnitude, 0)
    largest = padded.reshape(-1, BLOCK).max(axis=1, initial=0)
    scales = np.where(largest > 0, np.maximum(largest, _number(2.0**-110)), largest)
    factor = _number(code.units) / np.where(scales == 0, _number(1), scales)
    last, first = _number(code.zero + code.largest), _number(code.zero - 2)
    with np.errstate(all="ignore"):
        place = place_of(x, np.repeat(factor, BLOCK)[: x.size], code)
        codes = (np.where(place < last, place, last) - first - random).astype(np.int32)
        signed = np.where(x < 0, -codes, codes)  # a NaN is not negative, whatever its sign
    codes = signed if code is SIGNED else np.maximum(codes, magnitude.view(np.uint32) > 0)
    return codes.astype(code.dtype), scales


def decode(codes: Array, scales: Array, code: Code) -> Array:
    """Return the float32 elements of codes."""
    k = codes.astype(np.float32)
    pattern = (np.abs(k) + _number(code.zero)).view(np.uint32) - _HALF_BIAS
    units = (pattern << np.uint32(1)).view(np.float32) - _number(code.units_of_zero)
    share = units * (_number(1) / _number(code.units))
    return np.asarray(np.where(k < 0, -share, share) * np.repeat(scales, BLOCK)[: codes.size])
