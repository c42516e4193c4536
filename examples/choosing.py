"""Train the network of digits.py with every optimizer, over seeds and learning rates, and draw the accuracies.

Every optimizer trains at its setting (SETTINGS in digits.py, else its class's defaults) with --seeds seeds.  It also
trains with 1/10, 1/3, 3 and 10 times the setting's learning rate, with the first --other-seeds of these seeds.  The
result is the accuracy on the 360 test images after the last epoch.  docs/choosing.md shows the results of the defaults:

    python examples/choosing.py --json docs/data/choosing.json --output docs/images/choosing.png

--from draws the picture from such a file without training.
"""

from __future__ import annotations

import json
import os
from argparse import ArgumentParser, ArgumentTypeError, Namespace
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path
from typing import Any, NamedTuple

import digits
import numpy as np
from common import INK, make_parser, panels, positive, save, table
from matplotlib.axes import Axes
from matplotlib.colors import LinearSegmentedColormap
from tqdm import tqdm  # type: ignore[import-untyped]

import fastoptim as fo

FACTORS = {"1/10": 0.1, "1/3": 1 / 3, "1": 1.0, "3": 3.0, "10": 10.0}
AT_SETTING = "1"


class Job(NamedTuple):
    """One training run."""

    name: str
    factor: str
    seed: int
    epochs: int
    batch_size: int


def accuracy(job: Job) -> float:
    """Return the accuracy on the test images after training."""
    setting = digits.setting_of(job.name, np.sqrt(job.batch_size / 32))
    run = digits.Run(job.name, {**setting, "lr": setting["lr"] * FACTORS[job.factor]})
    with np.errstate(all="ignore"):  # some learning rates are too large on purpose
        networks = digits.training(run, DATA, job.batch_size, job.seed)
        for _ in range(job.epochs):
            next(networks)
        return digits.evaluate(next(networks), DATA.test_x, DATA.test_y)[1]


DATA = digits.load()


def jobs_of(args: Namespace) -> list[Job]:
    return [
        Job(name, factor, seed, args.epochs, args.batch_size)
        for name in args.optimizer
        for factor in FACTORS
        for seed in range(args.seeds if factor == AT_SETTING else min(args.seeds, args.other_seeds))
    ]


def measure(args: Namespace) -> dict[str, Any]:
    for library in ("OMP", "OPENBLAS", "MKL"):  # one thread per process, also for NumPy's BLAS
        os.environ[f"{library}_NUM_THREADS"] = "1"
    jobs = jobs_of(args)
    found: dict[str, dict[str, list[float]]] = {name: {factor: [] for factor in FACTORS} for name in args.optimizer}
    with ProcessPoolExecutor(args.processes, get_context("spawn")) as pool:
        answers = tqdm(pool.map(accuracy, jobs, chunksize=4), total=len(jobs), unit="training")
        for job, answer in zip(jobs, answers, strict=True):
            found[job.name][job.factor].append(round(answer, 4))
    return {
        "epochs": args.epochs,
        "batch_size": args.batch_size,
        "seeds": args.seeds,
        "other_seeds": min(args.seeds, args.other_seeds),
        "factors": list(FACTORS),
        "results": {
            name: {"setting": digits.setting_of(name, np.sqrt(args.batch_size / 32)), "accuracy": accuracies}
            for name, accuracies in found.items()
        },
    }


def written(measured: dict[str, Any]) -> str:
    """Return the results as JSON, with one line per optimizer."""
    lines = [f"{json.dumps(key)}: {json.dumps(value)}" for key, value in measured.items() if key != "results"]
    each = [f"  {json.dumps(name)}: {json.dumps(result)}" for name, result in measured["results"].items()]
    return "{" + ",\n".join([*lines, '"results": {\n' + ",\n".join(each) + "\n}"]) + "}\n"


def ranked(measured: dict[str, Any]) -> list[tuple[str, dict[str, list[float]]]]:
    """Return each optimizer's accuracies by learning rate, sorted by the mean at its setting, best first."""
    results = [(name, result["accuracy"]) for name, result in measured["results"].items()]
    return sorted(results, key=lambda result: -np.mean(result[1][AT_SETTING]))


