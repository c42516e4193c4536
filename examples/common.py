"""Code shared by the examples: a dense ReLU network in plain NumPy, text tables, the command line and plots.

The network is a list of layers, each a dict of a weight matrix `w` and a bias `b`.  `forward` and `backward` compute
activations and gradients; the optimizers get both structures unchanged.  Losses and data sets are in the examples.
"""

from __future__ import annotations

import argparse
import itertools
import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from time import perf_counter
from typing import Any, TypeAlias

import matplotlib as mpl
import numpy as np
import numpy.typing as npt
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.layout_engine import ConstrainedLayoutEngine
from matplotlib.ticker import LogLocator, MaxNLocator
from PIL import Image

import fastoptim as fo

Array: TypeAlias = npt.NDArray[np.floating[Any]]
Layers: TypeAlias = list[dict[str, Array]]

# ---- the network


def init(sizes: Sequence[int], rng: np.random.Generator) -> Layers:
    """Return float32 layers with weights of variance 2/inputs (He et al., 2015)."""
    layers: Layers = []
    for inputs, outputs in itertools.pairwise(sizes):
        w = rng.standard_normal((inputs, outputs)) * np.sqrt(2 / inputs)
        layers.append({"w": w.astype(np.float32), "b": np.zeros(outputs, np.float32)})
    return layers


def forward(layers: Layers, x: Array) -> list[Array]:
    """Return the input of each layer and, last, the output of the network."""
    activations = [x]
    for i, layer in enumerate(layers):
        z = activations[-1] @ layer["w"] + layer["b"]
        activations.append(z if i == len(layers) - 1 else np.maximum(z, 0))
    return activations


def backward(layers: Layers, activations: Sequence[Array], error: Array) -> Layers:
    """Return the gradients; `error` is the loss's derivative by the output."""
    grads: Layers = []
    for layer, a in zip(reversed(layers), reversed(activations[:-1]), strict=True):
        grads.append({"w": a.T @ error, "b": error.sum(axis=0)})
        error = (error @ layer["w"].T) * (a > 0)
    return grads[::-1]


def batches(count: int, size: int, rng: np.random.Generator) -> Iterator[npt.NDArray[np.intp]]:
    """Yield the batches of one epoch: every index once, in random order."""
    order = rng.permutation(count)
    for start in range(0, count, size):
        yield order[start : start + size]


# ---- the optimizer


def update(opt: fo.Optimizer, gradients: Callable[[], Any]) -> float:
    """Take one step with the gradients at the optimizer's look-ahead point, and return the seconds spent in `step`."""
    with opt.lookahead():
        grads = gradients()
    start = perf_counter()
    opt.step(grads)
    return perf_counter() - start


@contextmanager
def evaluated(opt: fo.Optimizer) -> Iterator[None]:
    """Temporarily swap in the parameters to evaluate and save; a no-op except for Schedule-Free's averages."""
    if not isinstance(opt, (fo.ScheduleFreeSGD, fo.ScheduleFreeAdamW)):
        yield
        return
    opt.eval()
    try:
        yield
    finally:
        opt.train()


# ---- the command line


def make_parser(description: str | None, picture: str) -> argparse.ArgumentParser:
    """Return a parser with the module's docstring as its description and the options that every example has."""
    made = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    made.add_argument(
        "--output",
        type=picture_file,
        metavar="PNG",
        default=Path(picture),
        help=f"picture file to write (default {picture})",
    )
    return made


def positive(text: str) -> int:
    """Parse a positive integer, for argparse."""
    return _whole(text, 1)


def threads(text: str) -> int:
    """Parse a number of threads, for argparse."""
    return _whole(text, 1, 4096)


def natural(text: str) -> int:
    """Parse an integer from 0 on, such as a seed, for argparse."""
    return _whole(text, 0)


def _whole(text: str, least: int, most: int = 999_999_999) -> int:
    if not (text.isascii() and text.isdecimal() and len(text) < 10 and least <= int(text) <= most):
        raise argparse.ArgumentTypeError(f"expected a count from {least} to {most:,}, got {text!r}")
    return int(text)


def number(low: float, high: float) -> Callable[[str], float]:
    """Return a parser of numbers in (low, high), for argparse."""

    def parse(text: str) -> float:
        try:
            value = float(text)
        except ValueError:
            value = low
        if not low < value < high:
            raise argparse.ArgumentTypeError(f"expected a number in ({low:g}, {high:g}), got {text!r}")
        return value

    return parse


def picture_file(text: str) -> Path:
    """Parse the name of a picture that can be written, for argparse."""
    path = Path(text)
    parent = next(parent for parent in path.absolute().parents if parent.exists())
    if path.suffix.lower() != ".png" or path.is_dir() or not os.access(path if path.exists() else parent, os.W_OK):
        raise argparse.ArgumentTypeError(f"expected a file that can be written and ends in .png, got {text!r}")
    if not parent.is_dir():
        raise argparse.ArgumentTypeError(f"expected a directory instead of the file {str(parent)!r}, got {text!r}")
    return path


