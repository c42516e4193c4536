"""QHM."""

from __future__ import annotations

from typing import Any

from ..optimizer.base import Optimizer
from ..options.checks import Decay, Fraction, LearningRate
from ..reference_math import Array, decay


class QHM(Optimizer):
    r"""Quasi-hyperbolic momentum: a weighted mean of the gradient and of its running mean.

    .. math::
        b &= \beta b + (1 - \beta) g \\
        p &= p - \eta\, [(1 - \nu) g + \nu b]

    With :math:`\nu = 0` plain SGD, with :math:`\nu = 1` momentum in its ema form, and with :math:`\nu = \beta`
    Nesterov's step.  The paper's advice: :math:`\nu` 0.7 and :math:`\beta` 0.999, the defaults; and as the mean weighs
    a gradient by :math:`1 - \beta`, a learning rate as for plain SGD, ``1 / (1 - momentum)`` times that of `SGD` with
    momentum.  Some noise in the gradient is what it is for: without any, a smaller :math:`\beta` is quicker.

    Args:
        params: Arrays to update in place; see `Optimizer`.
        lr: Learning rate :math:`\eta`, at least 0, or a callable of the step.
        beta: :math:`\beta`, how slowly the mean forgets, in [0, 1).
        nu: :math:`\nu`, the weight of the mean, in [0, 1]; the gradient itself has the rest.
        **shared: Weight decay, clipping, averages and the rest that every optimizer has; see `Optimizer`.

    Raises:
        ValueError: An option out of range.

    Source: Ma & Yarats, 2019, arXiv:1810.06801.

    >>> import numpy as np, fastoptim as fo
    >>> p = np.array([1.0])
    >>> fo.QHM(p, lr=0.5, beta=0.5, nu=0.5).step(np.array([1.0]))
    >>> p
    array([0.625])
    """

    name = "qhm"
    variants = {"qhm": ("b",)}

    lr: LearningRate = 0.1
    beta: Decay = 0.999
    nu: Fraction = 0.7

    @staticmethod
    def variant(**_: Any) -> str:
        """There is one."""
        return "qhm"

    @staticmethod
    def reference(p: Array, g: Array, b: Array, *, t: int, lr: float, beta: float, nu: float) -> None:
        """The formula in NumPy."""
        number = p.dtype.type
        keep = decay(p.dtype, beta)
        b[...] = keep * b + number(1 - float(keep)) * g
        p -= number(lr * (1 - nu)) * g + number(lr * nu) * b
