"""QHM, QHAdam, AggMo, FTRL, SMORMS3, Graves' RMSprop, M-SVAG, MADGRAD and Schedule-Free: against loops written from the
papers for one number, and what their documentation claims."""

from __future__ import annotations

import copy
import pickle
from collections import defaultdict
from collections.abc import Callable, Sequence
from math import sqrt
from typing import Any, NamedTuple

import numpy as np
import pytest

import fastoptim as fo
from cases import DTYPES, FLOAT16, FLOAT32, FLOAT64, MIN_SHARE, TILE, Array, DType, assert_same_bits, ordinary_values
from fastoptim import reference_math
from models import Backend, each_backend, each_dtype

# ---- the papers' group_steps, for one number

State = defaultdict[str, float]


def qhm(p: float, g: float, s: State, t: int, *, lr: float, beta: float, nu: float) -> float:
    s["b"] = beta * s["b"] + (1 - beta) * g
    return p - lr * ((1 - nu) * g + nu * s["b"])


def qhadam(
    p: float, g: float, s: State, t: int, *, lr: float, nus: Sequence[float], betas: Sequence[float], eps: float
) -> float:
    s["m"] = betas[0] * s["m"] + (1 - betas[0]) * g
    s["v"] = betas[1] * s["v"] + (1 - betas[1]) * g**2
    m, v = s["m"] / (1 - betas[0] ** t), s["v"] / (1 - betas[1] ** t)
    return p - lr * ((1 - nus[0]) * g + nus[0] * m) / (sqrt((1 - nus[1]) * g**2 + nus[1] * v) + eps)


def aggmo(p: float, g: float, s: State, t: int, *, lr: float, betas: Sequence[float]) -> float:
    for i, beta in enumerate(betas):
        s[str(i)] = beta * s[str(i)] - g
    return p + lr / len(betas) * sum(s.values())


def ftrl(
    p: float,
    g: float,
    s: State,
    t: int,
    *,
    lr: float,
    beta: float,
    l1_regularization: float,
    l2_regularization: float,
    l2_shrinkage: float,
    half_l2: bool,
    initial_accumulator_value: float,
) -> float:
    slope = 1 if half_l2 else 2
    n = initial_accumulator_value if t == 1 else s["n"]
    s["n"] = n + g**2
    s["z"] += g + slope * l2_shrinkage * p - (sqrt(s["n"]) - sqrt(n)) / lr * p
    if abs(s["z"]) <= l1_regularization:
        return 0.0
    sign = 1 if s["z"] > 0 else -1
    return -(s["z"] - sign * l1_regularization) / ((beta + sqrt(s["n"])) / lr + slope * l2_regularization)


def smorms3(p: float, g: float, s: State, t: int, *, lr: float, eps: float) -> float:
    mem = 1 if t == 1 else s["mem"]
    r = 1 / (mem + 1)
    s["m"] = (1 - r) * s["m"] + r * g
    s["v"] = (1 - r) * s["v"] + r * g**2
    x = s["m"] ** 2 / (s["v"] + eps)
    s["mem"] = 1 + mem * (1 - x)
    return p - g * min(lr, x) / (sqrt(s["v"]) + eps)


def rmsprop_graves(
    p: float, g: float, s: State, t: int, *, lr: float, alpha: float, momentum: float, eps: float
) -> float:
    s["n"] = alpha * s["n"] + (1 - alpha) * g**2
    s["g"] = alpha * s["g"] + (1 - alpha) * g
    s["delta"] = momentum * s["delta"] - lr * g / sqrt(s["n"] - s["g"] ** 2 + eps)
    return p + s["delta"]


def msvag(p: float, g: float, s: State, t: int, *, lr: float, beta: float) -> float:
    s["m"] = beta * s["m"] + (1 - beta) * g
    s["v"] = beta * s["v"] + (1 - beta) * g**2
    m, v = s["m"] / (1 - beta**t), s["v"] / (1 - beta**t)
    if t == 1 or beta == 0:
        return p - lr * m
    rho = (1 - beta) * (1 + beta**t) / ((1 + beta) * (1 - beta**t))
    variance = (v - m**2) / (1 - rho)
    return p - lr * m**2 / (m**2 + rho * variance) * m


