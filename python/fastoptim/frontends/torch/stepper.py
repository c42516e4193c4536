"""Core optimizers that step the parameters, options and state of a `torch.optim.Optimizer`.

PyTorch's `param_groups` and `state` are the truth.  A stepper is made from them and discarded when they show other
tensors than it has; options are read from the groups at every step, as by the core's own optimizers.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from functools import cache
from operator import is_
from typing import Any

import numpy as np
import torch

from ...arrays.checks import check_target, same_layout
from ...arrays.families import family_of
from ...arrays.param_state import ParamState
from ...arrays.tree import LEAF, Structure
from ...engines.base import GroupSnapshot, GroupStep, group_step_at
from ...extra_bits import EXTRA_BITS, is_narrow
from ...optimizer.base import Optimizer as CoreOptimizer
from ...optimizer.groups import missing_state, raise_lr_max
from ...options.checks import rate_at
from ...options.schema import ROW_STEPS, SCALES
from ...options.settings import Settings
from .formats import check_formats, in_blocks_of
from .tensors import Target, gradient_of, is_sharded, names_of, shown_arrays, state_arrays, step_dtype, tensors_in

_LIVE = ("lr", "grad_scale")  # options that the core reads from tensors at every step


@dataclass
class _Entry:
    """One parameter of a stepper while it is made."""

    target: Target
    param: ParamState
    state: dict[str, Any]
    """The parameter's state as PyTorch keeps it."""
    made: dict[str, Any]
    """New state arrays, by the core's names."""
    step: int


@dataclass
class _Borrowed:
    """Snapshot of the optimizer that a stepper was made for, to recognize changes."""

    groups: list[dict[str, Any]]
    lists: list[list[Any]]  # of parameters, one a group
    members: list[list[Any]]  # their entries
    state: Mapping[Any, Any]
    arrays: list[tuple[dict[str, Any], list[Any]]]  # a parameter's state now, and the tensors in it as they were
    targets: list[Target]
    idle: list[Any]  # parameters without gradient and state
    steps: Any = None  # the memory of the step counts
    seen_steps: bytes = b""
    tensors: list[Any] = field(default_factory=list)  # of `targets`
    is_plain: bool = True

    def has_changed(self, groups: list[dict[str, Any]], state: Mapping[Any, Any]) -> bool:
        """Return whether the optimizer has other parameters, state or step counts, or a parameter other memory."""
        return (
            self.groups is not groups
            or self.state is not state
            or self.steps.tobytes() != self.seen_steps
            or _differ([group.get("params") for group in groups], self.lists)
            or any(map(_differ, self.lists, self.members))
            or _differ([state.get(tensor) for tensor in self.tensors], [now for now, _ in self.arrays])
            or any(_differ(tensors_in(now), then) for now, then in self.arrays)
            or any(tensor.grad is not None for tensor in self.idle)
            or any(target.has_moved() for target in self.targets)
        )


def _differ(now: Collection[Any], then: Collection[Any]) -> bool:
    """Return whether these are not the same objects."""
    return len(now) != len(then) or not all(map(is_, now, then))


