"""Write the speed tables of README.md and docs/performance.md, and their pictures, from bench/results/*.json.

python bench/report.py                      write the tables and, if matplotlib is installed, the pictures
python bench/report.py --record             first repeat all recorded runs: some twenty minutes on two cores
python bench/report.py --record gpt2 cold   first repeat some of them
"""

from __future__ import annotations

import argparse
import json
import shlex
import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from importlib.util import find_spec
from pathlib import Path
from statistics import median
from typing import Any

import fastoptim as fo
from adapters import PEERS
from fastoptim.bench.table import duration
from fastoptim.bench.timing import QUIET

CHECKOUT = Path(__file__).parents[1]
sys.path.append(str(CHECKOUT / "docs"))

from tables import table, update  # noqa: E402

Run = Mapping[str, Any]
Row = Mapping[str, Any]

#: Python's arguments for each file of bench/results/.
RUNS: Mapping[str, str] = {
    "small": "bench/peers.py --work one mlp many --seconds 2",
    "large": "bench/peers.py --work 1e5 1e6 1.6e7 --seconds 2",
    "gpt2": "bench/peers.py --work gpt2 --peer 'torch fused' deepspeed optax numba --seconds 4",
    "cache": "bench/peers.py --work 2^12 2^13 2^14 2^15 2^16 2^17 2^18 --peer numba 'torch fused' --seconds 2",
    "optimizers": "bench/peers.py --work 1.6e7 --optimizer all --peer torch --seconds 2",
    "cold": "bench/peers.py --work mlp many 1e5 1e6 --block 1 --peer 'torch fused' deepspeed numba --seconds 2",
    "limit": "-m fastoptim bench all --size 2^16 2^24 2^26 --seconds 0.6",
}
#: The runs of the README's first table.
ADAM = ("small", "large", "gpt2")
#: Two medians that differ by less are called equal.
TIE = 0.05


def file_of(name: str) -> Path:
    return CHECKOUT / "bench" / "results" / f"{name}.json"


def recorded(*names: str) -> list[Run]:
    return [json.loads(file_of(name).read_text(encoding="utf-8")) for name in names]


def rows_of(runs: Sequence[Run]) -> list[Row]:
    return [row for run in runs for row in run["rows"]]


# ---- tables


def times(number: float) -> str:
    """Write how many times as fast, with two significant digits.

    >>> times(0.934), times(1.04), times(2.96), times(41.2), times(1234.0)
    ('0.93', '1.0', '3.0', '41', '1,200')
    """
    if number < 9.95:
        return f"{number:.2f}" if number < 0.995 else f"{number:.1f}"
    return f"{number:.0f}" if number < 100 else f"{round(number, -2 if number >= 1000 else -1):,.0f}"


def marked(text: str, row: Row) -> str:
    """Return a number, in italics if the row is noisy."""
    return text if row["noise"] == QUIET else f"*{text}*"


def describe(name: str) -> str:
    """Return the command, date, machine and versions."""
    (run,) = recorded(name)
    machine, settings = run["machine"], run["settings"]
    command = shlex.join(["python", *shlex.split(RUNS[name])])
    peers = dict.fromkeys(f"{name.split()[0]} {version}" for name, version in settings.get("peers", {}).items())
    with_peers = f" with {', '.join(peers)}" if peers else ""
    return (
        f"`{command}` on {settings['date'][:10]}: {machine['processor']}, {machine['threads']} threads, "
        f"fastoptim {machine['fastoptim']} ({machine['isa']}), Python {machine['python']}, "
        f"NumPy {machine['numpy']}{with_peers}."
    )


def class_name(row: Row) -> str:
    return fo.OPTIMIZERS[row["optimizer"]].__name__


def peer_table(runs: Sequence[Run], by: str, heading: str) -> str:
    """Return a line for each workload or optimizer: fastoptim's time, its ratio to each peer, and a summary."""
    rows = rows_of(runs)
    found = {(row[by], row["peer"]): row for row in rows}
    names = {row[by]: row["title"] if by == "work" else f"`{class_name(row)}`" for row in rows}
    peers = [peer for peer in PEERS if any((line, peer) in found for line in names)]
    lines = []
    for line, name in names.items():
        ours = [row["ours_seconds"]["median"] for row in rows if row[by] == line and "ours_seconds" in row]
        ratios = [ratio(found[line, peer]) if (line, peer) in found else "" for peer in peers]
        lines.append([name, duration(median(ours), 2) if ours else "", *ratios])
    return f"{table([heading, 'fastoptim', *peers], lines)}\n\n{name_faster(rows)}"


def ratio(row: Row) -> str:
    return "n/a" if row["times_as_fast"] is None else marked(times(row["times_as_fast"]), row)


def name_faster(rows: Sequence[Row]) -> str:
    """Name the peers that are faster or equally fast."""

    def named(least: float, most: float) -> str:
        places: dict[str, list[str]] = {}
        for row in rows:
            if row["times_as_fast"] is not None and least <= row["times_as_fast"] < most:
                name = "" if row["optimizer"] == "adam" else f"{row['optimizer']}, "
                places.setdefault(row["peer"], []).append(f"{name}{row['title']}: {times(row['times_as_fast'])}")
        return ", ".join(f"{peer} ({'; '.join(found)})" for peer, found in places.items()) or "none"

    faster, equal = named(0, 1 - TIE), named(1 - TIE, 1 + TIE)
    return f"Faster than fastoptim here: {faster}.  As fast, within {100 * TIE:.0f} %: {equal}."


