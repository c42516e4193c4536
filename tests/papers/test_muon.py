"""Muon follows its formula, polar factors by a singular value decomposition, and the live frameworks; NorMuon too."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest

import fastoptim as fo
from cases import Array
from fastoptim.matrix.newton_schulz import COEFFICIENTS
from frameworks import assert_follows, import_torch, keras_warning
from loops import loop
from models import Backend, each_backend

pytestmark = keras_warning

SHAPES = ((4, 7), (7, 4), (5, 5), (1, 6), (6, 1))
LIVE_SHAPES = SHAPES[:3]
STEPS, SHORT = 50, 8
# In float64.  A step rounds some 100 times in another order, an iteration multiplies errors by up to 3.5^5, and fifty
# steps add them up.  The options that a convention changes matter from the second digit on.
RTOL, ATOL = 1e-9, 1e-11
# jax takes the square root of Keras's largest side in float32, and no parameter goes a way of more than 1.
LOOSE = {"keras": 2**-24}


def values(seed: int, shapes: Any = SHAPES) -> list[Array]:
    rng = np.random.default_rng(seed)
    return [rng.standard_normal(shape) for shape in shapes]


GRADS = [values(100 + t) for t in range(STEPS)]
RATES = [0.02 / (1 + 0.05 * t) for t in range(STEPS)]


def follow(opt: Any) -> None:
    for lr, grads in zip(RATES[:SHORT], GRADS[:SHORT], strict=True):
        opt.lr = lr
        opt.step(grads)


def orthogonal(u: Array, polynomials: Any, norm: float) -> Array:
    """The polynomials of the singular values: no matrix product, unlike the iteration."""
    left, s, right = np.linalg.svd(u, full_matrices=False)
    s = s / norm
    for a, b, c in polynomials:
        s = a * s + b * s**3 + c * s**5
    return np.asarray((left * s) @ right)


def muon(
    p: Array,
    grads: list[Array],
    *,
    momentum: float = 0.95,
    nesterov: bool = True,
    heavy_ball: bool = False,
    debias: bool = False,
    eps: float = 1e-7,
    floor: bool = True,
    polynomials: Any = COEFFICIENTS["classic"] * 5,
    scale: Any = lambda rows, columns: math.sqrt(max(1, rows / columns)),
    weight_decay: float = 0.1,
    factor: float = 1.0,
) -> Array:
    m, weight = np.zeros_like(p), 1.0 if heavy_ball else 1 - momentum
    for t, (lr, g) in enumerate(zip(RATES, grads, strict=False), 1):
        m = momentum * m + weight * g
        of_m, of_g = (1 - momentum ** (t + nesterov), 1 - momentum**t) if debias else (1.0, 1.0)
        u = momentum * m / of_m + weight * g / of_g if nesterov else m / of_m
        norm = np.sqrt((u * u).sum()) * factor
        x = orthogonal(u, polynomials, max(norm, eps) if floor else norm + eps)
        p = p - lr * weight_decay * p - lr * scale(*p.shape) * x
    return p


def of_adamw(rows: int, columns: int) -> float:
    return 0.2 * math.sqrt(max(rows, columns))


def by_outputs_last(rows: int, columns: int) -> float:
    return math.sqrt(max(1, columns / rows))


def one(rows: int, columns: int) -> float:
    return 1.0


DECAY = {"weight_decay": 0.1}
NONE = {"weight_decay": 0.0, "floor": False}
KERAS = {"heavy_ball": True, "floor": False, "weight_decay": 0.004, "scale": of_adamw}
OPTAX = {**NONE, "eps": 1e-8, "debias": True, "scale": by_outputs_last}
ROWS: list[tuple[dict[str, Any], dict[str, Any]]] = [
    ({}, {}),
    (
        {"nesterov": False, "momentum": 0.6, "weight_decay": 0.0},
        {"nesterov": False, "momentum": 0.6, "weight_decay": 0.0},
    ),
    ({"convention": "keras"}, KERAS),
    ({"convention": "optax"}, OPTAX),
    ({"convention": "optax", "nesterov": False}, {**OPTAX, "nesterov": False}),
    ({"convention": "paper"}, NONE),
    ({"eps": 20.0, "adjust_lr_fn": "spectral"}, {"eps": 20.0, "scale": lambda m, n: math.sqrt(m / n)}),
    (
        {"eps": 20.0, "eps_floor": False, "adjust_lr_fn": "unscaled"},
        {"eps": 20.0, "floor": False, "scale": one},
    ),
    ({"ns_coefficients": "quintic", "ns_steps": 4}, {"polynomials": COEFFICIENTS["quintic"][:4]}),
    (
        {"ns_coefficients": "polar_express", "ns_steps": 7},
        {"polynomials": COEFFICIENTS["polar_express"] + COEFFICIENTS["polar_express"][-1:] * 2, "factor": 1.02},
    ),
    ({"ns_coefficients": (1.5, -0.5, 0), "ns_steps": 3}, {"polynomials": [(1.5, -0.5, 0)] * 3}),
    ({"adjust_lr_fn": "match_rms_adamw", "rms": 0.3}, {"scale": lambda m, n: 0.3 * math.sqrt(max(m, n))}),
]


@each_backend
@loop("row", ROWS)
def test_follows_the_formula(row: tuple[dict[str, Any], dict[str, Any]], backend: Backend) -> None:
    options, theirs = row
    params = values(0)
    expected = [muon(p, [grads[i] for grads in GRADS[:SHORT]], **theirs) for i, p in enumerate(params)]
    follow(fo.Muon(params, **options, backend=backend))
    for p, q in zip(params, expected, strict=True):
        np.testing.assert_allclose(p, q, rtol=RTOL, atol=ATOL)


@loop(("dtype", "tolerance"), [(np.float64, 1e-12), (np.float32, 1e-5)])
@loop("shape", [(8, 30), (30, 8), (16, 16), (1, 9), (9, 1), (3, 5, 8), (2, 2, 7, 4)])
def test_enough_iterations_give_the_polar_factor(shape: tuple[int, ...], dtype: Any, tolerance: float) -> None:
    """Newton's coefficients converge for every full rank, and for each matrix of a batch."""
    rng = np.random.default_rng(0)
    g = rng.standard_normal(shape).astype(dtype)
    p = np.zeros(shape, dtype)
    opt = fo.Muon(p, lr=1, ns_coefficients=(1.875, -1.25, 0.375), ns_steps=60, adjust_lr_fn="unscaled", weight_decay=0)
    opt.step(g)
    left, _, right = np.linalg.svd(g.astype(np.float64), full_matrices=False)
    np.testing.assert_allclose(p, -(left @ right), rtol=0, atol=tolerance)


