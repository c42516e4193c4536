"""Draw the paths of the optimizers over two test functions, Rosenbrock's curved valley and Beale's plateau.

The learning rate is the best of six per decade from 1e-5 to 10, for each optimizer and function.  The path must stay in
the picture, and the rate minimizes the distance to the minimum after --steps steps plus a tenth of the path's length.
The second term prefers direct paths.  The other options are the class's defaults; Sophia receives no curvature.

The table contains every optimizer, and the picture those of --optimizer.
"""

from __future__ import annotations

from argparse import ArgumentParser, Namespace
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
from common import (
    INK,
    Array,
    evaluated,
    look,
    make_parser,
    panels,
    positive,
    save,
    table,
    update,
)
from matplotlib.axes import Axes
from matplotlib.colors import LinearSegmentedColormap, LogNorm
from matplotlib.patheffects import Normal, Stroke
from tqdm import tqdm  # type: ignore[import-untyped]

import fastoptim as fo

SHOWN = ["sgd", "momentum", "nag", "adagrad", "rmsprop", "adam"]
RATES = 10.0 ** np.linspace(-5, 1, 37)


class Function(NamedTuple):
    """A function of two numbers with its minimum, and the region that the picture shows."""

    title: str
    value: Callable[[Array, Array], Array]
    gradient: Callable[[Array], Array]
    start: tuple[float, float]
    minimum: tuple[float, float]
    x: tuple[float, float]
    y: tuple[float, float]


@dataclass
class Path:
    """The path of an optimizer with its best learning rate."""

    name: str
    lr: float
    points: Array
    distance: float
    cost: float


def rosenbrock(x: Array, y: Array) -> Array:
    return (1 - x) ** 2 + 100 * (y - x**2) ** 2


def rosenbrock_gradient(p: Array) -> Array:
    x, y = p
    return np.array([-2 * (1 - x) - 400 * x * (y - x**2), 200 * (y - x**2)])


def beale(x: Array, y: Array) -> Array:
    return (1.5 - x + x * y) ** 2 + (2.25 - x + x * y**2) ** 2 + (2.625 - x + x * y**3) ** 2


def beale_gradient(p: Array) -> Array:
    x, y = p
    a, b, c = 1.5 - x + x * y, 2.25 - x + x * y**2, 2.625 - x + x * y**3
    return np.array(
        [
            2 * a * (y - 1) + 2 * b * (y**2 - 1) + 2 * c * (y**3 - 1),
            2 * a * x + 4 * b * x * y + 6 * c * x * y**2,
        ]
    )


FUNCTIONS = (
    Function("Rosenbrock", rosenbrock, rosenbrock_gradient, (-1.6, -0.5), (1, 1), (-1.9, 1.6), (-0.9, 1.8)),
    Function("Beale", beale, beale_gradient, (1, 1.6), (3, 0.5), (-0.3, 4), (-1.3, 2)),
)


def descend(name: str, function: Function, lr: float, steps: int) -> Array:
    """Return the points from the start to the end, or to the first one outside the picture."""
    p = np.array(function.start)
    opt = fo.OPTIMIZERS[name](p, lr=lr)
    points = [p.copy()]
    for _ in range(steps):
        update(opt, lambda: function.gradient(p))
        with evaluated(opt):
            points.append(p.copy())
        if not inside(function, p):
            break
    return np.array(points)


def inside(function: Function, p: Array) -> bool:
    return all(low <= place <= high for place, (low, high) in zip(p, (function.x, function.y), strict=True))


def best_path(name: str, function: Function, steps: int, progress: tqdm) -> Path:
    paths = []
    for lr in RATES:
        points = descend(name, function, lr, steps)
        stayed = len(points) == steps + 1 and inside(function, points[-1])
        distance = float(np.hypot(*(points[-1] - function.minimum))) if stayed else np.inf
        length = float(np.hypot(*np.diff(points, axis=0).T).sum())
        paths.append(Path(name, float(lr), points, distance, distance + length / 10))
        progress.update()
    return min(paths, key=lambda path: path.cost)