def one_run(name: str) -> str:
    return f"{describe(name)}\n\n{peer_table(recorded(name), 'work', 'Adam, float32')}"


def shares() -> str:
    """Return the share of the bandwidth probe by optimizer and size."""
    (run,) = recorded("limit")
    lines: dict[str, dict[str, str]] = {}
    for row in run["rows"]:
        lines.setdefault(f"`{class_name(row)}`", {})[row["work"]] = marked(f"{row['share']:.2f}", row)
    sizes = list(dict.fromkeys(row["work"] for row in run["rows"]))
    cells = [[name, *(of_size[size] for size in sizes)] for name, of_size in lines.items()]
    return f"{describe('limit')}\n\n{table(['elements', *sizes], cells)}"


PAGES: Mapping[str, Mapping[str, Callable[[], str]]] = {
    "README.md": {"adam": lambda: peer_table(recorded(*ADAM), "work", "Adam, float32")},
    "docs/performance.md": {
        "every optimizer": lambda: peer_table(recorded("optimizers"), "optimizer", "1 array of 1.6e7"),
        "recorded": lambda: "\n\n".join(map(describe, (*ADAM, "optimizers"))),
        "in cache": partial(one_run, "cache"),
        "cold": partial(one_run, "cold"),
        "limit": shares,
    },
}

# ---- pictures

INK, OURS, THEIRS = "#333333", "#2a6f97", "#c44536"


def draw(
    runs: Sequence[str], panel_of: Callable[[Row], str], bar_of: Callable[[Row], str], heading: str, path: Path
) -> None:
    """Draw bars from 1 on a logarithmic axis, to the right where fastoptim is faster, pale where noisy."""
    from matplotlib.figure import Figure

    panels: dict[str, dict[str, Row]] = {}
    for row in rows_of(recorded(*runs)):
        panels.setdefault(panel_of(row), {})[bar_of(row)] = row
    labels = list(dict.fromkeys(label for bars in panels.values() for label in bars))[::-1]
    columns = min(4, len(panels))
    lines = -(-len(panels) // columns)
    figure = Figure(figsize=(2.6 * columns + 1, lines * (0.24 * len(labels) + 0.6) + 0.5), layout="constrained")
    figure.suptitle(heading, color=INK)
    every = [row["times_as_fast"] for bars in panels.values() for row in bars.values() if row["times_as_fast"]]
    axes = figure.subplots(lines, columns, squeeze=False, sharex=True, sharey=True).flat
    for axis, (name, bars) in zip(axes, [*panels.items(), *[("", {})] * (lines * columns - len(panels))], strict=True):
        for label, row in bars.items():
            if number := row["times_as_fast"]:
                place, alpha = labels.index(label), 1 if row["noise"] == QUIET else 0.5
                axis.barh(place, number - 1, left=1, color=OURS if number >= 1 else THEIRS, alpha=alpha, height=0.7)
                axis.text(max(number, 1) * 1.15, place, times(number), va="center", fontsize=8, color=INK)
        axis.axvline(1, color=INK, linewidth=0.8)
        axis.set(xscale="log", xlim=(min(0.6, *every) * 0.8, max(every) * 3), ylim=(-0.6, len(labels) - 0.4))
        axis.set_yticks(range(len(labels)), labels)
        axis.set_title(name, fontsize=9, color=INK)
        axis.xaxis.set_major_formatter("{x:g}")
        axis.tick_params(which="both", labelsize=8, length=0, colors=INK)
        axis.spines[["top", "right", "left", "bottom"]].set_visible(False)
        axis.grid(axis="x", color="#dddddd", linewidth=0.6)
        axis.set_axisbelow(True)
        axis.set_visible(bool(bars))
    figure.savefig(path, dpi=110)


PICTURES: Mapping[str, Callable[[Path], None]] = {
    "docs/images/speed.png": partial(
        draw,
        ADAM,
        lambda row: row["title"],
        lambda row: row["peer"],
        "Adam, float32: how many times as fast as each peer fastoptim is (pale: noisy)",
    ),
    "docs/images/speed_optimizers.png": partial(
        draw,
        ["optimizers"],
        lambda row: "torch fused" if row["peer"] == "torch fused" else "torch foreach (Lion: eager)",
        class_name,
        "1.6e7 elements: times as fast as PyTorch (pale: noisy)",
    ),
}


def make_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--record", nargs="*", choices=RUNS, metavar="RUN", help=f"repeat {', '.join(RUNS)}")
    return parser


def main(arguments: Sequence[str] | None = None) -> None:
    args = make_parser().parse_args(arguments)
    for name in list(RUNS) if args.record == [] else args.record or ():
        print(f"\n== python {RUNS[name]}", flush=True)
        command = [sys.executable, *shlex.split(RUNS[name]), "--json", str(file_of(name))]
        subprocess.run(command, cwd=CHECKOUT, check=True)
    update(PAGES)
    for path, make in PICTURES.items() if find_spec("matplotlib") else ():
        make(CHECKOUT / path)
        print(f"drawn: {path}")


if __name__ == "__main__":
    main()
