"""LARS, LAMB, NovoGrad and Prodigy: against loops in plain Python, written from the papers and the authors' code."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Sequence
from functools import cache
from types import ModuleType
from typing import Any, get_args

import numpy as np
import pytest

import fastoptim as fo
from cases import FLOAT16, FLOAT32, FLOAT64, Array, DType, assert_same_bits
from models import Backend, each_backend, each_dtype, each_module, leaves

STEPS = 100
SHAPES: tuple[tuple[int, ...], ...] = ((4, 3), (5,), ())

Options = dict[str, Any]
Floats = list[float]
Grads = Sequence[Floats | None]

RULES: list[type[fo.Optimizer]] = [fo.LARS, fo.LAMB, fo.NovoGrad, fo.Prodigy]
each_rule = pytest.mark.parametrize("optimizer", RULES, ids=lambda cls: str(cls.name))


# ---- the oracles


def norm(x: Floats) -> float:
    return math.sqrt(math.fsum(each * each for each in x))


class Naive:
    """One group of arrays as lists of floats; an array without a gradient is not there in that step."""

    def __init__(self, params: Sequence[Floats], options: Options) -> None:
        self.params = [list(p) for p in params]
        self.state: list[dict[str, Any]] = [self.first(p, options) for p in params]
        self.times = [0] * len(params)
        self.options = options

    def first(self, p: Floats, options: Options) -> dict[str, Any]:
        return {"m": [0.0] * len(p), "v": [0.0] * len(p)}

    def step(self, grads: Grads) -> None:
        for i, g in enumerate(grads):
            if g is not None:
                self.times[i] += 1
                self.params[i] = self.one(self.params[i], g, self.state[i], self.times[i], **self.options)

    def one(self, p: Floats, g: Floats, state: dict[str, Any], t: int, **options: Any) -> Floats:
        raise NotImplementedError


class NaiveLARS(Naive):
    def one(  # type: ignore[override]
        self,
        p: Floats,
        g: Floats,
        state: dict[str, Any],
        t: int,
        *,
        lr: float,
        momentum: float,
        trust_coefficient: float,
        eps: float,
        decayed_norm: bool,
        nesterov: bool,
        weight_decay: float,
        decoupled: bool,
    ) -> Floats:
        if decoupled:
            p = [x * (1 - lr * weight_decay) for x in p]
            weight_decay = 0.0
        d = [y + weight_decay * x for x, y in zip(p, g, strict=True)]
        local = 1.0
        measured = norm(d) if decayed_norm else norm(g)
        if norm(p) > 0 and measured > 0:
            local = trust_coefficient * norm(p)
            local /= measured + eps if decayed_norm else measured + weight_decay * norm(p) + eps
        state["v"] = [momentum * v + lr * local * y for v, y in zip(state["v"], d, strict=True)]
        if nesterov:
            return [x - (momentum * v + lr * local * y) for x, v, y in zip(p, state["v"], d, strict=True)]
        return [x - v for x, v in zip(p, state["v"], strict=True)]


class NaiveLAMB(Naive):
    def one(  # type: ignore[override]
        self,
        p: Floats,
        g: Floats,
        state: dict[str, Any],
        t: int,
        *,
        lr: float,
        betas: tuple[float, float],
        eps: float,
        eps_root: float,
        bias_correction: bool,
        weight_decay: float,
        decoupled: bool,
    ) -> Floats:
        beta1, beta2 = betas
        state["m"] = [beta1 * m + (1 - beta1) * y for m, y in zip(state["m"], g, strict=True)]
        state["v"] = [beta2 * v + (1 - beta2) * y * y for v, y in zip(state["v"], g, strict=True)]
        if decoupled:
            p = [x - lr * weight_decay * x for x in p]
        r = []
        for x, m, v in zip(p, state["m"], state["v"], strict=True):
            m_hat = m / (1 - beta1**t) if bias_correction else m
            v_hat = v / (1 - beta2**t) if bias_correction else v
            r.append(m_hat / (math.sqrt(v_hat + eps_root) + eps) + (0.0 if decoupled else weight_decay * x))
        ratio = norm(p) / norm(r) if norm(p) > 0 and norm(r) > 0 else 1.0
        return [x - lr * ratio * u for x, u in zip(p, r, strict=True)]


class NaiveNovoGrad(Naive):
    def first(self, p: Floats, options: Options) -> dict[str, Any]:
        return {"m": [0.0] * len(p), "v": 0.0}

    def one(  # type: ignore[override]
        self,
        p: Floats,
        g: Floats,
        state: dict[str, Any],
        t: int,
        *,
        lr: float,
        betas: tuple[float, float],
        eps: float,
        grad_averaging: bool,
        weight_decay: float,
        decoupled: bool,
    ) -> Floats:
        beta1, beta2 = betas
        state["v"] = norm(g) ** 2 if t == 1 else beta2 * state["v"] + (1 - beta2) * norm(g) ** 2
        if decoupled:
            p = [x - lr * weight_decay * x for x in p]
        d = [y / (math.sqrt(state["v"]) + eps) for y in g]
        if not decoupled:
            d = [y + weight_decay * x for x, y in zip(p, d, strict=True)]
        new = 1 - beta1 if grad_averaging else 1.0
        state["m"] = [beta1 * m + new * y for m, y in zip(state["m"], d, strict=True)]
        return [x - lr * m for x, m in zip(p, state["m"], strict=True)]


class NaiveProdigy(Naive):
    """The authors' loop over a group; its numbers are kept with each array, which has those of its own last step."""

    def first(self, p: Floats, options: Options) -> dict[str, Any]:
        zeros = [0.0] * len(p)
        numbers = {"d": options["d0"], "d_max": options["d0"], "d_numerator": 0.0}
        return {"m": zeros, "v": zeros, "s": zeros, "p0": list(p), **numbers}

    def step(self, grads: Grads) -> None:
        o = self.options
        beta1, beta2 = o["betas"]
        beta3 = math.sqrt(beta2) if o["beta3"] is None else o["beta3"]
        growth_rate = math.inf if o["growth_rate"] is None else o["growth_rate"]
        inner: Floats = []
        d_denom: Floats = []
        rates = {}
        for i, g in enumerate(grads):
            if g is None:
                continue
            self.times[i] += 1
            t, p, state = self.times[i], self.params[i], self.state[i]
            correction = math.sqrt(1 - beta2**t) / (1 - beta1**t) if o["bias_correction"] else 1.0
            d = state["d"]
            rates[i] = dlr = d * o["lr"] * correction
            if not o["decoupled"]:
                g = [y + o["weight_decay"] * x for x, y in zip(p, g, strict=True)]
            inner += [y * (x0 - x) for x, x0, y in zip(p, state["p0"], g, strict=True)]
            state["m"] = [beta1 * m + d * (1 - beta1) * y for m, y in zip(state["m"], g, strict=True)]
            state["v"] = [beta2 * v + d * d * (1 - beta2) * y * y for v, y in zip(state["v"], g, strict=True)]
            weight = d / o["d0"] * (d if o["safeguard_warmup"] else dlr)
            state["s"] = [beta3 * s + weight * y for s, y in zip(state["s"], g, strict=True)]
            d_denom += [abs(s) for s in state["s"]]
        for i, dlr in rates.items():
            state, d = self.state[i], self.state[i]["d"]
            state["d_numerator"] = beta3 * state["d_numerator"] + d / o["d0"] * dlr * math.fsum(inner)
            if math.fsum(d_denom) == 0:
                continue
            if o["lr"] > 0:
                d_hat = o["d_coef"] * state["d_numerator"] / math.fsum(d_denom)
                if d == o["d0"]:
                    d = max(d, d_hat)
                state["d_max"] = max(state["d_max"], d_hat)
                state["d"] = d = min(state["d_max"], d * growth_rate)
            shrink = 1 - o["weight_decay"] * dlr if o["decoupled"] else 1.0
            self.params[i] = [
                x * shrink - dlr * m / (math.sqrt(v) + d * o["eps"])
                for x, m, v in zip(self.params[i], state["m"], state["v"], strict=True)
            ]


