"""Norms of numbers whose squares overflow or underflow, and clipping by them."""

from __future__ import annotations

import math
from decimal import Context, Decimal, localcontext
from typing import Any

import numpy as np
import pytest

import fastoptim as fo
from cases import assert_same_bits
from loops import each_isa, loop

# Float64 numbers whose squares overflow or underflow, alone and next to others, and the borders of their scaling.
EXTREMES = [
    *([3 * 10.0**n, -4 * 10.0**n] for n in (307, 200, 155, 153, -119, -121, -155, -200, -300, -320)),
    *([2.0**n, 3.0 * 2.0 ** (n + d)] for n in (511, -400, -403) for d in (-1, 0, 1)),
    *([1.5 * 2.0**n] * 3000 for n in (1016, 507, -405, -410, -512, -1074)),
    [1e200, 1e140, 1.0, 1e-200],
    [1e-100, 1e-160],
    [1.1e-160, 1.3e-161],
    [1e-152, 1e-155, 1e-320],
    [1.0, 1e-160, 0.0],
]


def exact_norm(numbers: list[float]) -> Decimal:
    with localcontext(Context(prec=60, Emax=9999, Emin=-9999)):
        return sum((Decimal(x) ** 2 for x in numbers), Decimal(0)).sqrt()


@loop("numbers", EXTREMES)
def test_squares_that_overflow_or_underflow_are_scaled(numbers: list[float]) -> None:
    exact, x = exact_norm(numbers), np.array(numbers)
    for arrays in (x, [x[:1], x[1:]], list(x)):
        assert abs(Decimal(fo.global_norm(arrays)) - exact) <= max(exact * Decimal(2.0**-51), Decimal("5e-324"))


@loop("numbers", EXTREMES)
@loop("options", [{"clip_norm": 1.0}, {"clip_global_norm": 1.0}, {"clip_norm": 1.0, "clip_value": 1.7e308}])
@each_isa
def test_a_finite_gradient_of_any_size_is_clipped_to_the_bound(numbers: list[float], options: dict[str, Any]) -> None:
    grad, found = np.array(numbers), []
    for backend in ("native", "reference"):
        params = [np.zeros(3), np.zeros(2), np.zeros(len(numbers))]
        opt = fo.SGD(params, lr=1.0, skip_nonfinite=True, backend=backend, **options)
        assert opt.step([np.ones(3, np.float32), None, grad])
        found.append(params)
    for p, q in zip(*found, strict=True):
        assert_same_bits(p, q)
    whole = exact_norm(numbers + [1.0] * 3 * ("clip_global_norm" in options))
    np.testing.assert_allclose(found[0][2], -grad / max(1.0, float(whole)), rtol=2e-6)


def test_an_infinite_element_next_to_a_bound_whose_square_overflows() -> None:
    p = np.zeros(2)
    fo.SGD(p, lr=1.0, clip_value=1e200, clip_norm=1.0).step(np.array([math.inf, 0.0]))
    assert p.tolist() == pytest.approx([-1.0, 0.0], rel=1e-6)


def test_norms_of_float32_cannot_overflow() -> None:
    assert fo.global_norm(np.array([3e38, 3e38], np.float32)) == pytest.approx(3e38 * math.sqrt(2))
    assert fo.global_norm(np.array([1e-45], np.float32)) == np.float64(np.float32(1e-45))
