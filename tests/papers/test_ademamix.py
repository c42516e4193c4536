"""AdEMAMix (Pagliardini, Ablin & Grangier, 2024)."""

from __future__ import annotations

from math import exp, log, sqrt

import numpy as np

import fastoptim as fo
from loops import loop
from models import Backend, each_backend
from oracles import ORDINARY, OTHERS, START, Row, State, Triple, assert_follows, ema


def ademamix(
    p: float,
    g: float,
    s: State,
    t: int,
    *,
    lr: float,
    betas: Triple = (0.9, 0.999, 0.9999),
    alpha: float = 5.0,
    eps: float = 1e-8,
    t_alpha_beta3: int = 0,
) -> float:
    b1, b2, b3 = betas
    if t < t_alpha_beta3:
        alpha *= t / t_alpha_beta3
        b3 = min(exp(log(b1) * log(b3) / ((1 - t / t_alpha_beta3) * log(b3) + t / t_alpha_beta3 * log(b1))), b3)
    fast, slow = ema(s, "m1", b1, g) / (1 - b1**t), ema(s, "m2", b3, g)
    v = ema(s, "v", b2, g * g) / (1 - b2**t)
    return p - lr * (fast + alpha * slow) / (sqrt(v) + eps)


ROWS = [
    Row(ademamix, lr=1e-3, decay=(0.0, True)),
    Row(ademamix, {**OTHERS, "betas": (0.8, 0.95, 0.97), "alpha": 2.0, "eps": 1e-3}),
    Row(ademamix, {"t_alpha_beta3": 80}),
]


@each_backend
@loop("row", ROWS)
def test_follows_the_formula(row: Row, backend: Backend) -> None:
    assert_follows("ademamix", row, backend)


def test_ademamix_without_its_slow_mean_is_adam() -> None:
    p, q = START[:5].copy(), START[:5].copy()
    mix, adam = fo.AdEMAMix(p, alpha=0.0), fo.Adam(q)
    for g in ORDINARY:
        mix.step(g)
        adam.step(g)
    np.testing.assert_allclose(p, q, rtol=1e-12)


@loop("betas", [(0.9, 0.999, 0.9999), (0.0, 0.5, 0.99), (0.9, 0.5, 0.0), (0.0, 0.5, 0.0)])
def test_ademamix_warms_up(betas: tuple[float, float, float]) -> None:
    """From alpha 0 and near beta1 to their full values, which stay; the memory grows linearly."""
    steps = [
        fo.AdEMAMix.compute_host_constants(t=t, betas=betas, alpha=5.0, t_alpha_beta3=1000) for t in range(1, 1002)
    ]
    np.testing.assert_allclose([step["alpha"] for step in steps[:1000]], np.linspace(0.005, 5, 1000), rtol=1e-12)
    assert steps[999] == steps[1000] == {"alpha": 5.0, "beta3": betas[2]}
    if betas[2] > betas[0] > 0:
        memory = [-1 / log(step["beta3"]) for step in steps[:1000]]
        np.testing.assert_allclose(np.diff(memory), (1 / log(betas[0]) - 1 / log(betas[2])) / 1000, rtol=1e-6)
    assert all(0 <= step["beta3"] <= betas[2] for step in steps)
