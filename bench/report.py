"""Write the speed tables of README.md and docs/performance.md, and their pictures, from bench/results/*/*.json.

python bench/report.py                      write the tables and, if matplotlib is installed, the pictures
python bench/report.py --record             first repeat all recorded runs: some twenty minutes on two cores
python bench/report.py --record gpt2 cold   first repeat some of them

Each folder of bench/results/ has the runs of one machine; --machine names that of this one, by default after the
instruction set.  The tables have a line for each machine, and only rows that count: a dash marks one that is too
noisy.
"""

from __future__ import annotations

import argparse
import json
import shlex
import subprocess
import sys
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from importlib.util import find_spec
from pathlib import Path
from statistics import median
from typing import Any

import fastoptim as fo
from adapters import PEERS
from fastoptim.bench import plot
from fastoptim.bench.table import duration
from fastoptim.bench.timing import QUIET

CHECKOUT = Path(__file__).parents[1]
RESULTS = CHECKOUT / "bench" / "results"
sys.path.append(str(CHECKOUT / "docs"))

from tables import table, update  # noqa: E402

Run = Mapping[str, Any]
Row = Mapping[str, Any]

#: Python's arguments for each file of a folder of bench/results/.
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
#: In the place of a number that does not count.
NOISY = "-"


def machines() -> list[str]:
    return sorted(path.name for path in RESULTS.iterdir() if path.is_dir())


def recorded(*names: str) -> dict[str, list[Run]]:
    """Return the runs by machine; a machine may have only some of them."""
    files = {machine: [RESULTS / machine / f"{name}.json" for name in names] for machine in machines()}
    return {
        machine: [json.loads(path.read_text(encoding="utf-8")) for path in paths if path.exists()]
        for machine, paths in files.items()
        if any(path.exists() for path in paths)
    }


def rows_of(runs: Sequence[Run]) -> list[Row]:
    return [row for run in runs for row in run["rows"]]


def counting(runs: Sequence[Run]) -> list[Row]:
    """Return the rows that are not too noisy to conclude from."""
    return [row for row in rows_of(runs) if row["noise"] == QUIET]


# ---- tables


def times(number: float) -> str:
    """Write how many times as fast, with two significant digits.

    >>> times(0.934), times(1.04), times(2.96), times(41.2), times(1234.0)
    ('0.93', '1.0', '3.0', '41', '1,200')
    """
    if number < 9.95:
        return f"{number:.2f}" if number < 0.995 else f"{number:.1f}"
    return f"{number:.0f}" if number < 100 else f"{round(number, -2 if number >= 1000 else -1):,.0f}"


def describe(*names: str) -> str:
    """Return the commands, and the date and versions on each machine."""
    commands = "; ".join(f"`{shlex.join(['python', *shlex.split(RUNS[name])])}`" for name in names)
    lines = filter(None, (versions(names, machine) for machine in machines()))
    return "\n".join([f"{commands}.", "", *(f"- {line}" for line in lines)])


def versions(names: Sequence[str], machine: str) -> str:
    """Return the date, machine and versions of these runs on a machine, and how many of their rows count."""
    if not (runs := recorded(*names).get(machine)):
        return ""
    about, count, every = runs[0]["machine"], len(counting(runs)), len(rows_of(runs))
    peers = dict.fromkeys(
        f"{name.split()[0]} {version}" for run in runs for name, version in run["settings"].get("peers", {}).items()
    )
    with_peers = f" with {', '.join(peers)}" if peers else ""
    return (
        f"{machine}, {runs[0]['settings']['date'][:10]}: {about['processor']}, {about['threads']} threads, "
        f"fastoptim {about['fastoptim']} ({about['isa']}), Python {about['python']}, "
        f"NumPy {about['numpy']}{with_peers}; {count} of {every} rows count."
    )


def class_name(row: Row) -> str:
    return fo.OPTIMIZERS[row["optimizer"]].__name__


