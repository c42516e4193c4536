"""Row-wise Adagrad, as FBGEMM and TorchRec compute it (Mudigere et al., 2022)."""

from __future__ import annotations

from math import sqrt

import fastoptim as fo
from loops import loop
from models import Backend, each_backend
from oracles import GRADED, OTHERS, Options, Row, State, assert_follows
from row_oracles import Matrix, Vector, assert_rows_follow, mean_square


def of_one_element(
    p: float, g: float, s: State, t: int, *, lr: float, initial_accumulator_value: float = 0, eps: float = 1e-8
) -> float:
    s["s"] = (initial_accumulator_value if t == 1 else s["s"]) + g * g
    return p - lr * g / (sqrt(s["s"]) + eps)


START_AT: Options = {"initial_accumulator_value": 0.7}

ROWS = [
    Row(of_one_element, lr=0.01, decay=(0.0, False), grads=GRADED),
    Row(of_one_element, {**OTHERS, **START_AT}),
    Row(of_one_element, {"eps": 0.1}),
]


@each_backend
@loop("row", ROWS)
def test_a_row_of_one_element_follows_the_formula(row: Row, backend: Backend) -> None:
    assert_follows("rowwise_adagrad", row, backend)


def step(
    p: Matrix, g: Matrix, s: Matrix, t: Vector, *, lr: float, eps: float, initial_accumulator_value: float
) -> None:
    """Update each row: `s` is a list with one list of numbers for each row."""
    for row in range(len(p)):
        s[row] = s[row] or [initial_accumulator_value]
        s[row][0] += mean_square(g[row])
        for j in range(len(p[row])):
            p[row][j] -= lr / (sqrt(s[row][0]) + eps) * g[row][j]


@each_backend
@loop(
    "options", [{}, {"lr": 0.3, "eps": 0.1}, START_AT, {"weight_decay": 0.1}, {"weight_decay": 0.1, "decoupled": True}]
)
def test_rows_follow_the_formula(options: Options, backend: Backend) -> None:
    assert_rows_follow(fo.RowwiseAdagrad, step, options, backend)