def report(measured: dict[str, Any]) -> str:
    headers = ("optimizer", "test accuracy", "least", "most", *(f"lr x {f}" for f in FACTORS if f != AT_SETTING))
    rows = []
    for name, by_factor in ranked(measured):
        at_setting = by_factor[AT_SETTING]
        others = [np.mean(by_factor[factor]) for factor in FACTORS if factor != AT_SETTING]
        rows.append(
            [name, *(f"{value:.4f}" for value in (np.mean(at_setting), min(at_setting), max(at_setting), *others))]
        )
    text: str = table(headers, rows)
    return text


def draw_settings(axes: Axes, results: list[tuple[str, dict[str, list[float]]]]) -> None:
    for row, (_, by_factor) in enumerate(results):
        values = 100 * np.array(by_factor[AT_SETTING])
        axes.plot([values.min(), values.max()], [row, row], color="#a9b9d0", linewidth=4, solid_capstyle="round")
        axes.plot(values.mean(), row, "o", color="#3d5275", markersize=6)
    axes.set(
        title="At its setting, %: mean, least and most", yticks=range(len(results)), ylim=(len(results) - 0.5, -0.5)
    )
    axes.set_yticklabels([fo.OPTIMIZERS[name].__name__ for name, _ in results])
    axes.tick_params(axis="x", top=True, labeltop=True)


def draw_rates(axes: Axes, results: list[tuple[str, dict[str, list[float]]]]) -> None:
    means = 100 * np.array([[np.mean(by_factor[factor]) for factor in FACTORS] for _, by_factor in results])
    shades = LinearSegmentedColormap.from_list("error", ["#3d5275", "#a9b9d0", "#eef1f6", "#fbd9a8", "#f0a35c"])
    error = np.log10((100 - means).clip(2, 90))
    axes.imshow(error, cmap=shades, vmin=np.log10(2), vmax=np.log10(90), aspect="auto")
    for (row, column), value in np.ndenumerate(means):
        light = error[row, column] < np.log10(4)
        axes.text(column, row, f"{value:.1f}", ha="center", va="center", color="white" if light else INK, fontsize=8.5)
    axes.set(title="By learning rate, %: mean", yticks=[], xticks=range(len(FACTORS)))
    axes.set_xticklabels(["setting" if factor == AT_SETTING else f"lr x {factor}" for factor in FACTORS])
    axes.tick_params(length=0, top=True, labeltop=True)
    axes.spines[:].set_visible(False)
    axes.grid(False)


def draw(measured: dict[str, Any], output: Path) -> None:
    results = ranked(measured)
    title = f"Test accuracy on handwritten digits after {measured['epochs']} epochs"
    figure, (left, right) = panels(2, 10.5, 1.4 + 0.26 * len(results), title, shares=(1.1, 1))
    draw_settings(left, results)
    draw_rates(right, results)
    save(figure, output)


def results_file(text: str) -> Path:
    """Parse the name of a file with results, for argparse."""
    path = Path(text)
    try:
        json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise ArgumentTypeError(f"expected a file of --json, got {text!r}: {error}") from None
    return path


def parse() -> Namespace:
    parser: ArgumentParser = make_parser(__doc__, "choosing.png")
    names, add = list(fo.OPTIMIZERS), parser.add_argument
    known = f"one or more of {', '.join(names)} (default all)"
    add("--optimizer", nargs="+", metavar="NAME", choices=names, default=names, help=known)
    add("--seeds", type=positive, metavar="N", default=5, help="seeds at the setting (default 5)")
    add(
        "--other-seeds",
        type=positive,
        metavar="N",
        default=3,
        help="seeds at each other learning rate (default 3)",
    )
    add("--epochs", type=positive, metavar="N", default=40, help="passes over the images (default 40)")
    add("--batch-size", type=digits.batch_size, metavar="N", default=32, help='images per step, or "all" (default 32)')
    add("--processes", type=positive, metavar="N", help="number of parallel processes (default one per processor)")
    add("--json", type=Path, metavar="JSON", default=Path("choosing.json"), help="output file for the results")
    add("--from", type=results_file, metavar="JSON", dest="results", help="draw these results without training")
    return parser.parse_args()


def main() -> None:
    args = parse()
    if args.results:
        measured = json.loads(args.results.read_text(encoding="utf-8"))
    else:
        measured = measure(args)
        args.json.parent.mkdir(parents=True, exist_ok=True)
        args.json.write_text(written(measured), encoding="utf-8")
    print(report(measured))
    draw(measured, args.output)


if __name__ == "__main__":
    main()
