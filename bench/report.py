"""Writes the speed tables of README.md and docs/performance.md, and their pictures, from bench/results/*.json.

    python bench/report.py            writes
    python bench/report.py --check    writes nothing; exits with 1 if a page is not what the results give

What stands between the markers of a page comes from here.  The pictures need matplotlib and are left as they are
without it.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import partial
from pathlib import Path
from statistics import median
from typing import Any

import fastoptim as fo
from fastoptim.bench.timing import QUIET

CHECKOUT = Path(__file__).parents[1]
RESULTS = CHECKOUT / "bench" / "results"
sys.path.append(str(CHECKOUT / "docs"))

from tables import filled, table  # noqa: E402

__all__ = ["PAGES", "PEERS", "PICTURES", "faster", "filled", "load", "main"]

Run = Mapping[str, Any]
Row = Mapping[str, Any]

#: Columns in this order; a peer that a run does not have has none.
PEERS = (
    "torch fused",
    "torch foreach",
    "torch eager",
    "deepspeed",
    "optax",
    "keras",
    "numba",
    "numexpr",
    "numpy",
    "thinc",
    "mlx",
)
#: The runs of the README's first table.
ADAM = ("small", "large", "gpt2")
#: Two medians that differ by less are not called different.
TIE = 0.05


def load(name: str) -> Run:
    """A recorded run."""
    found: Run = json.loads((RESULTS / f"{name}.json").read_text(encoding="utf-8"))
    return found


# ---- numbers


def times(number: float) -> str:
    """How many times as fast: two digits that count.

    >>> times(0.934), times(1.04), times(2.96), times(41.2), times(1234.0)
    ('0.93', '1.0', '3.0', '41', '1,200')
    """
    if number < 0.995:
        return f"{number:.2f}"
    if number < 9.95:
        return f"{number:.1f}"
    return f"{number:.0f}" if number < 100 else f"{round(number, -2 if number >= 1000 else -1):,.0f}"


def duration(seconds: float) -> str:
    """A time for a reader.

    >>> duration(7.21e-6), duration(158.2e-6), duration(9.1e-3), duration(0.0834)
    ('7.2 us', '158 us', '9.1 ms', '83 ms')
    """
    number, unit = (seconds * 1e3, "ms") if seconds >= 1e-3 else (seconds * 1e6, "us")
    return f"{number:.1f} {unit}" if number < 9.95 else f"{number:.0f} {unit}"


def cell(row: Row | None) -> str:
    """How many times as fast fastoptim is; in italics what was too noisy to conclude from."""
    if row is None:
        return ""
    if row["times_as_fast"] is None:
        return "n/a"
    return times(row["times_as_fast"]) if row["noise"] == QUIET else f"*{times(row['times_as_fast'])}*"


# ---- tables


def where(run: Run) -> str:
    """Machine, versions, date and command, in a sentence each."""
    machine, settings = run["machine"], run["settings"]
    peers = dict.fromkeys(f"{name.split()[0]} {version}" for name, version in settings.get("peers", {}).items())
    with_peers = f" with {', '.join(peers)}" if peers else ""
    return (
        f"`{settings['command']}` on {settings['date'][:10]}: {machine['processor']}, {machine['threads']} threads, "
        f"fastoptim {machine['fastoptim']} ({machine['isa']}), Python {machine['python']}, "
        f"NumPy {machine['numpy']}{with_peers}."
    )


def matrix(runs: Iterable[Run], by: str, named: Callable[[Row], str], heading: str) -> str:
    """A line for each work or optimizer: fastoptim's time, and how many times as fast as each peer it is."""
    rows = [row for run in runs for row in run["rows"]]
    found = {(row[by], row["peer"]): row for row in rows}
    lines = {row[by]: named(row) for row in rows}
    peers = [peer for peer in PEERS if any((line, peer) in found for line in lines)]
    cells = []
    for line, name in lines.items():
        ours = [row["ours_seconds"]["median"] for row in rows if row[by] == line and row["ours_seconds"]]
        own = duration(median(ours)) if ours else ""
        cells.append([name, own, *(cell(found.get((line, peer))) for peer in peers)])
    return table([heading, "fastoptim", *peers], cells)


