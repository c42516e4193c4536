"""The picture: each optimizer's share of the probe against the size, with a panel for each setting."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from importlib import import_module
from pathlib import Path
from typing import Any

from .results import Row
from .table import name_of

MODULES = ("matplotlib", "matplotlib.figure", "matplotlib.backends.backend_agg")
STYLES = ("-", "--", ":", "-.")
MARKERS = ("o", "s", "^", "D", "v", "P")


def check_file(path: Path) -> None:
    """Raise an error if matplotlib is missing or cannot write this format."""
    try:
        canvas = [import_module(name) for name in MODULES][-1].FigureCanvasAgg
    except ImportError:
        raise ImportError("--plot: needs matplotlib; pip install 'fastoptim[bench]'") from None
    endings = [f".{name}" for name in canvas.get_supported_filetypes()]
    if path.suffix.lower() not in endings:
        raise ValueError(f"--plot: expected a name that ends with one of {', '.join(endings)}, got {str(path)!r}")


def draw(rows: Sequence[Row], path: Path, machine: Mapping[str, Any]) -> None:
    """Write the picture in the format of the file's ending.  No window is opened."""
    panels: dict[str, list[Row]] = {}
    for row in rows:
        panels.setdefault(title_of(row), []).append(row)
    last = {name_of(row): row["share"] for row in sorted(rows, key=lambda row: row["elements"])}
    names = sorted(last, key=lambda name: -last[name])  # the legend is in the order of the lines' ends
    size = (7 * len(panels) + 0.7, max(4.8, 0.165 * len(names) + 1))
    figure = import_module("matplotlib.figure").Figure(figsize=size, layout="constrained")
    for axes, (title, members) in zip(figure.subplots(1, len(panels), squeeze=False)[0], panels.items(), strict=True):
        _draw_panel(axes, members, names)
        axes.set_ylim(0, 1.08 * max(1.0, *(row["share"] for row in rows)))
        axes.set_title(title, fontsize=10)
    lines = {line.get_label(): line for axes in figure.axes for line in axes.lines if line.get_label() in last}
    figure.legend([lines[name] for name in names], names, loc="outside right upper", fontsize=8, frameon=False)
    processors = {"cpu": machine["processor"] or "this machine", "cuda": machine["gpu"] and machine["gpu"]["name"]}
    used = ", ".join(processors[device] for device in dict.fromkeys(row["device"] for row in rows))
    figure.suptitle(f"A step's share of the bandwidth probe: {used}", fontsize=11)
    figure.savefig(path, dpi=150)


def title_of(row: Row) -> str:
    """Return the title of a row's panel: its settings."""
    gradients = "" if row["dtype"] == row["grad_dtype"] else f" with {row['grad_dtype']} gradients"
    threads = row["threads"] and f"{row['threads']} thread{'s' * (row['threads'] != 1)}"
    parts: list[Any] = [f"{row['dtype']}{gradients}", threads, row["isa"], row["device"]]
    return ", ".join(filter(None, parts))


def _draw_panel(axes: Any, rows: Sequence[Row], names: Sequence[str]) -> None:
    axes.axhline(1.0, color="black", linewidth=1)
    for i, name in enumerate(names):
        line = sorted((row["elements"], row["share"]) for row in rows if name_of(row) == name)
        look = {"linestyle": STYLES[i // 10 % len(STYLES)], "marker": MARKERS[i % len(MARKERS)], "color": f"C{i % 10}"}
        if line:
            axes.plot(*zip(*line, strict=True), label=name, markersize=4, linewidth=1.3, **look)
    for elements, model in {row["elements"]: row["work"] for row in rows if not row["work"][0].isdigit()}.items():
        axes.axvline(elements, color="grey", linewidth=0.6, linestyle=":")
        at_foot = axes.get_xaxis_transform()
        axes.text(elements, 0.01, f" {model}", transform=at_foot, rotation=90, va="bottom", fontsize=8)
    axes.set_xscale("log")
    axes.set_xlabel("elements")
    axes.set_ylabel("share of the probe")
    axes.grid(alpha=0.3)
