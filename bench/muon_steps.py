"""Time a step of Muon, in turn with `torch.optim.Muon` on the same matrices, and the share of its matrix products.

python bench/muon_steps.py --shapes 768x768,768x3072 --count 12 --rounds 5 --threads 2

Prints the least time of each: of `fo.Muon` on NumPy arrays, of `fastoptim.torch.Muon`, and of PyTorch's own, whose
iterations are in bfloat16, also with its cast replaced by one to float32.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np
import torch

import fastoptim as fo
import fastoptim.torch
from fastoptim.arrays.numpy_family import NumPy


class TimedProducts:
    """The time in NumPy's matrix products."""

    def __init__(self) -> None:
        self.seconds = 0.0
        product = NumPy.matmul

        def timed(*args: Any) -> None:
            before = time.perf_counter()
            product(*args)
            self.seconds += time.perf_counter() - before

        NumPy.matmul = timed  # type: ignore[assignment, method-assign]


def torch_step(optimizer: Any, grads: list[np.ndarray]) -> Callable[[], None]:
    """Return the step of an optimizer of PyTorch with these gradients."""
    params = [torch.nn.Parameter(torch.zeros(g.shape)) for g in grads]
    for p, g in zip(params, grads, strict=True):
        p.grad = torch.from_numpy(g)
    return optimizer(params, lr=1e-3).step  # type: ignore[no-any-return]


def in_float32(step: Callable[[], None]) -> Callable[[], None]:
    """Return the step with a cast to float32 in the place of that to bfloat16."""
    cast = torch.Tensor.bfloat16

    def call() -> None:
        torch.Tensor.bfloat16 = torch.Tensor.clone
        try:
            step()
        finally:
            torch.Tensor.bfloat16 = cast

    return call


def make_parser() -> argparse.ArgumentParser:
    """Return the parser of the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--shapes", default="768x768,768x3072", help="shapes of matrices (default 768x768,768x3072)")
    parser.add_argument("--count", type=int, default=12, help="matrices of each shape (default 12)")
    parser.add_argument("--rounds", type=int, default=5, help="rounds, of which the fastest counts (default 5)")
    parser.add_argument("--threads", type=int, default=2, help="threads of fastoptim and PyTorch (default 2)")
    return parser


def main() -> None:
    """Measure and print."""
    args = make_parser().parse_args()
    fo.set_num_threads(args.threads)
    torch.set_num_threads(args.threads)
    products, rng = TimedProducts(), np.random.default_rng(0)
    for shape in args.shapes.split(","):
        size = tuple(map(int, shape.split("x")))
        grads = [rng.standard_normal(size).astype(np.float32) for _ in range(args.count)]
        ours = fo.Muon([np.zeros_like(g) for g in grads])
        calls: dict[str, Callable[[], object]] = {
            "fo.Muon": partial(ours.step, grads),
            "fastoptim.torch.Muon": torch_step(fastoptim.torch.Muon, grads),
            "torch.optim.Muon": torch_step(torch.optim.Muon, grads),
            "torch.optim.Muon, float32": in_float32(torch_step(torch.optim.Muon, grads)),
        }
        least, share = dict.fromkeys(calls, float("inf")), 1.0
        for _ in range(args.rounds):
            for name, call in calls.items():
                products.seconds, before = 0.0, time.perf_counter()
                call()
                seconds = time.perf_counter() - before
                least[name] = min(least[name], seconds)
                if name == "fo.Muon":
                    share = min(share, 1 - products.seconds / seconds)
        print(f"{args.count} x {shape}, float32")
        for name, seconds in least.items():
            print(f"  {name:28s} {1e3 * seconds:9.1f} ms")
        print(f"  outside of matrix products   {100 * share:9.1f} % of fo.Muon")


if __name__ == "__main__":
    main()
