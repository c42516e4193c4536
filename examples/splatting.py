"""Fit a photograph with two-dimensional Gaussians: steps of those that a crop shows, pruning and splitting.

Each Gaussian has a position, two widths, an angle, a color and an opacity, and covers those after it (as in 3D Gaussian
splatting, Kerbl et al., 2023, arXiv:2308.04079, where depth gives the order).  A batch is a random crop of the image,
so that the gradients are `fo.Rows` of the Gaussians in it, and `row_steps` counts the steps of each.  Now and then
`opt.remap` removes transparent Gaussians, and replaces those with the largest gradients by two smaller ones.
`bounds` keeps the colors in (0, 1).

The photograph is scikit-learn's flower, reduced to 208 x 128 pixels.  Rendering and gradients are plain NumPy, tile by
tile.
"""

from __future__ import annotations

from argparse import Namespace
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from common import INK, Array, look, make_parser, natural, number, panels, positive, save, table
from matplotlib.collections import EllipseCollection
from sklearn.datasets import load_sample_image
from tqdm import tqdm  # type: ignore[import-untyped]

import fastoptim as fo

TILE = 16  # pixels
REACH = 3.0  # standard deviations, beyond which a Gaussian is not drawn
PRESSURE = 1e-5  # the loss of one unit of opacity, by which Gaussians without use become transparent
OPAQUE = 0.99  # the largest opacity of a pixel, so that gradients can divide by the rest


