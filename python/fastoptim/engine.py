"""What an optimizer hands to a backend, native or reference: arrays with their state, and the numbers of a step."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol

from .arrays import Array, Territory, check_gradient, check_scalar, check_state, check_target, in_order_of
from .libraries import Library, library_of
from .options import scale_at
from .trees import Structure

if TYPE_CHECKING:
    from .optimizer import Optimizer

#: The state array that `ema` and `swa_start` keep.
AVERAGE = "average"


@dataclass(frozen=True)
class Slot:
    """One parameter array with its live state arrays, its group, and the places that messages name."""

    p: Any  # of the user's library, as the state
    state: dict[str, Any]
    group: int = 0
    place: str = ""  # of the gradient and the state in their structures, as in grads['w1']
    p_place: str = "p"
    g_name: str = "grads"
    scalars: tuple[str, ...] = ()  # the state arrays that are one number

    @property
    def g_place(self) -> str:
        """What a message calls the gradient."""
        return self.g_name + self.place

    def state_place(self, name: str) -> str:
        """What a message calls a state array."""
        return f"state{self.place}[{name!r}]"

    @property
    def library(self) -> Library:
        """What made the parameter."""
        library = library_of(self.p)
        assert library is not None
        return library

    @property
    def outline(self) -> Array:
        """The parameter's shape, dtype and place in memory."""
        return self.library.outline(self.p, self.p_place)


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
        return not callable(rate) and isinstance(scale, float) and "t" not in self._for_at_step

    @cached_property
    def _for_at_step(self) -> dict[str, Any]:
        wanted = self.optimizer.at_step_takes
        return {name: value for name, value in {"t": 0, **self.options}.items() if name in wanted}

    def scalars_at(self, t: int, lr: float) -> dict[str, float]:
        """What the optimizer's `at_step` gives."""
        arguments = self._for_at_step.copy()
        if "t" in arguments:
            arguments["t"] = t
        if "lr" in arguments:
            arguments["lr"] = lr
        return self.optimizer.at_step(**arguments)

    @property
    def averages(self) -> bool:
        """Whether an average of the parameters is kept."""
        return self.options["ema"] is not None or self.options["swa_start"] is not None


class Update(NamedTuple):
    """One step with some settings: its learning rate, its number, counted from 1, its loss scale and what the
    optimizer's `at_step` gives.
    """

    settings: Settings
    lr: float
    t: int
    grad_scale: float = 1.0
    scalars: dict[str, float] = {}


def update_at(settings: Settings, lr: float, t: int, place: str) -> Update:
    """What these settings do in step t."""
    scalars = settings.scalars_at(t, lr) if settings.optimizer.step_scalars else {}
    scale = settings.options["grad_scale"]
    if not isinstance(scale, float):
        scale = scale_at(scale, f"{place}['grad_scale']")
    return tuple.__new__(Update, (settings, lr, t, scale, scalars))  # in half the time of Update(...)


class Seen(NamedTuple):
    """A group's options as last seen: their values in order, what they mean, and what messages call the group."""

    values: tuple[Any, ...]
    settings: Settings
    place: str


class Repeat(NamedTuple):
    """A shorter way for steps like the last one, as long as no array has missed one."""

    steady: Callable[[list[Any], Any, int], bool] | None
    """``(param_groups, grads, step_count)`` to whether it took the step: where options and structure are still the same
    and every array has an ordinary gradient; else it has done nothing.  None where steps have numbers of their own."""

    match: Callable[[list[Any], list[Seen], Any], list[Any] | None]
    """``(param_groups, seen, grads)`` to the gradients in the arrays' order, None where options or structure differ."""

    step: Callable[[list[Any], list[Update]], int]
    """``(grads, updates)``, one of each group, all with the settings of the last step, to how many arrays had a
    gradient, or to `skipped`; otherwise below zero it has done nothing, and leaves it to the engine's step to find out
    why."""

    skipped: int
    """What `step` gives where the step was skipped."""


class Engine(Protocol):
    """A backend over a fixed list of arrays."""

    def __init__(self, slots: Sequence[Slot]) -> None: ...

    def step(self, grads: list[Any], updates: Sequence[Update], update_of: list[int] | None = None) -> int | None:
        """Updates every array whose gradient is not None, the i-th by ``updates[update_of[i]]``, else by its group's.

        Refuses before the first write.  Returns how many arrays had a gradient; None if the step was skipped.
        """

    def repeat(self, structure: Structure, groups: Sequence[Seen]) -> Repeat | None:
        """A shorter way for steps like the last one; None where there is none."""


def check_targets(slots: Sequence[Slot]) -> Territory:
    """Refuses parameters and state that a step could not write as they are now."""
    targets = []
    for slot in slots:
        if slot.library is not slots[0].library:
            first, name = slots[0], slot.library.name
            raise ValueError(f"{slot.p_place}: expected {first.library.name}'s array as {first.p_place}, got {name}'s")
        p = check_target(slot.p, slot.p_place)
        targets.append((slot.p_place, p))
        for name, array in slot.state.items():
            check = check_scalar if name in slot.scalars else check_state
            targets.append((slot.state_place(name), check(array, slot.state_place(name), p)))
    return Territory(targets)


def check_one(slot: Slot, grad: Any, territory: Territory) -> Array:
    """A NumPy gradient in its parameter's memory order, or its refusal."""
    checked = check_gradient(grad, slot.g_place, slot.p)
    territory.check_clear(checked, slot.g_place)
    return in_order_of(slot.p, checked)
