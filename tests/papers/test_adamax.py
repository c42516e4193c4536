"""Adamax (Kingma & Ba, 2015), as the frameworks compute it."""

from __future__ import annotations

import numpy as np

import fastoptim as fo
from loops import loop
from models import Backend, each_backend
from oracles import GRADED, OTHERS, Options, Pair, Row, State, assert_follows, ema


def torch_adamax(
    p: float, g: float, s: State, t: int, *, lr: float, betas: Pair = (0.9, 0.999), eps: float = 1e-8
) -> float:
    s["u"] = max(betas[1] * s["u"], abs(g) + eps)
    return p - lr / (1 - betas[0] ** t) * ema(s, "m", betas[0], g) / s["u"]


def keras_adamax(
    p: float, g: float, s: State, t: int, *, lr: float, betas: Pair = (0.9, 0.999), eps: float = 1e-7
) -> float:
    s["u"] = max(betas[1] * s["u"], abs(g))
    return p - lr * ema(s, "m", betas[0], g) / ((1 - betas[0] ** t) * (s["u"] + eps))


OTHER: Options = {"betas": (0.8, 0.95), "eps": 1e-3}

ROWS = [
    Row(torch_adamax, lr=2e-3, decay=(0.0, False), grads=GRADED),
    Row(torch_adamax, {**OTHERS, **OTHER}),
    Row(keras_adamax, {"convention": "keras"}, lr=1e-3, grads=GRADED),
    Row(keras_adamax, {"convention": "keras", **OTHER}),
    Row(torch_adamax, {"convention": "optax"}, grads=GRADED),
]


@each_backend
@loop("row", ROWS)
def test_follows_the_formula(row: Row, backend: Backend) -> None:
    assert_follows("adamax", row, backend)


def test_adamax_moves_by_about_the_rate_at_most() -> None:
    """However heavy the gradients' tails are: by 1.01 times it at these betas."""
    rng = np.random.default_rng(0)
    p = np.zeros(1000)
    opt = fo.Adamax(p, lr=0.1)
    moved = []
    for _ in range(300):
        before = p.copy()
        opt.step(rng.standard_cauchy(1000) ** 3)
        moved.append(np.abs(p - before).max())
    assert 0.0999 < max(moved) < 0.101
