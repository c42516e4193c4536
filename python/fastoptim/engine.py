"""What an optimizer hands to a backend, native or reference: arrays with their state, and the numbers of a step."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol

from .arrays import Array, WrittenRanges, check_gradient, check_scalar, check_state, check_target, in_order_of
from .libraries import ArrayFamily, family_of
from .options import scale_at
from .trees import Structure

if TYPE_CHECKING:
    from .optimizer import Optimizer

#: The state array that `ema` and `swa_start` keep.
AVERAGE = "average"


@dataclass(frozen=True)
class ParamState:
    """One parameter array with its live state arrays, its group, and the places that messages name."""

    p: Any  # of the user's library, as the state
    state: dict[str, Any]
    group: int = 0
    place: str = ""  # of the gradient and the state in their structures, as in grads['w1']
    p_place: str = "p"
    g_name: str = "grads"
    scalar_state: tuple[str, ...] = ()  # the state arrays that are one number

    @property
    def g_place(self) -> str:
        """What a message calls the gradient."""
        return self.g_name + self.place

    def state_place(self, name: str) -> str:
        """What a message calls a state array."""
        return f"state{self.place}[{name!r}]"

    @property
    def family(self) -> ArrayFamily:
        """What made the parameter."""
        family = family_of(self.p)
        assert family is not None
        return family

    @property
    def metadata(self) -> Array:
        """The parameter's shape, dtype and place in memory."""
        return self.family.metadata(self.p, self.p_place)


@dataclass(frozen=True, eq=False)
class Settings:
    """An optimizer's options, checked; the learning rate may be a callable."""

    optimizer: type[Optimizer]
    variant: str
    options: Mapping[str, Any]
    memo: dict[str, Any] = field(default_factory=dict, repr=False)  # what a backend makes of them, once

    def __getstate__(self) -> dict[str, Any]:
        return {**vars(self), "memo": {}}

    @property
    def state(self) -> tuple[str, ...]:
        """The state arrays that these options use."""
        return self.optimizer.variants[self.variant] + (AVERAGE,) * self.averages

    @cached_property
    def skips(self) -> bool:
        """Whether a step may be skipped."""
        return bool(self.options["skip_nonfinite"])

    @cached_property
    def is_steady(self) -> bool:
        """Whether each step has the same numbers but for its count."""
        rate, scale = self.options["lr"], self.options["grad_scale"]
        return not callable(rate) and isinstance(scale, float) and "t" not in self._host_constant_arguments

    @cached_property
    def _host_constant_arguments(self) -> dict[str, Any]:
        wanted = self.optimizer.host_constants_takes
        return {name: value for name, value in {"t": 0, **self.options}.items() if name in wanted}

    def host_constants_at(self, t: int, lr: float) -> dict[str, float]:
        """What the optimizer's `compute_host_constants` gives."""
        arguments = self._host_constant_arguments.copy()
        if "t" in arguments:
            arguments["t"] = t
        if "lr" in arguments:
            arguments["lr"] = lr
        return self.optimizer.compute_host_constants(**arguments)

    @property
    def averages(self) -> bool:
        """Whether an average of the parameters is kept."""
        return self.options["ema"] is not None or self.options["swa_start"] is not None


class GroupStep(NamedTuple):
    """One step with some settings: its learning rate, its number, counted from 1, its loss scale and what the
    optimizer's `compute_host_constants` gives.
    """

    settings: Settings
    lr: float
    t: int
    grad_scale: float = 1.0
    scalars: dict[str, float] = {}


def group_step_at(settings: Settings, lr: float, t: int, place: str) -> GroupStep:
    """What these settings do in step t."""
    scalars = settings.host_constants_at(t, lr) if settings.optimizer.host_constants else {}
    scale = settings.options["grad_scale"]
    if not isinstance(scale, float):
        scale = scale_at(scale, f"{place}['grad_scale']")
    return tuple.__new__(GroupStep, (settings, lr, t, scale, scalars))  # in half the time of GroupStep(...)


class GroupSnapshot(NamedTuple):
    """A group's options as last seen: their values in order, what they mean, and what messages call the group."""

    values: tuple[Any, ...]
    settings: Settings
    place: str


class Repeat(NamedTuple):
    """A shorter way for steps like the last one, as long as no array has missed one."""

    steady: Callable[[list[Any], Any, int], bool] | None
    """``(param_groups, grads, step_count)`` to whether it took the step: where options and structure are still the same
    and every array has an ordinary gradient; else it has done nothing.  None where steps have numbers of their own."""

    match: Callable[[list[Any], list[GroupSnapshot], Any], list[Any] | None]
    """``(param_groups, seen, grads)`` to the gradients in the arrays' order, None where options or structure differ."""

    step: Callable[[list[Any], list[GroupStep]], int]
    """``(grads, group_steps)``, one of each group, all with the settings of the last step, to how many arrays had a
    gradient, or to `skipped`; otherwise below zero it has done nothing, and leaves it to the engine's step to find out
    why."""

    skipped: int
    """What `step` gives where the step was skipped."""


class Engine(Protocol):
    """A backend over a fixed list of arrays."""

    def __init__(self, param_states: Sequence[ParamState]) -> None: ...

    def step(self, grads: list[Any], group_steps: Sequence[GroupStep], step_of: list[int] | None = None) -> int | None:
        """Update every array whose gradient is not None, the i-th by ``group_steps[step_of[i]]``, else by its group's.

        Refuses before the first write.  Returns how many arrays had a gradient; None if the step was skipped.
        """

    def repeat(self, structure: Structure, groups: Sequence[GroupSnapshot]) -> Repeat | None:
        """A shorter way for steps like the last one; None where there is none."""


def check_targets(param_states: Sequence[ParamState]) -> WrittenRanges:
    """Refuses parameters and state that a step could not write as they are now."""
    targets = []
    for param in param_states:
        if param.family is not param_states[0].family:
            first, name = param_states[0], param.family.name
            raise ValueError(f"{param.p_place}: expected {first.family.name}'s array as {first.p_place}, got {name}'s")
        p = check_target(param.p, param.p_place)
        targets.append((param.p_place, p))
        for name, array in param.state.items():
            check = check_scalar if name in param.scalar_state else check_state
            targets.append((param.state_place(name), check(array, param.state_place(name), p)))
    return WrittenRanges(targets)


def check_one(param: ParamState, grad: Any, written: WrittenRanges) -> Array:
    """A NumPy gradient in its parameter's memory order, or its refusal."""
    checked = check_gradient(grad, param.g_place, param.p)
    written.check_no_overlap(checked, param.g_place)
    return in_order_of(param.p, checked)
