"""Lion (Chen et al., 2023)."""

from __future__ import annotations

from loops import loop
from models import Backend, each_backend
from oracles import OTHERS, Options, Pair, Row, State, assert_follows, ema, sign


def lion(p: float, g: float, s: State, t: int, *, lr: float, betas: Pair = (0.9, 0.99)) -> float:
    direction = betas[0] * s["m"] + (1 - betas[0]) * g
    ema(s, "m", betas[1], g)
    return p - lr * sign(direction)


BETAS: Options = {"betas": (0.8, 0.95)}
ROWS = [
    Row(lion, lr=1e-4, decay=(0.0, True)),
    Row(lion, {**OTHERS, **BETAS}),
    Row(lion, {"weight_decay": 0.1, "decoupled": False}),
    Row(lion, {"convention": "keras"}, lr=1e-3, decay=(0.0, True)),
    Row(lion, {"convention": "optax"}, lr=1e-4, decay=(1e-3, True)),
]


@each_backend
@loop("row", ROWS)
def test_follows_the_formula(row: Row, backend: Backend) -> None:
    assert_follows("lion", row, backend)
