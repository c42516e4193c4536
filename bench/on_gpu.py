"""Steps on one GPU, timed by its own events: beside a copy of the same bytes, and beside other fused steps.

    python bench/on_gpu.py measure             # writes bench/results/GPU.json
    python bench/on_gpu.py table FILE          # Markdown of such a file, as the README has it

Three parts.  *copy*: every optimizer on one large float32 array, as a share of the time that a copy from the device to
itself takes for the same bytes, where the share of a step that reads 4 arrays and writes 3 is that of a copy of 3.5.
*adam*: Adam's step on one large array, on GPT-2's arrays and on 1,000 arrays of 256, ours beside torch.optim.Adam fused
and foreach, one cupy.ElementwiseKernel an array, and plain CuPy expressions; libraries that are not there are left
out with a line.  The host's time from call to call counts as well: a step takes the longer of the two.  Before anything
is timed, ours is compared with what the reference computes, bit for bit, and the others with ours.

Times are medians of rounds after a warm-up; gradients are other buffers in each step of a round.  This script has been
written without a GPU at hand, and its first run is still to come.
"""

from __future__ import annotations

import argparse
import json
import math
import platform
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from importlib import import_module
from itertools import chain
from pathlib import Path
from statistics import median
from typing import Any, NamedTuple

import numpy as np

import fastoptim as fo
from fastoptim.bench.models import gpt2

CHECKOUT = Path(__file__).parents[1]
sys.path.insert(0, str(CHECKOUT / "docs"))
from tables import bytes_moved  # noqa: E402  # the one place that counts them

SCHEMA = 1
Shape = tuple[int, ...]
Step = Callable[[int], Any]  # with the number of the gradients to take


class Work(NamedTuple):
    """Arrays to step, and how many sets of gradients to go around: what fits into a cache is to be driven out of it."""

    name: str
    shapes: list[Shape]
    gradients: int

    @property
    def elements(self) -> int:
        return sum(map(math.prod, self.shapes))


def works(elements: int) -> list[Work]:
    return [
        Work(f"one array of {elements:,}", [(elements,)], 2),
        Work("GPT-2 124M, 148 arrays", list(gpt2()), 2),
        Work("1,000 arrays of 256", [(256,)] * 1000, 8),
    ]


class Times(NamedTuple):
    """Seconds a step: the 10th, 50th and 90th percentile of so many rounds."""

    low: float
    median: float
    high: float
    rounds: int

    @classmethod
    def of(cls, seconds: Sequence[float]) -> Times:
        low, high = np.quantile(seconds, [0.1, 0.9]).tolist()
        return cls(low, median(seconds), high, len(seconds))


# ---- timing


def timed(step: Step, gradients: int, rounds: int, block: int) -> tuple[Times, Times]:
    """Of a step: the device's time, by events around a block of steps, and the host's time to hand one over."""
    cuda = import_module("cupy").cuda
    for i in range(max(3, block)):
        step(i % gradients)
    device, host = [], []
    for _ in range(rounds):
        cuda.get_current_stream().synchronize()
        begin, end = cuda.Event(), cuda.Event()
        begin.record()
        start = time.perf_counter()
        for i in range(block):
            step(i % gradients)
        host.append((time.perf_counter() - start) / block)
        end.record()
        end.synchronize()
        device.append(cuda.get_elapsed_time(begin, end) / 1000 / block)
    return Times.of(device), Times.of(host)


def bytes_a_second_of_a_copy(size: int, rounds: int) -> float:
    """Read and written by cudaMemcpyAsync from the device to itself."""
    cp = import_module("cupy")
    source, target = cp.ones(size, np.uint8), cp.empty(size, np.uint8)
    stream = cp.cuda.get_current_stream()

    def copy(_: int) -> None:
        target.data.copy_from_device_async(source.data, size, stream)

    device, _ = timed(copy, 1, rounds, 4)
    return 2 * size / device.median


# ---- every optimizer beside a copy


