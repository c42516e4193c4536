"""Time a step of the optimizers with sums over rows and columns, in turn with PyTorch's Adafactor and with AdamW.

python bench/factored_steps.py --shape 768x3072 --rounds 20 --threads 2

Prints the median and the minimum of each on one matrix in float32, and PyTorch's over these.  On a busy machine the
minimum is nearer to the time of the step.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np
import torch

import fastoptim as fo
from fastoptim.optimizer.base import FACTORED_OPTIMIZERS


def steps(shape: tuple[int, ...]) -> dict[str, Callable[[], Any]]:
    """Return a step of each optimizer on parameters of its own, by name."""
    rng = np.random.default_rng(0)
    g = rng.standard_normal(shape).astype(np.float32)
    theirs = torch.nn.Parameter(torch.zeros(shape))
    theirs.grad = torch.from_numpy(g)
    made: dict[str, Callable[[], Any]] = {"torch.optim.Adafactor": torch.optim.Adafactor([theirs]).step}
    classes: list[type[fo.Optimizer]] = [fo.AdamW, *FACTORED_OPTIMIZERS.values()]
    for cls in classes:
        made[f"fo.{cls.__name__}"] = partial(cls(np.zeros_like(g)).step, g)
    return made


def make_parser() -> argparse.ArgumentParser:
    """Return the parser of the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--shape", default="768x3072")
    parser.add_argument("--rounds", type=int, default=20)
    parser.add_argument("--threads", type=int, default=2)
    return parser


def main() -> None:
    """Run the command line."""
    arguments = make_parser().parse_args()
    torch.set_num_threads(arguments.threads)
    fo.set_num_threads(arguments.threads)
    timed = steps(tuple(map(int, arguments.shape.split("x"))))
    times: dict[str, list[float]] = {name: [] for name in timed}
    for _ in range(arguments.rounds + 2):
        for name, step in timed.items():
            before = time.perf_counter()
            step()
            times[name].append(time.perf_counter() - before)
    theirs, *_ = results = [(statistics.median(each[2:]), min(each[2:])) for each in times.values()]
    for name, own in zip(timed, results, strict=True):
        columns = (f"{1e3 * t:9.2f} ms{other / t:7.1f}" for t, other in zip(own, theirs, strict=True))
        print(f"{name:24}{''.join(columns)}")


if __name__ == "__main__":
    main()
