"""Check of every optimizer: a formula to compare with, no NaN from zeros, no step without a gradient, a minimum."""

from __future__ import annotations

import importlib
from contextlib import nullcontext
from typing import Any

import numpy as np
import pytest

import fastoptim as fo
from cases import DTYPES, FLOAT32, Array, Case, DType, assert_same_bits
from loops import loop
from models import Backend, each_backend, each_dtype, every_optimizer, every_variant
from oracles import ORDINARY, moves


def oracle_of(name: str) -> Any:
    """Return the test module that contains an optimizer's formula."""
    try:
        return importlib.import_module(f"papers.test_{name}")
    except ModuleNotFoundError:
        pytest.skip("an optimizer without a file of its own in tests/papers/")


@every_optimizer
def test_every_variant_convention_and_option_is_compared(optimizer: type[fo.Optimizer]) -> None:
    """The rows of the file cover each variant and convention, and give each own option a value of its own."""
    rows = oracle_of(optimizer.name).ROWS
    given = [getattr(row, "options", row) for row in rows]
    settings = [optimizer.check_options(options) for options in given]
    assert {each.variant for each in settings} == set(optimizer.variants) - {"sophia_hessian"}
    first = next(iter(optimizer.conventions), None)
    assert {options.get("convention", first) for options in given} == {first, *optimizer.conventions}
    own = [name for name in optimizer.defaults if name == "lr" or name not in optimizer.shared]
    changed = {name for each in settings for name in own if each.options[name] != optimizer.defaults[name]}
    assert changed == set(own) - NOT_CHANGED.get(optimizer.name, set())


# Options of which a row would only repeat another optimizer's.
NOT_CHANGED: dict[str, set[str]] = {
    "adamw": {"eps_root", "bias_correction"},
}


# ---- zeros


@every_optimizer
@each_backend
@each_dtype
def test_zero_gradients_move_nothing(optimizer: type[fo.Optimizer], dtype: DType, backend: Backend) -> None:
    """From the first step on, and never by 0/0.  FTRL's minimum without a gradient is 0; ASGD always decays."""
    numbers = {fo.FTRL: [0, 0], fo.MADGRAD: [1.5, -0.3], fo.ScheduleFreeSGD: [1.5, 0], fo.ScheduleFreeAdamW: [1.5, 0]}
    start = np.array(numbers.get(optimizer, [1, -2, 0, 300, 1e-3])).astype(dtype)
    p = start.copy()
    opt = optimizer(p, weight_decay=0.0, backend=backend)
    for _ in range(5):
        opt.step(np.zeros_like(p))
    if optimizer is fo.ASGD:
        np.testing.assert_allclose(p.astype(float), start.astype(float), rtol=1e-4)
    else:
        assert_same_bits(p, start)
    assert all(np.isfinite(array).all() for array in opt.state.values())


@every_optimizer
@each_dtype
def test_gradients_that_end_leave_no_nan(optimizer: type[fo.Optimizer], dtype: DType) -> None:
    p = np.ones(50, dtype)
    opt = optimizer(p)
    for t in range(300):
        opt.step(np.full(50, t < 2, dtype))
    assert np.isfinite(p).all()


# ---- minima


def rosenbrock(p: Array) -> tuple[Array, Array]:
    """Return the gradient, and the diagonal of the Hessian."""
    x, y = p.tolist()
    return (
        np.array([-2 * (1 - x) - 400 * x * (y - x * x), 200 * (y - x * x)]),
        np.array([2 - 400 * (y - 3 * x * x), 200.0]),
    )


def quadratic(p: Array) -> tuple[Array, Array]:
    x, y = p.tolist()
    return np.array([x - 1, 20 * (y - 1)]), np.array([1.0, 20.0])


