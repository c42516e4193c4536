"""Rprop (Riedmiller & Braun, 1993), in the variant iRprop- of Igel & Hüsken (2003)."""

from __future__ import annotations

import numpy as np
import pytest

import fastoptim as fo
from cases import FLOAT32, FLOAT64, DType, assert_same_bits
from loops import loop
from models import Backend, each_backend
from oracles import OTHERS, Pair, Row, State, assert_follows, clip, sign


def rprop(
    p: float,
    g: float,
    s: State,
    t: int,
    *,
    lr: float,
    etas: Pair = (0.5, 1.2),
    step_sizes: Pair = (1e-6, 50.0),
    start: float = 0.01,
) -> float:
    """The learning rate is only where the step sizes start."""
    size, turn = start if t == 1 else s["step_size"], g * s["prev"]
    s["step_size"] = clip(size * (etas[1] if turn > 0 else etas[0] if turn < 0 else 1), *step_sizes)
    s["prev"] = 0.0 if turn < 0 else g
    return p - s["step_size"] * sign(s["prev"])


ROWS = [
    Row(rprop, decay=(0.0, False)),
    Row(rprop, {**OTHERS, "etas": (0.3, 1.7), "step_sizes": (0.02, 0.4)}, {"start": 0.05}),
]


@each_backend
@loop("row", ROWS)
def test_follows_the_formula(row: Row, backend: Backend) -> None:
    assert_follows("rprop", row, backend)


@each_backend
@loop("dtype", [FLOAT32, FLOAT64])
def test_rprop_step_by_step(dtype: DType, backend: Backend) -> None:
    """0.5 as it is; kept twice: times 2, at most 1.5; turned: a quarter, and no move; then, from a gradient of 0, as it
    is; kept: times 2.  All with gradients whose products underflow."""
    tiny = 1e-30 if dtype == FLOAT32 else 1e-200
    p = np.zeros(1, dtype)
    opt = fo.Rprop(p, lr=0.5, etas=(0.25, 2), step_sizes=(0.1, 1.5), backend=backend)
    found = []
    for g in (1, 2, 1, -1, -1, -3, 1, 0, 1, -1, 1, -1):
        opt.step(np.array([g * tiny], dtype))
        found.append((float(p[0]), float(opt.state["step_size"][0])))
    sizes = [0.5, 1, 1.5, 0.375, 0.375, 0.75, 0.1875, 0.1875, 0.1875, 0.1, 0.1, 0.1]
    moves = [-0.5, -1, -1.5, 0, 0.375, 0.75, 0, 0, -0.1875, 0, -0.1, 0]
    np.testing.assert_allclose(found, np.transpose([np.cumsum(moves), sizes]), rtol=1e-6)


def test_rprop_s_rate_is_where_the_step_sizes_start() -> None:
    """The first step's rate counts if it changes."""
    p, q = np.zeros(3), np.zeros(3)
    first, second = fo.Rprop(p, lr=0.1), fo.Rprop(q, lr=lambda step: 0.1 * 2.0**step)
    assert (first.state["step_size"] == 0.1).all()
    assert (second.state["step_size"] == 0.1).all()
    for i in range(5):
        first.step(np.array([1.0, -1.0, (-1.0) ** i]))
        second.step(np.array([1.0, -1.0, (-1.0) ** i]))
        first.lr = 7.0
    assert_same_bits(p, q)


def test_rprop_s_bounds_have_an_order() -> None:
    with pytest.raises(ValueError, match=r"step_sizes: expected the smaller bound first, got \(1.0, 0.5\)"):
        fo.Rprop(np.ones(1), step_sizes=(1, 0.5))
