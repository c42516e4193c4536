"""AdaBound and AMSBound (Luo et al., 2019)."""

from __future__ import annotations

from math import sqrt

import numpy as np

import fastoptim as fo
from loops import loop
from models import Backend, each_backend
from oracles import ORDINARY, OTHERS, START, Pair, Row, State, assert_follows, clip, ema, moves


def adabound(
    p: float,
    g: float,
    s: State,
    t: int,
    *,
    lr: float,
    betas: Pair = (0.9, 0.999),
    final_lr: float = 0.1,
    gamma: float = 1e-3,
    eps: float = 1e-8,
    base_lr: float | None = None,
    amsbound: bool = False,
) -> float:
    m, v = ema(s, "m", betas[0], g), ema(s, "v", betas[1], g * g)
    s["v_max"] = max(s["v_max"], v)
    size = lr * sqrt(1 - betas[1] ** t) / (1 - betas[0] ** t) / (sqrt(s["v_max"] if amsbound else v) + eps)
    goal = final_lr * lr / base_lr if base_lr else final_lr
    return p - clip(size, goal * (1 - 1 / (gamma * t + 1)), goal * (1 + 1 / (gamma * t))) * m


ROWS = [
    Row(adabound, lr=1e-3, decay=(0.0, False)),
    Row(adabound, {**OTHERS, "betas": (0.8, 0.95), "final_lr": 0.2, "gamma": 0.01, "eps": 1e-4}),
    Row(adabound, {**OTHERS, "gamma": 0.05, "base_lr": 0.05}),
    Row(adabound, {**OTHERS, "amsbound": True, "gamma": 0.01}),
]


@each_backend
@loop("row", ROWS)
def test_follows_the_formula(row: Row, backend: Backend) -> None:
    assert_follows("adabound", row, backend)


@loop("amsbound", [False, True])
def test_adabound_keeps_to_its_bounds(amsbound: bool) -> None:
    """Each is reached; at 1/gamma steps they are within a factor of two of the final rate."""
    opt = fo.AdaBound(np.zeros(7), lr=1e-3, final_lr=0.01, gamma=0.05, amsbound=amsbound)
    grads = np.tile(ORDINARY, 2)[:, :7] * 10.0 ** np.arange(-3, 4)
    low, high = set(), set()
    for t, move in enumerate(moves(opt, grads), 1):
        lower, upper = 0.01 * (1 - 1 / (0.05 * t + 1)), 0.01 * (1 + 1 / (0.05 * t))
        size = -move / opt.state["m"]
        low.update(np.flatnonzero(np.isclose(size, lower, rtol=1e-9, atol=0)).tolist())
        high.update(np.flatnonzero(np.isclose(size, upper, rtol=1e-9, atol=0)).tolist())
        assert (size >= lower * (1 - 1e-9)).all()
        assert (size <= upper * (1 + 1e-9)).all()
        assert t < 20 or 0.005 <= lower < upper <= 0.02
    assert low
    assert high


@loop("more", [False, True])
def test_adabound_that_never_closes_in_is_adam(more: bool) -> None:
    p, q = START[:5].copy(), START[:5].copy()
    bound, adam = fo.AdaBound(p, gamma=0.0, eps=0.0, amsbound=more), fo.Adam(q, eps=0.0, amsgrad=more)
    for g in ORDINARY:
        bound.step(g)
        adam.step(g)
    np.testing.assert_allclose(p, q, rtol=1e-12)


def test_adabound_s_bounds_follow_the_rate_from_its_base() -> None:
    for base_lr, factor in ((None, 1.0), (0.2, 0.5)):
        p = np.zeros(1)
        fo.AdaBound(p, lr=0.1, final_lr=1e-6, gamma=1e9, base_lr=base_lr).step(np.ones(1))
        np.testing.assert_allclose(p, -1e-6 * factor * 0.1, rtol=1e-6)