def madgrad(p: float, g: float, s: State, t: int, *, lr: float, momentum: float, eps: float, eps_in_lr: bool) -> float:
    if t == 1:
        s["x0"] = p
    weight = (lr + eps * eps_in_lr) * sqrt(t)
    s["s"] += weight * g
    s["v"] += weight * g**2
    z = s["x0"] - s["s"] / (float(s["v"] ** (1 / 3)) + eps)
    return momentum * p + (1 - momentum) * z


def schedule_free(p: float, direction: float, s: State, t: int, rate: float, beta: float, r: int, power: int) -> float:
    """With all three sequences, x among them, as the paper defines them."""
    if t == 1:
        s["x"] = s["z"] = p
    s["z"] -= rate * direction
    s["lr_max"] = max(s["lr_max"], rate)
    weight = t**r * s["lr_max"] ** power
    s["weight_sum"] += weight
    c = weight / s["weight_sum"]
    s["x"] = (1 - c) * s["x"] + c * s["z"]
    return (1 - beta) * s["z"] + beta * s["x"]


def schedule_free_sgd(
    p: float, g: float, s: State, t: int, *, lr: float, momentum: float, warmup_steps: int, r: int, weight_lr_power: int
) -> float:
    rate = lr * min(1, t / warmup_steps) if warmup_steps else lr
    return schedule_free(p, g, s, t, rate, momentum, r, weight_lr_power)


def schedule_free_adamw(
    p: float,
    g: float,
    s: State,
    t: int,
    *,
    lr: float,
    betas: Sequence[float],
    eps: float,
    warmup_steps: int,
    r: int,
    weight_lr_power: int,
    correct_rate: bool,
    weight_decay: float,
    decoupled: bool,
) -> float:
    rate = lr * min(1, t / warmup_steps) if warmup_steps else lr
    if not decoupled:
        g += weight_decay * p
    s["v"] = betas[1] * s["v"] + (1 - betas[1]) * g**2
    bias = 1 - betas[1] ** t
    if correct_rate:
        rate *= sqrt(bias)
        direction = g / (sqrt(s["v"]) + eps)
    else:
        direction = g / (sqrt(s["v"] / bias) + eps)
    if decoupled:
        direction += weight_decay * p
    return schedule_free(p, direction, s, t, rate, betas[0], r, weight_lr_power)


FORMULAS: dict[str, Callable[..., float]] = {
    "qhm": qhm,
    "qhadam": qhadam,
    "aggmo": aggmo,
    "ftrl": ftrl,
    "smorms3": smorms3,
    "rmsprop_graves": rmsprop_graves,
    "msvag": msvag,
    "madgrad": madgrad,
    "schedule_free_sgd": schedule_free_sgd,
    "schedule_free_adamw": schedule_free_adamw,
}
NAMES = list(FORMULAS)


class Way(NamedTuple):
    """An optimizer with options."""

    name: str
    options: dict[str, Any]

    def make(self, params: Any, backend: Backend = "native") -> Any:
        return fo.OPTIMIZERS[self.name](params, **self.options, backend=backend)


def way_id(way: Way) -> str:
    return "-".join([way.name, *(f"{k}={v}" for k, v in way.options.items())])


SHARED: list[dict[str, Any]] = [{}, {"weight_decay": 0.03}, {"maximize": True, "weight_decay": 0.1}]