NAIVE: dict[type[fo.Optimizer], type[Naive]] = {
    fo.LARS: NaiveLARS,
    fo.LAMB: NaiveLAMB,
    fo.NovoGrad: NaiveNovoGrad,
    fo.Prodigy: NaiveProdigy,
}

SHARED: list[Options] = [
    {},
    {"weight_decay": 0.05},
    {"weight_decay": 0.05, "decoupled": True},
    {"weight_decay": 0.05, "decoupled": False},
]
OWN: dict[type[fo.Optimizer], list[Options]] = {
    fo.LARS: [
        {"lr": 0.3, "trust_coefficient": 0.1, "weight_decay": 0.02},
        {"momentum": 0.0, "trust_coefficient": 0.05},
        {"eps": 0.5, "trust_coefficient": 0.1},
        {"nesterov": True, "trust_coefficient": 0.02},
        {"decayed_norm": True, "weight_decay": 0.3, "trust_coefficient": 0.02},
        {"decayed_norm": True, "weight_decay": 0.1, "decoupled": True, "eps": 0.1, "nesterov": True},
        {"convention": "optax", "weight_decay": 0.3, "trust_coefficient": 0.02},
    ],
    fo.LAMB: [
        {"lr": 0.02, "betas": (0.8, 0.95)},
        {"eps": 0.1},
        {"eps_root": 0.1, "eps": 0.0},
        {"bias_correction": False, "weight_decay": 0.01},
        {"bias_correction": False, "eps_root": 0.01, "eps": 0.01, "decoupled": True, "weight_decay": 0.2},
        {"convention": "keras", "weight_decay": 0.2, "lr": 0.02},
        {"convention": "optax", "weight_decay": 0.2},
    ],
    fo.NovoGrad: [
        {"lr": 0.05, "betas": (0.5, 0.9)},
        {"eps": 0.5, "weight_decay": 0.02},
        {"grad_averaging": True, "weight_decay": 0.1},
        {"grad_averaging": True, "decoupled": True, "weight_decay": 0.1},
        {"convention": "optax", "weight_decay": 0.01},
    ],
    fo.Prodigy: [
        {"lr": 0.5, "betas": (0.8, 0.95)},
        {"beta3": 0.9},
        {"eps": 0.01, "d0": 0.01},
        {"d0": 1e-3, "d_coef": 0.5},
        {"growth_rate": 1.02, "d0": 1e-3},
        {"safeguard_warmup": True, "lr": 0.3},
        {"bias_correction": True},
        {"bias_correction": True, "safeguard_warmup": True, "weight_decay": 0.1, "decoupled": False},
    ],
}
SETTINGS = [(cls, own) for cls in RULES for own in SHARED + OWN[cls]]


