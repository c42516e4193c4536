"""QHM (Ma & Yarats, 2019)."""

from __future__ import annotations

import fastoptim as fo
from loops import loop
from models import Backend, each_backend
from oracles import OTHERS, Options, Row, State, assert_follows, assert_same_path


def qhm(p: float, g: float, s: State, t: int, *, lr: float, beta: float, nu: float) -> float:
    s["b"] = beta * s["b"] + (1 - beta) * g
    return p - lr * ((1 - nu) * g + nu * s["b"])


ROWS = [
    Row(qhm, lr=0.1, decay=(0.0, False), arguments={"beta": 0.999, "nu": 0.7}),
    Row(qhm, {**OTHERS, "beta": 0.9, "nu": 0.4}),
]


@each_backend
@loop("row", ROWS)
def test_follows_the_formula(row: Row, backend: Backend) -> None:
    assert_follows("qhm", row, backend)


@loop(
    ("options", "other"),
    [
        ({"nu": 0.0}, {"momentum": 0.0, "form": "heavy_ball"}),
        ({"beta": 0.9, "nu": 1.0}, {"momentum": 0.9, "form": "ema"}),
        ({"beta": 0.9, "nu": 0.9}, {"momentum": 0.9, "form": "ema", "nesterov": True}),
    ],
)
def test_special_cases_are_other_optimizers(options: Options, other: Options) -> None:
    assert_same_path(fo.QHM, options, fo.Momentum, other)
