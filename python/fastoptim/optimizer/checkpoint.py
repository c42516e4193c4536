"""Checkpoints: the state dict of an optimizer, and the checks before one is loaded.

A state dict holds dicts, lists, numbers, strings and NumPy arrays.  Loading checks all of it and allocates what it
needs before the first write.  docs/checkpoints.md describes the entries.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import partial
from operator import itemgetter
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from .. import core
from ..arrays.checks import canonical_dtype, check_state
from ..arrays.families import family_in
from ..arrays.param_state import ParamState, check_has_rows, check_takes_options
from ..arrays.tree import describe
from ..extra_bits import EXTRA_BITS
from ..options.checks import check_option, extras_of, is_array, may_be_none
from ..options.schema import ROW_STEPS, SHARED_STATE, StateArray
from ..options.settings import Settings
from ..reference_math import Array
from ..schedules.base import stateful_parts
from . import accumulation, state_formats
from .copies import refresh
from .groups import check_keeps_shapes, check_norm_types, options_of, take_settings
from .state_formats import CONVERTS, format_of

if TYPE_CHECKING:
    from .protocols import OptimizerParts, Rule

#: It rises when the layout changes, not with new options.
STATE_DICT_VERSION = 1

#: The value of an option that is None.
NONE = "none"


class Checked(NamedTuple):
    """A state dict that fits."""

    step_count: int
    groups: list[tuple[Settings, dict[str, Any]]]
    """The options of each group, and its entries that are not options."""
    schedules: list[tuple[Any, Any]]
    """Each schedule with its state."""
    param_states: list[ParamState]
    """The parameters, with the formats of state under the loaded options."""
    arrays: list[tuple[int, dict[str, Array]]]
    """The steps that each parameter has taken, and its state."""
    accumulated: Mapping[str, Any] | None
    """The sums of gradients that wait for a step."""


def state_dict_of(optimizer: OptimizerParts) -> dict[str, Any]:
    """Return the state dict; see `Optimizer.state_dict`."""
    optimizer.check_not_swapped()
    settings = [optimizer._settings(index) for index in range(len(optimizer.param_groups))]
    check_norm_types(settings, "param_groups")
    groups = [own.options for own in settings]
    rules = [own.optimizer.name for own in settings]
    accumulated = accumulation.saved(optimizer)
    return {
        "version": STATE_DICT_VERSION,
        "optimizer": optimizer.name,
        "step_count": optimizer._step_count,
        "groups": [
            {
                k: _plain(v)
                for k, v in {**options, **extras_of(group, "")}.items()
                if not callable(v) and not is_array(v)
            }
            | ({} if rule == optimizer.name else {"optimizer": rule})
            for options, group, rule in zip(groups, optimizer.param_groups, rules, strict=True)
        ],
        "schedules": [
            [copy.deepcopy(schedule.state_dict()) for schedule in stateful_parts(options["lr"])] for options in groups
        ],
        "arrays": [
            array_entry(param, optimizer._step_count - optimizer._missed.get(i, 0))
            for i, param in enumerate(optimizer.param_states)
        ],
        **({} if accumulated is None else {"accumulated": accumulated}),
    }


def array_entry(param: ParamState, steps: int) -> dict[str, Any]:
    """Return the entry of a parameter that has taken so many steps, with copies of its state."""
    return {
        "place": param.place,
        "dtype": param.metadata.dtype.name,
        "shape": list(param.metadata.shape),
        "steps": steps,
        "state": {name: family_in(array).to_numpy(array) for name, array in param.state.items()},
        **state_formats.order_entry(param),
    }


def _plain(value: Any) -> Any:
    if value is None:
        return NONE
    return list(value) if isinstance(value, tuple) else value


def load(optimizer: OptimizerParts, state_dict: Any, convert: bool) -> None:
    """Load a state dict; see `Optimizer.load_state_dict`."""
    optimizer.check_not_swapped()
    step_count, groups, schedules, param_states, arrays, accumulated = check(
        optimizer, state_dict, check_option(bool, convert, "convert")
    )
    if optimizer.reduces_all:
        arrays = _without_late_ones(optimizer, step_count, arrays)
    targets = [targets_for(param, state) for param, (_, state) in zip(param_states, arrays, strict=True)]
    accumulator = accumulation.restored(optimizer, accumulated, step_count)
    missed = {i: step_count - steps for i, (steps, _) in enumerate(arrays) if steps != step_count}

    def assign() -> None:
        optimizer._views = optimizer._engine = optimizer._fast_path = None
        _load_schedules(schedules)
        for index, (settings, extras) in enumerate(groups):
            take_settings(optimizer, index, settings, extras)
        optimizer.param_states[:] = param_states
        for param, target, (_, state) in zip(param_states, targets, arrays, strict=True):
            for name, array in target.items():
                family_in(array).assign(array, state[name])
            param.state.clear()
            param.state.update(target)
        refresh(param_states)
        optimizer._raised_lr_max = {}
        optimizer._counts[:] = step_count, missed
        optimizer._accumulator = accumulator

    _try_schedules(schedules)
    core.complete(assign)


def _without_late_ones(
    optimizer: OptimizerParts, step_count: int, arrays: Sequence[tuple[int, dict[str, Array]]]
) -> list[tuple[int, dict[str, Array]]]:
    """Return the state of an optimizer whose arrays have one step count, from one in which each had its own.

    Such checkpoints are of earlier versions.  Arrays that have missed steps take the numbers of the one with the most.
    """
    most, latest = max(arrays, key=itemgetter(0))
    schema = optimizer.state_schema
    numbers = {name: array for name, array in latest.items() if name in schema and schema[name].is_scalar}
    return [(step_count, state if steps == most else state | numbers) for steps, state in arrays]


def targets_for(param: ParamState, state: Mapping[str, Array]) -> dict[str, Any]:
    """Return the arrays to load this state into: those that the parameter has, and new ones."""
    targets = {}
    for name, array in param.state.items():
        if name in state:
            check_state(array, param.state_place(name), param.metadata, param.schema_of(name))
            targets[name] = array
    return targets | {name: param.allocate(name) for name in state if name not in targets}


def _try_schedules(states: Sequence[tuple[Any, Any]]) -> None:
    """Raise the error of a schedule that rejects its state, with all schedules as before."""
    before = [(schedule, copy.deepcopy(schedule.state_dict())) for schedule, _ in states]
    try:
        with core.Temporarily(partial(_load_schedules, states), partial(_load_schedules, before)):
            pass
    except TypeError as error:
        raise ValueError(f"state_dict['schedules']: {error}") from error


def _load_schedules(states: Sequence[tuple[Any, Any]]) -> None:
    for schedule, state in states:
        schedule.load_state_dict(state)


def check(optimizer: OptimizerParts, state_dict: Any, convert: bool) -> Checked:
    """Return the entries, or raise an error if one does not fit."""
    check_header(state_dict, optimizer.name)
    step_count = count_of(entry_of(state_dict, "step_count", "state_dict"), "state_dict['step_count']")

    groups = _list(entry_of(state_dict, "groups", "state_dict"), len(optimizer.param_groups), "state_dict['groups']")
    checked_groups = [
        _check_group(optimizer, i, group, f"state_dict['groups'][{i}]", convert) for i, group in enumerate(groups)
    ]
    check_norm_types([settings for settings, _ in checked_groups], "state_dict['groups']")
    saved = _list(state_dict.get("schedules", [[]] * len(groups)), len(groups), "state_dict['schedules']")
    schedules = [
        pair
        for i, ((settings, _), states) in enumerate(zip(checked_groups, saved, strict=True))
        for pair in _check_schedules(settings.options["lr"], states, f"state_dict['schedules'][{i}]")
    ]

    by_place = entries_by_place(state_dict, optimizer.param_states)
    param_states = [_in_formats_of(param, checked_groups[param.group][0]) for param in optimizer.param_states]
    checked = []
    for param in param_states:
        settings = checked_groups[param.group][0]
        if settings.options["row_steps"]:
            check_has_rows(param)
        check_takes_options(param, settings)
        before = optimizer._resolved[param.group].settings
        check_keeps_shapes(param, before, settings, f"state_dict['groups'][{param.group}]: ")
        needed = () if param.is_remote else settings.state_for(param.metadata, param.schema)
        checked.append(check_array(param, needed, step_count, by_place[param.place], convert))
    accumulated = _check_accumulated(optimizer, state_dict.get("accumulated"), convert)
    return Checked(step_count, checked_groups, schedules, param_states, checked, accumulated)


def _in_formats_of(param: ParamState, settings: Settings) -> ParamState:
    """Return the parameter with the formats that these options select, and of its state what is in these."""
    schema = settings.stored_schema(param.metadata.size)

    def is_kept(name: str) -> bool:
        return format_of(schema.get(name, StateArray())) == format_of(param.schema_of(name))

    if all(map(is_kept, param.schema)):
        return param
    return replace(param, schema=schema, state={name: a for name, a in param.state.items() if is_kept(name)})


def _check_accumulated(optimizer: OptimizerParts, entry: Any, convert: bool) -> dict[str, Any] | None:
    """Return the sums of gradients that wait for a step, if there are any."""
    if entry is None:
        return None
    place = "state_dict['accumulated']"
    count = count_of(entry_of(entry, "count", place), f"{place}['count']")
    counts, sums = entry_of(entry, "counts", place), entry_of(entry, "sums", place)
    for param in optimizer.param_states:
        own = count_of(entry_of(counts, param.place, f"{place}['counts']"), f"{place}['counts']")
        if own > count:
            raise ValueError(f"{place}['counts']: expected at most {count} gradients of params{param.place}, got {own}")
    checked = {
        param.place: check_saved_array(
            entry_of(sums, param.place, f"{place}['sums']"),
            StateArray(),
            param.metadata,
            f"{place}: expected the sum of grads{param.place}",
            convert,
        )
        for param in optimizer.param_states
    }
    return {"count": count, "counts": counts, "sums": checked}


def check_header(state_dict: Any, name: str) -> None:
    """Raise an error unless this is a state dict of the optimizer of that name, in this version's layout."""
    if not isinstance(state_dict, Mapping):
        raise TypeError(f"state_dict: expected a dict, got {describe(state_dict)}")
    _expect(entry_of(state_dict, "version", "state_dict"), STATE_DICT_VERSION, "state_dict['version']")
    _expect(entry_of(state_dict, "optimizer", "state_dict"), name, "state_dict['optimizer']")


