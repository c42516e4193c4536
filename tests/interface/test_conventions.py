"""Conventions: the options that a framework's formula and defaults mean."""

from __future__ import annotations

import inspect
from typing import Any

import numpy as np
import pytest

import fastoptim as fo
from cases import assert_same_bits
from loops import loop
from models import each_module

WITH = [cls for cls in fo.OPTIMIZERS.values() if cls.conventions]
WITHOUT = [cls for cls in fo.OPTIMIZERS.values() if not cls.conventions]

each_with = loop("cls", WITH)
each_with_convention = loop(("cls", "convention"), [(cls, name) for cls in WITH for name in cls.conventions])


@each_with
def test_the_default_convention_has_the_class_s_defaults(cls: type[fo.Optimizer]) -> None:
    first = next(iter(cls.conventions))
    assert cls.conventions[first] == {}
    assert inspect.signature(cls).parameters["convention"].default == first
    for options in ({}, {"convention": first}):
        assert cls.check_options(options).options == cls.check_options(cls.defaults).options


@each_with
def test_a_convention_says_only_what_differs(cls: type[fo.Optimizer]) -> None:
    for convention, options in cls.conventions.items():
        assert all(value != cls.defaults[name] for name, value in options.items()), convention


@each_with
def test_given_options_go_before(cls: type[fo.Optimizer]) -> None:
    """Include values that equal the class's default."""
    for convention, options in cls.conventions.items():
        for name in options:
            opt = cls(np.ones(1), **{name: cls.defaults[name]}, convention=convention)
            wanted = {**cls.defaults, **options, name: cls.defaults[name]}
            assert {k: opt.param_groups[0][k] for k in wanted} == wanted


def test_the_learning_rate_by_position_goes_before() -> None:
    assert fo.SGD(np.ones(1), 0.5, convention="keras").lr == 0.5


@each_with
def test_an_unknown_convention_is_rejected(cls: type[fo.Optimizer]) -> None:
    for convention in ("Torch", "", None, 1, ["torch"]):
        with pytest.raises(ValueError, match=rf"^convention: expected one of \['{next(iter(cls.conventions))}'"):
            cls(np.ones(1), convention=convention)
    with pytest.raises(ValueError, match="convention: expected one of"):
        getattr(fo.functional, cls.name)(np.ones(1), np.ones(1), step=1, convention="jax")


@loop("cls", WITHOUT)
def test_a_class_without_conventions_takes_none(cls: type[fo.Optimizer]) -> None:
    with pytest.raises(TypeError, match="convention"):
        cls(np.ones(1), convention="torch")


@each_with_convention
@each_module
def test_a_function_takes_it(cls: type[fo.Optimizer], convention: str, module: Any) -> None:
    p, q = np.full(3, 0.5), np.full(3, 0.5)
    opt = cls(q, convention=convention)
    state = [array.copy() for array in opt.state.values()]
    for t in (1, 2, 3):
        g = np.array([1.0, -1e-7, t])
        getattr(module, cls.name)(p, g, *state, step=t, convention=convention)
        opt.step(g)
    assert_same_bits(p, q)


def test_each_group_has_its_own() -> None:
    """A group without a convention has the constructor's."""
    grads = [np.full(1, 1e-7)] * 3
    params = [np.zeros(1) for _ in grads]
    groups = [{"params": params[0]}, {"params": params[1], "convention": "torch"}, {"params": params[2], "eps": 1e-8}]
    opt = fo.Adam(groups, convention="keras")
    meant = [(group["eps"], group["eps_hat"]) for group in opt.param_groups]
    assert meant == [(1e-7, True), (1e-8, False), (1e-8, True)]
    opt.step(grads)
    np.testing.assert_allclose(np.concatenate(params), [-3.07e-5, -9.09e-4, -2.40e-4], rtol=2e-3)


def test_it_is_told_when_the_optimizer_is_made() -> None:
    opt = fo.Adam(np.ones(1))
    opt.param_groups[0]["convention"] = "keras"
    with pytest.raises(TypeError, match="convention"):
        opt.step(np.ones(1))
    with pytest.raises(ValueError, match=r"params\[1\]: convention: expected one of"):
        fo.Adam([{"params": np.ones(1)}, {"params": np.ones(1), "convention": "jax"}])
