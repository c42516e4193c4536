"""StableAdamW."""

from __future__ import annotations

import math

import numpy as np

from ..optimizer.base import Optimizer
from ..options.checks import Decay, LearningRate, NonNegative
from ..options.fields import option
from ..options.schema import StateArray
from ..reference_math import Array, bias_correction_of, decay, maximum, shrink, total


class StableAdamW(Optimizer):
    r"""AdamW with a lower learning rate for an array whose gradients exceed their running root mean square.

    .. math::
        m &= \beta_1 m + (1 - \beta_1)\, g, \qquad v = \beta_2 v + (1 - \beta_2)\, g^2 \\
        r &= \sqrt{\operatorname{mean}(g^2 / \max(\hat v, \epsilon^2))}, \qquad \eta_t = \eta / \max(1, r) \\
        p &= (1 - \eta_t \lambda)\, p - \eta_t\, \hat m / (\sqrt{\hat v} + \epsilon)

    It replaces the clipping of gradients: after a loss spike, :math:`v` is too small for the gradient, and :math:`r`,
    the root mean square over the array, is large.  :math:`\hat m` and :math:`\hat v` are the bias-corrected averages.

    The mean is a sum in double with a fixed order, so the result does not depend on the number of threads.

    Args:
        params: Arrays to update in place; see `Optimizer`.
        lr: Learning rate :math:`\eta`, at least 0, or a callable of the step.  Default 1e-3.
        betas: :math:`\beta_1` and :math:`\beta_2`, decay rates of the moving averages, each in [0, 1).  Default (0.9,
            0.99).
        eps: :math:`\epsilon`, at least 0.  Default 1e-6.
        weight_decay: :math:`\lambda`, at least 0.  Default 0.01.
        decoupled: If False, weight decay is added to the gradient.  Default True.
        **shared: Weight decay, clipping, averages and the rest that every optimizer has; see `Optimizer`.

    Raises:
        ValueError: If an option is out of range.

    Source: Wortsman et al., "Stable and low-precision training for large-scale vision-language models", 2023,
    arXiv:2304.13013; defaults of the package optimi.

    >>> import numpy as np, fastoptim as fo
    >>> p = np.array([1.0])
    >>> opt = fo.StableAdamW(p, lr=0.1, betas=(0.0, 0.75), weight_decay=0.0)
    >>> opt.step(np.array([1.0]))
    >>> p.round(6)
    array([0.9])
    >>> opt.step(np.array([100.0]))
    >>> p.round(4)
    array([0.8])
    """

    name = "stable_adamw"
    variants = {"stable_adamw": ("m", "v")}
    state_schema = {"m": StateArray(compress="signed"), "v": StateArray(compress="non-negative")}
    decays_itself = True

    lr: LearningRate = 1e-3
    betas: tuple[Decay, Decay] = (0.9, 0.99)
    eps: NonNegative = 1e-6
    weight_decay: NonNegative = option(default=0.01, kw_only=True)
    decoupled: bool = option(default=True, kw_only=True)

    @staticmethod
    def reduce_terms(
        p: Array,
        g: Array,
        m: Array,
        v: Array,
        *,
        t: int,
        lr: float,
        betas: tuple[float, float],
        eps: float,
        weight_decay: float,
        decoupled: bool,
    ) -> tuple[float, ...]:
        """Update the averages; return the sum of g^2 / max(v, eps^2) and the number of elements."""
        number = p.dtype.type
        beta1, beta2 = (decay(p.dtype, beta) for beta in betas)
        least_v = number(eps * eps * bias_correction_of(float(beta2), t))
        if not decoupled and number(weight_decay):  # which may round to 0
            g = g + number(weight_decay) * p
        m[...] = beta1 * m + number(1 - float(beta1)) * g
        v[...] = beta2 * v + number(1 - float(beta2)) * g * g
        return total(g * g / maximum(v, np.full_like(v, least_v))), float(g.size)

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
        weight_decay: float,
        decoupled: bool,
        sums: tuple[float, float],
    ) -> None:
        """The formula in NumPy."""
        number = p.dtype.type
        beta1, beta2 = (float(decay(p.dtype, beta)) for beta in betas)
        bias_correction2 = bias_correction_of(beta2, t)
        ratio = math.sqrt(bias_correction2 * float(np.float64(sums[0]) / np.float64(sums[1])))
        rate = lr / ratio if ratio > 1 else lr
        step_size = number(rate * (math.sqrt(bias_correction2) / bias_correction_of(beta1, t)))
        step = step_size * m / (np.sqrt(v) + number(eps * math.sqrt(bias_correction2)))
        p[...] = (shrink(p, rate * weight_decay) if decoupled else p) - step