def entries_by_place(state_dict: Mapping[str, Any], param_states: Sequence[ParamState]) -> dict[str, Any]:
    """Return the entries of a state dict's arrays by their paths, one for each parameter."""
    arrays = _list(entry_of(state_dict, "arrays", "state_dict"), len(param_states), "state_dict['arrays']")
    by_place: dict[str, Any] = {}
    for i, entry in enumerate(arrays):
        place = entry_of(entry, "place", f"state_dict['arrays'][{i}]")
        if not isinstance(place, str) or place in by_place:
            raise ValueError(f"state_dict['arrays'][{i}]['place']: expected a path of its own, got {place!r}")
        by_place[place] = entry
    for param in param_states:
        if param.place not in by_place:
            raise ValueError(f"state_dict['arrays']: expected an entry for params{param.place}, got {sorted(by_place)}")
    return by_place


def _check_group(
    optimizer: OptimizerParts, index: int, group: Any, place: str, convert: bool
) -> tuple[Settings, dict[str, Any]]:
    """Return a group's settings, with defaults for options that were not saved, and entries that are not options.

    The format of state is not loaded: the present one stays.
    """
    if not isinstance(group, Mapping):
        raise ValueError(f"{place}: expected a dict, got {describe(group)}")
    rule = optimizer.rule_of(index)
    if rule.name != optimizer.name:
        _expect(entry_of(group, "optimizer", place), rule.name, f"{place}['optimizer']")
        group = {key: value for key, value in group.items() if key != "optimizer"}
    options = options_of(group)
    if unknown := [name for name in options if name not in rule.defaults]:
        raise ValueError(f"{place}: expected options among {list(rule.defaults)}, got unknown {unknown}")
    if callable(options.get("lr")) or is_array(options.get("lr")):
        raise ValueError(f"{place}['lr']: expected a number, got {group['lr']!r}")
    present = optimizer.param_groups[index]
    own_format, saved_format = present["state_format"], options.get("state_format", "native")
    if not convert:
        _expect(saved_format, own_format, f"{place}: state_format", CONVERTS)
    options |= {"state_format": own_format, "int8_min_size": present["int8_min_size"]}
    kept: dict[str, Any] = {name: present[name] for name in ("lr", "grad_scale") if name in present}  # may be not saved
    given = {name: None if _is_none(rule, name, value) else value for name, value in options.items()}
    try:
        return rule.check_options({**kept, **given}, f"{place}: "), extras_of(group, f"{place}: ")
    except TypeError as error:
        raise ValueError(str(error)) from None


