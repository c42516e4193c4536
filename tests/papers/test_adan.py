"""Adan (Xie et al., 2022), with the decay of its authors' code."""

from __future__ import annotations

from math import inf, sqrt

import numpy as np

import fastoptim as fo
from loops import loop
from models import Backend, each_backend
from oracles import OTHERS, Options, Row, State, Triple, assert_follows, ema


def adan(
    p: float,
    g: float,
    s: State,
    t: int,
    *,
    lr: float,
    betas: Triple = (0.98, 0.92, 0.99),
    eps: float = 1e-8,
    weight_decay: float = 0.0,
    decoupled: bool = True,
) -> float:
    b1, b2, b3 = betas
    g += 0 if decoupled else weight_decay * p
    change = g - (g if t == 1 else s["g_prev"])
    s["g_prev"] = g
    m = ema(s, "m", b1, g) / (1 - b1**t)
    v = ema(s, "v", b2, change) / (1 - b2**t)
    n = ema(s, "n", b3, (g + b2 * change) ** 2) / (1 - b3**t)
    return (p - lr * (m + b2 * v) / (sqrt(n) + eps)) / (1 + lr * weight_decay if decoupled else 1)


BETAS: Options = {"betas": (0.8, 0.95, 0.97)}
ROWS = [
    Row(adan, lr=1e-3),
    Row(adan, {"lr": 0.05, "maximize": True, **BETAS, "eps": 1e-3}),
    Row(adan, {**OTHERS, "decoupled": False}),
    Row(adan, OTHERS),
]


@each_backend
@loop("row", ROWS)
def test_follows_the_formula(row: Row, backend: Backend) -> None:
    assert_follows("adan", row, backend)


def test_adan_s_decay_is_a_quotient() -> None:
    p = np.array([3.0])
    opt = fo.Adan(p, lr=0.5, weight_decay=0.5)
    for _ in range(4):
        opt.step(np.zeros(1))
    np.testing.assert_allclose(p, 3.0 / 1.25**4, rtol=1e-14)


def test_adan_s_first_change_is_none() -> None:
    opt = fo.Adan(np.zeros(3))
    opt.step(np.array([1.0, inf, -2.0]))
    assert (opt.state["v"] == 0).all()
    assert opt.state["g_prev"].tolist() == [1.0, inf, -2.0]
