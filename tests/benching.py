"""The benchmark's command line and rows of its table, for tests."""

from __future__ import annotations

from typing import Any

from fastoptim import __main__
from fastoptim.bench import cli, results, timing


def bench(*arguments: str) -> int:
    """The command line in this process, with the smallest budget; its exit status."""
    try:
        parsed = __main__.make_parser().parse_args(["bench", "--seconds", "0", "--rounds", "1", *arguments])
    except SystemExit as refused:
        return int(refused.code or 0)
    return cli.run(parsed)


def a_row(**changed: Any) -> results.Row:
    times = results.Times(median=1e-3, low=0.9e-3, high=1.2e-3, rounds=7)
    tiny = results.Times(median=4e-6, low=3e-6, high=5e-6, rounds=7)
    row: results.Row = {
        "optimizer": "adam",
        "options": {},
        "work": "1e6",
        "elements": 10**6,
        "arrays": 1,
        "dtype": "float32",
        "grad_dtype": "float32",
        "threads": 2,
        "isa": "baseline",
        "device": "cpu",
        "bytes": 28 * 10**6,
        "seconds": times,
        "limit_seconds": times,
        "limit_isa": "baseline",
        "fixed_seconds": tiny,
        "limit_fixed_seconds": tiny,
        "share": 1.0,
        "share_beyond_fixed": 1.0,
        "ns_per_element": 1.0,
        "gb_per_s": 28.0,
        "noise": timing.QUIET,
        "checked_elements": 10**6,
    }
    row.update(changed)  # type: ignore[typeddict-item]
    return row
