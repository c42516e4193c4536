"""A step like the one before it takes the fast path; whatever differs must be noticed.

The reference has no such way: what it does after the same history is what must come.
"""

from __future__ import annotations

import re
import sys
from collections import OrderedDict
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
import pytest

import fastoptim as fo
from cases import Case, assert_same_bits
from loops import loop
from models import Backend, each_backend, every_variant
from step_histories import a_list, a_rate, count_slow_steps, load, numbers, said_of_steps, same_in_both

Change = tuple[Callable[[int], Any], str, Callable[[fo.Optimizer, Any], Any]]

STEPS_BEFORE = 3


class Pair(NamedTuple):
    w: Any
    b: Any


class OwnList(list[Any]):
    """A list that means something else by its entries."""

    def __iter__(self) -> Any:
        return reversed(list(super().__iter__()))


def a_dict(seed: int) -> dict[str, Any]:
    return {"w": numbers(seed), "b": [numbers(seed + 50, 2), (numbers(seed + 70, 1),)]}


# What makes each step's numbers its own, or not.
KINDS: dict[str, dict[str, Any]] = {
    "steady": {"lr": 0.1},
    "schedule": {"lr": a_rate},
    "known schedule": {"lr": fo.schedules.Cosine(0.1, 20)},
    "skipping": {"lr": 0.1, "skip_nonfinite": True},
    "scale": {"lr": a_rate, "grad_scale": np.array(2.0)},
}


def optimizer_of(make: Callable[[int], Any], backend: Backend, **options: Any) -> fo.Optimizer:
    """After a few ordinary steps."""
    opt = fo.Adam(make(0), **{"lr": 0.1, **options}, backend=backend)
    for t in range(STEPS_BEFORE):
        opt.step(make(t + 1))
    return opt


def outcome(change: Callable[[fo.Optimizer, Any], Any], make: Callable[[int], Any], kind: str, backend: Backend) -> Any:
    """Return parameters and state after three more steps, the first with that change, or the errors."""
    opt = optimizer_of(make, backend, **KINDS[kind])
    grads = make(9)
    changed = change(opt, grads)
    said: list[Any] = []
    for tree in (changed if changed is not None else grads, make(10), make(11)):
        try:
            said.append(opt.step(tree))
        except (TypeError, ValueError, RuntimeError) as error:
            said.append(f"{type(error).__name__}: {error}")
    options = [{name: value for name, value in group.items() if name != "params"} for group in opt.param_groups]
    arrays = [array for param in opt.param_states for array in (param.p, *param.state.values())]
    return said, opt.step_count, opt._missed, options, arrays


def put(key: Any, value: Any) -> Callable[[fo.Optimizer, Any], None]:
    return lambda opt, grads: grads.__setitem__(key, value)


def assign(name: str, value: Any) -> Callable[[fo.Optimizer, Any], None]:
    return lambda opt, grads: opt.param_groups[0].__setitem__(name, value)


def lock(opt: fo.Optimizer, grads: Any) -> None:
    opt.param_states[0].p.flags.writeable = False


def new_group(opt: fo.Optimizer, grads: Any) -> None:
    opt.param_groups[0] = {**opt.param_groups[0], "lr": 0.3}


def assign_and_look(opt: fo.Optimizer, grads: Any) -> None:
    opt.param_groups[0]["eps"] = 0.1
    opt.state_dict()


