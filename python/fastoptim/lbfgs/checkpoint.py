"""The state dict of L-BFGS, and the checks before one is loaded."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from typing import Any, Protocol

import numpy as np

from .. import core
from ..arrays.param_state import ParamState
from ..arrays.tree import describe
from ..options.checks import Count, as_float, check_option
from ..reference_math import Array, compute_dtype
from .history import History
from .vectors import Vector, VectorSpace

VERSION = 1
NAME = "lbfgs"
COUNTS = ("step_count", "iterations", "evaluations")


class Parts(Protocol):
    """The attributes of `LBFGS` that a state dict has."""

    options: Mapping[str, Any]
    defaults: Mapping[str, Any]
    _space: VectorSpace
    _direction: Vector
    _gradients: list[Vector]
    _last: tuple[Vector, float] | None
    _history: History

    @property
    def param_states(self) -> list[ParamState]:
        """The parameters with their paths."""


def state_dict_of(optimizer: Parts) -> dict[str, Any]:
    """Return the state dict; see `LBFGS.state_dict`."""
    space, last = optimizer._space, optimizer._last
    options = {name: getattr(optimizer, name) for name in optimizer.options}
    return {
        "version": VERSION,
        "optimizer": NAME,
        **{name: getattr(optimizer, name) for name in COUNTS},
        "options": {name: "none" if value is None else value for name, value in options.items()},
        "arrays": _arrays_of(optimizer),
        "direction": space.to_numpy(optimizer._direction),
        "last": [] if last is None else [space.to_numpy(last[0]), last[1]],
        "history": optimizer._history.state_dict(),
    }


def load(optimizer: Parts, state_dict: Any, convert: bool) -> None:
    """Load a state dict; see `LBFGS.load_state_dict`."""
    convert = check_option(bool, convert, "convert")
    if not isinstance(state_dict, Mapping):
        raise TypeError(f"state_dict: expected a dict, got {describe(state_dict)}")
    entries = {"version", "optimizer", *COUNTS, "options", "arrays", "direction", "last", "history"}
    if state_dict.keys() != entries:
        raise ValueError(f"state_dict: expected a dict with {sorted(entries)}, got {describe(state_dict)}")
    arrays = _arrays_of(optimizer)
    for name, expected in {"version": VERSION, "optimizer": NAME, "arrays": arrays}.items():
        got, remedy = state_dict[name], ""
        if name == "arrays" and _without_dtypes(got) == _without_dtypes(arrays):
            if convert:
                continue
            remedy = "; load_state_dict with convert=True converts it"
        if not _equal(got, expected):
            raise ValueError(f"state_dict[{name!r}]: expected {expected!r}, got {got!r}{remedy}")
    counts = {
        name: _as_value_error(lambda name=name: check_option(Count, state_dict[name], f"state_dict[{name!r}]"))
        for name in COUNTS
    }
    options = _options(optimizer, state_dict["options"])
    direction = _vector(optimizer, state_dict["direction"], "state_dict['direction']", convert)
    last = _last(optimizer, state_dict["last"], convert)
    saved = _history(optimizer, state_dict["history"], options["history_size"], convert)
    history = History(optimizer._space, options["history_size"])
    history.restore(saved)

    def assign() -> None:
        optimizer._space.forget()
        optimizer._history = history
        optimizer._space.assign(optimizer._direction, direction)
        optimizer._last = None
        if last is not None:
            optimizer._space.assign(optimizer._gradients[0], last[0])
            optimizer._last = optimizer._gradients[0], last[1]
        vars(optimizer).update(options, **counts, reason="")

    core.complete(assign)


def _arrays_of(optimizer: Parts) -> list[list[Any]]:
    return [[param.place, list(param.metadata.shape), param.metadata.dtype.name] for param in optimizer.param_states]


def _without_dtypes(arrays: Any) -> Any:
    """Return the paths and shapes, or nothing if these are none."""
    if isinstance(arrays, (list, tuple)) and all(isinstance(each, (list, tuple)) for each in arrays):
        return [list(each[:2]) for each in arrays]
    return None


def _equal(got: Any, expected: Any) -> bool:
    return type(got) is type(expected) and bool(got == expected)


def _as_value_error(check: Any) -> Any:
    try:
        return check()
    except TypeError as error:
        raise ValueError(str(error)) from None


def _options(optimizer: Parts, saved: Any) -> dict[str, Any]:
    """Return the saved options; one that is not there, because it is newer, has its default."""
    if not isinstance(saved, Mapping) or not saved.keys() <= optimizer.options.keys():
        raise ValueError(f"state_dict['options']: expected some of {list(optimizer.options)}, got {describe(saved)}")
    given = {name: None if isinstance(value, str) and value == "none" else value for name, value in saved.items()}
    checked = {}
    for name, value in {**optimizer.defaults, **given}.items():
        place, annotation = f"state_dict['options'][{name!r}]", optimizer.options[name]
        checked[name] = _as_value_error(partial(check_option, annotation, value, place))
    return checked


def _last(optimizer: Parts, saved: Any, convert: bool) -> tuple[list[Array], float] | None:
    place = "state_dict['last']"
    if not isinstance(saved, (list, tuple)) or len(saved) not in (0, 2):
        raise ValueError(f"{place}: expected a gradient and a step length, got {describe(saved)}")
    if not saved:
        return None
    return _vector(optimizer, saved[0], f"{place}[0]", convert), _as_value_error(lambda: as_float(saved[1], place))


def _history(optimizer: Parts, saved: Any, size: int, convert: bool) -> dict[str, Any]:
    place = "state_dict['history']"
    if not isinstance(saved, Mapping) or saved.keys() != {"s", "y", "sy", "yy", "products", "scale"}:
        raise ValueError(f"{place}: expected a dict with s, y, sy, yy, products and scale, got {describe(saved)}")
    count = len(saved["s"]) if isinstance(saved["s"], (list, tuple)) else -1
    if not 0 <= count <= size or not isinstance(saved["y"], (list, tuple)) or len(saved["y"]) != count:
        raise ValueError(f"{place}: expected lists of equal length, at most {size}, got {describe(saved['s'])}")
    checked: dict[str, Any] = {
        name: [_vector(optimizer, vector, f"{place}[{name!r}][{i}]", convert) for i, vector in enumerate(saved[name])]
        for name in ("s", "y")
    }
    for name, shape in {"sy": (count, count), "yy": (count, count), "products": (count, 2)}.items():
        table = saved[name]
        if not (isinstance(table, np.ndarray) and table.dtype == np.float64 and table.shape == shape):
            raise ValueError(f"{place}[{name!r}]: expected float64 of shape {shape}, got {describe(table)}")
        checked[name] = table
    return {**checked, "scale": _as_value_error(lambda: as_float(saved["scale"], f"{place}['scale']"))}


def _vector(optimizer: Parts, saved: Any, place: str, convert: bool) -> list[Array]:
    """Return the parts of a vector, checked and converted."""
    params = optimizer.param_states
    if not isinstance(saved, (list, tuple)) or len(saved) != len(params):
        raise ValueError(f"{place}: expected {len(params)} arrays, got {describe(saved)}")
    return [
        _part(array, param.metadata.shape, compute_dtype(param.metadata.dtype), f"{place}[{i}]", convert)
        for i, (array, param) in enumerate(zip(saved, params, strict=True))
    ]


def _part(array: Any, shape: tuple[int, ...], dtype: np.dtype[Any], place: str, convert: bool) -> Array:
    fits = isinstance(array, np.ndarray) and array.shape == shape and array.dtype.kind == "f"
    if not fits or (array.dtype != dtype and not convert):
        remedy = "; load_state_dict with convert=True converts it" if fits else ""
        got = f"{array.dtype} of shape {array.shape}" if isinstance(array, np.ndarray) else describe(array)
        raise ValueError(f"{place}: expected {dtype} of shape {shape}, got {got}{remedy}")
    with np.errstate(all="ignore"):
        converted: Array = array.astype(dtype)
    if not np.array_equal(np.isfinite(converted), np.isfinite(array)):
        raise ValueError(f"{place}: expected numbers in the range of {dtype}, got elements that overflow")
    return converted
