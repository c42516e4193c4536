"""What the docstrings of Adadelta, Adamax, ASGD, NAdam, RAdam and Rprop claim, beyond following torch."""

from __future__ import annotations

from collections.abc import Callable
from math import prod
from typing import Any

import numpy as np
import pytest

import fastoptim as fo
from cases import DTYPES, FLOAT32, FLOAT64, Array, DType, assert_same_bits

NAMES = ("adadelta", "adamax", "asgd", "nadam", "radam", "rprop")

each_backend = pytest.mark.parametrize("backend", ["native", "reference"])

# ---- of all


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("name", NAMES)
def test_a_gradient_of_zero_from_the_first_step_on(name: str, dtype: DType) -> None:
    """Never 0/0: nothing moves, but for ASGD's own decay."""
    start = np.array([1, -2, 0, 300]).astype(dtype)
    p = start.copy()
    opt = fo.OPTIMIZERS[name](p)
    for _ in range(10):
        opt.step(np.zeros(4, dtype))
    if name == "asgd":
        np.testing.assert_allclose(p.astype(float), start.astype(float), rtol=1e-4)
    else:
        assert_same_bits(p, start)
    assert all(np.isfinite(array).all() for array in opt.state.values())


def bowl(p: Array) -> Array:
    """The gradient of a quadratic whose minimum is at 1."""
    return np.asarray((p - 1) * np.array([1.0, 20.0]))


def rosenbrock(p: Array) -> Array:
    x, y = p
    return np.array([-2 * (1 - x) - 400 * x * (y - x * x), 200 * (y - x * x)])


MINIMIZING: dict[str, dict[str, Any]] = {
    "adadelta": {"lr": lambda step: 1 / (1 + step / 300)},
    "adamax": {},
    "asgd": {"lr": 1e-3, "lambd": 0},
    "nadam": {},
    "radam": {},
    "rprop": {},
    "sgd": {"lr": 1e-3},
    "momentum": {"lr": 1e-4},
    "nag": {"lr": 1e-4},
    "adagrad": {"lr": 0.5},
    "rmsprop": {"lr": lambda step: 0.01 / (1 + step / 500)},
    "adam": {"lr": 0.01},
    "adamw": {"lr": 0.01, "weight_decay": 0.0},
}


@pytest.mark.parametrize("gradient", [bowl, rosenbrock])
@pytest.mark.parametrize("name", MINIMIZING)
def test_it_reaches_the_minimum(name: str, gradient: Callable[[Array], Array]) -> None:
    p = np.array([-1.2, 1.0])
    opt = fo.OPTIMIZERS[name](p, **MINIMIZING[name])
    for _ in range(20_000):
        with opt.lookahead():
            grad = gradient(p)
        opt.step(grad)
    np.testing.assert_allclose(p, 1, atol=2e-3)


# ---- of each


def test_adamax_moves_by_about_the_rate_at_most() -> None:
    """However heavy the gradients' tails are: by 1.01 times it at these betas."""
    rng = np.random.default_rng(0)
    p = np.zeros(1000)
    opt = fo.Adamax(p, lr=0.1)
    moved = []
    for _ in range(300):
        before = p.copy()
        opt.step(rng.standard_cauchy(1000) ** 3)
        moved.append(np.abs(p - before).max())
    assert 0.0999 < max(moved) < 0.101


@pytest.mark.parametrize("psi", [0.0, 1e-6, 4e-3, 0.3, 1.0, 1e3, 1e300])
def test_nadam_s_numbers_of_a_step(psi: float) -> None:
    """Those of the definition, in whatever order the steps are asked for."""
    ramps = [1 - 0.5 * 0.96 ** (t * psi) for t in range(1, 3001)]
    for t in (2999, 1, 700, 2, 30, 1999):
        found = fo.NAdam.compute_host_constants(t=t, momentum_decay=psi)
        assert (found["ramp"], found["next_ramp"]) == (ramps[t - 1], ramps[t])
        assert found["ramp_product"] == pytest.approx(prod(ramps[:t]), rel=1e-15, abs=2**-60)
    late = fo.NAdam.compute_host_constants(t=2**62, momentum_decay=psi)
    assert late["ramp_product"] == pytest.approx(prod(ramps), rel=1e-12, abs=2**-60)


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


