"""RMSprop as Graves (2013) uses it, with a centered mean and momentum."""

from __future__ import annotations

from math import sqrt

import numpy as np

import fastoptim as fo
from cases import FLOAT32
from loops import loop
from models import Backend, each_backend
from oracles import OTHERS, Row, State, assert_follows


def rmsprop_graves(
    p: float, g: float, s: State, t: int, *, lr: float, alpha: float, momentum: float, eps: float
) -> float:
    s["s"] = alpha * s["s"] + (1 - alpha) * g**2
    s["g_avg"] = alpha * s["g_avg"] + (1 - alpha) * g
    s["delta"] = momentum * s["delta"] - lr * g / sqrt(s["s"] - s["g_avg"] ** 2 + eps)
    return p + s["delta"]


ROWS = [
    Row(rmsprop_graves, lr=1e-4, decay=(0.0, False), arguments={"alpha": 0.95, "momentum": 0.9, "eps": 1e-4}),
    Row(rmsprop_graves, {**OTHERS, "alpha": 0.8, "momentum": 0.5, "eps": 1e-2}),
]


@each_backend
@loop("row", ROWS)
def test_follows_the_formula(row: Row, backend: Backend) -> None:
    assert_follows("rmsprop_graves", row, backend)


@each_backend
def test_graves_deviation_of_equal_gradients_is_a_number(backend: Backend) -> None:
    p = np.zeros(50, FLOAT32)
    opt = fo.RMSpropGraves(p, eps=0.0, alpha=0.5, backend=backend)
    g = np.random.default_rng(0).standard_normal(50).astype(FLOAT32)
    for _ in range(100):
        opt.step(g)
    assert not np.isnan(opt.state["s"]).any()
    assert not np.isnan(p).any()
