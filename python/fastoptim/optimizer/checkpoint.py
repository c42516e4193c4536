"""Checkpoints: the state dict of an optimizer, and the checks before one is loaded.

A state dict holds dicts, lists, numbers, strings and NumPy arrays.  Loading checks all of it before the first write.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from ..arrays.param_state import ParamState
from ..arrays.tree import describe
from ..options.checks import extras_of, is_array, may_be_none
from ..options.schema import AVERAGE
from ..options.settings import Settings
from ..reference_math import Array
from .groups import options_of, take_settings

if TYPE_CHECKING:
    from .protocols import OptimizerParts

STATE_DICT_VERSION = 1

# (steps an array has taken, its state)
Loaded = tuple[int, dict[str, Array]]


def state_dict_of(optimizer: OptimizerParts) -> dict[str, Any]:
    """Return the state dict; see `Optimizer.state_dict`."""
    optimizer.check_not_swapped()
    groups = [(optimizer._settings(index), group) for index, group in enumerate(optimizer.param_groups)]
    return {
        "version": STATE_DICT_VERSION,
        "optimizer": optimizer.name,
        "step_count": optimizer._step_count,
        "groups": [
            {
                k: list(v) if isinstance(v, tuple) else v
                for k, v in {**settings.options, **extras_of(group, "")}.items()
                if v is not None and not callable(v) and not is_array(v)
            }
            for settings, group in groups
        ],
        "arrays": [
            {
                "place": param.place,
                "dtype": param.metadata.dtype.name,
                "shape": list(param.metadata.shape),
                "steps": optimizer._step_count - optimizer._missed.get(i, 0),
                "state": {name: param.family.to_numpy(array) for name, array in param.state.items()},
            }
            for i, param in enumerate(optimizer.param_states)
        ],
    }


def load(optimizer: OptimizerParts, state_dict: Any) -> None:
    """Load a state dict; see `Optimizer.load_state_dict`."""
    optimizer.check_not_swapped()
    step_count, settings, arrays = check(optimizer, state_dict)
    for index, loaded in enumerate(settings):
        take_settings(optimizer, index, loaded, extras_of(state_dict["groups"][index], ""))
    for param, (_, state) in zip(optimizer.param_states, arrays, strict=True):
        if param.state.keys() != state.keys():
            optimizer._views = None
        for name in param.state.keys() - state.keys():
            del param.state[name]
        for name, array in state.items():
            if name not in param.state:
                param.state[name] = param.allocate(name)
            param.family.assign(param.state[name], array)
    optimizer._step_count = step_count
    optimizer._missed = {i: step_count - steps for i, (steps, _) in enumerate(arrays) if steps != step_count}
    optimizer._engine = optimizer._fast_path = None


def check(optimizer: OptimizerParts, state_dict: Any) -> tuple[int, list[Settings], list[Loaded]]:
    """Return the step count, each group's options and each array's state, or raise an error if one does not fit."""
    if not isinstance(state_dict, Mapping):
        raise TypeError(f"state_dict: expected a dict, got {describe(state_dict)}")
    _expect(_entry(state_dict, "version", "state_dict"), STATE_DICT_VERSION, "state_dict['version']")
    _expect(_entry(state_dict, "optimizer", "state_dict"), optimizer.name, "state_dict['optimizer']")
    step_count = _count(_entry(state_dict, "step_count", "state_dict"), "state_dict['step_count']")

    groups = _list(_entry(state_dict, "groups", "state_dict"), len(optimizer.param_groups), "state_dict['groups']")
    settings = [_check_group(optimizer, i, group, f"state_dict['groups'][{i}]") for i, group in enumerate(groups)]

    arrays = _list(_entry(state_dict, "arrays", "state_dict"), len(optimizer.param_states), "state_dict['arrays']")
    by_place = {}
    for i, entry in enumerate(arrays):
        by_place[repr(_entry(entry, "place", f"state_dict['arrays'][{i}]"))] = entry
    if len(by_place) != len(arrays):
        raise ValueError("state_dict['arrays']: expected a place of its own for every array, got one twice")
    checked = []
    for param in optimizer.param_states:
        if repr(param.place) not in by_place:
            raise ValueError(f"state_dict['arrays']: expected an entry for params{param.place}, got {sorted(by_place)}")
        needed = settings[param.group].state
        checked.append(_check_array(optimizer, param, needed, step_count, by_place[repr(param.place)]))
    return step_count, settings, checked


def _check_group(optimizer: OptimizerParts, index: int, group: Any, place: str) -> Settings:
    if not isinstance(group, Mapping):
        raise ValueError(f"{place}: expected a dict, got {describe(group)}")
    extras, group = group, options_of(group)
    current = options_of(optimizer.param_groups[index])
    kept = {k: current[k] for k in ("lr", "grad_scale") if k in current}  # not saved if a schedule or an array
    absent = kept | {k: None for k in current if may_be_none(optimizer.annotations.get(k))}
    missing = [k for k in current if k not in group and k not in absent]
    unknown = [k for k in group if k not in current]
    if callable(group.get("lr")) or is_array(group.get("lr")):
        raise ValueError(f"{place}['lr']: expected a number, got {group['lr']!r}")
    if missing or unknown:
        raise ValueError(f"{place}: expected {list(current)}, got {list(group)} (missing {missing}, unknown {unknown})")
    try:
        extras_of(extras, f"{place}: ")
        return optimizer.check_options({**absent, **group}, f"{place}: ")
    except TypeError as error:
        raise ValueError(str(error)) from None


def _check_array(
    optimizer: OptimizerParts, param: ParamState, needed: Sequence[str], step_count: int, entry: Mapping[str, Any]
) -> Loaded:
    place = f"state of params{param.place}"
    p = param.metadata
    _expect(_entry(entry, "dtype", place), p.dtype.name, f"{place}: dtype")
    shape = _entry(entry, "shape", place)
    _expect(tuple(shape) if isinstance(shape, (list, tuple)) else shape, p.shape, f"{place}: shape")
    steps = _count(_entry(entry, "steps", place), f"{place}: steps")
    if steps > step_count:
        raise ValueError(f"{place}: expected at most {step_count} steps, got {steps}")
    state = _entry(entry, "state", place)
    if not isinstance(state, Mapping) or not set(needed) <= set(state) <= {*type(optimizer).state, AVERAGE}:
        raise ValueError(f"{place}: expected the arrays {list(needed)}, got {describe(state)}")
    for name, array in state.items():
        schema = param.schema_of(name)
        kept = (schema.dtype_for(p.dtype), schema.shape_for(p.shape))
        if not isinstance(array, np.ndarray) or (array.dtype, array.shape) != kept:
            got = f"{array.dtype} of shape {array.shape}" if isinstance(array, np.ndarray) else describe(array)
            raise ValueError(f"{place}: expected {name!r} as {kept[0]} of shape {kept[1]}, got {got}")
    return steps, dict(state)


def _entry(mapping: Any, key: str, place: str) -> Any:
    if not isinstance(mapping, Mapping) or key not in mapping:
        raise ValueError(f"{place}: expected a dict with {key!r}, got {describe(mapping)}")
    return mapping[key]


def _list(value: Any, length: int, place: str) -> list[Any]:
    if not isinstance(value, (list, tuple)) or len(value) != length:
        raise ValueError(f"{place}: expected a list of {length}, got {describe(value)}")
    return list(value)


def _expect(got: Any, expected: Any, place: str) -> None:
    if got != expected:
        raise ValueError(f"{place}: expected {expected!r}, got {got!r}")


def _count(value: Any, place: str) -> int:
    if isinstance(value, bool) or not isinstance(value, (int, np.integer)) or not 0 <= value < 2**63:
        raise ValueError(f"{place}: expected a count >= 0 of at most 63 bits, got {value!r}")
    return int(value)
