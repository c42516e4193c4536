"""Time Adam's step in the conditions of real programs: other libraries' threads, busy processors, pauses.

Each situation has several processes of its own, one after another, because the same step differs by tens of per cent
from process to process.  In each, the ways to run a step alternate over the same arrays.  A figure is the median over
turns of a turn's mean: the mean contains the stalls that a median would hide.

    python bench/threads.py                                 # the table of situations
    python bench/threads.py --situation idle "numpy products" --size 2^16 2^20
    python bench/threads.py --network                       # a training loop in NumPy, by hand and with fo.Adam
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor
from contextlib import ExitStack
from functools import cache, partial
from importlib import import_module
from itertools import product
from multiprocessing import get_context
from pathlib import Path
from statistics import fmean
from typing import Any, NamedTuple

import numpy as np

#: A process imports the module that this variable names before fastoptim.
IMPORTED_FIRST = "FASTOPTIM_BENCH_IMPORTED_FIRST"
if first := os.environ.get(IMPORTED_FIRST):
    import_module(first)

import fastoptim as fo  # noqa: E402
from fastoptim.bench.cli import parse_count, parse_seconds, parse_size  # noqa: E402
from fastoptim.bench.table import format_table  # noqa: E402
from fastoptim.bench.workload import name_size  # noqa: E402


class Situation(NamedTuple):
    """A program around the steps, and what else the machine does; code as for `timeit`."""

    setup: str = ""
    between: str = "None"  # two steps
    first: str = ""  # a module that is imported before fastoptim
    processes: int = 1  # that step at the same time
    busy: int = 0  # further processes that only use processors
    quota: bool = False


TORCH = "import torch; a, b = torch.from_numpy(a), torch.from_numpy(b)"
SKLEARN = "from sklearn.metrics import pairwise_distances_argmin as argmin; b = b.T[:, :1].repeat(784, 1)"
SITUATIONS = {
    "idle": Situation(),
    "numpy products": Situation(between="a @ b"),
    "torch products, torch first": Situation(TORCH, "a @ b", "torch"),
    "torch products, torch last": Situation(TORCH, "a @ b"),
    "scikit-learn": Situation(SKLEARN, "argmin(a, b)"),
    "jax": Situation("import jax; product = jax.jit(lambda a, b: a @ b)", "product(a, b).block_until_ready()"),
    "sleep 2 ms": Situation(between="time.sleep(0.002)"),
    "one busy process": Situation(busy=1),
    "two busy processes": Situation(busy=2),
    "affinity reduced": Situation("os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})"),
    "quota of one CPU": Situation(quota=True),
    "two trainings": Situation(processes=2),
}
WAYS = {"one thread": "serial", "default": "auto", "pool": "pool", "openmp": "openmp"}  # and their threading layers
PAUSE = 0.03  # seconds between turns, in which OpenMP's threads fall asleep

Timer = Callable[..., float]  # seconds per step of a turn

# ---- processes


def start(stack: ExitStack, make: Callable[..., Timer], *arguments: Any, first: str = "") -> ProcessPoolExecutor:
    """Start a process that calls `make(*arguments)`; it ends with the stack."""
    os.environ[IMPORTED_FIRST] = first
    return stack.enter_context(ProcessPoolExecutor(1, get_context("spawn"), begin, (make, *arguments)))


def begin(make: Callable[..., Timer], *arguments: Any) -> None:
    globals()["timer"] = make(*arguments)


def call_timer(*command: Any) -> float:
    seconds: float = globals()["timer"](*command)
    return seconds


def take_turn(processes: Sequence[ProcessPoolExecutor], *command: Any) -> float:
    """Return the mean result of simultaneous turns."""
    turns = [process.submit(call_timer, *command) for process in processes]
    found = fmean([turn.result() for turn in turns])
    time.sleep(PAUSE)
    return found


def time_loop(step: Callable[[], object], seconds: float, before: Callable[[], object] = lambda: None) -> float:
    """Return the mean seconds of a step in a loop with something untimed before each; the first three do not count."""
    times: list[float] = []
    end = time.perf_counter() + seconds
    while len(times) < 4 or time.perf_counter() < end:
        before()
        begin = time.perf_counter()
        step()
        times.append(time.perf_counter() - begin)
    return fmean(times[3:])


# ---- situations


def make_situation(situation: Situation) -> Timer:
    """Return a timer of (way, elements, seconds)."""
    names = {"os": os, "time": time, "a": np.ones((64, 784), np.float32), "b": np.ones((784, 256), np.float32)}
    exec(situation.setup, names)
    between = eval(f"lambda: {situation.between}", names)

    @cache
    def step_of(size: int) -> Callable[[], object]:
        return partial(fo.Adam(np.ones(size, np.float32), lr=1e-3).step, np.ones(size, np.float32))

    def timer(way: str, size: int, seconds: float) -> float:
        fo.set_threading(WAYS[way])
        return time_loop(step_of(size), seconds, between)

    return timer


def make_quota() -> Path:
    """Make a cgroup with a quota of one CPU; OSError if cgroups cannot be written."""
    v1, v2 = Path("/sys/fs/cgroup/cpu"), Path("/sys/fs/cgroup")
    group = (v1 if v1.is_dir() else v2) / f"fastoptim-bench-{os.getpid()}"
    group.mkdir()
    file, quota = ("cpu.cfs_quota_us", "100000") if v1.is_dir() else ("cpu.max", "100000 100000")
    (group / file).write_text(quota)
    return group


def measure(situation: Situation, args: argparse.Namespace) -> Any:
    """Return the mean seconds of a step by turn, size and way."""
    with ExitStack() as stack:
        group = make_quota() if situation.quota else None
        if group:
            stack.callback(group.rmdir)  # after the processes have ended
        count = range(situation.processes)
        processes = [start(stack, make_situation, situation, first=situation.first) for _ in count]
        if group:
            (group / "cgroup.procs").write_text(str(processes[0].submit(os.getpid).result()))
        for way in args.way:  # imports and first steps
            take_turn(processes, way, args.size[0], 0.01)
        for _ in range(situation.busy):
            busy = stack.enter_context(subprocess.Popen([sys.executable, "-c", "while True: pass"]))
            stack.callback(busy.kill)
        turns = [product(args.size, args.way) for _ in range(args.rounds)]
        times = [[take_turn(processes, way, size, args.seconds) for size, way in turn] for turn in turns]
    return np.reshape(times, (args.rounds, len(args.size), len(args.way)))


def show_situations(args: argparse.Namespace) -> None:
    for name in args.situation:
        try:
            found = np.concatenate([measure(SITUATIONS[name], args) for _ in range(args.processes)])
        except OSError as error:
            print(f"\n{name}: not measured: {error}", flush=True)
            continue
        by_way = {way: found[:, :, i] for i, way in enumerate(args.way)}
        rows = [[f"{name}, us", *map(name_size, args.size)]]
        rows += [[way, *(f"{t * 1e6:,.0f}" for t in np.median(of, axis=0))] for way, of in by_way.items()]
        if "default" in by_way:  # the ratios of consecutive turns
            default = by_way.pop("default")
            ratios = {way: np.median(default / of, axis=0) for way, of in by_way.items()}
            rows += [[f"default / {way}", *(f"{ratio:.2f}" for ratio in of)] for way, of in ratios.items()]
        print("\n" + format_table(rows), flush=True)


# ---- training loops


def make_network(hidden: int, way: str) -> Timer:
    """Train a network in plain NumPy; return a timer of iterations."""
    rng = np.random.default_rng(0)
    shapes = {"w1": (784, hidden), "b1": (hidden,), "w2": (hidden, 10), "b2": (10,)}
    params = {name: rng.standard_normal(shape, np.float32) * np.float32(0.03) for name, shape in shapes.items()}
    x, y = rng.standard_normal((64, 784), np.float32), rng.standard_normal((64, 10), np.float32)
    m, v = ({name: np.zeros_like(p) for name, p in params.items()} for _ in range(2))
    t = 0

    def backward() -> dict[str, Any]:
        h = np.maximum(x @ params["w1"] + params["b1"], 0)
        error = (h @ params["w2"] + params["b2"] - y) / np.float32(len(x))
        back = (error @ params["w2"].T) * (h > 0)
        return {"w1": x.T @ back, "b1": back.sum(0), "w2": h.T @ error, "b2": error.sum(0)}

    def by_hand(grads: dict[str, Any]) -> None:
        nonlocal t
        t += 1
        step_size = np.float32(1e-4 * (1 - 0.999**t) ** 0.5 / (1 - 0.9**t))
        for name, g in grads.items():
            m[name] += np.float32(0.1) * (g - m[name])
            v[name] += np.float32(0.001) * (g * g - v[name])
            params[name] -= step_size * m[name] / (np.sqrt(v[name]) + np.float32(1e-8))

    fo.set_threading(WAYS.get(way, "auto"))
    step: Callable[[Any], object] = by_hand if way == "by hand" else fo.Adam(params, lr=1e-4).step
    return lambda seconds: time_loop(lambda: step(backward()), seconds)


def show_network(args: argparse.Namespace) -> None:
    """Print the median times of several processes, which take turns; the first round is a warm-up."""
    ways = ["by hand", "one thread", "default", "openmp"]
    rows = [["iteration, ms", *ways, "default / one thread"]]
    for hidden in (64, 256, 1024):
        with ExitStack() as stack:
            processes = [start(stack, make_network, hidden, way) for way in ways]
            turns = [[take_turn([process], args.seconds) for process in processes] for _ in range(args.rounds + 1)]
        times = np.median(turns[1:], axis=0)
        rows.append([f"784-{hidden}-10", *(f"{t * 1e3:.2f}" for t in times), f"{times[2] / times[1]:.2f}"])
    print(format_table(rows))


def make_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    name: dict[str, Any] = {"nargs": "+", "metavar": "NAME"}
    parser.add_argument("--situation", choices=SITUATIONS, default=list(SITUATIONS), help="default: all", **name)
    parser.add_argument("--way", choices=WAYS, default=list(WAYS), help="default: all", **name)
    sizes = [2**power for power in (12, 16, 18, 20, 22)]
    parser.add_argument("--size", nargs="+", type=parse_size, default=sizes, help="elements of one array")
    parser.add_argument("--rounds", type=parse_count, default=3, help="turns in each process (default: %(default)s)")
    parser.add_argument("--processes", type=parse_count, default=3, help="for each situation (default: %(default)s)")
    parser.add_argument("--seconds", type=parse_seconds, default=0.25, help="of each turn (default: %(default)s)")
    parser.add_argument("--network", action="store_true", help="a network trained in NumPy, instead of the table")
    return parser


if __name__ == "__main__":
    args = make_parser().parse_args()
    show_network(args) if args.network else show_situations(args)