WAYS = [
    *(Way(name, shared) for name in NAMES for shared in SHARED),
    Way("qhm", {"lr": 0.3, "beta": 0.9, "nu": 0.4}),
    Way("qhadam", {"lr": 0.05, "nus": (0.3, 0.8), "betas": (0.8, 0.95), "eps": 1e-3}),
    Way("aggmo", {"lr": 0.1, "betas": (0.3, 0.5, 0.999)}),
    Way("ftrl", {"lr": 0.3, "l1_regularization": 2.0, "l2_regularization": 0.2, "l2_shrinkage": 0.05}),
    Way("ftrl", {"convention": "keras"}),
    Way(
        "ftrl",
        {"convention": "keras", "lr": 0.2, "l1_regularization": 1.0, "l2_regularization": 0.2, "l2_shrinkage": 0.05},
    ),
    Way("ftrl", {"beta": 0.0, "initial_accumulator_value": 0.0, "lr": 0.5}),
    Way("smorms3", {"lr": 0.1, "eps": 1e-3}),
    Way("rmsprop_graves", {"lr": 0.01, "alpha": 0.8, "momentum": 0.5, "eps": 1e-2}),
    Way("msvag", {"lr": 0.03, "beta": 0.7}),
    Way("msvag", {"lr": 0.03, "beta": 0.0}),
    Way("madgrad", {"lr": 0.5, "momentum": 0.0, "eps": 1e-2}),
    Way("madgrad", {"lr": 0.05, "momentum": 0.5, "convention": "optax", "eps": 1e-2}),
    Way("schedule_free_sgd", {"lr": 0.2, "momentum": 0.6, "warmup_steps": 20}),
    Way("schedule_free_sgd", {"lr": 0.2, "momentum": 1.0, "r": 2, "weight_lr_power": 3, "warmup_steps": 50}),
    Way("schedule_free_sgd", {"lr": 0.2, "weight_lr_power": 0}),
    Way("schedule_free_adamw", {"lr": 0.05, "betas": (0.6, 0.9), "eps": 1e-2, "warmup_steps": 20}),
    Way("schedule_free_adamw", {"lr": 0.05, "r": 1, "weight_lr_power": 1, "warmup_steps": 50}),
    Way("schedule_free_adamw", {"lr": 0.05, "convention": "keras", "eps": 1e-2}),
    Way("schedule_free_adamw", {"lr": 0.05, "convention": "optax", "eps": 1e-2, "weight_decay": 0.1}),
    Way("schedule_free_adamw", {"lr": 0.05, "decoupled": False, "weight_decay": 0.1}),
]

STEPS = 150


def formula_options(way: Way) -> tuple[dict[str, Any], float, bool]:
    """What the formula takes; and the decay and ascent around it."""
    optimizer = fo.OPTIMIZERS[way.name]
    options = dict(optimizer.check_options(way.options).options)
    decay = 0.0 if optimizer.decays_itself else options["weight_decay"]
    own = {k: v for k, v in options.items() if k == "lr" or k not in optimizer.shared}
    if optimizer.decays_itself:
        own |= {k: options[k] for k in ("weight_decay", "decoupled")}
    return own, decay, options["maximize"]


def evaluate(way: Way, start: float, grads: list[float]) -> list[float]:
    """One number's way by the formula."""
    own, decay, maximize = formula_options(way)
    lr = own.pop("lr")
    state: State = defaultdict(float)
    p, found = start, []
    for t, grad in enumerate(grads, 1):
        g = (-grad if maximize else grad) + decay * p
        p = FORMULAS[way.name](p, g, state, t, lr=lr * factor(t), **own)
        found.append(p)
    return found


def factor(t: int) -> float:
    """By which the learning rate changes from step to step."""
    return 1 + t % 3 / 4


@each_backend
@pytest.mark.parametrize("way", WAYS, ids=way_id)
def test_the_papers_formula(way: Way, backend: Backend) -> None:
    rng = np.random.default_rng(0)
    p = np.array([5, -3, 0.5])
    grads = rng.normal([0, 1, -0.1], 1, (STEPS, 3))
    wanted = np.array([evaluate(way, float(p[i]), [float(g) for g in grads[:, i]]) for i in range(3)]).T
    opt = way.make(p, backend)
    lr = opt.lr
    for t, g in enumerate(grads, 1):
        opt.lr = lr * factor(t)
        opt.step(g)
        np.testing.assert_allclose(p, wanted[t - 1], rtol=1e-11, atol=1e-12, err_msg=f"step {t}")


# ---- what holds for all of them


