"""Types and ranges of options, and the errors for values outside them.

The annotation of an optimizer's field declares them once; `check_option` interprets the annotation.  The signature and
the documentation read the same annotation.
"""

from __future__ import annotations

import math
import numbers
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache, partial, reduce
from itertools import pairwise
from operator import or_
from types import UnionType
from typing import Annotated, Any, Literal, TypeAlias, Union, get_args, get_origin

import numpy as np

from ..texts import brief


@dataclass(frozen=True)
class Range:
    """Finite numbers from `low` to `high`, without `low` itself if `above` and without `high` itself if `below`."""

    low: float = 0.0
    high: float = math.inf
    below: bool = False
    above: bool = False

    def check(self, value: Any, place: str) -> float:
        """Return the value as a float."""
        if type(value) is float and self.low < value < self.high:  # the usual case, in a fraction of the check's time
            return value
        number = as_float(value, place, f"a number {self}")
        inside = self.low <= number <= self.high
        at_open_end = (self.below and number == self.high) or (self.above and number == self.low)
        if not inside or at_open_end or not math.isfinite(number):
            raise ValueError(f"{place}: expected a number {self}, got {brief(value)}")
        return number

    @property
    def closed(self) -> tuple[float, float]:
        """The smallest and the largest number within."""
        below = self.below or self.high == math.inf
        return (
            math.nextafter(self.low, math.inf) if self.above else self.low,
            math.nextafter(self.high, -math.inf) if below else self.high,
        )

    def __str__(self) -> str:
        if self.high == math.inf:
            return f"{'>' if self.above else '>='} {self.low:g}"
        return f"in {'(' if self.above else '['}{self.low:g}, {self.high:g}{')' if self.below else ']'}"


@dataclass(frozen=True)
class Whole:
    """Integers from `low` to `high`, by default of at most 63 bits."""

    low: int = 0
    high: int = 2**63 - 1

    def check(self, value: Any, place: str) -> int:
        """Return the value as an int."""
        if type(value) is int and self.low <= value <= self.high:  # the usual case, in a fraction of the check's time
            return value
        if isinstance(value, bool) or not isinstance(value, numbers.Integral):
            raise TypeError(f"{place}: expected an integer {self}, got {brief(value)}")
        count = int(value)
        if not self.low <= count <= self.high:
            long = " of at most 63 bits" if self.high == Whole.high else ""
            raise ValueError(f"{place}: expected an integer {self}{long}, got {brief(value)}")
        return count

    def __str__(self) -> str:
        return f">= {self.low}" if self.high == Whole.high else f"in [{self.low}, {self.high}]"


@dataclass(frozen=True)
class OneOf:
    """One of these numbers."""

    numbers: tuple[float, ...]

    def check(self, value: Any, place: str) -> float:
        """Return the value as a float."""
        number = as_float(value, place, str(self))
        if number not in self.numbers:
            raise ValueError(f"{place}: expected {self}, got {brief(value)}")
        return number

    def __str__(self) -> str:
        *others, last = (f"{number:g}" for number in self.numbers)
        return f"{', '.join(others)} or {last}"


class _Increasing:
    """Strictly increasing steps."""

    def check(self, value: Any, place: str) -> tuple[int, ...]:
        steps: tuple[int, ...] = check_option(Sequence[PositiveCount], value, place)
        if any(later <= earlier for earlier, later in pairwise(steps)):
            raise ValueError(f"{place}: expected steps that increase, got {brief(value)}")
        return steps


class Interval:
    """The smallest and the largest value; None for either means no bound."""

    def check(self, value: Any, place: str) -> tuple[float, float]:
        """Return both as floats, infinite for None."""
        if not isinstance(value, (tuple, list)) or len(value) != 2:
            raise TypeError(f"{place}: expected (low, high), each a number or None, got {brief(value)}")
        low, high = (
            end if each is None else as_float(each, f"{place}[{i}]", "a number or None")
            for i, (each, end) in enumerate(zip(value, (-math.inf, math.inf), strict=True))
        )
        if not low <= high:  # NaN neither
            raise ValueError(f"{place}: expected low <= high, got {brief(value)}")
        return low, high


