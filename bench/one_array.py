"""Compare one call of `fo.functional.adam` with NumPy written by hand and with `step` of an optimizer.

    python bench/one_array.py --sizes 64 10000

Each row is a kind of call, with its median and 10th percentile.  The kinds are measured in turn.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Iterator
from itertools import count, cycle
from typing import Any

import numpy as np
import numpy.typing as npt

import fastoptim as fo
from fastoptim.bench.cli import parse_seconds, parse_size
from fastoptim.bench.timing import Budget, interleave, summarize

Array = npt.NDArray[Any]
LR, BETA1, BETA2, EPS = 1e-3, 0.9, 0.999, 1e-8


def adam_by_hand(p: Array, g: Array, m: Array, v: Array, *, step: int) -> None:
    """Update in place, as the formula of a textbook reads."""
    m *= BETA1
    m += (1 - BETA1) * g
    v *= BETA2
    v += (1 - BETA2) * g * g
    p -= LR / (1 - BETA1**step) * m / (np.sqrt(v / (1 - BETA2**step)) + EPS)


def calls(size: int) -> Iterator[tuple[str, Callable[[], Any]]]:
    """Yield the kinds of calls by name, each with arrays of its own."""

    def arrays() -> list[Array]:
        return [np.full(size, x, np.float32) for x in (1, 0.5, 0, 0)]

    adam, steps = fo.functional.adam, count(1)
    mine, kept, others = arrays(), arrays(), cycle([arrays() for _ in range(16)])
    p, g, *_ = arrays()
    opt = fo.Adam(p, lr=LR)
    yield "NumPy by hand", lambda: adam_by_hand(*mine, step=next(steps))
    yield "functional, as before", lambda: adam(*kept, step=next(steps), lr=LR)
    yield "functional, another lr", lambda: adam(*kept, step=(t := next(steps)), lr=LR / t)
    yield "functional, other arrays", lambda: adam(*next(others), step=next(steps), lr=LR)
    yield "functional, another eps", lambda: adam(*kept, step=(t := next(steps)), eps=EPS * t)
    yield "opt.step", lambda: opt.step(g)


def make_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sizes", type=parse_size, nargs="+", default=[64, 10_000])
    parser.add_argument("--seconds", type=parse_seconds, default=2.0, help="for each size")
    return parser


if __name__ == "__main__":
    args = make_parser().parse_args()
    for size in args.sizes:
        for name, times in interleave(dict(calls(size)), Budget(args.seconds)).items():
            found = summarize(times)
            print(f"{size:>9,} elements  {name:26} {found['median'] * 1e6:8.2f} us  (p10 {found['low'] * 1e6:.2f})")