@each_backend
@each_dtype
@pytest.mark.parametrize("name", NAMES)
def test_zero_gradients_move_nothing(name: str, dtype: DType, backend: Backend) -> None:
    """Never NaN; FTRL's minimum without a gradient is 0."""
    start = np.array([0.0, 0.0] if name == "ftrl" else [1.5, -0.3]).astype(dtype)
    p = start.copy()
    opt = fo.OPTIMIZERS[name](p, backend=backend)
    for _ in range(5):
        opt.step(np.zeros(2, dtype))
    assert_same_bits(p, start)
    assert all(np.isfinite(array).all() for array in opt.state.values())


SETTINGS: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {
    "qhm": ({"lr": 0.5, "beta": 0.9}, {"lr": 2e-3, "beta": 0.95}),
    "qhadam": ({"lr": 0.1}, {"lr": 5e-3, "betas": (0.9, 0.999)}),
    "aggmo": ({"lr": 0.05}, {"lr": 1e-3}),
    "ftrl": (
        {"lr": 1.0, "beta": 0.0, "initial_accumulator_value": 0.0},
        {"lr": 1.0, "beta": 0.0, "initial_accumulator_value": 0.0},
    ),
    "smorms3": ({"lr": 0.1}, {"lr": 0.01}),
    "rmsprop_graves": ({"lr": 1e-3}, {"lr": 1e-4}),
    "msvag": ({"lr": 0.1}, {"lr": 1e-3}),
    "madgrad": ({"lr": 0.1}, {"lr": 0.2, "momentum": 0.95}),
    "schedule_free_sgd": ({"lr": 0.5}, {"lr": 0.02, "momentum": 0.95, "warmup_steps": 100}),
    "schedule_free_adamw": ({"lr": 0.1}, {"lr": 0.02, "betas": (0.98, 0.999)}),
}


def quadratic(p: Array) -> Array:
    return np.asarray(np.array([1, 4, 0.25]) * (p - 1))


def rosenbrock(p: Array) -> Array:
    x, y = p
    return np.array([-2 * (1 - x) - 400 * x * (y - x * x), 200 * (y - x * x)])


def minimize(name: str, options: dict[str, Any], gradient: Callable[[Array], Array], p: Array, steps: int) -> float:
    """The distance from the minimum, at 1."""
    opt: Any = fo.OPTIMIZERS[name](p, **options)
    for _ in range(steps):
        opt.step(gradient(p))
    if "schedule_free" in name:
        opt.eval()
    return float(np.abs(p - 1).max())


@pytest.mark.parametrize("name", NAMES)
def test_the_minimum_of_a_quadratic(name: str) -> None:
    assert minimize(name, SETTINGS[name][0], quadratic, np.array([3, -2, 0.5]), 4000) < 1e-3


@pytest.mark.parametrize("name", NAMES)
def test_the_minimum_of_rosenbrocks_valley(name: str) -> None:
    assert minimize(name, SETTINGS[name][1], rosenbrock, np.array([-1, 1.5]), 20000) < 0.05


# ---- what they are with other options


SAME = {
    "qhm nu=0 is sgd": (Way("qhm", {"lr": 0.1, "nu": 0.0}), Way("sgd", {"lr": 0.1})),
    "qhm nu=1 is the ema form": (
        Way("qhm", {"lr": 0.1, "beta": 0.9, "nu": 1.0}),
        Way("momentum", {"lr": 0.1, "momentum": 0.9, "form": "ema"}),
    ),
    "qhm nu=beta is nesterov": (
        Way("qhm", {"lr": 0.1, "beta": 0.9, "nu": 0.9}),
        Way("momentum", {"lr": 0.1, "momentum": 0.9, "form": "ema", "nesterov": True}),
    ),
    "qhadam nus=1 is adam": (
        Way("qhadam", {"lr": 0.1, "nus": (1.0, 1.0), "betas": (0.9, 0.99)}),
        Way("adam", {"lr": 0.1, "betas": (0.9, 0.99)}),
    ),
    "aggmo of equal rates is heavy ball": (
        Way("aggmo", {"lr": 0.1, "betas": (0.9, 0.9, 0.9)}),
        Way("momentum", {"lr": 0.1, "momentum": 0.9, "form": "heavy_ball"}),
    ),
    "schedule_free_sgd's z is sgd's way": (
        Way("schedule_free_sgd", {"lr": 0.1}),
        Way("sgd", {"lr": 0.1}),
    ),
}