def is_array(value: Any) -> bool:
    """Return whether this is an array or a tensor of any library, and no number of NumPy."""
    return hasattr(value, "item") and hasattr(value, "shape") and not isinstance(value, np.generic)


class _Live(Range):
    """A number, or an array or tensor of one element that each step reads."""

    def check(self, value: Any, place: str) -> Any:
        self.at_this_step(value, place)
        return value if is_array(value) else super().check(value, place)

    def at_this_step(self, value: Any, place: str) -> float:
        """Return the present value."""
        if not is_array(value):
            return super().check(value, place)
        if math.prod(value.shape) != 1:
            raise ValueError(f"{place}: expected an array of one element, got shape {tuple(value.shape)}")
        return super().check(value.item(), place)


class _Rate(_Live):
    """A learning rate: also a callable of the step that returns a number."""

    def check(self, value: Any, place: str) -> Any:
        return value if callable(value) else super().check(value, place)


class _ScheduledRate(Range):
    """A learning rate within a schedule: no array, since schedules compare by their values."""

    def check(self, value: Any, place: str) -> Any:
        return value if callable(value) else super().check(value, place)


SCALES = Range(2.0**-126, 2.0**126)  # float32 represents these and their reciprocals
_SCALE = _Live(SCALES.low, SCALES.high)
_RATE = _Live()

LearningRate: TypeAlias = Annotated[float | Callable[[int], float] | np.ndarray[Any, Any], _Rate()]
NonNegative: TypeAlias = Annotated[float, Range()]
Decay: TypeAlias = Annotated[float, Range(0, 1, below=True)]  # of a running mean; 1 would ignore every new value
Fraction: TypeAlias = Annotated[float, Range(0, 1)]
Positive: TypeAlias = Annotated[float, Range(above=True)]
NormType: TypeAlias = Annotated[float, OneOf((1.0, 2.0, math.inf))]
Seed: TypeAlias = Annotated[int, Whole(0, 2**63 - 1)]
Count: TypeAlias = Annotated[int, Whole()]
PositiveCount: TypeAlias = Annotated[int, Whole(1)]
Bounds: TypeAlias = Annotated[tuple[float | None, float | None], Interval()]
Numbers: TypeAlias = Sequence[NonNegative]
ScheduledRate: TypeAlias = Annotated[float | Callable[[int], float], _ScheduledRate()]
ScheduledRates: TypeAlias = Sequence[ScheduledRate]
Boundaries: TypeAlias = Annotated[Sequence[int], _Increasing()]
Scale: TypeAlias = Annotated[float | np.ndarray[Any, Any], _SCALE]
Backend: TypeAlias = Literal["native", "reference"]


def plain_type(annotation: Any) -> Any:
    """Return the type without its range, as signatures show it."""
    origin, args = get_origin(annotation), [plain_type(each) for each in get_args(annotation)]
    if origin is Annotated:
        return args[0]
    if origin in (Union, UnionType):
        return reduce(or_, args)
    if origin is tuple:
        return tuple[tuple(args)]  # type: ignore[misc]
    if origin is Sequence:
        return Sequence[args[0]]  # type: ignore[valid-type]
    return origin if origin in (Callable, np.ndarray) else annotation


def may_be_none(annotation: Any) -> bool:
    """Return whether an option may be None."""
    return type(None) in get_args(annotation) and get_origin(annotation) is not Literal


def range_of(annotation: Any) -> Range | None:
    """Return the range of an option that is a float, or a tuple of floats with one range; None for any other option."""
    args = get_args(annotation)
    if get_origin(annotation) is Annotated:
        return args[1] if type(args[1]) is Range else None
    ranges = {range_of(each) for each in args} if get_origin(annotation) is tuple else set()
    return ranges.pop() if len(ranges) == 1 else None


def as_float(value: Any, place: str, expected: str = "a number") -> float:
    """Return a real number, infinities and NaN included, as a float; raise TypeError for anything else."""
    if isinstance(value, bool) or not isinstance(value, numbers.Real):
        raise TypeError(f"{place}: expected {expected}, got {brief(value)}")
    try:
        return float(value)
    except OverflowError:
        return -math.inf if value < 0 else math.inf


