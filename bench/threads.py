"""Time steps in the company that they have in real programs: other libraries' threads, busy processors, pauses.

Every situation has several processes of its own, one after another, because the same step differs by tens of per cent
from process to process.  In each, the ways of running a step take turns over the same arrays.  A figure is the median
over turns of a turn's mean: the mean contains the stalls that a median would hide.

    python bench/threads.py                                 # the table of situations
    python bench/threads.py --situation idle numpy --size 2^16 2^20
    python bench/threads.py --network                       # a training loop in NumPy, by hand and with fo.Adam
    python bench/threads.py --scikit-learn                  # MLPClassifier with its Adam replaced
"""

from __future__ import annotations

import argparse
import contextlib
import multiprocessing
import os
import statistics
import time
from collections.abc import Callable, Iterator
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

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
LAYERS = {"one thread": "serial", "pool": "pool", "openmp": "openmp"}  # of the ways; else "auto"
PAUSE = 0.03  # seconds between turns, in which OpenMP's threads fall asleep

# ---- a process that takes steps


def set_way(way: str) -> None:
    import fastoptim as fo

    fo.set_threading(LAYERS.get(way, "auto"))


def make_step(way: str, size: int) -> Callable[[], object]:
    if way == "torch fused":
        import torch

        p = torch.ones(size, requires_grad=True)
        p.grad = torch.ones(size)
        return torch.optim.Adam([p], lr=1e-3, fused=True).step  # type: ignore[no-any-return]
    import numpy as np

    import fastoptim as fo

    opt, g = fo.Adam(np.ones(size, np.float32), lr=1e-3), np.ones(size, np.float32)
    return lambda: opt.step(g)


def make_company(situation: str) -> Callable[[], object]:
    """Return what the program does between two steps."""
    import numpy as np

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
    if situation == "sleep 2 ms":
        return lambda: time.sleep(0.002)
    return lambda: None


def take_turns(situation: str, commands: Connection) -> None:
    """Answer (way, size, seconds) with the mean seconds of a step."""
    if situation.endswith("torch first"):
        import torch  # noqa: F401
    import fastoptim as fo

    fo.build_info()
    if situation == "affinity reduced":
        os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})
    company = make_company(situation)
    steps: dict[tuple[bool, int], Callable[[], object]] = {}
    while command := commands.recv():
        way, size, seconds = command
        set_way(way)
        theirs = way == "torch fused"
        if (theirs, size) not in steps:
            steps[theirs, size] = make_step(way, size)
        step = steps[theirs, size]
        for _ in range(3):
            company()
            step()
        times = []
        end = time.perf_counter() + seconds
        while time.perf_counter() < end:
            company()
            begin = time.perf_counter()
            step()
            times.append(time.perf_counter() - begin)
        commands.send(statistics.fmean(times))


def be_busy() -> None:
    while True:
        pass


class Worker:
    """A process of `take_turns`."""

    def __init__(self, situation: str) -> None:
        context = multiprocessing.get_context("spawn")
        self.commands, theirs = context.Pipe()
        self.process = context.Process(target=take_turns, args=(situation, theirs), daemon=True)
        self.process.start()
        theirs.close()

    def ask(self, way: str, size: int, seconds: float) -> None:
        self.commands.send((way, size, seconds))

    def answer(self) -> float:
        return float(self.commands.recv())

    def stop(self) -> None:
        self.process.kill()
        self.process.join()


# ---- the situations


@contextlib.contextmanager
def busy_processes(count: int) -> Iterator[None]:
    context = multiprocessing.get_context("fork")
    busy = [context.Process(target=be_busy, daemon=True) for _ in range(count)]
    for process in busy:
        process.start()
    try:
        yield
    finally:
        for process in busy:
            process.kill()
            process.join()


@contextlib.contextmanager
def quota_of_one_cpu() -> Iterator[Callable[[int], object]]:
    """Yield a function that moves a process into a cgroup with that quota.  OSError where cgroups cannot be written."""
    v1, v2 = Path("/sys/fs/cgroup/cpu"), Path("/sys/fs/cgroup")
    group = (v1 if v1.is_dir() else v2) / f"fastoptim-bench-{os.getpid()}"
    group.mkdir()
    try:
        if v1.is_dir():
            (group / "cpu.cfs_quota_us").write_text("100000")
        else:
            (group / "cpu.max").write_text("100000 100000")
        yield lambda pid: (group / "cgroup.procs").write_text(str(pid))
    finally:
        for _ in range(100):
            with contextlib.suppress(OSError):
                group.rmdir()
                break
            time.sleep(0.05)


