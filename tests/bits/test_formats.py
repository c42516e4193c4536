"""The half formats: every value survives being read and written, and what is written is rounded once, to nearest-even.

Driven through plain SGD, whose arithmetic is exact here; NumPy and ml_dtypes say what the rounding is.
"""

from __future__ import annotations

from typing import Literal

import numpy as np
import pytest

import fastoptim as fo
from cases import BFLOAT16, FLOAT16, FLOAT32, FLOAT64, Array, DType, assert_same_bits, bits
from fastoptim.options.schema import StateArray
from fastoptim.reference_math import compute_dtype
from loops import loop
from models import each_backend

HALVES = (FLOAT16, BFLOAT16)

pytestmark = pytest.mark.usefixtures("isa")


def every_value(dtype: DType) -> Array:
    return np.arange(2**16, dtype=np.uint16).view(dtype)


def written(values: Array, dtype: DType) -> Array:
    """Return a parameter of that format after these values were added to zero."""
    p = np.zeros(values.shape, dtype)
    fo.SGD(p, lr=1.0, maximize=True).step(values)
    return p


def rounded(values: Array, dtype: DType) -> Array:
    """The same by NumPy: to the compute type, plus zero, to the format."""
    compute = compute_dtype(dtype)
    with np.errstate(all="ignore"):
        total: Array = values.astype(compute) + compute.type(0)
        return total.astype(dtype)


@loop("dtype", HALVES)
def test_every_value_survives_an_update_by_nothing(dtype: DType) -> None:
    values = every_value(dtype)
    p = values.copy()
    fo.SGD(p, lr=0.0).step(np.ones(p.shape, np.float32))
    assert_same_bits(p, values, "p")


@loop("dtype", HALVES)
@loop("p_dtype", [FLOAT32, FLOAT64])
def test_every_value_is_read_exactly(p_dtype: DType, dtype: DType) -> None:
    values = every_value(dtype)
    assert_same_bits(written(values, p_dtype), rounded(values, p_dtype), "p")


@loop("dtype", HALVES)
def test_rounding_at_every_border(dtype: DType) -> None:
    """Halfway between any two neighbours, one float32 to either side of it, and the neighbours' own surroundings."""
    values = np.sort(every_value(dtype)[: bits(np.array(np.inf, dtype))[0]].astype(FLOAT64))
    overflow = values[-1] + (values[-1] - values[-2])
    halfway = ((values + np.append(values[1:], overflow)) / 2).astype(FLOAT32)
    centers = np.concatenate([halfway, values.astype(FLOAT32)])
    borders = np.concatenate([centers, np.nextafter(centers, np.float32(0)), np.nextafter(centers, np.float32(np.inf))])
    both = np.concatenate([borders, -borders])
    assert_same_bits(written(both, dtype), rounded(both, dtype), "p")


@loop("dtype", HALVES)
def test_rounding_of_any_float32(dtype: DType) -> None:
    """Every sign, exponent and leading fraction, with random trailing fractions, in random places."""
    rng = np.random.default_rng(0)
    for _ in range(8):
        leading = rng.permutation(np.arange(2**16, dtype=np.uint32)) << 16
        values = (leading | rng.integers(0, 2**16, leading.shape, np.uint32)).view(np.float32)
        assert_same_bits(written(values, dtype), rounded(values, dtype), "p")


@loop("dtype", HALVES)
@loop("name", ["p", "g"])
def test_a_nan_in_any_place_of_a_block_leaves_the_other_numbers(name: str, dtype: DType) -> None:
    """Native code converts blocks of 16 or 32 numbers, and rounds NaNs to bfloat16 in another way."""
    rng = np.random.default_rng(0)
    p, g = (rng.standard_normal((64, 64)).astype(dtype) for _ in range(2))
    np.fill_diagonal(p if name == "p" else g, np.nan)
    expected = rounded(p.astype(np.float32) - g.astype(np.float32), dtype)
    fo.SGD(p, lr=1.0).step(g)
    assert np.isnan(p.diagonal().astype(np.float32)).all()
    elsewhere = ~np.eye(len(p), dtype=bool)
    assert_same_bits(p[elsewhere], expected[elsewhere], "p")


@loop("p_dtype", [FLOAT32, *HALVES])
def test_float64_gradients_are_rounded_to_the_compute_type(p_dtype: DType) -> None:
    rng = np.random.default_rng(0)
    singles = rng.integers(0, 2**31 - 2**23, 20000, np.uint32).view(np.float32)  # finite, positive
    with np.errstate(over="ignore"):
        halfway = (singles.astype(FLOAT64) + np.nextafter(singles, np.float32(np.inf)).astype(FLOAT64)) / 2
    halfway = np.append(halfway, [2.0**128 - 2.0**103, 2.0**-150, 3 * 2.0**-150])
    borders = np.concatenate([halfway, np.nextafter(halfway, 0), np.nextafter(halfway, np.inf)])
    patterns = rng.integers(0, 2**64, 20000, np.uint64).view(np.float64)
    values = np.concatenate([borders, -borders, patterns])
    assert_same_bits(written(values, p_dtype), rounded(values, p_dtype), "p")


def test_a_float64_parameter_takes_float64_gradients_unrounded() -> None:
    values = np.random.default_rng(0).integers(0, 2**64, 20000, np.uint64).view(np.float64)
    assert_same_bits(written(values, FLOAT64), rounded(values, FLOAT64), "p")


@each_backend
@loop("dtype", HALVES)
def test_float64_is_rounded_once_to_the_format_of_state(dtype: DType, backend: Literal["native", "reference"]) -> None:
    """At each halfway point between neighbours, and one float64 to either side of it."""
    patterns = np.arange(bits(np.array(np.inf, dtype))[0], dtype=np.uint16)
    low = patterns.view(dtype).astype(FLOAT64)
    halfway = (low + np.append(low[1:], 2 * low[-1] - low[-2])) / 2
    values = np.concatenate([halfway, np.nextafter(halfway, 0), np.nextafter(halfway, np.inf)])
    expected = np.concatenate([patterns + patterns % 2, patterns, patterns + 1]).astype(np.uint16)
    cls = type("Compressed", (fo.SGD,), {"state_schema": {"b": StateArray(format=dtype.name)}})
    opt = cls(np.zeros(2 * len(values)), momentum=0.9, backend=backend)  # the first buffer is the gradient
    opt.step(np.concatenate([values, -values]))
    assert_same_bits(opt.state["b"], np.concatenate([expected, expected | 0x8000]).view(dtype), "b")