def photograph(reduction: int) -> Array:
    """Return the middle of the photograph, with colors from 0 to 1; sizes are multiples of the tile."""
    image = load_sample_image("flower.jpg") / np.float32(255)
    height, width = (size // (reduction * TILE) * TILE for size in image.shape[:2])
    top, left = (image.shape[0] - height * reduction) // 2, (image.shape[1] - width * reduction) // 2
    middle = image[top : top + height * reduction, left : left + width * reduction]
    reduced: Array = middle.reshape(height, reduction, width, reduction, 3).mean(axis=(1, 3))
    return reduced


# ---- the Gaussians

RATES = {"position": 0.3, "log_width": 0.03, "angle": 0.03, "color": 0.02, "logit": 0.15}
Gaussians = dict[str, Array]


def scattered(image: Array, count: int, rng: np.random.Generator) -> Gaussians:
    """Return round Gaussians at random places, in the colors of the image there."""
    height, width, _ = image.shape
    position = rng.uniform((0, 0), (width, height), (count, 2))
    column, row = position.astype(int).T
    size = 0.5 * np.sqrt(height * width / count)
    return {
        "position": position.astype(np.float32),
        "log_width": np.full((count, 2), np.log(size), np.float32),
        "angle": rng.uniform(0, np.pi, (count, 1)).astype(np.float32),
        "color": image[row, column].copy(),
        "logit": np.zeros((count, 1), np.float32),  # an opacity of one half
    }


def opacity_of(logit: Array) -> Any:
    return (1 + np.tanh(logit / 2)) / 2


class Renderer:
    """Draws Gaussians tile by tile, and takes gradients back; Gaussians are looked up once for all tiles."""

    def __init__(self, gaussians: Gaussians) -> None:
        self.gaussians = gaussians
        cos, sin = np.cos(gaussians["angle"]), np.sin(gaussians["angle"])
        width = np.exp(gaussians["log_width"])
        self.turn = np.concatenate([cos, sin, *np.split(width, 2, axis=1)], axis=1)
        half = np.hypot(
            np.concatenate([cos, sin], axis=1) * width[:, :1], np.concatenate([sin, cos], axis=1) * width[:, 1:]
        )
        self.low, self.high = (gaussians["position"] + sign * REACH * half for sign in (-1, 1))

    def inside(self, corner: Any, size: Any) -> Any:
        """Return the indices of the Gaussians that reach into a rectangle, in ascending order."""
        return np.flatnonzero(np.all((self.high > corner) & (self.low < np.add(corner, size)), axis=1))

    def tile(self, corner: Any) -> tuple[Any, Array, Callable[[Array], Gaussians]]:
        """Return the Gaussians of a tile, its colors, and a function from their gradient to those of the Gaussians."""
        rows = self.inside(corner, (TILE, TILE))
        x, y = (np.arange(TILE) + 0.5 + start for start in corner)
        at = self.gaussians["position"][rows]
        dx = np.tile(x.astype(at.dtype) - at[:, :1], (1, TILE))
        dy = np.repeat(y.astype(at.dtype) - at[:, 1:], TILE, axis=1)
        cos, sin, wide, high = (each[:, None] for each in self.turn[rows].T)
        u, v = (cos * dx + sin * dy) / wide, (cos * dy - sin * dx) / high
        shape = np.exp(-0.5 * (u * u + v * v))
        opacity, color = opacity_of(self.gaussians["logit"][rows]), self.gaussians["color"][rows]
        alpha = np.minimum(opacity * shape, OPAQUE)
        before = np.cumprod(np.concatenate([np.ones((1, TILE * TILE), at.dtype), 1 - alpha]), axis=0)[:-1]
        weight = alpha * before  # `before` is the share that the Gaussians in front leave

        def gradients(of_colors: Array) -> Gaussians:
            own = color @ of_colors.T
            hidden = np.cumsum((weight * own)[::-1], axis=0)[::-1] - weight * own  # of the Gaussians behind
            of_alpha = np.where(alpha < OPAQUE, before * own - hidden / (1 - alpha), 0)
            of_power = of_alpha * alpha
            of_u, of_v = -of_power * u / wide, -of_power * v / high
            return {
                "position": np.stack(
                    [(sin * of_v - cos * of_u).sum(axis=1), -(sin * of_u + cos * of_v).sum(axis=1)], 1
                ),
                "log_width": np.stack([(of_power * u * u).sum(axis=1), (of_power * v * v).sum(axis=1)], 1),
                "angle": (of_u * v * high - of_v * u * wide).sum(axis=1, keepdims=True),
                "color": weight @ of_colors,
                "logit": of_power.sum(axis=1, keepdims=True) * (1 - opacity),
            }

        return rows, weight.T @ color, gradients


def corners(left: int, top: int, width: int, height: int) -> Iterator[tuple[int, int]]:
    """Yield the corners of a rectangle's tiles."""
    for y in range(top, top + height, TILE):
        for x in range(left, left + width, TILE):
            yield x, y


def draw_image(gaussians: Gaussians, height: int, width: int) -> Array:
    renderer, image = Renderer(gaussians), np.zeros((height, width, 3), np.float32)
    for x, y in corners(0, 0, width, height):
        image[y : y + TILE, x : x + TILE] = renderer.tile((x, y))[1].reshape(TILE, TILE, 3)
    return image


def loss_and_gradients(
    gaussians: Gaussians, image: Array, crop: tuple[int, int, int, int]
) -> tuple[float, Any, Gaussians]:
    """Return the mean squared error of a crop plus the pressure, the Gaussians in it, and their gradients."""
    renderer = Renderer(gaussians)
    left, top, width, height = crop
    visible = renderer.inside((left, top), (width, height))
    place = np.zeros(len(gaussians["angle"]), np.intp)
    place[visible] = np.arange(len(visible))
    total = {name: np.zeros((len(visible), *p.shape[1:]), p.dtype) for name, p in gaussians.items()}
    opacity = opacity_of(gaussians["logit"][visible])
    total["logit"] += PRESSURE * opacity * (1 - opacity)
    loss = 3 * width * height * PRESSURE * float(opacity.sum())
    for x, y in corners(*crop):
        rows, colors, gradients = renderer.tile((x, y))
        error = colors - image[y : y + TILE, x : x + TILE].reshape(-1, 3)
        loss += float((error**2).sum())
        for name, gradient in gradients(error * (2 / (3 * width * height))).items():
            total[name][place[rows]] += gradient
    return loss / (3 * width * height), visible, total


def psnr(gaussians: Gaussians, image: Array) -> float:
    """Return the peak signal-to-noise ratio in decibels."""
    return -10 * float(np.log10(((draw_image(gaussians, *image.shape[:2]) - image) ** 2).mean()))


# ---- pruning and splitting


@dataclass
class Pull:
    """The mean norm of each Gaussian's position gradient since the last change."""

    total: Array
    count: Array

    @classmethod
    def zeros(cls, count: int) -> Pull:
        return cls(np.zeros(count), np.zeros(count))

    def add(self, visible: Any, gradient: Array) -> None:
        self.total[visible] += np.linalg.norm(gradient, axis=1)
        self.count[visible] += 1

    def mean(self) -> Array:
        return self.total / np.maximum(self.count, 1)


def changed(gaussians: Gaussians, pull: Array, args: Namespace, rng: np.random.Generator) -> tuple[Gaussians, Any]:
    """Return Gaussians without the transparent ones and with the most pulled ones split, and the rows they come from.

    A split Gaussian becomes two that are smaller by 1.6, at random places within it.  They take its place in the order,
    and start with new moments (-1).
    """
    kept = np.flatnonzero(opacity_of(gaussians["logit"][:, 0]) > args.transparent)
    room = max(0, min(args.most - len(kept), len(kept) // 4))
    split = np.zeros(len(pull), bool)
    split[kept[np.argsort(-pull[kept], kind="stable")[:room]]] = True
    origin = np.repeat(kept, 1 + split[kept])
    new = {name: p[origin].copy() for name, p in gaussians.items()}
    child = split[origin]
    width = np.exp(new["log_width"][child])
    offset = rng.standard_normal(width.shape) * width
    cos, sin = np.cos(new["angle"][child, 0]), np.sin(new["angle"][child, 0])
    new["position"][child, 0] += cos * offset[:, 0] - sin * offset[:, 1]
    new["position"][child, 1] += sin * offset[:, 0] + cos * offset[:, 1]
    new["log_width"][child] -= np.log(1.6)
    return new, np.where(child, -1, origin)


# ---- the fit


@dataclass
class Run:
    """Images by step, PSNR by step, and the numbers of Gaussians removed, split and left by each change."""

    images: dict[int, Array] = field(default_factory=dict)
    psnr: dict[int, float] = field(default_factory=dict)
    changes: dict[int, tuple[int, int, int]] = field(default_factory=dict)
    rows: list[float] = field(default_factory=list)
    gaussians: Gaussians = field(default_factory=dict)


def make_optimizer(gaussians: Gaussians, steps: int) -> fo.Adam:
    """Return Adam with a group and a falling rate for each array; the unit of positions is a pixel."""
    bounds = {"color": (0, 1)}
    rates = {name: fo.schedules.Cosine(lr, T_max=steps, eta_min=lr / 20) for name, lr in RATES.items()}
    groups = [{"params": {name: gaussians[name]}, "lr": lr, "bounds": bounds.get(name)} for name, lr in rates.items()]
    return fo.Adam(groups, row_steps=True, eps=1e-15)


def fit(image: Array, args: Namespace) -> Run:
    rng, run = np.random.default_rng(args.seed), Run()
    height, width, _ = image.shape
    size = min(args.crop * TILE, height, width)
    gaussians = scattered(image, args.count, rng)
    opt, pull = make_optimizer(gaussians, args.steps + 1), Pull.zeros(args.count)
    with tqdm(range(args.steps + 1), unit="step") as progress:
        for step in progress:
            if step % args.every == 0 or step == args.steps:
                run.psnr[step] = psnr(gaussians, image)
                progress.set_postfix(psnr=f"{run.psnr[step]:.2f}", gaussians=len(gaussians["angle"]))
            if step in (0, args.steps):
                run.images[step] = draw_image(gaussians, height, width)
            if 0 < step <= 0.7 * args.steps and step % args.every == 0:
                before = len(gaussians["angle"])
                gaussians, source = changed(gaussians, pull.mean(), args, rng)
                opt.remap(
                    [{name: gaussians[name]} for name in RATES], [dict.fromkeys([name], source) for name in RATES]
                )
                born = int((source < 0).sum())
                run.changes[step] = (before - len(source) + born // 2, born // 2, len(source))
                pull = Pull.zeros(len(source))
            crop = (*(TILE * rng.integers(0, (end - size) // TILE + 1) for end in (width, height)), size, size)
            _, visible, gradients = loss_and_gradients(gaussians, image, crop)
            pull.add(visible, gradients["position"])
            run.rows.append(len(visible) / len(gaussians["angle"]))
            opt.step([{name: fo.Rows(visible, gradients[name])} for name in RATES])
    run.gaussians = gaussians
    return run


def draw(run: Run, image: Array, args: Namespace) -> None:
    height, width, _ = image.shape
    first, last = run.images.values()
    title = f"A photograph of {width} x {height} pixels as {len(run.gaussians['angle']):,} Gaussians"
    figure, axes = panels(6, 12, 5.6, title, rows=2)
    after = f"After {args.steps:,} steps: {run.psnr[args.steps]:.1f} dB"
    for panel, shown, name in zip(axes, (image, first, last), ("The photograph", "At the start", after), strict=False):
        panel.imshow(shown.clip(0, 1), interpolation="nearest")
        panel.set(title=name)
    draw_ellipses(axes[3], run.gaussians)
    axes[3].set(title="The Gaussians", xlim=(0, width), ylim=(height, 0), aspect="equal")
    for panel in axes[:4]:
        panel.set(xticks=[], yticks=[])
        panel.spines[:].set_visible(False)
        panel.grid(False)
    axes[4].plot(list(run.psnr), list(run.psnr.values()), linewidth=1.8, **look(0))
    axes[4].plot(list(run.changes), [run.psnr[step] for step in run.changes], "o", color=INK, markersize=5)
    axes[4].set(title="PSNR in dB; dots: pruned and split", xlabel="step", xlim=(0, args.steps))
    counts = {0: args.count, **{step: change[2] for step, change in run.changes.items()}}
    counts[args.steps] = len(run.gaussians["angle"])
    axes[5].step(list(counts), list(counts.values()), where="post", linewidth=1.8, **look(1))
    axes[5].set(title="Number of Gaussians", xlabel="step", xlim=(0, args.steps), ylim=(0, None))
    save(figure, args.output, colors=256)


def draw_ellipses(axes: Any, gaussians: Gaussians) -> None:
    """Draw the Gaussians as ellipses of one standard deviation, in their colors."""
    widths, heights = 2 * np.exp(gaussians["log_width"]).T
    angles = np.degrees(gaussians["angle"][:, 0])
    place = {"offsets": gaussians["position"], "offset_transform": axes.transData}
    ellipses = EllipseCollection(widths, heights, angles, units="xy", linewidths=0.8, **place)
    ellipses.set(facecolor="none", edgecolor=gaussians["color"])
    axes.add_collection(ellipses)


def parse() -> Namespace:
    parser = make_parser(__doc__, "splatting.png")
    add = parser.add_argument
    add(
        "--reduction",
        type=positive,
        metavar="N",
        default=3,
        help="side of the squares of pixels to average (default 3)",
    )
    add("--count", type=positive, metavar="N", default=500, help="Gaussians at the start (default 500)")
    add("--most", type=positive, metavar="N", default=1500, help="largest number of Gaussians (default 1500)")
    add("--steps", type=positive, metavar="N", default=1000, help="steps of Adam (default 1000)")
    add("--every", type=positive, metavar="N", default=100, help="steps between two changes (default 100)")
    add("--crop", type=positive, metavar="N", default=4, help="tiles of 16 pixels along a crop's side (default 4)")
    add("--transparent", type=number(0, 1), metavar="X", default=0.05, help="opacity to prune at (default 0.05)")
    add("--seed", type=natural, metavar="N", default=0, help="seed of the Gaussians and the crops (default 0)")
    args = parser.parse_args()
    if not all(photograph(args.reduction).shape):
        parser.error(f"argument --reduction: expected a photograph of {TILE} x {TILE} pixels or more, got none")
    return args


def main() -> None:
    args = parse()
    image = photograph(args.reduction)
    run = fit(image, args)
    rows = [(f"{step:,}", *map(str, change), f"{run.psnr[step]:.2f} dB") for step, change in run.changes.items()]
    print(table(("step", "pruned", "split", "Gaussians", "PSNR before"), rows, text_columns=0))
    print(f"PSNR at the end {run.psnr[args.steps]:.2f} dB; a step concerns {np.mean(run.rows):.0%} of the Gaussians")
    draw(run, image, args)


if __name__ == "__main__":
    main()