DICT_CHANGES: dict[str, Callable[[fo.Optimizer, Any], Any]] = {
    "nothing": lambda opt, grads: None,
    "no gradient": put("w", None),
    "a key missing": lambda opt, grads: {"w": grads["w"]},
    "another key": lambda opt, grads: {"w": grads["w"], "c": grads["b"]},
    "one key too many": put("c", numbers(1)),
    "keys in another order": lambda opt, grads: {"b": grads["b"], "w": grads["w"]},
    "another kind of dict": lambda opt, grads: OrderedDict(grads),
    "a tuple for a list": lambda opt, grads: {**grads, "b": tuple(grads["b"])},
    "a named tuple for a list": lambda opt, grads: {**grads, "b": Pair(*grads["b"])},
    "an array for a list": put("b", numbers(1)),
    "a list for an array": put("w", [numbers(1)]),
    "a list too short": lambda opt, grads: {**grads, "b": grads["b"][:1]},
    "an array for all": lambda opt, grads: numbers(1),
    "None for all": lambda opt, grads: [],
    "another shape": put("w", numbers(1, 6)),
    "another dtype": put("w", numbers(1).astype(np.float16)),
    "integers": put("w", np.ones(5, np.int32)),
    "strided": put("w", numbers(1, 10)[::2]),
    "a list of numbers": put("w", [1.0] * 5),
    "a masked array": put("w", np.ma.masked_less(numbers(1), 0)),
    "the parameter": lambda opt, grads: {**grads, "w": opt.param_states[0].p},
    "its own state": lambda opt, grads: {**grads, "w": opt.param_states[0].state["m"]},
    "part of its own state": lambda opt, grads: {**grads, "b": [opt.param_states[0].state["m"][1:3], grads["b"][1]]},
    "lr": assign("lr", 0.5),
    "lr of another type": assign("lr", "fast"),
    "lr below zero": assign("lr", -1.0),
    "an equal lr": assign("lr", float("0.1")),
    "eps": assign("eps", 0.1),
    "eps, and a state dict": assign_and_look,
    "amsgrad": assign("amsgrad", True),
    "1 for True": assign("amsgrad", 1),
    "weight decay": assign("weight_decay", 0.1),
    "skipping": assign("skip_nonfinite", True),
    "an average": assign("ema", 0.5),
    "scale": assign("grad_scale", 4.0),
    "a scale that is an array": assign("grad_scale", np.array(4.0)),
    "an unknown option": assign("momentum", 0.5),
    "an option gone": lambda opt, grads: opt.param_groups[0].pop("eps") and None,
    "the last option gone": lambda opt, grads: opt.param_groups[0].popitem() and None,
    "other parameters": assign("params", [numbers(0)]),
    "a schedule": assign("lr", lambda step: 0.1 / (1 + step)),
    "a schedule of ints": assign("lr", lambda step: 1),
    "a schedule of NumPy's numbers": assign("lr", lambda step: np.float32(0.25)),
    "a schedule below zero": assign("lr", lambda step: -1.0),
    "a schedule of NaN": assign("lr", lambda step: float("nan")),
    "an infinite schedule": assign("lr", lambda step: float("inf")),
    "a schedule of words": assign("lr", lambda step: "fast"),
    "all rates": lambda opt, grads: setattr(opt, "lr", 0.7),
    "a locked parameter": lock,
    "another group": new_group,
    "no group": lambda opt, grads: opt.param_groups.clear(),
    "a loaded state": load,
}

LIST_CHANGES: dict[str, Callable[[fo.Optimizer, Any], Any]] = {
    "nothing": lambda opt, grads: None,
    "a tuple": lambda opt, grads: tuple(grads),
    "a list of its own kind": lambda opt, grads: OwnList(reversed(grads)),
    "one too many": lambda opt, grads: [*grads, None],
    "no gradients": lambda opt, grads: [None, None],
    "an iterator": lambda opt, grads: iter(grads),
    "a dict": lambda opt, grads: dict(enumerate(grads)),
}

CHANGES: list[Change] = [(a_dict, name, change) for name, change in DICT_CHANGES.items()]
CHANGES += [(a_list, name, change) for name, change in LIST_CHANGES.items()]


