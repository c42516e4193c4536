"""Counter-based random numbers: known answers, native code against NumPy, and their distribution."""

from __future__ import annotations

import math
from statistics import NormalDist
from typing import Any

import numpy as np
import pytest

import fastoptim as fo
from cases import FLOAT32, FLOAT64, Array, DType, assert_same_bits
from fastoptim import core
from fastoptim.random_bits import NOISE, ROUNDING, negative_log, normal_numbers, philox, random_words
from loops import loop

# Of the authors' library, Random123 1.09: counter, key, result.
KNOWN = [
    ((0, 0, 0, 0), (0, 0), (0x6627E8D5, 0xE169C58D, 0xBC57AC4C, 0x9B00DBD8)),
    ((2**32 - 1,) * 4, (2**32 - 1,) * 2, (0x408F276D, 0x41C83B0E, 0xA20BC7C6, 0x6D5451FD)),
    (
        (0x243F6A88, 0x85A308D3, 0x13198A2E, 0x03707344),
        (0xA4093822, 0x299F31D0),
        (0xD16CFE09, 0x94FDCCEB, 0x5001E420, 0x24126EA1),
    ),
]


@pytest.mark.parametrize(("counter", "key", "expected"), KNOWN)
def test_philox_has_the_known_answers(counter: Any, key: Any, expected: Any) -> None:
    assert tuple(philox(np.array(counter, np.uint64)[:, None], key)[:, 0]) == expected


@loop("dtype", [FLOAT32, FLOAT64])
def test_native_code_has_the_bits_of_numpy(dtype: DType) -> None:
    for size in (0, 1, 3, 4, 5, 1023, 40_001):
        for seed, step, param in ((0, 1, 0), (2**63 - 1, 2**48 - 1, 2**24 - 1), (12345678901, 2**33 + 7, 5)):
            array = np.full(size + 1, 77, dtype)
            core.fill_normal(array[:size], seed, step, param)
            assert_same_bits(array[:size], normal_numbers(seed, param, step, size).astype(dtype))
            assert array[size] == 77


def test_bits_do_not_depend_on_threads() -> None:
    threads = fo.get_num_threads()
    found = []
    try:
        for n in (1, 2, 3):
            fo.set_num_threads(n)
            found.append(np.empty(300_001))
            core.fill_normal(found[-1], 3, 4, 5)
    finally:
        fo.set_num_threads(threads)
    assert found[0].tobytes() == found[1].tobytes() == found[2].tobytes()


def test_each_part_of_the_key_gives_other_bits() -> None:
    base = random_words(1, NOISE, 2, 3, 64)
    others = [
        random_words(2, NOISE, 2, 3, 64),
        random_words(1 + 2**32, NOISE, 2, 3, 64),
        random_words(1, ROUNDING, 2, 3, 64),
        random_words(1, NOISE, 3, 3, 64),
        random_words(1, NOISE, 2, 4, 64),
        random_words(1, NOISE, 2, 3 + 2**32, 64),
        np.roll(base, 1),
        np.roll(base, 4),
    ]
    for other in others:
        assert not (base == other).any()


def test_the_logarithm_is_accurate() -> None:
    u = np.concatenate([np.geomspace(2.0**-33, 0.125, 20_000), 2.0 ** -np.arange(3, 34)])
    np.testing.assert_allclose(negative_log(u), -np.log(u), rtol=1e-10)


def quantiles(words: Array) -> Array:
    return np.array([NormalDist().inv_cdf((int(word) + 0.5) / 2**32) for word in words])


def test_the_quantile_is_accurate(monkeypatch: pytest.MonkeyPatch) -> None:
    """Over the whole range of 32 bits, its ends and the borders of its two branches, to 2e-7."""
    border = [round((0.5 + side * 0.425) * 2**32) for side in (-1, 1)]
    near = np.arange(-20, 21)
    words = np.concatenate([np.linspace(0, 2**32 - 1, 20_001).astype(np.int64), *(near + b for b in border)])
    monkeypatch.setattr("fastoptim.random_bits.random_words", lambda *_: words.astype(np.uint64))
    found, expected = normal_numbers(0, 0, 1, words.size), quantiles(words)
    np.testing.assert_allclose(found, expected, rtol=2e-7)
    assert found[0] == -found[20_000]
    assert 6.33 < found[20_000] < 6.35


@pytest.fixture(scope="module")
def sample() -> Array:
    numbers = np.empty(4_000_000)
    core.fill_normal(numbers, 2024, 1, 0)
    return numbers


def test_moments(sample: Array) -> None:
    """Within five standard errors."""
    n = sample.size
    for power, mean, variance in ((1, 0, 1), (2, 1, 2), (3, 0, 15), (4, 3, 96), (6, 15, 10170)):
        assert abs((sample**power).mean() - mean) < 5 * math.sqrt(variance / n), power


def test_distribution_and_tails(sample: Array) -> None:
    """The largest distance of the distribution functions (Kolmogorov), and the number of values beyond each bound."""
    ordered = np.sort(sample[:200_000])
    expected = np.array([0.5 * math.erfc(-x / math.sqrt(2)) for x in ordered.tolist()])
    distance = np.abs(expected - (np.arange(ordered.size) + 0.5) / ordered.size).max()
    assert distance * math.sqrt(ordered.size) < 1.95  # exceeded with probability 1e-3
    for bound in (1, 2, 3, 4):
        chance = math.erfc(bound / math.sqrt(2))
        expected_count = sample.size * chance
        assert abs((np.abs(sample) > bound).sum() - expected_count) < 5 * math.sqrt(expected_count)


def test_independence(sample: Array) -> None:
    """Of neighbours at several distances, of steps, parameters and seeds: correlations of values and of squares."""
    n = 1_000_000
    x = sample[:n]
    others = [sample[lag : n + lag] for lag in (1, 2, 3, 4, 5, 1024)]
    for seed, step, param in ((2025, 1, 0), (2024, 2, 0), (2024, 1, 1), (2024 + 2**32, 1, 0)):
        others.append(np.empty(n))
        core.fill_normal(others[-1], seed, step, param)
    for y in others:
        assert abs(np.corrcoef(x, y)[0, 1]) < 5 / math.sqrt(n)
        assert abs(np.corrcoef(x * x, y * y)[0, 1]) < 5 / math.sqrt(n)