def _is_none(rule: type[Rule], name: str, value: Any) -> bool:
    return isinstance(value, str) and value == NONE and may_be_none(rule.annotations[name])


def _check_schedules(lr: Any, states: Any, place: str) -> list[tuple[Any, Any]]:
    """Return each schedule of a learning rate with its state; none if the learning rate has no state."""
    own = list(stateful_parts(lr))
    if isinstance(states, (list, tuple)) and not (own and states):
        return []
    return list(zip(own, _list(states, len(own), place), strict=True))


def check_array(
    param: ParamState, needed: Sequence[str], step_count: int, entry: Mapping[str, Any], convert: bool
) -> tuple[int, dict[str, Array]]:
    """Return the steps that a parameter has taken and its state, or raise an error if the entry does not fit."""
    place = f"state of params{param.place}"
    p = param.metadata
    dtype = entry_of(entry, "dtype", place)
    if not (convert and isinstance(dtype, str)):
        _expect(dtype, p.dtype.name, f"{place}: dtype", CONVERTS)
    shape = entry_of(entry, "shape", place)
    _expect(tuple(shape) if isinstance(shape, (list, tuple)) else shape, p.shape, f"{place}: shape")
    steps = count_of(entry_of(entry, "steps", place), f"{place}: steps")
    if steps > step_count:
        raise ValueError(f"{place}: expected at most {step_count} steps, got {steps}")
    state = entry_of(entry, "state", place)
    if isinstance(state, Mapping):
        state = _with_own_bits(param, needed, state, has_same_dtype=dtype == p.dtype.name)
        state = state_formats.in_own_formats(param, state, entry, place, convert)
    if not isinstance(state, Mapping) or not set(needed) <= set(state) <= {*param.schema, *SHARED_STATE}:
        raise ValueError(f"{place}: expected the arrays {list(needed)}, got {describe(state)}")
    loaded = {
        name: check_saved_array(array, param.schema_of(name), p, f"{place}: expected {name!r}", convert)
        for name, array in state.items()
    }
    counts = loaded.get(ROW_STEPS, np.zeros(0))
    if counts.size and not (counts.min() >= 0 and counts.max() <= steps):
        raise ValueError(f"{place}: expected {ROW_STEPS!r} from 0 to {steps}, got {counts.min()} to {counts.max()}")
    return steps, loaded


