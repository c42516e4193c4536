"""Adadelta."""

from __future__ import annotations

from typing import Any, Literal

import numpy as np

from ..optimizer.base import Optimizer
from ..options.checks import Decay, LearningRate, NonNegative
from ..options.fields import argument
from ..reference_math import Array, decay


class Adadelta(Optimizer):
    r"""Adadelta: the gradient in units of the steps so far, so that no learning rate has to be found.

    .. math::
        s &= \rho s + (1 - \rho) g^2 \\
        d &= \sqrt{\frac{x + \epsilon}{s + \epsilon}}\; g \\
        x &= \rho x + (1 - \rho) d^2 \\
        p &= p - \eta d

    For when nothing is known of the gradients' scale: start with `lr` 1.  The first steps are of about the size
    :math:`\sqrt\epsilon`, so it starts slowly; a larger `eps` helps.  Near a minimum the steps do not shrink by
    themselves: let `lr` fall.

    The paper writes :math:`d` with two roots; the root of the quotient is the same and costs one less.

    Args:
        params: Arrays to update in place; see `Optimizer`.
        lr: Learning rate :math:`\eta`, at least 0, or a callable of the step; the paper's is 1.
        rho: :math:`\rho`, how slowly the means forget, in [0, 1).
        eps: :math:`\epsilon`, at least 0; with 0 nothing would ever move.
        convention: "torch" and "optax", the values above; "keras", with `lr` 1e-3, `rho` 0.95 and `eps` 1e-7; "paper",
            with `rho` 0.95.
        **shared: Weight decay, clipping, averages and the rest that every optimizer has; see `Optimizer`.

    Raises:
        ValueError: An option out of range.

    Source: Zeiler, 2012, arXiv:1212.5701.

    >>> import numpy as np, fastoptim as fo
    >>> p = np.array([1.0])
    >>> fo.Adadelta(p, rho=0.75, eps=0.01).step(np.array([3.0]))
    >>> p.round(6)
    array([0.800443])
    """

    name = "adadelta"
    variants = {"adadelta": ("s", "x")}
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
    def variant(**_: Any) -> str:
        """There is one."""
        return "adadelta"

    @staticmethod
    def reference(p: Array, g: Array, s: Array, x: Array, *, t: int, lr: float, rho: float, eps: float) -> None:
        """The formula in NumPy."""
        number = p.dtype.type
        keep, e = decay(p.dtype, rho), number(eps)
        fresh = number(1 - float(keep))
        s[...] = keep * s + fresh * g * g
        d = np.sqrt((x + e) / (s + e)) * g
        x[...] = keep * x + fresh * d * d
        p -= number(lr) * d
