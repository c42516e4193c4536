"""The interface between an optimizer and its engines: the steps of groups, and the engine protocol."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple, Protocol

from ..arrays.param_state import ParamState
from ..arrays.tree import Structure
from ..core import FastPath
from ..options.checks import scale_at
from ..options.settings import Settings


class GroupStep(NamedTuple):
    """One step with some settings: the learning rate, the step count from 1, the loss scale and the host constants."""

    settings: Settings
    lr: float
    t: int
    grad_scale: float = 1.0
    constants: dict[str, float] = {}


def group_step_at(settings: Settings, lr: float, t: int, place: str) -> GroupStep:
    """Return step `t` with these settings."""
    constants = settings.host_constants_at(t, lr) if settings.optimizer.host_constants else {}
    scale = settings.options["grad_scale"]
    if not isinstance(scale, float):
        scale = scale_at(scale, f"{place}['grad_scale']")
    return tuple.__new__(GroupStep, (settings, lr, t, scale, constants))  # in half the time of GroupStep(...)


class GroupSnapshot(NamedTuple):
    """A snapshot of a group's options: the values in order, the settings, and the name of the group in messages."""

    values: tuple[Any, ...]
    settings: Settings
    place: str


class Engine(Protocol):
    """A backend for a fixed list of arrays."""

    def __init__(self, param_states: Sequence[ParamState]) -> None: ...

    def step(self, grads: list[Any], group_steps: Sequence[GroupStep], step_of: list[int] | None = None) -> int | None:
        """Update every array whose gradient is not None, the i-th by ``group_steps[step_of[i]]``, else by its group's.

        Raises errors before the first write.  Returns the number of arrays with a gradient; None after a skipped step.
        """

    def fast_path(self, structure: Structure, groups: Sequence[GroupSnapshot]) -> FastPath | None:
        """Return the fast path for steps like the last one, if there is one and no array has missed a step."""
