"""The measurement of one row: the step, the probe, and the fixed cost of both, timed alternately."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import replace
from functools import partial
from statistics import median
from typing import Any

from . import machine
from .internals import check_answers, configured, count_bytes, make_optimizer, make_probes
from .results import Row, add_others, row_of
from .timing import Budget, OnRound, Step, Times, interleave, summarize, verdict
from .workload import Workload


def measure(workload: Workload, budget: Budget, on_round: OnRound = lambda share: None) -> Row:
    """Check the answer, then time it."""
    row = row_of(workload, check_answers(workload))
    on_gpu = workload.device == "cuda"
    # A graph cannot capture the default stream.
    own_stream = machine.import_cupy().cuda.Stream(non_blocking=True) if on_gpu else nullcontext()
    with configured(workload), own_stream as stream:
        steps, grads, memory = prepare(workload, stream)
        if base := workload.in_float32:
            other, others, _ = prepare(base)
            steps["float32"], grads = other["step"], [*grads, *others]
        fixed, ones, _ = prepare(replace(workload, shapes=((1,),) * len(workload.shapes)))
        watch = machine.Watch()
        times = interleave(
            steps | {f"fixed {name}": step for name, step in fixed.items()},
            budget,
            between=lambda: flip_signs([*grads, *ones]),
            on_round=on_round,
            wait=stream and stream.synchronize,
        )
    # Wider registers are not always faster.
    fastest = min((name for name in steps if name.startswith("probe")), key=lambda name: median(times[name]))
    names = ("step", fastest, "fixed step", f"fixed {fastest}")
    own, probe, own_fixed, probe_fixed = (summarize(times[name]) for name in names)
    moved, _ = count_bytes(workload)
    row |= Row(
        bytes=moved,
        memory_bytes=memory,
        seconds=own,
        probe_seconds=probe,
        probe_isa=None if on_gpu else fastest.removeprefix("probe "),
        fixed_seconds=own_fixed,
        probe_fixed_seconds=probe_fixed,
        share=probe["median"] / own["median"],
        share_beyond_fixed=share_beyond(own, probe, own_fixed, probe_fixed),
        ns_per_element=own["median"] / workload.elements * 1e9,
        gb_per_s=moved / own["median"] / 1e9,
        noise=add_others(verdict(times["step"], times[fastest]), watch.report()["others"]),
    )
    if base:
        row["float32_seconds"] = summarize(times["float32"])
    if on_gpu:
        row["graph_seconds"] = summarize(times["graph"])
    return row


def prepare(workload: Workload, stream: Any = None) -> tuple[dict[str, Step], list[Any], int]:
    """Return a step that has been taken once and the probes, by name, the gradients, and the bytes of all arrays.

    With a stream there is also a "graph": a step that the stream has captured, replayed with the next step's constants.
    """
    opt, grads = make_optimizer(workload)
    opt.step(grads)
    steps: dict[str, Step] = {"step": partial(opt.step, grads)}
    steps |= {f"probe {name}": partial(probe, 0) for name, probe in make_probes(opt, grads, workload).items()}
    if stream:
        stream.begin_capture()
        opt.step(grads)
        graph = stream.end_capture()

        def replay() -> None:
            opt.graph_step()
            graph.launch()

        steps["graph"] = replay
    arrays = [*grads, *(param.p for param in opt.param_states)]
    return steps, grads, opt.state_nbytes + sum(array.nbytes for array in arrays)


def flip_signs(grads: Sequence[Any]) -> None:
    """Change every sign.

    If a gradient never changes, parameters drift and means of its changes (Adan's) become zero: no training meets that.
    """
    for g in grads:
        size = g.dtype.itemsize
        words = g.reshape(-1).view(f"u{size}")
        words ^= words.dtype.type(1 << (8 * size - 1))


def share_beyond(step: Times, probe: Times, fixed: Times, probe_fixed: Times) -> float | None:
    """Return the share without the fixed costs; None if the rest is no longer than these vary."""
    own, other = step["median"] - fixed["median"], probe["median"] - probe_fixed["median"]
    least = max(times["high"] - times["low"] for times in (fixed, probe_fixed))
    return other / own if min(own, other) > least else None
