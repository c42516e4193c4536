"""Groups of parameters, and options that change between steps."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from fractions import Fraction
from itertools import permutations
from typing import Any, Literal

import numpy as np
import pytest

import fastoptim as fo
from cases import CASES, PLAIN_CASES, VARIANT_CASES, Array, Case, assert_same_bits
from fastoptim.options.settings import Settings
from loops import loop
from models import KINDS, Make, each_backend, each_kind, each_make, name_of
from step_histories import numbers

Backend = Literal["native", "reference"]

OPTIMIZERS = list(fo.OPTIMIZERS.values())


def cases_of(optimizer: type[fo.Optimizer], cases: list[Case]) -> list[Case]:
    return [case for case in cases if case.optimizer is optimizer]


# ---- groups


def many_params(count: int) -> list[dict[str, Any]]:
    return [{"w": numbers(i), "b": [numbers(i + 100, 2)]} for i in range(count)]


@pytest.mark.parametrize("optimizer", [cls for cls in KINDS if not cls.reduces_all], ids=name_of)
@each_backend
def test_groups_step_as_optimizers_of_their_own(optimizer: type[fo.Optimizer], backend: Backend) -> None:
    """Each variant a group, all in one optimizer."""
    cases = cases_of(optimizer, VARIANT_CASES)
    params, alone = many_params(len(cases)), many_params(len(cases))
    groups = [{"params": p, **case.options} for p, case in zip(params, cases, strict=True)]
    opt = optimizer(groups, backend=backend)
    single = [case.optimize(p, backend) for p, case in zip(alone, cases, strict=True)]
    for t in range(3):
        grads = [{"w": numbers(1000 * t + i), "b": [numbers(2000 * t + i, 2)]} for i in range(len(cases))]
        opt.step(grads)
        for each, g in zip(single, grads, strict=True):
            each.step(g)
    for case, p, expected in zip(cases, params, alone, strict=True):
        assert_same_bits(p["w"], expected["w"], case.id)
        assert_same_bits(p["b"][0], expected["b"][0], case.id)
    for state, each in zip(opt.state, single, strict=True):
        assert list(state["w"]) == list(each.state["w"])
        for name, array in each.state["w"].items():
            assert_same_bits(state["w"][name], array, name)


@each_kind
@each_backend
def test_groups_miss_gradients_by_themselves(optimizer: type[fo.Optimizer], backend: Backend) -> None:
    cases = cases_of(optimizer, PLAIN_CASES)[-2:]
    params, alone = ([[numbers(0), numbers(1)] for _ in cases] for _ in range(2))
    opt = optimizer([{"params": p, **c.options} for p, c in zip(params, cases, strict=True)], backend=backend)
    single = [case.optimize(p, backend) for p, case in zip(alone, cases, strict=True)]
    for t, missing in enumerate([(0, 0), (1, 1), (0, 1), None, (0, 0)]):
        grads: list[list[Array | None]] = [[numbers(t), numbers(t + 9)] for _ in cases]
        if missing and missing[0] < len(grads):
            grads[missing[0]][missing[1]] = None
        opt.step(grads)
        for each, g in zip(single, grads, strict=True):
            each.step(g)
        for group, expected in zip(params, alone, strict=True):
            assert_same_bits(group[0], expected[0], f"step {t}")
            assert_same_bits(group[1], expected[1], f"step {t}")


@each_kind
def test_a_group_has_every_option(optimizer: type[fo.Optimizer]) -> None:
    w, b = np.ones(3), np.ones(2)
    opt: Any = optimizer([{"params": {"w": w}, "lr": 0.5}, {"params": b, "weight_decay": 0.25}], lr=0.125)
    first, second = opt.param_groups
    assert isinstance(opt.param_groups, list)
    assert set(first) == set(second) == {"params", *optimizer.defaults}
    assert first["params"]["w"] is w
    assert second["params"] is b
    others = {k: v for k, v in optimizer.defaults.items() if k not in ("lr", "weight_decay")}
    assert {k: first[k] for k in others} == {k: second[k] for k in others} == others
    assert (first["lr"], second["lr"]) == (0.5, 0.125)
    assert (first["weight_decay"], second["weight_decay"]) == (optimizer.defaults["weight_decay"], 0.25)


@each_kind
def test_without_groups_there_is_one(optimizer: type[fo.Optimizer]) -> None:
    params = {"w": np.ones(3)}
    opt = optimizer(params)
    assert len(opt.param_groups) == 1
    assert {k: v for k, v in opt.param_groups[0].items() if k != "params"} == optimizer.defaults
    assert opt.param_groups[0]["params"]["w"] is params["w"]


@each_make
def test_a_key_named_params_makes_no_group(make: Make) -> None:
    """Only a list of such dicts does."""
    params = {"params": np.ones(3), "lr": np.ones(2)}
    opt = make(params)
    for _ in range(2):
        opt.step({"params": np.ones(3), "lr": np.ones(2)})
    assert len(opt.param_groups) == 1
    assert (params["params"] < 1).all()
    listed = [{"weights": np.ones(3)}, {"weights": np.ones(2)}]
    assert len(make(listed).param_groups) == 1


@each_kind
def test_the_caller_s_groups_stay_as_they_are(optimizer: type[fo.Optimizer]) -> None:
    w = np.ones(3)
    given = [{"params": w, "lr": 0.5}]
    opt: Any = optimizer(given)
    opt.lr = 0.25
    opt.step([np.ones(3)])
    assert given == [{"params": w, "lr": 0.5}]


@each_make
@loop(
    ("build", "where"),
    [
        (lambda a, b: [{"params": a}, b], "params[1]: expected a group {'params': ...}"),
        (lambda a, b: [a, {"params": b}], "params[0]: expected a group {'params': ...}"),
        (lambda a, b: [{"params": a}, {"lr": 0.1}], "params[1]: expected a group"),
        (lambda a, b: [{"params": a}, [{"params": b}]], "params[1]: expected a group"),
        (lambda a, b: ({"params": a}, None), "params[1]: expected a group"),
        (lambda a, b: [{"params": a}, {"params": None}], "params[1]['params']: expected a NumPy array"),
    ],
)
def test_lists_of_groups_and_arrays_are_rejected(make: Make, build: Callable[[Array, Array], Any], where: str) -> None:
    a, b = np.ones(2), np.ones(3)
    with pytest.raises(TypeError, match=re.escape(where)):
        make(build(a, b))


# ---- options that change


class Follower:
    """The expected result of an optimizer whose options change: the reference's function on state that stays."""

    def __init__(self, case: Case, p: Array) -> None:
        self.optimizer, self.p, self.t = case.optimizer, p.copy(), 0
        self.state: dict[str, Array] = {}
        self.average: str | None = None
        self.allocate(case.optimizer.check_options(case.options))

    def allocate(self, settings: Settings) -> list[Array]:
        """Return the state that the options use; an array is made when it is first used, an average in every phase."""
        if settings.average_kind not in (self.average, None):
            self.state.pop("average", None)
        self.average = settings.average_kind
        for name in settings.state:
            if name not in self.state:
                self.state[name] = self.optimizer.first_state(name, self.p, settings.options)
        return [self.state[name] for name in settings.state]

    def step(self, g: Array, options: dict[str, Any]) -> None:
        self.t += 1
        update = getattr(fo.reference, self.optimizer.name)
        update(self.p, g, *self.allocate(self.optimizer.check_options(options)), step=self.t, **options)


