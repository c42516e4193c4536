"""Train a deep ReLU network on handwritten digits by Muon with AdamW, compared with AdamW alone.

The hidden matrices are Muon's and the first and last layers and all biases AdamW's, in one `fo.Mixed`; the split into
1437 training and 360 test images is that of digits.py.  All learning rates fall to 0 by half a cosine.  --seeds runs
give the mean and the spread of each curve.  Set OPENBLAS_NUM_THREADS=1: threads are slower for matrices this small.
"""

from __future__ import annotations

from argparse import ArgumentParser, Namespace
from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np
from common import Array, Layers, batches, init, label_ends, look, loss_axes, make_parser, panels, positive, save, table
from digits import Digits, evaluate, gradients, load
from tqdm import tqdm  # type: ignore[import-untyped]

import fastoptim as fo

SIZES = (64, 128, 128, 128, 128, 10)
BATCH = 64


def divided(layers: Layers) -> list[Any]:
    """Return the hidden matrices, and the rest."""
    hidden = [layer["w"] for layer in layers[1:-1]]
    biases = [layer["b"] for layer in layers]
    return [hidden, [*biases, layers[0]["w"], layers[-1]["w"]]]


def muon_and_adamw(layers: Layers, steps: int) -> fo.Mixed:
    hidden, rest = divided(layers)
    options = {"lr": fo.schedules.Cosine(0.02, steps), "weight_decay": 0.0, "input_first": True}
    return fo.Mixed(
        [
            {"params": hidden, "optimizer": fo.Muon, **options},
            {"params": rest, "optimizer": fo.AdamW, "lr": fo.schedules.Cosine(3e-3, steps)},
        ]
    )


def adamw(rate: float, layers: Layers, steps: int) -> fo.AdamW:
    return fo.AdamW([{"params": part} for part in divided(layers)], lr=fo.schedules.Cosine(rate, steps))


RUNS: dict[str, Callable[[Layers, int], Any]] = {
    "Muon + AdamW": muon_and_adamw,
    "AdamW 0.001": partial(adamw, 1e-3),
    "AdamW 0.003": partial(adamw, 3e-3),
    "AdamW 0.01": partial(adamw, 1e-2),
}


def train(make: Callable[[Layers, int], Any], data: Digits, epochs: int, seed: int, progress: tqdm) -> list[Any]:
    """Return the loss on the training images, and the accuracy on the others, before training and after each epoch."""
    rng = np.random.default_rng(seed)
    layers = init(SIZES, rng)
    opt = make(layers, epochs * -(-len(data.y) // BATCH))
    seen = []
    for epoch in range(epochs + 1):
        seen.append((evaluate(layers, data.x, data.y)[0], evaluate(layers, data.test_x, data.test_y)[1]))
        if epoch == epochs:
            return seen
        for batch in batches(len(data.y), BATCH, rng):
            opt.step(divided(gradients(layers, data.x[batch], data.y[batch])))
        progress.update()
    return seen


def draw(curves: dict[str, Array], args: Namespace) -> None:
    figure, (axes,) = panels(1, 7.5, 4.6, f"Digits, a network of {len(SIZES) - 1} layers, {args.seeds} seeds")
    loss_axes(axes, "Cross-entropy on the training images", args.epochs)
    means = [np.exp(np.log(curve[..., 0]).mean(axis=0)) for curve in curves.values()]
    for i, (curve, mean) in enumerate(zip(curves.values(), means, strict=True)):
        axes.plot(mean, linewidth=1.8, **look(i))
        low, high = curve[..., 0].min(axis=0), curve[..., 0].max(axis=0)
        axes.fill_between(np.arange(len(mean)), low, high, alpha=0.15, color=look(i)["color"])
    label_ends(axes, list(zip(curves, means, strict=True)))
    save(figure, args.output)


def parse() -> Namespace:
    parser: ArgumentParser = make_parser(__doc__, "muon.png")
    parser.add_argument("--epochs", type=positive, metavar="N", default=8, help="passes over the images (default 8)")
    parser.add_argument("--seeds", type=positive, metavar="N", default=2, help="runs of each optimizer (default 2)")
    return parser.parse_args()


def main() -> None:
    args = parse()
    data = load()
    with tqdm(total=len(RUNS) * args.seeds * args.epochs, unit="epoch") as progress:
        curves = {
            name: np.array([train(make, data, args.epochs, seed, progress) for seed in range(args.seeds)])
            for name, make in RUNS.items()
        }
    rows = [
        (name, f"{np.exp(np.log(curve[:, -1, 0]).mean()):.5f}", f"{curve[:, -1, 1].mean():.4f}")
        for name, curve in curves.items()
    ]
    print(table(("optimizer", "training loss", "test accuracy"), rows))
    draw(curves, args)


if __name__ == "__main__":
    main()
