"""Parameters that get other rows, with the state of the rows that stay."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import replace
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from .. import core
from ..arrays.checks import check_same_memory, check_target
from ..arrays.families import family_in, family_of
from ..arrays.param_state import ParamState, check_has_rows, check_targets, check_whole_blocks, refresh
from ..arrays.rows import Indices, check_index
from ..arrays.tree import Structure, describe, key_text
from ..block_codes import BLOCK
from ..options.schema import SCALES, StateArray
from ..options.settings import Settings
from ..reference_math import compute_dtype
from .accumulation import check_none_pending
from .groups import take_settings
from .state_formats import format_of, in_own_formats

if TYPE_CHECKING:
    from .protocols import OptimizerParts


class Change(NamedTuple):
    """A parameter's new array, and the old row that each of its rows comes from, or -1."""

    p: Any
    source: Indices


class ChangesRows:
    """The method of an optimizer that changes the rows of its parameters."""

    def remap(self: Any, params: Any, source: Any) -> None:
        """Replace parameters by arrays with other rows, and keep the state of the rows that stay.

        Row i of the new array takes the state of row ``source[i]`` of the old one: moments, average and, with
        `row_steps`, step count.  -1 is the state before the first step.  So rows are removed, repeated, moved and
        added.  The values of the new array are the caller's; a copy in 16 bits receives them, and must fit its number
        of rows.  The new array replaces the old one in `params`, and in the dicts and lists that the optimizer was made
        with.  A call that raises an error has changed nothing.

        Args:
            params: New arrays in the structure of `params`, where a dict may have some of the keys and None leaves an
                array as it is.  Dtype and shape must be those of before except for the number of rows.
            source: For each new array an index of int32 or int64 with an entry for each of its rows.

        Raises:
            IndexError: An index is below -1, or not below the old number of rows.
            TypeError: The structure does not fit, or an array is of another kind or dtype.
            ValueError: A shape does not fit, or the new array overlaps with another one.

        >>> import numpy as np, fastoptim as fo
        >>> params = {"points": np.array([[1.0], [2.0], [3.0]])}
        >>> opt = fo.Momentum(params, lr=1.0, momentum=0.5)
        >>> opt.step({"points": np.array([[0.5], [1.0], [2.0]])})
        >>> kept = np.array([2, 2, -1])  # remove rows 0 and 1, repeat row 2, add a row
        >>> opt.remap({"points": np.array([[1.0], [1.0], [9.0]])}, source={"points": kept})
        >>> opt.state["points"]["v"].ravel()
        array([-2., -2.,  0.])
        """
        _remap(self, params, source)


def _remap(optimizer: OptimizerParts, params: Any, source: Any) -> None:
    optimizer.check_not_swapped()
    check_none_pending(optimizer, "remap")
    settings = [optimizer._settings(index) for index in range(len(optimizer.param_groups))]
    changes = changes_of(optimizer, params, source)
    after = [
        param if change is None else _remapped_under(settings[param.group], param, change)
        for param, change in zip(optimizer.param_states, changes, strict=True)
    ]
    check_targets(after)
    for param in after:
        if settings[param.group].options["row_steps"]:
            check_has_rows(param)
    new_of = {id(old.p): new.p for old, new in zip(optimizer.param_states, after, strict=True) if new is not old}

    def assign() -> None:
        optimizer._views = optimizer._engine = optimizer._fast_path = optimizer._accumulator = None
        optimizer.param_states = after  # a new list, by which wrappers notice the change
        optimizer._given = _with_new(optimizer._given, new_of)
        is_grouped = optimizer.params is optimizer._trees
        for index, tree in enumerate(optimizer._trees):
            optimizer._trees[index] = optimizer.param_groups[index]["params"] = _with_new(tree, new_of)
            take_settings(optimizer, index, settings[index])
        vars(optimizer)["params"] = optimizer._trees if is_grouped else optimizer._trees[0]
        refresh(new for new, change in zip(after, changes, strict=True) if change is not None)

    core.complete(assign)


def changes_of(optimizer: OptimizerParts, params: Any, source: Any) -> list[Change | None]:
    """Return the change of each parameter, None for one that stays; raise an error if one does not fit."""
    arrays = list(_leaves(optimizer._structure, params, "params"))
    indices = list(_leaves(optimizer._structure, source, "source"))
    return [check_change(*each) for each in zip(optimizer.param_states, arrays, indices, strict=True)]


def _leaves(structure: Structure, tree: Any, place: str) -> Iterator[Any]:
    """Yield the leaves of a nesting in which keys may be missing and None may replace a part: None for these."""
    if tree is None:
        yield from (None for _ in structure.paths())
    elif structure.kind is None:
        yield tree
    elif issubclass(structure.kind, dict):
        if not isinstance(tree, dict) or not tree.keys() <= set(structure.keys):
            raise TypeError(f"{place}: expected a dict with some of the keys {[*structure.keys]}, got {describe(tree)}")
        for key, child in zip(structure.keys, structure.children, strict=True):
            yield from _leaves(child, tree.get(key), f"{place}[{key_text(key)}]")
    else:
        if not isinstance(tree, (list, tuple)) or len(tree) != len(structure.keys):
            raise TypeError(
                f"{place}: expected a list or tuple of {len(structure.keys)} entries, each an array or None, "
                f"got {describe(tree)}"
            )
        for i, child in enumerate(structure.children):
            yield from _leaves(child, tree[i], f"{place}[{i}]")