@pytest.mark.parametrize(("one", "other"), SAME.values(), ids=SAME)
def test_special_cases_are_other_optimizers(one: Way, other: Way) -> None:
    rng = np.random.default_rng(0)
    p = rng.standard_normal(20)
    q = p.copy()
    first, second = one.make(p), other.make(q)
    for _ in range(50):
        g = rng.standard_normal(20)
        first.step(g)
        second.step(g)
    np.testing.assert_allclose(first.state["z"] if one.name == "schedule_free_sgd" else p, q, rtol=1e-11)


# ---- FTRL


@each_backend
@each_dtype
def test_ftrl_makes_exact_zeros(dtype: DType, backend: Backend) -> None:
    rng = np.random.default_rng(0)
    p = np.zeros(1000, dtype)
    opt = fo.FTRL(p, lr=0.1, l1_regularization=3.0, backend=backend)
    for _ in range(10):
        opt.step(rng.standard_normal(1000).astype(dtype))
        z = opt.state["z"]
        assert 100 < (p == 0).sum() < 1000
        assert ((p == 0) == (np.abs(z) <= 3)).all()


@each_backend
def test_ftrl_without_a_start_steps_as_adagrad_first(backend: Backend) -> None:
    rng = np.random.default_rng(0)
    p, g = rng.standard_normal((2, 30))
    g[7:] = 0
    q = p.copy()
    opt = fo.FTRL(p, lr=0.1, beta=0.0, initial_accumulator_value=0.0, backend=backend)
    opt.step(g)
    fo.Adagrad(q, lr=0.1, eps=0.0).step(np.where(g == 0, 1, g))
    np.testing.assert_allclose(p[:7], q[:7], rtol=1e-12)
    before = rng.standard_normal((2, 30))[0]
    before[:] = p
    opt.step(np.zeros(30))
    np.testing.assert_allclose(p, before, rtol=1e-12)
    assert_same_bits(p[7:], before[7:])


@each_backend
def test_ftrl_rests_without_a_learning_rate(backend: Backend) -> None:
    p = np.array([1.0, -2.0])
    opt = fo.FTRL(p, lr=0.0, backend=backend)
    opt.step(np.array([1.0, 3.0]))
    assert p.tolist() == [1, -2]
    assert opt.state["n"].tolist() == [1, 9]


# ---- bounds


@each_backend
@pytest.mark.parametrize("dtype", [FLOAT64, FLOAT32], ids=str)
def test_msvags_factor_is_from_0_to_1(dtype: DType, backend: Backend) -> None:
    rng = np.random.default_rng(0)
    p = np.zeros(200, dtype)
    opt = fo.MSVAG(p, lr=1.0, beta=0.9, backend=backend)
    for t in range(1, 40):
        before = p.copy()
        g = (rng.standard_normal(200) * np.where(np.arange(200) % 2, 1, 1e-3) + 1).astype(dtype)
        opt.step(g)
        mean = opt.state["m"].astype(FLOAT64) / (1 - float(dtype.type(0.9)) ** t)
        factor = (before.astype(FLOAT64) - p) / mean
        assert (factor > -1e-4).all()
        assert (factor < 1 + 1e-4).all()
        if t == 1:
            np.testing.assert_allclose(p, -g, rtol=1e-6)


@each_backend
def test_graves_deviation_of_equal_gradients_is_a_number(backend: Backend) -> None:
    p = np.zeros(50, FLOAT32)
    opt = fo.RMSpropGraves(p, eps=0.0, alpha=0.5, backend=backend)
    g = np.random.default_rng(0).standard_normal(50).astype(FLOAT32)
    for _ in range(100):
        opt.step(g)
    assert not np.isnan(opt.state["s"]).any()
    assert not np.isnan(p).any()