# Options for both functions.  The learning rate falls to 0, since steps of a fixed length do not end by themselves.
SETTINGS: dict[str, dict[str, Any]] = {
    "sgd": {"lr": 1e-3},
    "sgdw": {"lr": 1e-3, "momentum": 0.9},
    "momentum": {"lr": 1e-3},
    "nag": {"lr": 1e-3},
    "adagrad": {"lr": 0.5},
    "rmsprop": {"lr": 0.01},
    "adam": {"lr": 0.01},
    "adamw": {"lr": 0.01},
    "adamax": {"lr": 0.01},
    "adadelta": {"lr": 1.0},
    "nadam": {"lr": 0.01},
    "radam": {},
    "rprop": {},
    "asgd": {"lr": 1e-3, "lambd": 0},
    "lion": {"lr": 1e-3},
    "signsgd": {"lr": 2e-4},
    "signum": {"lr": 1e-3},
    "tiger": {"lr": 1e-3},
    "adabelief": {"lr": 0.01},
    "adabound": {"lr": 0.1, "final_lr": 2e-3},
    "yogi": {"lr": 0.1},
    "adan": {"lr": 0.01},
    "ademamix": {"lr": 0.01, "betas": (0.9, 0.999, 0.99)},
    "adopt": {"lr": 0.01, "betas": (0.9, 0.99)},
    "laprop": {"lr": 0.01},
    "sophia": {"lr": 0.1},
    "qhm": {"lr": 2e-3, "beta": 0.95},
    "qhadam": {"lr": 0.01, "betas": (0.9, 0.999)},
    "aggmo": {"lr": 1e-3},
    "ftrl": {"lr": 1.0, "beta": 0.0},
    "smorms3": {"lr": 0.01},
    "rmsprop_graves": {"lr": 1e-3},
    "msvag": {"lr": 1e-3},
    "madgrad": {"lr": 0.03, "momentum": 0.95},
    "schedule_free_sgd": {"lr": 0.02, "momentum": 0.95, "warmup_steps": 100},
    "schedule_free_adamw": {"lr": 0.02, "betas": (0.98, 0.999)},
    "lars": {"lr": 1.0, "trust_coefficient": 0.02},
    "lamb": {"lr": 0.05},
    "novograd": {"lr": 0.01},
    "prodigy": {"lr": 1.0, "d0": 1e-3},
    "rowwise_adagrad": {"lr": 0.5},
    "rowwise_adam": {"lr": 0.01},
    "stable_adamw": {"lr": 0.01},
    "mars": {"lr": 0.01},
}
CONSTANT_RATE = {
    "sgd",
    "radam",
    "qhm",
    "msvag",
    "ftrl",
    "adagrad",
    "rowwise_adagrad",
    "rprop",
    "asgd",
    "madgrad",
    "schedule_free_sgd",
    "schedule_free_adamw",
    "smorms3",
}
LONG = {"sgd", "asgd", "radam", "qhm", "msvag", "madgrad", "schedule_free_sgd", "ftrl"}
STEPS = {**dict.fromkeys(LONG, 20_000), "signsgd": 30_000, "nag": 5_000}


def test_every_rule_has_a_setting() -> None:
    assert set(SETTINGS) == {name for name in fo.OPTIMIZERS if not name.startswith("recipe")}


@pytest.mark.parametrize("name", SETTINGS)
def test_reaches_the_minimum(name: str) -> None:
    """Both functions are minimized at once, each in a group of its own."""
    params = [np.array([-1.2, 1.0]), np.array([-1.2, 1.0])]
    steps, setting = STEPS.get(name, 10_000), {**SETTINGS[name]}
    if name not in CONSTANT_RATE:
        setting["lr"] = lambda step: SETTINGS[name]["lr"] * (1 - step / steps)
    opt: Any = fo.OPTIMIZERS[name]([{"params": p} for p in params], **setting, weight_decay=0.0)
    for step in range(steps):
        with opt.lookahead() if name == "nag" else nullcontext():
            gradients, diagonals = zip(quadratic(params[0]), rosenbrock(params[1]), strict=True)
        if name == "sophia" and step % 10 == 0:
            opt.update_hessian(diagonals)
        opt.step(gradients)
    if name.startswith("schedule_free"):
        opt.eval()
    np.testing.assert_allclose(params, 1, atol=1e-2)


@pytest.mark.parametrize("name", ["lion", "signsgd", "signum", "tiger"])
def test_steps_by_the_sign_have_one_size(name: str) -> None:
    opt = fo.OPTIMIZERS[name](np.zeros(5), lr=0.25, weight_decay=0.0)
    assert all((abs(move) == 0.25).all() for move in moves(opt, ORDINARY))


# ---- the reference


@every_variant
@loop("dtype", DTYPES[2:])
def test_a_half_is_updated_as_a_float32_and_rounded_once(case: Case, dtype: DType) -> None:
    rng = np.random.default_rng(0)
    p, *grads = rng.standard_normal((5, 100)).astype(dtype)
    state = case.make_state(lambda: np.zeros(100, np.float32))
    for t, g in enumerate(grads, 1):
        wide = p.astype(FLOAT32)
        wide_state = [s.copy() for s in state]
        case.update(fo.reference, wide, g.astype(FLOAT32), wide_state, t)
        case.update(fo.reference, p, g, state, t)
        assert_same_bits(p, wide.astype(dtype), "p")
        for name, narrow, s in zip(case.state, state, wide_state, strict=True):
            assert_same_bits(narrow, s, name)
