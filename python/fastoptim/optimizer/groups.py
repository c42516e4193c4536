"""Parameter groups: their construction, their state, and options that change between steps."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any, NamedTuple

from .. import core
from ..arrays.checks import check_target
from ..arrays.param_state import ParamState, check_bounds, check_has_rows, check_takes_options
from ..arrays.tree import Structure, describe, structure_of
from ..engines.base import GroupSnapshot, GroupStep
from ..engines.select import check_backend
from ..extra_bits import EXTRA_BITS
from ..options.checks import EXTRA_KEYS, extras_of
from ..options.schema import AVERAGE, ROW_STEPS
from ..options.settings import Settings
from .containers import given_structure

if TYPE_CHECKING:
    from .protocols import OptimizerParts, Rule


def is_groups(params: Any) -> bool:
    """Return whether this is a list of groups ``{"params": ..., ...}``, as in torch.optim."""
    if not isinstance(params, (list, tuple)):
        return False
    groups = [isinstance(entry, dict) and "params" in entry for entry in params]
    if any(groups) and not all(groups):
        where = groups.index(False)
        raise TypeError(
            f"params[{where}]: expected a group {{'params': ...}} as its neighbors, got {describe(params[where])}"
        )
    return any(groups)


class NewGroup(NamedTuple):
    """A checked group with its new state, before an optimizer has it."""

    structure: Structure
    tree: Any
    param_states: list[ParamState]
    group: dict[str, Any]
    snapshot: GroupSnapshot


def add_groups(optimizer: OptimizerParts, params: Any, options: dict[str, Any]) -> Any:
    """Set up the groups of a new optimizer, and return its parameters in containers of its own."""
    grouped = is_groups(params)
    optimizer._views = None
    made = [
        new_group(optimizer, optimizer.rule_of(index), index, group, options, grouped)
        for index, group in enumerate(params if grouped else [{"params": params}])
    ]
    optimizer.param_states = [param for group in made for param in group.param_states]
    optimizer.param_groups = [new.group for new in made]
    optimizer._resolved, optimizer._trees = [new.snapshot for new in made], [new.tree for new in made]
    structures = [new.structure for new in made]
    optimizer._given, optimizer._given_structure = params, given_structure(structures, grouped)
    optimizer._structure = list_of(structures) if grouped else structures[0]
    if not optimizer.param_states:
        raise ValueError("params: expected at least one array, got none")
    optimizer.check_arrays()
    check_paths(optimizer.param_states)
    check_norm_types([snapshot.settings for snapshot in optimizer._resolved], "params")
    optimizer.param_states = with_indices(optimizer.param_states)
    return optimizer._trees if grouped else optimizer._trees[0]


def with_indices(param_states: Sequence[ParamState]) -> list[ParamState]:
    """Return parameters that have their indices."""
    return [replace(param, index=index) for index, param in enumerate(param_states)]


def list_of(structures: Sequence[Structure]) -> Structure:
    """Return the structure of a list with one entry for each group."""
    return Structure(list, tuple(range(len(structures))), tuple(structures))


def check_paths(param_states: Sequence[ParamState]) -> None:
    """Raise ValueError for two arrays of one path, as with the keys 1 and "1" of a type that prints alike."""
    places = [param.place for param in param_states]
    if len(set(places)) != len(places):
        twice = next(place for place, count in Counter(places).items() if count > 1)
        raise ValueError(f"params: expected unique paths, got two arrays at params{twice}")


def new_group(
    optimizer: OptimizerParts,
    rule: type[Rule],
    index: int,
    group: dict[str, Any],
    options: dict[str, Any],
    grouped: bool,
) -> NewGroup:
    """Check a group of `params`, and allocate its state; `options` are those of the constructor."""
    place = f"params[{index}]: " if grouped else ""
    settings = rule.check_options({**options, **options_of(group)}, place)
    if isinstance(lr := settings.options["lr"], float):
        settings = with_lr_max(settings, lr)
    extras = extras_of(group, place)
    structure = structure_of(group["params"])
    path, inside = group_paths(index, grouped)
    arrays = structure.match(group["params"], inside)
    param_states = []
    for p, own in zip(arrays, structure.paths(), strict=True):
        metadata = check_target(p, inside + own)
        check_backend(optimizer.backend, metadata, inside + own)
        schema = settings.stored_schema(metadata.size)
        param = ParamState(p, {}, index, path + own, inside + own, schema=schema)
        param.state.update(missing_state(param, settings))
        param_states.append(param)
    tree = structure.build(iter(arrays))
    own_group = {"params": tree, **settings.options, **extras}
    return NewGroup(structure, tree, param_states, own_group, GroupSnapshot.of(own_group, settings, index))


def group_paths(index: int, grouped: bool) -> tuple[str, str]:
    """Return the beginnings of the paths of a group's gradients, and of its parameters in the argument `params`."""
    return (f"[{index}]", f"params[{index}]['params']") if grouped else ("", "params")


