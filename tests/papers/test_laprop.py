"""LaProp (Ziyin, Wang & Ueda, 2020)."""

from __future__ import annotations

from math import sqrt

import numpy as np

import fastoptim as fo
from loops import loop
from models import Backend, each_backend
from oracles import ORDINARY, OTHERS, Pair, Row, State, assert_follows, ema, moves


def laprop(p: float, g: float, s: State, t: int, *, lr: float, betas: Pair = (0.9, 0.999), eps: float = 1e-15) -> float:
    v = ema(s, "v", betas[1], g * g) / (1 - betas[1] ** t)
    return p - lr * ema(s, "m", betas[0], g / (sqrt(v) + eps)) / (1 - betas[0] ** t)


ROWS = [
    Row(laprop, lr=4e-4, decay=(0.0, False)),
    Row(laprop, {**OTHERS, "betas": (0.8, 0.95), "eps": 1e-3}),
]


@each_backend
@loop("row", ROWS)
def test_follows_the_formula(row: Row, backend: Backend) -> None:
    assert_follows("laprop", row, backend)


def test_laprop_s_steps_are_bounded() -> None:
    opt = fo.LaProp(np.zeros(5), lr=1.0, betas=(0.5, 0.9))
    grads = ORDINARY * 10.0 ** np.random.default_rng(2).integers(-9, 9, len(ORDINARY))[:, None]
    largest = max(abs(move).max() for move in moves(opt, grads))
    assert 1 < largest <= 1 / sqrt(1 - 0.9)