def report(paths: list[list[Path]], steps: int) -> str:
    headers = ["optimizer"]
    for function in FUNCTIONS:
        headers += [f"{function.title} lr", "distance"]
    rows = []
    for of_one in zip(*paths, strict=True):
        row = [of_one[0].name]
        for path in of_one:
            row += [f"{path.lr:.2g}", f"{path.distance:.2e}"]
        rows.append(row)
    text: str = table(headers, rows)
    return f"Distance to the minimum after {steps} steps:\n\n{text}"


def draw_function(axes: Axes, function: Function) -> None:
    x, y = np.meshgrid(np.linspace(*function.x, 500), np.linspace(*function.y, 500))
    z = function.value(x, y) + 1e-3
    levels = np.geomspace(2e-2, z.max(), 22)
    shades = LinearSegmentedColormap.from_list("depth", ["#ffffff", "#dfe6f0", "#a9b9d0", "#6f86a8", "#3d5275"])
    axes.contourf(x, y, z, levels, cmap=shades, norm=LogNorm(levels[0], levels[-1]), extend="min")
    axes.contour(x, y, z, levels, colors="white", linewidths=0.4, alpha=0.6)
    axes.set(
        title=f"{function.title}, minimum at {function.minimum}", xlim=function.x, ylim=function.y, xticks=[], yticks=[]
    )
    axes.grid(False)


def draw_path(axes: Axes, path: Path, i: int) -> None:
    outline = [Stroke(linewidth=3.4, foreground="white", alpha=0.8), Normal()]
    label = fo.OPTIMIZERS[path.name].__name__
    axes.plot(*path.points.T, label=label, linewidth=1.9, path_effects=outline, zorder=3, **look(i))
    axes.plot(*path.points[-1], "o", color=look(i)["color"], markeredgecolor="white", markersize=8, zorder=4)


def mark(axes: Axes, p: tuple[float, float], marker: str, size: int, label: str) -> None:
    marks: dict[str, Any] = {"linestyle": "none", "color": "white", "markeredgecolor": INK, "markersize": size}
    axes.plot(*p, marker, label=label, zorder=5, **marks)


def draw(paths: list[list[Path]], args: Namespace) -> None:
    figure, row = panels(len(FUNCTIONS), 11, 5.6, f"{args.steps} steps over two test functions; lighter is lower")
    for axes, function, of_function in zip(row, FUNCTIONS, paths, strict=True):
        draw_function(axes, function)
        shown = [path for path in of_function if path.name in args.optimizer]
        for i, path in enumerate(shown):
            draw_path(axes, path, i)
        mark(axes, function.start, "o", 9, "start")
        mark(axes, function.minimum, "*", 17, "minimum")
    figure.legend(*row[0].get_legend_handles_labels(), loc="outside lower center", ncols=8, frameon=False)
    save(figure, args.output)


def parse() -> Namespace:
    parser: ArgumentParser = make_parser(__doc__, "landscapes.png")
    names, add = list(fo.OPTIMIZERS), parser.add_argument
    known = f"optimizers to draw, from {', '.join(names)} (default {' '.join(SHOWN)})"
    add("--optimizer", nargs="+", metavar="NAME", choices=names, default=SHOWN, help=known)
    add("--steps", type=positive, metavar="N", default=1000, help="number of steps (default 1000)")
    return parser.parse_args()


def main() -> None:
    args = parse()
    with tqdm(total=len(FUNCTIONS) * len(fo.OPTIMIZERS) * len(RATES), unit="path") as progress:
        paths = [[best_path(name, function, args.steps, progress) for name in fo.OPTIMIZERS] for function in FUNCTIONS]
    print(report(paths, args.steps))
    draw(paths, args)


if __name__ == "__main__":
    main()
