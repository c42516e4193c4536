"""FTRL-Proximal (McMahan et al., 2013), as the paper and Keras compute it."""

from __future__ import annotations

from math import sqrt

import numpy as np

import fastoptim as fo
from cases import DType, assert_same_bits
from loops import loop
from models import Backend, each_backend, each_dtype
from oracles import OTHERS, Options, Row, State, assert_follows


def ftrl(
    p: float,
    g: float,
    s: State,
    t: int,
    *,
    lr: float,
    beta: float,
    l1_regularization: float,
    l2_regularization: float,
    l2_shrinkage: float,
    half_l2: bool,
    initial_accumulator_value: float,
) -> float:
    slope = 1 if half_l2 else 2
    n = initial_accumulator_value if t == 1 else s["n"]
    s["n"] = n + g**2
    s["z"] += g + slope * l2_shrinkage * p - (sqrt(s["n"]) - sqrt(n)) / lr * p
    if abs(s["z"]) <= l1_regularization:
        return 0.0
    sign = 1 if s["z"] > 0 else -1
    return -(s["z"] - sign * l1_regularization) / ((beta + sqrt(s["n"])) / lr + slope * l2_regularization)


PENALTIES: Options = {"l1_regularization": 2.0, "l2_regularization": 0.2, "l2_shrinkage": 0.05}
ROWS = [
    Row(ftrl, lr=0.1, decay=(0.0, False)),
    Row(ftrl, {**OTHERS, "lr": 0.3, **PENALTIES}),
    Row(ftrl, {"convention": "keras"}, {"half_l2": False, "initial_accumulator_value": 0.1, "beta": 0.0}, lr=1e-3),
    Row(ftrl, {"convention": "keras", "lr": 0.2, **PENALTIES, "l1_regularization": 1.0}),
    Row(ftrl, {"beta": 0.0, "initial_accumulator_value": 0.0, "lr": 0.5}),
]


@each_backend
@loop("row", ROWS)
def test_follows_the_formula(row: Row, backend: Backend) -> None:
    assert_follows("ftrl", row, backend)


@each_backend
@each_dtype
def test_ftrl_makes_exact_zeros(dtype: DType, backend: Backend) -> None:
    rng = np.random.default_rng(0)
    p = np.zeros(1000, dtype)
    opt = fo.FTRL(p, lr=0.1, l1_regularization=3.0, backend=backend)
    for _ in range(10):
        opt.step(rng.standard_normal(1000).astype(dtype))
        z = opt.state["z"]
        assert 100 < (p == 0).sum() < 1000
        assert ((p == 0) == (np.abs(z) <= 3)).all()


@each_backend
def test_ftrl_without_a_start_steps_as_adagrad_first(backend: Backend) -> None:
    rng = np.random.default_rng(0)
    p, g = rng.standard_normal((2, 30))
    g[7:] = 0
    q = p.copy()
    opt = fo.FTRL(p, lr=0.1, beta=0.0, initial_accumulator_value=0.0, backend=backend)
    opt.step(g)
    fo.Adagrad(q, lr=0.1, eps=0.0).step(np.where(g == 0, 1, g))
    np.testing.assert_allclose(p[:7], q[:7], rtol=1e-12)
    before = rng.standard_normal((2, 30))[0]
    before[:] = p
    opt.step(np.zeros(30))
    np.testing.assert_allclose(p, before, rtol=1e-12)
    assert_same_bits(p[7:], before[7:])


@each_backend
def test_ftrl_rests_without_a_learning_rate(backend: Backend) -> None:
    p = np.array([1.0, -2.0])
    opt = fo.FTRL(p, lr=0.0, backend=backend)
    opt.step(np.array([1.0, 3.0]))
    assert p.tolist() == [1, -2]
    assert opt.state["n"].tolist() == [1, 9]
