"""Adafactor follows its paper, and the live frameworks."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest

import fastoptim as fo
from cases import Array
from frameworks import assert_follows, import_torch, keras_warning
from loops import loop
from models import Backend, each_backend

pytestmark = keras_warning

SHAPES = ((4, 7), (7, 4), (3, 2, 5), (6,), (1, 6), ())
LIVE_SHAPES = SHAPES[:4]
STEPS = 50
# In float64 a step rounds some ten times in another order, relative to p, and 50 steps add up: 500 * 2^-53 = 6e-14.
RTOL, ATOL = 1e-12, 1e-13
# Keras computes some numbers of a step in float32, and parameters and steps are below 0.1 here.
LOOSE = {"keras": 2**-24}


def values(seed: int, shapes: Any = SHAPES) -> list[Array]:
    rng = np.random.default_rng(seed)
    return [np.asarray(rng.standard_normal(shape) * 10.0 ** (seed % 5 - 2)) for shape in shapes]


GRADS = [values(100 + t) for t in range(STEPS)]
RATES = [0.3 / (1 + 0.05 * t) for t in range(STEPS)]


def rms(x: Array) -> float:
    return math.sqrt((x * x).mean())


def adafactor(
    p: Array,
    grads: list[Array],
    *,
    eps1: float = 2**-52,
    eps2: float = 1e-3,
    added: bool = False,
    d: float = 1.0,
    decay: float = -0.8,
    weight_decay: float = 0.0,
    beta1: float | None = None,
    relative: bool = True,
    scaled: bool = True,
) -> Array:
    """Algorithms 4 and 5 with the estimate as an outer product, one matrix after another."""
    second = [np.zeros_like(p[i]) for i in np.ndindex(p.shape[:-2])]
    rows = [each.mean(-1) if p.ndim > 1 else each for each in second]
    columns = [each.mean(-2) if p.ndim > 1 else each for each in second]
    m = np.zeros_like(p)
    for t, (lr, g) in enumerate(zip(RATES, grads, strict=False), 1):
        beta2 = 1 - t**decay
        u = np.empty_like(p)
        for k, i in enumerate(np.ndindex(p.shape[:-2])):
            square = g[i] ** 2 + (eps1 if added else 0)
            if p.ndim < 2:
                second[k] = beta2 * second[k] + (1 - beta2) * square
            else:
                rows[k] = beta2 * rows[k] + (1 - beta2) * square.mean(axis=1)
                columns[k] = beta2 * columns[k] + (1 - beta2) * square.mean(axis=0)
                least = 0.0 if added else eps1
                second[k] = np.outer(rows[k], columns[k]) / max(rows[k].mean(), least)
            u[i] = g[i] / (np.sqrt(second[k]) if added else np.maximum(np.sqrt(second[k]), eps1))
        rate = min(lr, 1 / math.sqrt(t)) if relative else lr
        alpha = max(eps2, rms(p)) * rate if scaled else rate
        step = alpha * u / max(1.0, rms(u) / d)
        if beta1 is not None:
            step = m = beta1 * m + (1 - beta1) * step
        p = p - lr * weight_decay * p - step
    return p


@each_backend
@loop(
    ("options", "theirs"),
    [
        ({}, {}),
        ({"weight_decay": 0.1, "d": 0.5, "beta2_decay": -0.5}, {"weight_decay": 0.1, "d": 0.5, "decay": -0.5}),
        ({"eps": (0.5, 2.0)}, {"eps1": 0.5, "eps2": 2.0}),
        ({"eps": (0.0, 0.0)}, {"eps1": 0.0, "eps2": 0.0}),
        ({"beta1": 0.9}, {"beta1": 0.9}),
        ({"relative_step": False, "scale_parameter": False}, {"relative": False, "scaled": False}),
        ({"convention": "keras"}, {"added": True, "eps1": 1e-30}),
        ({"convention": "keras", "eps": (0.1, 1e-3)}, {"added": True, "eps1": 0.1}),
    ],
)
def test_follows_the_paper(backend: Backend, options: dict[str, Any], theirs: dict[str, Any]) -> None:
    params = values(0)
    opt = fo.Adafactor(params, backend=backend, **options)
    for lr, grads in zip(RATES, GRADS, strict=True):
        opt.lr = lr
        opt.step(grads)
    for i, p in enumerate(params):
        wanted = adafactor(values(0)[i], [grads[i] for grads in GRADS], **theirs)
        np.testing.assert_allclose(p, wanted, rtol=RTOL, atol=ATOL, err_msg=f"{SHAPES[i]}")


def test_the_first_moment_of_an_outer_product_is_exact() -> None:
    """Where g^2 has rank one the estimate is g^2 itself, so that the first step is that of a sign, scaled by RMS(p)."""
    g = np.outer([1.0, -2.0, 3.0], [0.5, 4.0])
    p = np.full(g.shape, 2.0)
    fo.Adafactor(p, lr=0.25).step(g)
    np.testing.assert_allclose(p, 2.0 - 0.25 * 2.0 * np.sign(g), rtol=1e-15)


@each_backend
def test_zero_gradients_take_no_step(backend: Backend) -> None:
    every: tuple[dict[str, Any], ...] = ({}, {"convention": "keras"})
    for options in every:
        p = np.ones((3, 4), np.float32)
        opt = fo.Adafactor(p, backend=backend, **options)
        for _ in range(3):
            opt.step(np.zeros_like(p))
        assert (p == 1).all()
        g = np.zeros_like(p)
        g[1, 2] = 1e-3
        opt.step(g)
        assert np.isfinite(p).all()
        assert (p != 1).sum() == 1


# ---- live frameworks


def assert_follows_framework(framework: str, options: dict[str, Any], theirs: dict[str, Any]) -> None:
    opt, grads = fo.Adafactor(values(0, LIVE_SHAPES), **options), [each[: len(LIVE_SHAPES)] for each in GRADS]
    assert_follows(opt, framework, "Adafactor", theirs, RATES, grads, rtol=RTOL, atol=LOOSE.get(framework, ATOL))


@loop(
    "options",
    [{}, {"weight_decay": 0.1, "d": 2.0, "beta2_decay": -0.5}, {"eps": (0.1, 0.5), "weight_decay": 0.3}],
)
def test_torch(options: dict[str, Any]) -> None:
    assert_follows_framework("torch", options, options)


def test_torch_in_float32() -> None:
    """Sums of 12 float32 numbers and ten roundings, 2^-24 each, in 50 steps of at most a third of p."""
    torch = import_torch()
    shapes = ((12, 5), (9,))
    params = [p.astype(np.float32) for p in values(0, shapes)]
    tensors = [torch.tensor(p, requires_grad=True) for p in params]
    opt, peer = fo.Adafactor(params, lr=0.05), torch.optim.Adafactor(tensors, lr=0.05)
    for t in range(STEPS):
        grads = [g.astype(np.float32) for g in values(t, shapes)]
        for tensor, g in zip(tensors, grads, strict=True):
            tensor.grad = torch.from_numpy(g)
        opt.step(grads)
        peer.step()
    for p, tensor in zip(params, tensors, strict=True):
        np.testing.assert_allclose(p, tensor.detach().numpy(), rtol=0, atol=50 * 20 * 2**-24 * np.abs(p).max())


@loop(
    ("options", "theirs"),
    [({}, {}), ({"d": 2.0, "beta2_decay": -0.5}, {"clip_threshold": 2.0, "beta_2_decay": -0.5})],
)
def test_keras(options: dict[str, Any], theirs: dict[str, Any]) -> None:
    assert_follows_framework("keras", {"convention": "keras", **options}, theirs)


def test_torch_state_dicts() -> None:
    torch = import_torch()
    fastoptim_torch = pytest.importorskip("fastoptim.torch")
    tensors = [torch.tensor(p, requires_grad=True) for p in values(0, LIVE_SHAPES)]
    theirs = torch.optim.Adafactor(tensors, lr=0.1)

    def step(opt: Any, t: int) -> None:
        for tensor, g in zip(tensors, GRADS[t], strict=False):
            tensor.grad = torch.from_numpy(g)
        opt.step()

    step(theirs, 0)
    ours = fastoptim_torch.Adafactor(tensors, lr=0.3)
    ours.load_state_dict(theirs.state_dict())
    assert ours.param_groups[0]["lr"] == 0.1
    before = [tensor.detach().clone() for tensor in tensors]
    step(theirs, 1)
    wanted = [tensor.detach().clone() for tensor in tensors]
    with torch.no_grad():
        for tensor, p in zip(tensors, before, strict=True):
            tensor.copy_(p)
    step(ours, 1)
    for tensor, p in zip(tensors, wanted, strict=True):
        torch.testing.assert_close(tensor.detach(), p, rtol=RTOL, atol=ATOL)
