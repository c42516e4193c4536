"""How a class says its options: fields with defaults, from which come the signature, the checks and the accessors."""

from __future__ import annotations

import inspect
from functools import cache
from typing import TYPE_CHECKING, Any, Literal, TypeVar

from .checks import Backend, check_option

if TYPE_CHECKING:
    from typing_extensions import dataclass_transform

    from ..optimizer.base import Optimizer
else:

    def dataclass_transform(**_):
        """At run time nothing; a type checker reads the constructors' signatures from the fields."""
        return lambda cls: cls


T = TypeVar("T")


class Option:
    """A hyper-parameter: on the class its default, on an instance every group's value, read and set.

    Reads as one value where the groups agree, else as a list with one a group.
    """

    def __init__(self, default: Any, keyword_only: bool = False) -> None:
        self.default = default
        self.keyword_only = keyword_only

    def __set_name__(self, owner: type, name: str) -> None:
        self.name = name

    def __get__(self, instance: Optimizer | None, owner: type[Optimizer]) -> Any:
        if instance is None:
            return self.default
        values = [group[self.name] for group in instance.param_groups]
        return values[0] if all(value == values[0] for value in values) else values

    def __set__(self, instance: Optimizer, value: Any) -> None:
        checked = check_option(instance.annotations[self.name], value, self.name)
        for group in instance.param_groups:
            group[self.name] = checked


class State:
    """On the class the names of the state arrays, on an instance the arrays."""

    def __init__(self, names: tuple[str, ...]) -> None:
        self.names = names

    def __get__(self, instance: Optimizer | None, owner: type[Optimizer]) -> Any:
        return self.names if instance is None else instance.live_state()


def option(*, default: T, kw_only: bool) -> T:
    """A hyper-parameter that the constructor may take by keyword only; others need just a default."""
    return Option(default, kw_only)  # type: ignore[return-value]


def argument(*, default: T, kw_only: bool) -> T:
    """An argument of the constructor that is no hyper-parameter."""
    return default


@dataclass_transform(eq_default=False, field_specifiers=(option, argument))
class FieldsAreArguments:
    """Tells a type checker that the fields of a subclass are its constructor's arguments."""


#: Arguments of the constructor that say how the options are meant, and are none themselves.
ARGUMENTS = ("backend", "convention")


@cache
def _own_hints(cls: type) -> dict[str, Any]:
    return inspect.get_annotations(cls, eval_str=True)


def hints_of(cls: type) -> dict[str, Any]:
    """What the fields of a class are annotated with, its bases' too.

    As `typing.get_type_hints`, which would evaluate the bases' annotations anew for each of forty classes: half of the
    time that an import takes.
    """
    return {name: hint for base in reversed(cls.__mro__) for name, hint in _own_hints(base).items()}


def collect_options(cls: type) -> dict[str, Option]:
    """The options of a class by name, its bases' first, those that may be given by position before the others.

    A plain default of an annotated field becomes an option by position.
    """
    for field in inspect.get_annotations(cls):
        value = vars(cls).get(field)
        if field in vars(cls) and field not in ARGUMENTS and not isinstance(value, Option):
            positional = Option(value)
            positional.__set_name__(cls, field)
            setattr(cls, field, positional)
    options = {k: v for base in reversed(cls.__mro__) for k, v in vars(base).items() if isinstance(v, Option)}
    return dict(sorted(options.items(), key=lambda item: item[1].keyword_only))


class Signature:
    """The constructor's, made when asked for: forty of them would be a tenth of the time that an import takes."""

    def __get__(self, instance: Optimizer | None, owner: type[Optimizer]) -> inspect.Signature:
        return _signature_of(owner)  # type: ignore[arg-type]  # mypy: a class has no hash


@cache
def _signature_of(cls: type[Optimizer]) -> inspect.Signature:
    kinds = inspect.Parameter
    parameters = [kinds("params", kinds.POSITIONAL_OR_KEYWORD)]
    for name, own in collect_options(cls).items():
        kind = kinds.KEYWORD_ONLY if own.keyword_only else kinds.POSITIONAL_OR_KEYWORD
        parameters.append(kinds(name, kind, default=own.default, annotation=cls.annotations[name]))
    if cls.conventions:
        known = Literal[tuple(cls.conventions)]  # type: ignore[valid-type]
        parameters.append(
            kinds("convention", kinds.KEYWORD_ONLY, default=next(iter(cls.conventions)), annotation=known)
        )
    parameters.append(kinds("backend", kinds.KEYWORD_ONLY, default="native", annotation=Backend))
    return inspect.Signature(parameters)


def check_convention(cls: type[Optimizer]) -> None:
    """ImportError where the field of that name does not say what is meant where none is given."""
    first = next(iter(cls.conventions), None)
    if first is not None and vars(cls).get("convention", first) != first:
        raise ImportError(f"{cls.__name__}: its field convention is {vars(cls)['convention']!r}, not {first!r}")