def setting_id(thing: Any) -> str:
    return str(thing.name) if thing in RULES else ",".join(f"{k}={v}" for k, v in thing.items()) or "plain"


each_setting = pytest.mark.parametrize(("optimizer", "options"), SETTINGS, ids=setting_id)


def initial() -> list[Array]:
    rng = np.random.default_rng(0)
    return [np.asarray(1 + rng.random(shape)) for shape in SHAPES]


@cache
def gradients(step: int) -> list[Array]:
    rng = np.random.default_rng(1 + step)
    return [np.asarray(rng.standard_normal(shape) + 0.5) for shape in SHAPES]


def floats(array: Array) -> Floats:
    flat: Floats = array.reshape(-1).tolist()
    return flat


def naive_for(optimizer: type[fo.Optimizer], params: list[Array], options: Options) -> Naive:
    settings = optimizer.check_options(options).options
    own = {k: v for k, v in settings.items() if k not in optimizer.shared or k in ("lr", "weight_decay", "decoupled")}
    return NAIVE[optimizer]([floats(p) for p in params], own)


def is_looked_at(t: int) -> bool:
    """At the first steps each, then now and then: a deviation stays."""
    return t < 3 or t % 10 == 9


def assert_follows(opt: fo.Optimizer, naive: Naive, place: str, rtol: float = 1e-10) -> None:
    for p, state, expected, kept in zip(opt.params, opt.state, naive.params, naive.state, strict=True):
        np.testing.assert_allclose(p.reshape(-1), expected, rtol=rtol, atol=1e-12, err_msg=place)
        for name, array in state.items():
            wanted = np.asarray(kept[name])
            np.testing.assert_allclose(array.reshape(wanted.shape), wanted, rtol=rtol, atol=1e-12, err_msg=place + name)