def changes(optimizer: type[fo.Optimizer]) -> Iterator[tuple[Case, Case]]:
    """Every variant to every other, and every other option by itself."""
    yield from permutations(cases_of(optimizer, PLAIN_CASES), 2)
    plain = cases_of(optimizer, PLAIN_CASES)[0]
    late_start = ("swa_start", "swa_every")  # test_averages.py has those
    others = (case for case in cases_of(optimizer, CASES) if case is not plain)
    yield from ((plain, case) for case in others if all(case.options[k] == plain.options[k] for k in late_start))


@each_kind
@each_backend
def test_assigned_options_hold_from_the_next_step(optimizer: type[fo.Optimizer], backend: Backend) -> None:
    """There and back: state that the options in between do not use waits."""
    for before, between in changes(optimizer):
        p = numbers(0)
        expected = Follower(before, p)
        opt = before.optimize(p, backend)
        for t, case in enumerate([before, before, between, between, before]):
            opt.param_groups[0].update(case.options)
            opt.step(numbers(t + 1))
            expected.step(numbers(t + 1), case.options)
            assert_same_bits(p, expected.p, f"{before.id} to {between.id}, step {t}")
        for name, array in opt.state.items():
            assert_same_bits(array, expected.state[name], f"{before.id} to {between.id}: {name}")