def options_of(group: Mapping[str, Any]) -> dict[str, Any]:
    """Return the entries of a group except its parameters and those that are not options."""
    return {key: value for key, value in group.items() if key != "params" and key not in EXTRA_KEYS}


def missing_state(param: ParamState, settings: Settings) -> dict[str, Any]:
    """Return new arrays for the state that these settings use and the parameter does not have yet."""
    settings.optimizer.check_shape(param.metadata.shape, settings.options, param.p_place)
    if settings.options["row_steps"]:
        check_has_rows(param)
    check_takes_options(param, settings)
    missing = (
        []
        if param.is_remote
        else [name for name in settings.state_for(param.metadata, param.schema) if name not in param.state]
    )
    if missing:
        param.family.check_takes_place(param.p)
    try:
        return {name: param.initial_state(name, settings.options) for name in missing}
    except TypeError as error:
        raise TypeError(f"{param.p_place}: {error}") from None


def _change_state(optimizer: OptimizerParts, index: int, settings: Settings, restarts: bool) -> None:
    """Add what a group's new settings need and restart its averages: for every array, or after an error for none."""
    params = {i: param for i, param in enumerate(optimizer.param_states) if param.group == index}
    made = {i: missing_state(param, settings) for i, param in params.items()}
    started = {}  # those that count their steps from now on
    if optimizer._step_count and not settings.averages:
        for i, arrays in made.items():
            if any(params[i].schema_of(name).starts_count for name in arrays):
                started[i] = optimizer._step_count

    counts_rows = settings.options["row_steps"] and not optimizer._resolved[index].settings.options["row_steps"]

    def change() -> None:
        optimizer._views = optimizer._engine = None
        optimizer._missed.update(started)
        for i, param in params.items():
            if restarts and AVERAGE in param.state:  # of an earlier phase
                param.family.assign(param.state[AVERAGE], param.p)
            for name in EXTRA_BITS:
                if name != settings.extra_bits:  # of an earlier phase
                    param.state.pop(name, None)
            param.state.update(made[i])
            if counts_rows and not param.is_remote:  # each row has taken the steps of its parameter
                param.state[ROW_STEPS][...] = optimizer._step_count - optimizer._missed.get(i, 0)

    core.complete(change)


def settings_of(optimizer: OptimizerParts, index: int) -> Settings:
    """Return a group's settings, checked again if an option was assigned."""
    group = optimizer.param_groups[index]
    snapshot = optimizer._resolved[index]
    settings, place = snapshot.settings, snapshot.place + ": "
    if snapshot.is_of(group):
        return settings
    if group.get("params") is not optimizer._trees[index]:
        raise ValueError(f"{place}params: expected the parameters it was made with; make a new optimizer for others")
    rule = optimizer.rule_of(index)
    if missing := rule.defaults.keys() - group.keys():
        raise TypeError(f"{place}expected the options {list(rule.defaults)}, missing {sorted(missing)}")
    if "convention" in group:
        raise TypeError(f"{place}convention: expected it where the optimizer is made; assign the options instead")
    changed = rule.check_options(options_of(group), place)
    extras_of(group, place)
    _check_formats(rule, settings, changed, place)
    if rule.stage_state or changed.options["bounds"] is not None:
        for param in (param for param in optimizer.param_states if param.group == index):
            check_keeps_shapes(param, settings, changed, place)
            check_bounds(param, changed.options)
    if changed.averaging != settings.averaging:
        _check_average_starts(optimizer, changed, place)
    restarts = changed.average_kind not in (settings.average_kind, None)
    if restarts or changed.state != settings.state or changed.variant != settings.variant:
        _change_state(optimizer, index, changed, restarts)
    take_settings(optimizer, index, changed)
    return changed


def _check_formats(rule: type[Rule], before: Settings, after: Settings, place: str) -> None:
    """Raise ValueError if options were assigned that change the formats of state."""
    for name in ("state_format", "int8_min_size"):
        kept, got = before.options[name], after.options[name]
        if got != kept:
            raise ValueError(
                f"{place}{name}: expected {kept!r} as the optimizer was made, got {got!r}; make another one and load "
                "the state dict of this one with convert=True"
            )
    if before.options["state_format"] == "native":
        return
    for name, array in rule.state_schema.items():
        if array.compress_for(before.options) != array.compress_for(after.options):
            raise ValueError(
                f"{place}state_format: expected 'native', as options were assigned that change the format of {name!r}, "
                f"got {before.options['state_format']!r}"
            )


