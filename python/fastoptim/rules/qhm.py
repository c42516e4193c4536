"""QHM."""

from __future__ import annotations

from ..optimizer.base import Optimizer
from ..options.checks import Decay, Fraction, LearningRate
from ..options.schema import StateArray
from ..reference_math import Array, decay


class QHM(Optimizer):
    r"""Quasi-hyperbolic momentum: a weighted average of the gradient and of its moving average.

    .. math::
        b &= \beta b + (1 - \beta) g \\
        p &= p - \eta\, [(1 - \nu) g + \nu b]

    With :math:`\nu = 0` it is plain SGD, with :math:`\nu = 1` momentum in its ema form, and with :math:`\nu = \beta`
    Nesterov's step.  The defaults, :math:`\nu` 0.7 and :math:`\beta` 0.999, are the paper's recommendation.  As the
    average weights a gradient by :math:`1 - \beta`, use a learning rate for plain SGD, ``1 / (1 - momentum)`` times
    that of `SGD` with momentum.  Designed for noisy gradients; without noise, a smaller :math:`\beta` is faster.

    Args:
        params: Arrays to update in place; see `Optimizer`.
        lr: Learning rate :math:`\eta`, at least 0, or a callable of the step.  Default 0.1.
        beta: :math:`\beta`, decay rate of the moving average, in [0, 1).  Default 0.999.
        nu: :math:`\nu`, the weight of the moving average, in [0, 1]; the gradient has weight :math:`1 - \nu`.  Default
            0.7.
        **shared: Weight decay, clipping, averages and the rest that every optimizer has; see `Optimizer`.

    Raises:
        ValueError: If an option is out of range.

    Source: Ma & Yarats, 2019, arXiv:1810.06801.

    >>> import numpy as np, fastoptim as fo
    >>> p = np.array([1.0])
    >>> fo.QHM(p, lr=0.5, beta=0.5, nu=0.5).step(np.array([1.0]))
    >>> p
    array([0.625])
    """

    name = "qhm"
    variants = {"qhm": ("b",)}
    state_schema = {"b": StateArray(compress="signed")}

    lr: LearningRate = 0.1
    beta: Decay = 0.999
    nu: Fraction = 0.7

    @staticmethod
    def reference(p: Array, g: Array, b: Array, *, t: int, lr: float, beta: float, nu: float) -> None:
        """The formula in NumPy."""
        number = p.dtype.type
        beta = decay(p.dtype, beta)
        one_minus_beta = number(1 - float(beta))
        b[...] = beta * b + one_minus_beta * g
        p -= number(lr * (1 - nu)) * g + number(lr * nu) * b
