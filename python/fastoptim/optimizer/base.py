"""The base class of every optimizer: its options, its registry, and the fast path of a step.

Groups, the slow path, parameter swaps and checkpoints are modules of functions in this package.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import Any, ClassVar, Literal

from ..arrays.families import family_in
from ..arrays.param_state import ParamState, check_targets
from ..arrays.tree import Structure
from ..engines.base import Engine, FastPath, GroupSnapshot, GroupStep, PartEngine
from ..engines.select import engine_for
from ..engines.stages import Stage
from ..options import checks, fields
from ..options.combinations import check_combination
from ..options.fields import FieldsAreArguments, Signature, State, argument, collect_options, names_taken, option
from ..options.schema import SCALES, StateArray, complete_schema, shown_state
from ..options.settings import Settings
from ..reference_math import Array
from ..texts import brief
from . import checkpoint, copies, groups, pickling, stepping, swapped_params
from .accumulation import ACCUMULATED, Accumulates, Accumulation, Accumulator
from .group_changes import ChangesGroups
from .native_rules import check_against_native
from .remapping import ChangesRows
from .saving import SavedInFiles

#: Every optimizer that steps arrays of any shape, by name.
OPTIMIZERS: dict[str, type[Optimizer]] = {}

#: The optimizers whose steps depend on the shapes of whole matrices, by name.
MATRIX_OPTIMIZERS: dict[str, type[Optimizer]] = {}

#: The optimizers whose state has sums over the rows and columns of matrices, by name.
FACTORED_OPTIMIZERS: dict[str, type[Optimizer]] = {}


def known_optimizers() -> dict[str, type[Optimizer]]:
    """Return the optimizers of all registries by name."""
    return {**OPTIMIZERS, **MATRIX_OPTIMIZERS, **FACTORED_OPTIMIZERS}


class Optimizer(
    FieldsAreArguments,
    Accumulates,
    ChangesGroups,
    ChangesRows,
    SavedInFiles,
    stepping.StepsInGraphs,
    swapped_params.SwapsParams,
    copies.WritesCopies,
):
    r"""The behavior that all optimizers share; each subclass adds a formula.

    Before the update, in this order, each operation rounded once to the compute type:

    .. math::
        g &= g / \text{grad\_scale} \quad (-g \text{ to maximize}) \\
        g &= \min(\max(g, -\text{clip\_value}), \text{clip\_value}) \\
        g &= g \cdot \min(1, \text{clip\_norm} / (\lVert g \rVert + \text{clip\_eps})) \quad
             \text{and the same of all gradients' norm with clip\_global\_norm} \\
        g &= g + \text{l1} \cdot \operatorname{sign}(p), \qquad g = g + \text{weight\_decay} \cdot p \\
        p &= (1 - \eta \cdot \text{weight\_decay})\, p \quad \text{in place of the last, if decoupled}

    Args:
        params: Arrays to update in place: one, or any nesting of dicts, lists and tuples of arrays, or a list of groups
            ``{"params": ..., "lr": ...}`` as in torch.optim.  A group may have a "name", and the entries that PyTorch's
            schedulers keep in it, such as "initial_lr"; they are saved but have no effect on a step.
            Assign to the arrays in place: a step raises ValueError if a dict or list has another one in its place.
        lr: Learning rate of every optimizer: a number, a callable of the step, or an array or tensor of one element,
            such as a 0-d NumPy array, that is read at every step.
        weight_decay: Adds ``weight_decay * p`` to the gradient.
        decoupled: Shrinks the parameters by ``lr * weight_decay`` themselves instead, as AdamW does.
        decay_schedule: The factor of decoupled weight decay: "lr"; "independent", ``lr / lr_max``; or "corrected",
            ``lr**2 / lr_max``.  ValueError for the latter two without `decoupled`.  docs/options.md has the details of
            this and the next options, and which optimizers reject them.
        lr_max: The largest learning rate, for `decay_schedule`.  None starts from `lr` if that is a number; a step at a
            larger rate replaces it.
        cautious: Takes the step only where its sign agrees with the gradient's, and divides it there by the share of
            such elements in the array, at least 0.001.
        cautious_decay: Applies decoupled weight decay only where the step has the parameter's sign or is zero.
        bounds: ``(low, high)``, None for either: the new parameter is ``min(max(p, low), high)``.
        l1: Adds ``l1 * sign(p)`` to the gradient.
        clip_value: Bounds every element of the gradient.
        clip_norm: Bounds the norm of each array's gradient.
        clip_global_norm: Bounds the norm of all gradients together, those of every group.
        norm_type: Their type: 2 (Euclidean), 1 (sum of absolute values) or inf (the largest absolute value).
            ValueError if groups differ in it and one of them has `clip_global_norm`.
        clip_eps: Added to the norm that a bound is divided by: 1e-6 as in PyTorch, 0 as in Keras and optax.
        grad_scale: Divides the gradients by this loss scale, by a multiplication with its rounded reciprocal: a number
            from 2^-126 to 2^126, or an array or tensor of one element that is read at every step.
        skip_nonfinite: If any gradient holds an inf or NaN, nothing changes and `step` returns False, else True.
        on_nonfinite: "skip" is the same as ``skip_nonfinite=True``.  With "raise" nothing changes either, and `step`
            raises FloatingPointError, which names the first such gradient; it counts for all groups if one has it.
        maximize: Ascends instead.
        ema: Keeps an exponential moving average of the parameters, ``average = ema*average + (1-ema)*p``; see
            `averaged`.  Assigned after a phase without it, the average starts again from the parameters.
        ema_start: The step whose parameters the average starts from; before it, the average is the parameters.  0 for
            those from before the first step; 1 is Keras's start and PyTorch's.
        ema_debias: Divides the weights of the values so far by their sum, :math:`1 - \text{ema}^n`, as optax's ``ema``
            does, so that the first value is not counted more than the others.
        swa_start: Keeps instead the plain mean of the parameters after step `swa_start` and every `swa_every`-th step
            from there on (stochastic weight averaging).  ValueError if it or `swa_every` is assigned later and
            `swa_start` is a step already taken.
        swa_every: See `swa_start`.
        row_steps: Counts the steps of each row, which is an index of the first axis, in the state array `row_steps`;
            with `Rows` the bias corrections and averages of a row then depend on its own count, as if it had an
            optimizer of its own.  The learning rate's schedule still follows the optimizer's count.  ValueError for an
            optimizer that needs sums or numbers of whole arrays, and for a parameter that is not in C order.
        master_weight_bits: 24 or 32: keeps float16 and bfloat16 parameters with that many bits, of which the state has
            those that the parameters lack; see docs/sixteen_bits.md.  This and the next two options exclude each other.
        kahan: Keeps the rounding errors of such parameters in the state, and adds them in the next step.
        stochastic_rounding: Rounds such parameters at random, without bias, by random bits that depend on `seed`.
        seed: The seed of `stochastic_rounding`, an integer from 0 to 2^63 - 1.
        state_format: "bfloat16" or "int8" compress the averages of gradients and of their squares to 16 or 8.5 bits per
            element; docs/compressed_state.md lists the arrays.  It cannot be assigned later.
        int8_min_size: With "int8", the state of parameters of fewer elements is not compressed.
        convention: The framework whose formula and defaults apply, where they differ; explicit options override it.
        copies: Arrays of float16 or bfloat16 in the structure of `params`, None in a place for none.  They receive the
            rounded new parameters in the pass of the update.
        backend: "native", or "reference" for plain NumPy with the same bits.

    Assigning a new attribute that resembles an option, such as ``opt.weight_decy``, raises AttributeError; classes of
    your own that derive from an optimizer may have attributes of any name.

    A subclass declares its fields (the hyper-parameters with defaults, annotated with types and ranges), `variants`
    (its native rules and the state arrays of each) and `reference` (the formula in NumPy).  It defines `variant` if it
    has several variants, and `state_schema` if a state array differs from the default.  Defining a subclass registers
    it; loops, dtypes, bindings, tests and documentation follow.
    """

    __signature__ = Signature()

    params: Any = argument()
    weight_decay: checks.NonNegative = option(default=0.0, kw_only=True)
    decoupled: bool = option(default=False, kw_only=True)
    decay_schedule: Literal["lr", "independent", "corrected"] = option(default="lr", kw_only=True)
    lr_max: checks.NonNegative | None = option(default=None, kw_only=True)
    cautious: bool = option(default=False, kw_only=True)
    cautious_decay: bool = option(default=False, kw_only=True)
    bounds: checks.Bounds | None = option(default=None, kw_only=True)
    l1: checks.NonNegative = option(default=0.0, kw_only=True)
    clip_value: checks.NonNegative | None = option(default=None, kw_only=True)
    clip_norm: checks.NonNegative | None = option(default=None, kw_only=True)
    clip_global_norm: checks.NonNegative | None = option(default=None, kw_only=True)
    norm_type: checks.NormType = option(default=2.0, kw_only=True)
    clip_eps: checks.NonNegative = option(default=1e-6, kw_only=True)
    grad_scale: checks.Scale = option(default=1.0, kw_only=True)
    skip_nonfinite: bool = option(default=False, kw_only=True)
    on_nonfinite: Literal["skip", "raise"] | None = option(default=None, kw_only=True)
    maximize: bool = option(default=False, kw_only=True)
    ema: checks.Decay | None = option(default=None, kw_only=True)
    ema_start: checks.Count = option(default=0, kw_only=True)
    ema_debias: bool = option(default=False, kw_only=True)
    swa_start: checks.PositiveCount | None = option(default=None, kw_only=True)
    swa_every: checks.PositiveCount = option(default=1, kw_only=True)
    row_steps: bool = option(default=False, kw_only=True)
    master_weight_bits: Literal[24, 32] | None = option(default=None, kw_only=True)
    kahan: bool = option(default=False, kw_only=True)
    stochastic_rounding: bool = option(default=False, kw_only=True)
    seed: checks.Seed = option(default=0, kw_only=True)
    state_format: Literal["native", "bfloat16", "int8"] = option(default="native", kw_only=True)
    int8_min_size: checks.Count = option(default=4096, kw_only=True)
    copies: Any = argument(default=None, kw_only=True)
    backend: checks.Backend = argument(default="native", kw_only=True)

    _watched = ()

    name: ClassVar[str]
    state: ClassVar[Any]
    shared: ClassVar[frozenset[str]]
    """The options that every optimizer has."""

    # ---- declared by a subclass

    variants: ClassVar[Mapping[str, tuple[str, ...]]]
    """The native rules by name, and the state arrays of each."""

    reference: ClassVar[Callable[..., None]]
    """The formula in NumPy, in place: ``reference(p, g, *, t, **state, **options)``, all of the compute type."""

    state_schema: ClassVar[Mapping[str, StateArray]] = {}
    """Shape, format and initial value of the state arrays: a subclass declares those that differ from the default."""

    conventions: ClassVar[Mapping[str, Mapping[str, Any]]] = {}
    """The frameworks whose formula and defaults the class offers, by name: the options that differ from the class's own
    defaults.  The first is the default, and the default of the field `convention`."""

    host_constants: ClassVar[tuple[str, ...]] = ()
    """Constants of a step that rule and reference receive besides the options, or instead of those of the same name."""

    compute_host_constants: ClassVar[Callable[..., dict[str, float]]]
    """Compute the host constants in double, in that order.  A pure function of those of `t`, `lr` and the options that
    its signature names, or of all with ``**options``."""

    host_constants_takes: ClassVar[frozenset[str]] = frozenset()
    """The arguments of `compute_host_constants`, found when the class is made."""

    variant_takes: ClassVar[frozenset[str]]
    """The arguments of `variant`, likewise."""

    decays_itself: ClassVar[bool] = False
    """True if `weight_decay` and `decoupled` are part of the formula; else they precede it."""

    reduce_terms: ClassVar[Callable[..., tuple[float, ...]] | None] = None
    """The sums over an array that the formula needs, with the arguments of `reference`; may update state.  They are of
    the parameter before decoupled decay.  `reference` then takes them as `sums`."""

    has_function: ClassVar[bool] = True
    """False if a step does more than the formula: the class is then not in `OPTIMIZERS`, nor in `fo.functional`."""

    reduces_all: ClassVar[bool] = False
    """True if those sums run over all arrays.  The step count is then the optimizer's, and every step updates the
    scalar state of all arrays, also of those without a gradient."""

    stages: ClassVar[tuple[Stage, ...]] = ()
    """The steps before the formula: passes that prepare whole matrices for the array library, and its work on them."""

    scratch: ClassVar[tuple[str, ...]] = ()
    """The arrays of one step that stages write and the native rule reads after its state; never saved."""

    stage_state: ClassVar[tuple[str, ...]] = ()
    """State arrays of stages, which the native rule does not have."""

    first_step_options: ClassVar[Mapping[str, Any]] = {}
    """Options that have other values in the first step of a rule with stages, which only begins its statistics."""

    is_factored: ClassVar[bool] = False
    """True if stages take sums over rows and columns, which arrays of the CPU have."""

    @staticmethod
    def check_shape(shape: tuple[int, ...], options: Mapping[str, Any], place: str) -> None:
        """Raise ValueError for a parameter of a shape that the formula does not take."""

    @classmethod
    def variant(cls, *args: Any, **_: Any) -> str:
        """Return the variant that the options select, or raise ValueError if they exclude each other.

        The signature names the options that this depends on, the others are ``**_``.  A class with one variant needs no
        method of its own.
        """
        (only,) = cls.variants
        return only

    # ---- the class

    def __init_subclass__(cls, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        hints = fields.hints_of(cls)
        options = collect_options(cls)
        cls.shared = frozenset(name for name in options if name in vars(Optimizer))
        cls.defaults = {name: own.default for name, own in options.items()}
        cls.annotations = {name: hints[name] for name in cls.defaults}
        fields.KNOWN_OPTIONS.update(cls.defaults)
        cls._checked_defaults = {}
        names = (*dict.fromkeys(name for names in cls.variants.values() for name in names), *cls.stage_state)
        cls.state = State(names)
        names = (*names, *cls.scratch)
        if unknown := vars(cls).get("state_schema", {}).keys() - set(names):
            raise ImportError(f"{cls.__name__}: state_schema has {sorted(unknown)}, which no variant has")
        cls.state_schema = complete_schema(names, cls._declared_schema())
        cls.host_constants_takes = (
            names_taken(cls.compute_host_constants, {"t", *options}) if cls.host_constants else frozenset()
        )
        cls.variant_takes = names_taken(cls.variant, options)
        fields.check_convention(cls)
        for convention in cls.conventions:
            cls.check_options({"convention": convention})
        check_against_native(cls)
        if "name" in vars(cls) and cls.has_function:  # a user's subclass without a name of its own is not registered
            staged = FACTORED_OPTIMIZERS if cls.is_factored else MATRIX_OPTIMIZERS
            (staged if cls.stages else OPTIMIZERS)[cls.name] = cls

    @classmethod
    def _declared_schema(cls) -> dict[str, StateArray]:
        """Return the declarations of the class and its bases."""
        return {k: v for base in reversed(cls.__mro__) for k, v in vars(base).get("state_schema", {}).items()}

    @classmethod
    def schema_for(cls, options: Mapping[str, Any]) -> Mapping[str, StateArray]:
        """Return the declarations of the state arrays under these options."""
        if not cls.stage_state:
            return cls.state_schema
        return {name: array.under(options) for name, array in cls.state_schema.items()}

    @classmethod
    def check_options(cls, given: Mapping[str, Any], place: str = "") -> Settings:
        """Return the checked options, defaults filled in; raise TypeError for an unknown one."""
        cls.check_names(given, place)
        options = cls.checked_defaults(given, place).copy()
        for name, value in given.items():
            if name != "convention":
                options[name] = checks.check_option(cls.annotations[name], value, place + name)
        try:
            check_combination(cls, options)
            variant = cls.variant(**options)
            settings = Settings(cls, variant, options)
            if options["row_steps"] and not settings.is_elementwise:
                raise ValueError(f"row_steps: expected False, as {settings.why_not_elementwise}")
        except ValueError as error:
            raise ValueError(f"{place}{error}") from None
        return settings

    @classmethod
    def first_state(cls, name: str, p: Any, options: Mapping[str, Any]) -> Any:
        """Return a new state array for a parameter, of its array family, with the values before the first step."""
        return ParamState(p, {}, schema=cls.schema_for(options)).initial_state(name, options)

    # ---- an instance

    def __init__(self, params: Any, *args: Any, **kwargs: Any) -> None:
        if type(self) is Optimizer:
            raise TypeError("Optimizer: expected one of its subclasses; see fastoptim.OPTIMIZERS")
        self.check_names(name for name in kwargs if name not in ("backend", "copies"))
        bound = inspect.signature(type(self)).bind(params, *args, **kwargs)
        self.backend = checks.check_option(checks.Backend, bound.arguments.pop("backend", "native"), "backend")
        bound.arguments.pop("params")
        self.copies = bound.arguments.pop("copies", None)
        if self.conventions:
            vars(self)["convention"] = bound.arguments.get("convention", next(iter(self.conventions)))
        self.check_options(bound.arguments)

        self.param_states: list[ParamState]
        self.param_groups: list[dict[str, Any]]
        self._structure: Structure
        self._given: Any
        self._constructed_with = dict(bound.arguments)
        self._given_structure: Structure
        self._trees: list[Any]
        self._resolved: list[GroupSnapshot]
        self._views: list[dict[str, Array]] | None
        self.params = groups.add_groups(self, params, bound.arguments)
        if self.copies is not None:
            self.param_states = copies.with_copies(self, self.copies)
            self.check_arrays()
            copies.refresh(self.param_states)
        self._counts: list[Any] = [0, {}]
        self._raised_lr_max: Mapping[int, tuple[float | None, float]] = {}
        self._swapped_by = ""
        self._accumulator: Accumulator | None = None
        self._engine: Engine | None = None
        self._fast_path: FastPath | None = None

    def rule_of(self, index: int) -> type[Optimizer]:
        """Return the class of a group's formula."""
        return type(self)

    def engine_for(self, param_states: Sequence[ParamState]) -> PartEngine:
        """Return an engine of this optimizer's backend for these arrays."""
        return engine_for(self.backend, param_states, [self.rule_of(param.group) for param in param_states])

    def check_arrays(self) -> None:
        """Raise an error if a step could not write a parameter or a state array as it is now."""
        check_targets(self.param_states)

    @property
    def step_count(self) -> int:
        """Steps taken."""
        return self._step_count

    @property
    def _step_count(self) -> int:
        count: int = self._counts[0]
        return count

    @property
    def _missed(self) -> dict[int, int]:
        missed: dict[int, int] = self._counts[1]
        return missed

    def live_state(self) -> Any:
        """Return the live state, not copies: a dict ``{name: array}`` in the place of each parameter.

        The arrays are views, so that locking or resizing one does not affect the optimizer.  In the place of an array
        in blocks of 8 bits is the dict ``{"codes": ..., "scales": ...}``.
        """
        if self._views is None:
            self._views = [
                {k: family_in(array).view(array) for k, array in param.state.items()} for param in self.param_states
            ]
        return self._structure.build(map(shown_state, self._views))

    def state_values(self) -> Any:
        """Return copies of the state in the structure of `state`, those of compressed arrays decoded to float32.

        Of float64 parameters they are decoded to float64.

        >>> import numpy as np, fastoptim as fo
        >>> opt = fo.Momentum(np.zeros(3, np.float32), form="heavy_ball", state_format="int8", int8_min_size=0)
        >>> opt.step(np.array([0.5, 0.0, -0.5], np.float32))
        >>> opt.state["v"]["codes"], opt.state["v"]["scales"]
        (array([ 127,    0, -127], dtype=int8), array([0.5], dtype=float32))
        >>> opt.state_values()["v"]
        array([ 0.5,  0. , -0.5], dtype=float32)
        """
        self.check_arrays()
        values = [
            {name: param.values_of(name) for name in param.state if not name.endswith(SCALES)}
            for param in self.param_states
        ]
        return self._structure.build(iter(values))

    @property
    def state_nbytes(self) -> int:
        """The bytes of all state arrays of this process."""
        return sum(array.nbytes for param in self.param_states for array in param.state.values())

    def lookahead(self) -> AbstractContextManager[None]:
        """Temporarily move the parameters to where the gradient should be evaluated.  A no-op except for `NAG`."""
        return nullcontext()

    def step(self, grads: Any = ACCUMULATED, *, accumulation: Accumulation = "mean") -> bool | None:
        """Update the parameters in place.

        `grads` has the structure and shapes of `params`.  None instead of an array leaves that parameter, its state and
        its own step count unchanged, except `Prodigy`'s numbers, which are those of all arrays.  Gradients are only
        read.  A call that raises an error has written nothing.  Different threads may step different optimizers at the
        same time, but not the same one.

        Without `grads`, it takes the mean, or with ``accumulation="sum"`` the sum, of those passed to `accumulate`.

        Returns None; with `skip_nonfinite` whether the step was taken; False during the capture of a CUDA graph, see
        `graph_step`.
        """
        if (fast_path := self._fast_path) and accumulation == "mean":
            if try_step := fast_path.try_step:
                if not self._swapped_by and try_step(self.param_groups, grads, self._counts):
                    return None
            elif fast_path.rates and stepping.try_scheduled_step(self, fast_path, grads):
                return None
        return self._step_slow_path(grads, accumulation)

    def _step_slow_path(self, grads: Any, accumulation: Accumulation = "mean") -> bool | None:
        return stepping.step_slow_path(self, grads, accumulation)

    @staticmethod
    def _adder() -> type[Optimizer]:
        return OPTIMIZERS["sgd"]

    def _step_by_engine(self, flat: list[Any], group_steps: list[GroupStep]) -> bool:
        return stepping.step_by_engine(self, flat, group_steps)

    def _check_skipped(self, group_steps: Sequence[GroupStep], grads: Any, root: str) -> None:
        stepping.check_skipped(self, group_steps, grads, root)

    def _settings(self, index: int) -> Settings:
        return groups.settings_of(self, index)

    # ---- checkpoints and copies

    def state_dict(self) -> dict[str, Any]:
        """Return everything needed to continue with identical bits: dicts, lists, numbers, strings and array copies.

        Of a learning rate that is a callable, only the state of schedules with the methods `state_dict` and
        `load_state_dict` is saved, such as `ReduceOnPlateau`; of a learning rate or a loss scale that is an array,
        nothing is.  None is saved as the string "none".
        """
        return checkpoint.state_dict_of(self)

    def load_state_dict(self, state_dict: Mapping[str, Any], *, convert: bool = False) -> None:
        """Continue from a `state_dict`, with its options and state.

        A saved learning rate replaces the present one, even a callable.  If none was saved, the present one stays and
        its schedules take the saved state.  An option that was not saved, because it is newer, has its default.

        Everything is checked and allocated first; a call that raises an error has changed nothing.

        Args:
            state_dict: The result of `state_dict` of the same class, for parameters of the same paths and shapes.
            convert: Accept parameters or state of another dtype, such as float64 for float32, and round the state.

        Raises:
            TypeError: `state_dict` is not a dict.
            ValueError: It is of another optimizer, shape, dtype or version, or it contains an option that is unknown or
                out of range.
            RuntimeError: The parameters hold other values, as within `averaged`.
        """
        checkpoint.load(self, state_dict, convert)

    def __getstate__(self) -> dict[str, Any]:
        return pickling.picklable(self)

    def __setstate__(self, attributes: dict[str, Any]) -> None:
        pickling.restore(self, attributes)

    def __copy__(self) -> Any:
        return pickling.shallow_copy(self)

    def __repr__(self) -> str:
        first, *others = self.param_groups
        common = {k: v for k, v in first.items() if k in self.defaults and all(v == each[k] for each in others)}
        options = {k: v for k, v in common.items() if v != self.defaults[k]}
        chosen = "".join(f", {k}={brief(v)}" for k, v in options.items())
        elements = sum(param.metadata.size for param in self.param_states)
        return f"<{type(self).__name__} of {len(self.param_states)} arrays, {elements:,} elements{chosen}>"