@loop("kind", KINDS)
@loop(("make", "change"), [(make, change) for make, _, change in CHANGES])
def test_what_changes_is_noticed(
    make: Callable[[int], Any], change: Callable[[fo.Optimizer, Any], Any], kind: str
) -> None:
    *native, native_arrays = outcome(change, make, kind, "native")
    *expected, expected_arrays = outcome(change, make, kind, "reference")
    assert [re.sub("0x[0-9a-f]+", "", str(part)) for part in native] == [
        re.sub("0x[0-9a-f]+", "", str(part)) for part in expected
    ]
    for got, want in zip(native_arrays, expected_arrays, strict=True):
        assert_same_bits(got, want, "after the change")


@every_variant
def test_steps_of_one_kind_go_the_fast_path(case: Case, monkeypatch: pytest.MonkeyPatch) -> None:
    opt = case.optimize(numbers(0))
    opt.step(numbers(1))
    own = "t" in case.optimizer.host_constants_takes or case.skips
    assert count_slow_steps(monkeypatch, opt, numbers) == (10 if own else 0)


KNOWN = fo.schedules.Warmup(fo.schedules.Cosine(0.1, 9), 3)
AT_ONCE = fo.schedules.Sequence((KNOWN, 0.5), (4,))


@loop(
    ("optimizer", "lr", "slow"),
    [
        (fo.Adam, KNOWN, 0),
        (fo.SGD, AT_ONCE, 0),
        (fo.Adam, fo.schedules.ReduceOnPlateau(0.1), 0),
        (fo.AdaBound, KNOWN, 10),  # whose bounds depend on the rate
        (fo.Adam, fo.schedules.Sequence((a_rate, 0.5), (4,)), 10),
        (fo.Adam, fo.schedules.Product((KNOWN, fo.schedules.Warmup(a_rate, 2))), 10),
    ],
)
def test_schedules_of_this_package_go_the_fast_path(
    optimizer: Any, lr: Any, slow: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Unless a part is the user's own code."""
    opt, expected = optimizer(p := numbers(0), lr=lr), optimizer(q := numbers(0), lr=lr, backend="reference")
    opt.step(numbers(1))
    assert count_slow_steps(monkeypatch, opt, numbers) == slow
    expected.step(numbers(1))
    count_slow_steps(monkeypatch, expected, numbers)
    assert_same_bits(p, q)


def while_the_schedule_computes(action: Callable[[], Any]) -> None:
    """Have the next call of a schedule run this first."""

    def on_call(frame: Any, event: str, _: Any) -> None:
        if event == "call" and frame.f_code.co_name == "_at":
            sys.setprofile(None)
            action()

    sys.setprofile(on_call)


def restore(opt: fo.Optimizer) -> None:
    opt.load_state_dict(opt.state_dict())


def take_a_step(opt: fo.Optimizer) -> None:
    opt.step(numbers(2))


def assign_a_rate(opt: fo.Optimizer) -> None:
    opt.param_groups[0]["lr"] = 0.5


@loop("change", [restore, take_a_step, assign_a_rate])
def test_a_change_while_the_schedule_computes_comes_first(change: Callable[[fo.Optimizer], None]) -> None:
    """A signal handler, a finalizer or another thread may run wherever Python code does."""
    opt, expected = (fo.Adam(numbers(0), lr=KNOWN) for _ in range(2))
    for each in (opt, expected):
        each.step(numbers(1))

    while_the_schedule_computes(lambda: change(opt))
    opt.step(numbers(3))
    assert sys.getprofile() is None
    change(expected)
    expected.step(numbers(3))
    assert opt.step_count == expected.step_count
    assert_same_bits(opt.params, expected.params)


def test_averages_shown_while_the_schedule_computes_are_not_stepped() -> None:
    opt = fo.Adam(p := numbers(0), lr=KNOWN, ema=0.5)
    for t in (1, 2):
        opt.step(numbers(t))
    entered = opt.averaged()
    while_the_schedule_computes(entered.__enter__)
    with pytest.raises(RuntimeError, match="averaged"):
        opt.step(numbers(2))
    shown = p.copy()
    entered.__exit__(None, None, None)
    assert opt.step_count == 2
    assert not np.array_equal(shown, p)


@each_backend
def test_a_schedule_that_overflows_is_refused_at_its_step(backend: Backend) -> None:
    opt = fo.SGD(p := np.zeros(3), lr=fo.schedules.Exponential(1e-9, 1e100), backend=backend)
    for _ in range(4):
        opt.step(np.zeros(3))
    with pytest.raises(ValueError, match=r"^param_groups\[0\]\['lr'\] at step 4: expected a number >= 0, got inf"):
        opt.step(np.ones(3))
    assert opt.step_count == 4
    assert not p.any()


@every_variant
def test_histories_are_the_reference_s(case: Case) -> None:
    """With numbers of each step's own, gradients that are missing or not finite, and options assigned between."""

    def run(backend: Backend) -> tuple[fo.Optimizer, Any]:
        rng = np.random.default_rng(5)
        options = {**case.options, "backend": backend}
        opt = case.optimizer([{"params": [numbers(0)]}, {"params": numbers(1), "lr": a_rate}], **options)

        def grads(t: int) -> Any:
            change = rng.integers(8)
            if change == 0:
                opt.param_groups[rng.integers(2)]["lr"] = float(rng.random() / 10)
            elif change == 1:
                opt.param_groups[rng.integers(2)]["lr"] = a_rate
            elif change == 2:
                opt.param_groups[rng.integers(2)]["grad_scale"] = (2.0, np.array(4.0))[rng.integers(2)]
            elif change == 3:
                opt.param_groups[rng.integers(2)]["skip_nonfinite"] = bool(rng.integers(2))
            first = None if t == 15 else numbers(t)
            if first is not None and t % 5 == 3 and opt.param_groups[0]["skip_nonfinite"]:
                first[2] = np.inf
            return [[first], numbers(t + 30)]

        return opt, said_of_steps(opt, 20, grads)

    same_in_both(run)


class TakesAll(fo.ASGD):
    """Its `compute_host_constants` names nothing."""

    @staticmethod
    def compute_host_constants(**options: Any) -> dict[str, float]:
        assert set(options) == {"t", *TakesAll.defaults}
        return fo.ASGD.compute_host_constants(**{name: options[name] for name in fo.ASGD.host_constants_takes})


def test_numbers_of_a_step_may_be_made_of_all_options() -> None:
    own, expected = TakesAll(p := numbers(0), t0=2), fo.ASGD(q := numbers(0), t0=2)
    for t in range(6):
        own.step(numbers(t))
        expected.step(numbers(t))
    assert_same_bits(p, q, "after six steps")
    assert_same_bits(own.state["ax"], expected.state["ax"], "after six steps")


def test_groups_that_are_no_list() -> None:
    opt = optimizer_of(a_dict, "native")
    opt.param_groups = tuple(opt.param_groups)  # type: ignore[assignment]
    for t in range(3):
        opt.step(a_dict(t))


def test_the_fast_path_is_found_again_after_a_change(monkeypatch: pytest.MonkeyPatch) -> None:
    opt = optimizer_of(a_dict, "native")
    opt.param_groups[0]["lr"] = 0.5
    opt.step(a_dict(20))
    assert count_slow_steps(monkeypatch, opt, a_dict) == 0


def test_while_shown_no_step_is_taken() -> None:
    opt = optimizer_of(a_dict, "native", ema=0.5)
    with opt.averaged(), pytest.raises(RuntimeError, match="averaged"):
        opt.step(a_dict(5))
    opt.step(a_dict(5))


def test_a_skipped_step_leaves_the_fast_path_open(monkeypatch: pytest.MonkeyPatch) -> None:
    opt = fo.Adam(numbers(0), skip_nonfinite=True)
    assert opt.step(numbers(1)) is True
    monkeypatch.setattr(fo.Adam, "_step_by_engine", lambda *_: pytest.fail("the longer way"))
    assert opt.step(np.full(5, np.inf, np.float32)) is False
    assert opt.step_count == 1
    assert opt.step(numbers(2)) is True
