"""Options as class fields: the signature, the checks and the accessors of a class follow from its annotated fields.

`Option` and `State` are the descriptors behind the fields; `collect_options` finds the options of a class.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterable, Mapping
from contextlib import suppress
from functools import cache
from typing import TYPE_CHECKING, Any, ClassVar, Literal, Protocol, TypeVar

from .. import core
from ..texts import brief
from .checks import Backend, check_option, plain_type
from .suggestions import did_you_mean

#: Options of all classes, each of which is an error as an attribute of a class that lacks it.
KNOWN_OPTIONS: set[str] = set()

if TYPE_CHECKING:
    from typing_extensions import dataclass_transform

    class HasOptions(Protocol):
        """A class with options as fields, and its instances."""

        annotations: ClassVar[dict[str, Any]]
        defaults: ClassVar[dict[str, Any]]
        conventions: ClassVar[Mapping[str, Mapping[str, Any]]]
        param_groups: list[dict[str, Any]]

    class HasState(Protocol):
        """An instance with state."""

        def live_state(self) -> Any:
            """Return the state arrays."""
else:

    def dataclass_transform(**_):
        """Return a decorator without effect: only type checkers read the constructors' signatures from the fields."""
        return lambda cls: cls


T = TypeVar("T")


class Option:
    """A hyper-parameter: the default on the class, the groups' value on an instance.

    Reading returns one value if all groups agree, else a list with one value per group.  Assignment of
    one value sets every group; of a list with one value per group, each group.
    """

    def __init__(self, default: Any, keyword_only: bool = False) -> None:
        self.default = default
        self.keyword_only = keyword_only

    def __set_name__(self, owner: type, name: str) -> None:
        self.name = name

    def __get__(self, instance: HasOptions | None, owner: type[HasOptions]) -> Any:
        if instance is None:
            return self.default
        values = [group[self.name] for group in instance.param_groups]
        return values[0] if all(value == values[0] for value in values) else values

    def __set__(self, instance: HasOptions, value: Any) -> None:
        checked = self._check(instance.annotations[self.name], value, len(instance.param_groups))

        def assign() -> None:
            for group, own in zip(instance.param_groups, checked, strict=True):
                group[self.name] = own

        core.complete(assign)  # for every group or for none, also where a signal handler raises an exception

    def _check(self, annotation: Any, value: Any, count: int) -> list[Any]:
        """Return the checked value of each group."""
        try:
            return [check_option(annotation, value, self.name)] * count
        except (TypeError, ValueError):
            if isinstance(value, list) and len(value) == count > 1:
                with suppress(TypeError, ValueError):
                    return [check_option(annotation, own, self.name) for own in value]
            raise


class Fixed:
    """An argument that only the constructor sets: its default on the class, its value on an instance."""

    def __init__(self, default: Any) -> None:
        self.default = default

    def __set_name__(self, owner: type, name: str) -> None:
        self.name = name

    def __get__(self, instance: Any, owner: type) -> Any:
        return self.default if instance is None else vars(instance)[self.name]

    def __set__(self, instance: Any, value: Any) -> None:
        if self.name in vars(instance):
            raise AttributeError(f"{self.name}: expected it where the optimizer is made; make a new one with another")
        vars(instance)[self.name] = value


class State:
    """The names of the state arrays on the class, the arrays on an instance."""

    def __init__(self, names: tuple[str, ...]) -> None:
        self.names = names

    def __get__(self, instance: HasState | None, owner: type[HasState]) -> Any:
        return self.names if instance is None else instance.live_state()


def option(*, default: T, kw_only: bool) -> T:
    """Declare a hyper-parameter that may be keyword-only; a positional one needs a plain default only."""
    return Option(default, kw_only)  # type: ignore[return-value]


def argument(*, default: T = None, kw_only: bool = False) -> T:  # type: ignore[assignment]
    """Declare an argument of the constructor that is not a hyper-parameter, and is required without a default."""
    return Fixed(default)  # type: ignore[return-value]


