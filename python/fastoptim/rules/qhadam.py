"""QHAdam."""

from __future__ import annotations

import numpy as np

from ..optimizer.base import Optimizer
from ..options.checks import Decay, Fraction, LearningRate, NonNegative
from ..options.schema import StateArray
from ..reference_math import Array, bias_correction_of, decay


class QHAdam(Optimizer):
    r"""Quasi-hyperbolic Adam: weighted averages of the gradient, and of its square, with their moving averages.

    .. math::
        m &= \beta_1 m + (1 - \beta_1) g, \qquad \hat m = m / (1 - \beta_1^t) \\
        v &= \beta_2 v + (1 - \beta_2) g^2, \qquad \hat v = v / (1 - \beta_2^t) \\
        p &= p - \eta\, \frac{(1 - \nu_1) g + \nu_1 \hat m}{\sqrt{(1 - \nu_2) g^2 + \nu_2 \hat v} + \epsilon}

    With both :math:`\nu` equal to 1 it is Adam, with :math:`\nu_1 = \beta_1` almost NAdam.  The defaults are the
    authors' general recommendation.  For unstable training they recommend :math:`\nu_2` slightly below 1, which limits
    the step.

    Args:
        params: Arrays to update in place; see `Optimizer`.
        lr: Learning rate :math:`\eta`, at least 0, or a callable of the step.  Default 1e-3.
        nus: :math:`\nu_1` and :math:`\nu_2`, the weights of the two moving averages, each in [0, 1].  Default (0.7,
            1.0).
        betas: :math:`\beta_1` and :math:`\beta_2`, decay rates of the moving averages, each in [0, 1).  Default (0.995,
            0.999).
        eps: :math:`\epsilon`, at least 0, added to the denominator for numerical stability.  Default 1e-8.
        **shared: Weight decay, clipping, averages and the rest that every optimizer has; see `Optimizer`.

    Raises:
        ValueError: If an option is out of range.

    Source: Ma & Yarats, 2019, arXiv:1810.06801.

    >>> import numpy as np, fastoptim as fo
    >>> p = np.array([1.0, 1.0])
    >>> fo.QHAdam(p, lr=0.1).step(np.array([100.0, -0.01]))
    >>> p.round(6)
    array([0.9, 1.1])
    """

    name = "qhadam"
    variants = {"qhadam": ("m", "v")}
    state_schema = {"m": StateArray(compress="signed"), "v": StateArray(compress="non-negative")}

    lr: LearningRate = 1e-3
    nus: tuple[Fraction, Fraction] = (0.7, 1.0)
    betas: tuple[Decay, Decay] = (0.995, 0.999)
    eps: NonNegative = 1e-8

    @staticmethod
    def reference(
        p: Array,
        g: Array,
        m: Array,
        v: Array,
        *,
        t: int,
        lr: float,
        nus: tuple[float, float],
        betas: tuple[float, float],
        eps: float,
    ) -> None:
        """The formula in NumPy."""
        number = p.dtype.type
        beta1, beta2 = (decay(p.dtype, beta) for beta in betas)
        one_minus_beta1, one_minus_beta2 = number(1 - float(beta1)), number(1 - float(beta2))
        bias_correction1, bias_correction2 = (bias_correction_of(float(beta), t) for beta in (beta1, beta2))
        nu1, nu2 = nus
        g_weight, m_weight = number(lr * (1 - nu1)), number(lr * nu1 / bias_correction1)
        g_square_weight, v_weight = number(1 - nu2), number(nu2 / bias_correction2)
        m[...] = beta1 * m + one_minus_beta1 * g
        v[...] = beta2 * v + one_minus_beta2 * g * g
        square = g_square_weight * g * g + v_weight * v
        p -= (g_weight * g + m_weight * m) / (np.sqrt(square) + number(eps))