@each_backend
@each_setting
def test_the_way_of_the_paper(optimizer: type[fo.Optimizer], options: Options, backend: Backend) -> None:
    params = initial()
    opt, naive = optimizer(params, **options, backend=backend), naive_for(optimizer, params, options)
    for t in range(STEPS):
        opt.step(gradients(t))
        naive.step([floats(g) for g in gradients(t)])
        if is_looked_at(t):
            assert_follows(opt, naive, f"step {t + 1} ")


def test_every_option_and_convention_is_tried() -> None:
    for cls in RULES:
        tried = {name for own in SHARED + OWN[cls] for name in own}
        assert {name for name in cls.defaults if name not in cls.shared} <= tried
        assert {own["convention"] for own in OWN[cls] if "convention" in own} >= set(list(cls.conventions)[1:])


@each_backend
@each_rule
@pytest.mark.parametrize("decoupled", [False, True])
def test_missing_gradients(optimizer: type[fo.Optimizer], backend: Backend, decoupled: bool) -> None:
    """At first, for a while, and of all arrays at once."""
    options: Options = {"weight_decay": 0.02, "decoupled": decoupled}
    params = initial()
    opt, naive = optimizer(params, **options, backend=backend), naive_for(optimizer, params, options)
    rng = np.random.default_rng(7)
    for t in range(STEPS):
        there = [t >= 5, rng.random() < 0.7, not 40 <= t < 46]
        grads = [g if here else None for g, here in zip(gradients(t), there, strict=True)]
        opt.step(grads)
        naive.step([None if g is None else floats(g) for g in grads])
        if is_looked_at(t):
            assert_follows(opt, naive, f"step {t + 1} ")
    opt.step([None] * 3)
    assert_follows(opt, naive, "without any ")


@each_backend
@each_rule
def test_groups_go_their_own_ways(optimizer: type[fo.Optimizer], backend: Backend) -> None:
    """The sums of one are no affair of another's."""
    own: list[Options] = [{"weight_decay": 0.1}, {"lr": 0.5 * optimizer.defaults["lr"]}]
    params = [initial(), [np.asarray(2 * p) for p in initial()]]
    opt = optimizer([{"params": p, **o} for p, o in zip(params, own, strict=True)], backend=backend)
    naives = [naive_for(optimizer, p, o) for p, o in zip(params, own, strict=True)]
    for t in range(40):
        grads = [gradients(t), gradients(t + 1000)]
        opt.step(grads)
        for naive, of_group in zip(naives, grads, strict=True):
            naive.step([floats(g) for g in of_group])
    for p, naive in zip(params, naives, strict=True):
        for array, expected in zip(p, naive.params, strict=True):
            np.testing.assert_allclose(array.reshape(-1), expected, rtol=1e-10)


@each_backend
def test_prodigy_has_one_estimate_for_a_group(backend: Backend) -> None:
    opt = fo.Prodigy(initial(), backend=backend)
    for t in range(20):
        opt.step(gradients(t))
        for name in ("d", "d_max", "d_numerator"):
            assert len({float(state[name]) for state in opt.state}) == 1, name
    assert float(opt.state[0]["d"]) > 1e-6


