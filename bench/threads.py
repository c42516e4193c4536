"""Time Adam's step in the conditions of real programs: other libraries' threads, busy processors, pauses.

Each situation has several processes of its own, one after another, because the same step differs by tens of per cent
from process to process.  In each, the ways to run a step alternate over the same arrays.  A figure is the median over
turns of a turn's mean: the mean contains the stalls that a median would hide.

    python bench/threads.py                                 # the table of situations
    python bench/threads.py --situation idle "numpy products" --size 2^16 2^20
    python bench/threads.py --network                       # a training loop in NumPy, by hand and with fo.Adam
    python bench/threads.py --scikit-learn                  # MLPClassifier with its Adam replaced
"""

from __future__ import annotations

import argparse
import contextlib
import multiprocessing
import os
import time
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from multiprocessing.connection import Connection
from pathlib import Path
from statistics import fmean, median
from typing import Any

import numpy as np

import fastoptim as fo
from fastoptim.bench.table import format_table
from fastoptim.bench.workload import parse_size

SIZES = ("2^12", "2^16", "2^18", "2^20", "2^22")
WAYS = ("one thread", "default", "pool", "openmp", "torch fused")
SITUATIONS = (
    "idle",
    "numpy products",
    "torch products, torch first",
    "torch products, torch last",
    "scikit-learn",
    "jax",
    "sleep 2 ms",
    "one busy process",
    "two busy processes",
    "affinity reduced",
    "quota of one CPU",
    "two trainings",
)
#: PyTorch's threads would disturb these, so its step is not timed there.
WITHOUT_TORCH = ("scikit-learn", "jax", "numpy products")
LAYERS = {"one thread": "serial", "pool": "pool", "openmp": "openmp"}  # of the ways; else "auto"
PAUSE = 0.03  # seconds between turns, in which OpenMP's threads fall asleep

Timer = Callable[..., float]  # seconds per step of a turn

# ---- processes


class Worker:
    """A process that calls `make(*arguments)` once, and then the `Timer` that this returns for each command."""

    def __init__(self, make: Callable[..., Timer], *arguments: Any) -> None:
        context = multiprocessing.get_context("spawn")
        self.pipe, theirs = context.Pipe()
        self.process = context.Process(target=_serve, args=(theirs, make, arguments), daemon=True)
        self.process.start()

    def stop(self) -> None:
        self.process.kill()
        self.process.join()


def _serve(pipe: Connection, make: Callable[..., Timer], arguments: Sequence[Any]) -> None:
    if any(str(argument).endswith("torch first") for argument in arguments):
        import torch  # noqa: F401
    fo.build_info()
    timer = make(*arguments)
    while True:
        pipe.send(timer(*pipe.recv()))


def time_loop(step: Callable[[], object], seconds: float, before: Callable[[], object] = lambda: None) -> float:
    """Return the mean seconds of a step in a loop with something untimed before each."""
    for _ in range(3):
        before()
        step()
    times: list[float] = []
    end = time.perf_counter() + seconds
    while not times or time.perf_counter() < end:
        before()
        begin = time.perf_counter()
        step()
        times.append(time.perf_counter() - begin)
    return fmean(times)


def be_busy() -> None:
    while True:
        pass


# ---- situations


def make_situation(situation: str) -> Timer:
    """Return a timer of (way, elements, seconds)."""
    if situation == "affinity reduced":
        os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})
    between = make_between(situation)
    steps: dict[tuple[bool, int], Callable[[], object]] = {}

    def timer(way: str, size: int, seconds: float) -> float:
        fo.set_threading(LAYERS.get(way, "auto"))
        key = way == "torch fused", size
        if key not in steps and key[0]:
            import torch

            p = torch.ones(size, requires_grad=True)
            p.grad = torch.ones(size)
            steps[key] = torch.optim.Adam([p], lr=1e-3, fused=True).step
        elif key not in steps:
            opt = fo.Adam(np.ones(size, np.float32), lr=1e-3)
            steps[key] = partial(opt.step, np.ones(size, np.float32))
        return time_loop(steps[key], seconds, between)

    return timer