@each_kind
@each_backend
def test_one_group_may_change_alone(optimizer: type[fo.Optimizer], backend: Backend) -> None:
    for before, between in permutations(cases_of(optimizer, VARIANT_CASES), 2):
        p, q = numbers(0), numbers(1)
        expected = Follower(before, p), Follower(before, q)
        opt = before.optimize([{"params": p}, {"params": [q]}], backend)
        for t, case in enumerate([before, between, before]):
            opt.param_groups[1].update(case.options)
            opt.step([numbers(t + 2), [numbers(t + 5)]])
            expected[0].step(numbers(t + 2), before.options)
            expected[1].step(numbers(t + 5), case.options)
        assert_same_bits(p, expected[0].p, f"{before.id} to {between.id}")
        assert_same_bits(q, expected[1].p, f"{before.id} to {between.id}")


@each_kind
@each_backend
def test_options_may_change_while_gradients_are_missing(optimizer: type[fo.Optimizer], backend: Backend) -> None:
    for before, between in permutations(cases_of(optimizer, PLAIN_CASES), 2):
        p, q = numbers(0), numbers(1)
        expected = Follower(before, p)
        opt = before.optimize([p, q], backend)
        for t, case in enumerate([before, between, between, before]):
            opt.param_groups[0].update(case.options)
            there = t != 1
            opt.step([numbers(t + 2) if there else None, numbers(t + 5)])
            if there:
                expected.step(numbers(t + 2), case.options)
        assert_same_bits(p, expected.p, f"{before.id} to {between.id}")


@each_make
@loop("value", [np.float32(0.25), np.float64(0.25), Fraction(1, 4), 1, np.int32(1)])
def test_any_number_may_be_assigned(make: Make, value: Any) -> None:
    results = []
    for lr in (value, float(value)):
        p = numbers(0)
        opt = make(p)
        opt.step(numbers(1))
        opt.param_groups[0]["lr"] = lr
        opt.step(numbers(2))
        results.append(p)
    assert_same_bits(results[0], results[1])


@pytest.mark.parametrize(
    "optimizer", [cls for cls in OPTIMIZERS if len(cls.defaults.get("betas", ())) == 2], ids=lambda cls: cls.name
)
@each_backend
@loop("pair", [[0.5, 0.75], (np.float32(0.5), 0.75)])
def test_any_pair_may_be_assigned(optimizer: type[fo.Optimizer], backend: Backend, pair: Any) -> None:
    results = []
    for betas in (pair, (0.5, 0.75)):
        p = numbers(0)
        opt: Any = optimizer(p, backend=backend)
        opt.param_groups[0]["betas"] = betas
        opt.step(numbers(1))
        opt.betas = betas
        opt.step(numbers(2))
        results.append(p)
    assert_same_bits(results[0], results[1])


def exchanged(group: dict[str, Any]) -> dict[str, Any]:
    """Return a group whose values are those objects in that order, for other keys."""
    return {{"l1": "weight_decay", "weight_decay": "l1"}.get(key, key): value for key, value in group.items()}


@each_make
@loop("warm", [0, 2])
def test_a_replaced_group_is_read_by_its_keys(make: Make, warm: int) -> None:
    results = []
    for replaced in (True, False):
        p = numbers(0)
        opt: Any = make(p, l1=0.25, weight_decay=0.5)
        for t in range(warm):
            opt.step(numbers(t + 1))
        if replaced:
            opt.param_groups[0] = exchanged(opt.param_groups[0])
        else:
            opt.l1, opt.weight_decay = 0.5, 0.25
        opt.step(numbers(9))
        opt.step(numbers(10))
        results.append(p)
    assert_same_bits(results[0], results[1])


@each_make
def test_a_renamed_option_is_rejected(make: Make) -> None:
    opt = make(numbers(0))
    for t in range(2):
        opt.step(numbers(t + 1))
    renamed = {{"swa_every": "swa_each"}.get(key, key): value for key, value in opt.param_groups[0].items()}
    opt.param_groups[0] = renamed
    with pytest.raises(TypeError, match=r"param_groups\[0\]: .*swa_e"):
        opt.step(numbers(3))


@pytest.mark.parametrize("name", ["params", "backend", "convention"])
def test_an_argument_of_the_constructor_is_not_assigned(name: str) -> None:
    opt = fo.Adam(np.ones(2), backend="reference", convention="keras")
    before = getattr(opt, name)
    with pytest.raises(AttributeError, match=f"{name}: expected it where the optimizer is made"):
        setattr(opt, name, {"params": np.ones(2), "backend": "native", "convention": "torch"}[name])
    assert getattr(opt, name) is before
