"""Train a small character-level transformer in PyTorch by Muon with AdamW, compared with AdamW alone.

The text is that of Python's own help topics (`pydoc_data`); the last tenth of it is for the test.  The matrices of the
blocks are Muon's, and embeddings, norms, biases and the last layer AdamW's: both are in one `fo.Mixed` of PyTorch's
tensors, which steps and clips them together.  All learning rates rise over 5 % of the steps and fall to 0 by half a
cosine.  --seeds runs give the mean and the spread of each curve.
"""

from __future__ import annotations

from argparse import ArgumentParser, Namespace
from collections.abc import Callable
from functools import partial
from pydoc_data.topics import topics
from typing import Any, TypeAlias

import numpy as np
import torch
from common import Array, label_ends, look, make_parser, panels, positive, save, table
from matplotlib.ticker import LogLocator
from torch import nn
from torch.nn import functional
from tqdm import tqdm  # type: ignore[import-untyped]

import fastoptim as fo

Make: TypeAlias = Callable[[list[list[torch.Tensor]], int], Any]

BLOCKS, HEADS = 2, 4
POINTS = 40  # of each curve

#: Sizes of the network and of a step: the name, the help and the default of each argument.
SIZES = (
    ("width", "width, a multiple of 4", 64),
    ("length", "characters in a window", 64),
    ("batch", "windows in a step", 16),
)


