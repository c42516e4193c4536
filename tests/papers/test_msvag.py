"""M-SVAG (Balles & Hennig, 2018)."""

from __future__ import annotations

import numpy as np

import fastoptim as fo
from cases import FLOAT32, FLOAT64, DType
from loops import loop
from models import Backend, each_backend
from oracles import OTHERS, Row, State, assert_follows


def msvag(p: float, g: float, s: State, t: int, *, lr: float, beta: float) -> float:
    s["m"] = beta * s["m"] + (1 - beta) * g
    s["v"] = beta * s["v"] + (1 - beta) * g**2
    m, v = s["m"] / (1 - beta**t), s["v"] / (1 - beta**t)
    if t == 1 or beta == 0:
        return p - lr * m
    rho = (1 - beta) * (1 + beta**t) / ((1 + beta) * (1 - beta**t))
    variance = (v - m**2) / (1 - rho)
    return p - lr * m**2 / (m**2 + rho * variance) * m


ROWS = [
    Row(msvag, lr=0.1, decay=(0.0, False), arguments={"beta": 0.9}),
    Row(msvag, {**OTHERS, "beta": 0.7}),
    Row(msvag, {"lr": 0.03, "beta": 0.0}),
]


@each_backend
@loop("row", ROWS)
def test_follows_the_formula(row: Row, backend: Backend) -> None:
    assert_follows("msvag", row, backend)


@each_backend
@loop("dtype", [FLOAT64, FLOAT32])
def test_msvags_factor_is_from_0_to_1(dtype: DType, backend: Backend) -> None:
    rng = np.random.default_rng(0)
    p = np.zeros(200, dtype)
    opt = fo.MSVAG(p, lr=1.0, beta=0.9, backend=backend)
    for t in range(1, 40):
        before = p.copy()
        g = (rng.standard_normal(200) * np.where(np.arange(200) % 2, 1, 1e-3) + 1).astype(dtype)
        opt.step(g)
        mean = opt.state["m"].astype(FLOAT64) / (1 - float(dtype.type(0.9)) ** t)
        factor = (before.astype(FLOAT64) - p) / mean
        assert (factor > -1e-4).all()
        assert (factor < 1 + 1e-4).all()
        if t == 1:
            np.testing.assert_allclose(p, -g, rtol=1e-6)
