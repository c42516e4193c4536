"""NAdam (Dozat, 2016), as the frameworks compute it."""

from __future__ import annotations

from fractions import Fraction
from itertools import accumulate
from math import prod, sqrt
from operator import mul

import numpy as np
import pytest

import fastoptim as fo
from cases import assert_same_bits
from loops import loop
from models import Backend, each_backend
from oracles import GRADED, OTHERS, Pair, Row, State, assert_follows, ema


def torch_nadam(
    p: float,
    g: float,
    s: State,
    t: int,
    *,
    lr: float,
    betas: Pair = (0.9, 0.999),
    eps: float = 1e-8,
    momentum_decay: float = 4e-3,
) -> float:
    mu, mu_next = (betas[0] * (1 - 0.5 * float(0.96 ** (step * momentum_decay))) for step in (t, t + 1))
    s["product"] = (s["product"] if t > 1 else 1.0) * mu
    m, v = ema(s, "m", betas[0], g), ema(s, "v", betas[1], g * g)
    denominator = sqrt(v / (1 - betas[1] ** t)) + eps
    p -= lr * (1 - mu) / (1 - s["product"]) * g / denominator
    return p - lr * mu_next / (1 - s["product"] * mu_next) * m / denominator


def keras_nadam(p: float, g: float, s: State, t: int, *, lr: float, betas: Pair = (0.9, 0.999)) -> float:
    return torch_nadam(p, g, s, t, lr=lr, betas=betas, eps=1e-7, momentum_decay=1.0)


def optax_nadam(p: float, g: float, s: State, t: int, *, lr: float, betas: Pair = (0.9, 0.999)) -> float:
    beta, m, v = betas[0], ema(s, "m", betas[0], g), ema(s, "v", betas[1], g * g)
    m_hat = beta * m / (1 - beta ** (t + 1)) + (1 - beta) * g / (1 - beta**t)
    return p - lr * m_hat / (sqrt(v / (1 - betas[1] ** t)) + 1e-8)


ROWS = [
    Row(torch_nadam, lr=2e-3, decay=(0.0, False), grads=GRADED),
    Row(torch_nadam, {**OTHERS, "betas": (0.8, 0.95), "eps": 1e-3, "momentum_decay": 0.3}),
    Row(torch_nadam, {"betas": (0.9999, 0.999), "momentum_decay": 30.0}),
    Row(torch_nadam, {"momentum_decay": 0.0}),
    Row(keras_nadam, {"convention": "keras"}, lr=1e-3, grads=GRADED),
    Row(optax_nadam, {"convention": "optax"}, grads=GRADED),
]


@each_backend
@loop("row", ROWS)
def test_follows_the_formula(row: Row, backend: Backend) -> None:
    assert_follows("nadam", row, backend)


@loop("psi", [0.0, 1e-6, 4e-3, 0.3, 1.0, 1e3, 1e300])
def test_nadam_s_numbers_of_a_step(psi: float) -> None:
    """They are those of the definition, in any order of the steps."""
    fades = [0.5 * 0.96 ** (t * psi) for t in range(1, 3001)]
    losses = [float(1 - product) for product in accumulate((1 - Fraction(fade) for fade in fades[:700]), mul)]
    for t in (699, 1, 2, 30):
        found = fo.NAdam.compute_host_constants(t=t, momentum_decay=psi)
        assert (found["fade"], found["next_fade"]) == (fades[t - 1], fades[t])
        assert found["ramp_loss"] == pytest.approx(losses[t - 1], rel=2.5e-16, abs=0)
    late = fo.NAdam.compute_host_constants(t=2**62, momentum_decay=psi)
    assert late["ramp_loss"] == pytest.approx(1 - prod(1 - fade for fade in fades), rel=1e-12, abs=1e-16)


def test_nadam_s_momentum_may_be_constant() -> None:
    """None is what a momentum is that has grown at once."""
    grads = np.random.default_rng(0).standard_normal((20, 50))
    p, q = np.zeros(50), np.zeros(50)
    constant, grown = fo.NAdam(p, momentum_decay=None), fo.NAdam(q, momentum_decay=1e6)
    for g in grads:
        constant.step(g)
        grown.step(g)
    assert_same_bits(p, q)
    wider = np.zeros(50)
    opt = fo.NAdam(wider)
    opt.step(grads[0])
    assert (wider != p).all()