def make_between(situation: str) -> Callable[[], object]:
    """Return what the program does between two steps."""
    a, b = np.ones((64, 784), np.float32), np.ones((784, 256), np.float32)
    if situation == "numpy products":
        return lambda: a @ b
    if situation.startswith("torch products"):
        import torch

        ta, tb = torch.from_numpy(a), torch.from_numpy(b)
        return lambda: ta @ tb
    if situation == "scikit-learn":
        from sklearn.metrics import pairwise_distances_argmin

        return lambda: pairwise_distances_argmin(a, b.T[:, :1].repeat(784, 1))
    if situation == "jax":
        import jax

        product = jax.jit(lambda x, y: x @ y)
        return lambda: product(a, b).block_until_ready()
    return (lambda: time.sleep(0.002)) if situation == "sleep 2 ms" else lambda: None


@contextlib.contextmanager
def quota_of_one_cpu(pid: int | None) -> Iterator[None]:
    """Move a process into a cgroup with that quota; OSError if cgroups cannot be written."""
    v1, v2 = Path("/sys/fs/cgroup/cpu"), Path("/sys/fs/cgroup")
    group = (v1 if v1.is_dir() else v2) / f"fastoptim-bench-{os.getpid()}"
    group.mkdir()
    try:
        file, quota = ("cpu.cfs_quota_us", "100000") if v1.is_dir() else ("cpu.max", "100000 100000")
        (group / file).write_text(quota)
        (group / "cgroup.procs").write_text(str(pid))
        yield
    finally:
        time.sleep(0.1)  # the stopped process leaves it
        group.rmdir()


def measure(situation: str, ways: Sequence[str], sizes: Sequence[int], args: argparse.Namespace) -> Iterator[Any]:
    """Yield the mean seconds of a step by way and size, for each turn of one process."""
    with contextlib.ExitStack() as stack:
        workers = [Worker(make_situation, situation) for _ in range(2 if situation == "two trainings" else 1)]
        if situation == "quota of one CPU":
            stack.enter_context(quota_of_one_cpu(workers[0].process.pid))
        for worker in workers:  # stopped before the cgroup is removed
            stack.callback(worker.stop)
        for way in ways:  # imports and first steps
            take_turn(workers, way, sizes[0], 0.01)
        for _ in range({"one busy process": 1, "two busy processes": 2}.get(situation, 0)):
            busy = multiprocessing.get_context("fork").Process(target=be_busy, daemon=True)
            busy.start()
            stack.callback(busy.kill)
        for _ in range(args.rounds):
            times = [[take_turn(workers, way, size, args.seconds) for way in ways] for size in sizes]
            yield {way: [by_way[i] for by_way in times] for i, way in enumerate(ways)}


def take_turn(workers: Sequence[Worker], *command: Any) -> float:
    """Return the mean result of simultaneous turns."""
    for worker in workers:
        worker.pipe.send(command)
    found = fmean([worker.pipe.recv() for worker in workers])
    time.sleep(PAUSE)
    return found


def show_situations(args: argparse.Namespace) -> None:
    for situation in args.situation:
        # PyTorch's step has processes of its own: its threads would disturb the others' steps.
        groups = [[way for way in args.way if way != "torch fused"]]
        groups += [["torch fused"]] if "torch fused" in args.way and situation not in WITHOUT_TORCH else []
        turns: dict[str, list[list[float]]] = {}
        try:
            for group in filter(None, groups):
                for _ in range(args.processes):
                    for turn in measure(situation, group, list(map(parse_size, args.size)), args):
                        for way, times in turn.items():
                            turns.setdefault(way, []).append(times)
        except OSError as error:
            print(f"\n{situation}: not measured: {error}", flush=True)
            continue
        print_table(situation_rows(situation, args.size, turns))