def check_option(annotation: Any, value: Any, place: str) -> Any:
    """Return the value as a plain Python object, or raise a TypeError or ValueError that names the place."""
    return check_of(annotation)(value, place)


@cache
def check_of(annotation: Any) -> Callable[[Any, str], Any]:
    """Return the check of an annotation, a function of the value and its place."""
    origin, args = get_origin(annotation), get_args(annotation)
    if may_be_none(annotation):
        check_value = check_of(args[0])
        return lambda value, place: None if value is None else check_value(value, place)
    if origin is Annotated:
        return args[1].check  # type: ignore[no-any-return]
    if origin in (tuple, Sequence):
        return partial(_check_items, [check_of(each) for each in args], origin is tuple)
    if origin is Literal:
        return partial(_check_choice, args)
    if annotation is bool:
        return _check_bool
    raise AssertionError(f"no check is known for {annotation!r}")


def _check_items(checks: list[Callable[[Any, str], Any]], is_fixed: bool, value: Any, place: str) -> tuple[Any, ...]:
    """Check the items of a tuple or list: one check for each if their number is fixed, else one for all."""
    if not isinstance(value, (tuple, list)) or (is_fixed and len(value) != len(checks)):
        expected = f"{len(checks)} numbers" if is_fixed else "a tuple or list"
        raise TypeError(f"{place}: expected {expected}, got {brief(value)}")
    each = checks if is_fixed else checks * len(value)
    return tuple(check(item, f"{place}[{i}]") for i, (check, item) in enumerate(zip(each, value, strict=True)))


def _check_choice(known: tuple[Any, ...], value: Any, place: str) -> Any:
    if isinstance(value, np.integer):
        value = int(value)
    if not any(type(value) is type(one) and value == one for one in known):
        raise ValueError(f"{place}: expected one of {list(known)}, got {brief(value)}")
    return value


def _check_bool(value: Any, place: str) -> bool:
    if type(value).__name__ not in ("bool", "bool_"):
        raise TypeError(f"{place}: expected True or False, got {brief(value)}")
    return bool(value)


#: Keys of a group that are not options: its name, and what PyTorch's schedulers keep in it.
EXTRA_KEYS = frozenset(
    {"name", "initial_lr", "min_lr", "max_lr", "swa_lr"}
    | {f"{prefix}_momentum" for prefix in ("initial", "min", "max", "base")}
)


def extras_of(group: Mapping[str, Any], place: str) -> dict[str, Any]:
    """Return the entries of a group that are not options: a string as its name, else numbers."""
    extras = {key: value for key, value in group.items() if key in EXTRA_KEYS}
    for key, value in extras.items():
        if key != "name":
            extras[key] = as_float(value.item() if is_array(value) else value, f"{place}{key}")
        elif not isinstance(value, str):
            raise TypeError(f"{place}name: expected a string, got {brief(value)}")
    return extras


def expand(options: Mapping[str, Any]) -> dict[str, Any]:
    """Return the options with tuples expanded as a rule's formula names them: ``betas`` to ``beta1`` and ``beta2``."""
    flat: dict[str, Any] = {}
    for name, value in options.items():
        if isinstance(value, tuple):
            flat.update({f"{name.removesuffix('s')}{i}": item for i, item in enumerate(value, 1)})
        else:
            flat[name] = value
    return flat


def rate_at(lr: Any, step: int, place: str, entry: str = "") -> float:
    """Return the learning rate of a step, counted from 0; error messages name `place` and the entry in it."""
    if type(lr) is float:
        return lr
    rate = lr(step) if callable(lr) else lr
    if type(rate) is float and 0 <= rate < math.inf:  # the usual case, in a fraction of the check's time
        return rate
    return _RATE.at_this_step(rate, f"{place}{entry} at step {step}")


def scale_at(scale: Any, place: str) -> float:
    """Return the loss scale of a step from an array."""
    return _SCALE.at_this_step(scale, place)
