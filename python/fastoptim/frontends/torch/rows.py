"""Copies of parameters in 16 bits, and parameters that get other rows, for the optimizers of PyTorch."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import torch

from ...arrays.checks import check_copy
from ...arrays.families import family_in, in_numpy
from ...arrays.param_state import ParamState, check_has_rows, check_targets
from ...core import complete
from ...optimizer.remapping import check_change, remapped
from ...options.settings import Settings
from .formats import check_formats
from .stepper import check_groups, place_of, stepper_class
from .tensors import Target, names_of, shown_arrays, state_arrays


def _places(groups: Sequence[Mapping[str, Any]]) -> Iterator[tuple[Any, int, int]]:
    """Yield each parameter with the numbers of its group and of its place there."""
    return ((tensor, i, j) for i, group in enumerate(groups) for j, tensor in enumerate(group["params"]))


def checked_copies(groups: Sequence[Mapping[str, Any]], copies: Any) -> dict[Any, Any]:
    """Return the copies by parameter; raise an error if they do not fit."""
    params = list(_places(groups))
    if not isinstance(copies, (list, tuple)) or len(copies) != len(params):
        got = f"{len(copies)}" if isinstance(copies, (list, tuple)) else type(copies).__name__
        raise TypeError(f"copies: expected a list of {len(params)} tensors or None, one for each parameter, got {got}")
    checked = {}
    for at, ((tensor, i, j), copy) in enumerate(zip(params, copies, strict=True)):
        if copy is not None:
            p = _plain(tensor, f"param_groups{place_of(i, j)}", "copies are written")
            check_copy(copy, f"copies[{at}]", family_in(p).metadata(p, "p"), family_in(p))
            checked[tensor] = copy
    return checked


def _plain(tensor: Any, place: str, reason: str) -> Any:
    """Return a parameter that is stepped itself; raise ValueError for another."""
    if not (target := Target.of(tensor, place)).is_plain:
        raise ValueError(f"{place}: expected a dense real tensor of which this process has every element, as {reason}")
    return target.tensor


def remap(optimizer: Any, params: Mapping[Any, Any], source: Mapping[Any, Any]) -> None:
    """Replace parameters and move the rows of their state; see `Optimizer.remap`."""
    settings = check_groups(optimizer.core, optimizer.param_groups)
    places = {tensor: (i, j) for tensor, i, j in _places(optimizer.param_groups)}
    for name, given in (("params", params), ("source", source)):
        if not isinstance(given, Mapping) or not given.keys() <= places.keys():
            raise TypeError(f"{name}: expected a dict whose keys are parameters of the optimizer")
    changes = []
    for old in dict.fromkeys([*params, *source]):
        i, j = places[old]
        before, after = _remapped(optimizer, old, params.get(old), source.get(old), settings[i], (i, j))
        changes.append((old, params[old], (i, j), before, after))
    check_targets([after for *_, after in changes])
    names = names_of(optimizer.core)
    states = {}
    for old, new, _, before, after in changes:
        own, replaced = optimizer.state.get(old) or {}, shown_arrays(before.state, names, old)
        moved = shown_arrays(after.state, names, new)
        states[new] = {**{name: value for name, value in own.items() if name not in replaced}, **moved}

    def assign() -> None:
        optimizer._stepper = None
        for old, new, (i, j), *_ in changes:
            optimizer.param_groups[i]["params"][j] = new
            optimizer.state.pop(old, None)
            if states[new]:
                optimizer.state[new] = states[new]

    complete(assign)


def _remapped(
    optimizer: Any, old: Any, new: Any, source: Any, settings: Settings, where: tuple[int, int]
) -> tuple[ParamState, ParamState]:
    """Return a parameter and its replacement."""
    inside = place_of(*where)
    place = "param_groups" + inside
    if old in optimizer._copies:
        raise ValueError(f"{place}: expected a parameter without a copy in `copies`, as remap changes its rows")
    cls = stepper_class(optimizer.core)
    p = _plain(old, place, "remap moves its rows")
    schema = settings.stored_schema(p.numel())
    arrays = {
        name: in_numpy(array) if schema[name].kind.on_host else array
        for name, array in state_arrays(optimizer.state.get(old) or {}, names_of(cls))
    }
    before = ParamState(p, arrays, where[0], inside, place, schema=schema)
    check_formats(before)
    change = check_change(before, new, source)
    if change is None:
        raise TypeError(f"{place}: expected a new tensor and the rows that it comes from, got None")
    if not (isinstance(new, torch.Tensor) and new.is_leaf and new.requires_grad):
        raise ValueError(f"{place}: expected a leaf that requires gradients in the place of a parameter")
    _plain(new, place, "remap moves its rows")
    after = remapped(before, change, settings.stored_schema(new.numel()), settings.options)
    if settings.options["row_steps"]:
        check_has_rows(after)
    return before, after
