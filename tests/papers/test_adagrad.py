"""Adagrad (Duchi, Hazan & Singer, 2011), as the paper and the frameworks compute it."""

from __future__ import annotations

from math import sqrt

from loops import loop
from models import Backend, each_backend
from oracles import GRADED, OTHERS, Options, Row, State, assert_follows, proximal


def torch_adagrad(
    p: float,
    g: float,
    s: State,
    t: int,
    *,
    lr: float,
    lr_decay: float = 0,
    initial_accumulator_value: float = 0,
    eps: float = 1e-10,
    eps_root: float = 0,
) -> float:
    s["s"] = (initial_accumulator_value if t == 1 else s["s"]) + g * g
    return p - lr / (1 + (t - 1) * lr_decay) * g / (sqrt(s["s"] + eps_root) + eps)


def inside(p: float, g: float, s: State, t: int, *, lr: float, initial_accumulator_value: float = 0.1) -> float:
    """Epsilon under the square root, and no step without a gradient so far: Keras and optax."""
    s["s"] = (initial_accumulator_value if t == 1 else s["s"]) + g * g
    return p - (lr * g / sqrt(s["s"] + 1e-7) if s["s"] > 0 else 0.0)


def proximal_adagrad(
    p: float,
    g: float,
    s: State,
    t: int,
    *,
    lr: float,
    initial_accumulator_value: float,
    l1_regularization: float,
    l2_regularization: float,
) -> float:
    s["s"] = (initial_accumulator_value if t == 1 else s["s"]) + g * g
    rate = lr / sqrt(s["s"])
    return proximal(p - rate * g, rate, l1_regularization, l2_regularization)


START_AT: Options = {"initial_accumulator_value": 0.7}

ROWS = [
    Row(torch_adagrad, lr=0.01, decay=(0.0, False), grads=GRADED),
    Row(torch_adagrad, {**OTHERS, "lr_decay": 0.3, **START_AT}),
    Row(torch_adagrad, {"eps": 0.1, "eps_root": 0.2}),
    Row(torch_adagrad, {"convention": "paper"}, grads=GRADED),
    Row(proximal_adagrad, {"l1_regularization": 0.4, "l2_regularization": 0.2, "lr": 0.3, "eps": 0.0, **START_AT}),
    Row(proximal_adagrad, {"l1_regularization": 0.4, "eps": 0.0, **START_AT}),
    Row(proximal_adagrad, {"l2_regularization": 0.4, "eps": 0.0, **START_AT}),
    Row(inside, {"convention": "keras"}, lr=1e-3, grads=GRADED),
    Row(inside, {"convention": "keras", **START_AT}, lr=1e-3),
    Row(inside, {"convention": "optax"}, grads=GRADED),
    Row(inside, {"convention": "optax", "initial_accumulator_value": 0.0}, grads=GRADED),
]


@each_backend
@loop("row", ROWS)
def test_follows_the_formula(row: Row, backend: Backend) -> None:
    assert_follows("adagrad", row, backend)
