"""AdamW (Loshchilov & Hutter, 2019): Adam whose weight decay is decoupled."""

from __future__ import annotations

from loops import loop
from models import Backend, each_backend
from oracles import GRADED, OTHERS, Options, Row, assert_follows
from papers.test_adam import keras_adam, optax_adam, torch_adam

MAX: Options = {"amsgrad": True}
OTHER: Options = {"betas": (0.8, 0.95), "eps": 1e-3}

ROWS = [
    Row(torch_adam, lr=1e-3, decay=(0.01, True), grads=GRADED),
    Row(torch_adam, {**OTHERS, **MAX}),
    Row(keras_adam, {"convention": "keras"}, lr=1e-3, decay=(0.004, True), grads=GRADED),
    Row(keras_adam, {"convention": "keras", "weight_decay": 0.3, **MAX}),
    Row(optax_adam, {"convention": "optax"}, decay=(1e-4, True), grads=GRADED),
    Row(optax_adam, {"convention": "optax", "weight_decay": 0.3, **MAX, **OTHER}),
]


@each_backend
@loop("row", ROWS)
def test_follows_the_formula(row: Row, backend: Backend) -> None:
    assert_follows("adamw", row, backend)
