"""Counter-based random numbers in NumPy: the twin of csrc/random_bits.h, which describes the method.

The numbers are functions of (seed, use, parameter, step, element), and so the same for any division of the work.
"""

from __future__ import annotations

import numpy as np

from .reference_math import Array

#: The uses of the numbers; those from STATE on are of state arrays.
NOISE, ROUNDING, STATE = 0, 1, 2

_32 = np.uint64(32)
_LOW = np.uint64(0xFFFFFFFF)


def philox(counter: Array, key: tuple[int, int]) -> Array:
    """Return Philox4x32-10 of counters, an array of four rows of uint64 that hold 32 bits each."""
    c0, c1, c2, c3 = (row.astype(np.uint64) for row in counter)
    key0, key1 = key
    for _ in range(10):
        a, b = c0 * np.uint64(0xD2511F53), c2 * np.uint64(0xCD9E8D57)
        c0, c1, c2, c3 = (b >> _32) ^ c1 ^ np.uint64(key0), b & _LOW, (a >> _32) ^ c3 ^ np.uint64(key1), a & _LOW
        key0, key1 = (key0 + 0x9E3779B9) % 2**32, (key1 + 0xBB67AE85) % 2**32
    return np.stack([c0, c1, c2, c3])


def random_words(seed: int, use: int, param: int, step: int, size: int) -> Array:
    """Return 32 random bits for each element, as uint64."""
    words: Array = _words(seed, use, param, step, np.arange(-(-size // 4), dtype=np.uint64)).T.reshape(-1)[:size]
    return words


def _words(seed: int, use: int, param: int, step: int, block: Array) -> Array:
    """Return the four words of each block."""
    constant = np.full_like
    counter = np.stack(
        [
            block & _LOW,
            (block >> _32) | np.uint64((step >> 32) << 16 & 0xFFFFFFFF),
            constant(block, param | use << 24),
            constant(block, step % 2**32),
        ]
    )
    return philox(counter, (seed % 2**32, seed >> 32))


def state_bits(param: int, step: int, array: int, elements: Array) -> Array:
    """Return 16 random bits for each of these elements of a state array, given by its place among the rule's."""
    return rounding_bits(0, param, step, elements, STATE + array)


def rounding_bits(seed: int, param: int, step: int, elements: Array, use: int = ROUNDING) -> Array:
    """Return 16 random bits for each of these elements, given as uint64 positions in the parameter's memory.

    Element e has byte e/16 % 4 of word 16*(e/64) + e%16, which is a hash of the word's index with a key from Philox,
    and a byte that 64 elements share.
    """
    place = np.asarray(elements, np.uint64)
    group = place // np.uint64(64)
    index = group * np.uint64(16) + place % np.uint64(16)
    words, shared = (np.zeros(place.shape, np.uint32) for _ in range(2))
    for block in np.unique(index >> _32):
        own = (index >> _32) == block
        key = _words(seed, use, param, step, block.reshape(1))[:, 0]
        words[own] = _rounding_words(key, index[own])
        shared[own] = (np.uint32(key[3]) + group[own].astype(np.uint32) * np.uint32(0x9E3779B9)) >> np.uint32(24)
    shift = (place // np.uint64(16) % np.uint64(4) * np.uint64(8)).astype(np.uint32)
    return np.asarray((words >> shift & np.uint32(0xFF)) << np.uint32(8) | shared)


def _rounding_words(key: Array, index: Array) -> Array:
    """Return the hash of these indices."""
    x = index.astype(np.uint32)
    for shift, added, factor in zip((0, 17, 11, 15), key, (1, 0xED5AD4BB, 0xAC4C1B51, 0x31848BAB), strict=True):
        mixed = x ^ (x >> np.uint32(shift)) if shift else x
        x = (mixed + np.uint32(added)) * np.uint32(factor)
    return np.asarray(x ^ (x >> np.uint32(14)))


def negative_log(x: Array) -> Array:
    """Return -log(x) of normal numbers by a fixed sequence of operations, right to 1e-10 for x below 1/8."""
    bits = x.view(np.uint64)
    exponent = (bits >> np.uint64(52)).astype(np.float64) - 1023
    m = ((bits & np.uint64(0x000FFFFFFFFFFFFF)) | np.uint64(0x3FF0000000000000)).view(np.float64)
    root, log_root, log_2 = 1.4142135623730951, 0.34657359027997264, 0.6931471805599453
    s = (m - root) / (m + root)
    square = s * s
    series = ((((square / 11 + 1 / 9) * square + 1 / 7) * square + 1 / 5) * square + 1 / 3) * square + 1
    return np.asarray(-(exponent * log_2 + (log_root + 2 * s * series)))


def normal_numbers(seed: int, param: int, step: int, size: int) -> Array:
    """Return standard normal numbers in double: the quantile of each element's 32 bits, by AS 241, PPND7."""
    u = (random_words(seed, NOISE, param, step, size).astype(np.float64) + 0.5) * 2.0**-32
    q = u - 0.5
    r = 0.180625 - q * q
    middle = (
        q
        * (((59.109374720 * r + 159.29113202) * r + 50.434271938) * r + 3.3871327179)
        / (((67.187563600 * r + 78.757757664) * r + 17.895169469) * r + 1)
    )
    t = np.sqrt(negative_log(np.where(q < 0, u, 1 - u))) - 1.6
    tail = (((0.17023821103 * t + 1.3067284816) * t + 2.7568153900) * t + 1.4234372777) / (
        (0.12021132975 * t + 0.73700164250) * t + 1
    )
    return np.where(r >= 0, middle, np.where(q < 0, -tail, tail))
