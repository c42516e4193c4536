"""The base class of every optimizer: structure of parameters, groups, state, step and checkpoint."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, ClassVar, TypeVar, get_type_hints

import numpy as np

from . import checkpoint, native, reference
from .arrays import Array, check_target, compute_dtype
from .engine import Engine, Settings, Slot, Update, check_targets
from .options import Backend, NonNegative, check_option, expand, rate_at
from .trees import Structure, describe, structure_of

if TYPE_CHECKING:
    from typing_extensions import dataclass_transform
else:

    def dataclass_transform(**_):
        """At run time nothing; a type checker reads the constructors' signatures from the fields."""
        return lambda cls: cls


T = TypeVar("T")

#: Every optimizer by name.
OPTIMIZERS: dict[str, type[Optimizer]] = {}

ENGINES: dict[str, type[Engine]] = {"native": native.Engine, "reference": reference.Engine}

STATE_DICT_VERSION = 1


class _Option:
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


class _State:
    """On the class the names of the state arrays, on an instance the arrays."""

    def __init__(self, names: tuple[str, ...]) -> None:
        self.names = names

    def __get__(self, instance: Optimizer | None, owner: type[Optimizer]) -> Any:
        return self.names if instance is None else instance.live_state()


def option(*, default: T, kw_only: bool) -> T:
    """A hyper-parameter that the constructor may take by keyword only; others need just a default."""
    return _Option(default, kw_only)  # type: ignore[return-value]


def argument(*, default: T, kw_only: bool) -> T:
    """An argument of the constructor that is no hyper-parameter."""
    return default


@dataclass_transform(eq_default=False, field_specifiers=(option, argument))
class _FieldsAreArguments:
    pass


