"""Models with gradients for some rows, and the same step on a dense array of these rows."""

from __future__ import annotations

from typing import Any

import numpy as np

import fastoptim as fo
from cases import Array, Case, DType, ordinary_values

#: The number of rows, and the shape of a parameter: rows of 1 to more than 1024 elements, and of none.
SHAPES: tuple[tuple[int, ...], ...] = ((50,), (40, 1), (33, 3), (20, 2, 5), (64, 64), (7, 1030), (5, 0), (9, 8))


def is_elementwise(case: Case) -> bool:
    return case.optimizer.check_options(case.options).is_elementwise


def selections(rng: np.random.Generator, n: int) -> list[Array]:
    """Indices of some of n rows: ascending, unordered, repeated, none, all, one."""
    some = np.flatnonzero(rng.random(n) < 0.4)
    return [
        some,
        rng.permutation(n)[: n // 2].astype(np.int32),
        rng.integers(0, n, 2 * n),
        np.zeros(0, np.int64),
        np.arange(n, dtype=np.int32),
        np.full(5, n - 1),
    ]


def summed(index: Array, values: Array, dtype: DType) -> tuple[Array, Array]:
    """The rows in ascending order, each once, with the sums of their gradients: one addition after another."""
    rows, first, which = np.unique(index, return_index=True, return_inverse=True)
    sums = values[first].astype(dtype)
    again = np.ones(len(index), bool)
    again[first] = False
    for position in np.flatnonzero(again):
        sums[which[position]] += values[position].astype(dtype)
    return rows, sums


def rows_of(rng: np.random.Generator, index: Array, shape: tuple[int, ...], dtype: DType) -> Array:
    size = int(np.prod((len(index), *shape[1:])))
    return ordinary_values(rng, dtype, size).reshape(len(index), *shape[1:])


def taken(opt: fo.Optimizer, key: str, rows: Any) -> dict[str, Array]:
    """Copies of the parameter and its state at these rows."""
    return {"p": opt.params[key][rows], **{name: array[rows] for name, array in opt.state[key].items()}}
