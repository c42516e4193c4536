"""The registry: names, state and defaults of every class, and subclasses that do not replace one."""

from __future__ import annotations

import inspect
from typing import Any

import numpy as np

import fastoptim as fo
from cases import PLAIN_CASES, assert_same_bits
from loops import loop
from models import every_optimizer


def test_every_class_is_registered_under_its_name() -> None:
    assert all(cls.name == name for name, cls in fo.OPTIMIZERS.items())
    assert {"sgd", "momentum", "nag", "adagrad", "rmsprop", "adam", "adamw"} <= set(fo.OPTIMIZERS)


@every_optimizer
def test_a_class_names_its_state_and_defaults(optimizer: type[fo.Optimizer]) -> None:
    assert isinstance(optimizer.state, tuple)
    assert all(isinstance(name, str) for name in optimizer.state)
    assert set(optimizer.state) == {name for case in PLAIN_CASES if case.optimizer is optimizer for name in case.state}
    assert {"lr", "weight_decay", "maximize"} <= set(optimizer.defaults)
    parameters = inspect.signature(optimizer).parameters
    convention = ["convention"] * bool(optimizer.conventions)
    assert list(parameters) == ["params", *optimizer.defaults, *convention, "copies", "backend"]
    assert {name: parameters[name].default for name in optimizer.defaults} == optimizer.defaults


PROMISED: dict[str, tuple[tuple[str, ...], dict[str, Any]]] = {
    "sgd": (("b",), {"lr": 1e-3, "momentum": 0, "dampening": 0, "nesterov": False}),
    "momentum": (("v",), {"lr": 0.01, "momentum": 0.9, "nesterov": False, "form": "velocity"}),
    "nag": (("v",), {"lr": 0.01, "momentum": 0.9}),
    "adagrad": (("s",), {"lr": 0.01, "eps": 1e-10, "eps_root": 0, "lr_decay": 0, "initial_accumulator_value": 0}),
    "rmsprop": (
        ("s", "g_avg", "b"),
        {"lr": 0.01, "alpha": 0.99, "eps": 1e-8, "eps_root": 0, "momentum": 0, "centered": False},
    ),
    "adam": (
        ("m", "v", "v_max"),
        {"lr": 1e-3, "betas": (0.9, 0.999), "eps": 1e-8, "eps_root": 0, "amsgrad": False},
    ),
    "adamw": (
        ("m", "v", "v_max"),
        {"lr": 1e-3, "betas": (0.9, 0.999), "eps": 1e-8, "eps_root": 0, "amsgrad": False, "weight_decay": 0.01},
    ),
}


@loop("name", PROMISED)
def test_the_promised_state_and_defaults(name: str) -> None:
    state, defaults = PROMISED[name]
    assert set(fo.OPTIMIZERS[name].state) == set(state)
    promised = {"weight_decay": 0, "maximize": False} | defaults
    assert {option: fo.OPTIMIZERS[name].defaults[option] for option in promised} == promised


@every_optimizer
def test_a_user_s_subclass_does_not_replace_it(optimizer: type[fo.Optimizer]) -> None:
    """A subclass without a name of its own works as that optimizer."""
    try:
        own = type("Own", (optimizer,), {})
        registered = fo.OPTIMIZERS[optimizer.name]
    finally:
        fo.OPTIMIZERS[optimizer.name] = optimizer
    assert registered is optimizer
    p, q = np.ones(3), np.ones(3)
    own(p).step(np.ones(3))
    optimizer(q).step(np.ones(3))
    assert_same_bits(p, q)
