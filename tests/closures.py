"""Losses with their gradients, as L-BFGS calls them, and points to start from."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from cases import Array

Closure = Callable[[], tuple[float, Array]]


def rosenbrock(p: Array) -> Closure:
    """Rosenbrock's function of each pair of neighbours, added."""

    def closure() -> tuple[float, Array]:
        x, y = np.asarray(p, np.float64).reshape(-1, 2).T
        off = y - x * x
        g = np.stack([-400 * x * off - 2 * (1 - x), 200 * off], axis=1)
        return float((100 * off**2 + (1 - x) ** 2).sum()), g.reshape(p.shape).astype(p.dtype)

    return closure


def start_of(size: int, dtype: Any = np.float64) -> Array:
    return np.random.default_rng(1).uniform(-1.5, 1.5, size).astype(dtype)
