"""Changes to an optimizer between steps: another parameter group, and state as before the first step."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from .. import core
from ..arrays.families import family_in
from ..arrays.param_state import ParamState, check_targets
from ..arrays.tree import describe
from .accumulation import check_none_pending, drop
from .containers import given_structure
from .groups import (
    check_group_count,
    check_norm_types,
    check_paths,
    group_paths,
    list_of,
    lower_lr_max,
    new_group,
    with_indices,
)

if TYPE_CHECKING:
    from .protocols import OptimizerParts, Rule


class ChangesGroups:
    """The methods of an optimizer that add a group and that reset its state."""

    def add_param_group(self: Any, param_group: Mapping[str, Any]) -> None:
        """Add a group ``{"params": ..., "lr": ...}``; options that it does not have are those of the constructor.

        The other groups, their state and their step counts stay as they are.  The new arrays count their own steps from
        the next one on, as arrays whose gradients begin late do; those of `Prodigy` take the numbers of the others.
        Gradients, `params` and `state` are from now on lists with one structure per group, also if the optimizer was
        made without groups.  A call that raises an error has changed nothing.

        Raises:
            TypeError: It is not a dict with "params", or it has an unknown option.
            ValueError: An option is out of range, or an array cannot be updated or is one of the optimizer's already.
            RuntimeError: The parameters hold other values, as within `averaged`, or accumulated gradients wait.

        >>> import numpy as np, fastoptim as fo
        >>> head, body = np.ones(2), np.ones(3)
        >>> opt = fo.SGD([{"params": head}], lr=0.5)
        >>> opt.add_param_group({"params": body, "lr": 0.25})
        >>> opt.step([np.ones(2), np.ones(3)])
        >>> body
        array([0.75, 0.75, 0.75])
        """
        if not (isinstance(param_group, Mapping) and "params" in param_group):
            raise TypeError(f"param_group: expected a dict with 'params', got {describe(param_group)}")
        rule, group = self.formula_of(param_group)
        add_param_group(self, group, rule)

    def formula_of(self: Any, param_group: Mapping[str, Any]) -> tuple[type[Rule], dict[str, Any]]:
        """Return the class of a new group's formula, and the group."""
        return type(self), dict(param_group)

    def zero_state(self: Any) -> None:
        """Set all state to its values before the first step, and the step count to 0, in place.

        Parameters and options stay, except an `lr_max` that steps have raised.  An average starts again from the
        parameters.  Learning rates that are functions of the step start again, too; schedules with a state of their
        own, such as `ReduceOnPlateau`, do not.

        >>> import numpy as np, fastoptim as fo
        >>> p = np.ones(2)
        >>> opt = fo.Adam(p)
        >>> opt.step(np.ones(2))
        >>> opt.zero_state()
        >>> opt.step_count, opt.state["m"]
        (0, array([0., 0.]))
        """
        zero_state(self)


def add_param_group(optimizer: OptimizerParts, group: dict[str, Any], rule: type[Rule]) -> None:
    """Add a group of this class; see `ChangesGroups.add_param_group`."""
    optimizer.check_not_swapped()
    check_none_pending(optimizer, "add_param_group")
    check_group_count(optimizer)
    index = len(optimizer._trees)
    settings = [optimizer._settings(i) for i in range(index)]
    new = new_group(optimizer, rule, index, group, optimizer._constructed_with, grouped=True)
    if not new.param_states:
        raise ValueError("param_group: expected at least one array, got none")
    was_grouped = optimizer.params is optimizer._trees
    before = optimizer.param_states if was_grouped else [_in_group(param) for param in optimizer.param_states]
    param_states = with_indices([*before, *new.param_states])
    check_targets(param_states)
    check_paths(new.param_states)
    check_norm_types([*settings, new.snapshot.settings], "params")
    structures = [*(optimizer._structure.children if was_grouped else [optimizer._structure]), new.structure]
    trees, resolved = [*optimizer._trees, new.tree], [*optimizer._resolved, new.snapshot]
    param_groups = [*optimizer.param_groups, new.group]
    given = optimizer._given
    if given is not None:
        given = [*(given if was_grouped else [{"params": given}]), group]
    late = {}
    if optimizer.reduces_all:
        _take_numbers(optimizer.param_states[0], new.param_states)
    elif optimizer._step_count:
        late = dict.fromkeys(range(len(before), len(param_states)), optimizer._step_count)
    copies = optimizer.copies
    if copies is not None:
        copies = [*(copies if was_grouped else [copies]), None]
    counts = (optimizer._step_count, optimizer._missed | late)

    def change() -> None:
        optimizer._views = optimizer._engine = optimizer._fast_path = optimizer._accumulator = None
        optimizer.param_states, optimizer._resolved, optimizer._trees = param_states, resolved, trees
        optimizer.param_groups[:] = param_groups  # in place, since schedulers may refer to the list
        optimizer._structure = list_of(structures)
        vars(optimizer).update(params=trees, copies=copies)
        optimizer._given, optimizer._given_structure = given, given_structure(structures, True)
        optimizer._counts[:] = counts

    core.complete(change)


def _in_group(param: ParamState) -> ParamState:
    """Return a parameter of an optimizer without groups with the paths of its first group."""
    path, inside = group_paths(0, grouped=True)
    return replace(param, place=path + param.place, p_place=inside + param.place)


def _take_numbers(source: ParamState, targets: list[ParamState]) -> None:
    """Assign the scalar state of one parameter, where it is the same for all, to new ones."""
    for param in targets:
        for name, array in param.state.items():
            if param.schema_of(name).is_scalar and name in source.state:
                param.family.assign(array, source.state[name])


def zero_state(optimizer: OptimizerParts) -> None:
    """Set all state to its values before the first step; see `ChangesGroups.zero_state`."""
    optimizer.check_not_swapped()
    optimizer.check_arrays()
    values = []
    for param in optimizer.param_states:
        options = optimizer._settings(param.group).options
        if param.state:
            param.family.check_takes_place(param.p)
        for name, array in param.state.items():
            initial = param.schema_of(name).initial_for(options)
            values.append((family_in(array), array, param.p if initial == "p" else initial))

    def assign() -> None:
        optimizer._fast_path = None
        drop(optimizer)
        for family, array, value in values:
            family.assign(array, value)
        lower_lr_max(optimizer)
        optimizer._counts[:] = 0, {}

    core.complete(assign)
