"""Measure on one GPU: the share of the bandwidth probe, the host's time per step, and steps in a CUDA graph.

    python bench/on_gpu.py --json FILE       the file is rewritten after each row

*share* is that of ``python -m fastoptim bench --device cuda``, whose blocks of steps include the host's time.  *host*
is the time in which a call of ``step`` returns, while the GPU is still busy.  *graph* is a replay with the constants of
the next step.  No GPU has run this yet.
"""

from __future__ import annotations

import argparse
import time
from pathlib import Path
from statistics import median
from typing import Any

from fastoptim.bench import machine, results
from fastoptim.bench.internals import check_workloads, make_optimizer
from fastoptim.bench.measure import measure
from fastoptim.bench.table import duration
from fastoptim.bench.timing import Step, interleave, summarize
from fastoptim.bench.workload import Workload, gpt2, name_size

LARGE_ROWS = (("adam", "float32"), ("adam", "bfloat16"), ("lamb", "float32"), ("sgd", "float32"))
HOST_CALLS = 20


def workloads_of(elements: int) -> list[Workload]:
    """Return large arrays of several rules and formats, and Adam over many arrays, which the host limits."""
    large = [Workload(name, name_size(elements), ((elements,),), kind, kind) for name, kind in LARGE_ROWS]
    many = [("gpt2", gpt2()), ("1,000 arrays of 256 (in L2)", ((256,),) * 1000)]
    return [*large, *(Workload("adam", name, shapes) for name, shapes in many)]


def time_host(step: Step, wait: Step) -> float:
    """Return the median seconds in which a call returns."""
    times = []
    for _ in range(HOST_CALLS):
        wait()
        begin = time.perf_counter()
        step()
        times.append(time.perf_counter() - begin)
    wait()
    return median(times)


def time_graph(workload: Workload, seconds: float) -> dict[str, Any]:
    """Time steps, their host part, and replays of one captured step."""
    cp = machine.import_cupy()
    with cp.cuda.Stream(non_blocking=True) as stream:
        opt, grads = make_optimizer(workload)
        opt.step(grads)
        host = time_host(lambda: opt.step(grads), stream.synchronize)
        stream.begin_capture()
        opt.step(grads)
        graph = stream.end_capture()

        def replay() -> None:
            opt.graph_step()
            graph.launch()

        steps: dict[str, Step] = {"step": lambda: opt.step(grads), "graph": replay}
        times = interleave(steps, seconds=seconds, wait=stream.synchronize)
    return {"host_seconds": host, **{f"{name}_seconds": summarize(found) for name, found in times.items()}}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--elements", type=int, default=2**27, help="of the large arrays")
    parser.add_argument("--seconds", type=float, default=2.0, help="time for each row")
    parser.add_argument("--json", type=Path, required=True)
    args = parser.parse_args()
    workloads = [Workload(**{**vars(workload), "device": "cuda"}) for workload in workloads_of(args.elements)]
    check_workloads(workloads)
    described, watch = machine.describe(with_gpu=True), machine.Watch()
    rows: list[Any] = []
    for workload in workloads:
        row = measure(workload, seconds=args.seconds)
        extra = time_graph(workload, args.seconds)
        rows.append({**row, **extra})
        shown = ", ".join(f"{n[:-8]} {duration(t if isinstance(t, float) else t['median'])}" for n, t in extra.items())
        print(
            f"{workload.optimizer} {workload.dtype} on {workload.name}: share {row['share']:.2f}, {shown}", flush=True
        )
        run = results.make_run(described, {"elements": args.elements, "seconds": args.seconds}, watch.report(), rows)
        results.write_json(args.json, run)


if __name__ == "__main__":
    main()
