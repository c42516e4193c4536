"""The things that a schedule may do while a step calls it, and their effect; compared with the reference."""

from __future__ import annotations

import gc
import math
import re
import weakref
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

import fastoptim as fo
from cases import Array, assert_same_bits
from loops import loop
from models import Backend, each_backend
from step_histories import a_list, a_rate, count_slow_steps, load, numbers, said_of_steps, same_in_both


@loop("number", [float, np.float32, int])
@loop("grads", [numbers, lambda seed: numbers(seed, 10)[::2]])
def test_a_schedule_is_called_once_a_step(number: Any, grads: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """A strided gradient does not matter."""
    asked: list[int] = []
    opt = fo.Adam(numbers(0), lr=lambda step: asked.append(step) or number(1))  # type: ignore[func-returns-value]
    opt.step(numbers(1))
    assert count_slow_steps(monkeypatch, opt, grads) == 10
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


@loop(
    ("odd", "error"),
    [
        (-1.0, ValueError),
        (math.nan, ValueError),
        (math.inf, ValueError),
        ("fast", TypeError),
        (KeyError("step 4"), KeyError),
    ],
)
def test_a_schedule_that_fails_late_changes_nothing(odd: Any, error: Any) -> None:
    def lr(step: int) -> Any:
        if step == 4 and isinstance(odd, Exception):
            raise odd
        return odd if step == 4 else 0.1

    opt = fo.Adam(p := numbers(0), lr=lr)
    for t in range(4):
        opt.step(numbers(t))
    before = p.copy()
    with pytest.raises(error, match="step 4"):
        opt.step(numbers(4))
    assert_same_bits(p, before, "nothing written")
    assert opt.step_count == 4


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


def takes_a_step(opt: fo.Optimizer) -> object:
    """By the fast path, since no option changes."""
    return opt.step([[numbers(1)], [numbers(1)]])


def shows_the_average(opt: fo.Optimizer) -> object:
    shown = opt.averaged()
    shown.__enter__()
    return shown


def loads_a_checkpoint(opt: fo.Optimizer) -> object:
    """The state dict is of the same step, with less state."""
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
    kept: list[object] = []

    def rate(step: int) -> float:
        if step == 2 and not kept:
            kept.append("once")
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
