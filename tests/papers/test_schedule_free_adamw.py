"""Schedule-Free AdamW (Defazio et al., 2024), as the paper, Keras and optax compute it."""

from __future__ import annotations

from collections.abc import Sequence
from math import sqrt

from loops import loop
from models import Backend, each_backend
from oracles import OTHERS, Row, State, assert_follows
from papers.test_schedule_free_sgd import schedule_free


def schedule_free_adamw(
    p: float,
    g: float,
    s: State,
    t: int,
    *,
    lr: float,
    betas: Sequence[float],
    eps: float,
    warmup_steps: int,
    r: int,
    weight_lr_power: int,
    correct_rate: bool,
    weight_decay: float,
    decoupled: bool,
) -> float:
    rate = lr * min(1, t / warmup_steps) if warmup_steps else lr
    if not decoupled:
        g += weight_decay * p
    s["v"] = betas[1] * s["v"] + (1 - betas[1]) * g**2
    bias = 1 - betas[1] ** t
    if correct_rate:
        rate *= sqrt(bias)
        direction = g / (sqrt(s["v"]) + eps)
    else:
        direction = g / (sqrt(s["v"] / bias) + eps)
    if decoupled:
        direction += weight_decay * p
    return schedule_free(p, direction, s, t, rate, betas[0], r, weight_lr_power)


ROWS = [
    Row(schedule_free_adamw, lr=0.0025),
    Row(schedule_free_adamw, {**OTHERS, "betas": (0.6, 0.9), "eps": 1e-2, "warmup_steps": 20}),
    Row(schedule_free_adamw, {"lr": 0.05, "r": 1, "weight_lr_power": 1, "warmup_steps": 50}),
    Row(schedule_free_adamw, {"lr": 0.05, "convention": "keras", "eps": 1e-2}),
    Row(schedule_free_adamw, {"lr": 0.05, "convention": "optax", "eps": 1e-2, "weight_decay": 0.1}),
    Row(schedule_free_adamw, {"lr": 0.05, "decoupled": False, "weight_decay": 0.1}),
]


@each_backend
@loop("row", ROWS)
def test_follows_the_formula(row: Row, backend: Backend) -> None:
    assert_follows("schedule_free_adamw", row, backend)
