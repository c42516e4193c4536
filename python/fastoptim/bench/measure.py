"""One row: the step, its limit and what both cost without elements, timed in turn."""

from __future__ import annotations

from collections.abc import Callable

from .check import check
from .results import Row, times_of
from .task import Task, configured, set_up
from .timing import Spread, interleave, summary, verdict


def measure(
    task: Task,
    *,
    seconds: float,
    rounds: int | None = None,
    block: int | None = None,
    on_round: Callable[[float], object] = lambda share: None,
) -> Row:
    """Checks the answer, then times it; the arguments are those of `interleave`."""
    checked = check(task)
    with configured(task):
        whole, empty = set_up(task), set_up(task.on(task.work.of_ones()))
        steps = {"step": whole.step, "limit": whole.limit, "fixed": empty.step, "fixed limit": empty.limit}
        times = interleave(steps, seconds=seconds, rounds=rounds, block=block, on_round=on_round)
    step, limit, fixed, limit_fixed = (summary(times[name]) for name in steps)
    return Row(
        optimizer=task.optimizer,
        options=dict(task.options),
        work=task.work.name,
        elements=task.work.elements,
        arrays=len(task.work.shapes),
        dtype=task.dtype,
        grad_dtype=task.grad_dtype,
        threads=task.threads,
        isa=task.isa,
        device=task.device,
        bytes=task.bytes_moved,
        seconds=times_of(step),
        limit_seconds=times_of(limit),
        fixed_seconds=times_of(fixed),
        limit_fixed_seconds=times_of(limit_fixed),
        share=limit.median / step.median,
        share_beyond_fixed=share_beyond(step, limit, fixed, limit_fixed),
        ns_per_element=step.median / task.work.elements * 1e9,
        gb_per_s=task.bytes_moved / step.median / 1e9,
        noise=verdict(times["step"], times["limit"]),
        checked_elements=checked,
    )


def share_beyond(step: Spread, limit: Spread, fixed: Spread, limit_fixed: Spread) -> float | None:
    """The limit's time over the step's, each without its fixed cost; None where that is no more than it varies."""
    own, other = step.median - fixed.median, limit.median - limit_fixed.median
    least = max(fixed.high - fixed.low, limit_fixed.high - limit_fixed.low)
    return other / own if min(own, other) > least else None
