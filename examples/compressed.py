"""Train two networks with compressed state, and compare the results with those of float32 state.

Left, the digits network of digits.py by every optimizer that compresses state, at the settings there: the accuracy on
the test images after --epochs.  Lines are the range of float32 over --seeds runs, marks the means of the other forms
over the same seeds.  All arrays are compressed, also the small ones that `int8_min_size` leaves alone by default.

Right, the transformer of transformer.py by `fastoptim.torch.AdamW`: the test loss.  The band is the range of float32.

The forms are float32; state in bfloat16; state in 8 bits; and 7 bytes in all for AdamW: parameters and gradients in
bfloat16, 8 more bits of each parameter, and state in 8 bits.  The networks themselves always compute in float32.
"""

from __future__ import annotations

from argparse import ArgumentParser, Namespace
from itertools import islice
from typing import Any, NamedTuple

import digits
import ml_dtypes
import numpy as np
import torch
import transformer
from common import INK, Array, look, make_parser, panels, positive, save, table
from matplotlib.axes import Axes
from matplotlib.ticker import LogLocator
from tqdm import tqdm  # type: ignore[import-untyped]

import fastoptim as fo
import fastoptim.torch


class Form(NamedTuple):
    """Options of an optimizer, and the format of parameters and gradients."""

    options: dict[str, Any]
    is_narrow: bool = False


BASE = "float32"
FORMS = {
    BASE: Form({}),
    "bfloat16 state": Form({"state_format": "bfloat16"}),
    "int8 state": Form({"state_format": "int8"}),
    "7 bytes": Form({"state_format": "int8", "master_weight_bits": 24}, is_narrow=True),
}
OTHERS = [name for name in FORMS if name != BASE]

QUICK = {"optimizer": ["adamw", "lion"], "epochs": 1, "seeds": 2, "steps": 4, "width": 8, "length": 8, "batch": 2}


# ---- digits


def compresses(name: str) -> bool:
    """Return whether an optimizer has state that is compressed, at its setting."""
    settings = fo.OPTIMIZERS[name].check_options({**digits.setting_of(name, 1.0), "state_format": "bfloat16"})
    schema, stored = settings.optimizer.schema_for(settings.options), settings.stored_schema(0)
    return any(stored[array] is not schema[array] for array in settings.state)


COMPRESSING = [name for name in fo.OPTIMIZERS if compresses(name)]


def accuracy(name: str, form: Form, data: digits.Digits, epochs: int, seed: int) -> float:
    """Return the part of the test images that a trained network recognizes."""
    run = digits.Run(name, {**digits.setting_of(name, 1.0), **form.options, "int8_min_size": 0})
    dtype = ml_dtypes.bfloat16 if form.is_narrow else np.float32
    (layers,) = islice(digits.training(run, data, 32, seed, dtype), epochs, epochs + 1)
    return digits.evaluate(layers, data.test_x, data.test_y)[1]


def accuracies(name: str, args: Namespace, data: digits.Digits, bar: tqdm) -> dict[str, Array]:
    """Return the accuracies of all seeds, by form."""
    found = {}
    for label, form in FORMS.items():
        bar.set_description(f"{name}, {label}")
        found[label] = np.zeros(args.seeds)
        for seed in range(args.seeds):
            found[label][seed] = accuracy(name, form, data, args.epochs, seed)
            bar.update()
    return found


def is_within(found: dict[str, Array], label: str) -> bool:
    """Return whether the mean of a form is not below the range of float32."""
    return bool(found[label].mean() >= found[BASE].min())


# ---- the transformer


def train(form: Form, text: torch.Tensor, characters: int, args: Namespace, seed: int, bar: tqdm) -> Array:
    """Return the loss curve of a form."""
    torch.manual_seed(seed)
    model = transformer.Transformer(characters, args.length, args.width)
    if form.is_narrow:
        model.bfloat16()
    opt = fastoptim.torch.AdamW(
        model.parameters(), lr=transformer.rate(0.01, args.steps), clip_global_norm=1.0, int8_min_size=0, **form.options
    )

    def evaluate(windows: torch.Tensor) -> torch.Tensor:
        wide = {name: p.float() for name, p in model.named_parameters()}
        logits: torch.Tensor = torch.func.functional_call(model, wide, windows)
        return logits

    def update(loss: torch.Tensor) -> None:
        opt.zero_grad()
        loss.backward()
        opt.step()

    return transformer.curve(evaluate, update, text, args, seed, bar)


# ---- results


