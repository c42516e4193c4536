"""Text output: aligned tables, short numbers, the machine, and the conclusion."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from math import floor, log10
from typing import Any

from .results import Row
from .timing import QUIET, Times
from .workload import has_formats

Columns = Mapping[str, Callable[[Any], str]]  # heading -> text of a row

#: Values that are shown above the table if all rows share them, else as columns after the first two.
SETTINGS = ("dtype", "grad_dtype", "threads", "isa", "device")

COLUMNS: Columns = {
    "optimizer": lambda row: name_of(row),
    "work": lambda row: row["work"],
    "a step": lambda row: duration(row["seconds"]["median"]),
    "10-90 %": lambda row: spread(row["seconds"]),
    "ns/element": lambda row: significant(row["ns_per_element"]),
    "bytes": lambda row: f"{row['memory_bytes'] / row['elements']:.4g}" if has_formats(row["options"]) else "",
    "of float32": lambda row: (
        f"{row['float32_seconds']['median'] / row['seconds']['median']:.2f}" if "float32_seconds" in row else ""
    ),
    "GB/s": lambda row: f"{row['gb_per_s']:.1f}",
    "probe": lambda row: duration(row["probe_seconds"]["median"]),
    "share": lambda row: f"{row['share']:.2f}",
    "fixed": lambda row: fixed_cost(row),
    "graph": lambda row: duration(row["graph_seconds"]["median"]) if "graph_seconds" in row else "",
    "beyond": lambda row: "" if row["share_beyond_fixed"] is None else f"{row['share_beyond_fixed']:.2f}",
    "noise": lambda row: show_noise(row),
}

#: The headings of columns that are aligned to the left.
LEFT = {"optimizer", "work", "peer", "noise", *(name.replace("_", " ") for name in SETTINGS)}

ANSWERS = "answers equal to the reference in every bit"

KEY = """\
probe   a native pass that reads and writes the same bytes of the same arrays with almost no arithmetic, timed
        alternately with the step; on the CPU the fastest of all instruction sets
share   the probe's time divided by the step's
fixed   the time of a step over as many arrays of one element, and its part of the whole
beyond  the share without the times at one element"""

FORMATS_KEY = """
bytes   of parameter, gradient and state in memory, per element
of float32  the time of a step with float32 parameters, gradients and state, timed alternately, divided by the step's"""


def format_run(run: Mapping[str, Any], columns: Columns = COLUMNS, answers: str = ANSWERS, key: str = KEY) -> str:
    """Return the machine, the table with a column for each setting that varies, and the conclusion."""
    rows = run["rows"]
    lines = [describe_machine(run["machine"])]
    if rows:
        settings = {name: [_setting(name, row) for row in rows] for name in SETTINGS}
        varying = {name.replace("_", " "): found for name, found in settings.items() if len(set(found)) > 1}
        same = [f"{name.replace('_', ' ')} {of[0]}" for name, of in settings.items() if len(set(of)) == 1 and of[0]]
        most = max(row["checked_elements"] for row in rows)
        cells = [(heading, list(map(show, rows))) for heading, show in columns.items()]
        shown = [*cells[:2], *varying.items(), *(column for column in cells[2:] if any(column[1]))]
        table = format_table([[heading for heading, _ in shown], *zip(*(cells for _, cells in shown), strict=True)])
        key += FORMATS_KEY * any(has_formats(row["options"]) for row in rows)
        lines += [f"{', '.join(same)}; {answers}, over up to {most:,} elements", "", table, "", key, ""]
    return "\n".join([*lines, conclude(run["noise"])])


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


def format_table(lines: Sequence[Sequence[str]]) -> str:
    """Align the columns: the first and those whose headings are in `LEFT` to the left, the others to the right.

    >>> print(format_table([["us", "x", "work"], ["a", "10", "b"]]))
    us   x  work
    a   10  b
    """
    padded = []
    for i, cells in enumerate(zip(*lines, strict=True)):
        side, width = "<" if i == 0 or cells[0] in LEFT else ">", max(map(len, cells))
        padded.append([f"{cell:{side}{width}}" for cell in cells])
    return "\n".join("  ".join(line).rstrip() for line in zip(*padded, strict=True))


def _setting(name: str, row: Mapping[str, Any]) -> str:
    return "" if row[name] is None else str(row[name])


def name_of(row: Row) -> str:
    """Return the optimizer with the options that were passed."""
    options = ", ".join(f"{name}={value}" for name, value in row["options"].items())
    return f"{row['optimizer']}({options})" if options else row["optimizer"]


def show_noise(row: Row) -> str:
    """Return the reasons why a row is noisy."""
    return "" if row["noise"] == QUIET else row["noise"]


def conclude(noise: Mapping[str, Any]) -> str:
    """Say whether the machine was quiet enough."""
    seen = []
    if noise["load_before"] is not None and noise["load_after"] is not None:
        seen.append(f"load {noise['load_before']:.1f} before, {noise['load_after']:.1f} after")
    if noise["others"] is not None and "others" not in noise["verdict"]:
        seen.append(f"{100 * noise['others']:.0f} % of the processors for others")
    measured = f" ({'; '.join(seen)})" if seen else ""
    if noise["verdict"] == QUIET:
        return f"The machine was quiet: every row counts{measured}."
    why = noise["verdict"].removeprefix("noisy: ")
    return f"The machine was noisy: {why}{measured}.  Rows that are marked noisy do not count."


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
