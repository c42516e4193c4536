"""RAdam (Liu et al., 2020), as the paper, PyTorch and optax compute it."""

from __future__ import annotations

from math import sqrt

import numpy as np
import pytest

import fastoptim as fo
from loops import loop
from models import Backend, each_backend
from oracles import GRADED, OTHERS, Options, Pair, Row, State, assert_follows, ema


def rectification(t: int, beta2: float) -> tuple[float, float]:
    """The length of the moving average, and the factor that goes with it."""
    longest = 2 / (1 - beta2) - 1
    length = longest - 2 * t * beta2**t / (1 - beta2**t)
    square = (length - 4) * (length - 2) * longest / ((longest - 4) * (longest - 2) * length)
    return length, sqrt(max(square, 0.0))


def torch_radam(
    p: float,
    g: float,
    s: State,
    t: int,
    *,
    lr: float,
    betas: Pair = (0.9, 0.999),
    eps: float = 1e-8,
    threshold: float = 5.0,
    amsgrad: bool = False,
) -> float:
    m, v = ema(s, "m", betas[0], g), ema(s, "v", betas[1], g * g)
    if amsgrad:  # as TensorFlow Addons' RectifiedAdam
        v = s["v_max"] = max(s["v_max"], v)
    length, r = rectification(t, betas[1])
    step = r * sqrt(1 - betas[1] ** t) / (sqrt(v) + eps) if length > threshold else 1.0
    return p - lr * m / (1 - betas[0] ** t) * step


def optax_radam(
    p: float, g: float, s: State, t: int, *, lr: float, betas: Pair = (0.9, 0.999), eps: float = 1e-8
) -> float:
    m, v = ema(s, "m", betas[0], g) / (1 - betas[0] ** t), ema(s, "v", betas[1], g * g) / (1 - betas[1] ** t)
    length, r = rectification(t, betas[1])
    return p - lr * (r * m / (sqrt(v) + eps) if length >= 5.0 else m)


OTHER: Options = {"betas": (0.8, 0.95), "eps": 1e-3}

ROWS = [
    Row(torch_radam, lr=1e-3, decay=(0.0, False), grads=GRADED),
    Row(torch_radam, {**OTHERS, **OTHER, "threshold": 12.0}),
    Row(torch_radam, {**OTHER, "amsgrad": True}),
    Row(optax_radam, {"convention": "optax"}, grads=GRADED),
    Row(optax_radam, {"convention": "optax", **OTHER}),
    # Algorithm 2, with PyTorch's epsilon: the paper has none, and 0/0 for a gradient of zero.
    Row(torch_radam, {"convention": "paper"}, {"threshold": 4.0}, grads=GRADED),
    Row(torch_radam, {"convention": "paper", **OTHER}, {"threshold": 4.0}),
]


@each_backend
@loop("row", ROWS)
def test_follows_the_formula(row: Row, backend: Backend) -> None:
    assert_follows("radam", row, backend)


@loop(("threshold", "steps"), [(5.0, 5), (4.0, 4), (7.5, 7)])
def test_radam_s_first_steps_are_momentum_s(threshold: float, steps: int) -> None:
    """The length of the average is 4.99 after 5 steps and 3.996 after 4."""
    grads = np.random.default_rng(0).standard_normal((steps + 1, 50))
    p, m = np.zeros(50), np.zeros(50)
    opt = fo.RAdam(p, lr=0.1, threshold=threshold)
    for t, g in enumerate(grads, 1):
        before = p.copy()
        opt.step(g)
        m = 0.9 * m + 0.1 * g
        as_momentum = np.isclose(p - before, -0.1 * m / (1 - 0.9**t), rtol=1e-9)
        assert as_momentum.all() if t <= steps else not as_momentum.any()


def test_radam_s_threshold_is_where_the_factor_begins() -> None:
    with pytest.raises(ValueError, match=r"threshold: expected a number >= 4"):
        fo.RAdam(np.ones(1), threshold=3.9)
