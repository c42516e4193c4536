"""SGDW (Loshchilov & Hutter, 2019): SGD whose weight decay is decoupled."""

from __future__ import annotations

from loops import loop
from models import Backend, each_backend
from oracles import OTHERS, Row, State, assert_follows
from papers.test_sgd import keras_sgd, optax_sgd, sutskever_sgd


def sgdw(p: float, g: float, s: State, t: int, *, lr: float, momentum: float = 0.0, nesterov: bool = False) -> float:
    s["b"] = g if t == 1 else momentum * s["b"] + g
    return p - lr * (g + momentum * s["b"] if nesterov else s["b"] if momentum else g)


ROWS = [
    Row(sgdw, lr=1e-3, decay=(0.01, True)),
    Row(sgdw, {**OTHERS, "momentum": 0.9}),
    Row(sgdw, {**OTHERS, "momentum": 0.9, "nesterov": True}),
    Row(keras_sgd, {"convention": "keras", "momentum": 0.9}, lr=0.01),
    Row(optax_sgd, {"convention": "optax", "momentum": 0.9}),
    Row(sutskever_sgd, {"convention": "paper", "momentum": 0.9, "dampening": 0.3}),
]


@each_backend
@loop("row", ROWS)
def test_follows_the_formula(row: Row, backend: Backend) -> None:
    assert_follows("sgdw", row, backend)