def title(row: Row) -> str:
    """Of the row's work."""
    return str(row["title"])


def class_name(row: Row) -> str:
    """Of the row's optimizer."""
    return f"`{fo.OPTIMIZERS[row['optimizer']].__name__}`"


def faster(runs: Iterable[Run]) -> str:
    """Where a peer is faster, said plainly."""
    rows = [row for run in runs for row in run["rows"] if row["times_as_fast"] is not None]
    beaten = [row for row in rows if row["times_as_fast"] < 1 - TIE]
    even = [row for row in rows if abs(row["times_as_fast"] - 1) <= TIE]
    return f"Faster than fastoptim here: {told(beaten)}.  As fast, within {100 * TIE:.0f} %: {told(even)}."


def told(rows: Sequence[Row]) -> str:
    """The peers of the rows and where; "none" if there are none."""
    where_: dict[str, list[str]] = {}
    for row in rows:
        name = "" if row["optimizer"] == "adam" else f"{row['optimizer']}, "
        where_.setdefault(row["peer"], []).append(f"{name}{row['title']}: {times(row['times_as_fast'])}")
    return ", ".join(f"{peer} ({'; '.join(places)})" for peer, places in where_.items()) or "none"


def adam() -> str:
    """The README's first table."""
    runs = [load(name) for name in ADAM]
    return f"{matrix(runs, 'work', title, 'Adam, float32')}\n\n{faster(runs)}"


def optimizers() -> str:
    """The README's second table."""
    run = load("optimizers")
    return f"{matrix([run], 'optimizer', class_name, '1 array of 1.6e7')}\n\n{faster([run])}"


def of_work(name: str) -> str:
    """A table of works with what was run."""
    run = load(name)
    return f"{where(run)}\n\n{matrix([run], 'work', title, 'Adam, float32')}\n\n{faster([run])}"


def limit() -> str:
    """The share of the machine's limit, by optimizer and size."""
    run = load("limit")
    works = list(dict.fromkeys(row["work"] for row in run["rows"]))
    lines: dict[str, dict[str, Row]] = {}
    for row in run["rows"]:
        lines.setdefault(class_name(row), {})[row["work"]] = row
    cells = [[name, *(share(of[work]) for work in works)] for name, of in lines.items()]
    return f"{where(run)}\n\n{table(['elements', *works], cells)}"


def share(row: Row) -> str:
    """Of the limit; in italics what was too noisy to conclude from."""
    text = f"{row['share']:.2f}"
    return text if row["noise"] == QUIET else f"*{text}*"


def recorded() -> str:
    """What the README's tables come from."""
    return "\n\n".join(where(load(name)) for name in (*ADAM, "optimizers"))


PAGES: Mapping[str, Mapping[str, Callable[[], str]]] = {
    "README.md": {"adam": adam, "every optimizer": optimizers},
    "docs/performance.md": {
        "recorded": recorded,
        "in cache": partial(of_work, "cache"),
        "cold": partial(of_work, "cold"),
        "limit": limit,
    },
}

# ---- pictures

INK, OURS, THEIRS = "#333333", "#2a6f97", "#c44536"


def draw_adam(path: Path) -> None:
    """A panel for each work, a bar for each peer."""
    rows = [row for name in ADAM for row in load(name)["rows"] if row["times_as_fast"] is not None]
    rows.sort(key=lambda row: PEERS.index(row["peer"]))
    panels: dict[str, dict[str, Row]] = {row["title"]: {} for name in ADAM for row in load(name)["rows"]}
    for row in rows:
        panels[row["title"]][row["peer"]] = row
    draw(path, panels, "Adam, float32: how many times as fast as each peer fastoptim is (pale: noisy)")


