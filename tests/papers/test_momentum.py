"""Momentum in the three notations of the textbooks."""

from __future__ import annotations

from loops import loop
from models import Backend, each_backend
from oracles import OTHERS, Row, State, assert_follows, ema


def momentum(
    p: float, g: float, s: State, t: int, *, lr: float, momentum: float = 0.9, nesterov: bool = False, form: str = ""
) -> float:
    if form == "heavy_ball":
        s["v"] = momentum * s["v"] + g
        return p - lr * (g + momentum * s["v"] if nesterov else s["v"])
    if form == "ema":
        ema(s, "v", momentum, g)
        return p - lr * ((1 - momentum) * g + momentum * s["v"] if nesterov else s["v"])
    s["v"] = momentum * s["v"] - lr * g
    return p + (momentum * s["v"] - lr * g if nesterov else s["v"])


FORMS = ["velocity", "heavy_ball", "ema"]
ROWS = [
    Row(momentum, lr=0.01, decay=(0.0, False)),
    *(Row(momentum, {**OTHERS, "momentum": 0.7, "form": form}) for form in FORMS),
    *(Row(momentum, {"form": form, "nesterov": True}) for form in FORMS),
]


@each_backend
@loop("row", ROWS)
def test_follows_the_formula(row: Row, backend: Backend) -> None:
    assert_follows("momentum", row, backend)
