"""Codes of 8 bits for state arrays, in blocks of 64 elements with one scale each: the twin of csrc/block_codes.h.

Arrays are flat, in the order of the parameter's memory.  The operations are those of float32, each rounded once.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from .reference_math import Array

#: The elements of a block; the last one of an array may have fewer.
BLOCK = 64

_one, _half = np.float32(1), np.float32(0.5)


class Code(NamedTuple):
    """A code: k means ``k*(k + linear) / (largest*(largest + linear))`` of the block's largest magnitude."""

    name: str
    dtype: np.dtype[np.int8] | np.dtype[np.uint8]
    largest: int
    linear: int

    @property
    def units(self) -> np.float32:
        """The value of the largest code before it is scaled."""
        units: np.float32 = np.float32(self.largest * (self.largest + self.linear))
        return units


SIGNED = Code("signed", np.dtype(np.int8), 127, 128)
NON_NEGATIVE = Code("non-negative", np.dtype(np.uint8), 255, 2)

#: The codes by name.
CODES = {code.name: code for code in (SIGNED, NON_NEGATIVE)}

#: Of a random number in the place of `shares`: rounds to nearest.
NEAREST = np.float32(0.5)


def blocks_of(size: int) -> int:
    """Return the number of blocks of an array."""
    return -(-size // BLOCK)


def shares_of(halves: Array) -> Array:
    """Return random numbers of [0, 1) from 16 bits each."""
    shares: Array = (halves.astype(np.float32) + _half) * np.float32(2.0**-16)
    return shares


def encode(x: Array, code: Code, shares: Array | np.float32 = NEAREST) -> tuple[Array, Array]:
    """Return the codes and the scales of float32 elements, each rounded up with the probability of its nearness.

    An inf or NaN is stored as zero.  Of a non-negative array, a positive element is never stored as zero.
    """
    magnitude = np.where(np.isfinite(x), np.abs(x), np.float32(0))
    padded = np.zeros(blocks_of(x.size) * BLOCK, np.float32)
    padded[: x.size] = magnitude
    largest = padded.reshape(-1, BLOCK).max(axis=1, initial=0)
    scales = np.where(largest > 0, np.maximum(largest, np.finfo(np.float32).smallest_normal), largest)
    inverse = np.repeat(_one / np.where(scales == 0, _one, scales), BLOCK)[: x.size]
    linear, half = np.float32(code.linear), np.float32(code.linear / 2)
    above = code.units + code.units * np.float32(2.0**-21)
    units = magnitude * inverse * above
    whole = np.trunc(np.sqrt(units + half * half) - half)
    k = np.minimum(whole, np.float32(code.largest - 1))
    threshold = k * (k + linear) + shares * (k + k + (linear + _one))
    codes = k.astype(np.int32) + (units >= threshold)
    codes = np.where(x < 0, -codes, codes) if code is SIGNED else np.maximum(codes, magnitude > 0)
    return codes.astype(code.dtype), scales


def decode(codes: Array, scales: Array, code: Code) -> Array:
    """Return the float32 elements of codes."""
    k = codes.astype(np.float32)
    shares = k * (np.abs(k) + np.float32(code.linear)) * (_one / code.units)
    return np.asarray(shares * np.repeat(scales, BLOCK)[: codes.size])