class Steps:
    """Additions of a stepper to an optimizer of the core."""

    _borrowed: _Borrowed
    _rates: list[float]
    _loss_scale = 1.0  # of a GradScaler, in this step

    @classmethod
    def check_options(cls, given: Mapping[str, Any], place: str = "") -> Settings:
        """Return the checked options, of those in a group that are the core's."""
        known = {
            name: value if name in _LIVE else _as_numbers(value)
            for name, value in given.items()
            if name in cls.defaults or name == "convention"  # type: ignore[attr-defined]
        }
        return super().check_options(known, place)  # type: ignore[misc,no-any-return]

    def _settings(self: Any, index: int) -> Settings:
        """Return a group's settings now; its tensors, which are read at every step, stay in the group."""
        group = self.param_groups[index]
        if not (kept := _tensors_of(group)):
            return super()._settings(index)  # type: ignore[misc,no-any-return]
        self._resolved[index] = self._resolved[index]._replace(seen=())
        settings: Settings = super()._settings(index)  # type: ignore[misc]
        group.update(kept)
        self._resolved[index] = GroupSnapshot.of(group, settings, index)
        return settings

    def take_step(self: Any, groups: list[dict[str, Any]], state: Mapping[Any, Any], scale: float) -> bool:
        """Take a step; False if the stepper is not of these groups and this state any more."""
        borrowed = self._borrowed
        self._loss_scale = scale
        may_be_quick = borrowed.is_plain and borrowed.state is state and not self._swapped_by
        if may_be_quick and self._take_quick_step(groups, scale):
            return True
        self.check_not_swapped()
        if torch.cuda.is_available() and torch.cuda.is_current_stream_capturing():
            raise RuntimeError("step: expected no capture by a CUDA graph; see fastoptim.Optimizer.graph_step for one")
        if borrowed.has_changed(groups, state):
            return False
        for target in borrowed.targets:
            target.pull()
        places = (param.g_place for param in self.param_states)
        grads = [gradient_of(tensor, place) for tensor, place in zip(borrowed.tensors, places, strict=True)]
        self._fast_path = None  # it may be of another loss scale
        taken = self._step_slow_path(grads) is not False
        if any(map(_tensors_of, groups)):
            self._fast_path = None  # it would not read them
        self._show_new_state()
        if taken:
            present = [i for i, grad in enumerate(grads) if grad is not None]
            for i in present:
                borrowed.targets[i].push()
            self._end_step([borrowed.tensors[i] for i in present])
        return True

    def _show_new_state(self: Any) -> None:
        """Add the arrays that an option needs, assigned since the last step, to the state."""
        borrowed, names = self._borrowed, names_of(type(self))
        for i, (param, (own, _)) in enumerate(zip(self.param_states, borrowed.arrays, strict=True)):
            made = {k: array for k, array in param.state.items() if names[k.removesuffix(SCALES)] not in own}
            new = shown_arrays(made, names, borrowed.tensors[i])
            old = [name for name in EXTRA_BITS if name in own and name not in param.state]
            if new or old:
                own.update(new)
                for name in old:
                    del own[name]
                borrowed.arrays[i] = (own, tensors_in(own))

    def _take_quick_step(self: Any, groups: list[dict[str, Any]], scale: float) -> bool:
        """Take a step if nothing but gradients, learning rates and the loss scale has changed."""
        borrowed, fast_path = self._borrowed, self._fast_path
        if fast_path is None or borrowed.steps.tobytes() != borrowed.seen_steps:
            return False
        for tensor in borrowed.idle:
            if tensor.grad is not None:
                return False
        tensors = borrowed.tensors
        grads = [tensor.grad for tensor in tensors]
        if (
            scale != 1 or (try_step := fast_path.try_step) is None or not try_step(groups, grads, self._counts)
        ) and not self._step_at_other_rates(groups, grads):
            return False
        self._end_step(tensors)
        return True

    def _step_at_other_rates(self: Any, groups: list[dict[str, Any]], grads: list[Any]) -> bool:
        """Take a step if nothing but gradients, learning rates and the loss scale has changed.

        A learning rate that stays as it is goes to the slow path once, which prepares the fast path for it.
        """
        fast_path, t = self._fast_path, self._step_count + 1
        snapshots, group_steps, rates = [], [], []
        for group, (seen, settings, place) in zip(groups, self._resolved, strict=False):
            lr = group.get("lr")
            at = len(seen) // 2 + seen.index("lr")
            rates.append(rate := rate_at(lr, t - 1, place, "['lr']"))
            snapshots.append(((*seen[:at], lr, *seen[at + 1 :]),))
            group_steps.append(group_step_at(settings, rate, t, place))
        stays = self._loss_scale == 1 and rates == self._rates and fast_path.try_step is not None
        if stays or not all(0 <= rate < math.inf for rate in rates):  # for which the slow path raises the error
            return False
        self._rates = rates
        flat = fast_path.match_inputs(groups, snapshots, grads)
        if flat is None or fast_path.step_with(flat, self._scaled(group_steps), self._counts)[0] != "stepped":
            return False
        raise_lr_max(self, group_steps)
        return True

    def _step_by_engine(self: Any, flat: list[Any], group_steps: list[GroupStep]) -> bool:
        self._rates = []
        return super()._step_by_engine(flat, self._scaled(group_steps))  # type: ignore[misc,no-any-return]

    def _scaled(self: Any, group_steps: list[GroupStep]) -> list[GroupStep]:
        if self._loss_scale == 1:
            return group_steps
        return [step._replace(grad_scale=step.grad_scale * self._loss_scale) for step in group_steps]

    def _end_step(self: Any, tensors: list[Any]) -> None:
        """Show the step in the state, and in the versions of tensors that are not stepped themselves."""
        t, missed = self._counts
        borrowed = self._borrowed
        if missed:
            borrowed.steps[:] = [t - missed.get(i, 0) for i in range(len(borrowed.steps))]
        else:
            borrowed.steps.fill(t)
        borrowed.seen_steps = borrowed.steps.tobytes()
        if not borrowed.is_plain:
            torch.autograd.graph.increment_version(tensors)