@each_backend
@each_rule
def test_a_schedule_is_followed(optimizer: type[fo.Optimizer], backend: Backend) -> None:
    """One that begins at zero, too."""
    params = initial()
    naive = naive_for(optimizer, params, {})
    opt = optimizer(params, lr=lambda step: 0.01 * (step % 5), backend=backend)
    for t in range(40):
        naive.options["lr"] = 0.01 * (t % 5)
        opt.step(gradients(t))
        naive.step([floats(g) for g in gradients(t)])
        if is_looked_at(t):
            assert_follows(opt, naive, f"step {t + 1} ")


# ---- zeros and formats


@each_backend
@each_dtype
@each_setting
def test_zeros_make_no_nan(optimizer: type[fo.Optimizer], options: Options, dtype: DType, backend: Backend) -> None:
    """Of parameters, of gradients and of both; then an ordinary step."""
    for p_at, g_at in ((0, 0), (0, 1), (1, 0)):
        params = [np.full((4, 3), p_at, dtype), np.full((), p_at, dtype), np.zeros((0,), dtype)]
        opt = optimizer(params, **options, backend=backend)
        for g in (g_at, 0, 0, 1):
            opt.step([np.full(p.shape, g, dtype) for p in params])
            numbers = [*params, *(array for state in opt.state for array in state.values())]
            assert all(np.isfinite(array).all() for array in numbers), (p_at, g_at, g)


@each_module
@each_rule
def test_zero_gradients_move_nothing(optimizer: type[fo.Optimizer], module: ModuleType) -> None:
    """Nor the sign of a zero."""
    p = np.array([1.0, -2.0, 0.0, -0.0])
    before = p.copy()
    state = [array.copy() for array in optimizer(p.copy()).state.values()]
    for t in (1, 2, 3):
        getattr(module, optimizer.name)(p, np.zeros(4), *state, step=t)
    assert_same_bits(p, before)


@pytest.mark.parametrize("beta", [0.05, 0.45])
def test_prodigy_rounds_one_minus_a_small_beta_as_its_reference(beta: float) -> None:
    """Below 0.5 the difference is not exact in float32."""
    found = []
    for backend in get_args(Backend):
        rng = np.random.default_rng(0)
        p = rng.standard_normal(300).astype(FLOAT32)
        opt = fo.Prodigy(p, betas=(beta, 0.9 * beta), d0=0.013, backend=backend)
        for _ in range(8):
            opt.step(rng.standard_normal(300).astype(FLOAT32))
        found.append((p, opt.state["m"], opt.state["v"]))
    for native, reference in zip(*found, strict=True):
        assert_same_bits(native, reference)


@each_module
def test_prodigy_without_a_rate_leaves_the_sign_of_a_zero(module: ModuleType) -> None:
    """The means move, the estimate has nothing to go by."""
    p = np.array([-0.0, 0.0, 1.0])
    state = [array.copy() for array in fo.Prodigy(p.copy()).state.values()]
    module.prodigy(p, np.array([-1.0, 1.0, 1.0]), *state, step=1, lr=0.0)
    assert_same_bits(p, np.array([-0.0, 0.0, 1.0]))


@each_backend
@each_setting
@pytest.mark.parametrize(("dtype", "rtol"), [(FLOAT32, 2e-4), (FLOAT16, 0.03)], ids=str)
def test_lower_precision_goes_the_same_way(
    optimizer: type[fo.Optimizer], options: Options, backend: Backend, dtype: DType, rtol: float
) -> None:
    if optimizer is fo.Prodigy:  # it measures how far p has come, which is nothing in steps of 1e-6
        options = options | {"d0": 0.05}
    wide, narrow = initial(), [p.astype(dtype) for p in initial()]
    opt, other = optimizer(wide, **options), optimizer(narrow, **options, backend=backend)
    for t in range(20):
        opt.step(gradients(t))
        other.step([g.astype(dtype) for g in gradients(t)])
    for p, expected in zip(narrow, wide, strict=True):
        np.testing.assert_allclose(p.astype(FLOAT64), expected, rtol=rtol, atol=rtol * max(1, abs(expected).max()))