class Block(nn.Module):  # type: ignore[misc]
    """Causal attention and a layer of four times the width, each after a norm and added to the input."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.norms = nn.ModuleList(nn.LayerNorm(width) for _ in range(2))
        self.attention = nn.ModuleList(nn.Linear(width, width, bias=False) for _ in range(4))
        self.up, self.down = nn.Linear(width, 4 * width), nn.Linear(4 * width, width)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        batch, length, width = x.shape
        y = self.norms[0](x)
        q, k, v = (each(y).view(batch, length, HEADS, -1).transpose(1, 2) for each in self.attention[:3])
        mixed = functional.scaled_dot_product_attention(q, k, v, is_causal=True)
        x = x + self.attention[3](mixed.transpose(1, 2).reshape(batch, length, width))
        return x + self.down(functional.gelu(self.up(self.norms[1](x))))


class Transformer(nn.Module):  # type: ignore[misc]
    """Characters and positions, blocks, and the logits of the next character."""

    def __init__(self, characters: int, length: int, width: int) -> None:
        super().__init__()
        self.embed, self.place = nn.Embedding(characters, width), nn.Embedding(length, width)
        self.blocks = nn.Sequential(*(Block(width) for _ in range(BLOCKS)))
        self.norm, self.out = nn.LayerNorm(width), nn.Linear(width, characters)

    def forward(self, text: torch.Tensor) -> torch.Tensor:
        x = self.embed(text) + self.place.weight[: text.shape[1]]
        logits: torch.Tensor = self.out(self.norm(self.blocks(x)))
        return logits

    def divided(self) -> list[list[torch.Tensor]]:
        """Return the matrices of the blocks, and the rest."""
        inside = {id(p) for p in self.blocks.parameters() if p.ndim == 2}
        parts = ([p for p in self.parameters() if (id(p) in inside) == hidden] for hidden in (True, False))
        return list(parts)


def load() -> tuple[torch.Tensor, int]:
    """Return the text as numbers of characters, and how many characters there are."""
    text = "\n".join(topics[name] for name in sorted(topics))
    codes = {character: i for i, character in enumerate(sorted(set(text)))}
    return torch.tensor([codes[character] for character in text]), len(codes)


def rate(peak: float, steps: int) -> Callable[[int], float]:
    """Return the schedule of a learning rate."""
    warm = max(1, steps // 20)
    return fo.schedules.Warmup(fo.schedules.Cosine(peak, max(1, steps - warm)), warm)


def muon_and_adamw(parts: list[list[torch.Tensor]], steps: int) -> fo.Mixed:
    hidden, rest = parts
    return fo.Mixed(
        [
            {"params": hidden, "optimizer": fo.Muon, "lr": rate(0.05, steps), "weight_decay": 0.01},
            {"params": rest, "optimizer": fo.AdamW, "lr": rate(0.01, steps)},
        ],
        clip_global_norm=1.0,
    )


def adamw(peak: float, parts: list[list[torch.Tensor]], steps: int) -> fo.AdamW:
    return fo.AdamW([{"params": part} for part in parts], lr=rate(peak, steps), clip_global_norm=1.0)


RUNS: dict[str, Make] = {
    "Muon + AdamW": muon_and_adamw,
    "AdamW 0.003": partial(adamw, 0.003),
    "AdamW 0.01": partial(adamw, 0.01),
    "AdamW 0.02": partial(adamw, 0.02),
}


class Windows:
    """Batches of windows of a text, and the loss of a model on them."""

    def __init__(self, text: torch.Tensor, args: Namespace, seed: int) -> None:
        self.text, self.args = text, args
        self.generator = torch.Generator().manual_seed(seed)

    def loss(self, model: Callable[[torch.Tensor], torch.Tensor], count: int) -> torch.Tensor:
        starts = torch.randint(len(self.text) - self.args.length - 1, (count,), generator=self.generator)
        windows = torch.stack([self.text[i : i + self.args.length + 1] for i in starts.tolist()])
        logits = model(windows[:, :-1])
        return functional.cross_entropy(logits.flatten(0, 1), windows[:, 1:].flatten())


def train(make: Make, text: torch.Tensor, characters: int, args: Namespace, seed: int, bar: tqdm) -> Array:
    """Return the curve of an optimizer."""
    torch.manual_seed(seed)
    model = Transformer(characters, args.length, args.width)
    parts = model.divided()
    opt = make(parts, args.steps)

    def update(loss: torch.Tensor) -> None:
        model.zero_grad()
        loss.backward()
        opt.step([[p.grad for p in part] for part in parts])

    return curve(model, update, text, args, seed, bar)


def curve(
    model: Callable[[torch.Tensor], torch.Tensor],
    update: Callable[[torch.Tensor], None],
    text: torch.Tensor,
    args: Namespace,
    seed: int,
    bar: tqdm,
) -> Array:
    """Return the loss on the same test windows, in bits for each character, at even steps of a training."""
    cut = len(text) * 9 // 10
    windows, seen = Windows(text[:cut], args, seed), []
    marks = set(np.linspace(0, args.steps, min(args.steps, POINTS) + 1).round().astype(int).tolist())
    for step in range(args.steps + 1):
        if step in marks:
            with torch.no_grad():
                seen.append(Windows(text[cut:], args, 0).loss(model, 64).item() / np.log(2))
        if step == args.steps:
            return np.array(seen)
        update(windows.loss(model, args.batch))
        bar.update()
    raise AssertionError


def draw(curves: dict[str, Array], args: Namespace) -> None:
    title = f"Python's help topics, a transformer of {BLOCKS} blocks, {args.seeds} seeds"
    figure, (axes,) = panels(1, 7.5, 4.6, title)
    axes.set(title="Test loss, bits for each character", xlabel="step", xlim=(0, args.steps), yscale="log")
    axes.yaxis.set_major_locator(LogLocator(subs=(1, 1.5, 2, 3, 4, 5, 6)))
    axes.yaxis.set_major_formatter("{x:g}")
    axes.yaxis.set_minor_formatter("")
    means = [curve.mean(axis=0) for curve in curves.values()]
    for i, (curve, mean) in enumerate(zip(curves.values(), means, strict=True)):
        at = np.linspace(0, args.steps, len(mean))
        axes.plot(at, mean, linewidth=1.8, **look(i))
        axes.fill_between(at, curve.min(axis=0), curve.max(axis=0), alpha=0.15, color=look(i)["color"])
    label_ends(axes, list(zip(curves, means, strict=True)))
    save(figure, args.output)


def parse() -> Namespace:
    parser: ArgumentParser = make_parser(__doc__, "transformer.png")
    parser.add_argument("--steps", type=positive, metavar="N", default=600, help="steps of each run (default 600)")
    parser.add_argument("--seeds", type=positive, metavar="N", default=2, help="runs of each optimizer (default 2)")
    add_sizes(parser)
    args = parser.parse_args()
    check(parser, args)
    return args


def add_sizes(parser: ArgumentParser) -> None:
    """Add the sizes of the network and of a step."""
    for name, what, default in SIZES:
        add_size = partial(parser.add_argument, type=positive, metavar="N", default=default)
        add_size(f"--{name}", help=f"{what} (default {default})")


def check(parser: ArgumentParser, args: Namespace) -> None:
    """End the program with a message for sizes that do not fit."""
    if args.width % HEADS:
        parser.error(f"argument --width: expected a multiple of {HEADS}, got {args.width}")


def main() -> None:
    args = parse()
    text, characters = load()
    with tqdm(total=len(RUNS) * args.seeds * args.steps, unit="step") as bar:
        curves = {
            name: np.array([train(make, text, characters, args, seed, bar) for seed in range(args.seeds)])
            for name, make in RUNS.items()
        }
    rows = [(name, f"{curve[:, -1].mean():.3f}") for name, curve in curves.items()]
    print(table(("optimizer", "bits for each character"), rows))
    draw(curves, args)


if __name__ == "__main__":
    main()