@each_backend
@loop("magnitude", [1e-44, 1e-38, 1e-30, 1e-7, 1.0, 1e30, 1e36])
def test_the_direction_does_not_depend_on_the_magnitude(magnitude: float, backend: Backend) -> None:
    """Neither norms nor quotients overflow in float32; subnormal gradients have fewer digits."""
    g = np.random.default_rng(1).integers(-9, 10, (6, 9)) * np.float32(magnitude)
    p = np.zeros(g.shape, np.float32)
    fo.Muon(p, lr=1, eps=0, weight_decay=0, nesterov=False, momentum=0, backend=backend).step(g.astype(np.float32))
    expected = -orthogonal(g / np.float64(magnitude), COEFFICIENTS["classic"] * 5, float(np.linalg.norm(g / magnitude)))
    np.testing.assert_allclose(p, expected, rtol=0, atol=1e-4 if magnitude > 1e-40 else 0.05)


@each_backend
@loop("magnitude", [5e-324 * 2**40, 1e-309, 1e-300, 1e300])
def test_float64_norms_without_a_finite_reciprocal(magnitude: float, backend: Backend) -> None:
    p = np.zeros((2, 2))
    fo.Muon(p, lr=1, eps=0, weight_decay=0, momentum=0, backend=backend).step(np.eye(2) * magnitude)
    expected = orthogonal(np.eye(2), COEFFICIENTS["classic"] * 5, 2**0.5)
    np.testing.assert_allclose(p, -expected, rtol=0, atol=1e-10)


@each_backend
@loop("eps", [0, 1e-7])
def test_a_gradient_of_zeros_moves_nothing(eps: float, backend: Backend) -> None:
    p = np.ones((3, 2), np.float32)
    fo.Muon(p, lr=1, eps=eps, weight_decay=0, backend=backend).step(np.zeros_like(p))
    assert (p == 1).all()


@each_backend
def test_a_kernel_of_a_convolution_is_flattened(backend: Backend) -> None:
    kernels = (5, 3, 2, 2)
    options: dict[str, Any] = {"lr": 0.1, "weight_decay": 0, "backend": backend}
    g = np.random.default_rng(2).standard_normal(kernels)
    for first, axes, shape in ((False, (0, 1, 2, 3), (5, 12)), (True, (2, 3, 1, 0), (12, 5))):
        p, q = np.zeros(np.transpose(g, axes).shape), np.zeros(shape)
        fo.Muon(p, flatten=True, input_first=first, **options).step(np.transpose(g, axes))
        fo.Muon(q, input_first=first, **options).step(np.transpose(g, axes).reshape(shape))
        np.testing.assert_array_equal(p.reshape(shape), q)


