"""M-SVAG."""

from __future__ import annotations

from typing import Any

import numpy as np

from ..optimizer.base import Optimizer
from ..options.checks import Decay, LearningRate
from ..reference_math import Array, decay, maximum, power


class MSVAG(Optimizer):
    r"""M-SVAG: momentum, each element damped by the relative variance of its mean gradient.

    .. math::
        m &= \beta m + (1 - \beta) g, \qquad \hat m = m / (1 - \beta^t) \\
        v &= \beta v + (1 - \beta) g^2, \qquad \hat v = v / (1 - \beta^t) \\
        \rho &= \frac{(1 - \beta)(1 + \beta^t)}{(1 + \beta)(1 - \beta^t)}, \qquad
        s = \max(\hat v - \hat m^2, 0) / (1 - \rho) \\
        p &= p - \eta\, \frac{\hat m^2}{\hat m^2 + \rho s}\, \hat m

    What Adam does for the variance without what it does to the sign and size: steps as long as SGD's with momentum
    (so tune `lr` as for that, in the ema form), shorter where the gradients contradict each other.  The factor is from
    0 to 1; without a gradient it is 0, never NaN.  In the first step, where one gradient tells nothing of the variance
    and :math:`\rho` is 1, it is 1.

    pytorch_optimizer's MSVAG divides by :math:`\beta^t` in place of :math:`1 - \beta^t` and is no convention here;
    Chainer's bounds :math:`\rho` by 0.9999, which is the same but for rounding in the first step.

    Args:
        params: Arrays to update in place; see `Optimizer`.
        lr: Learning rate :math:`\eta`, at least 0, or a callable of the step.
        beta: :math:`\beta`, how slowly both means forget, in [0, 1).
        **shared: Weight decay, clipping, averages and the rest that every optimizer has; see `Optimizer`.

    Raises:
        ValueError: An option out of range.

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
    def variant(**_: Any) -> str:
        """There is one."""
        return "msvag"

    @staticmethod
    def reference(p: Array, g: Array, m: Array, v: Array, *, t: int, lr: float, beta: float) -> None:
        """The formula in NumPy, the fraction with both halves times the square of ``1 - beta^t``."""
        number = p.dtype.type
        keep = decay(p.dtype, beta)
        b = float(keep)
        rest = power(b, t)
        noise = (1 - b) * (1 + rest) / (2 * (b - rest)) if b > rest else 0.0  # rho / (1 - rho)
        fresh = number(1 - b)
        m[...] = keep * m + fresh * g
        v[...] = keep * v + fresh * g * g
        square = m * m
        whole = square + number(noise) * maximum(number(1 - rest) * v - square, number(0))
        p -= number(lr / (1 - rest)) * m * (square / np.where(whole == 0, number(1), whole))
