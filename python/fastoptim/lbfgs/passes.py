"""The passes of L-BFGS as rules without a name: each engine then has them, and none is an optimizer for users."""

from __future__ import annotations

from typing import Any

import numpy as np

from ..optimizer.base import Optimizer
from ..options.checks import LearningRate
from ..options.schema import StateArray
from ..reference_math import Array, total


class Scale(Optimizer):
    """``p = factor*g``; like the others, it has its first factor as `lr`."""

    variants = {"lbfgs_scale": ()}
    lr: LearningRate = 1.0

    @staticmethod
    def reference(p: Array, g: Array, *, t: int, lr: float) -> None:
        """The formula in NumPy."""
        p[...] = p.dtype.type(lr) * g


class Add(Optimizer):
    """``p = x + factor*g``."""

    variants = {"lbfgs_add": ("x",)}
    lr: LearningRate = 1.0

    @staticmethod
    def reference(p: Array, g: Array, x: Array, *, t: int, lr: float) -> None:
        """The formula in NumPy."""
        p[...] = x + p.dtype.type(lr) * g


class AddPair(Optimizer):
    """``p += y0_factor*y0 + s0_factor*s0``, where y0 is the gradient and `y0_factor` is `lr`."""

    variants = {"lbfgs_add_pair": ("s0",)}
    host_constants = ("s0_factor",)
    lr: LearningRate = 1.0

    @staticmethod
    def compute_host_constants() -> dict[str, float]:
        """Unused: each call passes its own factors."""
        return {}

    @staticmethod
    def reference(p: Array, g: Array, *, t: int, lr: float, **named: Any) -> None:
        """The formula in NumPy."""
        number, factors, i = p.dtype.type, {**named, "y0": g, "y0_factor": lr}, 0
        while f"s{i}" in factors:
            y, s = (number(factors[f"{name}{i}_factor"]) * factors[f"{name}{i}"] for name in "ys")
            p[...] = p + (y + s)
            i += 1


class AddFour(AddPair):
    """The same for four pairs, one after another."""

    variants = {"lbfgs_add_four": ("s0", "y1", "s1", "y2", "s2", "y3", "s3")}
    host_constants = (  # type: ignore[assignment]
        "s0_factor",
        "y1_factor",
        "s1_factor",
        "y2_factor",
        "s2_factor",
        "y3_factor",
        "s3_factor",
    )


class Dot(Optimizer):
    """The inner product of p and g."""

    variants = {"lbfgs_dot": ("p_g",)}
    state_schema = {"p_g": StateArray("scalar")}
    reduces_all = True

    @staticmethod
    def reduce_terms(p: Array, g: Array, **_: Any) -> tuple[float, ...]:
        """The sum in NumPy."""
        return (total(p.astype(np.float64) * g.astype(np.float64)),)

    @staticmethod
    def reference(p: Array, g: Array, **_: Any) -> None:
        """Change nothing: the sums are the result."""


class Dots(Optimizer):
    """The inner products of g with s, which is p, and with y."""

    variants = {"lbfgs_dots": ("y", "s_g", "y_g")}
    state_schema = {"s_g": StateArray("scalar"), "y_g": StateArray("scalar")}
    reduces_all = True

    @staticmethod
    def reduce_terms(p: Array, g: Array, y: Array, **_: Any) -> tuple[float, ...]:
        """The sums in NumPy."""
        g = g.astype(np.float64)
        return total(p.astype(np.float64) * g), total(y.astype(np.float64) * g)

    @staticmethod
    def reference(p: Array, g: Array, **_: Any) -> None:
        """Change nothing: the sums are the result."""
