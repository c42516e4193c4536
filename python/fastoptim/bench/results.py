"""The results of a run, in memory and in the file that ``--json`` writes.

The file is one object: ``schema``, ``machine`` (see `machine.describe`), ``settings`` (the arguments), ``noise`` (the
verdict, the load averages, and the part of the processors that others took) and ``rows``.  Times are in seconds, sizes
in bytes.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, TypedDict

from .timing import QUIET, Times
from .workload import Workload

#: The version of the file's format.  It changes whenever readers have to.
SCHEMA = 2
#: The part of the processors that others may take during a reliable run.
BUSIEST = 0.1


class Row(TypedDict, total=False):
    """An optimizer's step on one workload, compared with the bandwidth probe or with a peer.

    A row of ``python -m fastoptim bench`` has all fields of the first two parts.  One of ``bench/peers.py`` has those
    of the first and the third.
    """

    optimizer: str
    options: dict[str, Any]
    work: str  # the workload's name
    elements: int
    arrays: int
    dtype: str
    grad_dtype: str
    threads: int | None  # None on a GPU
    isa: str | None  # None on a GPU
    device: str
    checked_elements: int  # compared before anything was timed
    noise: str  # "quiet", or "noisy: " and the reasons
    seconds: Times  # a step; the peer's in a row that has a peer

    bytes: int  # that a step reads and writes
    probe_seconds: Times  # the bandwidth probe over the same arrays
    probe_isa: str | None  # the instruction set of the fastest probe; None on a GPU
    fixed_seconds: Times  # a step over as many arrays of one element
    probe_fixed_seconds: Times  # the probe over those
    share: float  # probe_seconds / seconds
    share_beyond_fixed: float | None  # the same without the fixed costs; None if too little is left
    ns_per_element: float
    gb_per_s: float

    title: str  # of the workload, for people
    peer: str
    version: str  # of the peer's package
    ours_seconds: Times  # a step of fastoptim, in the same rounds
    times_as_fast: float | None  # seconds / ours_seconds
    problem: str | None  # the reason why the peer was not timed


def row_of(workload: Workload, checked: int) -> Row:
    """Return a row with the fields that describe the workload."""
    return Row(
        optimizer=workload.optimizer,
        options=dict(workload.options),
        work=workload.name,
        elements=workload.elements,
        arrays=len(workload.shapes),
        dtype=workload.dtype,
        grad_dtype=workload.grad_dtype,
        threads=workload.threads,
        isa=workload.isa,
        device=workload.device,
        checked_elements=checked,
        noise=QUIET,
    )


def add_others(verdict: str, others: float | None) -> str:
    """Add to a verdict that others took more than `BUSIEST` of the processors.

    Two steps that both wait for the processor most of the time look alike, and steady.

    >>> add_others("quiet", 0.05), add_others("quiet", 0.5), add_others("noisy: 4 rounds", 0.5)
    ('quiet', 'noisy: others took 50 %', 'noisy: 4 rounds, others took 50 %')
    """
    if others is None or others <= BUSIEST:
        return verdict
    return f"{'noisy: ' if verdict == QUIET else f'{verdict}, '}others took {100 * others:.0f} %"


def judge_run(rows: Sequence[Row], watched: Mapping[str, float | None]) -> dict[str, Any]:
    """Judge a run by its rows and by the report of `machine.Watch`, which is added to the verdict."""
    noisy = sum(row["noise"] != QUIET for row in rows)
    verdict = f"noisy: {noisy} of {len(rows)} rows" if noisy else QUIET
    return {"verdict": add_others(verdict, watched["others"]), **watched}


def write_json(path: Path, run: Mapping[str, Any]) -> None:
    """Write a run, as `make_run` or a file has it."""
    path.write_text(json.dumps(run, indent=1) + "\n", encoding="utf-8")


def make_run(
    machine: Any, settings: Mapping[str, Any], watched: Mapping[str, Any], rows: Sequence[Row]
) -> dict[str, Any]:
    """Return a whole run as plain data."""
    noise = judge_run(rows, watched)
    return {"schema": SCHEMA, "machine": machine, "settings": dict(settings), "noise": noise, "rows": list(rows)}
