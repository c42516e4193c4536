"""Time a step of the optimizers with sums over rows and columns, in turn with PyTorch's Adafactor and with AdamW.

python bench/factored_steps.py --shape 768x768 768x3072 --count 12 --rounds 20 --threads 2

Prints the median and the minimum of each on these matrices in float32, and PyTorch's over these.  On a busy machine the
minimum is nearer to the time of the step.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import numpy as np
import torch

import fastoptim as fo
from fastoptim.optimizer.base import FACTORED_OPTIMIZERS


def steps(shapes: Sequence[tuple[int, ...]]) -> dict[str, Callable[[], Any]]:
    """Return a step of each optimizer on parameters of its own, by name."""
    rng = np.random.default_rng(0)
    grads = [rng.standard_normal(shape).astype(np.float32) for shape in shapes]
    theirs = [torch.nn.Parameter(torch.zeros(shape)) for shape in shapes]
    for param, g in zip(theirs, grads, strict=True):
        param.grad = torch.from_numpy(g)
    made: dict[str, Callable[[], Any]] = {"torch.optim.Adafactor": torch.optim.Adafactor(theirs).step}
    classes: list[type[fo.Optimizer]] = [fo.AdamW, *FACTORED_OPTIMIZERS.values()]
    for cls in classes:
        made[f"fo.{cls.__name__}"] = partial(cls(list(map(np.zeros_like, grads))).step, grads)
    return made


def parse_shape(text: str) -> tuple[int, ...]:
    """Return (768, 3072) for "768x3072"."""
    return tuple(map(int, text.split("x")))


def make_parser() -> argparse.ArgumentParser:
    """Return the parser of the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--shape", nargs="+", type=parse_shape, default=[(768, 3072)], metavar="MxN")
    parser.add_argument("--count", type=int, default=1, help="matrices of each shape; default: %(default)s")
    parser.add_argument("--rounds", type=int, default=20)
    parser.add_argument("--threads", type=int, default=2)
    return parser


def main() -> None:
    """Run the command line."""
    arguments = make_parser().parse_args()
    torch.set_num_threads(arguments.threads)
    fo.set_num_threads(arguments.threads)
    timed = steps([shape for shape in arguments.shape for _ in range(arguments.count)])
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
