"""The results of a run, in memory and in the file that ``--json`` writes.

The file is one object: ``schema``, ``machine`` (see `machine.describe`), ``settings`` (the arguments and the date),
``noise`` (the verdict, the load averages, and the part of the processors that others took) and ``rows``.  Times are in
seconds, sizes in bytes.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from datetime import datetime, timezone
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
    memory_bytes: int  # of parameters, gradients and state
    float32_seconds: Times  # with options for formats: a step of float32 parameters, gradients and state
    probe_seconds: Times  # the bandwidth probe over the same arrays
    probe_isa: str | None  # the instruction set of the fastest probe; None on a GPU
    fixed_seconds: Times  # a step over as many arrays of one element
    probe_fixed_seconds: Times  # the probe over those
    share: float  # probe_seconds / seconds
    share_beyond_fixed: float | None  # the same without the fixed costs; None if too little is left
    ns_per_element: float
    gb_per_s: float
    graph_seconds: Times  # on a GPU: a replay of the step, captured in a CUDA graph

    title: str  # of the workload, for people
    peer: str
    version: str  # of the peer's package
    ours_seconds: Times  # a step of fastoptim, in the same rounds
    times_as_fast: float | None  # seconds / ours_seconds
    problem: str | None  # the reason why the peer was not timed


def row_of(workload: Workload, checked: int) -> Row:
    """Return a row with the fields that describe the workload."""
    names = ("optimizer", "elements", "dtype", "grad_dtype", "threads", "isa", "device")
    row = Row(work=workload.name, options=dict(workload.options), arrays=len(workload.shapes))
    row |= {name: getattr(workload, name) for name in names}  # type: ignore[typeddict-item]
    return row | Row(checked_elements=checked, noise=QUIET)


def add_others(verdict: str, others: float | None) -> str:
    """Add to a verdict that others took more than `BUSIEST` of the processors.

    Two steps that both wait for the processor most of the time look alike, and steady.

    >>> add_others("quiet", 0.05), add_others("quiet", 0.5), add_others("noisy: 4 rounds", 0.5)
    ('quiet', 'noisy: others took 50 %', 'noisy: 4 rounds, others took 50 %')
    """
    if others is None or others <= BUSIEST:
        return verdict
    return f"{'noisy: ' if verdict == QUIET else f'{verdict}, '}others took {100 * others:.0f} %"


def make_run(
    machine: Any, settings: Mapping[str, Any], watched: Mapping[str, Any], rows: Sequence[Row]
) -> dict[str, Any]:
    """Return a whole run as plain data, judged by its rows and by the report of `machine.Watch`."""
    noisy = sum(row["noise"] != QUIET for row in rows)
    verdict = add_others(f"noisy: {noisy} of {len(rows)} rows" if noisy else QUIET, watched["others"])
    dated = {**settings, "date": datetime.now(timezone.utc).isoformat(timespec="seconds")}
    noise = {"verdict": verdict, **watched}
    return {"schema": SCHEMA, "machine": machine, "settings": dated, "noise": noise, "rows": list(rows)}


def write_json(path: Path, run: Mapping[str, Any]) -> None:
    """Write a run, one line for each entry and each row."""
    parts = {name: json.dumps(value) for name, value in run.items()}
    parts["rows"] = "[\n  " + ",\n  ".join(map(json.dumps, run["rows"])) + "\n ]"
    lines = ",\n ".join(f"{json.dumps(name)}: {part}" for name, part in parts.items())
    path.write_text(f"{{\n {lines}\n}}\n", encoding="utf-8")