@each_backend
def test_each_head_is_a_matrix_of_its_own(backend: Backend) -> None:
    g = np.random.default_rng(3).standard_normal((6, 4))
    options: dict[str, Any] = {"lr": 0.1, "weight_decay": 0, "backend": backend}
    p, q, heads = np.zeros((6, 4)), np.zeros((4, 6)), np.zeros((3, 2, 4))
    fo.Muon(p, heads=3, **options).step(g)
    fo.Muon(q, heads=3, input_first=True, **options).step(g.T)
    fo.Muon(heads, **options).step(g.reshape(3, 2, 4))
    np.testing.assert_array_equal(p, heads.reshape(6, 4))
    np.testing.assert_allclose(q, p.T, rtol=1e-12, atol=1e-14)


@each_backend
def test_normuon_follows_the_formula(backend: Backend) -> None:
    """dion's normuon.py, written down for one matrix."""
    params = values(0)
    expected = [p.copy() for p in params]
    for p, gs in zip(expected, zip(*GRADS[:SHORT], strict=True), strict=True):
        m, v = np.zeros_like(p), np.zeros((len(p), 1))
        for lr, g in zip(RATES, gs, strict=False):
            m = 0.95 * m + g
            x = orthogonal(m, COEFFICIENTS["polar_express"], 1.02 * np.linalg.norm(m) + 1e-8)
            v = 0.95 * v + 0.05 * (x * x).mean(axis=1, keepdims=True)
            y = x / (np.sqrt(v) + 1e-8)
            y *= np.linalg.norm(x) / np.linalg.norm(y)
            p *= 1 - lr * 0.01
            p -= lr * math.sqrt(p.shape[0] / p.shape[1]) * y
    opt = fo.NorMuon(params, backend=backend)
    follow(opt)
    for p, q in zip(params, expected, strict=True):
        np.testing.assert_allclose(p, q, rtol=RTOL, atol=ATOL)
    assert [state["v"].shape for state in opt.state] == [(rows, 1) for rows, _ in SHAPES]


# ---- live frameworks


def assert_follows_framework(framework: str, name: str, options: dict[str, Any], theirs: dict[str, Any]) -> None:
    opt, grads = fo.Muon(values(0, LIVE_SHAPES), **options), [each[: len(LIVE_SHAPES)] for each in GRADS]
    assert_follows(opt, framework, name, theirs, RATES, grads, rtol=RTOL, atol=LOOSE.get(framework, ATOL))


@loop(
    "options",
    [
        {},
        {"nesterov": False, "momentum": 0.8, "weight_decay": 0.3, "adjust_lr_fn": "match_rms_adamw"},
        {"ns_steps": 3, "ns_coefficients": (2.0, -1.5, 0.5), "eps": 1e-3},
    ],
)
def test_torch(options: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    """PyTorch iterates in bfloat16; here its cast is replaced by a copy, which leaves the rest of its code as it is."""
    torch = import_torch()
    monkeypatch.setattr(torch.Tensor, "bfloat16", torch.Tensor.clone)
    assert_follows_framework("torch", "Muon", options, options)


def test_torch_in_bfloat16() -> None:
    """PyTorch in bfloat16 differs in one step by the rounding of five iterations in 8 bits: some percent."""
    torch = import_torch()
    g = np.random.default_rng(4).standard_normal((20, 30)).astype(np.float32)
    p, q = np.zeros_like(g), torch.zeros(20, 30, requires_grad=True)
    q.grad = torch.from_numpy(g)
    fo.Muon(p, lr=1).step(g)
    torch.optim.Muon([q], lr=1).step()
    assert np.linalg.norm(p - q.detach().numpy()) < 0.05 * np.linalg.norm(p)


@loop("options", [{}, {"nesterov": False, "momentum": 0.8, "ns_steps": 4}])
def test_keras(options: dict[str, Any]) -> None:
    assert_follows_framework("keras", "Muon", {"convention": "keras", **options}, options)


@loop(
    ("options", "theirs"),
    [
        ({}, {}),
        (
            {"nesterov": False, "momentum": 0.8, **DECAY},
            {"nesterov": False, "beta": 0.8, **DECAY},
        ),
        (
            {"adjust_lr_fn": "match_rms_adamw", "ns_coefficients": "quintic"},
            {"consistent_rms": 0.2, "ns_coeffs": "dion"},
        ),
    ],
)
def test_optax(options: dict[str, Any], theirs: dict[str, Any]) -> None:
    assert_follows_framework("optax", "muon", {"convention": "optax", **options}, theirs)
