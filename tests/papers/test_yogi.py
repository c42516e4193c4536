"""Yogi (Zaheer et al., 2018)."""

from __future__ import annotations

from math import sqrt
from typing import Any

import numpy as np

import fastoptim as fo
from loops import loop
from models import Backend, each_backend
from oracles import ORDINARY, OTHERS, Pair, Row, State, assert_follows, proximal, sign


def yogi(
    p: float,
    g: float,
    s: State,
    t: int,
    *,
    lr: float,
    betas: Pair = (0.9, 0.999),
    eps: float = 1e-3,
    initial_accumulator_value: float = 1e-6,
    corrected: bool = False,
    mean: float = 0.0,
    l1_regularization: float = 0.0,
    l2_regularization: float = 0.0,
) -> float:
    v = initial_accumulator_value if t == 1 else s["v"]
    s["v"] = v - (1 - betas[1]) * sign(v - g * g) * g * g
    s["m"] = betas[0] * (mean if t == 1 else s["m"]) + (1 - betas[0]) * g
    bias1, bias2 = (1 - betas[0] ** t, 1 - betas[1] ** t) if corrected else (1, 1)
    rate = lr / (sqrt(s["v"] / bias2) + eps) / bias1
    return proximal(p - rate * s["m"], rate, l1_regularization, l2_regularization)


ROWS = [
    Row(yogi, lr=1e-2, decay=(0.0, False)),
    Row(yogi, {**OTHERS, "betas": (0.8, 0.95), "eps": 1e-4}),
    Row(yogi, {"initial_accumulator_value": 0.3}),
    Row(yogi, {"l1_regularization": 0.3, "l2_regularization": 0.1}),
    Row(yogi, {"convention": "optax"}, {"corrected": True, "mean": 1e-6}, lr=1e-2),
    Row(yogi, {"bias_correction": True, "initial_mean": 1e-6}, {"corrected": True, "mean": 1e-6}),
]


@each_backend
@loop("row", ROWS)
def test_follows_the_formula(row: Row, backend: Backend) -> None:
    assert_follows("yogi", row, backend)


def test_yogi_s_squares_move_by_a_share_of_the_present_one() -> None:
    opt = fo.Yogi(np.zeros(5), betas=(0.9, 0.99))
    v = opt.state["v"].copy()
    for g in [np.full(5, 100.0), *ORDINARY]:
        opt.step(g)
        np.testing.assert_allclose(abs(opt.state["v"] - v), 0.01 * g * g, rtol=1e-6, atol=1e-12)
        v = opt.state["v"].copy()
    assert (v > 95).all()


@loop(("convention", "mean"), [("paper", 0.0), ("optax", 1e-6)])
def test_yogi_starts_as_its_convention_does(convention: Any, mean: float) -> None:
    opt = fo.Yogi(np.zeros(3), convention=convention)
    assert {name: set(array.tolist()) for name, array in opt.state.items()} == {"m": {mean}, "v": {1e-6}}
