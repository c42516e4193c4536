"""Adam's step beside PyTorch's fused CPU Adam, and beside a plain read-modify-write pass over the same memory.

    pip install '.[peers]' && python bench/compare.py

Every row is one process, the same arrays, medians of many rounds; before a row is timed its rivals' parameters are
compared after three steps.  In a round each rival takes --block steps in a row and then gives way to the next: with
the default its arrays are in cache where they fit, with --block 1 the others have driven them out, as the rest of a
training loop may.  The pass adds 1 in place to each of the four arrays (p, g, m, v) with NumPy, on as many threads as
the others use.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from statistics import median
from typing import Any

import numpy as np
import numpy.typing as npt

import fastoptim as fo

Array = npt.NDArray[np.float32]
Shape = int | tuple[int, ...]

WORK: dict[str, list[Shape]] = {
    "1 array of 1": [1],
    "784-256-10 network": [(784, 256), 256, (256, 10), 10],
    "1,000 arrays of 256": [256] * 1000,
    "1 array of 1e5": [10**5],
    "1 array of 1e6": [10**6],
    "1 array of 1.6e7": [16 * 10**6],
}


def main() -> None:
    """Runs the rows and prints them as they come."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--threads", type=int, default=fo.get_num_threads(), help="threads of every rival")
    parser.add_argument("--seconds", type=float, default=5.0, help="how long a row is measured")
    parser.add_argument("--block", type=int, default=20, help="steps in a row before the next rival")
    arguments = parser.parse_args()
    fo.set_num_threads(arguments.threads)

    import torch

    torch.set_num_threads(arguments.threads)
    info = fo.build_info()
    print(f"fastoptim {info['version']} ({info['isa']}), PyTorch {torch.__version__}, {arguments.threads} threads")
    print(f"float32; microseconds a step in blocks of {arguments.block}: median (10th to 90th percentile)\n")
    print(f"{'work':<21}{'fastoptim':>28}{'PyTorch fused':>28}{'times':>8}{'pass':>28}{'share':>8}")
    for name, shapes in WORK.items():
        steps = rivals(shapes, arguments.threads)
        ours, theirs, memory = measure(steps, arguments.seconds, arguments.block)
        print(
            f"{name:<21}{spread(ours):>28}{spread(theirs):>28}{median(theirs) / median(ours):>8.2f}"
            f"{spread(memory):>28}{median(ours) / median(memory):>8.2f}",
            flush=True,
        )


def rivals(shapes: Sequence[Shape], threads: int) -> list[Callable[[], Any]]:
    """The steps to time, over equal arrays; refuses rivals that compute something else."""
    import torch

    rng = np.random.default_rng(0)
    params = [rng.standard_normal(shape, np.float32) for shape in shapes]
    grads = [rng.standard_normal(shape, np.float32) for shape in shapes]
    tensors = [torch.nn.Parameter(torch.from_numpy(p.copy())) for p in params]
    for tensor, g in zip(tensors, grads, strict=True):
        tensor.grad = torch.from_numpy(g.copy())
    ours = fo.Adam(params)
    theirs = torch.optim.Adam(tensors, fused=True)
    for _ in range(3):
        ours.step(grads)
        theirs.step()
    for p, tensor in zip(params, tensors, strict=True):
        np.testing.assert_allclose(p, tensor.detach().numpy(), rtol=1e-5, atol=1e-6)
    flat = [rng.standard_normal(sum(p.size for p in params), np.float32) for _ in range(4)]
    return [lambda: ours.step(grads), theirs.step, read_modify_write(flat, threads)]


def read_modify_write(arrays: Sequence[Array], threads: int) -> Callable[[], Any]:
    """Adds 1 to every element of every array, each thread to its part."""
    parts = [np.array_split(array, threads) for array in arrays]
    pool = ThreadPoolExecutor(threads)

    def add(thread: int) -> None:
        for array in parts:
            np.add(array[thread], np.float32(1), out=array[thread])

    if arrays[0].size < 10**6:  # handing work to the pool would be all that is measured
        return lambda: [add(thread) for thread in range(threads)]  # type: ignore[func-returns-value]
    return lambda: list(pool.map(add, range(threads)))


def measure(steps: Sequence[Callable[[], Any]], seconds: float, block: int) -> list[list[float]]:
    """Times the steps in turn, again and again; microseconds a step."""
    for step in steps:
        step()
    times: list[list[float]] = [[] for _ in steps]
    end = time.perf_counter() + seconds
    while time.perf_counter() < end or len(times[0]) < 5:
        for step, took in zip(steps, times, strict=True):
            start = time.perf_counter()
            for _ in range(block):
                step()
            took.append((time.perf_counter() - start) / block * 1e6)
    return times


def spread(times: Sequence[float]) -> str:
    """The median, and where most of the times lie."""
    low, high = np.quantile(times, [0.1, 0.9])
    return f"{median(times):,.1f} ({low:,.1f}-{high:,.1f})"


if __name__ == "__main__":
    main()