def _as_numbers(value: Any) -> Any:
    """Return an option without tensors."""
    if isinstance(value, torch.Tensor):
        return value.item()
    return tuple(map(_as_numbers, value)) if isinstance(value, (tuple, list)) else value


def _tensors_of(group: Mapping[str, Any]) -> dict[str, Any]:
    """Return the options given as tensors that the core does not read itself."""
    return {
        name: value
        for name, value in group.items()
        if name not in ("params", *_LIVE)
        and any(isinstance(each, torch.Tensor) for each in (value if isinstance(value, (tuple, list)) else (value,)))
    }


@cache
def stepper_class(core: type[CoreOptimizer]) -> Any:
    """Return the class of an optimizer's steppers."""
    return type(core.__name__, (Steps, core), {"__module__": __name__})


def place_of(group: int, index: int) -> str:
    """Return the path of a parameter in messages."""
    return f"[{group}]['params'][{index}]"


def make_stepper(
    core: type[CoreOptimizer], groups: list[dict[str, Any]], state: Any, copies: Mapping[Any, Any], everything: bool
) -> Any:
    """Return a stepper of the parameters with state or with a gradient, for which it makes the state.

    `copies` are those in 16 bits, by parameter.  With `everything` also of the parameters that require gradients.  None
    if there is no such parameter.
    """
    cls = stepper_class(core)  # type: ignore[arg-type]  # mypy: a class has no hash
    settings = check_groups(core, groups)
    _check_unique(groups)
    entries, idle = [], []
    everything = everything or core.reduces_all
    index = 0
    for i, group in enumerate(groups):
        for j, tensor in enumerate(group["params"]):
            own = state.get(tensor) or {}
            if own or tensor.grad is not None or (everything and tensor.requires_grad):
                entries.append(_entry(cls, tensor, own, settings[i], (i, j), index, copies.get(tensor)))
            else:
                idle.append(tensor)
            index += 1
    if not entries:
        return None
    if core.reduces_all:
        _share_numbers(entries)
    return _assemble(cls, groups, state, settings, entries, idle)


def check_groups(core: type[CoreOptimizer], groups: list[dict[str, Any]]) -> list[Settings]:
    """Return the checked options of each group."""
    check = stepper_class(core).check_options  # type: ignore[arg-type]  # mypy: a class has no hash
    return [check(_options_of(group), f"param_groups[{i}]: ") for i, group in enumerate(groups)]


def _check_unique(groups: list[dict[str, Any]]) -> None:
    """Raise ValueError for a parameter that occurs twice, of which PyTorch only warns."""
    places: dict[int, str] = {}
    for i, group in enumerate(groups):
        for j, tensor in enumerate(group["params"]):
            place = f"param_groups[{i}]['params'][{j}]"
            if (first := places.setdefault(id(tensor), place)) is not place:
                raise ValueError(f"{place}: expected each parameter once, got that of {first}")