def peer_table(names: Sequence[str], by: str, heading: str) -> str:
    """Return lines for each workload or optimizer and machine: fastoptim's time, its ratio to each peer; a summary."""
    by_machine = recorded(*names)
    every = [row for runs in by_machine.values() for row in rows_of(runs)]
    titles = {row[by]: row["title"] if by == "work" else f"`{class_name(row)}`" for row in every}
    peers = [peer for peer in PEERS if any(row["peer"] == peer for row in every)]
    lines = []
    for line, title in titles.items():
        for machine, runs in by_machine.items():
            if not (of_line := {row["peer"]: row for row in rows_of(runs) if row[by] == line}):
                continue
            counted = [row["ours_seconds"]["median"] for row in counting(runs) if row[by] == line]
            ratios = [ratio(of_line[peer]) if peer in of_line else "" for peer in peers]
            ours = duration(median(counted), 2) if counted else NOISY
            lines.append([title, machine, ours, *ratios])
    summary = "\n".join(name_faster(machine, counting(runs)) for machine, runs in by_machine.items())
    return f"{table([heading, 'machine', 'fastoptim', *peers], lines)}\n\n{summary}"


def ratio(row: Row) -> str:
    if row["times_as_fast"] is None:
        return "n/a"
    return times(row["times_as_fast"]) if row["noise"] == QUIET else NOISY


def name_faster(machine: str, rows: Sequence[Row]) -> str:
    """Name the peers that are faster, and those that are equally fast, in a sentence each."""

    def named(least: float, most: float, how: str) -> list[str]:
        places: dict[str, list[str]] = {}
        for row in rows:
            if row["times_as_fast"] is not None and least <= row["times_as_fast"] < most:
                work = row["title"].split(", ")[0]
                name = work if row["optimizer"] == "adam" else f"{work} with `{class_name(row)}`"
                places.setdefault(row["peer"], []).append(f"{name} ({times(row['times_as_fast'])})")
        return [f"On {machine} {peer} is {how} in these rows: {', '.join(found)}." for peer, found in places.items()]

    faster = named(0, 1 - TIE, "faster than fastoptim") or [f"On {machine} no peer is faster than fastoptim."]
    return "\n".join(faster + named(1 - TIE, 1 + TIE, f"as fast, within {100 * TIE:.0f} %,"))


def one_run(name: str) -> str:
    return f"{describe(name)}\n\n{peer_table([name], 'work', 'Adam, float32')}"


def shares() -> str:
    """Return the share of the bandwidth probe by optimizer, machine and size."""
    lines: dict[tuple[str, str], dict[str, str]] = {}
    sizes: dict[str, None] = {}
    for machine, runs in recorded("limit").items():
        for row in rows_of(runs):
            share = f"{row['share']:.2f}" if row["noise"] == QUIET else NOISY
            lines.setdefault((f"`{class_name(row)}`", machine), {})[row["work"]] = share
            sizes[row["work"]] = None
    ordered = sorted(lines.items(), key=lambda line: line[0])
    cells = [[*name, *(of_size.get(size, "") for size in sizes)] for name, of_size in ordered]
    return f"{describe('limit')}\n\n{table(['elements', 'machine', *sizes], cells)}"


PAGES: Mapping[str, Mapping[str, Callable[[], str]]] = {
    "README.md": {"adam": lambda: peer_table(ADAM, "work", "Adam, float32")},
    "docs/performance.md": {
        "every optimizer": lambda: peer_table(["optimizers"], "optimizer", "1 array of 1.6e7"),
        "recorded": lambda: "\n\n".join((describe(*ADAM), describe("optimizers"))),
        "in cache": partial(one_run, "cache"),
        "cold": partial(one_run, "cold"),
        "limit": shares,
    },
}

# ---- pictures

INK, COLORS = "#333333", ("#2a6f97", "#e09f3e", "#6a994e", "#9d4edd")


