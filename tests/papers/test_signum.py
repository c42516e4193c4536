"""Signum (Bernstein et al., 2018): the sign of the momentum."""

from __future__ import annotations

import numpy as np

import fastoptim as fo
from loops import loop
from models import Backend, each_backend
from oracles import ORDINARY, OTHERS, Row, State, assert_follows, ema, moves, sign


def signum(p: float, g: float, s: State, t: int, *, lr: float, beta: float = 0.9) -> float:
    return p - lr * sign(ema(s, "m", beta, g))


ROWS = [
    Row(signum, lr=1e-3, decay=(0.0, False)),
    Row(signum, {**OTHERS, "beta": 0.6}),
]


@each_backend
@loop("row", ROWS)
def test_follows_the_formula(row: Row, backend: Backend) -> None:
    assert_follows("signum", row, backend)


def test_signum_with_momentum_as_a_sum_is_the_same() -> None:
    opt = fo.Signum(np.zeros(5), lr=0.25, beta=0.9)
    total = np.zeros(5)
    for g, move in zip(ORDINARY, moves(opt, ORDINARY), strict=True):
        total = 0.9 * total + g
        assert (move == -0.25 * np.sign(total)).all()