def table(headers: Sequence[str], rows: Sequence[Sequence[str]], text_columns: int = 1) -> str:
    """Return a text table: the first `text_columns` columns left-aligned, the others right-aligned."""
    lines = [list(headers), *map(list, rows)]
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    lines.insert(1, ["-" * width for width in widths])
    return "\n".join(
        "  ".join(
            cell.ljust(width) if i < text_columns else cell.rjust(width)
            for i, (cell, width) in enumerate(zip(line, widths, strict=True))
        ).rstrip()
        for line in lines
    )


# ---- plots

INK, FAINT = "#2b2f36", "#d9dce1"
COLORS = ("#4269d0", "#ff725c", "#3ca951", "#efb118", "#a463f2", "#22b8c4", "#e0569b", "#9c6b4e", "#7d838c", "#86b300")
DASHES = ("-", (0, (5, 1.5)), (0, (1.5, 1.2)))


def look(i: int) -> dict[str, Any]:
    """Return the style of the i-th line; the dash pattern changes when the colors repeat."""
    return {"color": COLORS[i % len(COLORS)], "linestyle": DASHES[i // len(COLORS) % len(DASHES)]}


def panels(
    count: int, width: float, height: float, title: str, rows: int = 1, shares: Sequence[float] | None = None
) -> tuple[Figure, list[Axes]]:
    """Return a figure and its panels, in rows of equal length; `shares` are their relative widths."""
    mpl.rcParams.update(
        {
            "axes.axisbelow": True,
            "axes.edgecolor": INK,
            "axes.grid": True,
            "axes.labelcolor": INK,
            "axes.spines.right": False,
            "axes.spines.top": False,
            "axes.titlelocation": "left",
            "axes.titlesize": 11,
            "axes.titleweight": "bold",
            "font.size": 9.5,
            "grid.color": FAINT,
            "grid.linewidth": 0.6,
            "text.color": INK,
            "xtick.color": INK,
            "ytick.color": INK,
        }
    )
    figure = Figure(figsize=(width, height), dpi=105, layout=ConstrainedLayoutEngine(w_pad=0.16, h_pad=0.1))
    figure.suptitle(title, x=0.01, ha="left", fontsize=13, fontweight="bold")
    return figure, list(figure.subplots(rows, -(-count // rows), squeeze=False, width_ratios=shares).flat)


def loss_axes(axes: Axes, title: str, epochs: int) -> None:
    """Set up axes for losses on a log scale against whole epochs."""
    axes.set(title=title, xlabel="epoch", xlim=(0, epochs), yscale="log")
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    axes.yaxis.set_major_locator(LogLocator(subs=(1, 3)))
    axes.yaxis.set_major_formatter("{x:g}")
    axes.yaxis.set_minor_formatter("")


def label_ends(axes: Axes, lines: Sequence[tuple[str, Array]]) -> None:
    """Label each line at its end, and move labels up or down where they would overlap."""
    bottom, top = axes.transScale.transform([(1, y) for y in axes.get_ylim()])[:, 1]
    ends = [(float(axes.transScale.transform((1, y[-1]))[1]) - bottom) / (top - bottom) for _, y in lines]
    for i, place in enumerate(spread(ends, gap=0.042)):
        axes.annotate(
            lines[i][0],
            xy=(1, ends[i]),
            xytext=(1.06, place),
            xycoords="axes fraction",
            va="center",
            color=look(i)["color"],
            fontweight="bold",
            annotation_clip=False,
            arrowprops={"arrowstyle": "-", "linewidth": 0.8, "relpos": (0, 0.5), "shrinkA": 1, "shrinkB": 0, **look(i)},
        )


def spread(places: Sequence[float], gap: float) -> list[float]:
    """Move positions in [0, 1] apart until neighbors are at least `gap` apart, if there is space for all."""
    moved = np.array(places, dtype=float)
    order = np.argsort(moved)
    for _ in range(1000):
        for low, high in itertools.pairwise(order):
            push = max(0.0, gap - (moved[high] - moved[low])) / 2
            moved[low] -= push
            moved[high] += push
        moved = moved.clip(0, 1)
    return [float(place) for place in moved]


def save(figure: Figure, path: Path, colors: int | None = None) -> None:
    """Save the picture and print its path; a palette of a few colors makes photographs small."""
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path)
    if colors:
        with Image.open(path) as picture:
            reduced = picture.convert("RGB").quantize(colors)
        reduced.save(path, optimize=True)
    print(f"Saved the picture as {path.resolve()}")
