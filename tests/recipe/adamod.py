"""AdaMod, the example of CONTRIBUTING's recipe."""

from __future__ import annotations

import math

import numpy as np

from ..optimizer.base import Optimizer
from ..options.checks import Decay, LearningRate, NonNegative
from ..reference_math import Array, bias_correction_of, decay, minimum


class RecipeAdaMod(Optimizer):
    r"""AdaMod: Adam whose step sizes are bounded by their own moving average.

    .. math::
        m &= \beta_1 m + (1 - \beta_1) g, \qquad v = \beta_2 v + (1 - \beta_2) g^2 \\
        a &= \eta\, \frac{\sqrt{1 - \beta_2^t}}{1 - \beta_1^t} \Big/ (\sqrt v + \epsilon), \qquad
             s = \beta_3 s + (1 - \beta_3) a \\
        p &= p - \min(a, s)\, m

    Needs no warm-up, as s starts from 0 and grows slowly.  The bias corrections are those of the authors' code.

    Args:
        params: Arrays to update in place; see `Optimizer`.
        lr: Learning rate :math:`\eta`, at least 0, or a callable of the step.  Default 1e-3.
        betas: :math:`\beta_1`, :math:`\beta_2` and :math:`\beta_3`, decay rates of the moving averages of the gradient,
            of its square and of the step size, each in [0, 1).  Default (0.9, 0.999, 0.999).
        eps: :math:`\epsilon`, at least 0, added to the denominator for numerical stability.  Default 1e-8.
        **shared: Weight decay, clipping, averages and the rest that every optimizer has; see `Optimizer`.

    Raises:
        ValueError: If an option is out of range.

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
        one_minus_beta1, one_minus_beta2, one_minus_beta3 = (number(1 - float(beta)) for beta in (beta1, beta2, beta3))
        bias_correction1, bias_correction2 = (bias_correction_of(float(beta), t) for beta in (beta1, beta2))
        m[...] = beta1 * m + one_minus_beta1 * g
        v[...] = beta2 * v + one_minus_beta2 * g * g
        size = number(lr * math.sqrt(bias_correction2) / bias_correction1) / (np.sqrt(v) + number(eps))
        s[...] = beta3 * s + one_minus_beta3 * size
        p -= minimum(size, s) * m
