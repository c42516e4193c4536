"""The native engine for arrays in the CPU's memory: all arrays in one call."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from typing import Any, ClassVar

from .. import core
from ..arrays.param_state import ParamState, check_one, check_targets
from ..arrays.tree import Structure
from ..arrays.written_ranges import WrittenRanges
from ..core import RULES
from ..options.checks import expand
from ..options.schema import AVERAGE
from ..options.settings import Settings
from ..reference_math import Array, bfloat16
from .base import GroupSnapshot, GroupStep, Repeat, group_step_at

CLIPS = ("clip_value", "clip_norm", "clip_global_norm")


def squared_norms(arrays: list[Array]) -> list[float]:
    """The sum of the squares of each array, dense and of a known dtype."""
    _name_bfloat16()
    return core.squared_norms(arrays)


class Engine:
    """The native backend: all arrays in one call."""

    isa: ClassVar[str] = ""  # the instruction set; empty for FASTOPTIM_ISA's or the best

    def __init__(self, param_states: Sequence[ParamState]) -> None:
        self._param_states = param_states
        self._plan: core.Plan | None = None
        self._written = WrittenRanges([])

    def step(self, grads: list[Any], group_steps: Sequence[GroupStep], step_of: list[int] | None = None) -> int | None:
        """Update every array that has a gradient; see fastoptim.engines.base.Engine.  `grads` may be changed."""
        numbers = numbers_of(group_steps)
        plan = self._plan or self._make_plan(group_steps, step_of)
        looked_at = 1
        while (stepped := plan.step(grads, step_of, numbers)) < 0:
            # Nothing was written, as something is not as it mostly is.  Refuse it here, or make it fit.
            if stepped == plan.SKIPPED:
                return None
            if stepped == plan.CHANGED:
                plan = self._make_plan(group_steps, step_of)
                continue
            _name_bfloat16()  # the user may have loaded it since
            odd = plan.FIRST_ODD - stepped
            for i in range(odd, min(odd + looked_at, len(grads))):
                if grads[i] is not None:
                    grads[i] = check_one(self._param_states[i], grads[i], self._written)
            looked_at *= 2  # where one is odd others may be, and each attempt begins with the first array
        return stepped

    def repeat(self, structure: Structure, groups: Sequence[GroupSnapshot]) -> Repeat | None:
        """See `fastoptim.engines.base.Engine`."""
        if self._plan is None:
            return None
        repeat = core.Repeat(self._plan, structure.nesting(), [_update_config(group.settings) for group in groups])
        steady = None
        if all(group.settings.is_steady and not group.settings.skips for group in groups):
            steady = core.Steady(repeat, [(group.values, *_numbers_of_every_step(group)) for group in groups])
        return Repeat(steady, repeat.match, repeat.step, self._plan.SKIPPED)

    def _make_plan(self, group_steps: Sequence[GroupStep], step_of: list[int] | None) -> core.Plan:
        _name_bfloat16()
        self._written = check_targets(self._param_states)
        groups = [param.group for param in self._param_states]
        used = [group_steps[which].settings for which in (groups if step_of is None else step_of)]
        states = [state_of(param, settings) for param, settings in zip(self._param_states, used, strict=True)]
        self._plan = core.Plan([param.p for param in self._param_states], states, groups, self.isa)
        return self._plan


def bandwidth_probe_of(
    param_states: Sequence[ParamState], grads: Sequence[Array], settings: Settings, isa: str = ""
) -> Callable[[int], int]:
    """The pass that a step over these arrays is measured against.

    It reads and writes what the step does, where the step does, and adds its argument by exclusive or to each word that
    a step writes: with 0 it changes nothing.  It returns that of all words that a step only reads.
    """
    _name_bfloat16()
    states = [state_of(param, settings) for param in param_states]
    return core.BandwidthProbe(
        rule=RULES[settings.variant].number,
        params=[param.p for param in param_states],
        grads=list(grads),
        states=[arrays for arrays, _, _ in states],
        averages=[average for _, _, average in states],
        isa=isa,
    )


def numbers_of(group_steps: Iterable[GroupStep]) -> core.GroupSteps:
    """A step's numbers as a plan takes them."""
    return [
        (_update_config(settings), lr, t, scale, (*scalars.values(),))
        for settings, lr, t, scale, scalars in group_steps
    ]


def _numbers_of_every_step(group: GroupSnapshot) -> tuple[float, float, tuple[float, ...]]:
    _, lr, _, scale, scalars = group_step_at(group.settings, group.settings.options["lr"], 1, group.place)
    return lr, scale, (*scalars.values(),)


def state_of(param: ParamState, settings: Settings) -> tuple[list[Any], list[Any], list[Any]]:
    """An array's state as a plan takes it: the rule's arrays, its numbers, and the average if one is kept."""
    rule = RULES[settings.variant]
    average = [param.state[AVERAGE]] if settings.averages else []
    return [param.state[name] for name in rule.state], [param.state[name] for name in rule.scalar_state], average


def _name_bfloat16() -> None:
    """Tells native code which dtype is bfloat16, once there is one."""
    if (dtype := bfloat16()) is not None:
        core.set_bfloat16(dtype)


def _update_config(settings: Settings) -> core.UpdateConfig:
    """What the kernels need of the options, but for what changes with the step."""
    known: core.UpdateConfig | None = settings.memo.get("hyper")
    if known is not None:
        return known
    rule, options, optimizer = RULES[settings.variant], settings.options, settings.optimizer
    values = {**expand(options), **dict.fromkeys(("lr", *optimizer.host_constants), 0.0)}
    bound = {name: math.inf if options[name] is None else options[name] for name in CLIPS}
    made = core.UpdateConfig(
        rule=rule.number,
        values=[float(values[name]) for name in rule.hyper],
        lr_at=rule.hyper.index("lr") if "lr" in rule.hyper else -1,
        host_constants_at=[rule.hyper.index(name) for name in optimizer.host_constants],
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
