"""What a run of the benchmark is, in memory and in the file that ``--json`` writes.

The file is one object: ``schema``, ``machine`` (see `machine.describe`), ``settings`` (the arguments), ``noise`` and
``rows``.  Times are in seconds, sizes in bytes.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, TypedDict

from .machine import BUSIEST
from .timing import QUIET, Spread

#: Of the file's shape; another number where a reader would have to change.
SCHEMA = 1


class Times(TypedDict):
    """A `Spread` by its names."""

    median: float
    low: float
    high: float
    rounds: int


class Row(TypedDict):
    """One optimizer on one work, and the limit beside it."""

    optimizer: str
    options: dict[str, Any]
    work: str
    elements: int
    arrays: int
    dtype: str
    grad_dtype: str
    threads: int | None  # None on a GPU
    isa: str | None  # None on a GPU
    device: str
    bytes: int  # read and written by a step
    seconds: Times  # a step
    limit_seconds: Times  # the pass that reads and writes the same bytes, on the same arrays
    limit_isa: str | None  # the instruction set whose pass was the fastest; None on a GPU
    fixed_seconds: Times  # a step of as many arrays of one element
    limit_fixed_seconds: Times  # that pass over those
    share: float  # of the limit: limit_seconds / seconds
    share_beyond_fixed: float | None  # the same without the fixed costs; None where nothing is left
    ns_per_element: float
    gb_per_s: float
    noise: str  # "quiet", or "noisy: " and why
    checked_elements: int  # that were compared with the reference, bit for bit, before anything was timed


class Noise(TypedDict):
    """Whether the whole run can be relied on."""

    verdict: str
    load_before: float | None
    load_after: float | None
    others: float | None  # the part of the processors that other processes, or other guests, took


class Results(TypedDict):
    """A whole run."""

    schema: int
    machine: dict[str, Any]
    settings: dict[str, Any]
    noise: Noise
    rows: list[Row]


def times_of(spread: Spread) -> Times:
    """A spread as the file has it."""
    return Times(median=spread.median, low=spread.low, high=spread.high, rounds=spread.rounds)


def judge(rows: Sequence[Mapping[str, Any]], watched: Mapping[str, float | None]) -> Noise:
    """Whether a run can be relied on: not if others took more than `BUSIEST` of the processors, or a row is noisy.

    `rows` need a ``noise`` each, `watched` is what `machine.Watch` reports.
    """
    noisy = sum(row["noise"] != QUIET for row in rows)
    verdict = f"noisy: {noisy} of {len(rows)} rows" if noisy else QUIET
    return Noise(
        verdict=blamed(verdict, watched["others"]),
        load_before=watched["load_before"],
        load_after=watched["load_after"],
        others=watched["others"],
    )


def blamed(verdict: str, others: float | None) -> str:
    """A verdict that also takes into account which part of the processors others took meanwhile.

    Two steps that both wait for the processor most of the time look alike, and steady.

    >>> blamed("quiet", 0.05), blamed("quiet", 0.5), blamed("noisy: 4 rounds", 0.5)
    ('quiet', 'noisy: others took 50 %', 'noisy: 4 rounds, others took 50 %')
    """
    if others is None or others <= BUSIEST:
        return verdict
    reasons = [] if verdict == QUIET else [verdict.removeprefix("noisy: ")]
    return f"noisy: {', '.join([*reasons, f'others took {100 * others:.0f} %'])}"


def write(path: Path, results: Mapping[str, Any]) -> None:
    """Writes a run as JSON."""
    path.write_text(json.dumps(results, indent=1) + "\n", encoding="utf-8")
