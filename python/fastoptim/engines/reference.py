"""The reference engine: what happens around a rule's formula, in plain NumPy.

The formula of each optimizer is in its own file.  All are written from the papers, not from the kernels.  They fix the
order of the operations, and native code reproduces their bits.  No compiled code of fastoptim runs.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from ..arrays.param_state import ParamState, check_one, check_targets
from ..arrays.tree import Structure
from ..options.schema import AVERAGE
from ..reference_math import Array, compute_dtype, decay, maximum, minimum, sign, square, total
from .base import GroupSnapshot, GroupStep


def unscaled(g: Array, group_step: GroupStep) -> Array:
    """The gradient divided by the loss scale, and negated to maximize."""
    gain = (-1.0 if group_step.settings.options["maximize"] else 1.0) / group_step.grad_scale
    return g if gain == 1 else g.dtype.type(gain) * g


def bounded(g: Array, group_step: GroupStep) -> Array:
    """Each element within `clip_value`."""
    bound = group_step.settings.options["clip_value"]
    if bound is None:
        return g
    number = g.dtype.type
    return maximum(minimum(g, number(bound)), number(-bound))


def clips(works: Sequence[_Work]) -> list[float | None]:
    """What each array's gradient is multiplied by, after its own norm and then after the norm of all."""
    options = [work.group_step.settings.options for work in works]
    if all(own["clip_norm"] is None and own["clip_global_norm"] is None for own in options):
        return [None] * len(works)
    norms = [math.sqrt(total(square(work.g))) for work in works]
    first = [_clip(own["clip_norm"], norm) for own, norm in zip(options, norms, strict=True)]
    whole = 0.0
    for factor, norm in zip(first, norms, strict=True):
        left = norm if factor is None else factor * norm if factor else 0.0
        whole += left * left
    second = [_clip(own["clip_global_norm"], math.sqrt(whole)) for own in options]
    return [_product(a, b) for a, b in zip(first, second, strict=True)]


def _clip(bound: float | None, norm: float) -> float | None:
    if bound is None:
        return None
    factor = bound / (norm + 1e-6)  # as torch.nn.utils.clip_grad_norm_
    return 1.0 if factor > 1 else factor


def _product(a: float | None, b: float | None) -> float | None:
    return b if a is None else a if b is None else a * b


def decayed(p: Array, g: Array, group_step: GroupStep) -> Array:
    """The gradient with its penalties; with decoupled decay it is `p` that changes, in place."""
    number, options = p.dtype.type, group_step.settings.options
    if options["l1"]:
        g = g + number(options["l1"]) * sign(p)
    weight_decay = options["weight_decay"]
    if not weight_decay or group_step.settings.optimizer.decays_itself:
        return g
    if not options["decoupled"]:
        return np.asarray(g + number(weight_decay) * p)
    p *= number(1 - group_step.lr * weight_decay)
    return g


def average_of(average: Array, p: Array, group_step: GroupStep) -> None:
    """The average of the parameters, in place: exponential, or of every `swa_every`-th step from `swa_start` on."""
    options, number, t = group_step.settings.options, p.dtype.type, group_step.t
    if options["ema"] is not None:
        keep = decay(p.dtype, options["ema"])
    elif t < options["swa_start"]:
        keep = number(0)
    else:
        count, between = divmod(t - options["swa_start"], options["swa_every"])
        kept = float(count) / float(count + 1)
        if between or kept == 1:
            return
        keep = decay(p.dtype, kept)
    average[...] = keep * average + number(1 - float(keep)) * p


@dataclass
class _Work:
    """One array in one step, in its compute type."""

    param: ParamState
    group_step: GroupStep
    p: Array
    g: Array
    sums: tuple[float, ...] = ()

    @property
    def arguments(self) -> dict[str, Any]:
        """What the formula takes beside p, g and the sums."""
        settings, lr, t, _, constants = self.group_step
        optimizer = settings.optimizer
        own = {k: v for k, v in settings.options.items() if k not in optimizer.shared or k == "lr"}
        if optimizer.decays_itself:
            own |= {k: settings.options[k] for k in ("weight_decay", "decoupled")}
        state = {name: self.param.state[name] for name in optimizer.variants[settings.variant]}
        return {**state, **own, "lr": lr, "t": t, **constants}


class Engine:
    """The reference backend: one array after another."""

    def __init__(self, param_states: Sequence[ParamState]) -> None:
        self._param_states = param_states

    def step(self, grads: list[Any], group_steps: Sequence[GroupStep], step_of: list[int] | None = None) -> int | None:
        """Update every array that has a gradient; see fastoptim.engines.base.Engine."""
        written = check_targets(self._param_states)
        checked = [
            None if grad is None else check_one(param, grad, written)
            for param, grad in zip(self._param_states, grads, strict=True)
        ]
        with np.errstate(all="ignore"):
            works = []
            for i, (param, grad) in enumerate(zip(self._param_states, checked, strict=True)):
                if grad is not None:
                    group_step = group_steps[param.group if step_of is None else step_of[i]]
                    dtype = compute_dtype(param.p.dtype)
                    works.append(_Work(param, group_step, param.p.astype(dtype), grad.astype(dtype)))
            return len(works) if _step(works, group_steps) else None

    def fast_path(self, structure: Structure, groups: Sequence[GroupSnapshot]) -> None:
        """None; see fastoptim.engines.base.Engine."""


def _step(works: list[_Work], group_steps: Sequence[GroupStep]) -> bool:
    for work in works:
        work.g = unscaled(work.g, work.group_step)
    skips = any(group_step.settings.options["skip_nonfinite"] for group_step in group_steps)
    if skips and not all(np.isfinite(work.g).all() for work in works):
        return False
    for work in works:
        work.g = bounded(work.g, work.group_step)
    for work, clip in zip(works, clips(works), strict=True):
        if clip is not None:
            work.g = work.p.dtype.type(clip) * work.g
        work.g = decayed(work.p, work.g, work.group_step)
    _measure(works)
    for work in works:
        settings, p = work.group_step.settings, work.p
        sums = {"sums": work.sums} if work.sums else {}
        settings.optimizer.reference(p, work.g, **work.arguments, **sums)
        if settings.averages:
            average_of(work.param.state[AVERAGE], p, work.group_step)
        work.param.p[...] = p.astype(work.param.p.dtype)
    return True


def _measure(works: list[_Work]) -> None:
    """The sums that some formulas need first, of each array or of a group's arrays in their order."""
    of_group: dict[int, tuple[float, ...]] = {}
    for work in works:
        optimizer = work.group_step.settings.optimizer
        if optimizer.reduce_terms is None:
            continue
        work.sums = optimizer.reduce_terms(work.p, work.g, **work.arguments)
        if optimizer.reduces_group:
            before = of_group.get(work.param.group, (0.0,) * len(work.sums))
            of_group[work.param.group] = tuple(a + b for a, b in zip(before, work.sums, strict=True))
    for work in works:
        if work.group_step.settings.optimizer.reduces_group:
            work.sums = of_group[work.param.group]
