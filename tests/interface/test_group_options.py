"""Options of all groups at once, learning rates that are arrays, and entries of groups that are not options."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

import fastoptim as fo
from cases import CASES, Array, assert_same_bits
from fastoptim.options.checks import check_option
from loops import loop
from models import Backend, Make, each_backend, each_kind, each_make
from step_histories import numbers


def three_groups(optimizer: type[fo.Optimizer], backend: Backend = "native") -> tuple[Any, list[Array]]:
    params = [np.ones(3), np.ones(4), np.ones(2)]
    return optimizer([{"params": p} for p in params], backend=backend), params


@each_kind
def test_an_option_is_read_and_set_over_all_groups(optimizer: type[fo.Optimizer]) -> None:
    opt, _ = three_groups(optimizer)
    for case in (case for case in CASES if case.optimizer is optimizer):
        for name, value in case.options.items():
            setattr(opt, name, value)
            value = check_option(optimizer.annotations[name], value, name)  # (None, 2.0) is (-inf, 2.0)
            assert getattr(opt, name) == value
            assert [group[name] for group in opt.param_groups] == [value] * 3
    assert {name: getattr(optimizer, name) for name in optimizer.defaults} == optimizer.defaults


@each_kind
def test_groups_that_differ_read_as_a_list(optimizer: type[fo.Optimizer]) -> None:
    opt, _ = three_groups(optimizer)
    opt.param_groups[1]["lr"] = 0.5
    default = optimizer.defaults["lr"]
    assert opt.lr == [default, 0.5, default]
    opt.lr = 0.25
    assert opt.lr == 0.25


@loop(
    ("name", "values"),
    [
        ("lr", [0.5, 0.25]),
        ("betas", [(0.9, 0.99), (0.8, 0.9)]),
        ("clip_norm", [None, 1.0]),
        ("on_nonfinite", ["skip", None]),
        ("bounds", [None, (0.0, 1.0)]),
    ],
)
def test_a_list_has_a_value_for_each_group(name: str, values: list[Any]) -> None:
    opt = fo.Adam([{"params": np.ones(2)}, {"params": np.ones(3)}])
    setattr(opt, name, values)
    assert [group[name] for group in opt.param_groups] == values
    setattr(opt, name, getattr(opt, name))
    assert getattr(opt, name) == values
    for wrong in (values * 2, ["wrong", values[1]]):
        with pytest.raises((TypeError, ValueError), match=rf"^{name}(\[0\])?: expected"):
            setattr(opt, name, wrong)
    assert getattr(opt, name) == values


def test_a_list_is_one_value_where_an_option_takes_lists() -> None:
    opt = fo.Adam([{"params": np.ones(2)}, {"params": np.ones(3)}])
    opt.betas = [0.5, 0.75]  # type: ignore[assignment]
    assert opt.betas == (0.5, 0.75)


@each_kind
@each_backend
def test_a_set_rate_holds_from_the_next_step(optimizer: type[fo.Optimizer], backend: Backend) -> None:
    opt, params = three_groups(optimizer, backend)
    expected = [p.copy() for p in params]
    single: list[Any] = [optimizer(p, backend=backend) for p in expected]
    rates: list[Any] = [0.5, lambda step: 1 / (1 + step), 0.125]
    for lr in rates:
        opt.lr = lr
        opt.step([np.ones(p.shape) for p in params])
        for each, p in zip(single, params, strict=True):
            each.param_groups[0]["lr"] = lr
            each.step(np.ones(p.shape))
    for p, wanted in zip(params, expected, strict=True):
        assert_same_bits(p, wanted)


@each_kind
def test_a_rate_set_here_is_not_set_elsewhere(optimizer: type[fo.Optimizer]) -> None:
    one: Any = optimizer(np.ones(3))
    other: Any = optimizer(np.ones(3))
    one.lr = 0.5
    assert other.lr == optimizer.defaults["lr"]
    assert optimizer(np.ones(3)).param_groups[0]["lr"] == optimizer.defaults["lr"]


@each_make
def test_a_function_in_one_group_and_a_number_in_another(make: Make) -> None:
    p, q = np.ones(3), np.ones(3)
    groups = [{"params": p, "lr": lambda step: 0.5 if step < 2 else 0.0}, {"params": q, "lr": 0.5}]
    opt = make(groups, weight_decay=0)
    for _ in range(2):
        opt.step([np.ones(3), np.ones(3)])
        assert_same_bits(p, q)
    still = p.copy()
    opt.step([np.ones(3), np.ones(3)])
    assert not np.array_equal(q, still)


# ---- a learning rate that is an array


@each_make
@loop("number", [np.array, np.float64, lambda x: np.array([x]), lambda x: np.array(x, np.float32)])
def test_an_array_as_rate_is_read_at_every_step(make: Make, number: Callable[[float], Any]) -> None:
    p, q, rate = numbers(0), numbers(0), number(0.5)
    opt: Any = make([{"params": [p], "lr": rate}])
    expected: Any = make([q], lr=0.5)
    for t, lr in enumerate([0.5, 0.5, 0.125, 0.25]):
        if isinstance(rate, np.ndarray):
            rate[...] = lr
        else:
            opt.lr = lr
        expected.lr = lr
        opt.step([[numbers(t + 1)]])
        expected.step([numbers(t + 1)])
        assert_same_bits(p, q, f"step {t}")
    assert ("lr" in opt.state_dict()["groups"][0]) is not isinstance(rate, np.ndarray)
    opt.load_state_dict(opt.state_dict())
    assert not isinstance(rate, np.ndarray) or opt.lr is rate


@each_backend
@loop(("value", "error"), [(-1.0, ValueError), (np.nan, ValueError), (np.inf, ValueError)])
def test_an_array_as_rate_out_of_range_is_rejected(backend: Backend, value: float, error: type[Exception]) -> None:
    p, rate = numbers(0), np.array(0.5)
    opt = fo.Adam([{"params": p, "lr": rate}], backend=backend)
    for t in range(2):
        opt.step([numbers(t)])
    before, rate[...] = p.copy(), value
    with pytest.raises(error, match=r"param_groups\[0\]\['lr'\] at step 2: expected a number >= 0"):
        opt.step([numbers(3)])
    assert_same_bits(p, before)
    for wrong in (np.zeros(2), np.array([]), np.array(True), np.array("0.1"), np.array(1j)):
        with pytest.raises((TypeError, ValueError), match=r"^lr: expected"):
            fo.Adam(p, lr=wrong)


# ---- entries that are not options


@each_backend
def test_entries_of_schedulers_are_kept(backend: Backend) -> None:
    p, q = numbers(0), numbers(0)
    opt = fo.SGD([{"params": p, "name": "body", "initial_lr": 1}], lr=0.1, backend=backend)
    plain = fo.SGD(q, lr=0.1, backend=backend)
    for t in range(3):
        opt.step([numbers(t)])
        plain.step(numbers(t))
        opt.param_groups[0]["max_momentum"] = 0.5 + t
    assert_same_bits(p, q)
    saved = opt.state_dict()
    kept = {"name": "body", "initial_lr": 1.0, "max_momentum": 2.5}
    assert {key: saved["groups"][0][key] for key in kept} == kept
    fresh = fo.SGD([{"params": p}], backend=backend)
    fresh.load_state_dict(saved)
    assert {key: fresh.param_groups[0][key] for key in kept} == kept
    assert "body" not in repr(fresh)


@each_backend
@loop(("key", "value"), [("initial_lr", "0.1"), ("max_momentum", None), ("name", 3)])
def test_entries_of_another_type_are_rejected(backend: Backend, key: str, value: Any) -> None:
    with pytest.raises(TypeError, match=rf"^params\[0\]: {key}: expected"):
        fo.SGD([{"params": numbers(0), key: value}], backend=backend)
    opt = fo.SGD(numbers(0), backend=backend)
    saved = opt.state_dict()
    saved["groups"][0][key] = value
    with pytest.raises(ValueError, match=rf"^state_dict\['groups'\]\[0\]: {key}: expected"):
        opt.load_state_dict(saved)
    opt.param_groups[0][key] = value
    with pytest.raises(TypeError, match=rf"^param_groups\[0\]: {key}: expected"):
        opt.step(numbers(1))
