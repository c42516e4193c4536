"""Time a step of some rows of a table, a dense step of the whole table, and torch.optim.SparseAdam on the same rows.

All are timed in one process, in another order in each round, which has other rows.  Every page of the tables and of
their state is written before the first round, since pages that are new would be counted as time of the step.  Prints
medians, fastest rounds and ratios to Adam with rows.
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

ROWS = "Adam, rows"


def seconds(call: Callable[[], object]) -> float:
    """Return the time of one call."""
    begin = time.perf_counter()
    call()
    return time.perf_counter() - begin


def on_one_thread(call: Callable[[], object]) -> float:
    """Return the time of one call on one thread."""
    fo.set_num_threads(1)
    try:
        return seconds(call)
    finally:
        fo.set_num_threads(None)


def make_parser() -> argparse.ArgumentParser:
    """Return the parser of the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--table", type=int, nargs=2, default=(1_000_000, 64), metavar=("ROWS", "COLUMNS"))
    parser.add_argument("--rows", type=int, default=512, help="rows of a step (default 512)")
    parser.add_argument("--rounds", type=int, default=40, help="rounds (default 40)")
    parser.add_argument("--no-dense", action="store_true", help="take no dense steps, which empty the caches")
    return parser


def written(make: type[Any], shape: tuple[int, int]) -> Any:
    """Return an optimizer of a table that has taken a dense step."""
    opt = make(np.zeros(shape, np.float32))
    opt.step(np.ones(shape, np.float32))
    return opt


def sparse_adam(shape: tuple[int, int]) -> Any:
    """Return PyTorch's optimizer of a table whose every row it has stepped."""
    table = torch.zeros(*shape, requires_grad=True)
    opt = torch.optim.SparseAdam([table])
    table.grad = torch.sparse_coo_tensor(torch.arange(shape[0])[None], torch.ones(*shape), shape)
    opt.step()
    return opt


def main() -> None:
    """Parse the arguments, measure and print."""
    args = make_parser().parse_args()
    rng = np.random.default_rng(0)
    shape = n, width = tuple(args.table)
    adam, adagrad, rowwise_adagrad, rowwise_adam = (
        written(make, shape) for make in (fo.Adam, fo.Adagrad, fo.RowwiseAdagrad, fo.RowwiseAdam)
    )
    sparse = sparse_adam(shape)
    table = sparse.param_groups[0]["params"][0]
    whole = np.ones(shape, np.float32)
    contenders: dict[str, tuple[Any, Callable[..., float]]] = {
        ROWS: (adam, seconds),
        "Adam, rows, one thread": (adam, on_one_thread),
        "Adagrad, rows": (adagrad, seconds),
        "RowwiseAdagrad, rows": (rowwise_adagrad, seconds),
        "RowwiseAdam, rows": (rowwise_adam, seconds),
    }
    times: dict[str, list[float]] = {}
    for _ in range(args.rounds):
        index = rng.integers(0, n, args.rows)
        values = rng.standard_normal((args.rows, width), np.float32)
        table.grad = torch.sparse_coo_tensor(torch.from_numpy(index)[None], torch.from_numpy(values), shape)
        calls: dict[str, Callable[[], float]] = {"SparseAdam": lambda: seconds(sparse.step)}
        if not args.no_dense:
            calls["Adam, dense"] = lambda: seconds(lambda: adam.step(whole))
        for name, (opt, timed) in contenders.items():  # each has rows of its own, of which nothing is in the caches
            own = fo.Rows(rng.integers(0, n, args.rows), values)
            calls[name] = partial(timed, partial(opt.step, own))
        for name in rng.permutation(list(calls)):
            times.setdefault(str(name), []).append(calls[name]())
    for name, each in sorted(times.items()):
        ratios = np.median(each) / np.median(times[ROWS]), min(each) / min(times[ROWS])
        print(
            f"{name:>22}: median {np.median(each) * 1e6:8,.0f} us, fastest {min(each) * 1e6:8,.0f} us; "
            f"{ratios[0]:.2f} and {ratios[1]:.2f} times as long as rows"
        )


if __name__ == "__main__":
    main()