# ---- minima


def rosenbrock(p: Array) -> Array:
    x, y = p
    return np.array([-2 * (1 - x) - 400 * x * (y - x * x), 200 * (y - x * x)])


def bowl(p: Array) -> Array:
    return np.asarray(np.array([1.0, 10.0]) * (p - 1))


# Where each is known to get, with what: a rate that falls to zero, as steps of a fixed length do not end by themselves.
MINIMA: list[tuple[type[fo.Optimizer], Options]] = [
    (fo.LARS, {"lr": 1.0, "trust_coefficient": 0.02}),
    (fo.LAMB, {"lr": 0.05}),
    (fo.NovoGrad, {"lr": 0.01}),
    (fo.Prodigy, {"lr": 1.0, "d0": 1e-3}),
]


@pytest.mark.parametrize(("function", "steps"), [(bowl, 1000), (rosenbrock, 5000)], ids=["bowl", "rosenbrock"])
@pytest.mark.parametrize(("optimizer", "options"), MINIMA, ids=setting_id)
def test_a_minimum_is_reached(
    optimizer: type[fo.Optimizer], options: Options, function: Callable[[Array], Array], steps: int
) -> None:
    p = np.array([-1.0, 1.5])
    opt = optimizer(p, **options | {"lr": fo.schedules.Cosine(options["lr"], steps)})
    for _ in range(steps):
        opt.step(function(p))
    np.testing.assert_allclose(p, [1, 1], atol=1e-4)


# ---- state that is a number

SCALARS = [(cls, name) for cls in RULES for name in cls.state if cls.state_schema[name].is_scalar]
each_scalar = pytest.mark.parametrize(("optimizer", "name"), SCALARS, ids=lambda x: getattr(x, "name", x))


def test_the_state_numbers_are_these() -> None:
    assert [(cls.name, name) for cls, name in SCALARS] == [
        ("novograd", "v"),
        *(("prodigy", name) for name in ("d", "d_max", "d_numerator")),
    ]


@each_backend
@each_dtype
@each_scalar
def test_a_number_is_a_live_float64_array(
    optimizer: type[fo.Optimizer], name: str, backend: Backend, dtype: DType
) -> None:
    options: Options = {"d0": 0.25} if optimizer is fo.Prodigy else {}
    opt = optimizer({"w": np.ones((2, 3), dtype)}, **options, backend=backend)
    number = opt.state["w"][name]
    assert (number.shape, number.dtype) == ((), np.float64)
    before = float(number)
    for _ in range(3):
        opt.step({"w": np.full((2, 3), 0.5, dtype)})
    assert float(number) != before
    assert_same_bits(opt.state_dict()["arrays"][0]["state"][name], number)
    number[...] = 0.125
    assert float(opt.state_dict()["arrays"][0]["state"][name]) == 0.125


@each_backend
@each_scalar
@pytest.mark.parametrize(
    "wrong",
    [np.zeros(1), np.zeros((), np.float32), 0.5, np.float64(0.5), None, np.zeros((2, 3))],
    ids=["shape", "dtype", "float", "scalar", "none", "as_the_parameter"],
)
def test_a_wrong_number_is_not_loaded(optimizer: type[fo.Optimizer], name: str, backend: Backend, wrong: Any) -> None:
    opt = optimizer(np.ones((2, 3)), backend=backend)
    opt.step(np.ones((2, 3)))
    saved = opt.state_dict()
    before = copy.deepcopy(opt.state)
    saved["arrays"][0]["state"][name] = wrong
    with pytest.raises(ValueError, match=f"expected '{name}' as float64 of shape"):
        opt.load_state_dict(saved)
    for key, array in opt.state.items():
        assert_same_bits(array, before[key])


