"""The recipe's worked example."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from ..optimizer.base import Optimizer
from ..options.checks import Decay, LearningRate, NonNegative
from ..reference_math import Array, decay, minimum, power


class RecipeAdaMod(Optimizer):
    r"""AdaMod: Adam whose step sizes are bounded by their own running mean.

    .. math::
        m &= \beta_1 m + (1 - \beta_1) g, \qquad v = \beta_2 v + (1 - \beta_2) g^2 \\
        a &= \eta\, \frac{\sqrt{1 - \beta_2^t}}{1 - \beta_1^t} \Big/ (\sqrt v + \epsilon), \qquad
             s = \beta_3 s + (1 - \beta_3) a \\
        p &= p - \min(a, s)\, m

    Needs no warm-up, as s starts from 0 and rises slowly.  The corrections are those of the authors' code.

    Args:
        params: Arrays to update in place; see `Optimizer`.
        lr: Learning rate :math:`\eta`, at least 0, or a callable of the step.
        betas: :math:`\beta_1`, :math:`\beta_2` and :math:`\beta_3`, how slowly the means of the gradient, of its square
            and of the step size forget, each in [0, 1).
        eps: :math:`\epsilon`, at least 0, added to the root.
        **shared: Weight decay, clipping, averages and the rest that every optimizer has; see `Optimizer`.

    Raises:
        ValueError: An option out of range.

    Source: Ding, Ren, Luo & Sun, "An adaptive and momental bound method for stochastic learning", 2019,
    arXiv:1910.12249.

    >>> import numpy as np, fastoptim as fo
    >>> p = np.array([1.0, 1.0])
    >>> fo.RecipeAdaMod(p, lr=0.1, betas=(0.9, 0.999, 0.5)).step(np.array([100.0, -0.01]))
    >>> p.round(4)
    array([0.95, 1.05])
    """

    name = "recipe_adamod"
    variants = {"recipe_adamod": ("m", "v", "s")}

    lr: LearningRate = 1e-3
    betas: tuple[Decay, Decay, Decay] = (0.9, 0.999, 0.999)
    eps: NonNegative = 1e-8

    @staticmethod
    def variant(**_: Any) -> str:
        """There is one."""
        return "recipe_adamod"

    @staticmethod
    def reference(
        p: Array,
        g: Array,
        m: Array,
        v: Array,
        s: Array,
        *,
        t: int,
        lr: float,
        betas: tuple[float, float, float],
        eps: float,
    ) -> None:
        """The formula in NumPy."""
        number = p.dtype.type
        beta1, beta2, beta3 = (decay(p.dtype, beta) for beta in betas)
        bias1, bias2 = (1 - power(float(beta), t) for beta in (beta1, beta2))
        m[...] = beta1 * m + number(1 - float(beta1)) * g
        v[...] = beta2 * v + number(1 - float(beta2)) * g * g
        step = number(lr * math.sqrt(bias2) / bias1) / (np.sqrt(v) + number(eps))
        s[...] = beta3 * s + number(1 - float(beta3)) * step
        p -= minimum(step, s) * m
