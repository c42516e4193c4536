"""The native engine for arrays in the CPU's memory, and what it shares with the GPU's engine."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import cache
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np

from .. import core
from ..arrays.checks import check_gradient, same_layout
from ..arrays.families import family_of, in_numpy
from ..arrays.param_state import ParamState, check_one, check_targets, cuts_blocks
from ..arrays.rows import Rows, check_index, check_rows
from ..arrays.tree import Structure
from ..arrays.written_ranges import WrittenRanges
from ..core import RULES
from ..options.checks import expand, range_of
from ..options.schema import AVERAGE, ROW_STEPS, SCALES, Codes
from ..options.settings import Settings
from ..reference_math import Array, loaded_formats
from .base import (
    NO_COUNTS,
    NOTHING_ELSEWHERE,
    Counts,
    Elsewhere,
    FastPath,
    GroupSnapshot,
    GroupStep,
    group_step_at,
    group_step_of_rows,
    settings_used,
)

if TYPE_CHECKING:
    from ..options.settings import RuleClass

CLIPS = ("clip_value", "clip_norm", "clip_global_norm")


def norms(arrays: list[Array], norm_type: float) -> list[float]:
    """Return the norm of each array, dense and of a known dtype."""
    register_dtypes()
    return core.norms(arrays, norm_type)


def square_sums(matrices: Array) -> tuple[Array, Array]:
    """Return the sums of squares over the rows and the columns of a batch of matrices in C order, of a known dtype."""
    register_dtypes()
    return core.square_sums(matrices)


class Engine:
    """Step all arrays in one native call."""

    isa: ClassVar[str] = ""  # the instruction set; empty for the one of FASTOPTIM_ISA or the best

    def __init__(self, param_states: Sequence[ParamState]) -> None:
        self._param_states = param_states
        self._model: core.Model | None = None
        self._written = WrittenRanges([])
        self._family = param_states[0].family
        reader = getattr(self._family, "reader", None)  # of a library whose arrays native code reads
        self._reader = None if reader is None else core.ArrayReader(*reader)

    def step(
        self,
        grads: list[Any],
        group_steps: Sequence[GroupStep],
        step_of: list[int] | None = None,
        counts: Counts = NO_COUNTS,
        elsewhere: Elsewhere = NOTHING_ELSEWHERE,
    ) -> int | None:
        """Update every array that has a gradient; see fastoptim.engines.base.Engine.  May change the list `grads`."""
        group_steps = with_row_steps(self._param_states, grads, group_steps, step_of)
        steps, norm, sums = native_steps(group_steps), elsewhere.global_norm, elsewhere.sums

        def step(model: core.Model) -> tuple[str, int]:
            return model.step(grads, step_of, steps, *counts, global_norm=norm, sums=sums)

        return self._repeat_until_recognized(step, grads, group_steps, step_of)[1]

    def clipped_norms(
        self, grads: list[Any], group_steps: Sequence[GroupStep], step_of: list[int] | None = None
    ) -> list[float] | None:
        """See fastoptim.engines.base.Engine.  May change the list `grads`."""
        model = self._recognize(grads, group_steps, step_of)
        return model.clipped_norms(grads, step_of, native_steps(group_steps))

    def rule_sums(
        self,
        grads: list[Any],
        group_steps: Sequence[GroupStep],
        step_of: list[int] | None = None,
        global_norm: float | None = None,
    ) -> list[tuple[float, ...]]:
        """See fastoptim.engines.base.Engine.  May change the list `grads`, and updates state that sums depend on."""
        model = self._recognize(grads, group_steps, step_of)
        sums = model.rule_sums(grads, step_of, native_steps(group_steps), global_norm=global_norm)
        each = len(sums) // len(grads)
        return [tuple(sums[i : i + each]) for i in range(0, len(sums), each)]

    def _recognize(self, grads: list[Any], group_steps: Sequence[GroupStep], step_of: list[int] | None) -> core.Model:
        """Return a model that recognizes these gradients."""
        steps = native_steps(group_steps)

        def recognize(model: core.Model) -> tuple[str, int]:
            return model.recognize(grads, step_of, steps)

        return self._repeat_until_recognized(recognize, grads, group_steps, step_of)[0]

    def _repeat_until_recognized(
        self,
        attempt: Callable[[core.Model], tuple[str, int]],
        grads: list[Any],
        group_steps: Sequence[GroupStep],
        step_of: list[int] | None,
    ) -> tuple[core.Model, int | None]:
        """Return the model and the result of an attempt in which native code recognizes every array and gradient."""
        model = self._model or self._make_model(group_steps, step_of)
        checked = 1
        reported: set[tuple[str, int]] = set()
        while True:
            status, value = result = attempt(model)
            if status == "stepped":
                return model, value
            if status == "skipped":
                return model, None
            refuse_unsteady(result, reported, self._param_states[value])
            if status == "parameter changed":
                model = self._make_model(group_steps, step_of)
                continue
            register_dtypes()  # the user may have imported it since
            used = settings_used(self._param_states, group_steps, step_of)
            misfits = (i for i in range(value) if isinstance(grads[i], Rows) and not self._takes_rows(i, used[i]))
            for i in range(next(misfits, value), min(value + checked, len(grads))):  # native code reports these last
                if grads[i] is not None:
                    grads[i] = self._check_gradient(model, i, grads[i], used)
            checked *= 2  # where one is unusual others may be, and each attempt begins with the first array

    def _takes_rows(self, index: int, settings: Settings) -> bool:
        own = settings.optimizer.variants[settings.variant]
        return settings.is_elementwise and not cuts_blocks(self._param_states[index], own)

    def _check_gradient(self, model: core.Model, index: int, grad: Any, used: Sequence[Settings]) -> Array | Rows:
        """Return a gradient as NumPy arrays; the next ones like it are recognized by native code."""
        param = self._param_states[index]
        if isinstance(grad, Rows):
            rows = check_rows(param, grad, self._written, used[index])
            return Rows(rows.index, np.ascontiguousarray(rows.values))
        checked = check_one(param, grad, self._written)
        if self._reader and family_of(grad) is self._family and same_layout(self._family.metadata(grad, ""), checked):
            model.remember(index, grad, checked)
        return checked

    def fast_path(
        self, structure: Structure, groups: Sequence[GroupSnapshot], containers: list[Any]
    ) -> FastPath | None:
        """See fastoptim.engines.base.Engine."""
        return None if self._model is None else make_fast_path(self._model, structure, groups, containers)

    def _make_model(self, group_steps: Sequence[GroupStep], step_of: list[int] | None) -> core.Model:
        register_dtypes()
        self._written = check_targets(self._param_states)
        used = settings_used(self._param_states, group_steps, step_of)
        self._model = core.Model(
            params=[in_numpy(param.p) for param in self._param_states],
            states=[
                tuple([*map(in_numpy, arrays)] for arrays in state_of(param, settings))  # type: ignore[misc]
                for param, settings in zip(self._param_states, used, strict=True)
            ],
            groups=[param.group for param in self._param_states],
            where=self.isa,
            array_type=np.ndarray,
            reader=self._reader,
            owners=[param.p for param in self._param_states] if self._reader else [],
            rows_type=Rows,
            copies=[None if param.copy is None else in_numpy(param.copy) for param in self._param_states],
            extras=[
                in_numpy(param.state[own.extra_bits]) if own.extra_bits in param.state else None
                for param, own in zip(self._param_states, used, strict=True)
            ],
            indices=[param.index for param in self._param_states],
            compressed=[
                compression_of(param, settings) for param, settings in zip(self._param_states, used, strict=True)
            ],
        )
        return self._model


def with_row_steps(
    param_states: Sequence[ParamState],
    grads: list[Any],
    group_steps: Sequence[GroupStep],
    step_of: list[int] | None,
) -> Sequence[GroupStep]:
    """Return the group steps, and after them those of rows with step counts of their own.

    Replaces the gradients of such parameters by rows whose index refers to these steps.
    """
    if not any(group_step.settings.options["row_steps"] for group_step in group_steps):
        return group_steps
    settings_used(param_states, group_steps, step_of)  # raises its errors before those of gradients
    steps = [*group_steps]
    for i, (param, grad) in enumerate(zip(param_states, grads, strict=True)):
        group_step = group_steps[param.group if step_of is None else step_of[i]]
        if grad is None or not group_step.settings.options["row_steps"]:
            continue
        counts = in_numpy(param.state[ROW_STEPS])
        try:
            index, values = _index_and_values(param, grad, len(counts))
        except (IndexError, TypeError, ValueError):
            check_targets(param_states)  # whose errors come first
            raise
        steps += [group_step_of_rows(group_step, taken) for taken in index.group(counts, len(steps))]
        grads[i] = Rows(index, values, is_whole=not isinstance(grad, Rows))
    return steps


def _index_and_values(param: ParamState, grad: Any, n: int) -> tuple[core.RowIndex, Any]:
    """Return the rows of a gradient and its elements, after some checks."""
    if isinstance(grad, Rows):
        return core.RowIndex(check_index(grad.index, f"{param.g_place}.index", n), n), grad.values
    values = np.asarray(grad) if isinstance(grad, np.generic) else grad
    check_gradient(values, param.g_place, param.metadata)
    return core.RowIndex.all(n), values


def refuse_unsteady(result: tuple[str, int], reported: set[tuple[str, int]], param: ParamState) -> None:
    """Raise RuntimeError if native code has reported the same array for the same reason before, in one step."""
    if result in reported:
        place = param.p_place if result[0] == "parameter changed" else param.g_place
        raise RuntimeError(f"{place}: expected an array that stays as it is during a step, got one that keeps changing")
    reported.add(result)


def make_fast_path(
    model: core.Model,
    structure: Structure,
    groups: Sequence[GroupSnapshot],
    containers: list[Any],
    stream: Callable[[], tuple[int, bool]] | None = None,
) -> FastPath | None:
    """Return the fast path of a model whose groups have these options; None if rows have counts of their own."""
    if any(group.settings.options["row_steps"] for group in groups):
        return None
    fixed = None
    if all(group.settings.is_steady and not group.settings.skips for group in groups):
        fixed = [(group.seen, *_constants_of_every_step(group)) for group in groups]
    configs = [_update_config(group.settings) for group in groups]
    path = core.FastPath(model, structure.nesting(), configs, fixed, stream, containers)
    rates = [group.settings.options["lr"] for group in groups] if fixed else []
    scheduled = any(type(rate) is not float for rate in rates)
    return FastPath(
        path.match_inputs,
        path.step_with,
        try_step=path.try_step if fixed and not scheduled else None,
        try_scheduled_step=path.try_step if scheduled else None,
        rates=tuple(map(_rate_function, rates)) if scheduled else (),
    )


def _rate_function(rate: Any) -> Callable[[int], float]:
    return (lambda step: rate) if type(rate) is float else rate


def native_steps(group_steps: Iterable[GroupStep]) -> core.GroupSteps:
    """Return the steps of the groups as native code takes them."""
    return [
        (_update_config(settings), lr, t, scale, (*constants.values(),))
        for settings, lr, t, scale, constants in group_steps
    ]


def _constants_of_every_step(group: GroupSnapshot) -> tuple[float, float, tuple[float, ...]]:
    rate = group.settings.options["lr"]
    fixed = rate if type(rate) is float else 0.0  # each step has its own
    _, lr, _, scale, constants = group_step_at(group.settings, fixed, 1, group.place)
    return lr, scale, (*constants.values(),)


def state_of(param: ParamState, settings: Settings) -> tuple[list[Any], list[Any], list[Any]]:
    """Return an array's state for native code: the rule's arrays, its scalar state, and the average if one is kept."""
    rule = RULES[settings.variant]
    average = [param.state[AVERAGE]] if settings.averages else []
    return [param.state[name] for name in rule.state], [param.state[name] for name in rule.scalar_state], average


def compression_of(param: ParamState, settings: Settings) -> list[tuple[str, Array | None] | None]:
    """Return how each of the rule's arrays is compressed, with the scales of its blocks; empty if none is."""
    found: list[tuple[str, Array | None] | None] = []
    for name in RULES[settings.variant].state:
        schema = param.schema_of(name)
        scales = param.state.get(name + SCALES)
        stored = None if scales is None else in_numpy(scales)
        found.append((schema.compression, stored) if isinstance(schema, Codes) else None)
    return found if any(found) else []


