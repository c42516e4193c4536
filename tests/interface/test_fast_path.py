"""A step like the one before it takes the fast path; whatever differs must be noticed.

The reference has no such way: what it does after the same history is what must come.
"""

from __future__ import annotations

import gc
import re
import weakref
from collections import OrderedDict
from collections.abc import Callable
from typing import Any, Literal, NamedTuple

import numpy as np
import pytest

import fastoptim as fo
from cases import FLOAT32, Array, Case, assert_same_bits, ordinary_values
from loops import loop
from models import each_backend, every_variant

Backend = Literal["native", "reference"]

Change = tuple[Callable[[int], Any], str, Callable[[fo.Optimizer, Any], Any]]

STEPS_BEFORE = 3


class Pair(NamedTuple):
    w: Any
    b: Any


class OwnList(list[Any]):
    """A list that means something else by its entries."""

    def __iter__(self) -> Any:
        return reversed(list(super().__iter__()))


def numbers(seed: int, size: int = 5) -> Array:
    return ordinary_values(np.random.default_rng(seed), FLOAT32, size)


def a_dict(seed: int) -> dict[str, Any]:
    return {"w": numbers(seed), "b": [numbers(seed + 50, 2), (numbers(seed + 70, 1),)]}


def a_list(seed: int) -> list[Any]:
    return [numbers(seed), numbers(seed + 50)]


def a_rate(step: int) -> float:
    return 0.1 / (1 + step)


