"""Adam (Kingma & Ba, 2015) and AMSGrad (Reddi et al., 2018), as the frameworks compute them."""

from __future__ import annotations

from math import sqrt

import numpy as np

import fastoptim as fo
from loops import loop
from models import Backend, each_backend
from oracles import GRADED, OTHERS, Options, Pair, Row, State, assert_follows, ema


def torch_adam(
    p: float,
    g: float,
    s: State,
    t: int,
    *,
    lr: float,
    betas: Pair = (0.9, 0.999),
    eps: float = 1e-8,
    eps_root: float = 0,
    amsgrad: bool = False,
) -> float:
    m, v = ema(s, "m", betas[0], g), ema(s, "v", betas[1], g * g)
    if amsgrad:
        s["v_max"] = v = max(s["v_max"], v)
    return p - lr / (1 - betas[0] ** t) * m / (sqrt(v / (1 - betas[1] ** t) + eps_root) + eps)


def keras_adam(
    p: float,
    g: float,
    s: State,
    t: int,
    *,
    lr: float,
    betas: Pair = (0.9, 0.999),
    eps: float = 1e-7,
    amsgrad: bool = False,
) -> float:
    alpha = lr * sqrt(1 - betas[1] ** t) / (1 - betas[0] ** t)
    m, v = ema(s, "m", betas[0], g), ema(s, "v", betas[1], g * g)
    if amsgrad:
        s["v_max"] = v = max(s["v_max"], v)
    return p - m * alpha / (sqrt(v) + eps)


def optax_adam(
    p: float,
    g: float,
    s: State,
    t: int,
    *,
    lr: float,
    betas: Pair = (0.9, 0.999),
    eps: float = 1e-8,
    eps_root: float = 0,
    amsgrad: bool = False,
) -> float:
    m_hat = ema(s, "m", betas[0], g) / (1 - betas[0] ** t)
    v_hat = ema(s, "v", betas[1], g * g) / (1 - betas[1] ** t)
    if amsgrad:
        s["largest"] = v_hat = max(s["largest"], v_hat)
    return p - lr * m_hat / (sqrt(v_hat + eps_root) + eps)


def mlx_adam(p: float, g: float, s: State, t: int, *, lr: float, eps: float = 1e-8, amsgrad: bool = False) -> float:
    """Leave out the bias correction, MLX's default; with the maximum, algorithm 2 of AMSGrad's paper and an epsilon."""
    m, v = ema(s, "m", 0.9, g), ema(s, "v", 0.999, g * g)
    if amsgrad:
        s["v_max"] = v = max(s["v_max"], v)
    return p - lr * m / (sqrt(v) + eps)


def amsgrad_corrected_eps_hat(p: float, g: float, s: State, t: int, *, lr: float, eps: float) -> float:
    m, bias2 = ema(s, "m", 0.9, g), 1 - 0.999**t
    s["largest"] = max(s["largest"], ema(s, "v", 0.999, g * g) / bias2)
    return p - lr * sqrt(bias2) * m / (1 - 0.9**t) / (sqrt(s["largest"] * bias2) + eps)


KERAS: Options = {"convention": "keras"}
OPTAX: Options = {"convention": "optax"}
MAX: Options = {"amsgrad": True}
PLAIN: Options = {"bias_correction": False}
OTHER: Options = {"betas": (0.8, 0.95), "eps": 1e-3}

ROWS = [
    Row(torch_adam, lr=1e-3, decay=(0.0, False), grads=GRADED),
    Row(torch_adam, {**OTHERS, **OTHER, **MAX}),
    Row(torch_adam, {**OTHER, "eps_root": 0.1}),
    Row(torch_adam, {"convention": "paper", **OTHER}, lr=1e-3),
    Row(mlx_adam, PLAIN, grads=GRADED),
    Row(mlx_adam, {**PLAIN, "eps_hat": True}, grads=GRADED),
    Row(mlx_adam, {**PLAIN, **MAX}, grads=GRADED),
    Row(keras_adam, KERAS, lr=1e-3, decay=(0.0, False), grads=GRADED),
    Row(keras_adam, {**KERAS, **OTHER}),
    Row(keras_adam, {**KERAS, **MAX}, grads=GRADED),
    Row(optax_adam, OPTAX, grads=GRADED),
    Row(optax_adam, {**OPTAX, **OTHER, "eps_root": 1e-4}),
    Row(optax_adam, {**OPTAX, **MAX}, grads=GRADED),
    Row(optax_adam, {**OPTAX, **MAX, "eps_root": 1e-4, "eps": 1e-3}),
    Row(amsgrad_corrected_eps_hat, {**OPTAX, **MAX, "eps_hat": True, "eps": 0.01}),
]


@each_backend
@loop("row", ROWS)
def test_follows_the_formula(row: Row, backend: Backend) -> None:
    assert_follows("adam", row, backend)


@loop(
    ("options", "moved"),
    [
        ({}, 9.09e-4),
        ({"convention": "optax"}, 9.09e-4),
        ({"convention": "paper"}, 9.09e-4),
        ({"bias_correction": False}, 7.60e-4),  # MLX
        ({"eps_hat": True}, 2.40e-4),  # Chainer, thinc
        ({"convention": "keras"}, 3.07e-5),
    ],
)
def test_the_first_step_with_a_small_gradient(options: Options, moved: float) -> None:
    """One number tells the frameworks' versions apart."""
    p = np.zeros(1)
    fo.Adam(p, lr=1e-3, **options).step(np.full(1, 1e-7))
    np.testing.assert_allclose(p, -moved, rtol=2e-3)
