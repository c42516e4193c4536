"""Refusals of state dicts that are spoiled, or of another optimizer or model."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable
from functools import cache
from typing import Any

import ml_dtypes
import numpy as np

import fastoptim as fo
from cases import Array
from loops import loop
from models import OPTIMIZERS, WIDEST, Model, each_model, each_subject

Spoil = Callable[[dict[str, Any]], Any]

each_native_model = each_subject("model", Model, ["native"])


def top(key: str, value: Any) -> Spoil:
    return lambda d: d.update({key: value})


def option(key: str, value: Any) -> Spoil:
    return lambda d: d["groups"][0].update({key: value})


def entry(key: str, value: Any, index: int = -1) -> Spoil:
    return lambda d: d["arrays"][index].update({key: value})


def removal(key: str, within: str = "") -> Spoil:
    return lambda d: (d[within][-1] if within else d).pop(key)


def exchange_places(d: dict[str, Any]) -> None:
    first, *_, last = d["arrays"]
    first["place"], last["place"] = last["place"], first["place"]


STEPS: list[Any] = [-1, 1.5, "3", None, True, math.nan, [3]]
LISTS: list[Any] = [None, [], {}, 1, "abc", [None], [[], [], []]]
RATES_SAVED: list[Any] = [math.nan, -1.0, None, "0.1", math.inf, [0.1]]
NO_STATES: list[Any] = [None, [], 1, {"no such": None}]
STATE_ALIGNMENT: list[Any] = ["['w3']", "", None, 2, ["w2"]]
SAVED_SHAPES: list[Any] = [[3, 2], [6], [], [2, 3, 1], None, 6, "23", [2.5, 3], [[2, 3]]]

SPOILED: dict[str, Spoil] = {
    **{f"without {key}": removal(key) for key in ("version", "optimizer", "step_count", "groups", "arrays")},
    "version later": lambda d: d.update(version=d["version"] + 1),
    "version None": top("version", None),
    "optimizer other": top("optimizer", "no such optimizer"),
    "optimizer None": top("optimizer", None),
    **{f"step_count {value}": top("step_count", value) for value in STEPS},
    "step_count below an array's": top("step_count", 0),
    **{f"groups {value}": top("groups", value) for value in LISTS},
    "groups twice": lambda d: d.update(groups=d["groups"] * 2),
    "option unknown": option("learning_rate", 1e-3),
    "option None": option("weight_decay", "none"),
    "schedules of more groups": top("schedules", [[], []]),
    "schedules None": top("schedules", None),
    **{f"lr {value}": option("lr", value) for value in RATES_SAVED},
    "maximize 1": option("maximize", 1),
    **{f"arrays {value}": top("arrays", value) for value in LISTS},
    "arrays fewer": lambda d: d["arrays"].pop(),
    "arrays more": lambda d: d["arrays"].append(d["arrays"][-1]),
    "arrays twice the same": lambda d: d["arrays"].__setitem__(-1, d["arrays"][0]),
    "places exchanged": exchange_places,
    **{f"an array without {key}": removal(key, "arrays") for key in ("place", "dtype", "shape", "steps", "state")},
    **{f"place {value}": entry("place", value) for value in STATE_ALIGNMENT},
    **{f"dtype {value}": entry("dtype", value) for value in ("float64", "float16", None, 32)},
    **{f"shape {value}": entry("shape", value) for value in SAVED_SHAPES},
    **{f"steps {value}": entry("steps", value) for value in [*STEPS, 10**6]},
    **{f"state {value}": entry("state", value) for value in NO_STATES},
}

SPOILED_STATE: list[Callable[[Array], Any]] = [
    lambda a: a[:1],
    lambda a: a.reshape(-1),
    lambda a: a.T,
    lambda a: a[None],
    lambda a: 0.0,
    lambda a: np.zeros((), np.float32),
    lambda a: a[:0],
    lambda a: a.astype(np.float64),
    lambda a: a.astype(np.float16),
    lambda a: a.astype(np.int32),
    lambda a: a.astype(object),
    lambda a: a.astype(a.dtype.newbyteorder()),
    lambda a: a.tolist(),
    lambda a: None,
    lambda a: a.tobytes(),
]


@each_native_model
@loop("kind", SPOILED)
def test_a_spoiled_state_dict(model: Model, kind: str) -> None:
    spoiled = state_dict_of_another(type(model.opt))
    SPOILED[kind](spoiled)
    with model.refuses(ValueError, "state"):
        model.opt.load_state_dict(spoiled)


@each_model
def test_a_spoiled_array_of_a_state_dict(model: Model) -> None:
    for name in (name for name in model.opt.state["w2"] if not model.opt.state_schema[name].is_scalar):
        for spoil in SPOILED_STATE:
            spoiled = state_dict_of_another(type(model.opt))
            state = spoiled["arrays"][-1]["state"]
            right = state[name]
            state[name] = spoil(right)
            found = (getattr(state[name], "dtype", None), getattr(state[name], "shape", None))
            if found == (right.dtype, right.shape):
                continue  # of one axis
            expected = f"params['w2']: expected {name!r} as float32 of shape {right.shape}"
            with model.refuses(ValueError, expected):
                model.opt.load_state_dict(spoiled)


def state_dict_of_another(optimizer: type[fo.Optimizer]) -> dict[str, Any]:
    """One that would load, from an optimizer with other state and another learning rate."""
    state_dict: dict[str, Any] = copy.deepcopy(_state_dict_of_another(optimizer.name))
    return state_dict


@cache
def _state_dict_of_another(name: str) -> dict[str, Any]:
    other = Model(fo.OPTIMIZERS[name], "native")
    other.opt.lr = 0.125
    for _ in range(3):
        other.step()
    state_dict: dict[str, Any] = other.opt.state_dict()
    return state_dict


@each_model
def test_the_state_dict_before_it_is_spoiled_loads(model: Model) -> None:
    """Or none of the refusals above would show anything."""
    model.opt.load_state_dict(state_dict_of_another(type(model.opt)))
    assert model.opt.step_count == 4
    assert model.opt.lr == 0.125


@each_model
def test_a_state_dict_without_an_array_s_state(model: Model) -> None:
    for name in model.opt.state["w2"]:
        spoiled = state_dict_of_another(type(model.opt))
        del spoiled["arrays"][-1]["state"][name]
        with model.refuses(ValueError, "state of params['w2']", f"{name!r}"):
            model.opt.load_state_dict(spoiled)


def test_an_option_of_a_later_version() -> None:
    model = Model(fo.Adam, "native")
    newer = state_dict_of_another(fo.Adam)
    newer["groups"][0]["newer"] = 1.0
    with model.refuses(ValueError, "state_dict['groups'][0]: expected options among ['lr', ", "unknown ['newer']"):
        model.opt.load_state_dict(newer)


@each_native_model
@loop("thing", [None, [], 1, "state", np.ones(2)])
def test_a_state_dict_that_is_none(model: Model, thing: Any) -> None:
    with model.refuses(TypeError, "state_dict: expected a dict, got "):
        model.opt.load_state_dict(thing)


@each_native_model
def test_a_state_dict_of_another_optimizer(model: Model) -> None:
    for other in OPTIMIZERS:
        if other is not type(model.opt):
            with model.refuses(ValueError, "state_dict['optimizer']", repr(model.opt.name), repr(other.name)):
                model.opt.load_state_dict(state_dict_of_another(other))


@each_native_model
def test_a_state_dict_of_other_parameters(model: Model) -> None:
    good = dict(model.params)
    others: list[tuple[Any, str]] = [
        (list(good.values()), "['w0']"),
        ({k: good[k] for k in ("w0", "w1")}, "list of 3"),
        ([{"params": good}], "['w0']"),
        ({**good, "w2": np.ones((3, 2), np.float32)}, "3, 2"),
        ({**good, "w2": np.ones((2, 3))}, "float64"),
        ({**good, "w2": np.ones((2, 3), ml_dtypes.bfloat16)}, "bfloat16"),
    ]
    for params, word in others:
        dump = WIDEST[type(model.opt)].optimize(params).state_dict()
        with model.refuses(ValueError, "state", word):
            model.opt.load_state_dict(dump)