# What makes each step's numbers its own, or not.
KINDS: dict[str, dict[str, Any]] = {
    "steady": {"lr": 0.1},
    "schedule": {"lr": a_rate},
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


def load(opt: fo.Optimizer, grads: Any) -> None:
    saved = opt.state_dict()
    saved["step_count"] = 100
    for array in saved["arrays"]:
        array["steps"] = 100
    opt.load_state_dict(saved)


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


def count_slow_steps(monkeypatch: pytest.MonkeyPatch, opt: fo.Optimizer, grads: Callable[[int], Any]) -> int:
    """How many of ten more steps take the slow path."""
    taken = []
    in_full = opt._step_slow_path

    def counted(tree: Any) -> bool | None:
        taken.append(tree)
        return in_full(tree)

    monkeypatch.setattr(opt, "_step_slow_path", counted)
    before = opt.step_count
    for t in range(10):
        opt.step(grads(t))
    assert opt.step_count == before + 10
    return len(taken)


@every_variant
def test_steps_of_one_kind_go_the_fast_path(case: Case, monkeypatch: pytest.MonkeyPatch) -> None:
    opt = case.optimize(numbers(0))
    opt.step(numbers(1))
    own = "t" in case.optimizer.host_constants_takes or case.options["skip_nonfinite"]
    assert count_slow_steps(monkeypatch, opt, numbers) == (10 if own else 0)


@loop("number", [float, np.float32, int])
def test_a_schedule_is_called_once_a_step(number: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[int] = []
    opt = fo.Adam(numbers(0), lr=lambda step: asked.append(step) or number(1))  # type: ignore[func-returns-value]
    opt.step(numbers(1))
    assert count_slow_steps(monkeypatch, opt, numbers) == 10
    assert asked == list(range(11))


class Trainer:
    """A schedule that refers to its optimizer."""

    def __init__(self, p: Array) -> None:
        self.opt = fo.Adam(p, lr=self.rate)

    def rate(self, step: int) -> float:
        return 0.1


def test_an_optimizer_whose_schedule_refers_to_it_is_collected() -> None:
    trainer = Trainer(numbers(0))
    for t in range(3):
        trainer.opt.step(numbers(t))
    gone = weakref.ref(trainer)
    del trainer
    gc.collect()
    assert gone() is None


@loop("which", ["p", "g"])
def test_a_schedule_may_resize_what_it_likes(which: str) -> None:
    p, g = np.ones(50000, np.float32), np.ones(50000, np.float32)

    def lr(step: int) -> float:
        if step == 3:
            {"p": p, "g": g}[which].resize(1, refcheck=False)
        return 0.1

    opt = fo.SGD(p, lr=lr)
    for _ in range(3):
        opt.step(g)
    with pytest.raises(ValueError, match="expected"):
        opt.step(g)


def test_a_schedule_may_change_another_group() -> None:
    def outcome_of(backend: Backend) -> list[Array]:
        def lr(step: int) -> float:
            if step == 2:
                opt.param_groups[1]["lr"] = 0.5
            return 0.1

        params = [numbers(0), numbers(1)]
        opt = fo.SGD([{"params": params[0], "lr": lr}, {"params": params[1], "lr": 0.1}], backend=backend)
        for t in range(4):
            opt.step([numbers(t), numbers(t)])
        return params

    for got, expected in zip(outcome_of("native"), outcome_of("reference"), strict=True):
        assert_same_bits(got, expected, "after four steps")


def same_in_both(run: Callable[[Backend], tuple[fo.Optimizer, Any]]) -> None:
    """Check that results, errors and every bit of parameters and state are the reference's."""
    (native, said), (expected, expected_said) = run("native"), run("reference")
    assert said == expected_said
    for param, want in zip(native.param_states, expected.param_states, strict=True):
        assert param.state.keys() == want.state.keys()
        assert_same_bits(param.p, want.p, param.place)
        for name, array in param.state.items():
            assert_same_bits(array, want.state[name], name)


def said_of_steps(opt: fo.Optimizer, steps: int, grads: Callable[[int], Any]) -> list[Any]:
    said: list[Any] = []
    for t in range(steps):
        try:
            said.append(opt.step(grads(t)))
        except (TypeError, ValueError, RuntimeError) as error:
            said.append(f"{type(error).__name__}: {error}")
        said.append(opt.step_count)
    return said


OF_A_SCHEDULE: dict[str, Callable[[fo.Optimizer, int], Any]] = {
    "its own group's option": lambda opt, index: opt.param_groups[index].update(weight_decay=0.5),
    "its own group's average": lambda opt, index: opt.param_groups[index].update(ema=0.5),
    "its own group's average, looked at": lambda opt, index: (
        opt.param_groups[index].update(ema=0.5),
        opt.state_dict(),
    ),
    "the other group's option": lambda opt, index: opt.param_groups[1 - index].update(weight_decay=0.5),
    "the other group's average": lambda opt, index: opt.param_groups[1 - index].update(ema=0.5),
    "the other group's schedule": lambda opt, index: opt.param_groups[1 - index].update(lr=0.03),
    "the other group's skipping": lambda opt, index: opt.param_groups[1 - index].update(skip_nonfinite=True),
    "an option that is none": lambda opt, index: opt.param_groups[1 - index].update(speed=1),
    "all options": lambda opt, index: setattr(opt, "l1", 0.1),
    "the state": lambda opt, index: load(opt, None),
}


@loop("index", [0, 1])
@loop("change", OF_A_SCHEDULE.values())
def test_a_schedule_may_change_what_it_likes(change: Callable[[fo.Optimizer, int], Any], index: int) -> None:
    """A change of the groups that come after its own counts in the same step."""

    def run(backend: Backend) -> tuple[fo.Optimizer, Any]:
        asked: list[int] = []

        def lr(step: int) -> float:
            asked.append(step)
            if len(asked) == 4:
                change(opt, index)
            return 0.1

        rates = [lr, a_rate] if index == 0 else [a_rate, lr]
        groups = [{"params": numbers(i), "lr": rate} for i, rate in enumerate(rates)]
        opt = fo.Adam(groups, backend=backend)
        return opt, (said_of_steps(opt, 8, lambda t: [numbers(t), numbers(t + 20)]), asked)

    same_in_both(run)


def test_what_a_step_reads_is_what_stood_there_when_it_began() -> None:
    """Include strided gradients, which take the slow path."""

    def run(backend: Backend) -> tuple[fo.Optimizer, Any]:
        grads: list[Any] = []

        def lr(step: int) -> float:
            grads[:] = [numbers(90), numbers(91)]
            return 0.1

        def fresh(t: int) -> list[Any]:
            grads[:] = [numbers(t, 10)[::2] if t % 2 else numbers(t), None if t == 6 else numbers(t)]
            return grads

        opt = fo.Adam(a_list(0), lr=lr, backend=backend)
        return opt, said_of_steps(opt, 9, fresh)

    same_in_both(run)


def test_the_structure_is_checked_before_a_schedule_is_called() -> None:
    asked: list[int] = []
    opt = fo.Adam(a_list(0), lr=lambda step: asked.append(step) or 0.1)  # type: ignore[func-returns-value]
    for t in range(3):
        opt.step(a_list(t))
    with pytest.raises(TypeError, match="expected a list or tuple of 2"):
        opt.step(a_list(3)[:1])
    assert asked == [0, 1, 2]


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


def test_a_schedule_is_called_once_also_where_a_gradient_is_strided() -> None:
    asked: list[int] = []
    opt = fo.Adam(numbers(0), lr=lambda step: asked.append(step) or 0.1)  # type: ignore[func-returns-value]
    for t in range(5):
        opt.step(numbers(t, 10)[::2])
    assert asked == list(range(5))


def test_the_fast_path_is_found_again_after_a_change(monkeypatch: pytest.MonkeyPatch) -> None:
    opt = optimizer_of(a_dict, "native")
    opt.param_groups[0]["lr"] = 0.5
    opt.step(a_dict(20))
    assert count_slow_steps(monkeypatch, opt, a_dict) == 0


def test_an_exception_of_a_schedule_is_its_own() -> None:
    def lr(step: int) -> float:
        if step == 4:
            raise KeyError("step 4")
        return 0.1

    opt = fo.Adam(p := numbers(0), lr=lr)
    for t in range(4):
        opt.step(numbers(t))
    before = p.copy()
    with pytest.raises(KeyError, match="step 4"):
        opt.step(numbers(4))
    assert_same_bits(p, before, "nothing written")
    assert opt.step_count == 4


@loop("odd", [-1.0, float("nan"), float("inf"), "fast"])
def test_a_schedule_that_goes_wrong_late_is_rejected(odd: Any) -> None:
    opt = fo.Adam(p := numbers(0), lr=lambda step: odd if step == 4 else 0.1)
    for t in range(4):
        opt.step(numbers(t))
    before = p.copy()
    with pytest.raises((TypeError, ValueError), match=r"param_groups\[0\]\['lr'\] at step 4"):
        opt.step(numbers(4))
    assert_same_bits(p, before, "nothing written")


def test_gradients_may_go_while_a_schedule_is_called() -> None:
    """The arrays that a step reads are kept alive until it has read them."""
    grads = a_list(1)

    def lr(step: int) -> float:
        grads.clear()
        grads.extend(a_list(1))
        return 0.1

    native, expected = fo.Adam(a_list(0), lr=lr), fo.Adam(a_list(0), lr=0.1)
    for _ in range(5):
        native.step(grads)
        expected.step(a_list(1))
    for param, want in zip(native.param_states, expected.param_states, strict=True):
        assert_same_bits(param.p, want.p, "after five steps")


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


def takes_a_step(opt: fo.Optimizer) -> object:
    opt.param_groups[0]["lr"] = 0.1
    return opt.step([[numbers(1)], [numbers(1)]])


def shows_the_average(opt: fo.Optimizer) -> object:
    shown = opt.averaged()
    shown.__enter__()
    return shown


def loads_a_checkpoint(opt: fo.Optimizer) -> object:
    """Of the same step, with less state."""
    saved = opt.state_dict()
    for group, entry in zip(saved["groups"], saved["arrays"], strict=True):
        del group["ema"], entry["state"]["average"]
        group["lr"] = 0.1
    opt.load_state_dict(saved)
    return None


def drops_a_group(opt: fo.Optimizer) -> object:
    return opt.param_groups.pop()


@each_backend
@loop(
    ("does", "error", "said"),
    [
        (takes_a_step, RuntimeError, "lr: expected a schedule that leaves step 3 alone, got one that took it"),
        (loads_a_checkpoint, RuntimeError, "lr: expected a schedule that leaves step 3 alone, got one that loaded"),
        (shows_the_average, RuntimeError, "averaged"),
        (drops_a_group, ValueError, "param_groups: expected 2 groups, got 1"),
    ],
)
def test_what_a_schedule_must_not_do(
    does: Callable[[fo.Optimizer], object], error: type[Exception], said: str, backend: Backend
) -> None:
    opts: list[fo.Optimizer] = []
    kept = []

    def rate(step: int) -> float:
        if step == 2:
            kept.append(does(opts[0]))
        return 0.1

    groups = [{"params": [numbers(0)], "lr": rate}, {"params": [numbers(1)], "lr": 0.1}]
    opts.append(fo.Adam(groups, ema=0.9, backend=backend))
    for seed in (1, 2):
        opts[0].step([[numbers(seed)], [numbers(seed)]])
    before = [param.p.copy() for param in opts[0].param_states]
    with pytest.raises(error, match=re.escape(said)):
        opts[0].step([[numbers(3)], [numbers(3)]])
    if does is drops_a_group:
        for param, p in zip(opts[0].param_states, before, strict=True):
            assert_same_bits(param.p, p, param.place)


class CallableNumber(float):
    def __call__(self, step: int) -> float:
        return 0.1


def test_a_number_that_can_be_called_is_called() -> None:
    same_in_both(lambda backend: trained_with(CallableNumber(5), backend))


def trained_with(lr: Any, backend: Backend) -> tuple[fo.Optimizer, Any]:
    opt = fo.SGD(numbers(0), lr=lr, backend=backend)
    return opt, [opt.step(numbers(seed)) for seed in (1, 2, 3)]
