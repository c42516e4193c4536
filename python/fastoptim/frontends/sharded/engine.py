"""The engine of a sharded optimizer: gradients to the owners, a step of the own arrays, parameters back to all."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import reduce
from operator import add
from typing import Any

import numpy as np

from ... import core
from ...arrays.checks import check_gradient
from ...arrays.cuda_families import ArrayMetadata
from ...arrays.param_state import ParamState, check_targets, refresh
from ...arrays.rows import Rows
from ...arrays.tree import Structure
from ...engines.base import (
    NO_COUNTS,
    NOTHING_ELSEWHERE,
    Counts,
    Elsewhere,
    GroupSnapshot,
    GroupStep,
    PartEngine,
    depends_on_all,
)
from ...optimizer.stepping import missed_with
from ...reference_math import norm_in_order
from .buckets import Bucket, buckets_of
from .links import Request
from .peers import Peers


class ShardedEngine:
    """Step every array on its owner."""

    def __init__(
        self,
        param_states: Sequence[ParamState],
        owners: Sequence[int],
        peers: Peers,
        engine_for: Callable[[Sequence[ParamState]], PartEngine],
    ) -> None:
        self._param_states, self._peers = param_states, peers
        self._buckets = buckets_of(param_states, owners, peers.link)
        self._own = [bucket for bucket in self._buckets if bucket.is_own]
        self._engines = {id(bucket): engine_for(bucket.params) for bucket in self._own}

    def step(
        self,
        grads: list[Any],
        group_steps: Sequence[GroupStep],
        step_of: list[int] | None = None,
        counts: Counts = NO_COUNTS,
    ) -> int | None:
        """Update every array of which a rank has a gradient; see fastoptim.engines.base.Engine."""
        if any(group_step.settings.options["row_steps"] for group_step in group_steps):
            raise ValueError("row_steps: expected False in a sharded optimizer, got True")
        local = self._check(grads)
        has_gradient = np.array([grad is not None for grad in local], np.float64)
        present = (self._peers.agree(_facts(group_steps, self._param_states), has_gradient) > 0).tolist()
        with self._peers.exchanging():
            step = _Step(self, group_steps, step_of, present, any(present))
            nonfinite = step.run(local)
            if nonfinite is None:  # owners write those of their own arrays in the pass of the update
                pairs = zip(self._param_states, present, strict=True)
                refresh(param for param, there in pairs if there and param.is_remote)
        if nonfinite is not None:
            if any(group_step.settings.when_nonfinite == "raise" for group_step in group_steps):
                raise FloatingPointError(
                    f"{self._param_states[nonfinite].g_place}: expected finite numbers in the sum over the ranks, got "
                    f"an inf or NaN; nothing was updated"
                )
            return None
        if counts.after:
            absent = [i for i, there in enumerate(present) if not there]  # on all ranks, not on this one
            missed = missed_with(counts.now[1], absent, group_steps[0].settings.optimizer.reduces_all)
            core.complete(lambda: counts.now.__setitem__(slice(2), (counts.after[0], missed)))
        return int(sum(present))

    def fast_path(self, structure: Structure, groups: Sequence[GroupSnapshot], containers: list[Any]) -> None:
        """Return None: this engine has no fast path."""

    def _check(self, grads: list[Any]) -> list[Any]:
        """Return the gradients as arrays that a buffer can take, or raise an error."""
        written = check_targets(self._param_states)
        checked = []
        for param, grad in zip(self._param_states, grads, strict=True):
            if isinstance(grad, Rows):
                raise TypeError(f"{param.g_place}: expected an array, which the ranks can add, got Rows")
            if grad is not None:
                metadata = check_gradient(grad, param.g_place, param.metadata)
                written.check_no_overlap(metadata, param.g_place)
                grad = self._peers.link.xp.asarray(grad) if isinstance(metadata, ArrayMetadata) else metadata
            checked.append(grad)
        return checked


class _Step:
    """One step: the owner of each bucket takes it as soon as its gradients have arrived."""

    def __init__(
        self,
        engine: ShardedEngine,
        group_steps: Sequence[GroupStep],
        step_of: list[int] | None,
        present: list[bool],
        is_taken: bool,
    ) -> None:
        self._engine, self._group_steps, self._step_of = engine, group_steps, step_of
        self._present = present
        self._live = [b for b in engine._buckets if any(present[i] for i in b.indices)]
        self._reduces_all = is_taken and group_steps[0].settings.optimizer.reduces_all
        self._needs_norm = any(map(depends_on_all, group_steps))

    def run(self, local: Sequence[Any]) -> int | None:
        """Return the index of the first array that is not finite if the step is skipped, else None."""
        sent = {id(bucket): bucket.reduce([local[i] for i in bucket.indices]) for bucket in self._live}
        elsewhere = NOTHING_ELSEWHERE
        if self._needs_norm or self._reduces_all:
            self._wait(sent, [bucket for bucket in self._live if bucket.is_own])
        if self._needs_norm:
            norms, nonfinite = self._norms()
            if nonfinite is not None:
                self._wait(sent, self._live)
                return nonfinite
            norm_type = self._group_steps[0].settings.options["norm_type"]
            elsewhere = Elsewhere(norm_in_order(norms, norm_type))
        if self._reduces_all:
            elsewhere = Elsewhere(elsewhere.global_norm, self._sums(elsewhere.global_norm))
        returned = []
        for bucket in self._live:
            if bucket.is_own:
                self._wait(sent, [bucket])
                self._update(bucket, elsewhere)
            returned.append(bucket.broadcast())
        if self._reduces_all:
            for bucket in self._own_without_gradient():
                self._update(bucket, elsewhere)
        self._wait(sent, self._live)
        for request in returned:
            request.wait()
        return None

    @staticmethod
    def _wait(sent: dict[int, Request], buckets: Sequence[Bucket]) -> None:
        for bucket in buckets:
            if request := sent.pop(id(bucket), None):
                request.wait()

    def _own_without_gradient(self) -> list[Bucket]:
        return [bucket for bucket in self._engine._own if not any(self._present[i] for i in bucket.indices)]

    def _arguments(self, bucket: Bucket) -> tuple[PartEngine, list[Any], Sequence[GroupStep], list[int] | None]:
        step_of = None if self._step_of is None else [self._step_of[i] for i in bucket.indices]
        grads = bucket.grads([self._present[i] for i in bucket.indices])
        return self._engine._engines[id(bucket)], grads, self._group_steps, step_of

    def _update(self, bucket: Bucket, elsewhere: Elsewhere) -> None:
        engine, grads, group_steps, step_of = self._arguments(bucket)
        if engine.step(grads, group_steps, step_of, NO_COUNTS, elsewhere) is None:
            raise RuntimeError("expected gradients that stay finite during a step, got others")

    def _norms(self) -> tuple[list[float], int | None]:
        """Return the norms of all arrays, and the index of the first that is not finite if the step skips those."""
        count = len(self._present)
        values = np.zeros(2 * count)
        for bucket in self._engine._own:
            if bucket not in self._live:
                continue
            engine, grads, group_steps, step_of = self._arguments(bucket)
            norms = engine.clipped_norms(list(grads), group_steps, step_of)
            xp = self._engine._peers.link.xp
            for i, grad, norm in zip(bucket.indices, grads, norms or [0.0] * len(grads), strict=True):
                values[i] = norm
                values[count + i] = norms is None and grad is not None and not bool(xp.isfinite(grad).all())
            if norms is None and not values[count:].any():  # they overflow when they are unscaled
                values[count + bucket.indices[0]] = 1
        values = self._engine._peers.link.all_sum(values)
        nonfinite = np.flatnonzero(values[count:])
        return values[:count].tolist(), int(nonfinite[0]) if len(nonfinite) else None

    def _sums(self, global_norm: float | None) -> tuple[float, ...]:
        """Return the sums over all arrays, added in the arrays' order."""
        each = core.RULES[self._group_steps[0].settings.variant].sums
        values = np.zeros((len(self._present), each))
        for bucket in self._engine._own:
            engine, grads, group_steps, step_of = self._arguments(bucket)
            for i, sums in zip(bucket.indices, engine.rule_sums(grads, group_steps, step_of, global_norm), strict=True):
                values[i] = sums
        total = self._engine._peers.link.all_sum(values.reshape(-1)).reshape(values.shape)
        return tuple(float(reduce(add, column, 0.0)) for column in total.T)


def _facts(group_steps: Sequence[GroupStep], param_states: Sequence[ParamState]) -> str:
    """Return what has to be equal on every rank: the options and constants of each group's step."""
    groups = group_steps[: 1 + max(param.group for param in param_states)]
    options = [dict(each.settings.options, lr=each.lr, grad_scale=each.grad_scale) for each in groups]
    return repr([(each.settings.variant, each.t, own) for each, own in zip(groups, options, strict=True)])
