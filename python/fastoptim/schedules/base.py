"""The base class of schedules, and the functions that they share."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Iterator
from functools import cache
from typing import Any, get_type_hints

from ..options.checks import Whole, check_option
from ..texts import brief

_STEP = Whole()


class Schedule(ABC):
    """A learning rate as a function of the step; each subclass is a dataclass with the formula."""

    def __post_init__(self) -> None:
        hints = hints_of(type(self))
        vars(self).update({name: check_option(hints[name], value, name) for name, value in vars(self).items()})

    def __call__(self, step: int) -> float:
        """Return the learning rate of a step, counted from 0."""
        usual = type(step) is int and 0 <= step <= _STEP.high  # in a fraction of the check's time
        return self._at(step if usual else _STEP.check(step, "step"))

    @property
    def is_pure(self) -> bool:
        """True if no code outside this package computes the rate: a step may then ask for it at any time."""
        fields = (part for value in vars(self).values() for part in (value if isinstance(value, tuple) else (value,)))
        parts = [part for part in fields if callable(part)]
        return type(self).__module__.startswith(__package__ + ".") and all(
            isinstance(part, Schedule) and part.is_pure for part in parts
        )

    @abstractmethod
    def _at(self, step: int) -> float:
        """Return the learning rate of a checked step."""


@cache
def hints_of(cls: type[Schedule]) -> dict[str, Any]:
    """Return the annotations of a schedule's fields."""
    return get_type_hints(cls, include_extras=True)


def stateful_parts(lr: Any) -> Iterator[Any]:
    """Yield the schedules with state in a learning rate: itself, or the parts of a schedule that is made of others.

    A schedule has state if it has the methods `state_dict` and `load_state_dict`.
    """
    if hasattr(lr, "state_dict") and hasattr(lr, "load_state_dict"):
        yield lr
    elif isinstance(lr, (Schedule, tuple)):
        for part in lr if isinstance(lr, tuple) else vars(lr).values():
            yield from stateful_parts(part)


def blend(start: float, end: float, share: float) -> float:
    """Interpolate from `start` to `end`, both exact."""
    return start * (1 - share) + end * share


def power(base: float, exponent: float) -> float:
    """Return a power, infinity on overflow."""
    try:
        return float(base**exponent)
    except OverflowError:
        return math.inf


def linear(share: float) -> float:
    """Return a straight line from 0 to 1."""
    return share


def cosine(share: float) -> float:
    """Return half a period of a cosine, from 0 to 1."""
    return (1 - math.cos(math.pi * share)) / 2


def check_lengths(values: tuple[Any, ...], name: str, expected: int, why: str) -> None:
    """Raise ValueError unless there are as many values as expected."""
    if len(values) != expected:
        raise ValueError(f"{name}: expected {expected}, {why}, got {len(values)}: {brief(values)}")