def _options_of(group: Mapping[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in group.items() if name != "params"}


def _entry(
    cls: Any, tensor: Any, state: dict[str, Any], settings: Settings, where: tuple[int, int], index: int, copy: Any
) -> _Entry:
    place = place_of(*where)
    target = Target.of(tensor, "param_groups" + place)
    if cls.stages and tensor.is_complex():
        raise ValueError(f"param_groups{place}: expected a real tensor for {cls.name}, got {tensor.dtype}")
    if is_sharded(tensor) and (reason := _why_whole(settings)):
        raise ValueError(
            f"param_groups{place}: expected a tensor of which this process has every element, as {reason}, "
            f"got a DTensor"
        )
    p = check_target(target.array, "param_groups" + place)
    used = {settings.extra_bits} if is_narrow(p.dtype) else set()  # of all extra bits
    arrays = {
        name: array for name, array in state_arrays(state, names_of(cls)) if name not in EXTRA_BITS or name in used
    }
    param = ParamState(
        target.array,
        arrays,
        where[0],
        place,
        "param_groups" + place,
        schema=settings.stored_schema(p.size),
        index=index,
        copy=copy,
    )
    check_formats(param)
    _check_divided(tensor, param)
    made = missing_state(param, settings)
    step = round(float(state["step"])) if "step" in state else int(bool(state))
    if any(param.schema_of(name).starts_count for name in made):
        step = 0
    if ROW_STEPS in made:  # each row has taken the steps of its parameter
        made[ROW_STEPS][...] = step
    return _Entry(target, param, state, {**made, **_converted(param)}, step)


def _why_whole(settings: Settings) -> str:
    """Return why a process needs every element of a parameter; empty if it does not."""
    optimizer, options = settings.optimizer, settings.options
    if settings.has_row_state or options["row_steps"]:
        return "its rows have numbers of their own"
    has_sums = optimizer.reduce_terms or optimizer.stages or options["clip_norm"] or options["clip_global_norm"]
    return "sums run over it" if has_sums else ""


def _check_divided(tensor: Any, param: ParamState) -> None:
    """Raise ValueError for a DTensor whose state has blocks, which are those of the elements of one process."""
    if is_sharded(tensor) and any(name.endswith(SCALES) for name in param.schema):
        raise ValueError(
            f"{param.p_place}: expected state_format 'native' or 'bfloat16', as blocks of 'int8' are no part of a "
            "DTensor, got 'int8'"
        )


def _converted(param: ParamState) -> dict[str, Any]:
    """Return new arrays for state in another memory order or dtype than the parameter's, which has changed."""
    new, p = {}, param.metadata
    for name, array in param.state.items():
        schema = param.schema_of(name)
        if family_of(array) is not param.family or tuple(array.shape) != schema.shape_for(p.shape):
            continue  # the step raises the error
        now = param.family.metadata(array, param.state_place(name))
        if name + SCALES in param.state:
            new.update({} if same_layout(now, p) else in_blocks_of(param, name))
        elif now.dtype != schema.dtype_for(p.dtype) or (schema.kind.keeps_layout and not same_layout(now, p)):
            new[name] = param.allocate(name)
            new[name].copy_(array.detach())
    return new


def _share_numbers(entries: list[_Entry]) -> None:
    """Give new parameters the numbers and the count that the optimizer has for all."""
    oldest = max(entries, key=lambda entry: entry.step)
    for entry in entries:
        entry.step = oldest.step
        for name in entry.made:
            if entry.param.schema_of(name).is_scalar and name in oldest.param.state:
                entry.made[name].copy_(oldest.param.state[name])


def _dicts_in(own: Mapping[str, Any]) -> list[Any]:
    """Return the dicts of codes and scales in a parameter's state."""
    return [value for value in own.values() if type(value) is dict]


def _assemble(
    cls: Any,
    groups: list[dict[str, Any]],
    state: Any,
    settings: list[Settings],
    entries: list[_Entry],
    idle: list[Any],
) -> Any:
    counts = [entry.step for entry in entries]
    steps = np.array(counts, np.float64 if step_dtype() is torch.float64 else np.float32)
    names = names_of(cls)
    arrays = []
    for entry, count in zip(entries, torch.from_numpy(steps).unbind(), strict=True):
        own = entry.state if entry.state else state[entry.target.tensor]
        own.update({"step": count, **shown_arrays(entry.made, names, entry.target.tensor)})
        entry.param.state.update(entry.made)
        arrays.append((own, tensors_in(own)))
    targets = [entry.target for entry in entries]
    lists = [group["params"] for group in groups]
    borrowed = _Borrowed(groups, lists, [list(own) for own in lists], state, arrays, targets, idle, steps)
    borrowed.seen_steps, borrowed.tensors = steps.tobytes(), [target.tensor for target in targets]
    borrowed.is_plain = all(target.is_plain for target in targets)
    stepper = cls.__new__(cls)
    flat = [target.array for target in targets]
    latest = max(counts)
    vars(stepper).update(
        {"backend": "native", "copies": None, "params": flat, "convention": None},
        param_groups=groups,
        param_states=[entry.param for entry in entries],
        _structure=Structure(list, tuple(range(len(flat))), (LEAF,) * len(flat)),
        _given=None,
        _trees=lists,
        _resolved=[GroupSnapshot.of(group, settings[i], i) for i, group in enumerate(groups)],
        _views=None,
        _counts=[latest, {i: latest - t for i, t in enumerate(counts) if t != latest}],
        _raised_lr_max={},
        _swapped_by="",
        _accumulator=None,
        _engine=None,
        _fast_path=None,
        _watched=[state, *lists, *(each for own, _ in arrays for each in (own, *_dicts_in(own)))],
        _borrowed=borrowed,
        _rates=[],
        _trained=[],  # of the schedule-free optimizers
    )
    return stepper
