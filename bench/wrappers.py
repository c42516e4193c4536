"""Time what works around a step: sums of gradients, wrappers and noise, in turn with the plain steps.

python bench/wrappers.py --elements 4194304 --rounds 7
python bench/wrappers.py --sixteen-bits --elements 16777216 --threads 2

Prints the least processor time of each, of all threads together, and its ratio to the first one's.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable
from typing import Any

import numpy as np

import fastoptim as fo


def cases(elements: int) -> dict[str, Callable[[], object]]:
    """Return the calls to time, each with arrays of its own."""
    g = np.full(elements, 1e-3, np.float32)

    def params() -> np.ndarray:
        return np.ones(elements, np.float32)

    sgd, adam, summed = fo.SGD(params()), fo.Adam(params()), fo.Adam(params())
    lookahead = fo.Lookahead(fo.Adam(params()), k=5)
    sam, grokfast, sgld = fo.SAM(fo.Adam(params())), fo.GrokFast(fo.Adam(params())), fo.SGLD(params())

    def ascend_and_step() -> None:
        with sam.ascent(g):
            pass
        sam.step(g)

    def steps(opt: fo.Adam | fo.Lookahead) -> None:
        for _ in range(5):
            opt.step(g)

    return {
        "SGD": lambda: sgd.step(g),
        "Adam": lambda: adam.step(g),
        "accumulate": lambda: summed.accumulate(g),
        "5 steps of Adam": lambda: steps(adam),
        "5 steps of Lookahead(Adam, k=5)": lambda: steps(lookahead),
        "SAM(Adam), with ascent": ascend_and_step,
        "GrokFast(Adam)": lambda: grokfast.step(g),
        "SGLD": lambda: sgld.step(g),
    }


def cases_of_sixteen_bits(elements: int) -> dict[str, Callable[[], object]]:
    """Return steps of AdamW on float32 parameters, and on bfloat16 ones with each of their options."""
    import ml_dtypes

    def step(dtype: Any, **options: Any) -> Callable[[], object]:
        g = np.full(elements, 1e-3, dtype)
        opt = fo.AdamW(np.ones(elements, dtype), **options)
        return lambda: opt.step(g)

    half = ml_dtypes.bfloat16
    return {
        "float32": step(np.float32),
        "bfloat16": step(half),
        "master_weight_bits=24": step(half, master_weight_bits=24),
        "master_weight_bits=32": step(half, master_weight_bits=32),
        "kahan": step(half, kahan=True),
        "stochastic_rounding": step(half, stochastic_rounding=True),
    }


def make_parser() -> argparse.ArgumentParser:
    """Return the parser of the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--elements", type=int, default=1 << 22, help="elements of the parameter (default 2^22)")
    parser.add_argument("--sixteen-bits", action="store_true", help="time options of bfloat16 parameters instead")
    parser.add_argument("--threads", type=int, default=1, help="threads of a step (default 1)")
    parser.add_argument("--rounds", type=int, default=7, help="rounds, of which the fastest counts (default 7)")
    return parser


def main() -> None:
    """Measure and print."""
    args = make_parser().parse_args()
    fo.set_num_threads(args.threads)
    calls = (cases_of_sixteen_bits if args.sixteen_bits else cases)(args.elements)
    least = dict.fromkeys(calls, float("inf"))
    for _ in range(args.rounds):
        for name, call in calls.items():
            before = time.process_time()
            call()
            least[name] = min(least[name], time.process_time() - before)
    first = next(iter(least.values()))
    print(f"{'':32}{'us':>12}{'relative':>10}")
    for name, seconds in least.items():
        print(f"{name:32}{1e6 * seconds:12,.1f}{seconds / first:10.2f}")


if __name__ == "__main__":
    main()
