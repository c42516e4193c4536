"""Tiger (Su, 2023): Lion with one decay rate."""

from __future__ import annotations

import fastoptim as fo
from cases import assert_same_bits
from loops import loop
from models import Backend, each_backend
from oracles import ORDINARY, OTHERS, START, Row, State, assert_follows, ema, sign


def tiger(p: float, g: float, s: State, t: int, *, lr: float, beta: float = 0.965) -> float:
    return p - lr * sign(ema(s, "m", beta, g))


ROWS = [
    Row(tiger, lr=1e-3, decay=(0.01, True)),
    Row(tiger, {**OTHERS, "beta": 0.6}),
]


@each_backend
@loop("row", ROWS)
def test_follows_the_formula(row: Row, backend: Backend) -> None:
    assert_follows("tiger", row, backend)


def test_tiger_is_lion_with_one_rate() -> None:
    p, q = START[:5].copy(), START[:5].copy()
    tiger, lion = fo.Tiger(p, beta=0.9), fo.Lion(q, lr=1e-3, betas=(0.9, 0.9), weight_decay=0.01)
    for g in ORDINARY:
        tiger.step(g)
        lion.step(g)
    assert_same_bits(p, q)