def report(found: dict[str, dict[str, Array]]) -> str:
    rows = []
    for name, own in found.items():
        base = own[BASE]
        cells = [f"{own[label].mean():.4f}{'' if is_within(own, label) else ' *'}" for label in OTHERS]
        rows.append((fo.OPTIMIZERS[name].__name__, f"{base.mean():.4f}", f"{base.min():.4f}-{base.max():.4f}", *cells))
    text: str = table(("optimizer", BASE, "range", *OTHERS), rows)
    return text


def report_losses(curves: dict[str, Array]) -> str:
    low, high = curves[BASE].min(axis=0), curves[BASE].max(axis=0)
    rows = []
    for label, curve in curves.items():
        mean = curve.mean(axis=0)
        inside = np.mean((mean >= low) & (mean <= high))
        rows.append((label, f"{mean[-1]:.4f}", f"{curve[:, -1].min():.4f}-{curve[:, -1].max():.4f}", f"{inside:.0%}"))
    text: str = table(("form", "bits for each character", "range", "of the curve within float32's"), rows)
    return text


def draw_digits(axes: Axes, found: dict[str, dict[str, Array]]) -> None:
    axes.set(title="Digits: accuracy on the test images", ylim=(len(found) - 0.4, -0.6))
    axes.set_yticks(range(len(found)), [fo.OPTIMIZERS[name].__name__ for name in found], fontsize=8)
    base = [own[BASE] for own in found.values()]
    ends = ([b.min() for b in base], [b.max() for b in base])
    axes.hlines(range(len(found)), *ends, color=INK, alpha=0.3, linewidth=5, label=BASE)
    for i, label in enumerate(OTHERS):
        means = [own[label].mean() for own in found.values()]
        at = np.arange(len(found)) + 0.22 * (i - 1)
        axes.plot(means, at, linestyle="", marker="o^s"[i], markersize=4, color=look(i)["color"], label=label)
    axes.legend(loc="lower left", bbox_to_anchor=(-0.35, -0.1), ncols=2, fontsize=8, frameon=False)


def draw_losses(axes: Axes, curves: dict[str, Array], steps: int) -> None:
    axes.set(title="Transformer: test loss, bits for each character", xlabel="step", xlim=(0, steps), yscale="log")
    axes.yaxis.set_major_locator(LogLocator(subs=(1, 1.5, 2, 3, 4, 5, 6)))
    axes.yaxis.set_major_formatter("{x:g}")
    axes.yaxis.set_minor_formatter("")
    base = curves[BASE]
    at = np.linspace(0, steps, base.shape[1])
    axes.fill_between(at, base.min(axis=0), base.max(axis=0), alpha=0.3, color=INK, label=BASE, linewidth=0)
    for i, label in enumerate(OTHERS):
        axes.plot(at, curves[label].mean(axis=0), linewidth=1.4, label=label, **look(i))
    axes.legend(fontsize=8)


def draw(found: dict[str, dict[str, Array]], curves: dict[str, Array], args: Namespace) -> None:
    figure, (left, right) = panels(2, 11, 7.5, f"Compressed state, {args.seeds} seeds")
    draw_digits(left, found)
    draw_losses(right, curves, args.steps)
    save(figure, args.output)


def parse() -> Namespace:
    parser: ArgumentParser = make_parser(__doc__, "compressed.png")
    add = parser.add_argument
    known = f"optimizers of the digits, of {', '.join(COMPRESSING)} (default all)"
    add("--optimizer", nargs="+", metavar="NAME", choices=COMPRESSING, default=COMPRESSING, help=known)
    add("--epochs", type=positive, metavar="N", default=40, help="passes over the digits (default 40)")
    add("--seeds", type=positive, metavar="N", default=5, help="runs of each form (default 5)")
    add("--steps", type=positive, metavar="N", default=2000, help="steps of the transformer (default 2000)")
    transformer.add_sizes(parser)
    add("--quick", action="store_true", help="two optimizers and a few steps, to try it")
    args = parser.parse_args()
    vars(args).update(QUICK if args.quick else {})
    transformer.check(parser, args)
    return args


def main() -> None:
    args = parse()
    torch.set_num_threads(1)
    data, (text, characters) = digits.load(), transformer.load()
    with tqdm(total=len(FORMS) * args.seeds * args.steps, unit="step", desc="transformer") as bar:
        curves = {
            label: np.array([train(form, text, characters, args, seed, bar) for seed in range(args.seeds)])
            for label, form in FORMS.items()
        }
    print(report_losses(curves))
    with tqdm(total=len(args.optimizer) * len(FORMS) * args.seeds, unit="run") as bar:
        found = {name: accuracies(name, args, data, bar) for name in args.optimizer}
    print(report(found))
    draw(found, curves, args)


if __name__ == "__main__":
    main()
