"""M-SVAG."""

from __future__ import annotations

import numpy as np

from ..optimizer.base import Optimizer
from ..options.checks import Decay, LearningRate
from ..reference_math import Array, bias_correction_of, decay, maximum


class MSVAG(Optimizer):
    r"""M-SVAG: momentum, with each element scaled down by the relative variance of its average gradient.

    .. math::
        m &= \beta m + (1 - \beta) g, \qquad \hat m = m / (1 - \beta^t) \\
        v &= \beta v + (1 - \beta) g^2, \qquad \hat v = v / (1 - \beta^t) \\
        \rho &= \frac{(1 - \beta)(1 + \beta^t)}{(1 + \beta)(1 - \beta^t)}, \qquad
        s = \max(\hat v - \hat m^2, 0) / (1 - \rho) \\
        p &= p - \eta\, \frac{\hat m^2}{\hat m^2 + \rho s}\, \hat m

    Adapts to the variance of the gradient like Adam, without Adam's change of sign and magnitude.  Steps are as long as
    those of SGD with momentum (so tune `lr` as in its ema form), and shorter where the gradients disagree.  The factor
    is between 0 and 1.  For zero gradients it is 0, never NaN.  In the first step :math:`\rho` is 1, a single gradient
    has no variance, and the factor is 1.

    Chainer's MSVAG limits :math:`\rho` to 0.9999, which is the same up to rounding in the first step.

    Args:
        params: Arrays to update in place; see `Optimizer`.
        lr: Learning rate :math:`\eta`, at least 0, or a callable of the step.  Default 0.1.
        beta: :math:`\beta`, decay rate of both moving averages, in [0, 1).  Default 0.9.
        **shared: Weight decay, clipping, averages and the rest that every optimizer has; see `Optimizer`.

    Raises:
        ValueError: If an option is out of range.

    Source: Balles & Hennig, "Dissecting Adam: The Sign, Magnitude and Variance of Stochastic Gradients", 2018,
    arXiv:1705.07774.

    >>> import numpy as np, fastoptim as fo
    >>> p = np.array([1.0, 1.0])
    >>> fo.MSVAG(p, lr=0.1).step(np.array([2.0, 0.0]))
    >>> p.round(6)
    array([0.8, 1. ])
    """

    name = "msvag"
    variants = {"msvag": ("m", "v")}

    lr: LearningRate = 0.1
    beta: Decay = 0.9

    @staticmethod
    def reference(p: Array, g: Array, m: Array, v: Array, *, t: int, lr: float, beta: float) -> None:
        """The formula in NumPy, with numerator and denominator multiplied by the square of ``1 - beta^t``."""
        number = p.dtype.type
        beta = decay(p.dtype, beta)
        rounded, one_minus_beta = float(beta), number(1 - float(beta))
        bias_correction, variance_weight = bias_correction_of(rounded, t), 0.0
        difference = rounded * bias_correction_of(rounded, t - 1)  # beta - beta^t
        if difference > 0:  # rho / (1 - rho)
            variance_weight = (1 - rounded) * (2 - bias_correction) / (2 * difference)
        m[...] = beta * m + one_minus_beta * g
        v[...] = beta * v + one_minus_beta * g * g
        square = m * m
        denominator = square + number(variance_weight) * maximum(number(bias_correction) * v - square, number(0))
        p -= number(lr / bias_correction) * m * (square / np.where(denominator == 0, number(1), denominator))
