"""The native backend, and the only importer of the compiled module."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from typing import Any, ClassVar, NamedTuple

from . import _core
from .arrays import Array, Territory, bfloat16
from .engine import AVERAGE, Repeat, Seen, Settings, Slot, Update, check_one, check_targets, update_at
from .options import expand
from .trees import Structure

CLIPS = ("clip_value", "clip_norm", "clip_global_norm")


class Rule(NamedTuple):
    """What the compiled module says of one of its rules."""

    number: int
    hyper: tuple[str, ...]
    state: tuple[str, ...]
    scalars: tuple[str, ...]
    sums: int
    sums_of_group: bool
    measured: tuple[str, ...]
    """What the pass for the sums does with p, g and each array of `state`, "", "r" or "rw"; empty if there is none."""
    updated: tuple[str, ...]
    """The same of the update."""


RULES = {name: Rule(*rule) for name, rule in _core.RULES.items()}
build_info = _core.build_info
cuda_status = _core.cuda_status
cuda_device_of = _core.cuda_device_of
cuda_squared_norms = _core.cuda_squared_norms
CudaPlan = _core.CudaPlan
CudaLimit = _core.CudaLimit
get_num_threads = _core.get_num_threads
set_num_threads = _core.set_num_threads
set_threading = _core.set_threading
thread_info = _core.thread_info
stepping_threads = _core.stepping_threads
end_threads = _core.end_threads


def squared_norms(arrays: list[Array]) -> list[float]:
    """The sum of the squares of each array, dense and of a known dtype."""
    _name_bfloat16()
    return _core.squared_norms(arrays)


class Engine:
    """The native backend: all arrays in one call."""

    isa: ClassVar[str] = ""  # the instruction set; empty for FASTOPTIM_ISA's or the best

    def __init__(self, slots: Sequence[Slot]) -> None:
        self._slots = slots
        self._plan: _core.Plan | None = None
        self._territory = Territory([])

    def step(self, grads: list[Any], updates: Sequence[Update], update_of: list[int] | None = None) -> int | None:
        """Updates every array that has a gradient; see fastoptim.engine.Engine.  `grads` may be changed."""
        numbers = numbers_of(updates)
        plan = self._plan or self._make_plan(updates, update_of)
        looked_at = 1
        while (stepped := plan.step(grads, update_of, numbers)) < 0:
            # Nothing was written, as something is not as it mostly is.  Refuse it here, or make it fit.
            if stepped == plan.SKIPPED:
                return None
            if stepped == plan.CHANGED:
                plan = self._make_plan(updates, update_of)
                continue
            _name_bfloat16()  # the user may have loaded it since
            odd = plan.FIRST_ODD - stepped
            for i in range(odd, min(odd + looked_at, len(grads))):
                if grads[i] is not None:
                    grads[i] = check_one(self._slots[i], grads[i], self._territory)
            looked_at *= 2  # where one is odd others may be, and each attempt begins with the first array
        return stepped

    def repeat(self, structure: Structure, groups: Sequence[Seen]) -> Repeat | None:
        """See fastoptim.engine.Engine."""
        if self._plan is None:
            return None
        repeat = _core.Repeat(self._plan, structure.nesting(), [_hyper(group.settings) for group in groups])
        steady = None
        if all(group.settings.is_steady and not group.settings.skips for group in groups):
            steady = _core.Steady(repeat, [(group.values, *_numbers_of_every_step(group)) for group in groups])
        return Repeat(steady, repeat.match, repeat.step, self._plan.SKIPPED)

    def _make_plan(self, updates: Sequence[Update], update_of: list[int] | None) -> _core.Plan:
        _name_bfloat16()
        self._territory = check_targets(self._slots)
        groups = [slot.group for slot in self._slots]
        used = [updates[which].settings for which in (groups if update_of is None else update_of)]
        states = [state_of(slot, settings) for slot, settings in zip(self._slots, used, strict=True)]
        self._plan = _core.Plan([slot.p for slot in self._slots], states, groups, self.isa)
        return self._plan


def limit_of(slots: Sequence[Slot], grads: Sequence[Array], settings: Settings, isa: str = "") -> Callable[[int], int]:
    """The pass that a step over these arrays is measured against.

    It reads and writes what the step does, where the step does, and adds its argument by exclusive or to each word that
    a step writes: with 0 it changes nothing.  It returns that of all words that a step only reads.
    """
    _name_bfloat16()
    states = [state_of(slot, settings) for slot in slots]
    return _core.Limit(
        rule=RULES[settings.variant].number,
        params=[slot.p for slot in slots],
        grads=list(grads),
        states=[arrays for arrays, _, _ in states],
        averages=[average for _, _, average in states],
        isa=isa,
    )


def numbers_of(updates: Iterable[Update]) -> _core.Updates:
    """A step's numbers as a plan takes them."""
    return [(_hyper(settings), lr, t, scale, (*scalars.values(),)) for settings, lr, t, scale, scalars in updates]


def _numbers_of_every_step(group: Seen) -> tuple[float, float, tuple[float, ...]]:
    _, lr, _, scale, scalars = update_at(group.settings, group.settings.options["lr"], 1, group.place)
    return lr, scale, (*scalars.values(),)


def state_of(slot: Slot, settings: Settings) -> tuple[list[Any], list[Any], list[Any]]:
    """An array's state as a plan takes it: the rule's arrays, its numbers, and the average if one is kept."""
    rule = RULES[settings.variant]
    average = [slot.state[AVERAGE]] if settings.averages else []
    return [slot.state[name] for name in rule.state], [slot.state[name] for name in rule.scalars], average


def _name_bfloat16() -> None:
    """Tells native code which dtype is bfloat16, once there is one."""
    if (dtype := bfloat16()) is not None:
        _core.set_bfloat16(dtype)


def _hyper(settings: Settings) -> _core.Hyper:
    """What the kernels need of the options, but for what changes with the step."""
    known: _core.Hyper | None = settings.memo.get("hyper")
    if known is not None:
        return known
    rule, options, optimizer = RULES[settings.variant], settings.options, settings.optimizer
    values = {**expand(options), **dict.fromkeys(("lr", *optimizer.step_scalars), 0.0)}
    bound = {name: math.inf if options[name] is None else options[name] for name in CLIPS}
    made = _core.Hyper(
        rule=rule.number,
        values=[float(values[name]) for name in rule.hyper],
        lr_at=rule.hyper.index("lr") if "lr" in rule.hyper else -1,
        step_scalars_at=[rule.hyper.index(name) for name in optimizer.step_scalars],
        maximize=options["maximize"],
        skip_nonfinite=options["skip_nonfinite"],
        l1=options["l1"],
        weight_decay=0.0 if optimizer.decays_itself else options["weight_decay"],
        decoupled=options["decoupled"],
        ema=options["ema"],
        swa_start=options["swa_start"],
        swa_every=options["swa_every"],
        **bound,
    )
    settings.memo["hyper"] = made
    return made
