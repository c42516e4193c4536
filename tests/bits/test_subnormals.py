"""Check that state does not stay subnormal: many processors compute many times more slowly with such numbers."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

import fastoptim as fo
from cases import FLOAT32, FLOAT64, VARIANT_CASES, Array, Case, DType, assert_same_bits
from fastoptim.engines.reference import FLUSH_INTERVAL
from loops import each_case, each_isa, loop

SIZE = 1030  # a tile and a part of one


def is_subnormal(x: Array) -> Any:
    return (x != 0) & (np.abs(x) < np.finfo(x.dtype).smallest_normal)


def small_numbers(rng: np.random.Generator, dtype: DType, size: int = SIZE) -> Array:
    """Return numbers from a hundredth to a hundred times the smallest normal one, and zeros; one half has signs."""
    factors = np.array([0, 0.01, 0.5, 1 - 2**-20, 1, 1 + 2**-20, 1.2, 2, 100])
    values = (rng.choice(factors, size) * np.finfo(dtype).smallest_normal).astype(dtype)
    values[size // 2 :] *= rng.choice(np.array([-1, 1], dtype), size - size // 2)
    return np.asarray(values)


@each_case(VARIANT_CASES)
@loop("dtype", [FLOAT32, FLOAT64])
@each_isa
def test_some_steps_flush_state(case: Case, dtype: DType) -> None:
    rng = np.random.default_rng(0)
    p = rng.choice(np.array([0, 1e-30, 1e-3, 1, -40]), SIZE).astype(dtype)
    arrays = [p, *case.make_state(lambda: small_numbers(rng, dtype))]
    wanted = [array.copy() for array in arrays]
    g = rng.choice(np.array([0, 0, 0, -0.0, 1e-25, -1]), SIZE).astype(dtype)
    for t in (FLUSH_INTERVAL - 1, FLUSH_INTERVAL):
        case.update(fo.functional, arrays[0], g, arrays[1:], t)
        case.update(fo.reference, wanted[0], g, wanted[1:], t)
        for name, array, want in zip(("p", *case.state), arrays, wanted, strict=True):
            assert_same_bits(array, want, f"{name} after step {t}")
    for name, array in zip(case.state, arrays[1:], strict=True):
        assert array.ndim == 0 or not is_subnormal(array).any(), f"{name}: {array[is_subnormal(array)]}"


@loop("dtype", [FLOAT32, FLOAT64])
@pytest.mark.parametrize("options", [{"ema": 0.99}, {"swa_start": 1}])
def test_some_steps_flush_averages(options: dict[str, Any], dtype: DType) -> None:
    averages = []
    for backend in ("native", "reference"):
        rng = np.random.default_rng(0)
        opt = fo.SGD(np.zeros(SIZE, dtype), backend=backend, **options)
        for _ in range(FLUSH_INTERVAL):
            opt.state["average"][...] = small_numbers(rng, dtype)
            opt.step(np.zeros(SIZE, dtype))
        averages.append(opt.state["average"])
        assert not is_subnormal(averages[-1]).any()
    assert_same_bits(averages[0], averages[1], "average")
