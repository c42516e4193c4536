"""Refusals of hyper-parameters, and of learning rates that are functions."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Iterator
from types import ModuleType
from typing import Annotated, Any, Literal, NamedTuple, get_args, get_origin

import numpy as np
import pytest

import fastoptim as fo
from cases import EXEMPLARS, own_options
from fastoptim.options.checks import Bounds, LearningRate, OneOf, Scale, may_be_none
from loops import Test, iteration, loop, without_arguments
from models import (
    Backend,
    Buffers,
    Memory,
    Model,
    Refusal,
    each_backend,
    each_grouped_model,
    each_kind,
    each_module,
    every_optimizer,
)

# ---- hyper-parameters


class Wrong(NamedTuple):
    """A value that an option must refuse, with which error, and the part of the option that the message names."""

    value: Any
    error: Refusal
    part: str = ""


NO_NUMBERS: list[Any] = ["0.1", True, np.True_, 1j, [0.1], np.array([0.1]), np.array(0.1), object()]


def wrong_numbers(low: float, high: float, below: bool) -> Iterator[Wrong]:
    values = [math.nan, math.inf, -math.inf, math.nextafter(low, -math.inf), low - 1, np.float32("nan"), -(10**6)]
    if math.isfinite(high):
        values += [math.nextafter(high, math.inf), 2 * high + 1, *([high] if below else [])]
    yield from (Wrong(value, ValueError) for value in values)
    yield from (Wrong(value, TypeError) for value in NO_NUMBERS)


def wrong_scales() -> Iterator[Wrong]:
    """A loss scale is a number above 0, or an array of one."""
    values = [0.0, -1.0, math.nan, math.inf, 2.0**-127, 2.0**127, np.array(0.0), np.array([math.nan]), np.ones(2)]
    values += [np.array(-2, np.float16), np.array(2.0**127), np.ones(0), np.ones((2, 1))]
    yield from (Wrong(value, ValueError) for value in values)
    yield from (Wrong(value, TypeError) for value in ("2", True, 1j, [2.0], np.array("2"), np.array(["2"])))


def wrong_counts(low: int) -> Iterator[Wrong]:
    yield from (Wrong(value, ValueError) for value in (low - 1, -(10**30), 2**63, 10**30))
    yield from (Wrong(value, TypeError) for value in [*NO_NUMBERS, 2.0, math.nan, np.float64(2)])


def wrong_values(annotation: Any, default: Any) -> Iterator[Wrong]:
    origin, args = get_origin(annotation), get_args(annotation)
    if may_be_none(annotation):
        yield from (wrong for wrong in wrong_values(args[0], default) if wrong.value is not None)
    elif annotation == Scale:
        yield from wrong_scales()
    elif annotation == LearningRate:
        yield from (Wrong(np.array(value), ValueError) for value in (-1.0, math.nan, [0.1, 0.2], []))
        yield from (each for each in wrong_numbers(0, math.inf, True) if not isinstance(each.value, np.ndarray))
    elif origin is Annotated and isinstance(args[1], OneOf):
        yield from (Wrong(value, ValueError) for value in (0.0, 3, -1.0, 1.5, math.nan, -math.inf))
        yield from (Wrong(value, TypeError) for value in [*NO_NUMBERS, "inf", None])
    elif annotation is Bounds:
        yield from (Wrong(value, ValueError) for value in ((1, 0), (math.nan, 1), [0.5, math.nan]))
        yield from (Wrong(value, TypeError) for value in (0.5, (), (0,), (0, 1, 2), "ab", {0, 1}))
        yield from (Wrong((0, value), TypeError, "[1]") for value in ("1", True, 1j))
    elif origin is Annotated and args[0] is int:
        yield from wrong_counts(args[1].low)
        yield Wrong(None, TypeError)
    elif origin is Annotated:
        yield Wrong(None, TypeError)
        yield from wrong_numbers(args[1].low, args[1].high, args[1].below)
    elif origin is tuple:
        for i, part in enumerate(args):
            for value, error, _ in wrong_values(part, default[i]):
                yield Wrong((*default[:i], value, *default[i + 1 :]), error, f"[{i}]")
        yield from (
            Wrong(value, TypeError) for value in (0.5, None, "ab", (), default[:1], (*default, 0.5), {0.1, 0.2})
        )
    elif origin is Literal:
        yield from (Wrong(value, ValueError) for value in ("no such", "", str(default).upper()))
    else:
        assert annotation is bool
        yield from (Wrong(value, TypeError) for value in (1, 0, None, "True", 1.0, np.array(True)))


def options_of(optimizer: type[fo.Optimizer]) -> list[str]:
    return [name for name in optimizer.defaults if optimizer.name in EXEMPLARS or name in own_options(optimizer)]


def every_option(test: Test) -> Test:
    """Parametrise over optimizers, and run the test for each of their options."""

    def run(optimizer: type[fo.Optimizer], **given: Any) -> None:
        for option in options_of(optimizer):
            with iteration("option", option):
                test(optimizer=optimizer, option=option, **given)

    return every_optimizer(without_arguments(test, run, ["option"]))


def wrong_for(optimizer: type[fo.Optimizer], option: str) -> list[Wrong]:
    return list(wrong_values(optimizer.annotations[option], optimizer.defaults[option]))


@every_option
def test_a_constructor_rejects_wrong_options(optimizer: type[fo.Optimizer], option: str) -> None:
    memory = Memory()
    p = memory.array((3,))
    for value, error, part in wrong_for(optimizer, option):
        with memory.refuses(error, f"{option}{part}: expected "):
            optimizer(p, **{option: value})


@every_option
def test_a_constructor_rejects_a_group_s_wrong_options(optimizer: type[fo.Optimizer], option: str) -> None:
    memory = Memory()
    p, q = memory.array((3,)), memory.array((3,))
    for value, error, part in wrong_for(optimizer, option):
        with memory.refuses(error, f"params[1]: {option}{part}: expected "):
            optimizer([{"params": p}, {"params": q, option: value}])


@every_option
@each_backend
def test_a_step_rejects_options_assigned_to_a_group(
    optimizer: type[fo.Optimizer], option: str, backend: Backend
) -> None:
    model = Model(optimizer, backend, grouped=True)
    group = model.opt.param_groups[1]
    good = group[option]
    for value, error, part in wrong_for(optimizer, option):
        if isinstance(good, bool) and value in (0, 1):
            continue  # taken for the False or True that it equals
        group[option] = value
        with model.refuses(error, f"param_groups[1]: {option}{part}: expected "):
            model.step()
    for opt in model.both():
        opt.param_groups[1][option] = good
    model.assert_continues()


@every_option
def test_an_optimizer_rejects_options_assigned_to_all_groups(optimizer: type[fo.Optimizer], option: str) -> None:
    model = Model(optimizer, "native", grouped=True)
    for value, error, part in wrong_for(optimizer, option):
        with model.refuses(error, f"{option}{part}: expected "):
            setattr(model.opt, option, value)
    model.assert_continues()


@every_option
@each_module
def test_functions_reject_wrong_options(optimizer: type[fo.Optimizer], option: str, module: ModuleType) -> None:
    buffers = Buffers(optimizer, module)
    for value, error, part in wrong_for(optimizer, option):
        with buffers.refuses(error, f"{option}{part}: expected "):
            buffers.update(**{option: value})


# What the interface promises, whatever the classes' annotations say.
PROMISED: list[tuple[str, Any]] = [
    *(("lr", value) for value in (-1e-9, math.nan, math.inf)),
    *(("betas", value) for value in ((1.0, 0.9), (0.9, 1.0), (-0.1, 0.9), (0.9, -0.1), (math.nan, 0.9), (0.9, 1.5))),
    *((name, value) for name in ("eps", "eps_root", "weight_decay", "lr_decay") for value in (-1e-12, math.nan)),
    *((name, value) for name in ("momentum", "dampening") for value in (-0.1, 1.1, math.nan)),
    *(("alpha", value) for value in (-0.1, 1.0, math.nan)),
    ("initial_accumulator_value", -0.1),
    ("form", "polyak"),
]


@loop(("option", "value"), PROMISED)
def test_the_promised_ranges(option: str, value: Any) -> None:
    founding = (fo.SGD, fo.Momentum, fo.NAG, fo.Adagrad, fo.RMSprop, fo.Adam, fo.AdamW)
    takers = [cls for cls in founding if option in cls.defaults]
    assert takers
    for optimizer in takers:
        with pytest.raises(ValueError, match=option):
            optimizer(np.ones(2), **{option: value})


@each_kind
def test_a_number_beyond_every_float(optimizer: type[fo.Optimizer]) -> None:
    with pytest.raises(ValueError, match=r"^lr: expected "):
        optimizer(np.ones(2), lr=10**400)


DIFFERENT = "norm_type: expected 2 as in {}[0], as clip_global_norm bounds the norm over all groups, got 1"


@each_kind
@each_backend
def test_norms_of_different_types_are_not_added(optimizer: type[fo.Optimizer], backend: Backend) -> None:
    options: dict[str, Any] = {"clip_norm": 1.0, "backend": backend}
    p, grads = [[np.full(n, x) for n in (2, 3)] for x in (1.0, 0.5)]

    def groups() -> list[dict[str, Any]]:
        return [{"params": p[0]}, {"params": p[1], "norm_type": 1}]

    with pytest.raises(ValueError, match=re.escape("params[1]: " + DIFFERENT.format("params"))):
        optimizer(groups(), clip_global_norm=1.0, **options)
    opt = optimizer(groups(), **options)
    opt.step(grads)
    before, wrong = [each.copy() for each in p], opt.state_dict()
    opt.param_groups[0]["clip_global_norm"] = 1.0
    for call in (lambda: opt.step(grads), opt.state_dict, lambda: opt.step(grads)):
        with pytest.raises(ValueError, match=re.escape("param_groups[1]: " + DIFFERENT.format("param_groups"))):
            call()
    opt.param_groups[0]["clip_global_norm"] = None
    wrong["groups"][1]["clip_global_norm"] = 0.5
    with pytest.raises(ValueError, match=re.escape("state_dict['groups'][1]: norm_type: expected 2")):
        opt.load_state_dict(wrong)
    assert opt.step_count == 1
    for each, expected in zip(p, before, strict=True):
        np.testing.assert_array_equal(each, expected)
    opt.norm_type = 1
    opt.clip_global_norm = 1.0
    opt.step(grads)


@each_grouped_model
@loop("option", ["learning_rate", "beta1", "params_", "foreach"])
def test_an_unknown_option(model: Model, option: str) -> None:
    with model.refuses(TypeError, option):
        model.make(model.array((2,)), **{option: 1e-3})
    with model.refuses(TypeError, f"params[1]: {option}: not an option of ", "'lr'"):
        model.make([{"params": model.array((2,))}, {"params": model.array((2,)), option: 1e-3}])
    model.opt.param_groups[1][option] = 1e-3
    with model.refuses(TypeError, f"param_groups[1]: {option}: not an option of "):
        model.step()
    del model.opt.param_groups[1][option]


@each_kind
@loop("backend", ["cuda", "", None, "Native", 1])
def test_an_unknown_backend(optimizer: type[fo.Optimizer], backend: Any) -> None:
    with pytest.raises(ValueError, match=r"^backend: expected one of \['native', 'reference'\], got "):
        optimizer(np.ones(2), backend=backend)


@each_backend
def test_options_that_exclude_each_other(backend: Backend) -> None:
    """SGD's Nesterov step, as in PyTorch."""
    p = np.ones(2)
    combinations: list[dict[str, Any]] = [{}, {"momentum": 0.0}, {"momentum": 0.9, "dampening": 0.1}]
    for options in combinations:
        with pytest.raises(ValueError, match="nesterov: expected momentum > 0 and dampening 0"):
            fo.SGD(p, nesterov=True, backend=backend, **options)
    with pytest.raises(ValueError, match=re.escape("params[1]: nesterov: ")):
        fo.SGD([{"params": p}, {"params": np.ones(2), "nesterov": True}], backend=backend)
    opt = fo.SGD([{"params": p}, {"params": np.ones(2), "momentum": 0.9}], backend=backend)
    opt.param_groups[1].update(nesterov=True, dampening=0.5)
    with pytest.raises(ValueError, match=re.escape("param_groups[1]: nesterov: ")):
        opt.step([np.ones(2), np.ones(2)])
    assert p.tolist() == [1, 1]


