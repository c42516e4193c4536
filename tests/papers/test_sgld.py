"""SGLD: its formula, its noise in every way of continuing, and the distribution that it samples."""

from __future__ import annotations

import copy
import math
import pickle
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

import fastoptim as fo
from cases import Array, DType, assert_same_bits, ordinary_values
from fastoptim.random_bits import normal_numbers
from models import Backend, each_backend, each_dtype


def made(dtype: Any = np.float32, **options: Any) -> tuple[list[Array], fo.SGLD]:
    rng = np.random.default_rng(0)
    params = [ordinary_values(rng, np.dtype(dtype), n).reshape(shape) for n, shape in ((12, (3, 4)), (5, (5,)))]
    params[0] = np.asfortranarray(params[0])
    return params, fo.SGLD(params, **{"lr": 0.1, "seed": 7, **options})


def grads(t: int, dtype: Any = np.float32) -> list[Array]:
    rng = np.random.default_rng(100 + t)
    return [ordinary_values(rng, np.dtype(dtype), n).reshape(shape) for n, shape in ((12, (3, 4)), (5, (5,)))]


@each_backend
@each_dtype
def test_follows_the_formula(backend: Backend, dtype: DType) -> None:
    """With the noise of seed, parameter, step and element, in the parameter's order of memory."""
    cases: list[tuple[dict[str, Any], Callable[[int], float]]] = [
        ({"noise": 0.5}, lambda t: math.sqrt(2 * 0.1 * 0.5)),
        ({"noise": 0.5, "form": "gradient", "gamma": 1.5}, lambda t: 0.1 * math.sqrt(0.5 * t**-1.5)),
        ({"noise": 0.0}, lambda t: 0.0),
    ]
    for options, sigma in cases:
        params, opt = made(dtype, backend=backend, **options)
        number = np.float64 if dtype == np.float64 else np.float32
        expected = [p.copy(order="K") for p in params]
        for t in range(1, 4):
            g = grads(t, dtype)
            opt.step(g)
            for index, (p, each) in enumerate(zip(expected, g, strict=True)):
                order = "F" if index == 0 else "C"
                xi = normal_numbers(7, index, t, p.size).astype(number).reshape(p.shape, order=order)  # type: ignore[call-overload]
                step = number(sigma(t)) * xi - number(0.1) * each.astype(number)
                p[...] = (p.astype(number) + step).astype(dtype)
        for p, other in zip(params, expected, strict=True):
            assert_same_bits(p, other)


def test_continues_with_the_same_bits() -> None:
    params, opt = made()
    opt.step(grads(0))
    loaded_params, loaded = made(seed=3)
    for p, source in zip(loaded_params, params, strict=True):
        p[...] = source
    loaded.load_state_dict(opt.state_dict())
    twins: list[Any] = [loaded, copy.deepcopy(opt), pickle.loads(pickle.dumps(opt))]
    for t in range(3):
        for each in (opt, *twins):
            each.step(grads(t))
    for twin in twins:
        for p, other in zip(params, twin.params, strict=True):
            assert_same_bits(p, other)


def test_the_noise_changes_with_the_step_the_parameter_and_the_seed() -> None:
    _, opt = made()
    seen = [opt.state[0]["v"].copy(), opt.state[1]["v"].copy()]
    assert seen[0].ravel(order="K")[0] != seen[1][0]
    opt.step([None, None])
    assert (opt.state[0]["v"] != seen[0]).all()
    opt.zero_state()
    assert_same_bits(opt.state[0]["v"], seen[0])
    opt.seed = 8
    opt.step(grads(0))
    _, other = made(seed=8)
    other.step(grads(0))
    assert_same_bits(opt.state[0]["v"], other.state[0]["v"])
    opt.add_param_group({"params": np.ones(9)})
    assert_same_bits(opt.state[1]["v"], normal_numbers(7, 2, 2, 9))  # the constructor's seed


@each_backend
def test_remapped_rows_have_the_noise_of_their_places(backend: Backend) -> None:
    opt = fo.SGLD({"p": np.ones((2, 3))}, seed=7, backend=backend)
    opt.step({"p": np.ones((2, 3))})
    opt.remap({"p": np.ones((4, 3))}, source={"p": np.array([-1, 0, 0, 1])})
    assert_same_bits(opt.state["p"]["v"].ravel(), normal_numbers(7, 0, 2, 12))
    loaded = fo.SGLD({"p": np.ones((4, 3))}, backend=backend)
    loaded.load_state_dict(opt.state_dict())
    opt.step({"p": np.ones((4, 3))})
    loaded.step({"p": np.ones((4, 3))})
    assert_same_bits(opt.params["p"], loaded.params["p"])


@each_backend
def test_a_refused_or_skipped_step_keeps_the_noise(backend: Backend) -> None:
    params, opt = made(skip_nonfinite=True, backend=backend)
    before = [p.tobytes() for p in params], opt.state[0]["v"].tobytes(), opt.state[1]["v"].tobytes()
    bad = grads(0)
    bad[1][2] = np.nan
    assert opt.step(bad) is False
    with pytest.raises(ValueError, match=r"grads\[1\]"):
        opt.step([grads(0)[0], np.ones(6)])
    assert ([p.tobytes() for p in params], opt.state[0]["v"].tobytes(), opt.state[1]["v"].tobytes()) == before


def test_is_not_part_of_what_needs_a_formula_alone() -> None:
    assert "sgld" not in fo.OPTIMIZERS
    with pytest.raises(AttributeError, match="sgld"):
        _ = fo.functional.sgld
    with pytest.raises(ValueError, match="got SGLD"):
        fo.Mixed([{"params": np.ones(2), "optimizer": fo.SGLD}])
    with pytest.raises(RuntimeError, match="graph_step: expected an optimizer without noise"):
        fo.SGLD(np.ones(2)).graph_step()
    for wrong in (-1, 2**63, 1.5):
        with pytest.raises((ValueError, TypeError), match="seed: expected"):
            fo.SGLD(np.ones(2), seed=wrong)


def test_samples_the_distribution() -> None:
    """Of 20,000 chains for a normal distribution with mean 3 and deviation 0.5, whose discretization is known:
    x = x - lr*(x - mean)/var + sqrt(2 lr) xi has the variance var / (1 - lr/(2 var))."""
    mean, variance, lr = 3.0, 0.25, 0.02
    x = np.full(20_000, 1.0)
    opt = fo.SGLD(x, lr=lr, seed=1)
    for _ in range(200):
        opt.step((x - mean) / variance)
    expected = variance / (1 - lr / (2 * variance))
    assert abs(x.mean() - mean) < 5 * math.sqrt(expected / x.size)
    assert abs(x.var() / expected - 1) < 5 * math.sqrt(2 / x.size)
