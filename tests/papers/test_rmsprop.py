"""RMSprop (Tieleman & Hinton, lecture 6.5, 2012), as the lecture and the frameworks compute it."""

from __future__ import annotations

from math import sqrt

from loops import loop
from models import Backend, each_backend
from oracles import GRADED, OTHERS, Options, Row, State, assert_follows, ema


def torch_rmsprop(
    p: float,
    g: float,
    s: State,
    t: int,
    *,
    lr: float,
    alpha: float = 0.99,
    eps: float = 1e-8,
    eps_root: float = 0,
    momentum: float = 0,
    centered: bool = False,
    bias_correction: bool = False,
    initial_accumulator_value: float = 0,
) -> float:
    if t == 1:
        s["s"] = initial_accumulator_value
    bias = 1 - alpha**t if bias_correction else 1
    mean = ema(s, "g_avg", alpha, g) / bias if centered else 0.0
    variance = max(ema(s, "s", alpha, g * g) / bias - mean * mean, 0.0)
    s["b"] = momentum * s["b"] + g / (sqrt(variance + eps_root) + eps)
    return p - lr * s["b"]


def inside(
    p: float,
    g: float,
    s: State,
    t: int,
    *,
    lr: float,
    eps: float,
    alpha: float = 0.9,
    momentum: float = 0,
    centered: bool = False,
) -> float:
    """Epsilon under the square root, and the learning rate in the momentum: Keras and optax."""
    mean = ema(s, "g_avg", alpha, g) if centered else 0.0
    s["moved"] = momentum * s["moved"] + lr * g / sqrt(ema(s, "s", alpha, g * g) - mean * mean + eps)
    return p - s["moved"]


def lecture_rmsprop(p: float, g: float, s: State, t: int, *, lr: float) -> float:
    return p - lr * g / (sqrt(ema(s, "s", 0.9, g * g)) + 1e-8)


PUSH: Options = {"momentum": 0.9}
CENTERED: Options = {"centered": True}
BOTH: Options = {"momentum": 0.8, "centered": True}

ROWS = [
    Row(torch_rmsprop, lr=0.01, decay=(0.0, False), grads=GRADED),
    Row(torch_rmsprop, {**OTHERS, **BOTH}),
    Row(torch_rmsprop, {"alpha": 0.8, "eps": 0.1, **PUSH}),
    Row(torch_rmsprop, {"alpha": 0.8, "eps_root": 0.1, **CENTERED}),
    Row(torch_rmsprop, {"bias_correction": True}, grads=GRADED),
    Row(
        torch_rmsprop, {**BOTH, "bias_correction": True, "eps": 0.1, "eps_root": 0.2, "initial_accumulator_value": 5.0}
    ),
    *(Row(inside, {"convention": "keras", **own}, {"eps": 1e-7}, lr=1e-3) for own in ({}, PUSH, CENTERED, BOTH)),
    *(Row(inside, {"convention": "optax", **own}, {"eps": 1e-8}) for own in ({}, PUSH, BOTH)),
    Row(inside, {"convention": "keras"}, {"eps": 1e-7}, lr=1e-3, grads=GRADED),
    Row(inside, {"convention": "optax"}, {"eps": 1e-8}, grads=GRADED),
    Row(lecture_rmsprop, {"convention": "paper"}, grads=GRADED),
]


@each_backend
@loop("row", ROWS)
def test_follows_the_formula(row: Row, backend: Backend) -> None:
    assert_follows("rmsprop", row, backend)
