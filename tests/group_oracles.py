"""Compare rules with sums over an array or a group with loops in plain Python, written from the papers."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import cache
from math import fsum, sqrt
from typing import Any

import numpy as np

import fastoptim as fo
from cases import Array
from models import Backend
from oracles import Options

Floats = list[float]
Grads = Sequence[Floats | None]
Oracle = type["GroupOracle"]

STEPS = 60
SHAPES: tuple[tuple[int, ...], ...] = ((4, 3), (5,), ())
SHARED: list[Options] = [
    {},
    {"weight_decay": 0.05},
    {"weight_decay": 0.05, "decoupled": True},
    {"weight_decay": 0.05, "decoupled": False},
]


def l2_norm(x: Floats) -> float:
    return sqrt(fsum(each * each for each in x))


class GroupOracle:
    """The formula of a rule with sums, over one group of arrays as lists of floats.

    An array without a gradient takes no part in that step.
    """

    def __init__(self, params: Sequence[Floats], options: Options) -> None:
        self.params = [list(p) for p in params]
        self.state: list[dict[str, Any]] = [self.first(p, options) for p in params]
        self.times = [0] * len(params)
        self.options = options

    def first(self, p: Floats, options: Options) -> dict[str, Any]:
        return {"m": [0.0] * len(p), "v": [0.0] * len(p)}

    def step(self, grads: Grads) -> None:
        for i, g in enumerate(grads):
            if g is not None:
                self.times[i] += 1
                self.params[i] = self.one(self.params[i], g, self.state[i], self.times[i], **self.options)

    def one(self, p: Floats, g: Floats, state: dict[str, Any], t: int, **options: Any) -> Floats:
        raise NotImplementedError


def initial_params() -> list[Array]:
    rng = np.random.default_rng(0)
    return [np.asarray(1 + rng.random(shape)) for shape in SHAPES]


@cache
def gradients(step: int) -> list[Array]:
    rng = np.random.default_rng(1 + step)
    return [np.asarray(rng.standard_normal(shape) + 0.5) for shape in SHAPES]


def floats(array: Array) -> Floats:
    flat: Floats = array.reshape(-1).tolist()
    return flat


def oracle_for(optimizer: type[fo.Optimizer], oracle: Oracle, params: list[Array], options: Options) -> GroupOracle:
    settings = optimizer.check_options(options).options
    own = {k: v for k, v in settings.items() if k not in optimizer.shared or k in ("lr", "weight_decay", "decoupled")}
    return oracle([floats(p) for p in params], own)


def assert_same_model(opt: fo.Optimizer, oracle: GroupOracle, place: str) -> None:
    for p, state, expected, kept in zip(opt.params, opt.state, oracle.params, oracle.state, strict=True):
        np.testing.assert_allclose(p.reshape(-1), expected, rtol=1e-10, atol=1e-12, err_msg=place)
        for name, array in state.items():
            wanted = np.asarray(kept[name])
            np.testing.assert_allclose(
                array.reshape(wanted.shape), wanted, rtol=1e-10, atol=1e-12, err_msg=place + name
            )


def assert_group_follows(
    optimizer: type[fo.Optimizer],
    oracle: Oracle,
    options: Options,
    backend: Backend,
    has_gradient: Callable[[int, int], bool] = lambda t, array: True,
    rate: Callable[[int], float] | None = None,
) -> None:
    """Step both over three arrays; compare at the first steps and then at every tenth, since a deviation stays."""
    params = initial_params()
    expected = oracle_for(optimizer, oracle, params, options)
    opt = optimizer(params, **options, **({} if rate is None else {"lr": rate}), backend=backend)
    for t in range(STEPS):
        if rate is not None:
            expected.options["lr"] = rate(t)
        grads = [g if has_gradient(t, i) else None for i, g in enumerate(gradients(t))]
        opt.step(grads)
        expected.step([None if g is None else floats(g) for g in grads])
        if t < 3 or t % 10 == 9:
            assert_same_model(opt, expected, f"{optimizer.name} with {options}, step {t + 1} ")