def beside_a_copy(elements: int, rounds: int, only: Sequence[str]) -> Iterator[dict[str, Any]]:
    cp = import_module("cupy")
    speed = bytes_a_second_of_a_copy(min(4 * elements, 2**32), rounds)
    for name, cls in fo.OPTIMIZERS.items():
        if only and name not in only:
            continue
        check_bits(cls)
        opt: Any = cls(cp.ones(elements, np.float32))
        grads = [cp.full(elements, value, np.float32) for value in (1e-3, -2e-3)]
        moved = bytes_moved(cls.check_options({}).variant) * elements
        device, host = timed(partial(take, opt.step, grads), 2, rounds, 4)
        limit = moved / speed
        yield {
            **{"part": "copy", "optimizer": name, "work": f"one array of {elements:,}", "elements": elements},
            **{"arrays": 1, "dtype": "float32", "bytes": moved, "seconds": device._asdict()},
            **{"host_seconds": host._asdict(), "limit_seconds": limit, "share": limit / device.median},
            "gb_per_s": moved / device.median / 1e9,
        }
        del opt, grads
        cp.get_default_memory_pool().free_all_blocks()


def take(step: Callable[[Any], Any], grads: Sequence[Any], i: int) -> None:
    step(grads[i])


def check_bits(cls: Any) -> None:
    """Three steps on the device against the reference."""
    cp = import_module("cupy")
    rng = np.random.default_rng(0)
    p = rng.standard_normal(10_007).astype(np.float32)
    there, here = cls(cp.asarray(p)), cls(p.copy(), backend="reference")
    for _ in range(3):
        g = rng.standard_normal(p.size).astype(np.float32)
        there.step(cp.asarray(g))
        here.step(g)
    if cp.asnumpy(there.params).tobytes() != here.params.tobytes():
        raise SystemExit(f"{cls.__name__}: the device's parameters are not the reference's")


# ---- Adam beside others'

LR, BETA1, BETA2, EPS = 1e-3, 0.9, 0.999, 1e-8


class Rival(NamedTuple):
    """A step over arrays of its own, and how to read those."""

    step: Step
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


def beside_others(elements: int, rounds: int) -> Iterator[dict[str, Any]]:
    cp = import_module("cupy")
    rng = cp.random.default_rng(0)
    for work in works(elements):
        expected: list[Any] | None = None
        grads = [
            [rng.random(shape, np.float32) - np.float32(0.5) for shape in work.shapes] for _ in range(work.gradients)
        ]
        for name, (library, make) in RIVALS.items():
            if not has(library):
                print(f"{name}: left out, as {library} is not installed", file=sys.stderr)
                continue
            params = [cp.full(shape, 0.5, np.float32) for shape in work.shapes]
            rival = make(params, grads)
            for i in range(3):
                rival.step(i % work.gradients)
            if expected is None:
                expected = [p.copy() for p in rival.params()]
            elif not all(
                cp.allclose(a, b, rtol=1e-5, atol=1e-6) for a, b in zip(rival.params(), expected, strict=True)
            ):
                raise SystemExit(f"{name} on {work.name}: computes something else")
            device, host = timed(rival.step, work.gradients, rounds, 20 if work.elements < 10**7 else 4)
            yield {
                **{"part": "adam", "optimizer": "adam", "by": name, "work": work.name, "elements": work.elements},
                **{"arrays": len(work.shapes), "dtype": "float32", "seconds": device._asdict()},
                "host_seconds": host._asdict(),
            }
            del rival, params
            cp.get_default_memory_pool().free_all_blocks()


def has(library: str) -> bool:
    try:
        return library == "cupy" or bool(import_module(library).cuda.is_available())
    except ImportError:
        return False


# ---- commands


def machine() -> dict[str, Any]:
    cp = import_module("cupy")
    properties = cp.cuda.runtime.getDeviceProperties(0)
    found = {name: getattr(sys.modules.get(name), "__version__", None) for name in ("numpy", "cupy", "torch")}
    info = fo.build_info()
    return {
        "gpu": properties["name"].decode(),
        "memory_bytes": properties["totalGlobalMem"],
        "driver": cp.cuda.runtime.driverGetVersion(),
        "cuda": info["cuda"],
        "cuda_architectures": info["cuda_architectures"],
        "fastoptim": info["version"],
        "python": platform.python_version(),
        "system": f"{platform.system()} {platform.release()} {platform.machine()}",
        **found,
    }