@pytest.mark.parametrize(("threshold", "steps"), [(5.0, 5), (4.0, 4), (7.5, 7)])
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


@each_backend
@pytest.mark.parametrize("dtype", [FLOAT32, FLOAT64], ids=str)
def test_rprop_step_by_step(dtype: DType, backend: Any) -> None:
    """0.5 as it is; kept twice: times 2, at most 1.5; turned: a quarter, and no move; then, from a gradient of 0, as it
    is; kept: times 2.  All with gradients whose products underflow."""
    tiny = 1e-30 if dtype == FLOAT32 else 1e-200
    p = np.zeros(1, dtype)
    opt = fo.Rprop(p, lr=0.5, etas=(0.25, 2), step_sizes=(0.1, 1.5), backend=backend)
    found = []
    for g in (1, 2, 1, -1, -1, -3, 1, 0, 1, -1, 1, -1):
        opt.step(np.array([g * tiny], dtype))
        found.append((float(p[0]), float(opt.state["step_size"][0])))
    sizes = [0.5, 1, 1.5, 0.375, 0.375, 0.75, 0.1875, 0.1875, 0.1875, 0.1, 0.1, 0.1]
    moves = [-0.5, -1, -1.5, 0, 0.375, 0.75, 0, 0, -0.1875, 0, -0.1, 0]
    np.testing.assert_allclose(found, np.transpose([np.cumsum(moves), sizes]), rtol=1e-6)


def test_rprop_s_rate_is_where_the_step_sizes_start() -> None:
    """That of the first step, if it changes."""
    p, q = np.zeros(3), np.zeros(3)
    first, second = fo.Rprop(p, lr=0.1), fo.Rprop(q, lr=lambda step: 0.1 * 2.0**step)
    assert (first.state["step_size"] == 0.1).all()
    assert (second.state["step_size"] == 0.1).all()
    for i in range(5):
        first.step(np.array([1.0, -1.0, (-1.0) ** i]))
        second.step(np.array([1.0, -1.0, (-1.0) ** i]))
        first.lr = 7.0
    assert_same_bits(p, q)


def test_rprop_s_bounds_have_an_order() -> None:
    with pytest.raises(ValueError, match=r"step_sizes: expected the smaller bound first, got \(1.0, 0.5\)"):
        fo.Rprop(np.ones(1), step_sizes=(1, 0.5))


@each_backend
def test_asgd_with_a_rate_that_changes(backend: Any) -> None:
    """The formula with each step's own rate; the average begins after t0, and is the parameter until then."""
    lambd, alpha, t0 = 0.05, 0.6, 20

    def rate(step: int) -> float:
        return 0.3 * 0.97**step

    grads = np.random.default_rng(0).standard_normal((100, 3)) + 0.5
    p = np.array([1.0, -2.0, 0.5])
    x, average = p.tolist(), [0.0, 0.0, 0.0]
    opt = fo.ASGD(p, lr=rate, lambd=lambd, alpha=alpha, t0=t0, backend=backend)
    for t, grad in enumerate(grads, 1):
        opt.step(grad)
        eta = rate(t - 1) / (1 + lambd * rate(t - 1) * (t - 1)) ** alpha
        mu = 1 / max(1, t - 1 - t0)
        for i, g in enumerate(grad.tolist()):
            x[i] -= lambd * eta * x[i] + eta * g
            average[i] += mu * (x[i] - average[i])
        np.testing.assert_allclose(p, x, rtol=1e-12)
        np.testing.assert_allclose(opt.state["ax"], average, rtol=1e-12)
        assert (opt.state["ax"] == p).all() == (t <= t0 + 2)


def test_asgd_s_average_is_that_of_the_steps_after_t0() -> None:
    rng = np.random.default_rng(0)
    p = np.zeros(4)
    opt = fo.ASGD(p, lr=0.1, t0=10)
    seen = []
    for t in range(1, 61):
        opt.step(rng.standard_normal(4))
        if t > 11:
            seen.append(p.copy())
    np.testing.assert_allclose(opt.state["ax"], np.mean(seen, axis=0), rtol=1e-12)