@each_backend
def test_smorms3_never_steps_further_than_the_learning_rate_allows(backend: Backend) -> None:
    """One sided gradients: r*g^2 <= v, so that a step is at most lr / sqrt(r), and r at least 1/(t + 1)."""
    rng = np.random.default_rng(0)
    p = np.zeros(100)
    opt = fo.SMORMS3(p, lr=0.01, backend=backend)
    for t in range(1, 60):
        before = p.copy()
        opt.step(rng.standard_normal(100))
        assert (np.abs(p - before) <= 0.01 * sqrt(t + 1) * (1 + 1e-9)).all()
        assert (opt.state["mem"] >= 1 - 1e-9).all()
        assert (opt.state["mem"] <= t + 1 + 1e-9).all()


# ---- the cube root


def cube_root(x: Array) -> Array:
    with np.errstate(all="ignore"):
        return np.asarray(reference_math.cube_root(x))


def patterns(dtype: DType, size: int) -> Array:
    """Positive finite numbers of all exponents, and as many subnormal ones; the ends; zeros, infinities and NaN."""
    rng = np.random.default_rng(0)
    unsigned = np.dtype(f"u{dtype.itemsize}")
    info = np.finfo(dtype)
    top, tiny = (int(np.array(x, dtype).view(unsigned)) for x in (info.max, info.tiny))
    ends = np.array([1, 2, tiny - 1, tiny, tiny + 1, top - 1, top], unsigned)
    drawn = [rng.integers(1, top, size, unsigned), rng.integers(1, tiny, size, unsigned), ends]
    return np.concatenate(drawn).view(dtype)


@pytest.mark.parametrize("dtype", [FLOAT32, FLOAT64], ids=str)
def test_the_cube_root_is_within_a_unit_in_the_last_place(dtype: DType) -> None:
    x = patterns(dtype, 1_000_000)
    if dtype == FLOAT32:  # every fraction of three neighbouring exponents
        x = np.concatenate([x, np.arange(0x3F800000, 0x3F800000 + (3 << 23), 5, dtype=np.uint32).view(dtype)])
    found = cube_root(x)
    wanted = np.cbrt(x.astype(np.longdouble))
    error = np.abs(found - wanted) / np.spacing(wanted.astype(dtype))
    assert float(error.max()) < 0.8
    assert_same_bits(cube_root(-x), -found)


@pytest.mark.parametrize("dtype", [FLOAT32, FLOAT64], ids=str)
def test_the_cube_root_of_what_is_no_ordinary_number(dtype: DType) -> None:
    x = np.array([0, -0.0, np.inf, -np.inf, np.nan, 1, 8, -27], dtype)
    wanted = np.array([0, -0.0, np.inf, -np.inf, np.nan, 1, 2, -3], dtype)
    assert_same_bits(cube_root(x), wanted)


@pytest.mark.parametrize("dtype", [FLOAT32, FLOAT64], ids=str)
def test_native_cube_roots_have_the_references_bits(dtype: DType, isa: str) -> None:
    """With these options and a gradient of 0 the parameter becomes 1 / cbrt(v)."""
    v = patterns(dtype, 200_000)
    v = np.concatenate([v, -v, np.array([0, -0.0, np.inf, np.nan], dtype)])
    found, wanted = np.zeros((2, v.size), dtype)
    for step, p in ((fo.functional.madgrad, found), (fo.reference.madgrad, wanted)):
        s, sums, x0 = np.full(v.size, -1, dtype), v.copy(), np.zeros(v.size, dtype)
        step(p, np.zeros(v.size, dtype), s, sums, x0, step=1, momentum=0.0, eps=0.0)
    assert_same_bits(found, wanted)


# ---- Schedule-Free

BOTH = ["schedule_free_sgd", "schedule_free_adamw"]
each_schedule_free = pytest.mark.parametrize("name", BOTH)


def trained(name: str, dtype: DType = FLOAT32, backend: Backend = "native", **options: Any) -> tuple[Any, list[Array]]:
    """After some steps; and its parameters."""
    rng = np.random.default_rng(0)
    params = [rng.standard_normal(5).astype(dtype), rng.standard_normal((2, 3)).astype(dtype)]
    opt = fo.OPTIMIZERS[name](params, **{"lr": 0.1, **options}, backend=backend)
    for _ in range(7):
        opt.step([rng.standard_normal(p.shape).astype(dtype) for p in params])
    return opt, params


