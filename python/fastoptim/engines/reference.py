"""The reference engine: preparation, reductions, formula, average and storage in plain NumPy.

The formula of each optimizer is in its own file.  All are written from the papers, not from the kernels.  They fix the
order of the operations, and native code reproduces their bits.  No compiled arithmetic of fastoptim runs.  A step
computes all arrays before it assigns the first, so that an exception at any moment finds it taken or not.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import reduce
from operator import add
from typing import Any, NamedTuple

import numpy as np

from .. import block_codes, core
from ..arrays.families import in_numpy
from ..arrays.param_state import ParamState, check_one, check_targets
from ..arrays.rows import Indices, Rows, Selection, check_rows
from ..arrays.tree import Structure
from ..extra_bits import decode, encode, is_narrow, round_randomly
from ..options.schema import AVERAGE, ROW_STEPS, SCALES, Codes
from ..random_bits import rounding_bits, state_bits
from ..reference_math import (
    Array,
    bias_correction_of,
    compute_dtype,
    flush_subnormals,
    maximum,
    mean_of,
    minimum,
    norm,
    norm_in_order,
    rounded_to,
    shrink,
    sign,
)
from .base import (
    NO_COUNTS,
    NOTHING_ELSEWHERE,
    Counts,
    Elsewhere,
    GroupSnapshot,
    GroupStep,
    group_step_of_rows,
    settings_used,
)

FLUSH_INTERVAL = 64  # steps; subnormal numbers in state live at most as long


def unscaled(g: Array, group_step: GroupStep) -> Array:
    """Return the gradient divided by the loss scale, and negated to maximize."""
    multiplier = (-1.0 if group_step.settings.options["maximize"] else 1.0) / group_step.grad_scale
    return g if multiplier == 1 else g.dtype.type(multiplier) * g


def bounded(g: Array, group_step: GroupStep) -> Array:
    """Return the gradient with each element clipped to `clip_value`."""
    bound = group_step.settings.options["clip_value"]
    if bound is None:
        return g
    number = g.dtype.type
    return maximum(minimum(g, number(bound)), number(-bound))


def clip_factors(works: Sequence[_Work], whole: float | None = None) -> list[float | None]:
    """Return the factor of each array's gradient, from its own norm and then from the norm of all gradients."""
    options = [work.group_step.settings.options for work in works]
    if all(own["clip_norm"] is None and own["clip_global_norm"] is None for own in options):
        return [None] * len(works)
    first, clipped = _clip_norms(works)
    if whole is None:
        whole = norm_in_order(clipped, options[0]["norm_type"])
    second = [_clip(own["clip_global_norm"], whole, own["clip_eps"]) for own in options]
    return [a * b for a, b in zip(first, second, strict=True)]


def _clip_norms(works: Sequence[_Work]) -> tuple[list[float], list[float]]:
    """Return the factor of each array's gradient from its own norm, and the norm that remains."""
    options = [work.group_step.settings.options for work in works]
    norms = [norm(work.g, own["norm_type"]) for work, own in zip(works, options, strict=True)]
    factors = [_clip(own["clip_norm"], each, own["clip_eps"]) for own, each in zip(options, norms, strict=True)]
    return factors, [factor * each if factor else 0.0 for factor, each in zip(factors, norms, strict=True)]


def _clip(bound: float | None, norm: float, eps: float) -> float:
    if bound is None or norm + eps == 0:
        return 1.0
    factor = bound / (norm + eps)
    return 1.0 if factor > 1 else factor


def penalized(p: Array, g: Array, group_step: GroupStep) -> Array:
    """Return the gradient with the L1 penalty and, unless it is decoupled, with weight decay."""
    number, settings = p.dtype.type, group_step.settings
    options = settings.options
    if options["l1"]:
        g = g + number(options["l1"]) * sign(p)
    if options["weight_decay"] and not options["decoupled"] and not settings.optimizer.decays_itself:
        g = g + number(options["weight_decay"]) * p
    return np.asarray(g)


def decoupled_rate(group_step: GroupStep) -> float:
    """Return the rate of decoupled weight decay; 0 where the formula contains the decay."""
    settings = group_step.settings
    own = settings.options["decoupled"] and not settings.optimizer.decays_itself
    return group_step.lr * settings.weight_decay_at(group_step.lr) if own else 0.0


def decay_parameter(p: Array, group_step: GroupStep) -> None:
    """Apply decoupled weight decay in place."""
    if rate := decoupled_rate(group_step):
        p[...] = shrink(p, rate)