def situation_rows(situation: str, sizes: Sequence[str], turns: dict[str, list[list[float]]]) -> list[list[str]]:
    """Return the medians over turns of the times, and of the ratios of consecutive turns."""
    found = {way: np.array(times) for way, times in turns.items()}
    rows = [[f"{situation}, us", *sizes]]
    rows += [[way, *(f"{t * 1e6:,.0f}" for t in np.median(times, axis=0))] for way, times in found.items()]
    for way in [way for way in LAYERS if {way, "default"} <= found.keys()]:
        ratios = np.median(found["default"] / found[way], axis=0)
        rows.append([f"default / {way}", *(f"{ratio:.2f}" for ratio in ratios)])
    return rows


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

    fo.set_threading(LAYERS.get(way, "auto"))
    step: Callable[[Any], object] = by_hand if way == "by hand" else fo.Adam(params, lr=1e-4).step
    return lambda seconds: time_loop(lambda: step(backward()), seconds)


def make_classifier(ours: bool) -> Timer:
    """Return a timer of scikit-learn's MLPClassifier, with fastoptim's step if `ours`."""
    from sklearn.datasets import load_digits
    from sklearn.neural_network import MLPClassifier, _multilayer_perceptron

    def update_params(self: Any, params: Any, grads: Any) -> None:
        """Replace AdamOptimizer.update_params."""
        if not hasattr(self, "ours"):
            betas = (self.beta_1, self.beta_2)
            self.ours = fo.Adam(params, lr=self.learning_rate_init, betas=betas, eps=self.epsilon)
        self.ours.step(grads)

    if ours:
        _multilayer_perceptron.AdamOptimizer.update_params = update_params
    x, y = load_digits(return_X_y=True)

    def timer() -> float:
        network = MLPClassifier((256, 256), max_iter=30, tol=0, n_iter_no_change=100, random_state=0)
        begin = time.perf_counter()
        network.fit(x / 16, y)
        return time.perf_counter() - begin

    return timer


def alternate(workers: Sequence[Worker], rounds: int, *command: Any) -> list[float]:
    """Return the median result of each worker; they take turns, and the first round is a warm-up."""
    results = [[take_turn([worker], *command) for worker in workers] for _ in range(rounds + 1)]
    for worker in workers:
        worker.stop()
    return [median(found) for found in zip(*results[1:], strict=True)]


def show_network(args: argparse.Namespace) -> None:
    ways = ["by hand", "one thread", "default", "openmp"]
    rows = [["iteration, ms", *ways, "default / one thread"]]
    for hidden in (64, 256, 1024):
        times = alternate([Worker(make_network, hidden, way) for way in ways], args.rounds, args.seconds)
        rows.append([f"784-{hidden}-10", *(f"{t * 1e3:.2f}" for t in times), f"{times[2] / times[1]:.2f}"])
    print_table(rows)


def show_scikit_learn(args: argparse.Namespace) -> None:
    theirs, ours = alternate([Worker(make_classifier, ours) for ours in (False, True)], args.rounds)
    rows = [["MLPClassifier((256, 256)).fit on digits", "s"], ["scikit-learn's Adam", f"{theirs:.2f}"]]
    print_table([*rows, ["fo.Adam, default threads", f"{ours:.2f}"], ["times as fast", f"{theirs / ours:.2f}"]])


def print_table(rows: Sequence[Sequence[str]]) -> None:
    print("\n" + format_table(rows, {rows[0][0]}, markdown=True), flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--situation", nargs="+", choices=SITUATIONS, default=list(SITUATIONS), metavar="NAME")
    parser.add_argument("--size", nargs="+", default=list(SIZES), help="elements of one array (default: %(default)s)")
    parser.add_argument("--way", nargs="+", choices=WAYS, default=list(WAYS), metavar="NAME")
    parser.add_argument("--rounds", type=int, default=3, help="turns in each process (default: %(default)s)")
    parser.add_argument("--processes", type=int, default=3, help="for each situation (default: %(default)s)")
    parser.add_argument("--seconds", type=float, default=0.25, help="of each turn (default: %(default)s)")
    parser.add_argument("--network", action="store_true", help="a network trained in NumPy, instead of the table")
    parser.add_argument("--scikit-learn", action="store_true", help="MLPClassifier with its Adam replaced, instead")
    args = parser.parse_args()
    show = show_network if args.network else show_scikit_learn if args.scikit_learn else show_situations
    show(args)


if __name__ == "__main__":
    main()