@dataclass_transform(eq_default=False, field_specifiers=(option, argument))
class FieldsAreArguments:
    """A base class whose constructor's arguments are its fields, and the checks of their names and defaults."""

    defaults: ClassVar[dict[str, Any]]
    annotations: ClassVar[dict[str, Any]]
    conventions: ClassVar[Mapping[str, Mapping[str, Any]]]
    _checked_defaults: ClassVar[dict[str | None, dict[str, Any]]]  # by convention, filled on first use

    if not TYPE_CHECKING:  # which report every unknown attribute themselves

        def __setattr__(self, name: str, value: Any) -> None:
            """Raise AttributeError for a new attribute of the package's own classes that resembles an option, or is
            one of another class.
            """
            cls = type(self)
            is_new = not (name.startswith("_") or hasattr(cls, name) or name in vars(self))
            if is_new and _is_own(cls):
                if suggestion := did_you_mean(name, cls.defaults):
                    raise AttributeError(f"{name}: not an attribute of {cls.__name__}{suggestion}")
                if name in KNOWN_OPTIONS:
                    raise AttributeError(f"{name}: not an option of {cls.__name__}; it has {list(cls.defaults)}")
            object.__setattr__(self, name, value)

    @classmethod
    def check_names(cls, names: Iterable[str], place: str = "") -> None:
        """Raise TypeError for a name that is not an option."""
        for name in names:
            if name not in cls.defaults and not (name == "convention" and cls.conventions):
                known = list(cls.defaults)
                raise TypeError(
                    f"{place}{name}: not an option of {cls.__name__}{did_you_mean(name, known) or ';'} "
                    f"the options are {known}"
                )

    @classmethod
    def checked_defaults(cls, given: Mapping[str, Any], place: str = "") -> dict[str, Any]:
        """Return the defaults of the convention among these options, or of the first one."""
        known = list(cls.conventions)
        convention: str | None = given.get("convention", known[0]) if known else None
        if known and convention not in known:
            raise ValueError(f"{place}convention: expected one of {known}, got {brief(convention)}")
        if convention not in cls._checked_defaults:
            defaults = {**cls.defaults, **(cls.conventions[convention] if convention else {})}
            cls._checked_defaults[convention] = {
                name: check_option(cls.annotations[name], value, name) for name, value in defaults.items()
            }
        return cls._checked_defaults[convention]


def _is_own(cls: type) -> bool:
    """Return whether the package defines the class."""
    return cls.__module__.partition(".")[0] == __name__.partition(".")[0]


@cache
def _own_hints(cls: type) -> dict[str, Any]:
    return inspect.get_annotations(cls, eval_str=True)


def hints_of(cls: type) -> dict[str, Any]:
    """Return the annotations of a class and of its bases.

    `typing.get_type_hints` would evaluate the bases' annotations again for each of forty classes, which is half of the
    import time.
    """
    return {name: hint for base in reversed(cls.__mro__) for name, hint in _own_hints(base).items()}


def collect_options(cls: type) -> dict[str, Option]:
    """Return the options of a class by name: those of bases first, positional ones before keyword-only ones.

    A plain default of an annotated field becomes a positional option.
    """
    for field in inspect.get_annotations(cls):
        value = vars(cls).get(field)
        if field in vars(cls) and not isinstance(value, (Option, Fixed)):
            positional = Option(value)
            positional.__set_name__(cls, field)
            setattr(cls, field, positional)
    options = {k: v for base in reversed(cls.__mro__) for k, v in vars(base).items() if isinstance(v, Option)}
    return dict(sorted(options.items(), key=lambda item: item[1].keyword_only))


def names_taken(function: Callable[..., Any], known: Iterable[str]) -> frozenset[str]:
    """Return the names of the arguments that a function reads; all known names if it takes any, but not as ``**_``."""
    parameters = inspect.signature(function).parameters.values()
    takes_any = any(each.kind is each.VAR_KEYWORD and not each.name.startswith("_") for each in parameters)
    return frozenset(known if takes_any else (parameter.name for parameter in parameters))


class Signature:
    """The constructor's signature, made on first use: making forty of them would be a tenth of the import time."""

    def __get__(self, instance: HasOptions | None, owner: type[HasOptions]) -> inspect.Signature:
        return _signature_of(owner)


@cache
def _signature_of(cls: type[HasOptions]) -> inspect.Signature:
    kinds = inspect.Parameter
    parameters = [kinds("params", kinds.POSITIONAL_OR_KEYWORD)]
    for name in cls.defaults:
        own = inspect.getattr_static(cls, name)
        kind = kinds.KEYWORD_ONLY if own.keyword_only else kinds.POSITIONAL_OR_KEYWORD
        parameters.append(kinds(name, kind, default=own.default, annotation=plain_type(cls.annotations[name])))
    if cls.conventions:
        known = Literal[tuple(cls.conventions)]  # type: ignore[valid-type]
        parameters.append(
            kinds("convention", kinds.KEYWORD_ONLY, default=next(iter(cls.conventions)), annotation=known)
        )
    parameters.append(kinds("copies", kinds.KEYWORD_ONLY, default=None, annotation=Any))
    parameters.append(kinds("backend", kinds.KEYWORD_ONLY, default="native", annotation=Backend))
    return inspect.Signature(parameters)


def check_convention(cls: type[HasOptions]) -> None:
    """Raise ImportError if the default of the field `convention` is not the first convention."""
    first = next(iter(cls.conventions), None)
    field = vars(cls).get("convention")
    if first is not None and field is not None and field.default != first:
        raise ImportError(f"{cls.__name__}: its field convention is {field.default!r}, not {first!r}")
