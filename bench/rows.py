"""Time a step of some rows of a table, a dense step of the whole table, and torch.optim.SparseAdam on the same rows.

The three are timed in turn in one process; each round has other rows.  Prints medians, fastest rounds and ratios.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable

import numpy as np
import torch

import fastoptim as fo


def seconds(call: Callable[[], object]) -> float:
    """Return the time of one call."""
    begin = time.perf_counter()
    call()
    return time.perf_counter() - begin


def make_parser() -> argparse.ArgumentParser:
    """Return the parser of the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--table", type=int, nargs=2, default=(1_000_000, 64), metavar=("ROWS", "COLUMNS"))
    parser.add_argument("--rows", type=int, default=512, help="rows of a step (default 512)")
    parser.add_argument("--rounds", type=int, default=40, help="rounds (default 40)")
    return parser


def main() -> None:
    """Parse the arguments, measure and print."""
    args = make_parser().parse_args()
    rng = np.random.default_rng(0)
    n, width = args.table
    opt = fo.Adam({"table": np.zeros((n, width), np.float32)})
    table = torch.zeros(n, width, requires_grad=True)
    sparse = torch.optim.SparseAdam([table])
    whole = {"table": np.ones((n, width), np.float32)}
    opt.step(whole)
    times: dict[str, list[float]] = {"dense step": [], "rows": [], "SparseAdam": []}
    for _ in range(args.rounds):
        index = rng.integers(0, n, args.rows)
        values = rng.standard_normal((args.rows, width), np.float32)
        rows = {"table": fo.Rows(index, values)}
        table.grad = torch.sparse_coo_tensor(torch.from_numpy(index)[None], torch.from_numpy(values), (n, width))
        times["dense step"].append(seconds(lambda: opt.step(whole)))
        times["rows"].append(seconds(lambda rows=rows: opt.step(rows)))  # type: ignore[misc]
        times["SparseAdam"].append(seconds(sparse.step))
    for name, found in times.items():
        ratios = np.median(found) / np.median(times["rows"]), min(found) / min(times["rows"])
        print(
            f"{name:>10}: median {np.median(found) * 1e6:,.0f} us, fastest {min(found) * 1e6:,.0f} us; "
            f"{ratios[0]:.0f} and {ratios[1]:.0f} times as long as rows"
        )


if __name__ == "__main__":
    main()
