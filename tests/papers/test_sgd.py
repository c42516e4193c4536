"""SGD, in the formulas of PyTorch, Keras, optax, MLX and Sutskever et al. (2013)."""

from __future__ import annotations

import copy
from typing import Any

import numpy as np
import pytest

import fastoptim as fo
from cases import assert_same_bits
from loops import loop
from models import Backend, each_backend
from oracles import OTHERS, Options, Row, State, assert_follows


def torch_sgd(
    p: float,
    g: float,
    s: State,
    t: int,
    *,
    lr: float,
    momentum: float = 0,
    dampening: float = 0,
    nesterov: bool = False,
) -> float:
    if momentum == 0:
        return p - lr * g
    s["b"] = g if t == 1 else momentum * s["b"] + (1 - dampening) * g
    return p - lr * (g + momentum * s["b"] if nesterov else s["b"])


def mlx_sgd(p: float, g: float, s: State, t: int, *, lr: float, momentum: float, dampening: float) -> float:
    return p - lr * velocity(s, momentum, (1 - dampening) * g)


def velocity(s: State, momentum: float, g: float) -> float:
    s["v"] = momentum * s["v"] + g
    return s["v"]


def keras_sgd(p: float, g: float, s: State, t: int, *, lr: float, momentum: float = 0, nesterov: bool = False) -> float:
    v = velocity(s, momentum, -lr * g)
    return p + (momentum * v - lr * g if nesterov else v)


def optax_sgd(p: float, g: float, s: State, t: int, *, lr: float, momentum: float = 0, nesterov: bool = False) -> float:
    trace = velocity(s, momentum, g)
    return p - lr * (g + momentum * trace if nesterov else trace)


def sutskever_sgd(
    p: float, g: float, s: State, t: int, *, lr: float, momentum: float = 0, dampening: float = 0
) -> float:
    """Equations 1 and 2, with dampening in every step."""
    return p + velocity(s, momentum, -lr * (1 - dampening) * g)


def sutskever_nesterov(p: float, g: float, s: State, t: int, *, lr: float, momentum: float) -> float:
    """Equations 3 and 4.  Their gradient is that of the point ahead, which is the point that others store."""
    start = p - momentum * s["v"]
    v = velocity(s, momentum, -lr * g)
    return start + v + momentum * v


PUSH: Options = {"momentum": 0.9}
DAMPED: Options = {"momentum": 0.9, "dampening": 0.3}
NESTEROV: Options = {"momentum": 0.9, "nesterov": True}
KERAS: Options = {"convention": "keras"}
OPTAX: Options = {"convention": "optax"}
PAPER: Options = {"convention": "paper"}

ROWS = [
    Row(torch_sgd, lr=1e-3, decay=(0.0, False)),
    Row(torch_sgd, OTHERS),
    Row(torch_sgd, {**OTHERS, **DAMPED}),
    Row(torch_sgd, {**OTHERS, **NESTEROV}),
    Row(mlx_sgd, {**DAMPED, "dampen_first": True}),
    Row(keras_sgd, KERAS, lr=0.01),
    Row(keras_sgd, {**KERAS, **PUSH}),
    Row(keras_sgd, {**KERAS, **NESTEROV}),
    Row(optax_sgd, OPTAX),
    Row(optax_sgd, {**OPTAX, **PUSH}),
    Row(optax_sgd, {**OPTAX, **NESTEROV}),
    Row(sutskever_sgd, {**PAPER, **PUSH}),
    Row(sutskever_sgd, {**PAPER, **DAMPED}),
    Row(sutskever_nesterov, {**PAPER, **NESTEROV}),
]


@each_backend
@loop("row", ROWS)
def test_follows_the_formula(row: Row, backend: Backend) -> None:
    assert_follows("sgd", row, backend)


@each_backend
@loop("nesterov", [False, True])
@loop("resumes", [False, True])
def test_momentum_that_is_switched_on_starts_as_pytorch_s(backend: Backend, nesterov: bool, resumes: bool) -> None:
    """Each array's buffer is its first gradient from then on; one that misses that step starts later."""
    rng = np.random.default_rng(0)
    starts = [rng.standard_normal(3) for _ in range(3)]
    p, expected = ([start.copy() for start in starts] for _ in range(2))
    groups: Any = [{"params": p[:2]}, {"params": [p[2]], "momentum": 0.5, "dampening": 0.5}]
    opt = fo.SGD(groups, lr=0.1, backend=backend)
    buffers: list[Any] = [None] * 3
    dampening = 0.0 if nesterov else 0.3
    for t in range(8):
        if t == 3:
            opt.param_groups[0].update(momentum=0.9, dampening=dampening, nesterov=nesterov)
        if resumes and t == 4:
            opt, state = fo.SGD(groups, backend=backend), opt.state_dict()
            opt.load_state_dict(state)
        grads = [None if t in (i, i + 3) and i != 0 else rng.standard_normal(3) for i in range(3)]
        opt.step([grads[:2], [grads[2]]])
        for i, g in enumerate(grads):
            momentum, damped = (0.5, 0.5) if i == 2 else (0.9, dampening) if t >= 3 else (0.0, 0.0)
            if g is None:
                continue
            step = g
            if momentum:
                buffers[i] = g if buffers[i] is None else momentum * buffers[i] + (1 - damped) * g
                step = g + momentum * buffers[i] if nesterov and i != 2 else buffers[i]
            expected[i] -= 0.1 * step
    for i in range(3):
        np.testing.assert_allclose(p[i], expected[i], rtol=1e-12)


@each_backend
def test_a_refused_or_skipped_step_does_not_start_the_buffer(backend: Backend) -> None:
    p, q = np.zeros(3), np.zeros(3)
    opt, expected = (fo.SGD(array, lr=0.1, skip_nonfinite=True, backend=backend) for array in (p, q))
    for each in (opt, expected):
        each.step(np.ones(3))
        each.momentum, each.dampening = 0.9, 0.5
    with pytest.raises(ValueError, match="shape"):
        opt.step(np.ones(4))
    assert not opt.step(np.full(3, np.nan))
    for _ in range(3):
        opt.step(np.ones(3))
        expected.step(np.ones(3))
    assert_same_bits(p, q)
    np.testing.assert_allclose(q, -0.1 * (1 + 1 + 1.4 + 1.76), rtol=1e-12)


@each_backend
def test_a_copy_does_not_start_its_buffer_with_the_original(backend: Backend) -> None:
    opt = fo.SGD(np.zeros(3), lr=0.1, backend=backend)
    opt.step(np.ones(3))
    other = copy.copy(opt)
    opt.momentum = 0.9
    opt.step(np.ones(3))
    assert other.state_dict()["arrays"][0]["steps"] == 1
    assert opt.state_dict()["arrays"][0]["steps"] == 1  # counted from the buffer on
    assert other.step_count == 1
    assert opt.step_count == 2