@each_backend
@each_schedule_free
@each_dtype
def test_eval_shows_the_average_and_train_goes_back_bit_for_bit(name: str, dtype: DType, backend: Backend) -> None:
    opt, params = trained(name, dtype, backend)
    before = [p.copy() for p in params]
    state = copy.deepcopy(opt.state)
    for _ in range(2):
        opt.eval()
        shown = [p.copy() for p in params]
        opt.eval()
        for p, x, y, s in zip(params, shown, before, state, strict=True):
            assert_same_bits(p, x)
            wide = y.astype(FLOAT64)
            mean = (wide - (1 - 0.9) * s["z"]) / 0.9
            np.testing.assert_allclose(
                x.astype(FLOAT64), mean, rtol=2e-2 if dtype not in (FLOAT32, FLOAT64) else 1e-4, atol=2e-2
            )
        opt.train()
        opt.train()
        for p, y in zip(params, before, strict=True):
            assert_same_bits(p, y)


@each_backend
@each_schedule_free
def test_the_average_is_that_of_the_iterates(name: str, backend: Backend) -> None:
    """Of all z, with equal weights at a constant rate; of AdamW when v is corrected in place of the rate."""
    rng = np.random.default_rng(0)
    options = {} if name == "schedule_free_sgd" else {"convention": "keras"}
    p = rng.standard_normal(6)
    opt: Any = fo.OPTIMIZERS[name](p, lr=0.1, **options, backend=backend)
    iterates = []
    for _ in range(30):
        opt.step(rng.standard_normal(6))
        iterates.append(opt.state["z"].copy())
    opt.eval()
    np.testing.assert_allclose(p, np.mean(iterates, axis=0), rtol=1e-10, atol=1e-13)


@each_schedule_free
def test_before_the_first_step_the_average_is_the_start(name: str) -> None:
    p = np.array([0.1, -3.0])
    opt: Any = fo.OPTIMIZERS[name](p)
    opt.eval()
    assert p.tolist() == [0.1, -3]


REFUSED: dict[str, Callable[[Any, list[Array]], Any]] = {
    "step": lambda opt, params: opt.step([np.zeros_like(p) for p in params]),
    "state_dict": lambda opt, params: opt.state_dict(),
    "load_state_dict": lambda opt, params: opt.load_state_dict(trained(opt.name)[0].state_dict()),
    "deepcopy": lambda opt, params: copy.deepcopy(opt),
    "pickle": lambda opt, params: pickle.dumps(opt),
    "averaged": lambda opt, params: opt.averaged().__enter__(),
}


@pytest.mark.parametrize("refused", REFUSED.values(), ids=REFUSED)
@each_schedule_free
def test_between_eval_and_train_all_else_is_refused(name: str, refused: Callable[[Any, list[Array]], Any]) -> None:
    opt, params = trained(name, ema=0.9)
    opt.eval()
    before, state = [p.copy() for p in params], copy.deepcopy(opt.state)
    with pytest.raises(RuntimeError, match=r"train\(\)"):
        refused(opt, params)
    for p, x in zip(params, before, strict=True):
        assert_same_bits(p, x)
    assert all(a[k].tobytes() == b[k].tobytes() for a, b in zip(opt.state, state, strict=True) for k in a)
    opt.train()
    if refused is not REFUSED["averaged"]:
        refused(opt, params)


@each_schedule_free
def test_inside_averaged_there_is_no_eval(name: str) -> None:
    opt, params = trained(name, ema=0.9)
    with opt.averaged():
        shown = params[0].copy()
        with pytest.raises(RuntimeError, match="averaged"):
            opt.eval()
        opt.train()
        assert_same_bits(params[0], shown)


@each_schedule_free
def test_a_locked_parameter_can_be_put_back_later(name: str) -> None:
    opt, params = trained(name)
    before = [p.copy() for p in params]
    opt.eval()
    params[0].flags.writeable = False
    with pytest.raises(ValueError, match=r"params\[0\]"):
        opt.train()
    with pytest.raises(RuntimeError, match=r"train\(\)"):
        opt.state_dict()
    params[0].flags.writeable = True
    opt.train()
    for p, y in zip(params, before, strict=True):
        assert_same_bits(p, y)


