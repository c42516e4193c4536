"""Adadelta."""

from __future__ import annotations

from typing import Literal

import numpy as np

from ..optimizer.base import Optimizer
from ..options.checks import Decay, LearningRate, NonNegative
from ..options.fields import argument
from ..options.schema import StateArray
from ..reference_math import Array, decay


class Adadelta(Optimizer):
    r"""Adadelta: the gradient scaled by the ratio of the root mean squares of past steps and past gradients.

    .. math::
        s &= \rho s + (1 - \rho) g^2 \\
        d &= \sqrt{\frac{x + \epsilon}{s + \epsilon}}\; g \\
        x &= \rho x + (1 - \rho) d^2 \\
        p &= p - \eta d

    For problems where the scale of the gradients is unknown: no learning rate has to be tuned, start with `lr` 1.  The
    first steps are about :math:`\sqrt\epsilon` in size, so training starts slowly; a larger `eps` helps.  Near a
    minimum the steps do not shrink by themselves: use a decreasing `lr`.

    The paper writes :math:`d` with two square roots; the square root of the quotient is the same and saves one.

    Args:
        params: Arrays to update in place; see `Optimizer`.
        lr: Learning rate :math:`\eta`, at least 0, or a callable of the step; 1 in the paper.  Default 1.0.
        rho: :math:`\rho`, decay rate of the moving averages, in [0, 1).  Default 0.9.
        eps: :math:`\epsilon`, at least 0, added for numerical stability; with 0 no parameter ever changes.  Default
            1e-6.
        convention: "torch" and "optax", the values above; "keras", with `lr` 1e-3, `rho` 0.95 and `eps` 1e-7; "paper",
            with `rho` 0.95.  Default "torch".
        **shared: Weight decay, clipping, averages and the rest that every optimizer has; see `Optimizer`.

    Raises:
        ValueError: If an option is out of range.

    Source: Zeiler, 2012, arXiv:1212.5701.

    >>> import numpy as np, fastoptim as fo
    >>> p = np.array([1.0])
    >>> fo.Adadelta(p, rho=0.75, eps=0.01).step(np.array([3.0]))
    >>> p.round(6)
    array([0.800443])
    """

    name = "adadelta"
    variants = {"adadelta": ("s", "x")}
    state_schema = {"s": StateArray(compress="non-negative"), "x": StateArray(compress="non-negative")}
    conventions = {
        "torch": {},
        "keras": {"lr": 1e-3, "rho": 0.95, "eps": 1e-7},
        "optax": {},
        "paper": {"rho": 0.95},
    }

    lr: LearningRate = 1.0
    rho: Decay = 0.9
    eps: NonNegative = 1e-6
    convention: Literal["torch", "keras", "optax", "paper"] = argument(default="torch", kw_only=True)

    @staticmethod
    def reference(p: Array, g: Array, s: Array, x: Array, *, t: int, lr: float, rho: float, eps: float) -> None:
        """The formula in NumPy."""
        number = p.dtype.type
        rho, epsilon = decay(p.dtype, rho), number(eps)
        one_minus_rho = number(1 - float(rho))
        s[...] = rho * s + one_minus_rho * g * g
        d = np.sqrt((x + epsilon) / (s + epsilon)) * g
        x[...] = rho * x + one_minus_rho * d * d
        p -= number(lr) * d