# ---- learning rates that are functions


class RateError(Exception):
    pass


def failing_rate(step: int) -> float:
    raise RateError(f"no rate for step {step}")


NO_RATE = "param_groups[1]['lr'] at step 1: expected a number >= 0, got "
RATES: list[tuple[Callable[[int], Any], Refusal, str]] = [
    (lambda _: math.nan, ValueError, f"{NO_RATE}nan"),
    (lambda _: math.inf, ValueError, f"{NO_RATE}inf"),
    (lambda _: -1e-9, ValueError, f"{NO_RATE}-1e-09"),
    (lambda _: None, TypeError, f"{NO_RATE}None"),
    (lambda _: "0.1", TypeError, f"{NO_RATE}'0.1'"),
    (lambda _: True, TypeError, f"{NO_RATE}True"),
    (lambda _: np.ones(2), ValueError, "at step 1: expected an array of one element, got shape (2,)"),
    (lambda step: lambda _: step, TypeError, f"{NO_RATE}<function"),
    (failing_rate, RateError, "no rate for step 1"),
]


@each_grouped_model
@loop(("rate", "error", "got"), RATES)
def test_a_function_that_gives_no_learning_rate(model: Model, rate: Any, error: Refusal, got: str) -> None:
    model.opt.param_groups[1]["lr"] = rate
    with model.refuses(error, got):
        model.step()
    for opt in model.both():
        opt.param_groups[1]["lr"] = opt.param_groups[0]["lr"]
