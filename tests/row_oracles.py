"""Compare optimizers with a number for each row with formulas in plain Python, in dense steps and in steps of rows."""

from __future__ import annotations

from collections.abc import Callable
from math import fsum
from typing import Any

import numpy as np

import fastoptim as fo
from models import Backend
from oracles import Options

Vector = list[float]
Matrix = list[Vector]
Formula = Callable[..., None]

SHAPES: tuple[tuple[int, ...], ...] = ((4, 3), (5,), (), (3, 2, 600), (2, 33))
STEPS = 12


def mean_square(row: Vector) -> float:
    return fsum(x * x for x in row) / len(row)


class Expected:
    """A parameter as a list of rows, and the formula's state of each."""

    def __init__(self, p: Any, formula: Formula, options: Options) -> None:
        self.rows, self.formula, self.options = as_rows(p), formula, options
        self.state: Matrix = [[] for _ in self.rows]
        self.steps = [0.0] * len(self.rows)

    def step(
        self, rows: list[int], g: Matrix, weight_decay: float, decoupled: bool, lr: float, own_steps: bool
    ) -> None:
        """Update these rows; their steps are those of each, or of all."""
        for row in rows if own_steps else range(len(self.rows)):
            self.steps[row] += 1
        p = [self.rows[row] for row in rows]
        state = [self.state[row] for row in rows]
        for numbers, gradients in zip(p, g, strict=True):
            for j, x in enumerate(numbers):
                if decoupled:
                    numbers[j] -= lr * weight_decay * x
                else:
                    gradients[j] += weight_decay * x
        self.formula(p, g, state, [self.steps[row] for row in rows], lr=lr, **self.options)
        for row, own in zip(rows, state, strict=True):
            self.state[row] = own


def as_rows(p: Any) -> Matrix:
    rows: Matrix = p.astype(np.float64).reshape(p.shape[0] if p.ndim else 1, -1).tolist()
    return rows


def assert_rows_follow(optimizer: type[fo.Optimizer], formula: Formula, options: Options, backend: Backend) -> None:
    """Step dense gradients and gradients of rows, in C and in Fortran order, and compare after every step."""
    settings = optimizer.check_options(options).options
    own = {name: settings[name] for name in settings if name not in optimizer.shared and name != "lr"}
    rng = np.random.default_rng(0)
    for shape in SHAPES:
        for kind in ("dense", "fortran", "rows", "row_steps"):
            p = np.array(1 + rng.random(shape), order="F" if kind == "fortran" else "C")
            expected = Expected(p, formula, own)
            row_steps = kind == "row_steps"
            opt = optimizer(p, **options, row_steps=row_steps, backend=backend)
            for _ in range(STEPS):
                n = len(expected.rows)
                rows = [*range(n)]
                g = rng.standard_normal(shape) + 0.3
                grad: Any = g
                if "row" in kind and p.ndim:
                    rows = np.flatnonzero(rng.random(n) < 0.6).tolist()
                    grad = fo.Rows(np.array(rows, np.int64), g[rows])
                opt.step(grad)
                wanted = as_rows(g)
                decay, decoupled, lr = settings["weight_decay"], settings["decoupled"], settings["lr"]
                expected.step(rows, [wanted[row] for row in rows], decay, decoupled, lr, row_steps)
                place = f"{optimizer.name} with {options}, {shape} {kind}"
                np.testing.assert_allclose(as_rows(p), expected.rows, rtol=1e-11, atol=1e-14, err_msg=place)
                numbers = opt.state[optimizer.state[-1]]
                wanted_numbers = [state[0] if state else None for state in expected.state]
                for number, number_wanted in zip(numbers, wanted_numbers, strict=True):
                    assert number_wanted is None or np.isclose(number, number_wanted, rtol=1e-12), place
