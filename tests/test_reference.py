"""The reference itself: against sequences worked by hand, and against the documented formulas in fifty digits."""

from __future__ import annotations

import inspect
from collections import defaultdict
from collections.abc import Callable, Iterable
from decimal import Context, Decimal, localcontext
from math import isfinite, sqrt
from typing import Any, NamedTuple, get_args

import numpy as np
import pytest

import fastoptim as fo
import fastoptim.core
from cases import CASES, DTYPES, FLOAT32, FLOAT64, VARIANT_CASES, Array, Case, DType, assert_same_bits, case_id
from fastoptim.options.checks import Range
from fastoptim.reference_math import compute_dtype

# ---- sequences worked by hand


class Worked(NamedTuple):
    """From p = 1 by these gradients: p after each step, and the state after the last."""

    name: str
    options: dict[str, Any]
    grads: list[float]
    p: list[float]
    state: dict[str, float]


SGD = {"lr": 0.5}
PUSH = {"lr": 0.25, "momentum": 0.5}
EMA = {"lr": 0.25, "momentum": 0.75, "form": "ema"}
ADAGRAD = {"lr": 0.5, "eps": 3.0}
RMS = {"lr": 0.25, "alpha": 0.75, "eps": 2.0}
ADAM = {"lr": 0.25, "betas": (0.5, 0.75), "eps": 0.0}