WRONG_NUMBERS: list[tuple[Any, type[Exception], str]] = [
    (np.zeros(1), ValueError, r"expected shape \(\), one number for the whole array, got \(1,\)"),
    (np.zeros((), np.float32), TypeError, "expected float64, got float32"),
    (np.zeros((), np.int64), TypeError, "expected dtype"),
    (0.5, TypeError, "expected a NumPy array, got float"),
    (np.float64(0.5), TypeError, "expected a NumPy array, got numpy.float64"),
    (np.zeros((2, 3)), ValueError, "expected shape"),
    (np.broadcast_to(np.float64(1), ()), ValueError, "expected a writeable array"),
]


@each_module
@each_scalar
@pytest.mark.parametrize("wrong", WRONG_NUMBERS, ids=lambda wrong: f"{wrong[0]!r}")
def test_a_function_refuses_a_wrong_number(
    optimizer: type[fo.Optimizer], name: str, module: ModuleType, wrong: tuple[Any, type[Exception], str]
) -> None:
    p = np.ones((2, 3), np.float32)
    state = {key: array.copy() for key, array in optimizer(p.copy()).state.items()}
    before = [array.tobytes() for array in (p, *state.values())]
    thing, error, message = wrong
    with pytest.raises(error, match=f"{name}.*{message}"):
        getattr(module, optimizer.name)(p, np.ones((2, 3)), *(state | {name: thing}).values(), step=1)
    assert [array.tobytes() for array in (p, *state.values())] == before
    assert getattr(module, optimizer.name)(p, np.ones((2, 3)), *state.values(), step=1) is None


@each_module
@each_scalar
def test_a_number_has_memory_of_its_own(optimizer: type[fo.Optimizer], name: str, module: ModuleType) -> None:
    p = np.ones((2, 3))
    state = {key: array.copy() for key, array in optimizer(p.copy()).state.items()}
    own: Array = p[1:, 1:2].reshape(())
    with pytest.raises(ValueError, match=r"overlaps|is the same memory"):
        getattr(module, optimizer.name)(p, np.ones((2, 3)), *(state | {name: own}).values(), step=1)
    assert (p == 1).all()


@each_module
@each_rule
def test_functions_keep_the_numbers_bits(optimizer: type[fo.Optimizer], module: ModuleType) -> None:
    """Whole runs by the caller's buffers and by the class."""
    p, q = initial()[0], initial()[0]
    opt = optimizer(q)
    state = [array.copy() for array in opt.state.values()]
    for t in range(1, 30):
        getattr(module, optimizer.name)(p, gradients(t)[0], *state, step=t)
        opt.step(gradients(t)[0])
    for found, expected in zip([p, *state], [q, *leaves(list(opt.state.values()))], strict=True):
        assert_same_bits(found, expected)


@pytest.mark.parametrize("threads", [1, 2])
@each_rule
def test_batches_of_arrays_have_the_references_bits(optimizer: type[fo.Optimizer], threads: int) -> None:
    """Arrays of a batch and more, small ones between them, and some without a gradient."""
    fo.set_num_threads(threads)
    sizes = [140_000, 3, 70_000, 70_000, 0, 11, 300_000, 1]
    found: dict[Backend, fo.Optimizer] = {}
    for backend in get_args(Backend):
        rng = np.random.default_rng(0)
        opt = found[backend] = optimizer([rng.standard_normal(size, np.float32) for size in sizes], backend=backend)
        for step in range(3):
            grads = [rng.standard_normal(size, np.float32) for size in sizes]
            opt.step([None if i == step else g for i, g in enumerate(grads)])
    native, reference = found.values()
    for ours, theirs in zip(native.param_states, reference.param_states, strict=True):
        assert_same_bits(ours.p, theirs.p, ours.place)
        for name in ours.state:
            assert_same_bits(ours.state[name], theirs.state[name], f"{ours.place} {name}")
