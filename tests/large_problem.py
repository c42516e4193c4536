"""A problem large enough for several threads, with its answer by the reference; the threading layers under test."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal, NamedTuple

import numpy as np

import fastoptim as fo
from cases import FLOAT32, MIN_SHARE, Array, ordinary_values

SIZE = 7 * MIN_SHARE + 123  # a share for each of seven threads
PATIENCE = 60  # seconds until a child that hangs is killed
LAYERS = ["auto", "pool", "openmp"] if fo.build_info()["openmp"] else ["auto", "pool"]


def adam_on(params: Any, backend: Literal["native", "reference"] = "native") -> fo.Adam:
    return fo.Adam(params, lr=0.01, weight_decay=0.1, backend=backend)


def steps(opt: fo.Optimizer, grads: Sequence[Any]) -> None:
    for g in grads:
        opt.step(g)


class Problem(NamedTuple):
    """A parameter large enough for several threads, its gradients, and where they must lead."""

    p: Array
    grads: list[Array]
    wanted: Array


def make_problem() -> Problem:
    rng = np.random.default_rng(0)
    p, *grads = (ordinary_values(rng, FLOAT32, SIZE) for _ in range(4))
    wanted = p.copy()
    steps(adam_on(wanted, "reference"), grads)
    return Problem(p, grads, wanted)
