"""Row-wise Adam, as FBGEMM's PARTIAL_ROWWISE_ADAM computes it."""

from __future__ import annotations

from math import sqrt

import fastoptim as fo
from loops import loop
from models import Backend, each_backend
from oracles import GRADED, OTHERS, Options, Row, State, assert_follows, ema
from row_oracles import Matrix, Vector, assert_rows_follow, mean_square


def of_one_element(
    p: float, g: float, s: State, t: int, *, lr: float, betas: tuple[float, float] = (0.9, 0.999), eps: float = 1e-8
) -> float:
    m = ema(s, "m", betas[0], g) / (1 - betas[0] ** t)
    v = ema(s, "v", betas[1], g * g) / (1 - betas[1] ** t)
    return p - lr * m / (sqrt(v) + eps)


ROWS = [
    Row(of_one_element, lr=1e-3, decay=(0.0, False), grads=GRADED),
    Row(of_one_element, OTHERS),
    Row(of_one_element, {"betas": (0.5, 0.7), "eps": 0.1}),
]


@each_backend
@loop("row", ROWS)
def test_a_row_of_one_element_follows_the_formula(row: Row, backend: Backend) -> None:
    assert_follows("rowwise_adam", row, backend)


def step(p: Matrix, g: Matrix, s: Matrix, t: Vector, *, lr: float, betas: tuple[float, float], eps: float) -> None:
    """Update each row: `s` has v and then m of each row."""
    beta1, beta2 = betas
    for row in range(len(p)):
        s[row] = s[row] or [0.0] * (1 + len(p[row]))
        s[row][0] = beta2 * s[row][0] + (1 - beta2) * mean_square(g[row])
        rate = lr / (1 - beta1 ** t[row]) / (sqrt(s[row][0] / (1 - beta2 ** t[row])) + eps)
        for j in range(len(p[row])):
            s[row][1 + j] = beta1 * s[row][1 + j] + (1 - beta1) * g[row][j]
            p[row][j] -= rate * s[row][1 + j]


@each_backend
@loop("options", [{}, {"lr": 0.3, "betas": (0.5, 0.7)}, {"eps": 0.1}, {"weight_decay": 0.1, "decoupled": True}])
def test_rows_follow_the_formula(options: Options, backend: Backend) -> None:
    assert_rows_follow(fo.RowwiseAdam, step, options, backend)