def option_set(settings: Settings, given: Mapping[str, Any], defaults: Mapping[str, Any]) -> core.OptionSet:
    """Return the options `given` as later calls of `fo.functional` pass them.

    These may pass other values of `lr`, `grad_scale` and plain hyper-parameters.  No object of the caller's is kept.
    """
    free = {name: defaults[name] for name in ("lr", "grad_scale")}
    optimizer = settings.optimizer
    lasting = Settings(optimizer, settings.variant, {**settings.options, **free}, settings.memo)
    readable = dict(_readable_options(optimizer, settings.variant))
    if settings.options["cautious"]:
        readable.pop("weight_decay", None)  # some rules cannot have both, which is checked where a set is made
    return core.OptionSet(
        _update_config(lasting),
        {name: value for name, value in given.items() if name not in free},
        readable,
        free["lr"],
        free["grad_scale"],
        lasting.when_nonfinite,
        lasting.host_constants_at if optimizer.host_constants else None,
        _state_arguments(optimizer, settings.variant, settings.state, settings.every_state),
    )


@cache
def _readable_options(optimizer: type[RuleClass], variant: str) -> Mapping[str, tuple[list[int], float, float]]:
    """Return the options that native code may read and check at each call, with their places and their ranges.

    These are the numbers that the rule's formula takes as they are, from which nothing else is derived.
    """
    hyper = RULES[variant].hyper
    excluded = {"lr"} | optimizer.host_constants_takes | optimizer.variant_takes
    readable = {}
    for name, value in optimizer.defaults.items():
        within = None if name in excluded else range_of(optimizer.annotations[name])
        if within is None:
            continue
        if name == "weight_decay" and not optimizer.decays_itself:
            places = [core.OptionSet.WEIGHT_DECAY]
        elif set(names := expand({name: value})) <= set(hyper):
            places = [hyper.index(each) for each in names]
        else:
            continue
        readable[name] = (places, *within.closed)
    return readable


