"""One row: the step, its limit and what both cost without elements, timed in turn."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from statistics import median
from typing import Any

from . import gpu
from .check import check
from .machine import Watch
from .results import Row, blamed, times_of
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
        steps = {"step": whole.step, "fixed": empty.step}
        steps |= {f"limit {name}": limit for name, limit in whole.limits.items()}
        steps |= {f"fixed limit {name}": limit for name, limit in empty.limits.items()}
        watch = Watch()
        turn = partial(turn_around, [*whole.grads, *empty.grads])
        wait = gpu.waiting() if task.device == "cuda" else None
        times = interleave(
            steps, seconds=seconds, rounds=rounds, block=block, between=turn, on_round=on_round, wait=wait
        )
    others = watch.report()["others"]
    fastest = min(whole.limits, key=lambda name: median(times[f"limit {name}"]))
    step, fixed = summary(times["step"]), summary(times["fixed"])
    limit, limit_fixed = summary(times[f"limit {fastest}"]), summary(times[f"fixed limit {fastest}"])
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
        limit_isa=None if task.device == "cuda" else fastest,
        fixed_seconds=times_of(fixed),
        limit_fixed_seconds=times_of(limit_fixed),
        share=limit.median / step.median,
        share_beyond_fixed=share_beyond(step, limit, fixed, limit_fixed),
        ns_per_element=step.median / task.work.elements * 1e9,
        gb_per_s=task.bytes_moved / step.median / 1e9,
        noise=blamed(verdict(times["step"], times[f"limit {fastest}"]), others),
        checked_elements=checked,
    )


def turn_around(grads: Sequence[Any]) -> None:
    """Changes every sign.

    Where a gradient never changes, means of its changes (Adan's) decay until they are subnormal.  Arithmetic
    on those is slow, and no training sees it.
    """
    for g in grads:
        size = g.dtype.itemsize
        words = g.reshape(-1).view(f"u{size}")
        words ^= words.dtype.type(1 << (8 * size - 1))


def share_beyond(step: Spread, limit: Spread, fixed: Spread, limit_fixed: Spread) -> float | None:
    """The limit's time over the step's, each without its fixed cost; None where that is no more than it varies."""
    own, other = step.median - fixed.median, limit.median - limit_fixed.median
    least = max(fixed.high - fixed.low, limit_fixed.high - limit_fixed.low)
    return other / own if min(own, other) > least else None