def measure(
    situation: str, ways: list[str], sizes: list[int], rounds: int, seconds: float
) -> Iterator[list[list[float]]]:
    """Yield a round's mean seconds of a step, for each way a list over sizes."""
    with contextlib.ExitStack() as stack:
        workers = [Worker(situation) for _ in range(2 if situation == "two trainings" else 1)]
        if situation == "quota of one CPU":
            move = stack.enter_context(quota_of_one_cpu())
            move(workers[0].process.pid or 0)
        for worker in workers:
            stack.callback(worker.stop)

        def mean(way: str, size: int, seconds: float) -> float:
            for worker in workers:
                worker.ask(way, size, seconds)
            found = statistics.fmean([worker.answer() for worker in workers])
            time.sleep(PAUSE)
            return found

        for way in ways:  # imports and first steps
            mean(way, sizes[0], 0.01)
        if "busy" in situation:
            stack.enter_context(busy_processes(1 if situation.startswith("one") else 2))
        for _ in range(rounds):
            by_size = [[mean(way, size, seconds) for way in ways] for size in sizes]
            yield [list(times) for times in zip(*by_size, strict=True)]


# ---- a network in NumPy


def train_network(hidden: int, way: str, commands: Connection) -> None:
    import numpy as np

    import fastoptim as fo

    rng = np.random.default_rng(0)
    shapes = {"w1": (784, hidden), "b1": (hidden,), "w2": (hidden, 10), "b2": (10,)}
    params = {name: rng.standard_normal(shape, np.float32) * np.float32(0.03) for name, shape in shapes.items()}
    x, y = rng.standard_normal((64, 784), np.float32), rng.standard_normal((64, 10), np.float32)

    def backward() -> dict[str, Any]:
        h = np.maximum(x @ params["w1"] + params["b1"], 0)
        error = (h @ params["w2"] + params["b2"] - y) / np.float32(len(x))
        back = (error @ params["w2"].T) * (h > 0)
        return {"w1": x.T @ back, "b1": back.sum(0), "w2": h.T @ error, "b2": error.sum(0)}

    m = {name: np.zeros_like(p) for name, p in params.items()}
    v = {name: np.zeros_like(p) for name, p in params.items()}
    count = 0

    def by_hand(grads: dict[str, Any]) -> None:
        nonlocal count
        count += 1
        rate = np.float32(1e-4 * (1 - 0.999**count) ** 0.5 / (1 - 0.9**count))
        for name, g in grads.items():
            m[name] += np.float32(0.1) * (g - m[name])
            v[name] += np.float32(0.001) * (g * g - v[name])
            params[name] -= rate * m[name] / (np.sqrt(v[name]) + np.float32(1e-8))

    set_way(way)
    step = by_hand if way == "by hand" else fo.Adam(params, lr=1e-4).step
    while seconds := commands.recv():
        for _ in range(5):
            step(backward())
        iterations, begin = 0, time.perf_counter()
        while time.perf_counter() < begin + seconds:
            step(backward())
            iterations += 1
        commands.send((time.perf_counter() - begin) / iterations)


# ---- scikit-learn


def fit_classifier(ours: bool, commands: Connection) -> None:
    from sklearn.datasets import load_digits
    from sklearn.neural_network import MLPClassifier, _multilayer_perceptron

    import fastoptim as fo

    class Adam:
        """scikit-learn's AdamOptimizer with fastoptim's step."""

        def __init__(
            self, params: Any, learning_rate_init: float, beta_1: float, beta_2: float, epsilon: float
        ) -> None:
            self.opt = fo.Adam(params, lr=learning_rate_init, betas=(beta_1, beta_2), eps=epsilon)
            self.learning_rate = learning_rate_init

        def update_params(self, params: Any, grads: Any) -> None:
            self.opt.step(grads)

        def iteration_ends(self, time_step: int) -> None:
            pass

        def trigger_stopping(self, msg: str, verbose: bool) -> bool:
            return True

    if ours:
        _multilayer_perceptron.AdamOptimizer = Adam
    x, y = load_digits(return_X_y=True)
    while commands.recv():
        network = MLPClassifier((256, 256), max_iter=30, tol=0, n_iter_no_change=100, random_state=0)
        begin = time.process_time(), time.perf_counter()
        network.fit(x / 16, y)
        commands.send(time.perf_counter() - begin[1])


def alternate(target: Callable[..., None], ways: list[tuple[Any, ...]], rounds: int, command: Any) -> list[float]:
    """Return the median answer of a process for each of `ways`, which take turns."""
    context = multiprocessing.get_context("spawn")
    pipes = []
    for way in ways:
        ours, theirs = context.Pipe()
        context.Process(target=target, args=(*way, theirs), daemon=True).start()
        pipes.append(ours)
    answers: list[list[float]] = [[] for _ in ways]
    for turn in range(rounds + 1):  # the first one warms up
        for pipe, found in zip(pipes, answers, strict=True):
            pipe.send(command)
            seconds = pipe.recv()
            if turn:
                found.append(seconds)
            time.sleep(PAUSE)
    for pipe in pipes:
        pipe.send(None)
    return [statistics.median(found) for found in answers]


# ---- output


