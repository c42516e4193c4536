"""ASGD (Polyak & Juditsky, 1992), with the rate of Xu (2011)."""

from __future__ import annotations

import numpy as np

import fastoptim as fo
from loops import loop
from models import Backend, each_backend
from oracles import OTHERS, Row, State, assert_follows


def asgd(
    p: float, g: float, s: State, t: int, *, lr: float, lambd: float = 1e-4, alpha: float = 0.75, t0: float = 1e6
) -> float:
    eta = lr / (1 + lambd * lr * (t - 1)) ** alpha
    p -= lambd * eta * p + eta * g
    s["ax"] += (p - s["ax"]) / max(1, t - 1 - t0)
    return p


ROWS = [
    Row(asgd, lr=0.01, decay=(0.0, False)),
    Row(asgd, {**OTHERS, "lambd": 0.05, "alpha": 0.6, "t0": 20}),
    Row(asgd, {"lr": 0.1, "lambd": 0.01, "t0": 0}),
]


@each_backend
@loop("row", ROWS)
def test_follows_the_formula(row: Row, backend: Backend) -> None:
    assert_follows("asgd", row, backend)


def test_asgd_s_average_is_that_of_the_steps_after_t0() -> None:
    rng = np.random.default_rng(0)
    p = np.zeros(4)
    opt = fo.ASGD(p, lr=0.1, t0=10)
    seen = []
    for t in range(1, 61):
        opt.step(rng.standard_normal(4))
        if t > 11:
            seen.append(p.copy())
    np.testing.assert_allclose(opt.state["ax"], np.mean(seen, axis=0), rtol=1e-12)
