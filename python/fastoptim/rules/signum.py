"""Signum."""

from __future__ import annotations

from ..optimizer.base import Optimizer
from ..options.checks import Decay, LearningRate
from ..options.schema import StateArray
from ..reference_math import Array, decay, sign


class Signum(Optimizer):
    r"""Signum: steps along the sign of a moving average of the gradient.

    .. math::
        m &= \beta m + (1 - \beta) g \\
        p &= p - \eta \operatorname{sign}(m)

    `SignSGD` with momentum, less sensitive to noise.  Momentum as a sum, :math:`m = \beta m + g`, gives the same
    optimizer: that :math:`m` is :math:`1 / (1 - \beta)` times this one and has the same sign.  It does not converge
    closer than :math:`\eta`: use a decreasing learning rate.  An element whose average is exactly 0 does not move.

    Args:
        params: Arrays to update in place; see `Optimizer`.
        lr: Learning rate :math:`\eta`, the size of each step, at least 0, or a callable of the step.  Default 1e-3.
        beta: :math:`\beta`, decay rate of the moving average, in [0, 1).  Default 0.9.
        **shared: Weight decay, clipping, averages and the rest that every optimizer has; see `Optimizer`.

    Raises:
        ValueError: If an option is out of range.

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
    state_schema = {"m": StateArray(compress="signed")}

    lr: LearningRate = 1e-3
    beta: Decay = 0.9

    @staticmethod
    def reference(p: Array, g: Array, m: Array, *, t: int, lr: float, beta: float) -> None:
        """The formula in NumPy."""
        number = p.dtype.type
        beta = decay(p.dtype, beta)
        m[...] = beta * m + number(1 - float(beta)) * g
        p -= number(lr) * sign(m)