def draw_optimizers(path: Path) -> None:
    """A panel for each way of PyTorch's, a bar for each optimizer."""
    panels: dict[str, dict[str, Row]] = {}
    for row in load("optimizers")["rows"]:
        if row["times_as_fast"] is not None:
            way = "torch foreach (Lion: eager)" if row["peer"] != "torch fused" else "torch fused"
            panels.setdefault(way, {})[class_name(row).strip("`")] = row
    draw(path, panels, "1.6e7 elements: times as fast as PyTorch (pale: noisy)")


def draw(path: Path, panels: Mapping[str, Mapping[str, Row]], heading: str) -> None:
    """Bars from 1, to the right where fastoptim is faster, pale where noisy; all on one logarithmic axis."""
    from matplotlib.figure import Figure
    from matplotlib.ticker import FuncFormatter

    labels = list(dict.fromkeys(label for bars in panels.values() for label in bars))[::-1]
    columns = min(4, len(panels))
    lines = -(-len(panels) // columns)
    figure = Figure(figsize=(2.6 * columns + 1, lines * (0.24 * len(labels) + 0.6) + 0.5), layout="constrained")
    figure.suptitle(heading, color=INK)
    axes = figure.subplots(lines, columns, squeeze=False, sharex=True, sharey=True).flat
    every = [row["times_as_fast"] for bars in panels.values() for row in bars.values()]
    for (name, bars), axis in zip(panels.items(), axes, strict=False):
        for place, label in enumerate(labels):
            if label in bars:
                number, alpha = bars[label]["times_as_fast"], 1 if bars[label]["noise"] == QUIET else 0.5
                axis.barh(place, number - 1, left=1, color=OURS if number >= 1 else THEIRS, alpha=alpha, height=0.7)
                axis.text(max(number, 1) * 1.15, place, times(number), va="center", fontsize=8, color=INK)
        axis.axvline(1, color=INK, linewidth=0.8)
        axis.set(xscale="log", xlim=(min(0.6, *every) * 0.8, max(every) * 3), ylim=(-0.6, len(labels) - 0.4))
        axis.set_yticks(range(len(labels)), labels)
        axis.set_title(name, fontsize=9, color=INK)
        axis.xaxis.set_major_formatter(FuncFormatter(lambda number, _: f"{number:g}"))
        axis.tick_params(which="both", labelsize=8, length=0, colors=INK)
        axis.spines[["top", "right", "left", "bottom"]].set_visible(False)
        axis.grid(axis="x", color="#dddddd", linewidth=0.6)
        axis.set_axisbelow(True)
    for axis in axes:  # the rest
        axis.set_visible(False)
    figure.savefig(path, dpi=110)


PICTURES: Mapping[str, Callable[[Path], None]] = {
    "docs/images/speed.png": draw_adam,
    "docs/images/speed_optimizers.png": draw_optimizers,
}


def main(arguments: Sequence[str] | None = None) -> int:
    """Writes, or checks."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--check", action="store_true", help="write nothing; exit with 1 if a page is out of date")
    check = parser.parse_args(arguments).check
    old = []
    for page, made in PAGES.items():
        text = (CHECKOUT / page).read_text(encoding="utf-8")
        if (new := filled(text, made)) != text:
            old.append(page)
            if not check:
                (CHECKOUT / page).write_text(new, encoding="utf-8")
    print(f"{'out of date' if check else 'written'}: {', '.join(old)}" if old else "up to date")
    if not check:
        draw_all()
    return int(check and bool(old))


def draw_all() -> None:
    """The pictures, if they can be drawn."""
    try:
        import matplotlib  # noqa: F401
    except ImportError:
        print("no pictures: matplotlib is not installed")
        return
    for path, make in PICTURES.items():
        make(CHECKOUT / path)
        print(f"drawn: {path}")


if __name__ == "__main__":
    sys.exit(main())
