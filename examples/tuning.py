"""Search for an optimizer's learning rate and weight decay by Optuna: on a grid, at random, and by Bayesian search.

Each trial trains the network of digits.py for a few epochs, and reports the loss on images that it was not trained on.
The Bayesian search is Optuna's tree-structured Parzen estimator (TPE), which concentrates on regions of low losses.
All three have the same number of trials, and the same ranges on logarithmic scales.

Bergstra and Bengio, "Random Search for Hyper-Parameter Optimization", JMLR 2012, explain why random search is better
than a grid: if one option matters little, a grid tries few values of the other.
"""

from __future__ import annotations

from argparse import Namespace
from itertools import islice
from typing import Any

import numpy as np
import optuna
from common import Array, label_ends, look, make_parser, natural, panels, positive, save, table
from digits import Digits, Run, evaluate, load, training
from tqdm import tqdm  # type: ignore[import-untyped]

import fastoptim as fo

RANGES = {"lr": (1e-4, 1e-1), "weight_decay": (1e-3, 10.0)}


def samplers(args: Namespace) -> dict[str, Any]:
    """Return the ways to search; the grid has a square number of points, at most --trials."""
    side = int(np.sqrt(args.trials))
    grid = {name: np.geomspace(*ends, side).tolist() for name, ends in RANGES.items()}
    return {
        "grid": optuna.samplers.GridSampler(grid, seed=args.seed),
        "random": optuna.samplers.RandomSampler(seed=args.seed),
        "Bayesian (TPE)": optuna.samplers.TPESampler(seed=args.seed),
    }


def search(sampler: Any, data: Digits, args: Namespace, progress: tqdm) -> Any:
    """Return Optuna's study with all trials; a loss that is not finite counts as a large one."""

    def objective(trial: Any) -> float:
        setting = {name: trial.suggest_float(name, low, high, log=True) for name, (low, high) in RANGES.items()}
        run = Run(args.optimizer, setting)
        with np.errstate(all="ignore"):
            *_, layers = islice(training(run, data, batch_size=32, seed=args.seed), args.epochs + 1)
            loss, _ = evaluate(layers, data.test_x, data.test_y)
        progress.update()
        return loss if np.isfinite(loss) else 100.0

    study = optuna.create_study(sampler=sampler)
    study.optimize(objective, n_trials=int(np.sqrt(args.trials)) ** 2)
    return study


def widened(ends: tuple[float, float]) -> tuple[float, float]:
    return ends[0] / 1.5, ends[1] * 1.5


def draw(studies: dict[str, Any], args: Namespace) -> None:
    name = fo.OPTIMIZERS[args.optimizer].__name__
    figure, axes = panels(4, 10.5, 8, f"Search for the options of {name}, {args.epochs} epochs on the digits", rows=2)
    values = {how: np.array([trial.value for trial in study.trials]) for how, study in studies.items()}
    low, high = np.log10([min(map(np.min, values.values())), 3])
    for panel, (how, study) in zip(axes, studies.items(), strict=False):
        x, y = (np.array([trial.params[option] for trial in study.trials]) for option in RANGES)
        points = panel.scatter(x, y, c=np.log10(values[how]), vmin=low, vmax=high, cmap="viridis_r", s=40)
        panel.plot(*study.best_params.values(), "o", color="none", markeredgecolor=look(1)["color"], markersize=14)
        panel.set(title=f"{how}: best loss {study.best_value:.3f}", xscale="log", yscale="log")
        panel.set(xlabel="lr", ylabel="weight_decay")
        panel.set(xlim=widened(RANGES["lr"]), ylim=widened(RANGES["weight_decay"]))
    figure.colorbar(points, ax=axes[2], label="log10 of the test loss")
    lines: list[tuple[str, Array]] = []
    for i, (how, losses) in enumerate(values.items()):
        lines.append((how, np.minimum.accumulate(losses)))
        axes[3].plot(np.arange(1, len(losses) + 1), lines[-1][1], **look(i))
    axes[3].set(title="Lowest test loss so far", xlabel="trial", xlim=(1, len(lines[0][1])))
    label_ends(axes[3], lines)
    save(figure, args.output)


def parse() -> Namespace:
    parser = make_parser(__doc__, "tuning.png")
    add = parser.add_argument
    names = [name for name, cls in fo.OPTIMIZERS.items() if set(RANGES) <= cls.defaults.keys()]
    add("--optimizer", metavar="NAME", choices=names, default="adamw", help="name in fo.OPTIMIZERS (default adamw)")
    add("--trials", type=positive, metavar="N", default=36, help="trials of each search (default 36)")
    add("--epochs", type=positive, metavar="N", default=4, help="epochs of each trial (default 4)")
    add("--seed", type=natural, metavar="N", default=0, help="seed of networks and searches (default 0)")
    return parser.parse_args()


def main() -> None:
    args = parse()
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    data, studies = load(), {}
    with tqdm(total=3 * int(np.sqrt(args.trials)) ** 2, unit="trial") as progress:
        for how, sampler in samplers(args).items():
            progress.set_description(how)
            studies[how] = search(sampler, data, args, progress)
    rows = [
        (how, *(f"{study.best_params[option]:.2e}" for option in RANGES), f"{study.best_value:.4f}")
        for how, study in studies.items()
    ]
    print(table(("search", *RANGES, "test loss"), rows))
    draw(studies, args)


if __name__ == "__main__":
    main()