WORKED = {
    # 1 - 0.5*1 = 0.5;  0.5 + 0.5*0.5 = 0.75
    "sgd": Worked("sgd", SGD, [1, -0.5], [0.5, 0.75], {}),
    # b = 1: 1 - 0.5*1;  b = 0.5*1 - 0.5 = 0: no step;  b = 0 + 2: 0.5 - 0.5*2
    "sgd momentum": Worked("sgd", {**SGD, "momentum": 0.5}, [1, -0.5, 2], [0.5, 0.5, -0.5], {"b": 2}),
    # b = 1, undamped: 1 - 0.5*1;  b = 0.5*1 - 0.75*1 = -0.25: 0.5 + 0.125;  b = -0.125 + 0.75*2 = 1.375: - 0.6875
    "sgd dampening": Worked(
        "sgd", {**SGD, "momentum": 0.5, "dampening": 0.25}, [1, -1, 2], [0.5, 0.625, -0.0625], {"b": 1.375}
    ),
    # b = 1, d = 1 + 0.5: 1 - 0.75;  b = 0.5 - 1 = -0.5, d = -1 - 0.25: 0.25 + 0.625
    "sgd nesterov": Worked("sgd", {**SGD, "momentum": 0.5, "nesterov": True}, [1, -1], [0.25, 0.875], {"b": -0.5}),
    # g = 1 + 0.5*1: 1 - 0.75;  g = 1 + 0.5*0.25: 0.25 - 0.5625
    "sgd weight_decay": Worked("sgd", {**SGD, "weight_decay": 0.5}, [1, 1], [0.25, -0.3125], {}),
    # 1 + 0.5*1;  1.5 - 0.5*2
    "sgd maximize": Worked("sgd", {**SGD, "maximize": True}, [1, -2], [1.5, 0.5], {}),
    # g = -1 + 0.5*1 = -0.5: 1 + 0.25;  g = 2 + 0.5*1.25 = 2.625: 1.25 - 1.3125
    "sgd weight_decay maximize": Worked(
        "sgd", {**SGD, "weight_decay": 0.5, "maximize": True}, [1, -2], [1.25, -0.0625], {}
    ),
    # v = -0.25*1: 1 - 0.25;  v = -0.125 + 0.25 = 0.125: 0.75 + 0.125
    "velocity": Worked("momentum", PUSH, [1, -1], [0.75, 0.875], {"v": 0.125}),
    # v = -0.25: 1 + 0.5*-0.25 - 0.25*1;  v = 0.125: 0.625 + 0.5*0.125 + 0.25
    "velocity nesterov": Worked("momentum", {**PUSH, "nesterov": True}, [1, -1], [0.625, 0.9375], {"v": 0.125}),
    # v = 1: 1 - 0.25*1;  v = 0.5 - 1 = -0.5: 0.75 + 0.125
    "heavy_ball": Worked("momentum", {**PUSH, "form": "heavy_ball"}, [1, -1], [0.75, 0.875], {"v": -0.5}),
    # v = 1: 1 - 0.25*(1 + 0.5*1);  v = -0.5: 0.625 - 0.25*(-1 - 0.25)
    "heavy_ball nesterov": Worked(
        "momentum", {**PUSH, "form": "heavy_ball", "nesterov": True}, [1, -1], [0.625, 0.9375], {"v": -0.5}
    ),
    # v = 0.25*1: 1 - 0.25*0.25;  v = 0.75*0.25 - 0.25 = -0.0625: 0.9375 + 0.25*0.0625
    "ema": Worked("momentum", EMA, [1, -1], [0.9375, 0.953125], {"v": -0.0625}),
    # v = 0.25: 1 - 0.25*(0.75*0.25 + 0.25*1);  v = -0.0625: 0.890625 - 0.25*(-0.75*0.0625 - 0.25)
    "ema nesterov": Worked("momentum", {**EMA, "nesterov": True}, [1, -1], [0.890625, 0.96484375], {"v": -0.0625}),
    # As velocity: only the point of the gradient differs.
    "nag": Worked("nag", PUSH, [1, -1], [0.75, 0.875], {"v": 0.125}),
    # s = 9: 1 - 0.5*3/(3 + 3);  s = 9 + 16: 0.75 - 0.5*4/(5 + 3)
    "adagrad": Worked("adagrad", ADAGRAD, [3, 4], [0.75, 0.5], {"s": 25}),
    # The same with lr = 0.5, then 0.5/(1 + 1*1)
    "adagrad lr_decay": Worked("adagrad", {**ADAGRAD, "lr_decay": 1.0}, [3, 4], [0.75, 0.625], {"s": 25}),
    # s = 9: 1 - 0.5*3/sqrt(9 + 7);  s = 9 + 9: 0.625 - 0.5*3/sqrt(18 + 7)
    "adagrad eps_root": Worked("adagrad", {"lr": 0.5, "eps": 0.0, "eps_root": 7.0}, [3, 3], [0.625, 0.325], {"s": 18}),
    # s = 7 + 9: 1 - 0.5*3/(4 + 4)
    "adagrad initial": Worked(
        "adagrad", {"lr": 0.5, "eps": 4.0, "initial_accumulator_value": 7.0}, [3], [0.8125], {"s": 16}
    ),
    # s = 0.25*16 = 4, d = 2 + 2: 1 - 0.25*4/4;  s = 0.75*4 + 0.25*4 = 4: 0.75 - 0.25*2/4
    "rmsprop": Worked("rmsprop", RMS, [4, 2], [0.75, 0.625], {"s": 4}),
    # d = sqrt(4 + 12) = 4 both times
    "rmsprop eps_root": Worked("rmsprop", {**RMS, "eps": 0.0, "eps_root": 12.0}, [4, 2], [0.75, 0.625], {"s": 4}),
    # b = 4/4: 1 - 0.25*1;  b = 0.5*1 + 2/4 = 1: 0.75 - 0.25*1
    "rmsprop momentum": Worked("rmsprop", {**RMS, "momentum": 0.5}, [4, 2], [0.75, 0.5], {"s": 4, "b": 1}),
    # s = 4, a = 0.25*4 = 1, d = sqrt(4 - 1 + 1) + 2 = 4: 1 - 0.25*4/4;
    # s = 3 + 0.25*9 = 5.25, a = 0.75 + 0.75 = 1.5, d = sqrt(5.25 - 2.25 + 1) + 2 = 4: 0.75 - 0.25*3/4
    "rmsprop centered": Worked(
        "rmsprop", {**RMS, "eps_root": 1.0, "centered": True}, [4, 3], [0.75, 0.5625], {"s": 5.25, "g_avg": 1.5}
    ),
    # The same d: b = 1: 1 - 0.25*1;  b = 0.5*1 + 3/4 = 1.25: 0.75 - 0.25*1.25
    "rmsprop centered momentum": Worked(
        "rmsprop",
        {**RMS, "eps_root": 1.0, "centered": True, "momentum": 0.5},
        [4, 3],
        [0.75, 0.4375],
        {"s": 5.25, "g_avg": 1.5, "b": 1.25},
    ),
    # m = 0.5*4 = 2, v = 0.25*16 = 4, mhat = 2/0.5 = 4, vhat = 4/0.25 = 16: 1 - 0.25*4/4;
    # m = 1 - 2 = -1, v = 3 + 4 = 7, mhat = -1/0.75 = -4/3, vhat = 7/0.4375 = 16: 0.75 + 0.25*(4/3)/4
    "adam": Worked("adam", ADAM, [4, -4], [0.75, 5 / 6], {"m": -1, "v": 7}),
    # 1 - 0.25*4/(4 + 4);  0.875 + 0.25*(4/3)/(4 + 4)
    "adam eps": Worked("adam", {**ADAM, "eps": 4.0}, [4, -4], [0.875, 11 / 12], {"m": -1, "v": 7}),
    # 1 - 0.25*4/sqrt(16 + 9);  0.8 + 0.25*(4/3)/sqrt(16 + 9)
    "adam eps_root": Worked("adam", {**ADAM, "eps_root": 9.0}, [4, -4], [0.8, 13 / 15], {"m": -1, "v": 7}),
    # m = 4, v = 16, mhat = 8, vhat = 64: 1 - 0.25*8/8;
    # m = 2, v = 12 below the maximum 16, mhat = 2/0.75 = 8/3, vhat = 16/0.4375 = 256/7: 0.75 - 0.25*(8/3)*sqrt(7)/16
    "adam amsgrad": Worked(
        "adam", {**ADAM, "amsgrad": True}, [8, 0], [0.75, 0.75 - sqrt(7) / 24], {"m": 2, "v": 12, "v_max": 16}
    ),
    # g = 2 + 2*1 = 4;  g = -5.5 + 2*0.75 = -4
    "adam weight_decay": Worked("adam", {**ADAM, "weight_decay": 2.0}, [2, -5.5], [0.75, 5 / 6], {"m": -1, "v": 7}),
    "adam maximize": Worked("adam", {**ADAM, "maximize": True}, [-4, 4], [0.75, 5 / 6], {"m": -1, "v": 7}),
    # 1*(1 - 0.25*0.5) - 0.25;  0.625*0.875 + 1/12
    "adamw": Worked("adamw", {**ADAM, "weight_decay": 0.5}, [4, -4], [0.625, 0.546875 + 1 / 12], {"m": -1, "v": 7}),
}


