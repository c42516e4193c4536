"""Steps on one GPU: every optimizer beside its limit, and Adam's beside other fused steps.

    python bench/on_gpu.py measure             # writes bench/results/GPU.json
    python bench/on_gpu.py table FILE          # Markdown of such a file, as the README has it

Two parts.  *limit*: every optimizer on one large float32 array, as ``python -m fastoptim bench --device cuda`` does it.
*adam*: Adam's step on one large array, on GPT-2's arrays and on 1,000 arrays of 256, ours beside torch.optim.Adam fused
and foreach, one cupy.ElementwiseKernel an array, and plain CuPy expressions; libraries that are not there are left out
with a line.  All of them step in turn, by `fastoptim.bench.timing`; before that ours is compared with the reference,
bit for bit, and the others with ours.

Times are those of a block of steps with a wait behind it, so that a step takes the longer of the host's time and the
device's; gradients are other buffers in each step.  This script has been written without a GPU at hand, and its first
run is still to come.
"""

from __future__ import annotations

import argparse
import json
import math
import sys
from collections.abc import Callable, Iterator, Sequence
from importlib import import_module
from itertools import chain, count
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

import fastoptim as fo
from fastoptim.bench import gpu
from fastoptim.bench.check import check
from fastoptim.bench.machine import describe
from fastoptim.bench.measure import measure
from fastoptim.bench.models import Work, model, one_array
from fastoptim.bench.results import times_of
from fastoptim.bench.task import Task, refuse
from fastoptim.bench.timing import Step, interleave, summary, verdict

CHECKOUT = Path(__file__).parents[1]

SCHEMA = 2
Taking = Callable[[int], Any]  # a step with the number of the gradients to take


class Race(NamedTuple):
    """What is stepped, and how many sets of gradients go around: what fits into a cache is to be driven out of it."""

    work: Work
    gradients: int


def races(elements: int) -> list[Race]:
    many = Work("1,000 arrays of 256", ((256,),) * 1000)
    return [Race(one_array(elements), 2), Race(model("gpt2"), 2), Race(many, 8)]


# ---- every optimizer beside its limit


def task_of(name: str, work: Work) -> Task:
    return Task(name, work, threads=None, isa=None, device="cuda")


def beside_the_limit(elements: int, seconds: float, only: Sequence[str]) -> Iterator[dict[str, Any]]:
    tasks = [task_of(name, one_array(elements)) for name in only or fo.OPTIMIZERS]
    refuse(tasks)
    for task in tasks:
        yield {"part": "limit", **measure(task, seconds=seconds)}
        gpu.cupy().get_default_memory_pool().free_all_blocks()


# ---- Adam beside others'

LR, BETA1, BETA2, EPS = 1e-3, 0.9, 0.999, 1e-8


class Rival(NamedTuple):
    """A step over arrays of its own, and how to read those."""

    step: Taking
    params: Callable[[], list[Any]]


def ours(params: list[Any], grads: list[list[Any]]) -> Rival:
    opt = fo.Adam(params)
    return Rival(lambda i: opt.step(grads[i]), lambda: params)


def torch_adam(params: list[Any], grads: list[list[Any]], how: str) -> Rival:
    torch: Any = import_module("torch")
    tensors = [torch.nn.Parameter(torch.as_tensor(p, device="cuda").clone()) for p in params]
    given = [[torch.as_tensor(g, device="cuda").clone() for g in some] for some in grads]
    opt = torch.optim.Adam(tensors, lr=LR, betas=(BETA1, BETA2), eps=EPS, **{how: True})

    def step(i: int) -> None:
        for tensor, grad in zip(tensors, given[i], strict=True):
            tensor.grad = grad
        opt.step()

    cp = import_module("cupy")
    return Rival(step, lambda: [cp.asarray(tensor.detach()) for tensor in tensors])


def corrections(count: int) -> tuple[float, float]:
    """Adam's rate and what the root is multiplied by in that step, for the moments' start at zero."""
    return LR / (1 - BETA1**count), 1 / math.sqrt(1 - BETA2**count)


