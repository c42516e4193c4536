"""Adadelta (Zeiler, 2012), with the defaults of the paper and of the frameworks."""

from __future__ import annotations

from math import sqrt

from loops import loop
from models import Backend, each_backend
from oracles import GRADED, OTHERS, Row, State, assert_follows, ema


def adadelta(p: float, g: float, s: State, t: int, *, lr: float, rho: float = 0.9, eps: float = 1e-6) -> float:
    delta = sqrt(s["x"] + eps) / sqrt(ema(s, "s", rho, g * g) + eps) * g
    ema(s, "x", rho, delta * delta)
    return p - lr * delta


ROWS = [
    Row(adadelta, lr=1.0, decay=(0.0, False), grads=GRADED),
    Row(adadelta, {**OTHERS, "rho": 0.7, "eps": 1e-3}),
    Row(adadelta, {"convention": "keras"}, {"rho": 0.95, "eps": 1e-7}, lr=1e-3, grads=GRADED),
    Row(adadelta, {"convention": "optax"}, grads=GRADED),
    Row(adadelta, {"convention": "paper"}, {"rho": 0.95}, lr=1.0, grads=GRADED),
]


@each_backend
@loop("row", ROWS)
def test_follows_the_formula(row: Row, backend: Backend) -> None:
    assert_follows("adadelta", row, backend)
