"""QHAdam (Ma & Yarats, 2019)."""

from __future__ import annotations

from collections.abc import Sequence
from math import sqrt

import fastoptim as fo
from loops import loop
from models import Backend, each_backend
from oracles import OTHERS, Row, State, assert_follows, assert_same_path


def qhadam(
    p: float, g: float, s: State, t: int, *, lr: float, nus: Sequence[float], betas: Sequence[float], eps: float
) -> float:
    s["m"] = betas[0] * s["m"] + (1 - betas[0]) * g
    s["v"] = betas[1] * s["v"] + (1 - betas[1]) * g**2
    m, v = s["m"] / (1 - betas[0] ** t), s["v"] / (1 - betas[1] ** t)
    return p - lr * ((1 - nus[0]) * g + nus[0] * m) / (sqrt((1 - nus[1]) * g**2 + nus[1] * v) + eps)


ROWS = [
    Row(qhadam, lr=1e-3, decay=(0.0, False), arguments={"nus": (0.7, 1.0), "betas": (0.995, 0.999), "eps": 1e-8}),
    Row(qhadam, {**OTHERS, "nus": (0.3, 0.8), "betas": (0.8, 0.95), "eps": 1e-3}),
]


@each_backend
@loop("row", ROWS)
def test_follows_the_formula(row: Row, backend: Backend) -> None:
    assert_follows("qhadam", row, backend)


def test_with_both_nus_of_one_it_is_adam() -> None:
    betas = {"betas": (0.9, 0.99)}
    assert_same_path(fo.QHAdam, {"nus": (1.0, 1.0), **betas}, fo.Adam, betas)