def measure(arguments: argparse.Namespace) -> None:
    if arguments.dry_run:
        for name, cls in fo.OPTIMIZERS.items():
            if not arguments.only or name in arguments.only:
                moved = bytes_moved(cls.check_options({}).variant)
                print(f"copy  {name:<20}{moved:>4} bytes an element, {moved * arguments.elements / 1e9:8.1f} GB a step")
        for work in works(arguments.elements):
            print(f"adam  {work.name}, {work.elements:,} elements: {', '.join(RIVALS)}")
        return
    if fo.build_info()["cuda"] in (None, "emulated"):
        raise SystemExit("this fastoptim was built without CUDA")
    others = iter(()) if arguments.only else beside_others(arguments.elements, arguments.rounds)
    rows = []
    for row in chain(others, beside_a_copy(arguments.elements, arguments.rounds, arguments.only)):
        rows.append(row)
        print(line_of(row), flush=True)
    found = machine()
    settings = {"elements": arguments.elements, "rounds": arguments.rounds}
    target = arguments.output / f"{found['gpu'].removeprefix('NVIDIA ').lower().replace(' ', '_')}.json"
    target.parent.mkdir(parents=True, exist_ok=True)
    results = {"schema": SCHEMA, "machine": found, "settings": settings, "rows": rows}
    target.write_text(json.dumps(results, indent=1) + "\n", encoding="utf-8")
    print(f"written: {target}")


def a_step(row: dict[str, Any]) -> float:
    """Steps follow each other as fast as the slower of device and host."""
    return float(max(row["seconds"]["median"], row["host_seconds"]["median"]))


def line_of(row: dict[str, Any]) -> str:
    share = f", {row['share']:.2f} of a copy, {row['gb_per_s']:,.0f} GB/s" if row["part"] == "copy" else ""
    taken = f"{a_step(row) * 1e6:,.1f} us (host {row['host_seconds']['median'] * 1e6:,.1f})"
    return f"{row.get('by', row['optimizer'])} on {row['work']}: {taken}{share}"


def table(arguments: argparse.Namespace) -> None:
    """Markdown: Adam beside others', then each optimizer's share of a copy, the smallest first."""
    results = json.loads(arguments.file.read_text(encoding="utf-8"))
    rows, found = results["rows"], results["machine"]
    adam = [row for row in rows if row["part"] == "adam"]
    names = list(dict.fromkeys(row["by"] for row in adam))
    print(f"On one {found['gpu']}, CUDA {found['cuda']}, CuPy {found['cupy']}, PyTorch {found['torch']}:\n")
    print("| Adam, float32 | " + " | ".join(names) + " |\n|---" + "|---" * len(names) + "|")
    for work in dict.fromkeys(row["work"] for row in adam):
        times = {row["by"]: a_step(row) for row in adam if row["work"] == work}
        print(f"| {work} | " + " | ".join(f"{times[n] * 1e6:,.0f} us" if n in times else "" for n in names) + " |")
    print("\n| optimizer | share of a copy | GB/s |\n|---|---|---|")
    for row in sorted((row for row in rows if row["part"] == "copy"), key=lambda row: float(row["share"])):
        print(f"| `{row['optimizer']}` | {row['share']:.2f} | {row['gb_per_s']:,.0f} |")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = parser.add_subparsers(required=True)
    measuring = commands.add_parser("measure", help="time everything and write the results")
    measuring.add_argument("--elements", type=int, default=2**28, help="of the large array")
    measuring.add_argument("--rounds", type=int, default=30)
    measuring.add_argument("--only", nargs="*", default=[], help="these optimizers alone, and only beside a copy")
    measuring.add_argument("--output", type=Path, default=CHECKOUT / "bench" / "results", help="a directory")
    measuring.add_argument("--dry-run", action="store_true", help="say what would be measured; needs no GPU")
    measuring.set_defaults(run=measure)
    showing = commands.add_parser("table", help="Markdown of a file of results")
    showing.add_argument("file", type=Path)
    showing.set_defaults(run=table)
    arguments = parser.parse_args()
    arguments.run(arguments)


if __name__ == "__main__":
    main()
