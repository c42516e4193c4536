"""ADOPT."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from ..optimizer.base import Optimizer
from ..options.checks import Decay, LearningRate, NonNegative
from ..reference_math import Array, decay, maximum


class ADOPT(Optimizer):
    r"""ADOPT: the gradient over the root of the mean square of those before it, and only then the running mean.

    .. math::
        \text{first step:} &\quad v = g^2 \\
        \text{then:} &\quad r = g / \max(\sqrt v, \epsilon), \qquad c = (t - 1)^{1/4} \\
        &\quad m = \beta_1 m + (1 - \beta_1) \min(\max(r, -c), c) \\
        &\quad p = p - \eta\, m \\
        &\quad v = \beta_2 v + (1 - \beta_2) g^2

    Converges with any :math:`\beta_2`, where Adam needs one that suits the problem; Adam's learning rate fits.  The
    first step moves nothing: it only starts :math:`v`.  (Decoupled weight decay, if any, acts in that step, too, which
    the authors' code leaves out.)

    Without `clipped` it is the algorithm as first published; an element whose first gradients are almost 0 then makes
    a huge step with its first ordinary one.

    Args:
        params: Arrays to update in place; see `Optimizer`.
        lr: Learning rate :math:`\eta`, at least 0, or a callable of the step.
        betas: :math:`\beta_1` and :math:`\beta_2`, how slowly the means forget, each in [0, 1).
        eps: :math:`\epsilon`, at least 0, what the root is at least.
        clipped: Bounds each :math:`r` by :math:`c`, which grows with the step.
        **shared: Weight decay, clipping, averages and the rest that every optimizer has; see `Optimizer`.

    Raises:
        ValueError: An option out of range.

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

    lr: LearningRate = 1e-3
    betas: tuple[Decay, Decay] = (0.9, 0.9999)
    eps: NonNegative = 1e-6
    clipped: bool = True

    @staticmethod
    def variant(**_: Any) -> str:
        """There is one."""
        return "adopt"

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
        number = p.dtype.type
        if t == 1:
            v[...] = g * g
            return
        beta1, beta2 = (decay(p.dtype, beta) for beta in betas)
        ratio = g / maximum(np.sqrt(v), number(eps))
        if clipped:
            bound = number(math.sqrt(math.sqrt(t - 1)))
            ratio = np.where(ratio < -bound, -bound, np.where(ratio > bound, bound, ratio))
        m[...] = beta1 * m + number(1 - float(beta1)) * ratio
        p -= number(lr) * m
        v[...] = beta2 * v + number(1 - float(beta2)) * (g * g)
