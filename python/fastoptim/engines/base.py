"""The interface between an optimizer and its engines: the steps of groups, and the engine protocol."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from operator import is_
from typing import Any, NamedTuple, Protocol

from ..arrays.param_state import ParamState, check_has_rows
from ..arrays.tree import Structure
from ..options.checks import scale_at
from ..options.settings import Settings


class GroupStep(NamedTuple):
    """One step of a parameter group: its options, learning rate, number (from 1), loss scale and host constants."""

    settings: Settings
    lr: float
    t: int
    grad_scale: float = 1.0
    constants: dict[str, float] = {}


def group_step_at(settings: Settings, lr: float, t: int, place: str) -> GroupStep:
    """Return the step of a group with these settings at step number t."""
    scale = settings.options["grad_scale"]
    if not isinstance(scale, float):
        scale = scale_at(scale, f"{place}['grad_scale']")
    return with_constants(settings, lr, t, scale)


def group_step_of_rows(group_step: GroupStep, taken: int) -> GroupStep:
    """Return the step, of the same group, of rows that have taken so many before."""
    return with_constants(group_step.settings, group_step.lr, taken + 1, group_step.grad_scale)


def with_constants(settings: Settings, lr: float, t: int, grad_scale: float) -> GroupStep:
    """Return a step with the constants that the host computes for this number."""
    constants = settings.host_constants_at(t, lr) if settings.optimizer.host_constants else {}
    return tuple.__new__(GroupStep, (settings, lr, t, grad_scale, constants))  # in half the time of GroupStep(...)


def settings_used(
    param_states: Sequence[ParamState], group_steps: Sequence[GroupStep], step_of: list[int] | None
) -> list[Settings]:
    """Return the settings of each array's step; raise ValueError if rows that count their steps have gaps."""
    used = [group_steps[which].settings for which in step_of or [param.group for param in param_states]]
    for param, settings in zip(param_states, used, strict=True):
        if settings.options["row_steps"]:
            check_has_rows(param)
    return used


def depends_on_all(group_step: GroupStep) -> bool:
    """Return whether a step depends on the gradients of all arrays together."""
    options = group_step.settings.options
    return bool(group_step.settings.when_nonfinite) or options["clip_global_norm"] is not None


class GroupSnapshot(NamedTuple):
    """A group's options when they were last checked, their checked form, and the group's path."""

    seen: tuple[Any, ...]
    """The keys of the group in order, then its values."""
    settings: Settings
    place: str

    @classmethod
    def of(cls, group: Mapping[str, Any], settings: Settings, index: int) -> GroupSnapshot:
        """Return the snapshot of the group at that index."""
        return cls((*group, *group.values()), settings, f"param_groups[{index}]")

    def is_of(self, group: Mapping[str, Any]) -> bool:
        """Return whether every key and value is the same object as then; 1.0 == True, so equality is not enough."""
        return len(self.seen) == 2 * len(group) and all(map(is_, (*group, *group.values()), self.seen))


class Counts(NamedTuple):
    """The counts of an optimizer, and those that take their place when a step is taken.

    An engine assigns it in the same native call as the arrays: an exception of a signal handler, such as
    KeyboardInterrupt, finds a step that was taken and counted, or neither.
    """

    now: list[Any]
    """The number of steps, and how many of them each array has missed."""
    after: tuple[Any, ...]


NO_COUNTS = Counts([], ())


class Elsewhere(NamedTuple):
    """Inputs of a step from the engines that step the other arrays of a model."""

    global_norm: float | None = None
    """The norm of all gradients, of the values of every engine's `clipped_norms`."""
    sums: tuple[float, ...] = ()
    """The sums over all arrays of a rule that reduces all, of the values of every engine's `rule_sums`."""


NOTHING_ELSEWHERE = Elsewhere()


class FastPath(NamedTuple):
    """The fast path of an engine: the methods of `core.FastPath`, bound once."""

    match_inputs: Callable[[list[Any], list[GroupSnapshot], Any], list[Any] | None]
    step_with: Callable[[list[Any], list[GroupStep], list[Any]], tuple[str, int]]
    try_step: Callable[[list[Any], Any, list[Any]], bool] | None = None
    """None if the constants of a step depend on more than its number."""
    try_scheduled_step: Callable[[list[Any], Any, list[Any], tuple[float, ...]], bool] | None = None
    """The same with the number of the step and its learning rates; None if the constants depend on more than these."""
    rates: tuple[Callable[[int], float], ...] = ()
    """The learning rate of each group as a function of the step, from 0, for `try_scheduled_step`; else empty."""


class Engine(Protocol):
    """A backend for a fixed list of arrays."""

    def __init__(self, param_states: Sequence[ParamState]) -> None: ...

    def step(
        self,
        grads: list[Any],
        group_steps: Sequence[GroupStep],
        step_of: list[int] | None = None,
        counts: Counts = NO_COUNTS,
    ) -> int | None:
        """Update every array whose gradient is not None, the i-th by ``group_steps[step_of[i]]``, else by its group's.

        Raises errors before the first write.  Advances `counts` with the step.  Returns the number of arrays with a
        gradient; None after a skipped step.
        """

    def fast_path(
        self, structure: Structure, groups: Sequence[GroupSnapshot], containers: list[Any]
    ) -> FastPath | None:
        """Return the fast path for steps like the last one, if there is one and no array has missed a step.

        It takes no step in which one of these dicts and lists has other entries than now.
        """


class PartEngine(Engine, Protocol):
    """An engine whose arrays may be a part of a model, of which other engines have the rest."""

    def step(
        self,
        grads: list[Any],
        group_steps: Sequence[GroupStep],
        step_of: list[int] | None = None,
        counts: Counts = NO_COUNTS,
        elsewhere: Elsewhere = NOTHING_ELSEWHERE,
    ) -> int | None:
        """Do the same with what a step depends on in other engines."""

    def clipped_norms(
        self, grads: list[Any], group_steps: Sequence[GroupStep], step_of: list[int] | None = None
    ) -> list[float] | None:
        """Return the norm of each gradient after `clip_norm`, 0 where there is none.

        None if one is not finite and the step skips such gradients.
        """

    def rule_sums(
        self,
        grads: list[Any],
        group_steps: Sequence[GroupStep],
        step_of: list[int] | None = None,
        global_norm: float | None = None,
    ) -> list[tuple[float, ...]]:
        """Return the sums over each array that a rule needs which reduces all; the same step has to follow."""