@each_backend
@each_schedule_free
def test_a_checkpoint_and_a_copy_go_on_after_eval_and_train(name: str, backend: Backend) -> None:
    opt, params = trained(name, backend=backend, warmup_steps=10)
    opt.eval()
    opt.train()
    fresh = [p.copy() for p in params]
    loaded: Any = fo.OPTIMIZERS[name](fresh, lr=0.3, backend=backend)
    loaded.load_state_dict(opt.state_dict())
    twin = pickle.loads(pickle.dumps(opt))
    rng = np.random.default_rng(9)
    for _ in range(5):
        grads = [rng.standard_normal(p.shape).astype(FLOAT32) for p in params]
        for each in (opt, loaded, twin):
            each.step(grads)
    for each in (opt, loaded, twin):
        each.eval()
    for p, a, b in zip(params, loaded.params, twin.params, strict=True):
        assert_same_bits(a, p)
        assert_same_bits(b, p)


@each_backend
@each_schedule_free
def test_groups_are_averaged_with_their_own_option(name: str, backend: Backend) -> None:
    option: Callable[[float], dict[str, Any]] = (
        (lambda b: {"momentum": b}) if name == "schedule_free_sgd" else (lambda b: {"betas": (b, 0.999)})
    )
    p, q, alone = np.ones(3), np.ones(3), np.ones(3)
    groups = [{"params": p, **option(0.9)}, {"params": q, **option(0.5)}]
    both: Any = fo.OPTIMIZERS[name](groups, lr=0.1, backend=backend)
    single: Any = fo.OPTIMIZERS[name](alone, lr=0.1, **option(0.5), backend=backend)
    for g in np.random.default_rng(0).standard_normal((5, 3)):
        both.step([g, g])
        single.step(g)
    both.eval()
    single.eval()
    assert_same_bits(q, alone)
    assert p.tobytes() != q.tobytes()


@each_backend
def test_a_learning_rate_of_0_averages_nothing(backend: Backend) -> None:
    p = np.array([1.0])
    opt = fo.ScheduleFreeSGD(p, lr=0.0, backend=backend)
    opt.step(np.array([1.0]))
    assert p[0] == 1
    opt.lr = 0.1
    opt.step(np.array([1.0]))
    assert opt.state["weight_sum"] == 0.1 * 0.1
    np.testing.assert_allclose(p, 1 - 0.1)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@each_schedule_free
def test_numbers_of_the_state_have_the_references_bits(name: str, dtype: DType, isa: str) -> None:
    """Arrays of many sizes in one optimizer, on several threads, some of them late."""
    fo.set_num_threads(3)
    rng = np.random.default_rng(0)
    sizes = [*range(0, 70, 3), TILE - 1, TILE, TILE + 1, 3 * MIN_SHARE + 1]
    options = {"lr": 0.1, "warmup_steps": 3, "r": 1, "weight_decay": 0.1, "maximize": True}
    params = [ordinary_values(rng, dtype, size) for size in sizes]
    ours = fo.OPTIMIZERS[name]([p.copy() for p in params], **options)
    theirs = fo.OPTIMIZERS[name]([p.copy() for p in params], **options, backend="reference")
    for step in range(5):
        grads = [None if (step + i) % 4 == 0 else ordinary_values(rng, FLOAT16, size) for i, size in enumerate(sizes)]
        ours.step(grads)
        theirs.step(grads)
    for i, size in enumerate(sizes):
        assert_same_bits(ours.params[i], theirs.params[i], f"p of {size}")
        for key, array in ours.state[i].items():
            assert_same_bits(array, theirs.state[i][key], f"{key} of {size}")


@pytest.mark.parametrize("option", ["warmup_steps", "r", "weight_lr_power"])
def test_counts_are_whole_numbers(option: str) -> None:
    make: Any = fo.ScheduleFreeSGD
    with pytest.raises(TypeError, match=f"{option}: expected an integer"):
        make(np.ones(1), **{option: 0.5})
    with pytest.raises(ValueError, match=f"{option}: expected an integer"):
        make(np.ones(1), **{option: -1})
