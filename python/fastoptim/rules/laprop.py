"""LaProp."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from ..optimizer.base import Optimizer
from ..options.checks import Decay, LearningRate, NonNegative
from ..reference_math import Array, decay, power


class LaProp(Optimizer):
    r"""LaProp: Adam that takes the running mean of gradients that are scaled already.

    .. math::
        v &= \beta_2 v + (1 - \beta_2) g^2, \qquad \hat v = v / (1 - \beta_2^t) \\
        m &= \beta_1 m + (1 - \beta_1)\, g / (\sqrt{\hat v} + \epsilon) \\
        p &= p - \eta\, m / (1 - \beta_1^t)

    Stable where Adam is not, with a small :math:`\beta_2` or a large :math:`\beta_1`: no step is larger than
    :math:`\eta / \sqrt{1 - \beta_2}`, whatever the gradients were.  Adam's settings are a good start.

    The authors' code takes the learning rate into the mean, :math:`(1 - \beta_1) \eta\, g / \dots`, which is the same
    while it is constant; here it stands outside, as in the paper, so that a change of it acts at once.

    Args:
        params: Arrays to update in place; see `Optimizer`.
        lr: Learning rate :math:`\eta`, at least 0, or a callable of the step.
        betas: :math:`\beta_1` and :math:`\beta_2`, how slowly the means forget, each in [0, 1).
        eps: :math:`\epsilon`, at least 0, added to the root.
        **shared: Weight decay, clipping, averages and the rest that every optimizer has; see `Optimizer`.

    Raises:
        ValueError: An option out of range.

    Source: Ziyin, Wang & Ueda, "LaProp: separating momentum and adaptivity in Adam", 2020, arXiv:2002.04839.

    >>> import numpy as np, fastoptim as fo
    >>> p = np.array([1.0, 1.0])
    >>> fo.LaProp(p, lr=0.1).step(np.array([100.0, -0.01]))
    >>> p.round(6)
    array([0.9, 1.1])
    """

    name = "laprop"
    variants = {"laprop": ("m", "v")}

    lr: LearningRate = 4e-4
    betas: tuple[Decay, Decay] = (0.9, 0.999)
    eps: NonNegative = 1e-15

    @staticmethod
    def variant(**_: Any) -> str:
        """There is one."""
        return "laprop"

    @staticmethod
    def reference(
        p: Array, g: Array, m: Array, v: Array, *, t: int, lr: float, betas: tuple[float, float], eps: float
    ) -> None:
        """The formula in NumPy."""
        number = p.dtype.type
        beta1, beta2 = (decay(p.dtype, beta) for beta in betas)
        bias1, bias2 = (1 - power(float(beta), t) for beta in (beta1, beta2))
        root = math.sqrt(bias2)
        v[...] = beta2 * v + number(1 - float(beta2)) * g * g
        m[...] = beta1 * m + number((1 - float(beta1)) * root) * g / (np.sqrt(v) + number(eps * root))
        p -= number(lr / bias1) * m