@pytest.mark.parametrize("dtype", [FLOAT64, FLOAT32], ids=str)
@pytest.mark.parametrize("worked", WORKED.values(), ids=WORKED)
def test_worked_by_hand(worked: Worked, dtype: DType) -> None:
    p = np.ones(1, dtype)
    opt = fo.OPTIMIZERS[worked.name](p, **worked.options, backend="reference")
    for g, wanted in zip(worked.grads, worked.p, strict=True):
        opt.step(np.array([g], dtype))
        np.testing.assert_allclose(p, [wanted], rtol=4 * np.finfo(dtype).eps)
    state = opt.state
    assert state.keys() == worked.state.keys()
    for name, wanted in worked.state.items():
        np.testing.assert_array_equal(state[name], [wanted], name)


@pytest.mark.parametrize("worked", WORKED.values(), ids=WORKED)
def test_worked_by_hand_on_the_callers_buffers(worked: Worked) -> None:
    p = np.ones(1)
    state = [np.full(1, worked.options.get("initial_accumulator_value", 0.0)) for _ in worked.state]
    for t, (g, wanted) in enumerate(zip(worked.grads, worked.p, strict=True), 1):
        getattr(fo.reference, worked.name)(p, np.array([float(g)]), *state, step=t, **worked.options)
        np.testing.assert_allclose(p, [wanted], rtol=1e-15)


def test_every_variant_is_worked_by_hand() -> None:
    worked = {(name, fo.OPTIMIZERS[name].check_options(options).variant) for name, options, *_ in WORKED.values()}
    documented = {case for case in CASES if case.optimizer.name in FORMULAS}
    assert worked >= {(case.optimizer.name, case.variant) for case in documented} - {("adamw", "adam_amsgrad")}


@pytest.mark.parametrize("backend", ["native", "reference"])
def test_nag_takes_its_gradient_ahead(backend: Any) -> None:
    """Of p*p.  At 1, ahead 1: g = 2, v = -0.5, p = 0.5.  Ahead 0.5 - 0.25: g = 0.5, v = -0.25 - 0.125, p = 0.125."""
    p = np.ones(1)
    opt = fo.NAG(p, lr=0.25, momentum=0.5, backend=backend)
    for ahead, after in ((1, 0.5), (0.25, 0.125)):
        before = p.copy()
        with opt.lookahead():
            assert p[0] == ahead
            g = 2 * p
        assert_same_bits(p, before, "p")
        opt.step(g)
        assert p[0] == after


