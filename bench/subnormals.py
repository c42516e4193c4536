"""Time steps whose gradients have long been zero, and the cost of preventing subnormal numbers.

    python bench/subnormals.py                     # every optimizer: idle elements compared with an ordinary step
    python bench/subnormals.py --against DIRECTORY # ordinary steps compared with those of another installation

One thread.  The steps of each line are timed alternately; numbers are ratios of medians, with --against of minima.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
from collections.abc import Callable
from statistics import median

import numpy as np

import fastoptim as fo
from fastoptim.bench.table import format_table
from fastoptim.bench.timing import Budget, interleave

SHARES = (1.0, 0.5, 0.03)  # of elements without gradients
BLOCK = 8  # steps: too short to be interrupted often on a busy machine
SIZES = [2**k for k in (10, 12, 14, 16)]
CHEAP = ("adam", "adagrad", "momentum", "sgd", "lion", "rmsprop", "ftrl")  # in --against: those with little arithmetic


def step_of(name: str, size: int, dtype: str, idle: float = 0.0, steps: int = 1) -> Callable[[], object]:
    """Return a step of an optimizer that has seen one ordinary gradient, then these steps without those elements."""
    rng = np.random.default_rng(0)
    opt = fo.OPTIMIZERS[name](rng.standard_normal(size).astype(dtype))
    g = rng.standard_normal(size).astype(dtype)
    opt.step(g)
    g[rng.random(size) < idle] = 0
    for _ in range(steps):
        opt.step(g)
    return lambda: opt.step(g)


def compare_idle(names: list[str], size: int, steps: int, seconds: float) -> None:
    """Print the time of a step with idle elements relative to one without."""
    rows = [["optimizer", *(f"{share:.0%} idle" for share in SHARES)]]
    for name in names:
        made = {str(share): step_of(name, size, "float32", share, steps) for share in (0.0, *SHARES)}
        times = {key: median(values) for key, values in interleave(made, Budget(seconds, block=BLOCK)).items()}
        rows.append([name, *(f"{times[str(share)] / times['0.0']:.2f}" for share in SHARES)])
    print(format_table(rows))


def serve() -> None:
    """Answer each line "name size dtype" with the nanoseconds of a step, for `compare_builds`.

    Each time has arrays of its own: their place in memory alone can make a step in cache half as long again.
    """
    for line in sys.stdin:
        name, size, dtype = line.split()
        padding = np.empty(np.random.default_rng().integers(2**16), np.uint8)
        step = step_of(name, int(size), dtype)
        print(min(interleave({line: step}, Budget(0, rounds=40, block=BLOCK))[line]) * 1e9, flush=True)
        del padding


def compare_builds(other: str, names: list[str], rounds: int) -> None:
    """Print the time of this installation's step relative to the other's."""
    command = [sys.executable, __file__, "--serve"]
    workers = [
        subprocess.Popen(command, env={**os.environ, **env}, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        for env in ({}, {"PYTHONPATH": other})
    ]

    def ask(worker: subprocess.Popen[str], line: str) -> float:
        assert worker.stdin
        assert worker.stdout
        worker.stdin.write(line + "\n")
        worker.stdin.flush()
        return float(worker.stdout.readline())

    rows = [["optimizer", *(str(size) for size in SIZES)]]
    for name in names:
        for dtype in ("float32", "float64"):
            lines = [f"{name} {size} {dtype}" for size in SIZES]
            times = [
                zip(*([ask(worker, line) for worker in workers] for _ in range(rounds)), strict=True) for line in lines
            ]
            rows.append([f"{name}, {dtype}", *(f"{min(ours) / min(others):.2f}" for ours, others in times)])
    for worker in workers:
        worker.terminate()
    print(format_table(rows))


def make_parser() -> argparse.ArgumentParser:
    """Return the parser of the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--optimizer", nargs="+", help="default: all, or with --against those with little arithmetic")
    parser.add_argument("--size", type=int, default=2**14, help="elements of an idle parameter")
    parser.add_argument("--steps", type=int, default=10000, help="steps without gradients")
    parser.add_argument("--seconds", type=float, default=0.3, help="per line")
    parser.add_argument("--rounds", type=int, default=15, help="rounds of --against")
    parser.add_argument("--against", metavar="DIRECTORY", help="a PYTHONPATH with another fastoptim")
    parser.add_argument("--serve", action="store_true", help=argparse.SUPPRESS)
    return parser


def main() -> None:
    """Parse the command line and run one of the comparisons."""
    args = make_parser().parse_args()
    fo.set_num_threads(1)
    if args.serve:
        serve()
    elif args.against:
        compare_builds(args.against, args.optimizer or list(CHEAP), args.rounds)
    else:
        compare_idle(args.optimizer or list(fo.OPTIMIZERS), args.size, args.steps, args.seconds)


if __name__ == "__main__":
    main()