@cache
def _state_arguments(
    optimizer: type[RuleClass], variant: str, used: tuple[str, ...], every: tuple[str, ...]
) -> core.StateArguments:
    rule = RULES[variant]

    def argument(name: str) -> tuple[str, int, str]:
        schema = optimizer.state_schema[name]
        kinds = {"average": name == AVERAGE, "scalar": schema.is_scalar, "rows": schema.is_of_rows, "state": True}
        role = next(role for role, is_it in kinds.items() if is_it)
        names = {"average": (AVERAGE,), "scalar": rule.scalar_state}.get(role, rule.state)
        return role, names.index(name) if name in names else -1, schema.format

    return core.StateArguments(rule.number, [[argument(name) for name in names] for names in (used, every)])


def register_dtypes() -> None:
    """Tell native code the dtypes of the formats that other packages define, as far as they are imported."""
    for name, dtype in loaded_formats().items():
        core.register_dtype(name, dtype)


def _update_config(settings: Settings) -> core.UpdateConfig:
    """Return the options as the kernels need them, except for what changes with the step."""
    known: core.UpdateConfig | None = settings.memo.get("update_config")
    if known is not None:
        return known
    rule, options, optimizer = RULES[settings.variant], settings.options, settings.optimizer
    values = {**expand(options), **dict.fromkeys(("lr", *optimizer.host_constants), 0.0)}
    bounds = {name: math.inf if options[name] is None else options[name] for name in CLIPS}
    low, high = options["bounds"] or (-math.inf, math.inf)
    made = core.UpdateConfig(
        rule=rule.number,
        values=[math.inf if values[name] is None else float(values[name]) for name in rule.hyper],
        lr_at=rule.hyper.index("lr") if "lr" in rule.hyper else -1,
        host_constants_at=[rule.hyper.index(name) for name in optimizer.host_constants],
        maximize=options["maximize"],
        skip_nonfinite=bool(settings.when_nonfinite),
        norm_type=options["norm_type"],
        clip_eps=options["clip_eps"],
        l1=options["l1"],
        weight_decay=0.0 if optimizer.decays_itself else options["weight_decay"],
        decoupled=options["decoupled"],
        weight_decay_at=rule.hyper.index("weight_decay") if "weight_decay" in rule.hyper else -1,
        decay_schedule=options["decay_schedule"],
        lr_max=options["lr_max"] or 0.0,
        cautious=options["cautious"],
        cautious_decay=options["cautious_decay"],
        low=low,
        high=high,
        ema=options["ema"],
        ema_start=options["ema_start"],
        ema_debias=options["ema_debias"],
        swa_start=options["swa_start"],
        swa_every=options["swa_every"],
        rounding_seed=options["seed"] if options["stochastic_rounding"] else None,
        **bounds,
    )
    settings.memo["update_config"] = made
    return made
