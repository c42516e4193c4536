"""The measurement of one row: the step, the probe, and the fixed cost of both, timed alternately."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from statistics import median
from typing import Any

from . import machine
from .internals import bytes_moved, check_answers, configured, make_optimizer, make_probes
from .results import Row, add_others, row_of
from .timing import Step, Times, interleave, summarize, verdict
from .workload import Workload


def measure(
    workload: Workload,
    *,
    seconds: float,
    rounds: int | None = None,
    block: int | None = None,
    on_round: Callable[[float], object] = lambda share: None,
) -> Row:
    """Check the answer, then time it; the arguments are those of `interleave`."""
    row = row_of(workload, check_answers(workload))
    with configured(workload):
        (step, probes, grads), (fixed, fixed_probes, ones) = map(
            prepare, (workload, workload.with_shapes(*[(1,)] * len(workload.shapes)))
        )
        steps = {"step": step, "fixed": fixed}
        steps |= {f"probe {isa}": probe for isa, probe in probes.items()}
        steps |= {f"fixed probe {isa}": probe for isa, probe in fixed_probes.items()}
        watch = machine.Watch()
        on_gpu = workload.device == "cuda"
        times = interleave(
            steps,
            seconds=seconds,
            rounds=rounds,
            block=block,
            between=lambda: flip_signs([*grads, *ones]),
            on_round=on_round,
            wait=machine.import_cupy().cuda.get_current_stream().synchronize if on_gpu else None,
        )
    fastest = min(probes, key=lambda isa: median(times[f"probe {isa}"]))  # wider registers are not always faster
    own, probe = summarize(times["step"]), summarize(times[f"probe {fastest}"])
    own_fixed, probe_fixed = summarize(times["fixed"]), summarize(times[f"fixed probe {fastest}"])
    row["bytes"] = bytes_moved(workload)
    row["seconds"], row["probe_seconds"] = own, probe
    row["probe_isa"] = None if on_gpu else fastest
    row["fixed_seconds"], row["probe_fixed_seconds"] = own_fixed, probe_fixed
    row["share"] = probe["median"] / own["median"]
    row["share_beyond_fixed"] = share_beyond(own, probe, own_fixed, probe_fixed)
    row["ns_per_element"] = own["median"] / workload.elements * 1e9
    row["gb_per_s"] = row["bytes"] / own["median"] / 1e9
    row["noise"] = add_others(verdict(times["step"], times[f"probe {fastest}"]), watch.report()["others"])
    return row


def prepare(workload: Workload) -> tuple[Step, dict[str, Step], list[Any]]:
    """Return a step that has been taken once, the probes over the same arrays, and the gradients."""
    opt, grads = make_optimizer(workload)
    opt.step(grads)
    probes = make_probes(opt, grads, workload)
    return partial(opt.step, grads), {isa: partial(probe, 0) for isa, probe in probes.items()}, grads


def flip_signs(grads: Sequence[Any]) -> None:
    """Change every sign.

    If a gradient never changes, means of its changes (Adan's) decay until they are subnormal.  Arithmetic with those is
    slow, and no training meets it.
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