def draw(
    runs: Sequence[str], panel_of: Callable[[Row], str], bar_of: Callable[[Row], str], heading: str, path: Path
) -> None:
    """Draw bars from 1 on a logarithmic axis, to the right where fastoptim is faster, of the rows that count."""
    from matplotlib.figure import Figure
    from matplotlib.patches import Patch

    panels: dict[str, list[tuple[str, str, float]]] = {}
    by_machine = recorded(*runs)
    for machine, found in by_machine.items():
        for row in rows_of(found):
            bars = panels.setdefault(panel_of(row), [])  # also for a row that does not count: the order is the table's
            if row["noise"] == QUIET and row["times_as_fast"]:
                bars.append((bar_of(row), machine, row["times_as_fast"]))
    panels = {name: bars for name, bars in panels.items() if bars}
    labels = list(dict.fromkeys(label for bars in panels.values() for label, _, _ in bars))[::-1]
    height = 0.8 / len(by_machine)
    offset = {machine: 0.4 - height * (i + 0.5) for i, machine in enumerate(by_machine)}
    color = dict(zip(by_machine, COLORS, strict=False))
    columns = min(4, len(panels))
    lines = -(-len(panels) // columns)
    tall = 0.16 * len(by_machine) * len(labels) + 0.6
    figure = Figure(figsize=(2.6 * columns + 1, lines * tall + 0.5), layout="constrained")
    figure.suptitle(heading, color=INK)
    every = [number for bars in panels.values() for _, _, number in bars]
    axes = figure.subplots(lines, columns, squeeze=False, sharex=True, sharey=True).flat
    for axis, (name, bars) in zip(axes, [*panels.items(), *[("", [])] * (lines * columns - len(panels))], strict=True):
        for label, machine, number in bars:
            place = labels.index(label) + offset[machine]
            axis.barh(place, number - 1, left=1, color=color[machine], height=height)
            axis.text(max(number, 1) * 1.15, place, times(number), va="center", fontsize=7, color=INK)
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
    handles = [Patch(color=color[machine], label=machine) for machine in by_machine]
    figure.legend(handles=handles, loc="upper right", fontsize=8, frameon=False, ncols=len(handles))
    figure.savefig(path, dpi=110)


def draw_shares(machine: str, path: Path) -> None:
    """Draw as `python -m fastoptim bench --plot` the optimizers without options that count at several sizes."""
    runs = recorded("limit")[machine]
    plain = [row for row in counting(runs) if not row["options"]]
    sizes = Counter(row["optimizer"] for row in plain)
    rows: Any = [row for row in plain if sizes[row["optimizer"]] > 1]
    plot.draw(rows, path, runs[0]["machine"])


PICTURES: Mapping[str, Callable[[Path], None]] = {
    "docs/images/benchmark.png": partial(draw_shares, "avx2"),
    "docs/images/speed.png": partial(
        draw,
        ADAM,
        lambda row: row["title"],
        lambda row: row["peer"],
        "Adam, float32: how many times as fast as each peer fastoptim is",
    ),
    "docs/images/speed_optimizers.png": partial(
        draw,
        ["optimizers"],
        lambda row: "torch fused" if row["peer"] == "torch fused" else "torch foreach (Lion: eager)",
        class_name,
        "1.6e7 elements: times as fast as PyTorch",
    ),
}


def make_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--machine", default=fo.build_info()["isa"], help="folder of this machine's runs")
    parser.add_argument("--record", nargs="*", choices=RUNS, metavar="RUN", help=f"repeat {', '.join(RUNS)}")
    return parser


def main(arguments: Sequence[str] | None = None) -> None:
    args = make_parser().parse_args(arguments)
    for name in list(RUNS) if args.record == [] else args.record or ():
        print(f"\n== python {RUNS[name]}", flush=True)
        (RESULTS / args.machine).mkdir(exist_ok=True)
        path = RESULTS / args.machine / f"{name}.json"
        command = [sys.executable, *shlex.split(RUNS[name]), "--json", str(path)]
        subprocess.run(command, cwd=CHECKOUT, check=True)
    update(PAGES)
    for path, make in PICTURES.items() if find_spec("matplotlib") else ():
        make(CHECKOUT / path)
        print(f"drawn: {path}")


if __name__ == "__main__":
    main()
