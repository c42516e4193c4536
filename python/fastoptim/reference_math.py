"""The arithmetic of the reference in NumPy: the compute type, and operations whose order is fixed.

Each operation rounds once to the type of its arguments, so that native code can reproduce its bits.
"""

from __future__ import annotations

import math
import sys
from typing import Any

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[Any]

TILE, LANES = 1024, 32


def bfloat16() -> np.dtype[Any] | None:
    """ml_dtypes' bfloat16, if the user has loaded it: whoever holds such an array has."""
    ml_dtypes = sys.modules.get("ml_dtypes")
    return np.dtype(ml_dtypes.bfloat16) if ml_dtypes else None


def compute_dtype(dtype: np.dtype[Any]) -> np.dtype[Any]:
    """What a parameter of this dtype is computed in, and its state kept in."""
    return np.dtype(np.float64 if dtype == np.float64 else np.float32)


def total(terms: Array) -> float:
    """Their sum in double, in an order that depends on their number alone.

    Tiles of 1024 in the order of memory; in a tile 32 running sums, each of every 32nd term; then neighbours are added
    in pairs, first the running sums of a tile, then the tiles.
    """
    flat = terms.ravel(order="K").astype(np.float64)
    tiles = np.zeros((-(-max(flat.size, 1) // TILE), TILE // LANES, LANES))
    tiles.reshape(-1)[: flat.size] = flat
    sums = np.zeros((len(tiles), LANES))
    for row in range(TILE // LANES):
        sums = sums + tiles[:, row]
    for _ in range(LANES.bit_length() - 1):
        sums = sums[:, 0::2] + sums[:, 1::2]
    return _pairwise(sums[:, 0])


def _pairwise(sums: Array) -> float:
    while sums.size > 1:
        pairs = sums[: sums.size // 2 * 2]
        sums = np.concatenate([pairs[0::2] + pairs[1::2], sums[pairs.size :]])
    return float(sums[0])


def square(x: Array) -> Array:
    """Of each element, in double."""
    wide = x.astype(np.float64)
    return wide * wide


def power(base: float, t: int) -> float:
    """``base**t`` by repeated squaring: fixed multiplications, where a libm's pow may differ from another's."""
    result = 1.0
    while t > 0:
        if t % 2:
            result *= base
        base *= base
        t //= 2
    return result


def decay(dtype: np.dtype[Any], rate: float) -> Any:
    """A decay rate as its dtype keeps it, below one: float32 would round 0.99999999 to one, which never decays."""
    number = dtype.type
    return min(number(rate), np.nextafter(number(1), number(0)))


def maximum(a: Array, b: Array) -> Array:
    """The larger, NaN if either is, and the first of equals: np.maximum leaves open which of 0 and -0 it takes."""
    return np.where((a >= b) | np.isnan(a), a, b)


def minimum(a: Array, b: Array) -> Array:
    """The smaller, NaN if either is, and the first of equals."""
    return np.where((a <= b) | np.isnan(a), a, b)


def sign(x: Array) -> Array:
    """-1, 0 or 1; NaN for NaN; +0 for either zero."""
    return np.asarray(np.sign(x))


def cube_root(x: Array) -> Array:
    """Within one unit in the last place, by fixed operations: NumPy's is the libm's, and each libm's is another.

    Halley's method on numbers far from the ends of the range, from a first guess that divides the bit pattern, and with
    it the exponent, by three.  Before each step the root is cut to half of its digits, so that its square is exact.
    """
    dtype = np.dtype(x.dtype)
    number, patterns, steps, guess, half, span = {
        4: (np.float32, np.uint32, 2, 0x2A51245E, 0xFFFFF000, 32),
        8: (np.float64, np.uint64, 3, 0x2A9F900000000000, 0xFFFFFFFFF8000000, 256),
    }[dtype.itemsize]
    size = np.abs(x)
    low = size < number(math.ldexp(1, -2 * span))
    a = size * np.where(low, number(math.ldexp(1, 3 * span)), number(math.ldexp(1, -6)))
    pattern = a.view(patterns)
    pattern = (pattern >> patterns(2)) + (pattern >> patterns(4))
    pattern = pattern + (pattern >> patterns(4))
    pattern = pattern + (pattern >> patterns(8))
    r = (pattern + patterns(guess)).view(number)
    for _ in range(steps):
        r = (r.view(patterns) & patterns(half)).view(number)
        cube = r * r * r
        r = r + r * ((a - cube) / (cube + cube + a))
    r = r * np.where(low, number(math.ldexp(1, -span)), number(4))
    return np.where((size > 0) & (size < np.inf), np.copysign(r, x), x)
