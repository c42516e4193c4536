"""Text output: aligned tables, short numbers, the machine, and the conclusion."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from math import floor, log10
from typing import Any

from .results import Row
from .timing import QUIET, Times

#: Values that are shown above the table if all rows share them.
SETTINGS = ("dtype", "grad_dtype", "threads", "isa", "device")

COLUMNS: dict[str, Callable[[Row], str]] = {
    "a step": lambda row: duration(row["seconds"]["median"]),
    "10-90 %": lambda row: spread(row["seconds"]),
    "ns/element": lambda row: significant(row["ns_per_element"]),
    "GB/s": lambda row: f"{row['gb_per_s']:.1f}",
    "probe": lambda row: duration(row["probe_seconds"]["median"]),
    "share": lambda row: f"{row['share']:.2f}",
    "fixed": lambda row: fixed_cost(row),
    "beyond": lambda row: "" if row["share_beyond_fixed"] is None else f"{row['share_beyond_fixed']:.2f}",
    "noise": lambda row: "" if row["noise"] == QUIET else row["noise"],
}

KEY = """\
probe   a native pass that reads and writes the same bytes of the same arrays with almost no arithmetic, timed
        alternately with the step; on the CPU the fastest of all instruction sets
share   the probe's time divided by the step's
fixed   the time of a step over as many arrays of one element, and its part of the whole
beyond  the share without the times at one element"""


def format_run(results: Mapping[str, Any]) -> str:
    """Return the machine, the table and the conclusion."""
    rows = results["rows"]
    parts = [describe_machine(results["machine"]), describe_settings(rows)]
    if rows:
        parts += ["", format_rows(rows), "", KEY, ""]
    return "\n".join([*parts, conclude(results["noise"])])


def describe_machine(machine: Mapping[str, Any]) -> str:
    """Return the machine in two lines, and its GPU in a third one if there is one."""
    hardware = [
        machine["processor"],
        f"{machine['processors_usable']} of {machine['processors']} processors",
        ", ".join(f"{name} {size}" for name, size in machine["caches"].items()),
        machine["memory_bytes"] and f"{machine['memory_bytes'] / 2**30:.0f} GiB",
        machine["huge_pages"] and f"huge pages {machine['huge_pages']}",
    ]
    versions = f"NumPy {machine['numpy']}, Python {machine['python']}, {machine['system']}"
    lines = [", ".join(filter(None, hardware)), f"fastoptim {machine['fastoptim']} ({machine['compiler']}), {versions}"]
    if gpu := machine.get("gpu"):
        lines.append(
            f"{gpu['name']} ({gpu['compute_capability']}), {gpu['processors']} multiprocessors, "
            f"{gpu['memory_bytes'] / 2**30:.0f} GiB, driver for CUDA {gpu['driver']}, "
            f"built with CUDA {machine['cuda']}, CuPy {gpu['cupy']}"
        )
    return "\n".join(lines)


def describe_settings(rows: Sequence[Row]) -> str:
    """Return the settings that all rows share, and the largest number of elements that were compared."""
    if not rows:
        return "nothing was measured"
    same = [name for name in SETTINGS if not _varies(rows, name) and _setting(name, rows[0])]
    shown = ", ".join(f"{name.replace('_', ' ')} {_setting(name, rows[0])}" for name in same)
    most = max(row["checked_elements"] for row in rows)
    return f"{shown}; answers equal to the reference in every bit, over up to {most:,} elements"


def format_rows(rows: Sequence[Row]) -> str:
    """Return a line for each row, with a column for each setting that varies."""
    named: dict[str, Callable[[Row], str]] = {"optimizer": name_of, "work": lambda row: row["work"]}
    named |= {name.replace("_", " "): partial(_setting, name) for name in SETTINGS if _varies(rows, name)}
    columns = {**named, **COLUMNS}
    lines = [list(columns), *([show(row) for show in columns.values()] for row in rows)]
    return format_table(lines, {*named, "noise"})


def format_table(lines: Sequence[Sequence[str]], left: set[str], *, markdown: bool = False) -> str:
    """Align columns: those whose headings are in `left` to the left, the others to the right."""
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    is_left = [heading in left for heading in lines[0]]
    if not markdown:
        return "\n".join(align_line(line, widths, is_left) for line in lines)
    rule = ["-" * (width + 1) + ("-" if to_left else ":") for width, to_left in zip(widths, is_left, strict=True)]
    header, *body = (f"| {align_line(line, widths, is_left, ' | ', '')} |" for line in lines)
    return "\n".join([header, f"|{'|'.join(rule)}|", *body])


def align_line(
    cells: Sequence[str], widths: Sequence[int], is_left: Sequence[bool], between: str = "  ", strip: str | None = None
) -> str:
    """Pad and join the cells of one line."""
    columns = zip(cells, widths, is_left, strict=True)
    return between.join(f"{cell:{'<' if to_left else '>'}{width}}" for cell, width, to_left in columns).rstrip(strip)


def _varies(rows: Sequence[Row], name: str) -> bool:
    return len({_setting(name, row) for row in rows}) > 1


def _setting(name: str, row: Mapping[str, Any]) -> str:
    return "" if row[name] is None else str(row[name])


def name_of(row: Row) -> str:
    """Return the optimizer with the options that were passed."""
    options = ", ".join(f"{name}={value}" for name, value in row["options"].items())
    return f"{row['optimizer']}({options})" if options else row["optimizer"]


def conclude(noise: Mapping[str, Any]) -> str:
    """Say whether the machine was quiet enough."""
    seen = []
    if noise["load_before"] is not None and noise["load_after"] is not None:
        seen.append(f"load {noise['load_before']:.1f} before, {noise['load_after']:.1f} after")
    if noise["others"] is not None and "others" not in noise["verdict"]:
        seen.append(f"{100 * noise['others']:.0f} % of the processors for others")
    measured = f" ({'; '.join(seen)})" if seen else ""
    if noise["verdict"] == QUIET:
        return f"The machine was quiet{measured}."
    return f"The machine was too noisy for conclusions: {noise['verdict'].removeprefix('noisy: ')}{measured}."


# ---- numbers


def fixed_cost(row: Row) -> str:
    """Return the fixed cost and its part of the step."""
    fixed, step = row["fixed_seconds"]["median"], row["seconds"]["median"]
    return f"{duration(fixed)} {100 * min(1.0, fixed / step):3.0f} %"


def spread(times: Times) -> str:
    """Return the range from the 10th to the 90th percentile, in the median's unit."""
    unit, factor = _unit(times["median"])
    return f"{significant(times['low'] * factor)}-{significant(times['high'] * factor)} {unit}"