# ---- the documented formulas in fifty digits

D = Decimal
State = defaultdict[str, D]


def sgd(p: D, g: D, s: State, t: int, *, lr: D, momentum: D, dampening: D, nesterov: bool) -> D:
    if momentum == 0:
        return p - lr * g
    s["b"] = g if t == 1 else momentum * s["b"] + (1 - dampening) * g
    return p - lr * (g + momentum * s["b"] if nesterov else s["b"])


def momentum(p: D, g: D, s: State, t: int, *, lr: D, momentum: D, nesterov: bool, form: str) -> D:
    if form == "velocity":
        s["v"] = momentum * s["v"] - lr * g
        return p + (momentum * s["v"] - lr * g if nesterov else s["v"])
    if form == "heavy_ball":
        s["v"] = momentum * s["v"] + g
        return p - lr * (g + momentum * s["v"] if nesterov else s["v"])
    s["v"] = momentum * s["v"] + (1 - momentum) * g
    return p - lr * ((1 - momentum) * g + momentum * s["v"] if nesterov else s["v"])


def nag(p: D, g: D, s: State, t: int, *, lr: D, momentum: D) -> D:
    s["v"] = momentum * s["v"] - lr * g
    return p + s["v"]


def adagrad(
    p: D, g: D, s: State, t: int, *, lr: D, eps: D, eps_root: D, lr_decay: D, initial_accumulator_value: D
) -> D:
    s["s"] = (initial_accumulator_value if t == 1 else s["s"]) + g * g
    return p - lr / (1 + (t - 1) * lr_decay) * g / ((s["s"] + eps_root).sqrt() + eps)


def rmsprop(p: D, g: D, s: State, t: int, *, lr: D, alpha: D, eps: D, eps_root: D, momentum: D, centered: bool) -> D:
    s["s"] = alpha * s["s"] + (1 - alpha) * g * g
    if centered:
        s["g_avg"] = alpha * s["g_avg"] + (1 - alpha) * g
    d = (s["s"] - s["g_avg"] * s["g_avg"] + eps_root).sqrt() + eps
    if momentum == 0:
        return p - lr * g / d
    s["b"] = momentum * s["b"] + g / d
    return p - lr * s["b"]


def adam(p: D, g: D, s: State, t: int, *, lr: D, betas: tuple[D, D], eps: D, eps_root: D, amsgrad: bool) -> D:
    b1, b2 = betas
    s["m"] = b1 * s["m"] + (1 - b1) * g
    s["v"] = b2 * s["v"] + (1 - b2) * g * g
    if amsgrad:
        s["v_max"] = max(s["v_max"], s["v"])
    mhat = s["m"] / (1 - b1**t)
    vhat = (s["v_max"] if amsgrad else s["v"]) / (1 - b2**t)
    return p - lr * mhat / ((vhat + eps_root).sqrt() + eps)


def adamw(p: D, g: D, s: State, t: int, *, lr: D, weight_decay: D, **options: Any) -> D:
    return adam(p * (1 - lr * weight_decay), g, s, t, lr=lr, **options)


FORMULAS: dict[str, Callable[..., Decimal]] = {
    "sgd": sgd,
    "momentum": momentum,
    "nag": nag,
    "adagrad": adagrad,
    "rmsprop": rmsprop,
    "adam": adam,
    "adamw": adamw,
}

STEPS = 60


def beside(case: Case) -> set[str]:
    """The options that only make it another framework's, which test_conventions.py covers."""
    taken = inspect.signature(FORMULAS["adam" if case.optimizer is fo.AdamW else case.optimizer.name]).parameters
    return case.options.keys() - taken.keys() - case.optimizer.shared


def documented_cases() -> Iterable[Case]:
    """With options of ordinary size: at the ends of their ranges a formula's own cancellation exceeds any tolerance."""
    around = {"decoupled", "l1", "clip_value", "clip_norm", "clip_global_norm", "grad_scale", "ema", "swa_start"}
    return [
        case
        for case in CASES
        if case.optimizer.name in FORMULAS
        and "=" not in case.id
        and all(case.options[name] == case.optimizer.defaults[name] for name in around | beside(case))
    ]


