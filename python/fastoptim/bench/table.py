"""A run for a reader: the machine, an aligned table, and whether to believe it."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any

from .results import Noise, Results, Row, Times
from .timing import QUIET

#: What may be the same in all rows, and then stands above the table.
SETTINGS = ("dtype", "grad_dtype", "threads", "isa", "device")

COLUMNS: dict[str, Callable[[Row], str]] = {
    "a step": lambda row: duration(row["seconds"]["median"]),
    "10-90 %": lambda row: spread(row["seconds"]),
    "ns/element": lambda row: significant(row["ns_per_element"]),
    "GB/s": lambda row: f"{row['gb_per_s']:.1f}",
    "limit": lambda row: duration(row["limit_seconds"]["median"]),
    "share": lambda row: f"{row['share']:.2f}",
    "fixed": lambda row: fixed(row),
    "beyond": lambda row: "" if row["share_beyond_fixed"] is None else f"{row['share_beyond_fixed']:.2f}",
    "noise": lambda row: "" if row["noise"] == QUIET else row["noise"],
}

KEY = """\
limit   a native pass that reads and writes the same bytes of the same arrays with next to no arithmetic, timed in turn:
        on the CPU the fastest of each instruction set's
share   of the limit: its time over the step's
fixed   what a step of as many arrays of one element takes, and its part of the whole
beyond  the share without what either costs at one element"""


def report(results: Results) -> str:
    """All of it."""
    rows = results["rows"]
    parts = [heading(results["machine"]), in_common(rows)]
    if rows:
        parts += ["", table(rows), "", KEY, ""]
    return "\n".join([*parts, conclusion(results["noise"])])


def heading(machine: Mapping[str, Any]) -> str:
    """The machine in two lines, and its GPU in a third where that was used."""
    caches = ", ".join(f"{name} {size}" for name, size in machine["caches"].items())
    memory = f"{machine['memory_bytes'] / 2**30:.0f} GiB" if machine["memory_bytes"] else None
    pages = f"huge pages {machine['huge_pages']}" if machine["huge_pages"] else None
    hardware = [machine["processor"], f"{machine['processors_usable']} of {machine['processors']} processors", caches]
    software = [
        f"fastoptim {machine['fastoptim']} ({machine['compiler']})",
        f"NumPy {machine['numpy']}",
        f"Python {machine['python']}",
        machine["system"],
    ]
    gpu = machine.get("gpu")
    lines = [[*hardware, memory, pages], software, *([gpu_of(gpu, machine["cuda"])] if gpu else [])]
    return "\n".join(", ".join(filter(None, line)) for line in lines)


def gpu_of(gpu: Mapping[str, Any], built_with: str) -> list[str]:
    """What a reader is told of a GPU."""
    return [
        f"{gpu['name']} ({gpu['compute_capability']})",
        f"{gpu['processors']} multiprocessors",
        f"{gpu['memory_bytes'] / 2**30:.0f} GiB",
        f"driver for CUDA {gpu['driver']}",
        f"built with CUDA {built_with}",
        f"CuPy {gpu['cupy']}",
    ]


def in_common(rows: Sequence[Row]) -> str:
    """The settings that all rows share, and up to how many elements the answers were checked."""
    if not rows:
        return "nothing was measured"
    same = [name for name in SETTINGS if not _varies(rows, name) and _setting(name, rows[0])]
    shown = [f"{name.replace('_', ' ')} {_setting(name, rows[0])}" for name in same]
    most = max(row["checked_elements"] for row in rows)
    return f"{', '.join(shown)}; answers equal to the reference in every bit, over up to {most:,} elements"


def table(rows: Sequence[Row]) -> str:
    """One line a row, columns aligned; names to the left, numbers to the right."""
    named: dict[str, Callable[[Row], str]] = {"optimizer": name_of, "work": lambda row: row["work"]}
    for name in SETTINGS:
        if _varies(rows, name):
            named[name.replace("_", " ")] = partial(_setting, name)
    columns = {**named, **COLUMNS}
    lines = [list(columns), *([show(row) for show in columns.values()] for row in rows)]
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    left = [name in named or name == "noise" for name in columns]
    return "\n".join(_aligned(line, widths, left) for line in lines)


def _aligned(cells: Sequence[str], widths: Sequence[int], left: Sequence[bool]) -> str:
    parts = zip(cells, widths, left, strict=True)
    return "  ".join(cell.ljust(width) if is_left else cell.rjust(width) for cell, width, is_left in parts).rstrip()


def _varies(rows: Sequence[Row], name: str) -> bool:
    return len({_setting(name, row) for row in rows}) > 1


def _setting(name: str, row: Mapping[str, Any]) -> str:
    """Empty where a row has none, as one on a GPU has no threads."""
    return "" if row[name] is None else str(row[name])


def name_of(row: Row) -> str:
    """The optimizer with the options that were given."""
    options = ", ".join(f"{name}={value}" for name, value in row["options"].items())
    return f"{row['optimizer']}({options})" if options else row["optimizer"]


def conclusion(noise: Noise) -> str:
    """Whether the machine was quiet enough."""
    seen = []
    if noise["load_before"] is not None and noise["load_after"] is not None:
        seen.append(f"load {noise['load_before']:.1f} before, {noise['load_after']:.1f} after")
    if noise["others"] is not None and "others" not in noise["verdict"]:
        seen.append(f"{100 * noise['others']:.0f} % of the processors for others")
    measured = f" ({'; '.join(seen)})" if seen else ""
    if noise["verdict"] == QUIET:
        return f"The machine was quiet{measured}."
    reasons = noise["verdict"].removeprefix("noisy: ")
    return f"The machine was too noisy to conclude from this: {reasons}{measured}."


def fixed(row: Row) -> str:
    """The fixed cost and its part of the step."""
    part = min(1.0, row["fixed_seconds"]["median"] / row["seconds"]["median"])
    return f"{duration(row['fixed_seconds']['median'])} {100 * part:3.0f} %"


def spread(times: Times) -> str:
    """From the 10th to the 90th percentile, in one unit."""
    unit, factor = _unit(times["median"])
    return f"{significant(times['low'] * factor)}-{significant(times['high'] * factor)} {unit}"


def duration(seconds: float) -> str:
    """Three digits and a unit.

    >>> duration(0.00912)
    '9.12 ms'
    """
    unit, factor = _unit(seconds)
    return f"{significant(seconds * factor)} {unit}"


def significant(number: float) -> str:
    """Three digits, more before the point where there are more.

    >>> [significant(n) for n in (0.01234, 1.234, 12.34, 1234.5)]
    ['0.0123', '1.23', '12.3', '1,234']
    """
    if number >= 100:
        return f"{number:,.0f}"
    digits = 1 if number >= 10 else 2 if number >= 1 else 3 if number >= 0.1 else 4
    return f"{number:.{digits}f}"


def _unit(seconds: float) -> tuple[str, float]:
    return ("us", 1e6) if seconds < 1e-3 else ("ms", 1e3) if seconds < 1 else ("s", 1.0)