class Optimizer(_FieldsAreArguments):
    """What every optimizer does; each subclass says what it computes.

    A subclass gives its fields (the hyper-parameters with defaults, annotated with what they may be), `variants` (its
    native rules and the state arrays of each), `variant` (which of them the options mean) and `reference` (the formula
    in NumPy).  Defining it registers it; loops, dtypes, bindings, tests and docs follow.
    """

    params: Any
    weight_decay: NonNegative = option(default=0.0, kw_only=True)
    maximize: bool = option(default=False, kw_only=True)
    backend: Backend = argument(default="native", kw_only=True)

    name: ClassVar[str]
    variants: ClassVar[Mapping[str, tuple[str, ...]]]
    decoupled: ClassVar[bool] = False  # weight decay: p *= 1 - lr*weight_decay in place of g += weight_decay*p
    state: ClassVar[Any]
    defaults: ClassVar[dict[str, Any]]
    annotations: ClassVar[dict[str, Any]]

    # ---- what a subclass gives

    variant: ClassVar[Callable[..., str]]
    """Which variant the options mean; ValueError where they exclude each other."""

    reference: ClassVar[Callable[..., None]]
    """The formula in NumPy, in place: ``reference(p, g, *, t, **state, **options)``, all of the compute type."""

    @staticmethod
    def initial(name: str, options: Mapping[str, Any]) -> float:
        """What every element of that state array is before the first step."""
        return 0.0

    # ---- the class

    def __init_subclass__(cls, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        hints = get_type_hints(cls, include_extras=True)
        for field in inspect.get_annotations(cls):
            if field in vars(cls) and field not in vars(Optimizer) and not isinstance(vars(cls)[field], _Option):
                positional = _Option(vars(cls)[field])
                positional.__set_name__(cls, field)
                setattr(cls, field, positional)
        options = {k: v for base in reversed(cls.__mro__) for k, v in vars(base).items() if isinstance(v, _Option)}
        options = dict(sorted(options.items(), key=lambda item: item[1].keyword_only))
        cls.defaults = {name: own.default for name, own in options.items()}
        cls.annotations = {name: hints[name] for name in options}
        cls.state = _State(tuple(dict.fromkeys(name for names in cls.variants.values() for name in names)))
        cls.__signature__ = _signature(options, hints)  # type: ignore[attr-defined]
        _check_against_native(cls)
        if "name" in vars(cls):  # a subclass without a name of its own is its user's affair
            OPTIMIZERS[cls.name] = cls

    @classmethod
    def check_names(cls, names: Iterable[str], place: str = "") -> None:
        """TypeError for a name that is no option."""
        for name in names:
            if name not in cls.defaults:
                raise TypeError(f"{place}{name}: not an option of {cls.__name__}; the options are {list(cls.defaults)}")

    @classmethod
    def check_options(cls, given: Mapping[str, Any], place: str = "") -> Settings:
        """Every option, defaults filled in, each checked; TypeError for an unknown one."""
        cls.check_names(given, place)
        options = {
            name: check_option(cls.annotations[name], given.get(name, default), place + name)
            for name, default in cls.defaults.items()
        }
        try:
            variant = cls.variant(**options)
        except ValueError as error:
            raise ValueError(f"{place}{error}") from None
        return Settings(cls, variant, options)

    # ---- an instance

    def __init__(self, params: Any, *args: Any, **kwargs: Any) -> None:
        if type(self) is Optimizer:
            raise TypeError("Optimizer: expected one of its subclasses; see fastoptim.OPTIMIZERS")
        self.check_names(name for name in kwargs if name != "backend")
        bound = inspect.signature(type(self)).bind(params, *args, **kwargs)
        self.backend = check_option(Backend, bound.arguments.pop("backend", "native"), "backend")
        bound.arguments.pop("params")
        self.check_options(bound.arguments)

        self.slots: list[Slot] = []
        self._views: list[dict[str, Array]] | None = None  # of the state, as last shown to the user
        self.param_groups: list[dict[str, Any]] = []
        self._resolved: list[tuple[tuple[Any, ...], Settings]] = []  # by group: values last seen, what they mean
        grouped = _is_groups(params)
        self._trees: list[Any] = []
        structures = []
        for index, group in enumerate(params if grouped else [{"params": params}]):
            own = {**bound.arguments, **{k: v for k, v in group.items() if k != "params"}}
            settings = self.check_options(own, f"params[{index}]: " if grouped else "")
            structure = structure_of(group["params"])
            structures.append(structure)
            self._trees.append(self._add_group(index, structure, group["params"], settings, grouped))
        self._structure = (
            Structure(list, tuple(range(len(structures))), tuple(structures)) if grouped else structures[0]
        )
        self.params = self._trees if grouped else self._trees[0]
        if not self.slots:
            raise ValueError("params: expected at least one array, got none")
        self.check_arrays()
        places = [slot.place for slot in self.slots]
        if len(set(places)) != len(places):
            raise ValueError("params: expected keys that differ when printed, got two arrays in places of one name")

        self._step_count = 0
        self._missed: dict[int, int] = {}  # of the i-th array, how many steps it had no gradient in
        self._engine: Engine | None = None

    def check_arrays(self) -> None:
        """Refuses parameters and state that a step could not write as they are now."""
        check_targets(self.slots)

    def _add_group(self, index: int, structure: Structure, tree: Any, settings: Settings, grouped: bool) -> Any:
        prefix = f"[{index}]" if grouped else ""
        inside = prefix + ("['params']" if grouped else "")
        arrays = structure.match(tree, "params" + inside)
        for p, path in zip(arrays, structure.paths(), strict=True):
            place = f"params{inside}{path}"
            check_target(p, place)
            slot = Slot(p, {}, index, prefix + path, place)
            self._allocate(slot, settings)
            self.slots.append(slot)
        own_tree = structure.build(iter(arrays))
        group = {"params": own_tree, **settings.options}
        self.param_groups.append(group)
        self._resolved.append((tuple(group.values()), settings))
        return own_tree

    def _allocate(self, slot: Slot, settings: Settings) -> None:
        """Gives an array the state that these settings need and it does not have yet."""
        for name in settings.state:
            if name not in slot.state:
                slot.state[name] = _like(slot.p)
                if start := self.initial(name, settings.options):
                    slot.state[name].fill(start)
                self._views = None

    @property
    def step_count(self) -> int:
        """Steps taken."""
        return self._step_count

    def live_state(self) -> Any:
        """The state's own memory, not copies: a dict ``{name: array}`` in the place of each parameter.

        The arrays are views, so that locking or resizing one is the caller's affair alone.
        """
        if self._views is None:
            self._views = [{name: array.view() for name, array in slot.state.items()} for slot in self.slots]
        return self._structure.build(iter([dict(views) for views in self._views]))

    @contextmanager
    def lookahead(self) -> Iterator[None]:
        """Shows the parameters where the gradient is to be taken: where they are, but for `NAG`.

        With it one loop serves every optimizer.
        """
        yield

    def step(self, grads: Any) -> None:
        """Updates the parameters in place.

        `grads` has the structure and shapes of `params`; None in the place of an array leaves that parameter, its
        state and its own count of steps alone.  Gradients are only read.  A refused call has written nothing.  Several
        threads may step an optimizer each, but not one and the same at once.
        """
        flat = self._structure.match(grads, "grads")
        if len(self.param_groups) != len(self._trees):
            raise ValueError(f"param_groups: expected {len(self._trees)} groups, got {len(self.param_groups)}")
        updates = [self._update(index) for index in range(len(self.param_groups))]
        update_of = self._late_updates(updates) if self._missed else None
        if self._engine is None:
            self._engine = ENGINES[self.backend](self.slots)
        complete = self._engine.step(flat, updates, update_of)
        self._step_count += 1
        if not complete:
            for i, grad in enumerate(flat):
                if grad is None:
                    self._missed[i] = self._missed.get(i, 0) + 1

    def _update(self, index: int) -> Update:
        """What a group's arrays do in this step."""
        settings = self._settings(index)
        lr = settings.options["lr"]
        if callable(lr):
            lr = rate_at(lr, self._step_count, f"param_groups[{index}]['lr']")
        return Update(settings, lr, self._step_count + 1)

    def _late_updates(self, updates: list[Update]) -> list[int]:
        """Adds the updates of arrays that missed steps, whose clocks are behind; says which is whose."""
        which = {(index, 0): index for index in range(len(updates))}
        update_of = []
        for i, slot in enumerate(self.slots):
            key = (slot.group, self._missed.get(i, 0))
            if key not in which:
                which[key] = len(updates)
                on_time = updates[slot.group]
                updates.append(on_time._replace(t=on_time.t - key[1]))
            update_of.append(which[key])
        return update_of

    def _settings(self, index: int) -> Settings:
        """A group's options, checked again if one was assigned."""
        group = self.param_groups[index]
        seen, settings = self._resolved[index]
        values = tuple(group.values())
        try:
            if values == seen:
                return settings
        except ValueError:  # an assigned array has no truth value
            pass
        place = f"param_groups[{index}]: "
        if group.get("params") is not self._trees[index]:
            raise ValueError(
                f"{place}params: expected the parameters it was made with; make a new optimizer for others"
            )
        if missing := self.defaults.keys() - group.keys():
            raise TypeError(f"{place}expected the options {list(self.defaults)}, missing {sorted(missing)}")
        changed = self.check_options({k: v for k, v in group.items() if k != "params"}, place)
        if changed.variant != settings.variant:
            for slot in self.slots:
                if slot.group == index:
                    self._allocate(slot, changed)
            self._engine = None
        group.update(changed.options)
        self._resolved[index] = (tuple(group.values()), changed)
        return changed

    # ---- checkpoints

    def state_dict(self) -> dict[str, Any]:
        """Everything needed to go on with identical bits: dicts, lists, numbers, strings and copies of the arrays.

        A learning rate that is a callable is left out: the optimizer that loads keeps its own, whatever that is.
        """
        settings = [self._settings(index) for index in range(len(self.param_groups))]
        return {
            "version": STATE_DICT_VERSION,
            "optimizer": self.name,
            "step_count": self._step_count,
            "groups": [
                {k: list(v) if isinstance(v, tuple) else v for k, v in group.options.items() if not callable(v)}
                for group in settings
            ],
            "arrays": [
                {
                    "place": slot.place,
                    "dtype": slot.p.dtype.name,
                    "shape": list(slot.p.shape),
                    "steps": self._step_count - self._missed.get(i, 0),
                    "state": {name: array.copy(order="K") for name, array in slot.state.items()},
                }
                for i, slot in enumerate(self.slots)
            ],
        }

    def load_state_dict(self, state_dict: Mapping[str, Any]) -> None:
        """Goes on from a `state_dict`, with its options and state.

        A saved learning rate replaces the present one, a callable too.  Checks all of it first, and changes nothing
        where it refuses.
        """
        step_count, groups, arrays = checkpoint.check(self, state_dict)
        for group, loaded in zip(self.param_groups, groups, strict=True):
            group.update(loaded)
        for slot, (_, state) in zip(self.slots, arrays, strict=True):
            if slot.state.keys() != state.keys():
                self._views = None
            for name in slot.state.keys() - state.keys():
                del slot.state[name]
            for name, array in state.items():
                np.copyto(slot.state.setdefault(name, _like(slot.p)), array)
        self._step_count = step_count
        self._missed = {i: step_count - steps for i, (steps, _) in enumerate(arrays) if steps != step_count}
        self._engine = None

    def __getstate__(self) -> dict[str, Any]:
        return {**vars(self), "_engine": None, "_views": None}

    def __repr__(self) -> str:
        options = {k: v for k, v in self.param_groups[0].items() if k != "params" and v != self.defaults[k]}
        chosen = "".join(f", {k}={v!r}" for k, v in options.items())
        elements = sum(slot.p.size for slot in self.slots)
        return f"<{type(self).__name__} of {len(self.slots)} arrays, {elements:,} elements{chosen}>"


def _is_groups(params: Any) -> bool:
    """Whether this is a list of groups ``{"params": ..., ...}``, as in torch.optim."""
    if not isinstance(params, (list, tuple)):
        return False
    groups = [isinstance(entry, dict) and "params" in entry for entry in params]
    if any(groups) and not all(groups):
        where = groups.index(False)
        raise TypeError(
            f"params[{where}]: expected a group {{'params': ...}} as its neighbours, got {describe(params[where])}"
        )
    return any(groups)


def _like(p: Array) -> Array:
    """Zeros for a parameter's state: its shape and memory order, in its compute type."""
    return np.zeros_like(p, dtype=compute_dtype(p.dtype), subok=False)


def _signature(options: Mapping[str, _Option], hints: Mapping[str, Any]) -> inspect.Signature:
    kinds = inspect.Parameter
    parameters = [kinds("params", kinds.POSITIONAL_OR_KEYWORD)]
    for name, own in options.items():
        kind = kinds.KEYWORD_ONLY if own.keyword_only else kinds.POSITIONAL_OR_KEYWORD
        parameters.append(kinds(name, kind, default=own.default, annotation=hints[name]))
    parameters.append(kinds("backend", kinds.KEYWORD_ONLY, default="native", annotation=Backend))
    return inspect.Signature(parameters)


def _check_against_native(cls: type[Optimizer]) -> None:
    """Both languages must name the same rules, state and hyper-parameters: a slip here would be wrong numbers later."""
    ours = set(expand(cls.defaults))
    for variant, state in cls.variants.items():
        if variant not in native.RULES:
            raise ImportError(f"{cls.__name__}: the compiled module has no rule {variant!r}")
        _, hyper, native_state = native.RULES[variant]
        if native_state != state:
            raise ImportError(f"{cls.__name__}: state of {variant!r} is {state} here, {native_state} in the rule")
        if not ours.issuperset(hyper):
            raise ImportError(f"{cls.__name__}: the rule {variant!r} takes {sorted(set(hyper) - ours)}, unknown here")
    used = {name for variant in cls.variants for name in native.RULES[variant][1]}
    for name, value in expand(cls.defaults).items():
        number = isinstance(value, float) and name != "weight_decay" and not name.startswith("initial_")
        if number and name not in used:
            raise ImportError(f"{cls.__name__}: no rule takes {name!r}")
