"""Shampoo follows the formulas of its papers, written down here with singular values in the place of eigenvalues."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

import fastoptim as fo
from cases import Array
from loops import loop
from models import Backend, each_backend

SHAPES = ((5, 5), (3, 6), (2, 3, 4), (4,), ())
STEPS = 20
# In float64.  Roots of a matrix whose eigenvalues are 1e6 apart multiply the rounding of some hundred operations.
RTOL, ATOL = 1e-7, 1e-9
RATES = [0.02 / (1 + 0.05 * t) for t in range(STEPS)]


def gradients(shape: tuple[int, ...]) -> list[Array]:
    rng = np.random.default_rng([7, *shape])
    return [np.asarray(rng.standard_normal(shape)) for _ in range(STEPS)]


def power(matrix: Array, exponent: float) -> Array:
    """Return the power of a symmetric positive definite matrix."""
    left, values, right = np.linalg.svd(matrix)
    return np.asarray((left * values**exponent) @ right)


def norm_of(grafting: str, mean: Array, squares: Array, t: int, beta: float) -> float:
    if beta < 1:
        squares = squares / (1 - beta**t)
    return float(np.linalg.norm(mean if grafting == "sgd" else mean / (np.sqrt(squares) + 1e-8)))


def shampoo(
    p: Array,
    grads: list[Array],
    *,
    betas: tuple[float, float] = (0.9, 1.0),
    eps: float = 1e-3,
    every: int = 1,
    weight_decay: float = 0.0,
    limit: int = 1024,
    of_vectors: bool = True,
    debias: bool = True,
    grafting: str = "",
    graft_beta: float = 0.999,
) -> Array:
    beta1, beta2 = betas
    has = [n <= limit and (p.ndim != 1 or of_vectors) for n in p.shape]
    factors = [np.zeros((n, n)) for n in p.shape]
    roots = factors
    m = v = 0 * p
    for t, (lr, g) in enumerate(zip(RATES, grads, strict=True), 1):
        for axis, factor in enumerate(factors):
            others = [i for i in range(p.ndim) if i != axis]
            product = np.tensordot(g, g, (others, others))
            factor[...] = factor + product if beta2 == 1 else beta2 * factor + (1 - beta2) * product
        if (t - 1) % every == 0:
            scale = 1 - beta2**t if debias and beta2 < 1 else 1.0
            roots = [power(f / scale + eps * np.eye(len(f)), -1 / (2 * p.ndim)) for f in factors]
        m = beta1 * m + (1 - beta1) * g
        v = v + g * g if graft_beta == 1 else graft_beta * v + (1 - graft_beta) * g * g
        mean = step = m / (1 - beta1**t) if debias else m
        for axis, root in enumerate(roots):
            if has[axis]:
                step = np.moveaxis(np.tensordot(root, step, (1, axis)), 0, axis)
        if grafting:
            step = step * norm_of(grafting, mean, v, t, graft_beta) / np.linalg.norm(step)
        p = p - lr * weight_decay * p - lr * step
    return p


EPS = {"eps": 1e-3}
ROWS: list[tuple[dict[str, Any], dict[str, Any]]] = [
    (EPS, {}),
    ({"betas": (0.0, 1.0), "eps": 0.1}, {"betas": (0.0, 1.0), "eps": 0.1}),
    (
        {**EPS, "betas": (0.8, 0.9), "weight_decay": 0.3, "precondition_frequency": 3},
        {"betas": (0.8, 0.9), "weight_decay": 0.3, "every": 3},
    ),
    ({**EPS, "betas": (0.8, 0.9), "bias_correction": False}, {"betas": (0.8, 0.9), "debias": False}),
    ({**EPS, "max_precond_dim": 3, "precondition_1d": False}, {"limit": 3, "of_vectors": False}),
    ({**EPS, "grafting": "sgd"}, {"grafting": "sgd"}),
    (
        {**EPS, "grafting": "adam", "grafting_beta2": 1.0, "precondition_frequency": 4},
        {"grafting": "adam", "graft_beta": 1.0, "every": 4},
    ),
    ({**EPS, "grafting": "adam", "grafting_beta2": 0.9}, {"grafting": "adam", "graft_beta": 0.9}),
]


@each_backend
@loop("row", ROWS)
def test_follows_the_formula(row: tuple[dict[str, Any], dict[str, Any]], backend: Backend) -> None:
    options, theirs = row
    for shape in SHAPES:
        grads, p = gradients(shape), np.asarray(np.random.default_rng(9).standard_normal(shape))
        expected = shampoo(p, grads, **theirs)
        opt = fo.Shampoo(p, **options, backend=backend)
        for lr, g in zip(RATES, grads, strict=True):
            opt.lr = lr
            opt.step(g)
        np.testing.assert_allclose(p, expected, rtol=RTOL, atol=ATOL)


@each_backend
def test_merged_axes_are_one(backend: Backend) -> None:
    p, q = np.ones((2, 3, 4)), np.ones((6, 4))
    for own in (p, q):
        opt = fo.Shampoo(own, merge_dims=own is p, max_precond_dim=6, backend=backend)
        for g in gradients((2, 3, 4))[:4]:
            opt.step(g.reshape(own.shape))
    np.testing.assert_array_equal(p.reshape(6, 4), q)


@loop(("dtype", "tolerance"), [(np.float64, 1e-6), (np.float32, 1e-3)])
@loop("shape", [(5, 5), (6, 3), (1, 4)])
def test_the_first_step_is_the_polar_factor(shape: tuple[int, ...], dtype: Any, tolerance: float) -> None:
    """(G G')^(-1/4) G (G'G)^(-1/4) has the singular vectors of G and the singular values 1."""
    g = np.random.default_rng(3).standard_normal(shape).astype(dtype)
    p = np.zeros_like(g)
    fo.Shampoo(p, lr=1.0, eps=1e-20 if dtype is np.float64 else 1e-12).step(g)
    left, _, right = np.linalg.svd(g.astype(np.float64), full_matrices=False)
    np.testing.assert_allclose(p, -(left @ right), rtol=0, atol=tolerance)


@each_backend
@loop("scale", [1e-3, 1.0, 1e2, 1e4])
@loop("shape", [(64,), (32, 3)])
def test_the_first_step_does_not_depend_on_the_scale(shape: tuple[int, ...], scale: float, backend: Backend) -> None:
    """In float32, where the eigenvalues of a factor without full rank are rounding errors, except for few."""
    g = np.random.default_rng(8).standard_normal(shape).astype(np.float32)
    p = np.zeros_like(g)
    fo.Shampoo(p, lr=1.0, backend=backend).step(np.float32(scale) * g)
    expected = -g / np.linalg.norm(g) if g.ndim == 1 else -np.linalg.svd(g)[0][:, :3] @ np.linalg.svd(g)[2]
    np.testing.assert_allclose(p, expected, atol=2e-3)


@each_backend
def test_a_gradient_of_zeros_moves_nothing(backend: Backend) -> None:
    for grafting in (None, "sgd", "adam"):
        p = np.ones((3, 2), np.float32)
        opt = fo.Shampoo(p, lr=1.0, grafting=grafting, backend=backend)
        for _ in range(2):
            opt.step(np.zeros_like(p))
        assert (p == 1).all()


@each_backend
def test_state_of_squares_belongs_to_grafting_by_squares(backend: Backend) -> None:
    p = {"w": np.ones((3, 5))}
    for grafting, names in ((None, {"m"}), ("sgd", {"m"}), ("adam", {"m", "v"})):
        opt = fo.Shampoo(p, grafting=grafting, backend=backend)  # type: ignore[arg-type]
        assert set(opt.state["w"]) == names | {"factors", "roots"}
        assert opt.state["w"]["factors"].shape == (9 + 25,)
        assert math.isfinite(opt.state["w"]["roots"].sum())
