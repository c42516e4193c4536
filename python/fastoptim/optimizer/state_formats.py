"""The formats of saved state: conversion between float32, bfloat16 and blocks of 8 bits.

Blocks follow the order of the parameter's memory.  An entry of a state dict names the order of its axes if it is not
C order.  Conversion rounds to nearest; steps round at random.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from .. import block_codes
from ..arrays.checks import canonical_dtype, check_saved_shape
from ..arrays.param_state import ParamState, memory_order
from ..block_codes import CODES
from ..options.schema import SCALES, Codes, StateArray
from ..reference_math import Array, bfloat16, compute_dtype, rounded_to

CONVERTS = "; load_state_dict with convert=True converts it"


def order_entry(param: ParamState) -> dict[str, Any]:
    """Return the axes of a parameter in the order of its memory, if its state has blocks and it is not in C order."""
    return order_of(param.metadata) if any(name.endswith(SCALES) for name in param.state) else {}


def order_of(array: Array) -> dict[str, Any]:
    """Return the axes of an array in the order of its memory, if it is not in C order."""
    order = memory_order(array)
    return {"order": order} if _is_other(order, range(len(order)), array.shape) else {}


def in_own_formats(
    param: ParamState, state: Mapping[str, Any], entry: Mapping[str, Any], place: str, convert: bool
) -> dict[str, Any]:
    """Return saved state in the formats of this parameter's; raise ValueError if they differ, unless `convert`."""
    p, converted = param.metadata, dict(state)
    order, saved_order = memory_order(p), _saved_order(entry, param.metadata.ndim, place)
    for name, schema in param.schema.items():
        if name not in state or schema.compress is None:
            continue
        own, saved = format_of(schema), saved_format(name, state)
        same_blocks = own != "int8" or not _is_other(saved_order, order, p.shape)
        if own == saved and same_blocks:
            continue
        if not convert:
            what = f"state_format {own!r}, got {saved!r}"
            if own == saved:
                what = f"blocks along the axes {order}, the parameter's memory order, got {saved_order}"
            raise ValueError(f"{place}: expected {name!r} in {what}{CONVERTS}")
        values = _decoded(name, state, p, saved_order, f"{place}: expected {name!r}")
        converted.pop(name + SCALES, None)
        converted |= _encoded(name, schema, values, p, order, f"{place}: expected {name!r}")
    return converted


def _is_other(order: Any, other: Any, shape: tuple[int, ...]) -> bool:
    """Return whether two orders of axes differ, except for axes of length one."""
    return [axis for axis in order if shape[axis] != 1] != [axis for axis in other if shape[axis] != 1]


def _saved_order(entry: Mapping[str, Any], ndim: int, place: str) -> list[int]:
    order = entry.get("order", [*range(ndim)])
    if not isinstance(order, (list, tuple)) or sorted(map(str, order)) != sorted(map(str, range(ndim))):
        raise ValueError(f"{place}: expected an order of {ndim} axes, got {order!r}")
    return [int(axis) for axis in order]


def format_of(schema: StateArray) -> str:
    """Return the `state_format` of an array."""
    if not isinstance(schema, Codes):
        return "native"
    return "bfloat16" if schema.code is None else "int8"


def saved_format(name: str, state: Mapping[str, Any]) -> str:
    """Return the `state_format` of an array, from the arrays of its parameter as NumPy has them."""
    if name + SCALES in state:
        return "int8"
    array, dtype = state[name], bfloat16()  # None without its package, which NumPy would compare as float64
    return "bfloat16" if dtype and isinstance(array, np.ndarray) and array.dtype == dtype else "native"


def _decoded(name: str, state: Mapping[str, Any], p: Array, order: list[int], expected: str) -> Any:
    """Return saved state as values; an array that is not in blocks as it is."""
    codes, scales = state[name], state.get(name + SCALES)
    if scales is None:
        return codes
    code = next((own for own in CODES.values() if own.dtype == getattr(codes, "dtype", None)), block_codes.SIGNED)
    check_saved_shape(codes, code.dtype, p.shape, expected)
    blocks = (block_codes.blocks_of(p.size),)
    check_saved_shape(scales, np.dtype(np.float32), blocks, f"{expected}, its scales")
    flat = block_codes.decode(codes.transpose(order).reshape(-1), scales, code)
    return _unflattened(flat, p.shape, order)


def _encoded(name: str, schema: StateArray, values: Any, p: Array, order: list[int], expected: str) -> dict[str, Any]:
    """Return values in the schema's format; those of a wrong shape or dtype as they are, since a check follows."""
    is_array = isinstance(values, np.ndarray) and values.shape == p.shape and canonical_dtype(values.dtype) is not None
    if not isinstance(schema, Codes) or not is_array:
        return {name: values.astype(compute_dtype(p.dtype)) if is_array else values}
    with np.errstate(all="ignore"):
        single = values.astype(np.float32)
    if not np.array_equal(np.isfinite(single), np.isfinite(values)):
        raise ValueError(f"{expected} in the range of float32, got elements of {values.dtype} that overflow")
    if schema.code is block_codes.NON_NEGATIVE and (single < 0).any():
        raise ValueError(f"{expected} without negative numbers, got {single.min()}")
    if schema.code is None:
        return {name: rounded_to(single, schema.dtype_for(p.dtype))}
    codes, scales = block_codes.encode(single.transpose(order).reshape(-1), schema.code)
    return {name: _unflattened(codes, p.shape, order), name + SCALES: scales}


def _unflattened(flat: Array, shape: tuple[int, ...], order: list[int]) -> Array:
    in_order = flat.reshape([shape[axis] for axis in order])
    return np.asarray(in_order.transpose(np.argsort(order).astype(int)))