def elementwise_adam(params: list[Any], grads: list[list[Any]]) -> Rival:
    cp = import_module("cupy")
    kernel = cp.ElementwiseKernel(
        "float32 g, float32 rate, float32 root, float32 eps",
        "float32 p, float32 m, float32 v",
        f"""
        m += {1 - BETA1}f * (g - m);
        v += {1 - BETA2}f * (g * g - v);
        p -= rate * m / (sqrtf(v) * root + eps);
        """,
        "adam",
    )
    states = [(cp.zeros_like(p), cp.zeros_like(p)) for p in params]
    count = 0

    def step(i: int) -> None:
        nonlocal count
        count += 1
        rate, root = corrections(count)
        for p, g, (m, v) in zip(params, grads[i], states, strict=True):
            kernel(g, np.float32(rate), np.float32(root), np.float32(EPS), p, m, v)

    return Rival(step, lambda: params)


def plain_adam(params: list[Any], grads: list[list[Any]]) -> Rival:
    cp = import_module("cupy")
    states = [(cp.zeros_like(p), cp.zeros_like(p)) for p in params]
    count = 0

    def step(i: int) -> None:
        nonlocal count
        count += 1
        rate, root = corrections(count)
        for p, g, (m, v) in zip(params, grads[i], states, strict=True):
            m += (1 - BETA1) * (g - m)
            v += (1 - BETA2) * (g * g - v)
            p -= rate * m / (cp.sqrt(v) * root + EPS)

    return Rival(step, lambda: params)


RIVALS: dict[str, tuple[str, Callable[[list[Any], list[list[Any]]], Rival]]] = {
    "fastoptim": ("cupy", ours),
    "torch fused": ("torch", lambda params, grads: torch_adam(params, grads, "fused")),
    "torch foreach": ("torch", lambda params, grads: torch_adam(params, grads, "foreach")),
    "cupy.ElementwiseKernel": ("cupy", elementwise_adam),
    "CuPy, unfused": ("cupy", plain_adam),
}


def beside_others(elements: int, seconds: float) -> Iterator[dict[str, Any]]:
    cp = import_module("cupy")
    check(task_of("adam", one_array(10_007)))
    rng = cp.random.default_rng(0)
    for work, gradients in races(elements):
        grads = [[rng.random(shape, np.float32) - np.float32(0.5) for shape in work.shapes] for _ in range(gradients)]
        rivals = dict(prepared(work, grads))
        steps = {name: in_turn(rival.step, gradients) for name, rival in rivals.items()}
        times = interleave(steps, seconds=seconds * len(steps), wait=gpu.waiting())
        for name, taken in times.items():
            yield {
                **{"part": "adam", "optimizer": "adam", "by": name, "work": work.name, "elements": work.elements},
                **{"arrays": len(work.shapes), "dtype": "float32", "seconds": times_of(summary(taken))},
                "noise": verdict(taken, times["fastoptim"]),
            }
        del rivals, steps, grads
        cp.get_default_memory_pool().free_all_blocks()


def prepared(work: Work, grads: list[list[Any]]) -> Iterator[tuple[str, Rival]]:
    """Each that is there, after three steps that were compared with ours."""
    cp = import_module("cupy")
    expected: list[Any] = []
    for name, (library, make) in RIVALS.items():
        if not has(library):
            print(f"{name}: left out, as {library} is not installed", file=sys.stderr)
            continue
        rival = make([cp.full(shape, 0.5, np.float32) for shape in work.shapes], grads)
        for i in range(3):
            rival.step(i % len(grads))
        expected = expected or [p.copy() for p in rival.params()]
        pairs = zip(rival.params(), expected, strict=True)
        if not all(cp.allclose(a, b, rtol=1e-5, atol=1e-6) for a, b in pairs):
            raise SystemExit(f"{name} on {work.name}: computes something else")
        yield name, rival


def in_turn(step: Taking, gradients: int) -> Step:
    """Each step with the next set of gradients."""
    steps = count()
    return lambda: step(next(steps) % gradients)


def has(library: str) -> bool:
    try:
        return library == "cupy" or bool(import_module(library).cuda.is_available())
    except ImportError:
        return False


# ---- commands


