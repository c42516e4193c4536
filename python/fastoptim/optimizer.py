"""The base class of every optimizer: structure of parameters, groups, state, step and checkpoint."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from operator import is_
from typing import Any, ClassVar, Literal

import numpy as np

from . import checkpoint, cuda, native
from .arrays import Array, check_target, compute_dtype
from .backends import check_backend, engine_for
from .engine import (
    AVERAGE,
    Engine,
    GroupSnapshot,
    GroupStep,
    ParamState,
    Repeat,
    Settings,
    check_targets,
    group_step_at,
)
from .fields import FieldsAreArguments, Signature, State, argument, check_convention, collect_options, hints_of, option
from .options import Backend, Decay, NonNegative, PositiveCount, Scale, check_option, expand, rate_at
from .trees import Structure, describe, structure_of

#: Every optimizer by name.
OPTIMIZERS: dict[str, type[Optimizer]] = {}

STATE_DICT_VERSION = 1

DECAY = ("weight_decay", "decoupled")


class Optimizer(FieldsAreArguments):
    r"""What every optimizer does; each subclass says what it computes.

    Before the update, in this order, each operation rounded once to the compute type:

    .. math::
        g &= g / \text{grad\_scale} \quad (-g \text{ to maximize}) \\
        g &= \min(\max(g, -\text{clip\_value}), \text{clip\_value}) \\
        g &= g \cdot \min(1, \text{clip\_norm} / (\lVert g \rVert + 10^{-6})) \quad
             \text{and the same of all gradients' norm with clip\_global\_norm} \\
        g &= g + \text{l1} \cdot \operatorname{sign}(p), \qquad g = g + \text{weight\_decay} \cdot p \\
        p &= (1 - \eta \cdot \text{weight\_decay})\, p \quad \text{in place of the last, if decoupled}

    Args:
        params: Arrays to update in place: one, or any nesting of dicts, lists and tuples of arrays, or a list of groups
            ``{"params": ..., "lr": ...}`` as in torch.optim.
        weight_decay: Adds ``weight_decay * p`` to the gradient.
        decoupled: Shrinks the parameters by ``lr * weight_decay`` themselves instead, as AdamW does.
        l1: Adds ``l1 * sign(p)`` to the gradient.
        clip_value: Bounds every element of the gradient.
        clip_norm: Bounds the Euclidean norm of each array's gradient.
        clip_global_norm: Bounds the norm of all gradients together, those of every group.
        grad_scale: Divides the gradients by this loss scale, by a multiplication with its rounded reciprocal: a number
            from 2^-126 to 2^126, or an array of one element that is read at every step.
        skip_nonfinite: If any gradient holds an inf or NaN, nothing changes and `step` returns False, else True.
        maximize: Ascends instead.
        ema: Keeps an exponential moving average of the parameters, ``average = ema*average + (1-ema)*p``; see
            `averaged`.
        swa_start: Keeps instead the plain mean of the parameters after step `swa_start` and every `swa_every`-th step
            from there on (stochastic weight averaging).  Assigned later, it is to be a step that is yet to come.
        swa_every: See `swa_start`.
        convention: Whose formula and defaults, where frameworks differ; options that are given go before.
        backend: "native", or "reference" for plain NumPy with the same bits.

    A subclass gives its fields (the hyper-parameters with defaults, annotated with what they may be), `variants` (its
    native rules and the state arrays of each), `variant` (which of them the options mean) and `reference` (the formula
    in NumPy).  Defining it registers it; loops, dtypes, bindings, tests and docs follow.
    """

    __signature__ = Signature()

    params: Any
    weight_decay: NonNegative = option(default=0.0, kw_only=True)
    decoupled: bool = option(default=False, kw_only=True)
    l1: NonNegative = option(default=0.0, kw_only=True)
    clip_value: NonNegative | None = option(default=None, kw_only=True)
    clip_norm: NonNegative | None = option(default=None, kw_only=True)
    clip_global_norm: NonNegative | None = option(default=None, kw_only=True)
    grad_scale: Scale = option(default=1.0, kw_only=True)
    skip_nonfinite: bool = option(default=False, kw_only=True)
    maximize: bool = option(default=False, kw_only=True)
    ema: Decay | None = option(default=None, kw_only=True)
    swa_start: PositiveCount | None = option(default=None, kw_only=True)
    swa_every: PositiveCount = option(default=1, kw_only=True)
    backend: Backend = argument(default="native", kw_only=True)

    name: ClassVar[str]
    state: ClassVar[Any]
    defaults: ClassVar[dict[str, Any]]
    annotations: ClassVar[dict[str, Any]]
    shared: ClassVar[frozenset[str]]
    """The options that every optimizer has."""

    # ---- what a subclass gives

    variants: ClassVar[Mapping[str, tuple[str, ...]]]
    """The native rules by name, and the state arrays of each."""

    reference: ClassVar[Callable[..., None]]
    """The formula in NumPy, in place: ``reference(p, g, *, t, **state, **options)``, all of the compute type."""

    conventions: ClassVar[Mapping[str, Mapping[str, Any]]] = {}
    """Whose formula and defaults the class has, by name: what differs from the class's own defaults.  The first is the
    one meant where none is named, also by the field `convention`."""

    scalar_state: ClassVar[tuple[str, ...]] = ()
    """State arrays that are one float64 number for the whole parameter."""

    host_constants: ClassVar[tuple[str, ...]] = ()
    """Numbers that rule and reference are given each step, beside the options or in place of those of the same name."""

    compute_host_constants: ClassVar[Callable[..., dict[str, float]]]
    """Those numbers in double, in that order: a pure function of what it names, or takes as ``**options``, of `t`, `lr`
    and the other options."""

    host_constants_takes: ClassVar[frozenset[str]] = frozenset()
    """What it names, found when the class is made."""

    decays_itself: ClassVar[bool] = False
    """Whether `weight_decay` and `decoupled` are part of the formula; else they come before it."""

    reduce_terms: ClassVar[Callable[..., tuple[float, ...]] | None] = None
    """Sums over an array that the formula needs, as `reference` with the same arguments; it may update state.
    `reference` then takes them as `sums`."""

    reduces_group: ClassVar[bool] = False
    """Whether those sums run over all arrays of a group."""

    @classmethod
    def variant(cls, *_: Any, **options: Any) -> str:
        """Return the variant that the options select, by default the only one; ValueError if they conflict."""
        (name,) = cls.variants
        return name

    @staticmethod
    def initial(name: str, options: Mapping[str, Any]) -> float | Literal["p"]:
        """What every element of that state array is before the first step; "p" for a copy of the parameter."""
        return 0.0

    # ---- the class

    def __init_subclass__(cls, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        hints = hints_of(cls)
        options = collect_options(cls)
        cls.shared = frozenset(name for name in options if name in vars(Optimizer))
        cls.defaults = {name: own.default for name, own in options.items()}
        cls.annotations = {name: hints[name] for name in cls.defaults}
        cls.state = State(tuple(dict.fromkeys(name for names in cls.variants.values() for name in names)))
        cls.host_constants_takes = (
            _names_taken(cls.compute_host_constants, {"t", *options}) if cls.host_constants else frozenset()
        )
        check_convention(cls)
        for convention in cls.conventions:
            cls.check_options({"convention": convention})
        _check_against_native(cls)
        if "name" in vars(cls):  # a subclass without a name of its own is its user's affair
            OPTIMIZERS[cls.name] = cls

    @classmethod
    def check_names(cls, names: Iterable[str], place: str = "") -> None:
        """TypeError for a name that is no option."""
        for name in names:
            if name not in cls.defaults and not (name == "convention" and cls.conventions):
                raise TypeError(f"{place}{name}: not an option of {cls.__name__}; the options are {list(cls.defaults)}")

    @classmethod
    def check_options(cls, given: Mapping[str, Any], place: str = "") -> Settings:
        """Every option, defaults filled in, each checked; TypeError for an unknown one."""
        cls.check_names(given, place)
        defaults = cls._defaults_of(given, place)
        options = {
            name: check_option(cls.annotations[name], given.get(name, default), place + name)
            for name, default in defaults.items()
        }
        try:
            if options["ema"] is not None and options["swa_start"] is not None:
                raise ValueError("ema: expected None beside swa_start, as one average is kept, got both")
            variant = cls.variant(**options)
        except ValueError as error:
            raise ValueError(f"{place}{error}") from None
        return Settings(cls, variant, options)

    @classmethod
    def _defaults_of(cls, given: Mapping[str, Any], place: str) -> dict[str, Any]:
        """The defaults under the convention that is given, if any."""
        if not cls.conventions:
            return cls.defaults
        known = list(cls.conventions)
        convention = given.get("convention", known[0])
        if convention not in known:
            raise ValueError(f"{place}convention: expected one of {known}, got {convention!r}")
        return {**cls.defaults, **cls.conventions[convention]}

    @classmethod
    def first_state(cls, name: str, p: Any, options: Mapping[str, Any]) -> Any:
        """A new state array for a parameter, of the parameter's array family, as it is before the first step."""
        param = ParamState(p, {})
        start: Any = "p" if name == AVERAGE else cls.initial(name, options)
        if name in cls.scalar_state:
            return param.family.number(p, start)
        array = _like(param)
        if start:
            param.family.assign(array, p if start == "p" else start)
        return array

    # ---- an instance

    def __init__(self, params: Any, *args: Any, **kwargs: Any) -> None:
        if type(self) is Optimizer:
            raise TypeError("Optimizer: expected one of its subclasses; see fastoptim.OPTIMIZERS")
        self.check_names(name for name in kwargs if name != "backend")
        bound = inspect.signature(type(self)).bind(params, *args, **kwargs)
        self.backend = check_option(Backend, bound.arguments.pop("backend", "native"), "backend")
        bound.arguments.pop("params")
        if self.conventions:
            vars(self)["convention"] = bound.arguments.get("convention", next(iter(self.conventions)))
        self.check_options(bound.arguments)

        self.param_states: list[ParamState] = []
        self._views: list[dict[str, Array]] | None = None  # of the state, as last shown to the user
        self.param_groups: list[dict[str, Any]] = []
        self._resolved: list[GroupSnapshot] = []  # by group
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
        if not self.param_states:
            raise ValueError("params: expected at least one array, got none")
        self.check_arrays()
        places = [param.place for param in self.param_states]
        if len(set(places)) != len(places):
            raise ValueError("params: expected keys that differ when printed, got two arrays in places of one name")

        self._step_count = 0
        self._swapped_by = ""  # the method that shows other values in the parameters' place
        self._missed: dict[int, int] = {}  # of the i-th array, how many steps it had no gradient in
        self._engine: Engine | None = None
        self._repeat: Repeat | None = None  # the engine's shorter way, once there is one

    def engine_for(self, param_states: Sequence[ParamState]) -> Engine:
        """What steps these arrays on this optimizer's backend."""
        return engine_for(self.backend, param_states)

    def check_arrays(self) -> None:
        """Refuses parameters and state that a step could not write as they are now."""
        check_targets(self.param_states)

    def _add_group(self, index: int, structure: Structure, tree: Any, settings: Settings, grouped: bool) -> Any:
        prefix = f"[{index}]" if grouped else ""
        inside = prefix + ("['params']" if grouped else "")
        arrays = structure.match(tree, "params" + inside)
        for p, path in zip(arrays, structure.paths(), strict=True):
            place = f"params{inside}{path}"
            check_backend(self.backend, check_target(p, place), place)
            param = ParamState(p, {}, index, prefix + path, place, scalar_state=self.scalar_state)
            self._allocate(param, settings)
            self.param_states.append(param)
        own_tree = structure.build(iter(arrays))
        group = {"params": own_tree, **settings.options}
        self.param_groups.append(group)
        self._resolved.append(GroupSnapshot(tuple(group.values()), settings, f"param_groups[{index}]"))
        return own_tree

    def _allocate(self, param: ParamState, settings: Settings) -> None:
        """Gives an array the state that these settings need and it does not have yet."""
        for name in settings.state:
            if name not in param.state:
                param.family.check_takes_place(param.p)
                try:
                    param.state[name] = self.first_state(name, param.p, settings.options)
                except TypeError as error:
                    raise TypeError(f"{param.p_place}: {error}") from None
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
            self._views = [
                {k: param.family.view(array) for k, array in param.state.items()} for param in self.param_states
            ]
        return self._structure.build(iter([dict(views) for views in self._views]))

    @contextmanager
    def lookahead(self) -> Iterator[None]:
        """Shows the parameters where the gradient is to be taken: where they are, but for `NAG`.

        With it one loop serves every optimizer.
        """
        yield

    @contextmanager
    def averaged(self) -> Iterator[None]:
        """Shows the averages of `ema` or `swa_start` in the parameters' place, and puts those back bit for bit.

        >>> import numpy as np, fastoptim as fo
        >>> p = np.array([1.0])
        >>> opt = fo.SGD(p, lr=0.5, ema=0.75)
        >>> opt.step(np.array([1.0]))
        >>> with opt.averaged():
        ...     print(p)
        [0.875]
        >>> p
        array([0.5])
        """
        kept = [self._settings(index).averages for index in range(len(self.param_groups))]
        if not any(kept):
            raise ValueError("averaged: expected an optimizer with ema or swa_start, got one that keeps no average")
        with self.swapped_params(
            "averaged", [param.state[AVERAGE] if kept[param.group] else None for param in self.param_states]
        ):
            yield

    @contextmanager
    def swapped_params(self, how: str, values: Sequence[Any]) -> Iterator[None]:
        """Shows these values in the parameters' place, and puts those back bit for bit, also after an exception."""
        self.check_not_swapped()
        self.check_arrays()
        saved = [param.family.copy(param.p) for param in self.param_states]
        self._swapped_by = how
        try:
            for param, value in zip(self.param_states, values, strict=True):
                if value is not None:
                    param.family.assign(param.p, value)
            yield
        finally:
            self._swapped_by = ""
            self._put_back(saved, how)

    def check_not_swapped(self) -> None:
        """RuntimeError while other values stand in the parameters' place."""
        if self._swapped_by:
            raise RuntimeError(
                f"{self._swapped_by}: expected its block to have ended; the parameters are not in their place yet"
            )

    def _put_back(self, saved: list[Any], how: str) -> None:
        """Every array that still lets itself be written, before complaining of one that does not."""
        locked = None
        for param, p in zip(self.param_states, saved, strict=True):
            try:
                param.family.assign(param.p, p)
            except ValueError:
                locked = param.p_place
        if locked:
            raise ValueError(f"{locked}: expected an array as it was before {how}; it could not be put back")

    def step(self, grads: Any) -> bool | None:
        """Update the parameters in place.

        `grads` has the structure and shapes of `params`; None in the place of an array leaves that parameter, its
        state and its own count of steps alone.  Gradients are only read.  A refused call has written nothing.  Several
        threads may step an optimizer each, but not one and the same at once.

        Returns None; with `skip_nonfinite` whether the step was taken; False while a CUDA graph captures it, see
        `graph_step`.
        """
        if (
            (repeat := self._repeat)
            and (steady := repeat.steady)
            and not self._swapped_by
            and steady(self.param_groups, grads, self._step_count)
        ):
            self._step_count += 1
            return None
        return self._step_slow_path(grads)

    def _step_slow_path(self, grads: Any) -> bool | None:
        """A step with numbers of its own, or of which anything may be new, or amiss."""
        self.check_not_swapped()
        repeat, before = self._repeat, self._step_count
        flat = repeat.match(self.param_groups, self._resolved, grads) if repeat else None
        as_seen = flat is not None
        if flat is None:
            flat = self._structure.match(grads, "grads")
        group_steps = self._group_steps(as_seen)
        self.check_not_swapped()
        if self._step_count != before:
            raise RuntimeError(f"lr: expected a schedule that leaves step {before + 1} alone, got one that took it")
        unchanged = as_seen and self._repeat is repeat  # also by callables
        stepped = repeat.step(flat, group_steps) if repeat and unchanged else -1
        if repeat and stepped == repeat.skipped:
            return False
        if stepped < 0:
            found = self._step_by_engine(flat, group_steps)
            if found is None:
                return False
            stepped = found
        self._step_count += 1
        if stepped < len(flat):
            self._repeat = None
            for i, grad in enumerate(flat):
                if grad is None:
                    self._missed[i] = self._missed.get(i, 0) + 1
        for group_step in group_steps:
            if group_step.settings.skips:
                return True
        return None

    def _step_by_engine(self, flat: list[Any], group_steps: list[GroupStep]) -> int | None:
        """See fastoptim.engine.Engine."""
        self._repeat = None
        step_of = self._late_group_steps(group_steps) if self._missed else None
        if self._engine is None:
            self._engine = self.engine_for(self.param_states)
        stepped = self._engine.step(flat, group_steps, step_of)
        if any(
            group_step.settings is not seen.settings
            for group_step, seen in zip(group_steps, self._resolved, strict=False)
        ):
            self._engine = None  # a callable has changed its own group's options, which count from the next step on
        elif stepped == len(flat) and not self._missed:
            self._repeat = self._engine.repeat(self._structure, self._resolved)
        return stepped

    def graph_step(self) -> None:
        """Takes the step that a CUDA graph has captured: call it before each replay, on the replay's stream.

        The learning rate, the step count and all other numbers of the next step go to where the graph reads them.
        Arrays, gradients' buffers and which of them are None stay as they were when the graph was captured, and so do
        all options but `lr` and `grad_scale`; RuntimeError where they have changed.  A `step` that is captured is none
        yet: it returns False and is not counted.

        With CuPy::

            cupy.cuda.Device().synchronize()  # the arrays are there, whatever stream they were made on
            with cupy.cuda.Stream(non_blocking=True) as stream:
                opt.step(grads)  # an ordinary step first
                stream.begin_capture()
                opt.step(grads)
                graph = stream.end_capture()
                for batch in data:
                    ...  # new numbers into the arrays of grads
                    opt.graph_step()
                    graph.launch()
        """
        self.check_not_swapped()
        group_steps = self._group_steps()
        if not isinstance(self._engine, cuda.Engine):
            raise RuntimeError("graph_step: expected a step captured in a CUDA graph before")
        absent = self._engine.replay(group_steps, self._missed)
        self._step_count += 1
        for i in absent:
            self._missed[i] = self._missed.get(i, 0) + 1

    def _group_steps(self, as_seen: bool = False) -> list[GroupStep]:
        """What each group's arrays do in this step; `as_seen` where no option was assigned since they were seen."""
        group_steps = []
        for index in range(len(self._trees)):
            if len(self.param_groups) != len(self._trees):
                raise ValueError(f"param_groups: expected {len(self._trees)} groups, got {len(self.param_groups)}")
            if not as_seen:
                self._settings(index)
            _, settings, place = self._resolved[index]
            lr = settings.options["lr"]
            if callable(lr):
                lr = rate_at(lr, self._step_count, place, "['lr']")
                as_seen = False  # it may have assigned options of the groups that follow
            group_steps.append(group_step_at(settings, lr, self._step_count + 1, place))
        return group_steps

    def _late_group_steps(self, group_steps: list[GroupStep]) -> list[int]:
        """Adds the group_steps of arrays that missed steps, whose clocks are behind; says which is whose."""
        which = {(index, 0): index for index in range(len(group_steps))}
        step_of = []
        for i, param in enumerate(self.param_states):
            key = (param.group, self._missed.get(i, 0))
            if key not in which:
                which[key] = len(group_steps)
                on_time = group_steps[param.group]
                group_steps.append(
                    group_step_at(on_time.settings, on_time.lr, on_time.t - key[1], f"param_groups[{param.group}]")
                )
            step_of.append(which[key])
        return step_of

    def _settings(self, index: int) -> Settings:
        """A group's options, checked again if one was assigned."""
        group = self.param_groups[index]
        seen, settings, place = self._resolved[index]
        if len(group) == len(seen) and all(map(is_, group.values(), seen)):  # not ==, for which True is 1.0
            return settings
        place += ": "
        if group.get("params") is not self._trees[index]:
            raise ValueError(
                f"{place}params: expected the parameters it was made with; make a new optimizer for others"
            )
        if missing := self.defaults.keys() - group.keys():
            raise TypeError(f"{place}expected the options {list(self.defaults)}, missing {sorted(missing)}")
        if "convention" in group:
            raise TypeError(f"{place}convention: expected it where the optimizer is made; assign the options instead")
        changed = self.check_options({k: v for k, v in group.items() if k != "params"}, place)
        if changed.state != settings.state or changed.variant != settings.variant:
            for param in self.param_states:
                if param.group == index:
                    self._allocate(param, changed)
            self._engine = None
        self._repeat = None
        group.update(changed.options)
        self._resolved[index] = GroupSnapshot(tuple(group.values()), changed, f"param_groups[{index}]")
        return changed

    # ---- checkpoints

    def state_dict(self) -> dict[str, Any]:
        """Everything needed to go on with identical bits: dicts, lists, numbers, strings and copies of the arrays.

        A learning rate that is a callable and a loss scale that is an array are left out: the optimizer that loads
        keeps its own, whatever that is.  So are options that are None, and are None again then.
        """
        self.check_not_swapped()
        settings = [self._settings(index) for index in range(len(self.param_groups))]
        return {
            "version": STATE_DICT_VERSION,
            "optimizer": self.name,
            "step_count": self._step_count,
            "groups": [
                {
                    k: list(v) if isinstance(v, tuple) else v
                    for k, v in group.options.items()
                    if v is not None and not callable(v) and not isinstance(v, np.ndarray)
                }
                for group in settings
            ],
            "arrays": [
                {
                    "place": param.place,
                    "dtype": param.metadata.dtype.name,
                    "shape": list(param.metadata.shape),
                    "steps": self._step_count - self._missed.get(i, 0),
                    "state": {name: param.family.to_numpy(array) for name, array in param.state.items()},
                }
                for i, param in enumerate(self.param_states)
            ],
        }

    def load_state_dict(self, state_dict: Mapping[str, Any]) -> None:
        """Goes on from a `state_dict`, with its options and state.

        A saved learning rate replaces the present one, a callable too.  Checks all of it first, and changes nothing
        where it refuses.
        """
        self.check_not_swapped()
        step_count, groups, arrays = checkpoint.check(self, state_dict)
        for group, loaded in zip(self.param_groups, groups, strict=True):
            group.update(loaded)
        for param, (_, state) in zip(self.param_states, arrays, strict=True):
            if param.state.keys() != state.keys():
                self._views = None
            for name in param.state.keys() - state.keys():
                del param.state[name]
            for name, array in state.items():
                if name not in param.state:
                    param.state[name] = param.family.number(param.p, 0.0) if name in self.scalar_state else _like(param)
                param.family.assign(param.state[name], array)
        self._step_count = step_count
        self._missed = {i: step_count - steps for i, (steps, _) in enumerate(arrays) if steps != step_count}
        self._engine = self._repeat = None

    def __getstate__(self) -> dict[str, Any]:
        self.check_not_swapped()
        return {**vars(self), "_engine": None, "_repeat": None, "_views": None}

    def __repr__(self) -> str:
        options = {k: v for k, v in self.param_groups[0].items() if k != "params" and v != self.defaults[k]}
        chosen = "".join(f", {k}={v!r}" for k, v in options.items())
        elements = sum(param.metadata.size for param in self.param_states)
        return f"<{type(self).__name__} of {len(self.param_states)} arrays, {elements:,} elements{chosen}>"


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


def _names_taken(function: Callable[..., Any], known: Iterable[str]) -> frozenset[str]:
    """The arguments that a function names; all that are known where it takes any."""
    parameters = inspect.signature(function).parameters.values()
    takes_any = any(parameter.kind is parameter.VAR_KEYWORD for parameter in parameters)
    return frozenset(known if takes_any else (parameter.name for parameter in parameters))


def _like(param: ParamState) -> Any:
    """Zeros for a parameter's state: its shape and memory order, in its compute type."""
    return param.family.zeros(param.p, compute_dtype(param.metadata.dtype))


def _check_against_native(cls: type[Optimizer]) -> None:
    """Both languages must name the same rules, state and hyper-parameters: a slip here would be wrong numbers later."""
    own = {k: v for k, v in cls.defaults.items() if k not in cls.shared or (k in DECAY and cls.decays_itself)}
    ours = {"lr", *expand(own), *cls.host_constants}
    used: set[str] = set()
    for variant, state in cls.variants.items():
        if variant not in native.RULES:
            raise ImportError(f"{cls.__name__}: the compiled module has no rule {variant!r}")
        rule = native.RULES[variant]
        used.update(rule.hyper)
        if rule.state + rule.scalar_state != state or not set(rule.scalar_state) <= set(cls.scalar_state):
            raise ImportError(f"{cls.__name__}: state of {variant!r} is {state} here, {rule} in the rule")
        if not ours.issuperset(rule.hyper):
            raise ImportError(
                f"{cls.__name__}: the rule {variant!r} takes {sorted(set(rule.hyper) - ours)}, unknown here"
            )
        if (rule.sums > 0) != (cls.reduce_terms is not None):
            raise ImportError(f"{cls.__name__}: the rule {variant!r} takes {rule.sums} sums")
    for name, value in expand(own).items():
        number = isinstance(value, float) and not name.startswith("initial_")
        if number and name not in used and not cls.host_constants:  # which may hold what is left of it
            raise ImportError(f"{cls.__name__}: no rule takes {name!r}")