def check_keeps_shapes(param: ParamState, before: Settings, after: Settings, place: str) -> None:
    """Raise ValueError if options have other values that the shapes of the parameter's state depend on."""
    rule, shape = after.optimizer, param.metadata.shape
    rule.check_shape(shape, after.options, param.p_place)

    def shape_under(options: Mapping[str, Any], name: str) -> tuple[int, ...] | None:
        return rule.schema_for(options)[name].kind.of(shape)

    for name in rule.stage_state:
        kept = shape_under(before.options, name)
        if shape_under(after.options, name) == kept:
            continue
        own = {option: value for option, value in after.options.items() if option not in rule.shared}
        alone = [o for o, value in own.items() if shape_under({**before.options, o: value}, name) != kept]
        option = alone[0] if alone else next(o for o, value in own.items() if value != before.options[o])
        raise ValueError(
            f"{place}{option}: expected {before.options[option]!r} as the optimizer was made, as the shape of {name!r} "
            f"depends on it, got {after.options[option]!r}"
        )


def take_settings(
    optimizer: OptimizerParts, index: int, settings: Settings, extras: Mapping[str, Any] | None = None
) -> None:
    """Write checked options, and entries that are not options, into a group."""
    optimizer._fast_path = None  # first, since it has the options of before
    group = optimizer.param_groups[index]
    group.update(settings.options, **(extras or {}))
    optimizer._resolved[index] = GroupSnapshot.of(group, settings, index)


def with_lr_max(settings: Settings, lr: float) -> Settings:
    """Return the settings after a step at this learning rate, or of a group that is made with it."""
    raised = settings.raised_lr_max(lr)
    return settings if raised is None else replace(settings, options={**settings.options, "lr_max": raised}, memo={})


def raise_lr_max(optimizer: OptimizerParts, group_steps: Sequence[GroupStep]) -> None:
    """Assign to each group the largest learning rate so far, after a step; a no-op with `decay_schedule="lr"`."""
    pairs = zip(optimizer.param_groups, group_steps, strict=False)  # those of late arrays follow
    for index, (group, group_step) in enumerate(pairs):
        if (raised := group_step.settings.raised_lr_max(group_step.lr)) is not None:
            given, last = optimizer._raised_lr_max.get(index, (None, None))
            given = given if last == group["lr_max"] else group["lr_max"]
            optimizer._raised_lr_max = {**optimizer._raised_lr_max, index: (given, raised)}
            group["lr_max"] = raised


def lower_lr_max(optimizer: OptimizerParts) -> None:
    """Assign to each group the `lr_max` that its steps have raised, as it was before the first of them."""
    for index, (given, raised) in optimizer._raised_lr_max.items():
        if optimizer.param_groups[index]["lr_max"] == raised:  # else it was assigned
            optimizer.param_groups[index]["lr_max"] = given
    optimizer._raised_lr_max = {}


def _check_average_starts(optimizer: OptimizerParts, settings: Settings, place: str) -> None:
    """Raise ValueError if a mean would have to contain values of steps that were taken without it."""
    start, taken = settings.options["swa_start"], optimizer._step_count
    if start is not None and start <= taken:
        raise ValueError(
            f"{place}swa_start: expected a step after the {taken} taken, as swa_start or swa_every has changed, "
            f"got {start}"
        )


def check_norm_types(groups: Sequence[Settings], place: str) -> None:
    """Raise ValueError if a bound on the norm of all gradients would add norms of different types."""
    types = [settings.options["norm_type"] for settings in groups]
    if any(settings.options["clip_global_norm"] is not None for settings in groups) and len(set(types)) > 1:
        index = next(i for i, own in enumerate(types) if own != types[0])
        raise ValueError(
            f"{place}[{index}]: norm_type: expected {types[0]:g} as in {place}[0], as clip_global_norm bounds the norm "
            f"over all groups, got {types[index]:g}"
        )


def check_group_count(optimizer: OptimizerParts) -> None:
    """Raise ValueError if groups were added to or removed from `param_groups`."""
    expected, got = len(optimizer._trees), len(optimizer.param_groups)
    if got != expected:
        raise ValueError(f"param_groups: expected {expected} groups, got {got}")
