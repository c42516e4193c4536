"""The formats of state in the optimizers of PyTorch: of state dicts, in a new memory order, and decoded."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch

from ...arrays.families import family_in, family_of
from ...arrays.param_state import ParamState
from ...optimizer import state_formats
from ...optimizer.base import Optimizer as CoreOptimizer
from ...optimizer.checkpoint import check_saved_array
from ...options.schema import SCALES, Codes
from ...options.settings import Settings
from .tensors import inner, names_of, shown_arrays, state_arrays, tensors_in


def check_formats(param: ParamState) -> None:
    """Raise ValueError if options were assigned that select another format than that of the state."""
    stored = {name: family_in(array).metadata(array, param.state_place(name)) for name, array in param.state.items()}
    for name in _in_formats(param, stored):
        own, got = state_formats.format_of(param.schema_of(name)), state_formats.saved_format(name, stored)
        if own != got:
            raise ValueError(
                f"{param.p_place}: state_format: expected {got!r}, the format of its {name!r}, got {own!r}; make "
                "another optimizer and load the state dict of this one with convert=True"
            )


def _in_formats(param: ParamState, arrays: Mapping[str, Any]) -> list[str]:
    """Return the names of the state arrays of which the schema or the arrays have a format of their own."""
    return [
        name
        for name, schema in param.schema.items()
        if name + SCALES in arrays or (name in arrays and isinstance(schema, Codes))
    ]


def in_blocks_of(param: ParamState, name: str) -> dict[str, Any]:
    """Return new codes and scales of a state array, in the order of the parameter's memory, which has changed."""
    codes = family_in(param.state[name]).metadata(param.state[name], param.state_place(name))
    return {
        key: _filled(param, key, value)
        for key, value in _converted(param, name, param.state, state_formats.order_of(codes), "state", True).items()
    }


def _converted(
    param: ParamState, name: str, arrays: Mapping[str, Any], entry: Mapping[str, Any], place: str, convert: bool
) -> dict[str, Any]:
    """Return a state array as NumPy arrays in the format of the parameter's schema; see `in_own_formats`."""
    keys = [key for key in (name, name + SCALES) if key in arrays]
    state = {key: family_in(arrays[key]).to_numpy(arrays[key]) for key in keys}
    return state_formats.in_own_formats(param, state, entry, place, convert)


def _filled(param: ParamState, name: str, values: Any) -> Any:
    """Return a new tensor of the parameter's state with these values."""
    target = param.allocate(name)
    if isinstance(target, np.ndarray):
        target = torch.from_numpy(target)
    family_in(target).assign(target, values.detach() if isinstance(values, torch.Tensor) else values)
    return target


def adopted(
    core: type[CoreOptimizer], saved: Mapping[str, Any], tensor: Any, settings: Settings, place: str, convert: bool
) -> dict[str, Any]:
    """Return new state arrays of a parameter with the elements of saved ones, as PyTorch keeps them."""
    array, names = inner(tensor), names_of(core)
    if family_of(array) is None:
        return {own: saved[own] for own in names.values() if isinstance(saved.get(own), torch.Tensor)}
    param = ParamState(array, {}, schema=settings.stored_schema(array.numel()))
    arrays: dict[str, Any] = dict(state_arrays(saved, names))
    for name in _in_formats(param, arrays):
        value = saved[names[name]]
        converted = _converted(param, name, arrays, value if isinstance(value, dict) else {}, place, convert)
        arrays.pop(name + SCALES, None)
        for key in (key for key in (name, name + SCALES) if key in param.schema):
            expected = f"{place}: expected {key!r}"
            arrays[key] = check_saved_array(converted.get(key), param.schema[key], param.metadata, expected, convert)
    for name, value in arrays.items():
        shape = param.schema[name].shape_for(param.metadata.shape)
        if tuple(value.shape) != shape:
            raise ValueError(f"state_dict: expected {names[name]} of shape {shape}, got {tuple(value.shape)}")
        param.state[name] = _filled(param, name, value)
    return shown_arrays(param.state, names, tensor)


def with_orders(state: Mapping[str, Any]) -> dict[str, Any]:
    """Return a parameter's state for a state dict, where blocks have the order of axes if it is not C order."""
    return {
        name: {**value, **state_formats.order_of(family_in(codes).metadata(codes, name))}
        if type(value) is dict and isinstance(codes := value.get("codes"), torch.Tensor)
        else value
        for name, value in state.items()
    }


def state_values(
    core: type[CoreOptimizer], groups: Sequence[Mapping[str, Any]], settings: Sequence[Settings], state: Any
) -> dict[Any, dict[str, Any]]:
    """Return copies of the state, decoded; see `Optimizer.state_values`."""
    names, values = names_of(core), {}
    for group, own in zip(groups, settings, strict=True):
        for tensor in group["params"]:
            if not (present := state.get(tensor)):
                continue
            array = inner(tensor)
            param = ParamState(array, {}, schema=own.stored_schema(array.numel()))
            param.state.update(state_arrays(present, names))
            check_formats(param)
            decoded = {name: param.values_of(name) for name in param.state if not name.endswith(SCALES)}
            others = {name: value for name, value in present.items() if name not in names.values()}
            values[tensor] = {**_copied(others), **shown_arrays(decoded, names, tensor)}
    return values


def _copied(values: Mapping[str, Any]) -> dict[str, Any]:
    return {
        name: value.detach().clone() if isinstance(value, torch.Tensor) else value for name, value in values.items()
    }


def state_nbytes(core: type[CoreOptimizer], state: Mapping[Any, Mapping[str, Any]]) -> int:
    """Return the bytes of all state arrays."""
    names = names_of(core).values()
    arrays = [array for own in state.values() for array in tensors_in({k: v for k, v in own.items() if k in names})]
    return sum(inner(array).nbytes for array in arrays if isinstance(array, torch.Tensor))