def _with_own_bits(
    param: ParamState, needed: Sequence[str], state: Mapping[str, Any], has_same_dtype: bool
) -> dict[str, Any]:
    """Return the state with extra bits only where they are needed: zeros in place of those of another dtype."""
    own = {name: array for name, array in state.items() if name not in EXTRA_BITS}
    for name in set(needed) & set(EXTRA_BITS):
        if not has_same_dtype:
            own[name] = np.zeros(param.metadata.shape, param.schema_of(name).dtype_for(param.metadata.dtype))
        elif name in state:
            own[name] = state[name]
    return own


def check_saved_array(array: Any, schema: StateArray, p: Array, expected: str, convert: bool) -> Array:
    """Return an array of the dtype and shape that the schema demands for the parameter p, converted if asked to."""
    dtype, shape = schema.dtype_for(p.dtype), schema.shape_for(p.shape)
    if not isinstance(array, np.ndarray):
        raise ValueError(f"{expected} as {dtype} of shape {shape}, got {describe(array)}")
    if (array.dtype, array.shape) == (dtype, shape):
        return array
    may_convert = array.shape == shape and canonical_dtype(array.dtype) is not None and dtype.kind != "i"
    if not (convert and may_convert):
        raise ValueError(
            f"{expected} as {dtype} of shape {shape}, got {array.dtype} of shape {array.shape}"
            + CONVERTS * (may_convert and not convert)
        )
    with np.errstate(all="ignore"):
        converted = schema.storage.encode(array, dtype)
    if not np.array_equal(np.isfinite(converted), np.isfinite(array)):
        raise ValueError(f"{expected} in the range of {dtype}, got elements of {array.dtype} that overflow")
    return converted


def entry_of(mapping: Any, key: str, place: str) -> Any:
    """Return an entry of a dict, or raise ValueError."""
    if not isinstance(mapping, Mapping) or key not in mapping:
        raise ValueError(f"{place}: expected a dict with {key!r}, got {describe(mapping)}")
    return mapping[key]


def _list(value: Any, length: int, place: str) -> list[Any]:
    if not isinstance(value, (list, tuple)) or len(value) != length:
        raise ValueError(f"{place}: expected a list of {length}, got {describe(value)}")
    return list(value)


def _expect(got: Any, expected: Any, place: str, remedy: str = "") -> None:
    if got != expected:
        raise ValueError(f"{place}: expected {expected!r}, got {got!r}{remedy}")


def count_of(value: Any, place: str) -> int:
    """Return a count, or raise ValueError."""
    if isinstance(value, bool) or not isinstance(value, (int, np.integer)) or not 0 <= value < 2**63:
        raise ValueError(f"{place}: expected a count >= 0 of at most 63 bits, got {value!r}")
    return int(value)
