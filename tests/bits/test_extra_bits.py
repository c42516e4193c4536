"""The bits that parameters of 16 bits lack, number by number: exact pairs, nearest parameters, unbiased rounding."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

import fastoptim as fo
from cases import BFLOAT16, FLOAT16, FLOAT32, Array, DType, assert_same_bits
from fastoptim import extra_bits
from fastoptim.random_bits import rounding_bits
from loops import each_isa, loop

each_narrow = loop("dtype", [FLOAT16, BFLOAT16])
LARGEST = {FLOAT16: 65504.0, BFLOAT16: float(2.0**128 - 2.0**120)}
#: The dtype of each state array, and the bound of its error: the larger of one relative to the binade and an absolute
#: one.  Subnormal numbers belong to the smallest binade.
KINDS: dict[tuple[str, DType], tuple[Any, float, float]] = {
    (extra_bits.MASTER_BITS_8, BFLOAT16): (np.int8, 2.0**-16, 0.0),
    (extra_bits.MASTER_BITS_16, BFLOAT16): (np.int16, 0.0, 0.0),
    (extra_bits.MASTER_BITS_8, FLOAT16): (np.int8, 2.0**-19, 2.0**-33),
    (extra_bits.MASTER_BITS_16, FLOAT16): (np.int16, 0.0, 2.0**-41),
    (extra_bits.COMPENSATION, BFLOAT16): (BFLOAT16, 2.0**-17, 2.0**-134),
    (extra_bits.COMPENSATION, FLOAT16): (FLOAT16, 2.0**-23, 2.0**-25),
}
OPTIONS: dict[str, dict[str, Any]] = {
    extra_bits.MASTER_BITS_8: {"master_weight_bits": 24},
    extra_bits.MASTER_BITS_16: {"master_weight_bits": 32},
    extra_bits.COMPENSATION: {"kahan": True},
}
LOWS = [
    0,
    1,
    2,
    0x7F,
    0x80,
    0x81,
    0xFFF,
    0x1000,
    0x1001,
    0x2FFF,
    0x7F7F,
    0x7F80,
    0x7FFF,
    0x8000,
    0x8001,
    0xFF80,
    0xFFFF,
]


def numbers(lows: Any = LOWS) -> Array:
    """Every upper half of float32 with each of these lower halves: the ends of rounding intervals."""
    uppers = np.arange(2**16, dtype=np.uint32)[:, None] << 16
    return (uppers | np.asarray(lows, np.uint32)).reshape(-1).view(FLOAT32)


def summed(x: Array) -> Array:
    """Return 0 + x: the numbers without -0 and signalling NaNs."""
    with np.errstate(invalid="ignore"):
        return np.asarray(x + np.float32(0))


def stored(x: Array, dtype: DType, **options: Any) -> Any:
    """Return an optimizer whose parameters have become these numbers, by the step 0 - (-x)."""
    opt = fo.SGD(np.zeros(x.size, dtype), lr=1.0, **options)
    opt.step(-x)
    return opt


def check_pairs(x: Array, p: Array, low: Array, relative: float, absolute: float) -> None:
    """Check that pairs are these numbers within the bounds, and that the parameters are the nearest ones."""
    with np.errstate(all="ignore"):
        value = extra_bits.decode(p, low)
        nan = np.isnan(x)
        assert (np.isnan(p.astype(FLOAT32)) == nan).all()
        assert (np.isnan(value) == nan).all()
        x, value, p32 = (array[~nan].astype(np.float64) for array in (x, value, p))
        assert (np.signbit(value) == np.signbit(x)).all()
        finite = np.isfinite(p32) & np.isfinite(value)
        assert (np.abs(x[~finite]) > LARGEST[p.dtype]).all()
        smallest = 2.0**-14 if p.dtype == FLOAT16 else 2.0**-126
        binade = np.exp2(np.floor(np.log2(np.maximum(np.abs(x[finite]), smallest))))
        assert (np.abs(value - x)[finite] <= np.maximum(relative * binade, absolute)).all()
        for toward in (-np.inf, np.inf):
            other = np.nextafter(p[~nan], p.dtype.type(toward)).astype(np.float64)
            assert (np.abs(p32 - value) <= np.abs(other - value))[finite].all()


@pytest.mark.parametrize(("name", "dtype"), KINDS, ids=str)
@each_isa
def test_a_pair_is_the_number_and_its_parameter_the_nearest(name: str, dtype: DType) -> None:
    low_dtype, relative, absolute = KINDS[name, dtype]
    x = numbers()
    p, low = extra_bits.encode(x, dtype, np.dtype(low_dtype))
    check_pairs(x, p, low, relative, absolute)
    x = summed(x)
    p, low = extra_bits.encode(x, dtype, np.dtype(low_dtype))
    opt = stored(x, dtype, **OPTIONS[name])
    assert_same_bits(opt.params, p)
    assert_same_bits(opt.state[name], low)
    assert_same_bits(opt.master_params(), extra_bits.decode(p, low))


@pytest.mark.exhaustive
@pytest.mark.parametrize(("name", "dtype"), KINDS, ids=str)
def test_a_64th_of_all_float32_numbers_is_within_the_bounds(name: str, dtype: DType) -> None:
    """Every upper half with a 64th of the lower halves, in runs of 64; all numbers take some ten minutes."""
    low_dtype, relative, absolute = KINDS[name, dtype]
    for first in range(0, 2**16, 2**12):
        x = summed(numbers(np.arange(first, first + 2**6)))
        opt = stored(x, dtype, **OPTIONS[name])
        assert opt.state[name].dtype == low_dtype
        check_pairs(x, opt.params, opt.state[name], relative, absolute)


@each_narrow
@each_isa
def test_bfloat16_with_32_bits_is_float32(dtype: DType) -> None:
    x = summed(numbers(np.random.default_rng(0).integers(0, 2**16, 16)))
    x = x[np.abs(x) < 65504] if dtype == FLOAT16 else x
    x = x[np.abs(x) >= 2.0**-17] if dtype == FLOAT16 else x
    assert_same_bits(stored(x, dtype, master_weight_bits=32).master_params(), x)


@pytest.mark.parametrize(("name", "dtype"), KINDS, ids=str)
@each_isa
def test_bits_of_another_number_stay_within_half_a_gap(name: str, dtype: DType) -> None:
    """Bits of another number, after an assignment, change no sign, and no infinity or NaN appears or disappears."""
    rng = np.random.default_rng(3)
    p = np.arange(2**16, dtype=np.uint16).view(dtype)
    low_dtype = np.dtype(KINDS[name, dtype][0])
    for _ in range(4):
        low = rng.integers(0, 256, p.size * low_dtype.itemsize, np.uint8).view(low_dtype)
        value = extra_bits.decode(p, low)
        opt = fo.SGD(p.copy(), lr=0.0, **OPTIONS[name])
        opt.state[name][...] = low
        opt.step(np.zeros_like(p))
        again = extra_bits.encode(value, dtype, low_dtype)
        assert_same_bits(opt.params, again[0])
        assert_same_bits(opt.state[name], again[1])
        with np.errstate(all="ignore"):
            finite = np.isfinite(p)
            assert (np.isnan(value) == np.isnan(p)).all()
            assert (value[np.isinf(p)] != 0).all()
            assert (np.signbit(value) == np.signbit(p))[finite].all()
            gap = np.abs(np.nextafter(p, dtype.type(np.inf)).astype(np.float64) - p.astype(np.float64))
            inside = finite & np.isfinite(gap)
            assert (np.abs(value - p.astype(np.float64)) <= gap)[inside].all()


# ---- stochastic rounding

HALVES = np.arange(2**16, dtype=np.uint64)


@each_narrow
def test_each_neighbor_is_as_probable_as_it_is_near(dtype: DType) -> None:
    """Counted over all random bits: the mean of the rounded numbers is the number, within 2^-16 of the gap."""
    rng = np.random.default_rng(1)
    ordinary = rng.standard_normal(150).astype(FLOAT32)
    tiny = (ordinary * 1e-6).astype(FLOAT32) if dtype == FLOAT16 else (ordinary * 1e-39).astype(FLOAT32)
    for x in [*ordinary, *tiny]:
        rounded = extra_bits.round_randomly(np.full(HALVES.size, x, FLOAT32), dtype, HALVES).astype(np.float64)
        low, high = rounded.min(), rounded.max()
        assert low <= x <= high
        share = np.count_nonzero(rounded == high) / HALVES.size
        if low < high:
            assert np.nextafter(dtype.type(low), dtype.type(np.inf)) == high
            # of the 2^-24 of float16's subnormal numbers, x is first rounded to 2^-40
            assert abs(share - (float(x) - low) / (high - low)) <= (2.0**-17 if dtype == FLOAT16 else 0)


@each_narrow
def test_numbers_that_need_no_rounding_stay(dtype: DType) -> None:
    p = np.arange(2**16, dtype=np.uint16).view(dtype)
    with np.errstate(all="ignore"):
        x = p.astype(FLOAT32)
    for half in (0, 1, 0x8000, 0xFFFF):
        assert_same_bits(extra_bits.round_randomly(x, dtype, np.full(p.size, half)), p)


@each_narrow
def test_a_number_beyond_the_largest_is_rounded_to_nearest(dtype: DType) -> None:
    largest = LARGEST[dtype]
    gap = float(largest - np.nextafter(dtype.type(largest), dtype.type(0)).astype(np.float64))
    x = np.repeat(np.array([largest + 0.499 * gap, -largest - 0.51 * gap], FLOAT32), HALVES.size)
    rounded = extra_bits.round_randomly(x, dtype, np.tile(HALVES, 2)).astype(FLOAT32)
    assert set(rounded[: HALVES.size]) == {np.float32(largest)}
    assert set(rounded[HALVES.size :]) == {-np.inf}


@each_narrow
@each_isa
def test_native_code_rounds_every_number_as_numpy_does(dtype: DType) -> None:
    x = summed(numbers(LOWS[1::4]))
    for seed in (0, 2**63 - 1):
        opt = stored(x, dtype, stochastic_rounding=True, seed=seed)
        halves = rounding_bits(seed, 0, 1, np.arange(x.size, dtype=np.uint64))
        assert_same_bits(opt.params, extra_bits.round_randomly(x, dtype, halves))


def test_a_mean_over_elements_and_steps_is_the_number() -> None:
    """The mean of independent bits is within five standard deviations."""
    n, steps, x = 2**16, 16, np.float32(1 + 2.0**-10)  # an eighth of bfloat16's gap
    ups = np.array([stored_after(t, n, x) for t in range(steps)], np.float64)
    deviation = np.sqrt(0.125 * 0.875 / ups.size)
    assert abs(ups.mean() - 0.125) < 5 * deviation
    centered = (ups - 0.125) / np.sqrt(0.125 * 0.875)
    for shift in (1, 8, 16, 64, 1024):
        assert abs((centered[:, shift:] * centered[:, :-shift]).mean()) < 5 / np.sqrt(ups.size - shift * steps)
    assert abs((centered[1:] * centered[:-1]).mean()) < 5 / np.sqrt(n * (steps - 1))


def stored_after(t: int, n: int, x: np.float32) -> Array:
    """Return which elements of two parameters are rounded up in step t + 1."""
    p = np.zeros(n, BFLOAT16)
    fo.functional.sgd(p, np.full(n, -x), step=t + 1, lr=1.0, stochastic_rounding=True, seed=7)
    return p.astype(FLOAT32) > 1


def test_random_bits_are_uniform_and_independent() -> None:
    """By sums of squares over 2^20 elements: of each value of the first byte, of neighbors, and of other keys."""
    n = 2**20
    elements = np.arange(n, dtype=np.uint64)
    keys = [(0, 0, 1), (1, 0, 1), (0, 1, 1), (0, 0, 2), (2**63 - 1, 2**24 - 1, 2**40)]
    drawn = [rounding_bits(*key, elements).astype(np.int64) >> 8 for key in keys]
    for first_byte in drawn:
        assert_square_sum(np.bincount(first_byte, minlength=2**8), n / 2**8)
        for lag in (1, 7, 8, 9, 15, 16, 17, 32, 48, 64, 1024):
            for shift in (0, 4):
                nibble = first_byte >> shift & 15
                assert_square_sum(np.bincount(nibble[lag:] * 16 + nibble[:-lag], minlength=256), (n - lag) / 256)
    for i, first in enumerate(drawn):
        for other in drawn[:i]:
            assert_square_sum(np.bincount((first >> 4) * 16 + (other >> 4), minlength=256), n / 256)


def test_each_group_has_a_second_byte_that_is_uniform_over_groups_and_over_steps() -> None:
    groups = np.arange(2**14, dtype=np.uint64) * np.uint64(64)
    second = rounding_bits(1, 2, 3, groups) & 255
    for other in (1, 17, 63):
        assert_same_bits(rounding_bits(1, 2, 3, groups + np.uint64(other)) & 255, second)
    counts = np.bincount(second, minlength=256)  # of multiples of the golden ratio: more even than at random
    assert abs(counts - 64).max() <= 4
    over_steps = np.array([rounding_bits(1, 2, t, groups[:8]) for t in range(4096)])
    second, first = (over_steps & 255).astype(np.int64), (over_steps >> 8).astype(np.int64)
    for group in range(8):
        assert_square_sum(np.bincount(second[:, group], minlength=256), 16)
    assert_square_sum(np.bincount(((second >> 4) * 16 + (first >> 4)).reshape(-1), minlength=256), 128)


def assert_square_sum(counts: Array, expected: float) -> None:
    """Check that Pearson's statistic is within five standard deviations."""
    statistic, freedom = ((counts - expected) ** 2 / expected).sum(), counts.size - 1
    assert abs(statistic - freedom) < 5 * np.sqrt(2 * freedom)


def test_a_key_belongs_to_each_2_to_the_32_words() -> None:
    border = 2**34
    near = rounding_bits(1, 2, 3, np.arange(border - 32, border + 32, dtype=np.uint64))
    assert (near[32:] != rounding_bits(1, 2, 3, np.arange(32, dtype=np.uint64))).sum() > 28
    assert_same_bits(near[:32], rounding_bits(1, 2, 3, np.arange(border - 32, border, dtype=np.uint64)))


def test_each_part_of_the_key_gives_other_bits() -> None:
    elements = np.arange(256, dtype=np.uint64)
    base = rounding_bits(1, 2, 3, elements)
    for other in (rounding_bits(0, 2, 3, elements), rounding_bits(1, 3, 3, elements), rounding_bits(1, 2, 4, elements)):
        assert np.count_nonzero(base == other) < 5
    assert np.unique(base).size > 200  # four groups have 256 first bytes each
