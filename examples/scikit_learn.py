"""Train scikit-learn's MLPClassifier on its handwritten digits, with its own updates and with fastoptim's.

FastMLPClassifier is the recipe: a subclass that replaces the update of the parameters, and nothing else.  The loss
curves are the same up to rounding, and `fit` takes less time by what the update saves.  The fits with both alternate,
and the times are medians over --rounds of them.  On a busy machine, ``python examples/scikit_learn.py --cpu`` counts
the processor time of the process instead, best with one thread of the BLAS (OPENBLAS_NUM_THREADS=1).

The recipe relies on the method update_params(params, grads) of scikit-learn's optimizers, which is not public.  It was
tested with scikit-learn 1.3.2 and 1.9.1.
"""

from __future__ import annotations

import warnings
from argparse import Namespace
from time import perf_counter, process_time
from typing import Any

import numpy as np
from common import Array, look, loss_axes, make_parser, panels, positive, save, table
from sklearn.datasets import load_digits
from sklearn.exceptions import ConvergenceWarning
from sklearn.neural_network import MLPClassifier
from tqdm import tqdm  # type: ignore[import-untyped]

import fastoptim as fo

# ---- the recipe


class FusedUpdate:
    """One native call in place of the method update_params of scikit-learn's optimizers."""

    def __init__(self, theirs: Any) -> None:
        self.theirs = theirs
        self.params: list[Any] = []
        self.opt: Any = None

    def __call__(self, params: list[Any], grads: list[Any]) -> None:
        if list(map(id, params)) != list(map(id, self.params)):  # at first, and after joblib.load
            opt = optimizer_like(self.theirs, params)
            if self.opt:
                opt.load_state_dict(self.opt.state_dict())
            self.params, self.opt = params, opt
        if self.opt.lr != self.theirs.learning_rate:  # "adaptive" and "invscaling"
            self.opt.lr = self.theirs.learning_rate
        self.opt.step(grads)


def optimizer_like(theirs: Any, params: list[Any]) -> fo.Optimizer:
    """Return fastoptim's counterpart of scikit-learn's optimizer; return another one here to train with it."""
    rate = theirs.learning_rate
    if hasattr(theirs, "momentum"):
        return fo.Momentum(params, lr=rate, momentum=theirs.momentum, nesterov=theirs.nesterov)
    return fo.Adam(params, lr=rate, betas=(theirs.beta_1, theirs.beta_2), eps=theirs.epsilon, eps_hat=True)


class FastMLPClassifier(MLPClassifier):  # type: ignore[misc]
    """scikit-learn's classifier with fastoptim's updates; the same works for MLPRegressor."""

    def __setattr__(self, name: str, value: Any) -> None:
        if name == "_optimizer":
            value.update_params = FusedUpdate(value)
        super().__setattr__(name, value)


# ---- the comparison

CLASSES = {"scikit-learn": MLPClassifier, "with fastoptim": FastMLPClassifier}


def fit(made: type[MLPClassifier], x: Array, y: Array, args: Namespace) -> tuple[float, MLPClassifier]:
    """Return the seconds of `fit` and the classifier."""
    model = made(
        (256, 256), solver=args.solver, max_iter=args.epochs, tol=0, n_iter_no_change=args.epochs, random_state=0
    )
    clock = process_time if args.cpu else perf_counter
    start = clock()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)
        model.fit(x, y)
    return clock() - start, model


def draw(curves: dict[str, Array], seconds: dict[str, list[float]], args: Namespace) -> None:
    figure, (left, right) = panels(
        2, 10.5, 4.6, "MLPClassifier, 64-256-256-10, on scikit-learn's digits", shares=(3, 2)
    )
    loss_axes(left, "Loss of training: both curves coincide", args.epochs)
    for i, (name, curve) in enumerate(curves.items()):
        left.plot(np.arange(1, len(curve) + 1), curve, label=name, **{**look(i), "linewidth": 4 - 2.5 * i})
    left.legend(frameon=False)
    right.boxplot(list(seconds.values()), orientation="horizontal", tick_labels=list(seconds), sym="")
    kind = "Seconds of processor time" if args.cpu else "Seconds"
    right.set(title=f"{kind}, {args.rounds} fits each", xlim=(0, None))
    save(figure, args.output)


def parse() -> Namespace:
    parser = make_parser(__doc__, "scikit_learn.png")
    add = parser.add_argument
    add("--solver", choices=("adam", "sgd"), default="adam", help="scikit-learn's solver (default adam)")
    add("--epochs", type=positive, metavar="N", default=20, help="passes over the images (default 20)")
    add("--rounds", type=positive, metavar="N", default=9, help="fits of each kind (default 9)")
    add(
        "--dtype",
        choices=("float64", "float32"),
        default="float64",
        help="the images' and parameters' (default float64)",
    )
    add("--cpu", action="store_true", help="measure processor time instead of elapsed time")
    return parser.parse_args()


def main() -> None:
    args = parse()
    x, y = load_digits(return_X_y=True)
    x = (x / 16).astype(args.dtype)
    seconds: dict[str, list[float]] = {name: [] for name in CLASSES}
    models: dict[str, MLPClassifier] = {}
    with tqdm(total=len(CLASSES) * args.rounds, unit="fit") as progress:
        for _ in range(args.rounds):
            for name, made in CLASSES.items():
                elapsed, models[name] = fit(made, x, y, args)
                seconds[name].append(elapsed)
                progress.update()
    curves = {name: np.array(model.loss_curve_) for name, model in models.items()}
    theirs, ours = CLASSES
    medians = {name: float(np.median(values)) for name, values in seconds.items()}
    rows = [
        (name, f"{medians[name]:.3f} s", f"{min(seconds[name]):.3f} s", f"{curves[name][-1]:.6f}") for name in CLASSES
    ]
    print(table(("updates", "median fit", "fastest fit", "last loss"), rows))
    saved = 1 - np.array([medians[ours] / medians[theirs], min(seconds[ours]) / min(seconds[theirs])])
    print(f"fit takes {saved[0]:.1%} less time in the median, {saved[1]:.1%} at its fastest;", end=" ")
    print(f"the loss curves differ by {np.abs(curves[theirs] - curves[ours]).max():.1e}")
    draw(curves, seconds, args)


if __name__ == "__main__":
    main()
