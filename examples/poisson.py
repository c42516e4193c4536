"""Solve a differential equation by a small network, in plain NumPy: SOAP, Adam and L-BFGS on the same loss.

The equation is u'' = f on (0, 1) with u = 0 at both ends, and f belongs to a sum of two sines.  A tanh network N gives
u = x (1 - x) N(x), which satisfies the ends; the loss is the mean square of (u'' - f) at fixed points.  Derivatives by
x go forward through the layers together with the values, and the gradient by the weights comes back from all three.
All runs start from the same weights.  Set OPENBLAS_NUM_THREADS=1: threads are slower for matrices this small.
"""

from __future__ import annotations

import itertools
from argparse import ArgumentParser, Namespace
from collections.abc import Callable, Iterator
from typing import Any, TypeAlias

import numpy as np
from common import Array, Layers, label_ends, look, make_parser, panels, positive, save, table
from matplotlib.ticker import LogLocator
from tqdm import tqdm  # type: ignore[import-untyped]

import fastoptim as fo

Run: TypeAlias = tuple[Array, Array]

WAVES = {1: 1.0, 6: 0.2}  # amplitudes of sin(k pi x) in the solution
POINTS = 128
SIZES = (1, 32, 32, 1)
SCALE = 1e4  # of the loss, whose differences L-BFGS would otherwise take for rounding


def exact(x: Array) -> Array:
    return np.asarray(sum(a * np.sin(k * np.pi * x) for k, a in WAVES.items()))


def right_side(x: Array) -> Array:
    return np.asarray(sum(-a * (k * np.pi) ** 2 * np.sin(k * np.pi * x) for k, a in WAVES.items()))


def init(rng: np.random.Generator) -> Layers:
    """Return layers in float64 whose biases spread the tanh units over the interval."""
    layers: Layers = []
    for inputs, outputs in itertools.pairwise(SIZES):
        w = rng.standard_normal((inputs, outputs)) * np.sqrt(1 / inputs)
        layers.append({"w": w * (5 if inputs == 1 else 1), "b": rng.uniform(-2, 2, outputs) * (inputs == 1)})
    return layers


def forward(layers: Layers, x: Array) -> list[tuple[Array, ...]]:
    """Return the value and the first two derivatives by x of the inputs of every layer, and of the output."""
    a, da, dda = x[:, None], np.ones((len(x), 1)), np.zeros((len(x), 1))
    trace: list[tuple[Array, ...]] = [(a, da, dda)]
    for i, layer in enumerate(layers):
        z, dz, ddz = a @ layer["w"] + layer["b"], da @ layer["w"], dda @ layer["w"]
        if i == len(layers) - 1:
            trace.append((z, dz, ddz))
            break
        t = np.tanh(z)
        s = 1 - t * t
        a, da, dda = t, s * dz, s * ddz - 2 * t * s * dz * dz
        trace.append((a, da, dda, dz, ddz))
    return trace


def backward(layers: Layers, trace: list[tuple[Array, ...]], out: tuple[Array, Array, Array]) -> Layers:
    """Return the gradients; `out` are the loss's derivatives by the network's value and its two derivatives."""
    grads: Layers = []
    z, dz, ddz = out
    for i in reversed(range(len(layers))):
        a, da, dda, *inner = trace[i]
        grads.append({"w": a.T @ z + da.T @ dz + dda.T @ ddz, "b": z.sum(axis=0)})
        if not inner:
            break
        w, (dx, ddx), t = layers[i]["w"], inner, a
        by_a, by_da, by_dda, s = z @ w.T, dz @ w.T, ddz @ w.T, 1 - t * t
        z = s * (by_a - 2 * t * (by_da * dx + by_dda * ddx) - 2 * (s - 2 * t * t) * by_dda * dx * dx)
        dz, ddz = s * (by_da - 4 * t * dx * by_dda), s * by_dda
    return grads[::-1]


class Problem:
    """The loss and its gradient at fixed points."""

    def __init__(self) -> None:
        self.x = (np.arange(POINTS) + 0.5) / POINTS
        self.scale = SCALE / np.mean(right_side(self.x) ** 2)

    def loss(self, layers: Layers) -> tuple[float, Layers]:
        x, trace = self.x, forward(layers, self.x)
        n, dn, ddn = (part[:, 0] for part in trace[-1][:3])
        ends, slope = x * (1 - x), 2 * (1 - 2 * x)
        residual = -2 * n + slope * dn + ends * ddn - right_side(x)
        by = (2 * self.scale / POINTS * residual)[:, None]
        grads = backward(layers, trace, (-2 * by, slope[:, None] * by, ends[:, None] * by))
        return float(self.scale * np.mean(residual**2)), grads


