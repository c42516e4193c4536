"""Adan."""

from __future__ import annotations

import math

import numpy as np

from ..optimizer.base import Optimizer
from ..options.checks import Decay, LearningRate, NonNegative
from ..options.fields import option
from ..options.schema import StateArray
from ..reference_math import Array, bias_correction_of, decay, shrink


class Adan(Optimizer):
    r"""Adan: Adam with Nesterov momentum, written with moving averages of the gradient and of its difference.

    .. math::
        d &= g - g_\text{prev} \qquad (0 \text{ in the first step}) \\
        m &= \beta_1 m + (1 - \beta_1) g, \qquad \hat m = m / (1 - \beta_1^t) \\
        v &= \beta_2 v + (1 - \beta_2) d, \qquad \hat v = v / (1 - \beta_2^t) \\
        n &= \beta_3 n + (1 - \beta_3) (g + \beta_2 d)^2, \qquad \hat n = n / (1 - \beta_3^t) \\
        p &= \Big(p - \eta\, \frac{\hat m + \beta_2 \hat v}{\sqrt{\hat n} + \epsilon}\Big) \Big/ (1 + \eta \lambda)

    For vision and language models.  Tolerates learning rates 5 to 10 times those of AdamW, with :math:`\lambda`,
    `weight_decay`, of about 0.02.

    The weight decay is the paper's: after the step, and by a quotient.  That is the meaning of `decoupled` here, and
    the default.  Without `decoupled`, ``weight_decay * p`` is added to the gradient.  :math:`\beta_i` is a decay rate,
    as in the authors' code; the paper's is :math:`1 - \beta_i`.  (optax.adan uses the code's defaults with the paper's
    definition, so there is no convention of that name.)  As in the code, the moving averages start from 0 and are bias
    corrected; the paper starts them from the first gradients.

    Args:
        params: Arrays to update in place; see `Optimizer`.
        lr: Learning rate :math:`\eta`, at least 0, or a callable of the step.  Default 1e-3.
        betas: :math:`\beta_1`, :math:`\beta_2` and :math:`\beta_3`, decay rates of the moving averages of the gradient,
            of its difference and of the square, each in [0, 1).  Default (0.98, 0.92, 0.99).
        eps: :math:`\epsilon`, at least 0, added to the denominator for numerical stability.  Default 1e-8.
        decoupled: Use the weight decay of the formula; if False, it is added to the gradient.  Default True.
        **shared: Weight decay, clipping, averages and the rest that every optimizer has; see `Optimizer`.

    Raises:
        ValueError: If an option is out of range.

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
    state_schema = {
        "m": StateArray(compress="signed"),
        "v": StateArray(compress="signed"),
        "n": StateArray(compress="non-negative"),
    }
    decays_itself = True

    lr: LearningRate = 1e-3
    betas: tuple[Decay, Decay, Decay] = (0.98, 0.92, 0.99)
    eps: NonNegative = 1e-8
    decoupled: bool = option(default=True, kw_only=True)

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
        one_minus_beta1, one_minus_beta2, one_minus_beta3 = (number(1 - float(beta)) for beta in (beta1, beta2, beta3))
        corrections = [bias_correction_of(float(beta), t) for beta in (beta1, beta2, beta3)]
        root = math.sqrt(corrections[2])
        m_step_size = number(lr * root / corrections[0])
        v_step_size = number(lr * float(beta2) * root / corrections[1])
        if weight_decay and not decoupled:
            g = g + number(weight_decay) * p
        difference = np.zeros_like(g) if t == 1 else g - g_prev
        extrapolated = g + beta2 * difference
        m[...] = beta1 * m + one_minus_beta1 * g
        v[...] = beta2 * v + one_minus_beta2 * difference
        n[...] = beta3 * n + one_minus_beta3 * extrapolated * extrapolated
        g_prev[...] = g
        p -= (m_step_size * m + v_step_size * v) / (np.sqrt(n) + number(eps * root))
        if decoupled:
            p[...] = shrink(p, lr * weight_decay / (1 + lr * weight_decay))
