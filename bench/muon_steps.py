"""Time a step of Muon, in turn with `torch.optim.Muon` on the same matrices, and the share of its matrix products.

python bench/muon_steps.py --shapes 768x768,768x3072,768x768+768x3072 --count 12 --rounds 5 --threads 2

Prints the median time of each: of `fo.Muon` on NumPy arrays, of `fastoptim.torch.Muon`, and of PyTorch's own with its
cast to bfloat16 replaced by one to float32.  With --bfloat16 also of PyTorch's as it is, which a processor without
instructions for bfloat16 makes some twenty times slower.  NumPy's BLAS has the threads of OPENBLAS_NUM_THREADS.
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
    shapes = "768x768,768x3072,768x768+768x3072"
    parser.add_argument("--shapes", default=shapes, help=f"shapes of matrices, + for both in a step (default {shapes})")
    parser.add_argument("--count", type=int, default=12, help="matrices of each shape (default 12)")
    parser.add_argument("--rounds", type=int, default=5, help="rounds, whose median counts (default 5)")
    parser.add_argument("--threads", type=int, default=2, help="threads of fastoptim and PyTorch (default 2)")
    parser.add_argument("--bfloat16", action="store_true", help="measure PyTorch's iterations in bfloat16, too")
    return parser


def steps_of(shapes: str, count: int, bfloat16: bool) -> dict[str, Callable[[], object]]:
    """Return the step of each implementation, with the same gradients."""
    rng = np.random.default_rng(0)
    sizes = [tuple(map(int, shape.split("x"))) for shape in shapes.split("+")]
    grads = [rng.standard_normal(size).astype(np.float32) for size in sizes for _ in range(count)]
    calls: dict[str, Callable[[], object]] = {
        "fo.Muon": partial(fo.Muon([np.zeros_like(g) for g in grads]).step, grads),
        "fastoptim.torch.Muon": torch_step(fastoptim.torch.Muon, grads),
        "torch.optim.Muon, float32": in_float32(torch_step(torch.optim.Muon, grads)),
    }
    if bfloat16:
        narrow = partial(fastoptim.torch.Muon, ns_dtype="bfloat16")
        calls["fastoptim.torch, bfloat16"] = torch_step(narrow, grads)
        calls["torch.optim.Muon"] = torch_step(torch.optim.Muon, grads)
    return calls


def main() -> None:
    """Measure and print."""
    args = make_parser().parse_args()
    fo.set_num_threads(args.threads)
    torch.set_num_threads(args.threads)
    products = TimedProducts()
    for shapes in args.shapes.split(","):
        calls = steps_of(shapes, args.count, args.bfloat16)
        times: dict[str, list[float]] = {name: [] for name in calls}
        shares = []
        for _ in range(args.rounds + 1):  # the first round warms up
            for name, call in calls.items():
                products.seconds, before = 0.0, time.perf_counter()
                call()
                times[name].append(time.perf_counter() - before)
                if name == "fo.Muon":
                    shares.append(1 - products.seconds / times[name][-1])
        medians = {name: float(np.median(own[1:])) for name, own in times.items()}
        print(f"{args.count} x {shapes}, float32")
        for name, seconds in medians.items():
            print(f"  {name:28s} {1e3 * seconds:9.1f} ms  {seconds / medians['fo.Muon']:6.2f}")
        print(f"  outside of matrix products   {100 * float(np.median(shares[1:])):9.1f} % of fo.Muon", flush=True)


if __name__ == "__main__":
    main()
