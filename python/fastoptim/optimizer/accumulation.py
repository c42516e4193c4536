"""Gradients of several batches, summed in buffers of the optimizer until a step takes them.

The sum is a step of plain gradient descent on the buffers, ``buffer -= 1 * -g``, whose only rounding is that of the
addition: one native call for all arrays, with the checks, formats and devices of any step.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import TYPE_CHECKING, Any, Literal

from .. import core
from ..arrays.checks import check_whole
from ..arrays.param_state import ParamState

if TYPE_CHECKING:
    from .protocols import OptimizerParts

ACCUMULATED: Any = object()
"""The default of `step`: the gradients that `accumulate` has summed."""

Accumulation = Literal["mean", "sum"]


class Accumulates:
    """The method of an optimizer that sums gradients."""

    def accumulate(self: Any, grads: Any) -> None:
        """Add gradients to a sum, which the next ``step()`` without gradients takes.

        `grads` has the structure of `params`, as for `step`.  None adds nothing; an array for which every gradient was
        None has none in the step.  The sum is in the compute type (float64 for float64 parameters, otherwise
        float32), and is added in the order of the calls.  It costs the memory of one more state array, which is kept
        for the next sum.

        ``step()`` divides by the number of calls, as Keras and optax do; ``step(accumulation="sum")`` does not.  It
        clips, checks and decays as any step, and counts as one.  If it is skipped or raises a FloatingPointError, the
        sum is dropped.  State dicts, copies and pickles contain the pending sum.

        Raises:
            The errors of `step` for wrong gradients, and TypeError for `Rows`, since a step by the sum would change
            every row.  Nothing has been added then.

        >>> import numpy as np, fastoptim as fo
        >>> p = np.array([1.0])
        >>> opt = fo.SGD(p, lr=0.5)
        >>> opt.accumulate(np.array([1.0]))
        >>> opt.accumulate(np.array([2.0]))
        >>> opt.step()
        >>> p
        array([0.25])
        """
        accumulate(self, grads)


class Accumulator:
    """The buffers of an optimizer, as the parameters of another one that has taken a step for each addition."""

    def __init__(self, optimizer: OptimizerParts) -> None:
        buffers = [replace(param, schema={}).allocate("sum") for param in optimizer.param_states]
        self.adder = optimizer._adder()(buffers, lr=1.0, maximize=True, backend=optimizer.backend)
        self.adder.param_states[:] = [
            replace(own, place=param.place, p_place=f"the sum of grads{param.place}")
            for own, param in zip(self.buffers, optimizer.param_states, strict=True)
        ]
        self.begun_at = optimizer._step_count

    @property
    def buffers(self) -> list[ParamState]:
        """The buffers."""
        buffers: list[ParamState] = self.adder.param_states
        return buffers

    def count_of(self, index: int) -> int:
        """Return the number of gradients in a buffer."""
        return int(self.adder.step_count - self.adder._missed.get(index, 0))

    def assign(self, begun_at: int, count: int, missed: dict[int, int], sums: Mapping[str, Any] | None = None) -> None:
        """Replace the sums, by zeros if there are none."""

        def assign() -> None:
            for buffer in self.buffers:
                buffer.family.assign(buffer.p, 0.0 if sums is None else sums[buffer.place])
            self.adder._counts[:] = count, missed
            self.begun_at = begun_at

        self.begun_at = -1
        core.complete(assign)


def accumulate(optimizer: OptimizerParts, grads: Any) -> None:
    """Add gradients to the sums; see `Accumulates.accumulate`."""
    optimizer.check_not_swapped()
    flat = optimizer._structure.match(grads, "grads")
    for param, grad in zip(optimizer.param_states, flat, strict=True):
        check_whole(grad, param.g_place)
    for param in optimizer.param_states[:1]:
        param.family.check_takes_place(param.p)
    if optimizer._accumulator is None:
        optimizer._accumulator = Accumulator(optimizer)
    accumulator = optimizer._accumulator
    if accumulator.begun_at != optimizer._step_count:  # the sums of an earlier step
        accumulator.assign(optimizer._step_count, 0, {})
    optimizer._fast_path = None  # so that a step with other gradients is noticed
    accumulator.adder.step(flat)


def pending(optimizer: OptimizerParts) -> int:
    """Return the number of additions since the last step."""
    accumulator = optimizer._accumulator
    if accumulator is None or accumulator.begun_at != optimizer._step_count:
        return 0
    return int(accumulator.adder.step_count)


def check_none_pending(optimizer: OptimizerParts, call: str) -> None:
    """Raise RuntimeError if a sum waits for its step."""
    if count := pending(optimizer):
        raise RuntimeError(
            f"{call}: expected step() without gradients first, which takes the sum of the {count} accumulated ones"
        )


def take(optimizer: OptimizerParts, accumulation: Accumulation) -> tuple[list[Any], int]:
    """Return the sums, None without a gradient, and the number to divide them by; raise RuntimeError without any."""
    count, accumulator = pending(optimizer), optimizer._accumulator
    if not count or accumulator is None:
        raise RuntimeError("step: expected gradients, or calls of accumulate before; got neither")
    flat = [buffer.p if accumulator.count_of(i) else None for i, buffer in enumerate(accumulator.buffers)]
    return flat, count if accumulation == "mean" else 1


def drop(optimizer: OptimizerParts) -> None:
    """Forget the sums, as after a skipped step."""
    if optimizer._accumulator is not None:
        optimizer._accumulator.begun_at = -1


def saved(optimizer: OptimizerParts) -> dict[str, Any] | None:
    """Return the sums that wait for a step, by the paths of their arrays, or None."""
    count, accumulator = pending(optimizer), optimizer._accumulator
    if not count or accumulator is None:
        return None
    return {
        "count": count,
        "counts": {buffer.place: accumulator.count_of(i) for i, buffer in enumerate(accumulator.buffers)},
        "sums": {buffer.place: buffer.family.to_numpy(buffer.p) for buffer in accumulator.buffers},
    }


def restored(optimizer: OptimizerParts, entry: Mapping[str, Any] | None, step_count: int) -> Accumulator | None:
    """Return the accumulator of an optimizer with such an entry, which has been checked."""
    if entry is None:
        return None
    accumulator = Accumulator(optimizer)
    count = entry["count"]
    counts = [entry["counts"][buffer.place] for buffer in accumulator.buffers]
    missed = {i: count - own for i, own in enumerate(counts) if own != count}
    accumulator.assign(step_count, count, missed, entry["sums"])
    return accumulator
