"""Adan."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from ..optimizer.base import Optimizer
from ..options.checks import Decay, LearningRate, NonNegative
from ..options.fields import option
from ..reference_math import Array, decay, power


class Adan(Optimizer):
    r"""Adan: Adam with Nesterov's step, written with means of the gradient and of its change.

    .. math::
        d &= g - g_\text{prev} \qquad (0 \text{ in the first step}) \\
        m &= \beta_1 m + (1 - \beta_1) g, \qquad \hat m = m / (1 - \beta_1^t) \\
        v &= \beta_2 v + (1 - \beta_2) d, \qquad \hat v = v / (1 - \beta_2^t) \\
        n &= \beta_3 n + (1 - \beta_3) (g + \beta_2 d)^2, \qquad \hat n = n / (1 - \beta_3^t) \\
        p &= \Big(p - \eta\, \frac{\hat m + \beta_2 \hat v}{\sqrt{\hat n} + \epsilon}\Big) \Big/ (1 + \eta \lambda)

    For vision and language models alike; stands learning rates 5 to 10 times those of AdamW, with :math:`\lambda`,
    `weight_decay`, of about 0.02.

    The decay is the paper's own, after the step and by a quotient, which is what `decoupled` means here and the
    default; without `decoupled` ``weight_decay * p`` is added to the gradient.  :math:`\beta_i` is how much a mean
    keeps, as in the authors' code; the paper's is :math:`1 - \beta_i`.  (optax.adan has the code's defaults in the
    paper's places, so no convention is of its name.)  Also as in the code, the means start from 0 and are corrected for
    it, where the paper starts them from the first gradients.

    Args:
        params: Arrays to update in place; see `Optimizer`.
        lr: Learning rate :math:`\eta`, at least 0, or a callable of the step.
        betas: :math:`\beta_1`, :math:`\beta_2` and :math:`\beta_3`, how slowly the means of the gradient, of its change
            and of the square forget, each in [0, 1).
        eps: :math:`\epsilon`, at least 0, added to the root.
        decoupled: Whether weight decay is that of the formula; else it is added to the gradient.
        **shared: Weight decay, clipping, averages and the rest that every optimizer has; see `Optimizer`.

    Raises:
        ValueError: An option out of range.

    Source: Xie et al., "Adan: adaptive Nesterov momentum algorithm for faster optimizing deep models", 2022,
    arXiv:2208.06677.

    >>> import numpy as np, fastoptim as fo
    >>> p = np.array([1.0, 1.0])
    >>> fo.Adan(p, lr=0.1).step(np.array([100.0, -0.01]))
    >>> p.round(6)
    array([0.9, 1.1])
    """

    name = "adan"
    variants = {"adan": ("m", "v", "n", "g_prev")}
    decays_itself = True

    lr: LearningRate = 1e-3
    betas: tuple[Decay, Decay, Decay] = (0.98, 0.92, 0.99)
    eps: NonNegative = 1e-8
    decoupled: bool = option(default=True, kw_only=True)

    @staticmethod
    def variant(**_: Any) -> str:
        """There is one."""
        return "adan"

    @staticmethod
    def reference(
        p: Array,
        g: Array,
        m: Array,
        v: Array,
        n: Array,
        g_prev: Array,
        *,
        t: int,
        lr: float,
        betas: tuple[float, float, float],
        eps: float,
        weight_decay: float,
        decoupled: bool,
    ) -> None:
        """The formula in NumPy."""
        number = p.dtype.type
        beta1, beta2, beta3 = (decay(p.dtype, beta) for beta in betas)
        bias1, bias2, bias3 = (1 - power(float(beta), t) for beta in (beta1, beta2, beta3))
        if weight_decay and not decoupled:
            g = g + number(weight_decay) * p
        change = np.zeros_like(g) if t == 1 else g - g_prev
        ahead = g + beta2 * change
        m[...] = beta1 * m + number(1 - float(beta1)) * g
        v[...] = beta2 * v + number(1 - float(beta2)) * change
        n[...] = beta3 * n + number(1 - float(beta3)) * ahead * ahead
        g_prev[...] = g
        root = math.sqrt(bias3)
        rates = number(lr * root / bias1), number(lr * float(beta2) * root / bias2)
        p -= (rates[0] * m + rates[1] * v) / (np.sqrt(n) + number(eps * root))
        p *= number(1 / (1 + lr * weight_decay)) if decoupled else number(1)
