"""CAME follows its paper and the authors' code."""

from __future__ import annotations

from typing import Any

import numpy as np

import fastoptim as fo
from cases import Array
from loops import loop
from models import Backend, each_backend

SHAPES = ((4, 7), (7, 4), (3, 2, 5), (6,), (1, 6), ())
STEPS = 30
# In float64 some 30 roundings a step, 2^-53 each; steps are below 100 here, as 1 / the root of R starts at 100.
ATOL = STEPS * 30 * 100 * 2**-53


def values(seed: int) -> list[Array]:
    rng = np.random.default_rng(seed)
    return [np.asarray(rng.standard_normal(shape) * 10.0 ** (seed % 5 - 2)) for shape in SHAPES]


GRADS = [values(100 + t) for t in range(STEPS)]


def estimate(rows: Array, columns: Array) -> Array:
    """The matrix of rank one with these means."""
    return np.asarray(rows[..., :, None] * columns[..., None, :] / rows.mean(-1)[..., None, None])


def came(
    p: Array,
    grads: list[Array],
    *,
    lr: float = 2e-4,
    betas: tuple[float, float, float] = (0.9, 0.999, 0.9999),
    eps: tuple[float, float] = (1e-30, 1e-16),
    d: float = 1.0,
    weight_decay: float = 0.0,
) -> Array:
    """Algorithm 2, with all arrays of fewer than two axes as in Adafactor and without an instability."""
    beta1, beta2, beta3 = betas
    is_matrix = p.ndim > 1
    r, c = (np.zeros(p.shape[:-1]), np.zeros((*p.shape[:-2], p.shape[-1]))) if is_matrix else (0.0, 0.0)
    res_r, res_c, v, m = r, c, np.zeros_like(p), np.zeros_like(p)
    for g in grads:
        square = g * g + eps[0]
        if is_matrix:
            r = beta2 * r + (1 - beta2) * square.mean(-1)
            c = beta2 * c + (1 - beta2) * square.mean(-2)
            v = estimate(np.asarray(r), np.asarray(c))
        else:
            v = beta2 * v + (1 - beta2) * square
        u = g / np.sqrt(v)
        u = u / max(1.0, np.sqrt((u * u).mean()) / d)
        m = beta1 * m + (1 - beta1) * u
        step = m
        if is_matrix:
            instability = (u - m) ** 2 + eps[1]
            res_r = beta3 * res_r + (1 - beta3) * instability.mean(-1)
            res_c = beta3 * res_c + (1 - beta3) * instability.mean(-2)
            step = m / np.sqrt(estimate(np.asarray(res_r), np.asarray(res_c)))
        p = p - lr * weight_decay * p - lr * step
    return p


@each_backend
@loop(
    ("options", "theirs"),
    [
        ({}, {}),
        ({"lr": 1e-2, "weight_decay": 0.5, "clip_threshold": 0.3}, {"lr": 1e-2, "weight_decay": 0.5, "d": 0.3}),
        ({"betas": (0.5, 0.7, 0.6), "eps": (0.1, 0.2)}, {"betas": (0.5, 0.7, 0.6), "eps": (0.1, 0.2)}),
        ({"betas": (0.0, 0.0, 0.0), "eps": (1e-8, 1e-8)}, {"betas": (0.0, 0.0, 0.0), "eps": (1e-8, 1e-8)}),
    ],
)
def test_follows_the_paper(backend: Backend, options: dict[str, Any], theirs: dict[str, Any]) -> None:
    params = values(0)
    opt = fo.CAME(params, backend=backend, **options)
    for grads in GRADS:
        opt.step(grads)
    for i, p in enumerate(params):
        wanted = came(values(0)[i], [grads[i] for grads in GRADS], **theirs)
        np.testing.assert_allclose(p, wanted, rtol=1e-11, atol=ATOL, err_msg=f"{SHAPES[i]}")


def test_steps_are_smaller_where_gradients_disagree() -> None:
    """The first row's gradients change their signs, the others' do not; all have the same squares."""
    p = np.zeros((3, 4))
    opt = fo.CAME(p, lr=1e-3, betas=(0.5, 0.9, 0.9))
    for t in range(40):
        g = np.ones((3, 4))
        g[0] *= (-1) ** t
        before = p.copy()
        opt.step(g)
    moved = np.abs(p - before)
    assert (moved[0] < 0.5 * moved[1]).all()
