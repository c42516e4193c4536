"""ADOPT."""

from __future__ import annotations

import math

import numpy as np

from ..optimizer.base import Optimizer
from ..options.checks import Decay, LearningRate, NonNegative
from ..options.schema import StateArray
from ..reference_math import Array, decay, maximum


class ADOPT(Optimizer):
    r"""ADOPT: the gradient over the root mean square of the previous gradients, then the moving average.

    .. math::
        \text{first step:} &\quad v = g^2 \\
        \text{then:} &\quad r = g / \max(\sqrt v, \epsilon), \qquad c = (t - 1)^{1/4} \\
        &\quad m = \beta_1 m + (1 - \beta_1) \min(\max(r, -c), c) \\
        &\quad p = p - \eta\, m \\
        &\quad v = \beta_2 v + (1 - \beta_2) g^2

    Converges for any :math:`\beta_2`, where Adam needs one that suits the problem; Adam's learning rate fits.  The
    first step changes no parameter and only initializes :math:`v`.  (Decoupled weight decay, if any, applies in that
    step too; the authors' code omits it.)

    Without `clipped` this is the algorithm as first published.  An element whose first gradients are almost 0 then
    takes a huge step with its first ordinary gradient.

    Args:
        params: Arrays to update in place; see `Optimizer`.
        lr: Learning rate :math:`\eta`, at least 0, or a callable of the step.  Default 1e-3.
        betas: :math:`\beta_1` and :math:`\beta_2`, decay rates of the moving averages, each in [0, 1).  Default (0.9,
            0.9999).
        eps: :math:`\epsilon`, at least 0, the lower bound of the denominator.  Default 1e-6.
        clipped: Clamp :math:`r` to :math:`\pm c`, which grows with the step.  Default True.
        **shared: Weight decay, clipping, averages and the rest that every optimizer has; see `Optimizer`.

    Raises:
        ValueError: If an option is out of range.

    Source: Taniguchi et al., "ADOPT: modified Adam can converge with any beta2 with the optimal rate", NeurIPS 2024,
    arXiv:2411.02853.

    >>> import numpy as np, fastoptim as fo
    >>> p = np.array([1.0, 1.0])
    >>> opt = fo.ADOPT(p, lr=0.5)
    >>> opt.step(np.array([2.0, -4.0]))
    >>> opt.step(np.array([1.0, -8.0]))
    >>> p
    array([0.975, 1.05 ])
    """

    name = "adopt"
    variants = {"adopt": ("m", "v")}
    state_schema = {"m": StateArray(compress="signed"), "v": StateArray(compress="non-negative")}

    lr: LearningRate = 1e-3
    betas: tuple[Decay, Decay] = (0.9, 0.9999)
    eps: NonNegative = 1e-6
    clipped: bool = True

    @staticmethod
    def reference(
        p: Array,
        g: Array,
        m: Array,
        v: Array,
        *,
        t: int,
        lr: float,
        betas: tuple[float, float],
        eps: float,
        clipped: bool,
    ) -> None:
        """The formula in NumPy."""
        if t == 1:
            v[...] = g * g
            return
        number = p.dtype.type
        beta1, beta2 = (decay(p.dtype, beta) for beta in betas)
        one_minus_beta1, one_minus_beta2 = number(1 - float(beta1)), number(1 - float(beta2))
        ratio = g / maximum(np.sqrt(v), number(eps))
        if clipped:
            bound = number(math.sqrt(math.sqrt(t - 1)))
            ratio = np.where(ratio < -bound, -bound, np.where(ratio > bound, bound, ratio))
        m[...] = beta1 * m + one_minus_beta1 * ratio
        p -= number(lr) * m
        v[...] = beta2 * v + one_minus_beta2 * (g * g)