def mask_step(p: Array, moved: Array, g: Array, from_zero: bool, group_step: GroupStep) -> Array:
    """Return the new parameter with `cautious` and `cautious_decay`; the formula was applied to p, or to zeros."""
    options, number = group_step.settings.options, p.dtype.type
    change = moved if from_zero else moved - p
    result = p + change if from_zero else moved
    if options["cautious"] and p.size:
        direction = sign(change) * sign(g)  # a product of the numbers could underflow
        share = int(np.count_nonzero(direction < 0)) / p.size
        factor = number(1 / (share if share > 1e-3 else 1e-3))
        result = np.where(direction >= 0, p, p + factor * change)
    rate = number(decoupled_rate(group_step)) if options["cautious_decay"] else number(0)
    if rate:
        result = np.where(sign(change) * sign(p) > 0, result, result - rate * p)
    return np.asarray(result)


def average_weight(group_step: GroupStep) -> float:
    """Return the weight of the parameter in its average: exponential, or the mean of every `swa_every`-th step."""
    options, since = group_step.settings.options, group_step.t - (group_step.settings.options["swa_start"] or 0)
    if (ema := options["ema"]) is not None:
        before = group_step.t - max(options["ema_start"], int(options["ema_debias"]))
        correction = bias_correction_of(ema, before + 1) if options["ema_debias"] else 1.0
        return float((1 - ema) / correction) if before > 0 else 1.0
    if since < 0:
        return 1.0
    return 0.0 if since % options["swa_every"] else 1 / float(since // options["swa_every"] + 1)


class _Encoded(NamedTuple):
    """A compressed array, or some rows of it, as a pass has stored it."""

    name: str
    rows: Any
    """The rows of the parameter that these are; ... for all."""
    codes: Array
    blocks: Array | None = None
    """Which blocks of the parameter have these scales; None without scales."""
    scales: Array | None = None

    def assign(self, state: dict[str, Any]) -> None:
        in_numpy(state[self.name])[self.rows] = self.codes
        if self.scales is not None:
            in_numpy(state[self.name + SCALES])[self.blocks] = self.scales


@dataclass
class _Work:
    """One array in one step, in its compute type."""

    param: ParamState
    group_step: GroupStep
    p: Array
    g: Array
    state: dict[str, Array]
    """Copies of the state arrays, which the step updates; compressed ones are decoded."""
    is_present: bool
    rows: Indices | None = None
    """The rows of the parameter that these are; None for all."""
    sums: tuple[float, ...] = ()
    copy: Array | None = None
    encoded: list[_Encoded] = field(default_factory=list)
    """The compressed arrays in the order in which passes have stored them."""

    @classmethod
    def of(cls, param: ParamState, group_step: GroupStep, grad: Array | Rows | None) -> _Work:
        """Make it.  An array without a gradient takes part with its scalar state and none of its elements."""
        p = param.metadata
        dtype = compute_dtype(p.dtype)
        low = param.state.get(group_step.settings.extra_bits or "")

        def values(which: Any) -> Array:
            return p[which].astype(dtype) if low is None else decode(p[which], in_numpy(low)[which])

        stored = {name: _stored(param, name) for name in param.state if not name.endswith(SCALES)}
        if isinstance(grad, Rows):
            index, g = Selection.of(grad, dtype)
            state = {name: array[index] for name, array in stored.items()}
            if ROW_STEPS in state:
                state[ROW_STEPS] += group_step.settings.options["row_steps"]
            return cls(param, group_step, values(index), g, state, True, index)
        if grad is not None:
            state = {name: array.copy(order="K") for name, array in stored.items()}
            if ROW_STEPS in state:
                state[ROW_STEPS] += group_step.settings.options["row_steps"]
            return cls(param, group_step, values(...), grad.astype(dtype), state, True)
        none = np.zeros(0, dtype)
        state = {
            name: array.copy() if param.schema_of(name).is_scalar else np.zeros(0, array.dtype)
            for name, array in stored.items()
        }
        return cls(param, group_step, none, none, state, False)

    def update(self) -> None:
        """Apply the formula and what follows it, to rows with step counts of their own one count after another."""
        if not self.group_step.settings.options["row_steps"]:
            self._update_all()
            return
        steps = self.state[ROW_STEPS]
        for t in np.unique(steps):
            rows: Any = np.flatnonzero(steps == t) if self.p.ndim else ...
            state = {name: array[rows] for name, array in self.state.items()}
            group_step = group_step_of_rows(self.group_step, int(t) - 1)
            absolute = rows if self.rows is None else self.rows[rows]
            part = _Work(
                self.param, group_step, self.p[rows], self.g[rows], state, True, absolute, encoded=self.encoded
            )
            part._update_all()
            self.p[rows] = part.p
            for name, array in state.items():
                self.state[name][rows] = array

    def _update_all(self) -> None:
        settings = self.group_step.settings
        self.take_step()  # after the reductions, which native code does in a pass of their own
        if bounds := settings.options["bounds"]:
            low, high = map(self.p.dtype.type, bounds)
            self.p = np.where(low > self.p, low, self.p)
            self.p = np.where(high < self.p, high, self.p)
        if settings.averages:
            self.update_average()
        if self.group_step.t % FLUSH_INTERVAL == 0:
            self.flush()
        if self.is_present:
            self.store()

    def store(self) -> None:
        """Round the parameter to its dtype, with its extra bits."""
        metadata, options = self.param.metadata, self.group_step.settings.options
        dtype, low = metadata.dtype, self.state.get(self.group_step.settings.extra_bits or "")
        if low is not None:
            self.p, low[...] = encode(self.p, dtype, low.dtype)
        elif options["stochastic_rounding"] and is_narrow(dtype):
            halves = rounding_bits(options["seed"], self.param.index, self.group_step.t, self.places())
            self.p = round_randomly(self.p, dtype, halves)
        else:
            self.p = self.p.astype(dtype)

    def places(self) -> Array:
        """Return the position of each element in the parameter's memory."""
        return np.asarray(_places(self.param.metadata)[... if self.rows is None else self.rows])

    def compress(self, written: Sequence[str], flushes: bool) -> None:
        """Encode the compressed arrays among those that a pass has written, and replace them by the decoded values."""
        for k, name in enumerate(core.RULES[self.group_step.settings.variant].state):
            schema = self.param.schema_of(name)
            if name not in written or not isinstance(schema, Codes) or not self.is_present:
                continue
            places, values = self.places(), self.state[name]
            if flushes:
                values[...] = flush_subnormals(values)
            halves = state_bits(self.param.index, self.group_step.t, k, places)
            encoded = self._encoded(name, schema, values.astype(np.float32), places, halves)
            self.encoded.append(encoded)
            if schema.code is None or encoded.scales is None:
                values[...] = encoded.codes.astype(values.dtype)
            else:
                order = np.argsort(places, axis=None)
                decoded = block_codes.decode(encoded.codes.reshape(-1)[order], encoded.scales, schema.code)
                values[...] = decoded[np.argsort(order)].reshape(values.shape)

    def _encoded(self, name: str, schema: Codes, values: Array, places: Array, halves: Array) -> _Encoded:
        rows = ... if self.rows is None else self.rows
        if schema.code is None:
            return _Encoded(name, rows, round_randomly(values, schema.dtype_for(values.dtype), halves))
        order = np.argsort(places, axis=None)  # whole blocks, one after another
        random = block_codes.random_of(halves)
        flat, scales = block_codes.encode(values.reshape(-1)[order], schema.code, random.reshape(-1)[order])
        codes = flat[np.argsort(order)].reshape(values.shape)
        blocks = places.reshape(-1)[order][:: block_codes.BLOCK] // np.uint64(block_codes.BLOCK)
        return _Encoded(name, rows, codes, blocks, scales)

    def call(self, formula: Callable[..., Any], **sums: Any) -> Any:
        """Call a formula with the state in the compute type, and store the state that it has updated.

        Each pass over the data rounds state to its storage format, as native code does.
        """
        settings, lr, t, _, constants = self.group_step
        optimizer = settings.optimizer
        own = {k: v for k, v in settings.options.items() if k not in optimizer.shared or k == "lr"}
        if optimizer.decays_itself:
            own |= {"weight_decay": settings.weight_decay_at(lr), "decoupled": settings.options["decoupled"]}
        state = {name: self._decoded(name) for name in optimizer.variants[settings.variant] + optimizer.scratch}
        result = formula(self.p, self.g, **{**state, **own, "lr": lr, "t": t, **constants}, **sums)
        for name, array in state.items():
            self._encode(name, array)
        is_update = formula == optimizer.reference
        rule = core.RULES[settings.variant]
        accesses = (rule.updates if is_update else rule.reduces)[2:]
        written = [name for name, access in zip(rule.state, accesses, strict=True) if access == "rw"]
        self.compress(written, flushes=is_update and t % FLUSH_INTERVAL == 0)
        return result

    def take_step(self) -> None:
        """Apply decoupled weight decay and the formula."""
        settings, sums = self.group_step.settings, {"sums": self.sums} if self.sums else {}
        formula, options = settings.optimizer.reference, settings.options
        if not options["cautious_decay"]:
            decay_parameter(self.p, self.group_step)
        if not (options["cautious"] or (options["cautious_decay"] and decoupled_rate(self.group_step))):
            return self.call(formula, **sums)  # type: ignore[no-any-return]
        p, from_zero = self.p, core.RULES[settings.variant].ignores_p
        self.p = np.zeros_like(p) if from_zero else p.copy()
        self.call(formula, **sums)
        self.p = mask_step(p, self.p, self.g, from_zero, self.group_step)
        return None

    def update_average(self) -> None:
        """Update the average of the parameter."""
        if weight := average_weight(self.group_step):
            average = self._decoded(AVERAGE)
            self._encode(AVERAGE, mean_of(average, self.p, weight))

    def flush(self) -> None:
        """Replace subnormal numbers in the state and the updated average."""
        settings = self.group_step.settings
        names = [n for n in settings.optimizer.variants[settings.variant] if not self.param.schema_of(n).is_scalar]
        if settings.averages and average_weight(self.group_step):
            names.append(AVERAGE)
        for name in names:
            if not isinstance(self.param.schema_of(name), Codes):
                self._encode(name, flush_subnormals(self._decoded(name)))

    def assign(self) -> None:
        """Assign the parameter and the state that the step has computed."""
        where = ... if self.rows is None else self.rows
        for name, array in self.state.items():
            schema = self.param.schema_of(name)
            if schema.is_scalar or (self.is_present and not isinstance(schema, Codes)):
                in_numpy(self.param.state[name])[where] = array
        for each in self.encoded:
            each.assign(self.param.state)
        if self.is_present:
            self.param.metadata[where] = self.p
            if self.copy is not None:
                self.param.copy_metadata[where] = self.copy

    def _decoded(self, name: str) -> Array:
        """A state array in the compute type: the copy itself if it is stored in that type, or is a scalar."""
        stored = self.state[name]
        schema = self.param.schema_of(name)
        if stored.dtype == self.p.dtype or schema.is_scalar:
            return stored
        return schema.storage.decode(stored, self.p.dtype)

    def _encode(self, name: str, array: Array) -> None:
        stored = self.state[name]
        if array.dtype == stored.dtype:
            stored[...] = array
        else:
            stored[...] = self.param.schema_of(name).storage.encode(array, stored.dtype)


def _stored(param: ParamState, name: str) -> Array:
    """Return a state array, decoded if it is compressed."""
    return in_numpy(param.values_of(name) if isinstance(param.schema_of(name), Codes) else param.state[name])


def _places(array: Array) -> Array:
    """Return the position of each element of a dense array in its memory."""
    places = np.zeros(array.shape, np.uint64)
    for axis, (length, stride) in enumerate(zip(array.shape, array.strides, strict=True)):
        steps = np.arange(length, dtype=np.uint64) * np.uint64(stride // array.itemsize if length > 1 else 0)
        places += steps.reshape(-1, *[1] * (array.ndim - 1 - axis))
    return places


class Engine:
    """The reference engine: one array after another."""

    def __init__(self, param_states: Sequence[ParamState]) -> None:
        self._param_states = param_states

    def step(
        self,
        grads: list[Any],
        group_steps: Sequence[GroupStep],
        step_of: list[int] | None = None,
        counts: Counts = NO_COUNTS,
        elsewhere: Elsewhere = NOTHING_ELSEWHERE,
    ) -> int | None:
        """Update every array that has a gradient; see fastoptim.engines.base.Engine."""
        with np.errstate(all="ignore"):
            works = self._works(grads, group_steps, step_of, is_taken=bool(elsewhere.sums))
            if not _step(works, group_steps, elsewhere):
                return None
        present = sum(grad is not None for grad in grads)  # before the first write, since it may raise MemoryError
        core.complete(lambda: _assign(works, counts))
        return present

    def clipped_norms(
        self, grads: list[Any], group_steps: Sequence[GroupStep], step_of: list[int] | None = None
    ) -> list[float] | None:
        """See fastoptim.engines.base.Engine."""
        with np.errstate(all="ignore"):
            works = [work for work in self._works(grads, group_steps, step_of) if work.is_present]
            if not _bound(works, group_steps, finite=False):
                return None
            norms = iter(_clip_norms(works)[1])
        return [0.0 if grad is None else next(norms) for grad in grads]

    def rule_sums(
        self,
        grads: list[Any],
        group_steps: Sequence[GroupStep],
        step_of: list[int] | None = None,
        global_norm: float | None = None,
    ) -> list[tuple[float, ...]]:
        """See fastoptim.engines.base.Engine."""
        with np.errstate(all="ignore"):
            works = self._works(grads, group_steps, step_of, is_taken=True)
            _prepare(works, group_steps, global_norm)
            return [_sums_of(work) for work in works]

    def _works(
        self,
        grads: list[Any],
        group_steps: Sequence[GroupStep],
        step_of: list[int] | None,
        is_taken: bool = False,
    ) -> list[_Work]:
        """Return the arrays that take part in a step; `is_taken` if an array elsewhere has a gradient."""
        used = settings_used(self._param_states, group_steps, step_of)
        written = check_targets(self._param_states)
        which = [param.group for param in self._param_states] if step_of is None else step_of
        steps = [group_steps[k] for k in which]
        checked: list[Array | Rows | None] = []
        for param, grad, settings in zip(self._param_states, grads, used, strict=True):
            if isinstance(grad, Rows):
                checked.append(check_rows(param, grad, written, settings))
            else:
                checked.append(None if grad is None else check_one(param, grad, written))
        is_taken |= any(grad is not None for grad in checked)
        works = []
        for param, grad, group_step in zip(self._param_states, checked, steps, strict=True):
            if grad is not None or (is_taken and group_step.settings.optimizer.reduces_all):
                works.append(_Work.of(param, group_step, grad))
        return works

    def fast_path(self, structure: Structure, groups: Sequence[GroupSnapshot], containers: list[Any]) -> None:
        """Return None: this engine has no fast path."""


def _bound(works: list[_Work], group_steps: Sequence[GroupStep], finite: bool) -> bool:
    """Unscale the gradients and bound their elements; False if the step is skipped, unless all are known finite."""
    for work in works:
        work.g = unscaled(work.g, work.group_step)
    skips = not finite and any(group_step.settings.when_nonfinite for group_step in group_steps)
    if skips and not all(np.isfinite(work.g).all() for work in works):
        return False
    for work in works:
        work.g = bounded(work.g, work.group_step)
    return True


def _prepare(works: list[_Work], group_steps: Sequence[GroupStep], global_norm: float | None) -> bool:
    """Do what precedes a rule; return whether the step is taken."""
    if not _bound(works, group_steps, finite=global_norm is not None):
        return False
    for work, factor in zip(works, clip_factors(works, global_norm), strict=True):
        if factor is not None:
            work.g = work.p.dtype.type(factor) * work.g
        work.g = penalized(work.p, work.g, work.group_step)
    return True


def _step(works: list[_Work], group_steps: Sequence[GroupStep], elsewhere: Elsewhere) -> bool:
    """Return whether the step was taken."""
    if not _prepare(works, group_steps, elsewhere.global_norm):
        return False
    _reduce(works, elsewhere.sums)
    for work in works:
        work.update()
        if work.param.copy is not None:  # which no parameter of 16 bits has
            work.copy = rounded_to(work.p, work.param.copy_metadata.dtype)
    return True


def _assign(works: list[_Work], counts: Counts) -> None:
    """Assign what a step has computed; may be called again."""
    for work in works:
        work.assign()
    counts.now[: len(counts.after)] = counts.after


def _sums_of(work: _Work) -> tuple[float, ...]:
    """Compute the sums over an array that some formulas need, and the state that these update."""
    reduce_terms = work.group_step.settings.optimizer.reduce_terms
    return () if reduce_terms is None else work.call(reduce_terms)


def _reduce(works: list[_Work], known: tuple[float, ...]) -> None:
    """Compute the sums that some formulas need, of each array or over all of them in their order, unless known."""
    for work in works:
        work.sums = _sums_of(work)
    if works and works[0].group_step.settings.optimizer.reduces_all:
        whole = known or tuple(reduce(add, sums, 0.0) for sums in zip(*(work.sums for work in works), strict=True))
        for work in works:
            work.sums = whole