def check_change(param: ParamState, p: Any, source: Any) -> Change | None:
    """Return the change of a parameter, None for one that stays; raise an error if it does not fit."""
    place, source_place = param.p_place, f"source{param.place}"
    if p is None and source is None:
        return None
    if p is None or source is None:
        missing, other = (place, source_place) if p is None else (source_place, place)
        raise TypeError(f"{missing}: expected an array, as {other} has one, got None")
    old, new = param.metadata, check_target(p, place)
    if family_of(p) is not param.family:
        raise TypeError(f"{place}: expected an array of {param.family.name} as before, got {describe(p)}")
    check_same_memory(new, place, old)
    if old.ndim == 0 or new.dtype != old.dtype or new.ndim != old.ndim or new.shape[1:] != old.shape[1:]:
        raise ValueError(
            f"{place}: expected {old.dtype} of shape {('n', *old.shape[1:]) if old.ndim else 'with rows'} as before, "
            f"got {new.dtype} of shape {new.shape}"
        )
    check_whole_blocks(param, "remap moves its rows", param.state)
    has_blocks = any(name.endswith(SCALES) for name in param.state)
    for array, where in ((old, "the old array"), (new, "the new array")):
        if has_blocks and not array.flags.c_contiguous:
            raise ValueError(f"{place}: expected C order, as its state has blocks, got {where} in another order")
    index = check_index(source, source_place, len(old), lowest=-1)
    if index.dtype == np.bool_ or len(index) != len(new):
        got = "a mask" if index.dtype == np.bool_ else index.shape
        raise ValueError(f"{source_place}: expected one index for each of the {len(new)} new rows, got {got}")
    return Change(p, index.astype(np.int64))


def _remapped_under(settings: Settings, param: ParamState, change: Change) -> ParamState:
    return remapped(param, change, settings.stored_schema(math.prod(change.p.shape)), settings.options)


def remapped(
    param: ParamState, change: Change, schema: Mapping[str, StateArray], options: Mapping[str, Any]
) -> ParamState:
    """Return the parameter with its new array and the state of its rows, in the formats of the schema."""
    new = replace(param, p=change.p, state={}, schema=schema)
    rows = np.flatnonzero(change.source >= 0)
    for name, array in param.state.items():
        if name.endswith(SCALES) and name not in schema:  # their codes are converted
            continue
        if format_of(param.schema_of(name)) != format_of(new.schema_of(name)):
            new.state.update(_converted(param, new, name, change, options))
            continue
        if param.schema_of(name).is_scalar:
            new.state[name] = array
            continue
        if not param.schema_of(name).kind.has_rows:
            raise ValueError(f"{param.p_place}: expected its rows as they are, as {name!r} has numbers of whole axes")
        new.state[name] = target = new.initial_state(name, options)
        if name.endswith(SCALES):
            shape = (-1, math.prod(param.metadata.shape[1:]) // BLOCK)
            target, array = target.reshape(shape), array.reshape(shape)
        family_in(array).copy_rows(target, rows, array, change.source[rows])
    return new


def _converted(
    param: ParamState, new: ParamState, name: str, change: Change, options: Mapping[str, Any]
) -> dict[str, Any]:
    """Return the rows of a state array in the format of the new parameter, as its size passes `int8_min_size`."""
    family, rows = new.family, np.flatnonzero(change.source >= 0)
    values = family.zeros(new.p, compute_dtype(new.metadata.dtype))
    initial = StateArray.initial_for(new.schema_of(name), options)  # not as a code
    family.assign(values, new.p if initial == "p" else initial)
    family.copy_rows(values, rows, param.values_of(name), change.source[rows])
    made = {}
    for key, own in in_own_formats(new, {name: family.to_numpy(values)}, {}, new.state_place(name), True).items():
        made[key] = new.allocate(key)
        family.assign(made[key], own)
    return made


def _with_new(tree: Any, new_of: dict[int, Any]) -> Any:
    """Return a nesting with new arrays in the place of old ones: the same containers, except tuples."""
    if isinstance(tree, dict):
        for key, value in tree.items():
            tree[key] = _with_new(value, new_of)
        return tree
    if isinstance(tree, list):
        tree[:] = [_with_new(value, new_of) for value in tree]
        return tree
    if isinstance(tree, tuple):
        values = [_with_new(value, new_of) for value in tree]
        return tree._make(values) if hasattr(tree, "_make") else tuple(values)
    return new_of.get(id(tree), tree)
