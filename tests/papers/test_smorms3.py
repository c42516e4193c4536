"""SMORMS3 (Funk, 2015)."""

from __future__ import annotations

from math import sqrt

import numpy as np

import fastoptim as fo
from loops import loop
from models import Backend, each_backend
from oracles import OTHERS, Row, State, assert_follows


def smorms3(p: float, g: float, s: State, t: int, *, lr: float, eps: float) -> float:
    mem = 1 if t == 1 else s["mem"]
    r = 1 / (mem + 1)
    s["m"] = (1 - r) * s["m"] + r * g
    s["v"] = (1 - r) * s["v"] + r * g**2
    x = s["m"] ** 2 / (s["v"] + eps)
    s["mem"] = 1 + mem * (1 - x)
    return p - g * min(lr, x) / (sqrt(s["v"]) + eps)


ROWS = [
    Row(smorms3, lr=1e-3, decay=(0.0, False), arguments={"eps": 1e-16}),
    Row(smorms3, {**OTHERS, "eps": 1e-3}),
]


@each_backend
@loop("row", ROWS)
def test_follows_the_formula(row: Row, backend: Backend) -> None:
    assert_follows("smorms3", row, backend)


@each_backend
def test_smorms3_never_steps_further_than_the_learning_rate_allows(backend: Backend) -> None:
    """One sided gradients: r*g^2 <= v, so that a step is at most lr / sqrt(r), and r at least 1/(t + 1)."""
    rng = np.random.default_rng(0)
    p = np.zeros(100)
    opt = fo.SMORMS3(p, lr=0.01, backend=backend)
    for t in range(1, 60):
        before = p.copy()
        opt.step(rng.standard_normal(100))
        assert (np.abs(p - before) <= 0.01 * sqrt(t + 1) * (1 + 1e-9)).all()
        assert (opt.state["mem"] >= 1 - 1e-9).all()
        assert (opt.state["mem"] <= t + 1 + 1e-9).all()
