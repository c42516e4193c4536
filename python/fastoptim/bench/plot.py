"""The roofline: the share of the limit against the size, a line for each optimizer, a panel for each setting."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from importlib import import_module
from pathlib import Path
from typing import Any

from .results import Row
from .table import SETTINGS, name_of

MODULES = ("matplotlib", "matplotlib.figure", "matplotlib.backends.backend_agg")
STYLES = ("-", "--", ":", "-.")
MARKERS = ("o", "s", "^", "D", "v", "P")
LINE_HEIGHT = 0.155  # inches that a label takes


def require() -> None:
    """ImportError, naming the extra, where what is used of matplotlib is missing."""
    try:
        for name in MODULES:
            import_module(name)
    except ImportError:
        raise ImportError("--plot: needs matplotlib; pip install 'fastoptim[bench]'") from None


def endings() -> list[str]:
    """Of the names that a picture may have."""
    canvas = import_module("matplotlib.backends.backend_agg").FigureCanvasAgg
    return [f".{name}" for name in canvas.get_supported_filetypes()]


def draw(rows: Sequence[Row], path: Path, machine: Mapping[str, Any]) -> None:
    """Writes the picture, in the format that the name ends with.  No window is opened."""
    require()
    _, figure_module, canvas = map(import_module, MODULES)
    panels = panels_of(rows)
    names = list(dict.fromkeys(map(name_of, rows)))
    height = max(4.8, LINE_HEIGHT * len(names) + 1.3)
    figure = figure_module.Figure(figsize=(7.6 * len(panels) + 0.6, height), layout="constrained")
    canvas.FigureCanvasAgg(figure)
    top = max(1.0, *(row["share"] for row in rows)) * 1.08
    for axes, (title, members) in zip(figure.subplots(1, len(panels), squeeze=False)[0], panels.items(), strict=True):
        _panel(axes, members, names, top, height)
        axes.set_title(title, fontsize=10)
    figure.suptitle(f"A step's share of the limit: {_where(rows, machine)}", fontsize=11)
    figure.savefig(path, dpi=150)


def _where(rows: Sequence[Row], machine: Mapping[str, Any]) -> str:
    """The processor, the GPU, or both, as far as they stepped anything."""
    names = {"cpu": machine["processor"] or "this machine", "cuda": machine["gpu"] and machine["gpu"]["name"]}
    return ", ".join(names[device] for device in dict.fromkeys(row["device"] for row in rows))


def panels_of(rows: Sequence[Row]) -> dict[str, list[Row]]:
    """The rows of each setting, by what a reader calls it."""
    panels: dict[str, list[Row]] = {}
    for row in rows:
        shown: dict[str, Any] = {name: row[name] for name in SETTINGS}  # type: ignore[literal-required]
        gradients = "" if shown["dtype"] == shown["grad_dtype"] else f" with {shown['grad_dtype']} gradients"
        threads = shown["threads"] and f"{shown['threads']} thread{'s' * (shown['threads'] != 1)}"
        parts = [f"{shown['dtype']}{gradients}", threads, shown["isa"], shown["device"]]
        panels.setdefault(", ".join(filter(None, parts)), []).append(row)
    return panels


def _panel(axes: Any, rows: Sequence[Row], names: Sequence[str], top: float, height: float) -> None:
    axes.axhline(1.0, color="black", linewidth=1)
    axes.text(0.01, 1.0, "the limit", transform=axes.get_yaxis_transform(), va="bottom", fontsize=9)
    ends = []
    for i, name in enumerate(names):
        line = sorted((row["elements"], row["share"]) for row in rows if name_of(row) == name)
        if not line:
            continue
        sizes, shares = zip(*line, strict=True)
        style, marker, color = STYLES[i // 10 % len(STYLES)], MARKERS[i % len(MARKERS)], f"C{i % 10}"
        axes.plot(sizes, shares, linestyle=style, marker=marker, color=color, markersize=4, linewidth=1.3)
        ends.append((shares[-1], sizes[-1], name, color))
    axes.set_xscale("log")
    axes.set_ylim(0, top)
    axes.set_xlabel("elements")
    axes.set_ylabel("share of the limit")
    axes.grid(alpha=0.3)
    _name_models(axes, rows)
    _name_lines(axes, ends, top, LINE_HEIGHT / (height - 1.1) * top)


def _name_models(axes: Any, rows: Sequence[Row]) -> None:
    """At the foot of the panel, where a size is a model's and not one array's."""
    models = {row["elements"]: row["work"] for row in rows if not row["work"][0].isdigit()}
    for elements, name in models.items():
        axes.axvline(elements, color="grey", linewidth=0.6, linestyle=":")
        axes.text(
            elements, 0.01, f" {name}", transform=axes.get_xaxis_transform(), rotation=90, va="bottom", fontsize=8
        )


def _name_lines(axes: Any, ends: Sequence[tuple[float, float, str, str]], top: float, least: float) -> None:
    """Each line's name beside its end, in the order of the ends and clear of each other."""
    ordered = sorted(ends)
    places = spaced([share for share, *_ in ordered], least, top)
    for (share, size, name, color), place in zip(ordered, places, strict=True):
        axes.annotate(
            name,
            xy=(size, share),
            xytext=(1.03, place),
            textcoords=axes.get_yaxis_transform(),
            color=color,
            fontsize=8,
            va="center",
            annotation_clip=False,
            arrowprops={"arrowstyle": "-", "color": color, "linewidth": 0.5, "alpha": 0.6, "relpos": (0, 0.5)},
        )


def spaced(places: Sequence[float], least: float, top: float) -> list[float]:
    """Ascending places moved as little as it takes to be so far apart and, where there is room, between 0 and top.

    >>> spaced([0.5, 0.5, 0.9], 0.2, 1.0)
    [0.5, 0.7, 0.9]
    """
    moved: list[float] = []
    for place in places:
        moved.append(max(place, moved[-1] + least) if moved else place)
    ceiling = max(top, least * (len(moved) - 1))
    for i in reversed(range(len(moved))):
        moved[i] = min(moved[i], ceiling)
        ceiling = moved[i] - least
    return [round(place, 9) for place in moved]