def run(arguments: argparse.Namespace) -> None:
    if arguments.dry_run:
        for name in arguments.only or fo.OPTIMIZERS:
            moved = task_of(name, one_array(arguments.elements)).bytes_moved
            print(f"limit {name:<20}{moved // arguments.elements:>4} bytes an element, {moved / 1e9:8.1f} GB a step")
        for work, _ in races(arguments.elements):
            print(f"adam  {work.name}, {work.elements:,} elements: {', '.join(RIVALS)}")
        return
    if fo.build_info()["cuda"] in (None, "emulated"):
        raise SystemExit("this fastoptim was built without CUDA")
    others = iter(()) if arguments.only else beside_others(arguments.elements, arguments.seconds)
    found = describe(with_gpu=True)
    settings = {"elements": arguments.elements, "seconds": arguments.seconds}
    name = found["gpu"]["name"].removeprefix("NVIDIA ").lower().replace(" ", "_")
    target = arguments.output / f"{name}.json"
    target.parent.mkdir(parents=True, exist_ok=True)
    rows: list[dict[str, Any]] = []
    for row in chain(others, beside_the_limit(arguments.elements, arguments.seconds, arguments.only)):
        rows.append(row)
        print(line_of(row), flush=True)
        found["torch"] = getattr(sys.modules.get("torch"), "__version__", None)
        # Anew after each row: what comes later may fail, or take too long.
        results = {"schema": SCHEMA, "machine": found, "settings": settings, "rows": rows}
        target.write_text(json.dumps(results, indent=1) + "\n", encoding="utf-8")
    print(f"written: {target}")


def line_of(row: dict[str, Any]) -> str:
    share = f", {row['share']:.2f} of the limit, {row['gb_per_s']:,.0f} GB/s" if row["part"] == "limit" else ""
    taken = f"{row['seconds']['median'] * 1e6:,.1f} us"
    return f"{row.get('by', row['optimizer'])} on {row['work']}: {taken}{share} ({row['noise']})"


def table(arguments: argparse.Namespace) -> None:
    """Markdown: Adam beside others', then each optimizer's share of its limit, the smallest first."""
    results = json.loads(arguments.file.read_text(encoding="utf-8"))
    rows, found = results["rows"], results["machine"]
    adam = [row for row in rows if row["part"] == "adam"]
    names = list(dict.fromkeys(row["by"] for row in adam))
    gpu = found["gpu"]
    print(f"On one {gpu['name']}, CUDA {found['cuda']}, CuPy {gpu['cupy']}, PyTorch {found['torch']}:\n")
    print("| Adam, float32 | " + " | ".join(names) + " |\n|---" + "|---" * len(names) + "|")
    for work in dict.fromkeys(row["work"] for row in adam):
        times = {row["by"]: row["seconds"]["median"] for row in adam if row["work"] == work}
        print(f"| {work} | " + " | ".join(f"{times[n] * 1e6:,.0f} us" if n in times else "" for n in names) + " |")
    print("\n| optimizer | share of the limit | GB/s |\n|---|---|---|")
    for row in sorted((row for row in rows if row["part"] == "limit"), key=lambda row: float(row["share"])):
        print(f"| `{row['optimizer']}` | {row['share']:.2f} | {row['gb_per_s']:,.0f} |")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = parser.add_subparsers(required=True)
    measuring = commands.add_parser("measure", help="time everything and write the results")
    measuring.add_argument("--elements", type=int, default=2**27, help="of the large array")
    measuring.add_argument("--seconds", type=float, default=2.0, help="how long a step is timed with its limit")
    measuring.add_argument(
        "--only",
        nargs="*",
        default=[],
        choices=list(fo.OPTIMIZERS),
        metavar="OPTIMIZER",
        help="these optimizers alone, and only beside their limit",
    )
    measuring.add_argument("--output", type=Path, default=CHECKOUT / "bench" / "results", help="a directory")
    measuring.add_argument("--dry-run", action="store_true", help="say what would be measured; needs no GPU")
    measuring.set_defaults(run=run)
    showing = commands.add_parser("table", help="Markdown of a file of results")
    showing.add_argument("file", type=Path)
    showing.set_defaults(run=table)
    arguments = parser.parse_args()
    arguments.run(arguments)


if __name__ == "__main__":
    main()
