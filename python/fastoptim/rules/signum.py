"""Signum."""

from __future__ import annotations

from typing import Any

from ..optimizer.base import Optimizer
from ..options.checks import Decay, LearningRate
from ..reference_math import Array, decay, sign


class Signum(Optimizer):
    r"""Signum: steps of one size, by the sign of a running mean of the gradient.

    .. math::
        m &= \beta m + (1 - \beta) g \\
        p &= p - \eta \operatorname{sign}(m)

    `SignSGD` with momentum, and less disturbed by noise.  Momentum as a sum, :math:`m = \beta m + g`, is the same
    optimizer: that m is :math:`1 / (1 - \beta)` times this one, and has its sign.  It never settles closer than
    :math:`\eta`: let the learning rate fall.  An element whose mean is exactly 0 stays.

    Args:
        params: Arrays to update in place; see `Optimizer`.
        lr: Learning rate :math:`\eta`, the size of each step, at least 0, or a callable of the step.
        beta: :math:`\beta`, how slowly the mean forgets, in [0, 1).
        **shared: Weight decay, clipping, averages and the rest that every optimizer has; see `Optimizer`.

    Raises:
        ValueError: An option out of range.

    Source: Bernstein et al., "signSGD: compressed optimisation for non-convex problems", ICML 2018, arXiv:1802.04434.

    >>> import numpy as np, fastoptim as fo
    >>> p = np.array([1.0, 1.0])
    >>> opt = fo.Signum(p, lr=0.25)
    >>> opt.step(np.array([100.0, -0.01]))
    >>> opt.step(np.array([-1.0, 1.0]))
    >>> p
    array([0.5, 1. ])
    """

    name = "signum"
    variants = {"signum": ("m",)}

    lr: LearningRate = 1e-3
    beta: Decay = 0.9

    @staticmethod
    def variant(**_: Any) -> str:
        """There is one."""
        return "signum"

    @staticmethod
    def reference(p: Array, g: Array, m: Array, *, t: int, lr: float, beta: float) -> None:
        """The formula in NumPy."""
        number = p.dtype.type
        keep = decay(p.dtype, beta)
        m[...] = keep * m + number(1 - float(keep)) * g
        p -= number(lr) * sign(m)
