"""Schedule-Free SGD (Defazio et al., 2024)."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

import fastoptim as fo
from loops import loop
from models import Backend, each_backend
from oracles import OTHERS, Row, State, assert_follows


def schedule_free(p: float, direction: float, s: State, t: int, rate: float, beta: float, r: int, power: int) -> float:
    """With all three sequences, x among them, as the paper defines them."""
    if t == 1:
        s["x"] = s["z"] = p
    s["z"] -= rate * direction
    s["lr_max"] = max(s["lr_max"], rate)
    weight = t**r * s["lr_max"] ** power
    s["weight_sum"] += weight
    c = weight / s["weight_sum"]
    s["x"] = (1 - c) * s["x"] + c * s["z"]
    return (1 - beta) * s["z"] + beta * s["x"]


def schedule_free_sgd(
    p: float, g: float, s: State, t: int, *, lr: float, momentum: float, warmup_steps: int, r: int, weight_lr_power: int
) -> float:
    rate = lr * min(1, t / warmup_steps) if warmup_steps else lr
    return schedule_free(p, g, s, t, rate, momentum, r, weight_lr_power)


ROWS = [
    Row(schedule_free_sgd, lr=1.0, decay=(0.0, False)),
    Row(schedule_free_sgd, {**OTHERS, "momentum": 0.6, "warmup_steps": 20}),
    Row(schedule_free_sgd, {"lr": 0.2, "momentum": 1.0, "r": 2, "weight_lr_power": 3, "warmup_steps": 50}),
    Row(schedule_free_sgd, {"lr": 0.2, "weight_lr_power": 0}),
]


@each_backend
@loop("row", ROWS)
def test_follows_the_formula(row: Row, backend: Backend) -> None:
    assert_follows("schedule_free_sgd", row, backend)


def test_its_base_iterate_is_sgd_s_path() -> None:
    rng = np.random.default_rng(0)
    p = rng.standard_normal(20)
    first, second = fo.ScheduleFreeSGD(p, lr=0.1), fo.SGD(p.copy(), lr=0.1)
    for _ in range(50):
        g = rng.standard_normal(20)
        first.step(g)
        second.step(g)
    np.testing.assert_allclose(first.state["z"], second.params, rtol=1e-11)


@each_backend
def test_a_learning_rate_of_0_averages_nothing(backend: Backend) -> None:
    p = np.array([1.0])
    opt = fo.ScheduleFreeSGD(p, lr=0.0, backend=backend)
    opt.step(np.array([1.0]))
    assert p[0] == 1
    opt.lr = 0.1
    opt.step(np.array([1.0]))
    assert opt.state["weight_sum"] == 0.1 * 0.1
    np.testing.assert_allclose(p, 1 - 0.1)


@loop("option", ["warmup_steps", "r", "weight_lr_power"])
def test_counts_are_whole_numbers(option: str) -> None:
    make: Any = fo.ScheduleFreeSGD
    with pytest.raises(TypeError, match=f"{option}: expected an integer"):
        make(np.ones(1), **{option: 0.5})
    with pytest.raises(ValueError, match=f"{option}: expected an integer"):
        make(np.ones(1), **{option: -1})
