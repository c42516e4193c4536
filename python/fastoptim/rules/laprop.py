"""LaProp."""

from __future__ import annotations

import math

import numpy as np

from ..optimizer.base import Optimizer
from ..options.checks import Decay, LearningRate, NonNegative
from ..options.schema import StateArray
from ..reference_math import Array, bias_correction_of, decay


class LaProp(Optimizer):
    r"""LaProp: Adam that averages gradients which are already normalized by their root mean square.

    .. math::
        v &= \beta_2 v + (1 - \beta_2) g^2, \qquad \hat v = v / (1 - \beta_2^t) \\
        m &= \beta_1 m + (1 - \beta_1)\, g / (\sqrt{\hat v} + \epsilon) \\
        p &= p - \eta\, m / (1 - \beta_1^t)

    Stable with a small :math:`\beta_2` or a large :math:`\beta_1`, where Adam is not: no step is larger than
    :math:`\eta / \sqrt{1 - \beta_2}`, for any gradients.  Adam's settings are a good start.

    The authors' code multiplies the averaged gradients by the learning rate, :math:`(1 - \beta_1) \eta\, g / \dots`,
    which is the same while it is constant.  As in the paper, the average is multiplied here, so a change of the
    learning rate takes effect at once.

    Args:
        params: Arrays to update in place; see `Optimizer`.
        lr: Learning rate :math:`\eta`, at least 0, or a callable of the step.  Default 4e-4.
        betas: :math:`\beta_1` and :math:`\beta_2`, decay rates of the moving averages, each in [0, 1).  Default (0.9,
            0.999).
        eps: :math:`\epsilon`, at least 0, added to the denominator for numerical stability.  Default 1e-15.
        **shared: Weight decay, clipping, averages and the rest that every optimizer has; see `Optimizer`.

    Raises:
        ValueError: If an option is out of range.

    Source: Ziyin, Wang & Ueda, "LaProp: separating momentum and adaptivity in Adam", 2020, arXiv:2002.04839.

    >>> import numpy as np, fastoptim as fo
    >>> p = np.array([1.0, 1.0])
    >>> fo.LaProp(p, lr=0.1).step(np.array([100.0, -0.01]))
    >>> p.round(6)
    array([0.9, 1.1])
    """

    name = "laprop"
    variants = {"laprop": ("m", "v")}
    state_schema = {"m": StateArray(compress="signed"), "v": StateArray(compress="non-negative")}

    lr: LearningRate = 4e-4
    betas: tuple[Decay, Decay] = (0.9, 0.999)
    eps: NonNegative = 1e-15

    @staticmethod
    def reference(
        p: Array, g: Array, m: Array, v: Array, *, t: int, lr: float, betas: tuple[float, float], eps: float
    ) -> None:
        """The formula in NumPy."""
        number = p.dtype.type
        beta1, beta2 = (decay(p.dtype, beta) for beta in betas)
        one_minus_beta2 = number(1 - float(beta2))
        bias_correction1, bias_correction2 = (bias_correction_of(float(beta), t) for beta in (beta1, beta2))
        root = math.sqrt(bias_correction2)
        g_scale = number((1 - float(beta1)) * root)
        v[...] = beta2 * v + one_minus_beta2 * g * g
        m[...] = beta1 * m + g_scale * g / (np.sqrt(v) + number(eps * root))
        p -= number(lr / bias_correction1) * m