def solution(layers: Layers, x: Array) -> Array:
    return x * (1 - x) * forward(layers, x)[-1][0][:, 0]


def soap(layers: Layers, count: int) -> fo.Optimizer:
    return fo.SOAP(layers, lr=fo.schedules.Cosine(0.01, count), weight_decay=0.0)


def adam(layers: Layers, count: int) -> fo.Optimizer:
    return fo.Adam(layers, lr=fo.schedules.Cosine(0.03, count))


def lbfgs(layers: Layers, count: int) -> Any:
    return fo.LBFGS(layers, max_iter=1, max_eval=25, history_size=50, tolerance_grad=0.0, tolerance_change=0.0)


RUNS: dict[str, Callable[[Layers, int], Any]] = {"SOAP": soap, "Adam": adam, "L-BFGS": lbfgs}


def descent(problem: Problem, make: Callable[[Layers, int], Any], layers: Layers, count: int) -> Iterator[int]:
    """Step until `count` gradients are computed, and yield how many of them each step took."""
    opt, taken = make(layers, count), 0

    def closure() -> tuple[float, Layers]:
        nonlocal taken
        taken += 1
        return problem.loss(layers)

    while taken < count:
        before = taken
        if isinstance(opt, fo.LBFGS):
            opt.step(closure)
        else:
            opt.step(closure()[1])
        if taken == before:
            return
        yield taken - before


def errors(problem: Problem, make: Callable[[Layers, int], Any], count: int, seed: int, bar: tqdm) -> Run:
    """Return the relative error after each gradient, and that of each point at the end."""
    layers, x = init(np.random.default_rng(seed)), np.linspace(0, 1, 401)
    size, curve = np.linalg.norm(exact(x)), np.empty(0)
    for taken in descent(problem, make, layers, count):
        error = np.linalg.norm(solution(layers, x) - exact(x)) / size
        curve = np.append(curve, np.full(taken, error))
        bar.update(taken)
    return np.append(curve, np.full(max(0, count - len(curve)), curve[-1]))[:count], abs(solution(layers, x) - exact(x))


def draw(runs: dict[str, list[Run]], means: dict[str, Array], args: Namespace) -> None:
    title = f"u'' = f by a network of two hidden layers, {args.seeds} seeds"
    figure, (left, right) = panels(2, 11.0, 4.4, title, shares=(1.25, 1))
    left.set(title="Relative error of u", xlabel="gradients computed", xlim=(0, args.gradients), yscale="log")
    right.set(title="Error of u at the end, first seed", xlabel="x", xlim=(0, 1), yscale="log")
    left.yaxis.set_major_locator(LogLocator(base=10))
    at = np.arange(1, args.gradients + 1)
    for i, (name, own) in enumerate(runs.items()):
        curves = np.array([curve for curve, _ in own])
        left.plot(at, means[name], linewidth=1.4, **look(i))
        left.fill_between(at, curves.min(axis=0), curves.max(axis=0), alpha=0.12, linewidth=0, color=look(i)["color"])
        points = own[0][1]
        right.plot(np.linspace(0, 1, len(points))[1:-1], points[1:-1], linewidth=1.3, **look(i))
    label_ends(left, [*means.items()])
    save(figure, args.output)


def parse() -> Namespace:
    parser: ArgumentParser = make_parser(__doc__, "poisson.png")
    parser.add_argument(
        "--gradients", type=positive, metavar="N", default=3000, help="gradients of each run (default 3000)"
    )
    parser.add_argument("--seeds", type=positive, metavar="N", default=3, help="runs of each optimizer (default 3)")
    return parser.parse_args()


def main() -> None:
    args, problem = parse(), Problem()
    with tqdm(total=len(RUNS) * args.seeds * args.gradients, unit="gradient") as bar:
        runs = {
            name: [errors(problem, make, args.gradients, seed, bar) for seed in range(args.seeds)]
            for name, make in RUNS.items()
        }
    means = {name: np.exp(np.mean([np.log(curve) for curve, _ in own], axis=0)) for name, own in runs.items()}
    third = args.gradients // 3
    rows = [(name, f"{curve[third]:.1e}", f"{curve[-1]:.1e}") for name, curve in means.items()]
    print(table(("optimizer", f"error after {third}", f"after {args.gradients}"), rows))
    draw(runs, means, args)


if __name__ == "__main__":
    main()
