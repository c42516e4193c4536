"""Compare an optimizer with a formula written from its paper, or from a framework, for one number in Python floats.

A formula is `step(p, g, s, t, *, lr, **options) -> p`: the parameter, its gradient, the state as a dict of floats that
starts at 0, and the number of the step from 1.  Gradient ascent and weight decay happen around it.
"""

from __future__ import annotations

import inspect
from collections import defaultdict
from collections.abc import Callable, Iterator
from math import copysign
from typing import Any, NamedTuple

import numpy as np

import fastoptim as fo
from cases import Array
from models import Backend

Options = dict[str, Any]
State = defaultdict[str, float]
Formula = Callable[..., float]
Pair = tuple[float, float]
Triple = tuple[float, float, float]

STEPS = 120
ORDINARY = np.random.default_rng(1).normal([0.3, 1, -0.1, 0.3, 0], 1, (STEPS, 5))

# From large to about every epsilon, where their places show; one that is zero for a while; one that is always zero.
SCALES = np.array([3.0, 0.1, 1e-3, 1e-5, 1e-7, 1e-8, 1.0, 0.0])
GRADED = np.random.default_rng(0).standard_normal((STEPS, len(SCALES))) * SCALES + 0.3 * SCALES
GRADED[:4, -2] = 0

START = np.array([0.5, -3.0, 1e-3, 5.0, -0.3, 1e-4, -0.2, 0.7])


class Row(NamedTuple):
    """An optimizer's options, and the formula that they mean.

    The formula receives the options that its signature names: those given here, else its own defaults, which are the
    paper's, else the optimizer's values.  A formula that names `weight_decay` does its decay itself.
    """

    formula: Formula
    options: Options = {}
    arguments: Options = {}
    """Further arguments of the formula, where it calls an option otherwise."""
    lr: float | None = None
    """The learning rate of the paper or of the framework, where it says one."""
    decay: tuple[float, bool] | None = None
    """The same for the weight decay, and for whether it is decoupled."""
    grads: Array = ORDINARY

    @property
    def id(self) -> str:
        return f"{self.formula.__name__} with {self.options}"


OTHERS: Options = {"lr": 0.05, "weight_decay": 0.1, "maximize": True}


def sign(x: float) -> float:
    return copysign(1.0, x) if x else 0.0


def clip(x: float, low: float, high: float) -> float:
    return low if x < low else high if x > high else x


def proximal(p: float, rate: float, l1: float, l2: float) -> float:
    """Return the minimum of |x - p|^2/2 + rate*(l1*|x| + l2/2*x^2), as TensorFlow's proximal optimizers write it."""
    return sign(p) * max(abs(p) - rate * l1, 0.0) / (1 + rate * l2)


def ema(s: State, name: str, beta: float, x: float) -> float:
    """Update the exponential moving average of that name and return it."""
    s[name] = beta * s[name] + (1 - beta) * x
    return s[name]


def factor(t: int) -> float:
    """Return the factor of the learning rate in step `t`: it changes from step to step."""
    return 1 + t % 3 / 4


def arguments_of(optimizer: type[fo.Optimizer], row: Row) -> Options:
    """Return the arguments of the row's formula, except for the defaults of its own."""
    options = optimizer.check_options(row.options).options
    known = inspect.signature(row.formula).parameters.values()
    named = [k for k in known if k.kind is k.KEYWORD_ONLY and k.name != "lr" and k.name not in row.arguments]
    arguments = {k.name: options[k.name] for k in named if k.name in row.options or k.default is k.empty}
    rate = options["lr"] if row.lr is None or "lr" in row.options else row.lr
    return {"lr": rate, **arguments, **row.arguments}


def evaluate(optimizer: type[fo.Optimizer], row: Row, p: float, grads: list[float]) -> Iterator[tuple[float, State]]:
    """Yield the parameter and the state after each step."""
    options, arguments = optimizer.check_options(row.options).options, arguments_of(optimizer, row)
    rate = arguments.pop("lr")
    decay, decoupled = row.decay or (options["weight_decay"], options["decoupled"])
    if "weight_decay" in inspect.signature(row.formula).parameters:
        decay = 0.0
    state: State = defaultdict(float)
    for t, grad in enumerate(grads, 1):
        g, lr = -grad if options["maximize"] else grad, rate * factor(t)
        if decoupled:
            p -= lr * decay * p
        else:
            g += decay * p
        p = row.formula(p, g, state, t, lr=lr, **arguments)
        yield p, state


def moves(opt: fo.Optimizer, grads: Array) -> Iterator[Array]:
    """Yield by how much each step moved the parameters."""
    for g in grads:
        before = opt.params.copy()
        opt.step(g)
        yield opt.params - before


def assert_follows(
    name: str,
    row: Row,
    backend: Backend,
    rtol: float = 1e-11,
    before_step: Callable[[Any, int], object] = lambda opt, t: None,
) -> None:
    """Step the optimizer and the formula, and compare after every step."""
    optimizer = fo.OPTIMIZERS[name]
    p = START[: row.grads.shape[1]].copy()
    columns = zip(p.tolist(), row.grads.T.tolist(), strict=True)
    paths = [evaluate(optimizer, row, start, grads) for start, grads in columns]
    opt = optimizer(p, **row.options, backend=backend)
    base: Any = opt.param_groups[0]["lr"]
    found, expected = defaultdict(list), defaultdict(list)
    for t, g in enumerate(row.grads, 1):
        opt.param_groups[0]["lr"] = base * factor(t)
        before_step(opt, t)
        opt.step(g)
        found["p"].append(p.copy())
        rows = [next(path) for path in paths]
        expected["p"].append([x for x, _ in rows])
        for key in opt.state.keys() & rows[0][1].keys():  # the state that both call alike
            found[key].append(np.broadcast_to(opt.state[key], p.shape).copy())
            expected[key].append([state[key] for _, state in rows])
    for key, values in found.items():
        tolerances = (rtol, 2e-13) if key == "p" else (1e-9, 1e-13)
        close = np.isclose(values, expected[key], *tolerances).all(axis=1)
        t = int(close.argmin())
        place = f"{name} with {row.options}: {key} after step {t + 1}"
        assert close.all(), f"{place}: expected {expected[key][t]}, got {values[t].tolist()}"


def assert_same_path(one: type[fo.Optimizer], options: Options, other: type[fo.Optimizer], its: Options) -> None:
    """Check that two optimizers with these options take the same steps."""
    rng = np.random.default_rng(0)
    p = rng.standard_normal(20)
    q = p.copy()
    first, second = one(p, lr=0.1, **options), other(q, lr=0.1, **its)
    for _ in range(50):
        g = rng.standard_normal(20)
        first.step(g)
        second.step(g)
    np.testing.assert_allclose(p, q, rtol=1e-11)