def duration(seconds: float, digits: int = 3) -> str:
    """Return a time with some significant digits and a unit.

    >>> duration(0.00912), duration(7.21e-6, 2), duration(158.2e-6, 2), duration(12.0)
    ('9.12 ms', '7.2 us', '158 us', '12.0 s')
    """
    unit, factor = _unit(seconds)
    return f"{significant(seconds * factor, digits)} {unit}"


def significant(number: float, digits: int = 3) -> str:
    """Return a number with some significant digits, and with all digits before the decimal point.

    >>> [significant(n) for n in (0.01234, 1.234, 12.34, 1234.5)], significant(9.97, 2)
    (['0.0123', '1.23', '12.3', '1,234'], '10')
    """
    exponent = floor(log10(float(f"{number:.{digits - 1}e}"))) if number > 0 else 0
    return f"{number:,.{min(max(0, digits - 1 - exponent), digits + 1)}f}"


def _unit(seconds: float) -> tuple[str, float]:
    return ("us", 1e6) if seconds < 1e-3 else ("ms", 1e3) if seconds < 1 else ("s", 1.0)


def progress_bar(done: float, total: int, label: str, columns: int) -> str:
    """Return a line of the given width.

    >>> progress_bar(1.5, 4, "adam 1e6", 40)
    '[#######             ] 1/4 adam 1e6    '
    """
    width = max(10, min(40, columns // 2))
    bar = f"[{'#' * int(width * done / total):{width}}] {int(done)}/{total} {label}"
    return f"{bar[: columns - 1]:{columns - 1}}"