def table(rows: list[list[str]]) -> str:
    widths = [max(len(row[i]) for row in rows) for i in range(len(rows[0]))]
    lines = [
        "| "
        + " | ".join(
            cell.ljust(w) if i == 0 else cell.rjust(w) for i, (cell, w) in enumerate(zip(row, widths, strict=True))
        )
        + " |"
        for row in rows
    ]
    rule = "|" + "|".join("-" * (w + 1) + (":" if i else "-") for i, w in enumerate(widths)) + "|"
    return "\n".join([lines[0], rule, *lines[1:]])


def show_situations(arguments: argparse.Namespace) -> None:
    sizes = [2 ** int(text[2:]) if text.startswith("2^") else int(text) for text in arguments.size]
    for situation in arguments.situation:
        # PyTorch's threads are company of their own, so it is timed only where it is there anyway, or nobody else is.
        crowded = situation in ("scikit-learn", "jax", "numpy products")
        ours = [way for way in arguments.way if way != "torch fused"]
        groups = [ours] + ([["torch fused"]] if "torch fused" in arguments.way and not crowded else [])
        turns: dict[str, list[list[float]]] = {way: [] for group in groups for way in group}
        try:
            for group in groups:
                for _ in range(arguments.processes):
                    for found in measure(situation, group, sizes, arguments.rounds, arguments.seconds):
                        for way, times in zip(group, found, strict=True):
                            turns[way].append(times)
        except OSError as error:
            print(f"\n{situation}: not measured: {error}", flush=True)
            continue
        print("\n" + table(situation_rows(situation, arguments.size, turns)), flush=True)


def situation_rows(situation: str, names: list[str], turns: dict[str, list[list[float]]]) -> list[list[str]]:
    def over_turns(figure: Callable[[int, int], float]) -> list[float]:
        """The median over turns of a figure of (turn, size)."""
        count = len(next(iter(turns.values())))
        return [statistics.median(figure(turn, i) for turn in range(count)) for i in range(len(names))]

    rows = [[f"{situation}, us", *names]]
    for way, times in turns.items():
        medians = [statistics.median(turn[i] for turn in times) for i in range(len(names))]
        rows.append([way, *(f"{seconds * 1e6:,.0f}" for seconds in medians)])
    layers = [turns[way] for way in LAYERS if way in turns]
    if "default" in turns and "one thread" in turns:
        ratios = over_turns(lambda turn, i: turns["default"][turn][i] / turns["one thread"][turn][i])
        rows.append(["default / one thread", *(f"{ratio:.2f}" for ratio in ratios)])
    if "default" in turns and len(layers) == len(LAYERS):
        best = [
            min(range(len(layers)), key=lambda k: statistics.median(turn[i] for turn in layers[k]))
            for i in range(len(names))
        ]
        ratios = over_turns(lambda turn, i: turns["default"][turn][i] / layers[best[i]][turn][i])
        rows.append(["default / best layer", *(f"{ratio:.2f}" for ratio in ratios)])
    return rows


def show_network(arguments: argparse.Namespace) -> None:
    ways = ["by hand", "one thread", "default", "openmp"]
    rows = [["iteration, ms", *ways, "default / one thread"]]
    for hidden in (64, 256, 1024):
        times = alternate(train_network, [(hidden, way) for way in ways], arguments.rounds, arguments.seconds)
        rows.append([f"784-{hidden}-10", *(f"{t * 1e3:.2f}" for t in times), f"{times[2] / times[1]:.2f}"])
    print(table(rows))


def show_scikit_learn(arguments: argparse.Namespace) -> None:
    theirs, ours = alternate(fit_classifier, [(False,), (True,)], arguments.rounds, True)
    rows = [["MLPClassifier((256, 256)).fit on digits", "s"], ["scikit-learn's Adam", f"{theirs:.2f}"]]
    print(table([*rows, ["fo.Adam, default threads", f"{ours:.2f}"], ["times as fast", f"{theirs / ours:.2f}"]]))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--situation", nargs="+", choices=SITUATIONS, default=list(SITUATIONS), metavar="NAME")
    parser.add_argument(
        "--size", nargs="+", default=list(SIZES), help="elements of one float32 array (default: %(default)s)"
    )
    parser.add_argument("--way", nargs="+", choices=WAYS, default=list(WAYS), metavar="NAME")
    parser.add_argument("--rounds", type=int, default=3, help="turns in each process (default: %(default)s)")
    parser.add_argument("--processes", type=int, default=3, help="for each situation (default: %(default)s)")
    parser.add_argument("--seconds", type=float, default=0.25, help="of each turn (default: %(default)s)")
    parser.add_argument("--network", action="store_true", help="a network trained in NumPy, instead of the table")
    parser.add_argument("--scikit-learn", action="store_true", help="MLPClassifier with its Adam replaced, instead")
    arguments = parser.parse_args()
    show = show_network if arguments.network else show_scikit_learn if arguments.scikit_learn else show_situations
    show(arguments)


if __name__ == "__main__":
    main()