def exact(annotation: Any, value: Any, dtype: DType) -> Any:
    """The option without rounding; a rate in [0, 1] as the compute type keeps it, of which the class documents that it
    is meant in the mean and in its complement alike."""
    if isinstance(value, tuple):
        return tuple(exact(part, item, dtype) for part, item in zip(get_args(annotation), value, strict=True))
    if isinstance(value, (bool, str)):
        return value
    allowed = next(part for part in get_args(annotation) if isinstance(part, Range))
    return Decimal(float(dtype.type(value)) if isfinite(allowed.high) else value)


def rate(case: Case, step: int) -> float:
    """A learning rate that changes from step to step."""
    return float(case.options["lr"] * (1 + step % 3))


def evaluate(case: Case, p: float, grads: list[float], dtype: DType) -> tuple[list[Decimal], State]:
    """One element's way by the documented formula, and its state at the end."""
    formula, decoupled = FORMULAS[case.optimizer.name], case.optimizer.name == "adamw"
    unused = (case.optimizer.shared - {"weight_decay", "maximize"}) | beside(case)
    used = {k: v for k, v in case.options.items() if k not in unused}
    options = {k: exact(case.optimizer.annotations[k], v, dtype) for k, v in used.items()}
    maximize, weight_decay = options.pop("maximize"), options["weight_decay"]
    if not decoupled:
        del options["weight_decay"]
    state: State = defaultdict(Decimal)
    way = [Decimal(p)]
    for t, grad in enumerate(grads, 1):
        g = -Decimal(grad) if maximize else Decimal(grad)
        if not decoupled:
            g += weight_decay * way[-1]
        options["lr"] = Decimal(rate(case, t - 1))
        way.append(formula(way[-1], g, state, t, **options))
    return way[1:], state


@pytest.mark.parametrize("dtype", [FLOAT64, FLOAT32], ids=str)
@pytest.mark.parametrize("case", documented_cases(), ids=case_id)
def test_the_documented_formula(case: Case, dtype: DType) -> None:
    rng = np.random.default_rng(0)
    p = np.array([5, -3, 0.5], dtype)
    grads = rng.normal([0, 1, -0.1], 1, (STEPS, 3)).astype(dtype)
    with localcontext(Context(prec=50)):
        found = [
            evaluate(case, float(start), [float(g) for g in column], dtype)
            for start, column in zip(p, grads.T, strict=True)
        ]
    opt = case.optimize(p, "reference")
    opt.param_groups[0]["lr"] = lambda step: rate(case, step)
    way = []
    for g in grads:
        opt.step(g)
        way.append(p.copy())
    assert_close(np.array(way), np.array([w for w, _ in found], FLOAT64).T, "p")
    for name, array in opt.state.items():
        assert_close(array, np.array([s[name] for _, s in found], FLOAT64), name)


def assert_close(actual: Array, wanted: Array, place: str) -> None:
    """A step rounds p once, by half a unit in the last place of the largest number met, and has few such errors of its
    own, smaller size; at worst those of all steps add up."""
    atol = STEPS * np.finfo(actual.dtype).eps * np.abs(wanted).max()
    np.testing.assert_allclose(actual, wanted, rtol=0, atol=atol, err_msg=place)


# ---- what the reference does besides


@pytest.mark.parametrize("dtype", DTYPES[2:], ids=str)
@pytest.mark.parametrize("case", VARIANT_CASES, ids=case_id)
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


@pytest.mark.parametrize("g_dtype", DTYPES, ids=str)
@pytest.mark.parametrize("p_dtype", DTYPES, ids=str)
def test_gradients_are_only_read(p_dtype: DType, g_dtype: DType) -> None:
    g = np.random.default_rng(0).standard_normal(50).astype(g_dtype)
    before = g.tobytes()
    for case in VARIANT_CASES:
        opt = case.optimize(np.ones(50, p_dtype), "reference")
        opt.step(g)
        opt.step(g)
        assert all(
            s.dtype == (FLOAT64 if case.optimizer.state_schema[name].is_scalar else compute_dtype(p_dtype))
            for name, s in opt.state.items()
        )
        assert g.tobytes() == before, case.id


def test_no_compiled_code_runs(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("Plan", "UpdateConfig"):
        monkeypatch.setattr(fastoptim.core, name, None)
    for case in VARIANT_CASES:
        opt = case.optimize([np.ones(3), np.ones(3, np.float16)], "reference")
        opt.step([np.ones(3), np.ones(3)])
        case.update(fo.reference, np.ones(3), np.ones(3), case.make_state(lambda: np.ones(3)), 1)
