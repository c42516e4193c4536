"""Pickles and copies of optimizers.

They contain each array once: in the nested parameters, or in the state.  Everything else that refers to an array is
made from these, since joblib writes an array again for every reference.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from operator import is_
from typing import TYPE_CHECKING, Any

from ..arrays.families import family_in
from ..arrays.param_state import ParamState
from ..engines.base import GroupSnapshot
from . import accumulation
from .copies import with_copies
from .groups import check_group_count

if TYPE_CHECKING:
    from .protocols import OptimizerParts


def picklable(optimizer: OptimizerParts) -> dict[str, Any]:
    """Return the attributes to pickle or to copy."""
    optimizer.check_not_swapped()
    check_group_count(optimizer)
    attributes: dict[str, Any] = {
        **{name: value for name, value in vars(optimizer).items() if name != "params"},
        "param_groups": [{k: v for k, v in group.items() if k != "params"} for group in optimizer.param_groups],
        "param_states": [
            replace(param, p=None, copy=None, schema={}, used_by_graphs=[]) for param in optimizer.param_states
        ],
        "_is_grouped": optimizer.params is optimizer._trees,
        "_trees": _own_trees(optimizer),
        "_resolved": [GroupSnapshot((), *snapshot[1:]) for snapshot in optimizer._resolved],  # checked at the next step
        "_counts": [optimizer._step_count, dict(optimizer._missed)],  # of its own: options may change it in place
        "_given": None,
        "_views": None,
        "_engine": None,
        "_fast_path": None,
        "_accumulator": None,
        "_accumulated": accumulation.saved(optimizer),
    }
    return attributes


def restore(optimizer: OptimizerParts, attributes: Mapping[str, Any]) -> None:
    """Set the attributes of a new optimizer."""
    vars(optimizer).update(attributes)
    is_grouped, accumulated = (vars(optimizer).pop(name, None) for name in ("_is_grouped", "_accumulated"))
    trees = optimizer._trees
    optimizer.params = trees if is_grouped else trees[0]
    arrays = optimizer._structure.match(optimizer.params, "params")
    optimizer.param_groups = [
        {"params": tree, **group} for tree, group in zip(trees, optimizer.param_groups, strict=True)
    ]
    optimizer.param_states = [
        _with_array(optimizer, param, p) for param, p in zip(optimizer.param_states, arrays, strict=True)
    ]
    optimizer.param_states = with_copies(optimizer, optimizer.copies)
    optimizer._accumulator = accumulation.restored(optimizer, accumulated, optimizer._step_count)


def _with_array(optimizer: OptimizerParts, param: ParamState, p: Any) -> ParamState:
    """Return a parameter with its array and the declarations of its state."""
    whole = replace(param, p=p)
    settings = optimizer._resolved[param.group].settings
    return replace(whole, schema=settings.stored_schema(whole.metadata.size))


def shallow_copy(optimizer: OptimizerParts) -> Any:
    """Return an optimizer of the same parameters with options and state of its own."""
    attributes = picklable(optimizer)
    attributes["param_states"] = [
        replace(stored, state={name: family_in(array).copy(array) for name, array in param.state.items()})
        for stored, param in zip(attributes["param_states"], optimizer.param_states, strict=True)
    ]
    attributes["_trees"] = list(attributes["_trees"])
    twin = type(optimizer).__new__(type(optimizer))
    restore(twin, attributes)
    return twin


def _own_trees(optimizer: OptimizerParts) -> list[Any]:
    """Return each group's nested parameters; in new containers if the user has changed the old ones."""
    trees, structure = optimizer._trees, optimizer._structure
    is_grouped = optimizer.params is trees
    arrays = [param.p for param in optimizer.param_states]
    try:
        if all(map(is_, structure.match(trees if is_grouped else trees[0], "params"), arrays)):
            return trees
    except TypeError:
        pass
    own = structure.build(iter(arrays))
    return own if is_grouped else [own]
