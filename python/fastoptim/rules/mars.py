"""MARS-AdamW."""

from __future__ import annotations

import math

import numpy as np

from ..optimizer.base import Optimizer
from ..options.checks import Decay, LearningRate, NonNegative
from ..options.fields import option
from ..options.schema import StateArray
from ..reference_math import Array, bias_correction_of, decay, square, total


class MARS(Optimizer):
    r"""MARS-AdamW: AdamW with the gradient corrected by its change since the step before, to reduce its variance.

    .. math::
        c &= g + \gamma \frac{\beta_1}{1 - \beta_1} (g - g_\text{last}), \qquad c = c / \max(1, \lVert c \rVert) \\
        m &= \beta_1 m + (1 - \beta_1)\, c, \qquad v = \beta_2 v + (1 - \beta_2)\, c^2 \\
        p &= (1 - \eta \lambda)\, p - \eta\, \hat m / (\sqrt{\hat v} + \epsilon)

    This is the approximate form, in which :math:`g_\text{last}` is the gradient of the step before, at its own
    parameters and batch.  The norm is that of each array; it is a sum in double with a fixed order.  The authors use
    plain AdamW for arrays of one dimension: give these a group of their own in `Mixed`.

    Args:
        params: Arrays to update in place; see `Optimizer`.
        lr: Learning rate :math:`\eta`, at least 0, or a callable of the step.  Default 3e-3.
        betas: :math:`\beta_1` and :math:`\beta_2`, decay rates of the moving averages, each in [0, 1).  Default (0.95,
            0.99).
        eps: Added to the denominator for numerical stability, at least 0.  Default 1e-8.
        gamma: :math:`\gamma`, the weight of the correction, at least 0.  Default 0.025.
        corrects_first: Correct the first gradient as well, with 0 as the one before, as the authors' code does.
            Default False.
        decoupled: If False, `weight_decay`, :math:`\lambda`, is added to the gradient instead.  Default True.
        **shared: Weight decay, clipping, averages and the rest that every optimizer has; see `Optimizer`.

    Raises:
        ValueError: If an option is out of range.

    Source: Yuan, Liu, Wu, Zhou & Gu, "MARS: Unleashing the Power of Variance Reduction for Training Large Models",
    2024, arXiv:2411.10438.

    >>> import numpy as np, fastoptim as fo
    >>> p = np.array([1.0])
    >>> opt = fo.MARS(p, lr=0.1, betas=(0.5, 0.5), gamma=1.0)
    >>> for g in (0.5, 0.25):
    ...     opt.step(np.array([g]))
    >>> p.round(4)
    array([0.8423])
    """

    name = "mars"
    variants = {"mars": ("m", "v", "g_last")}
    state_schema = {"m": StateArray(compress="signed"), "v": StateArray(compress="non-negative")}

    lr: LearningRate = 3e-3
    betas: tuple[Decay, Decay] = (0.95, 0.99)
    eps: NonNegative = 1e-8
    gamma: NonNegative = 0.025
    corrects_first: bool = False
    decoupled: bool = option(default=True, kw_only=True)

    @staticmethod
    def reduce_terms(
        p: Array,
        g: Array,
        m: Array,
        v: Array,
        g_last: Array,
        *,
        t: int,
        lr: float,
        betas: tuple[float, float],
        eps: float,
        gamma: float,
        corrects_first: bool,
    ) -> tuple[float, ...]:
        """Return the squared norm of the corrected gradient."""
        return (total(square(_corrected(g, g_last, t, betas[0], gamma, corrects_first))),)

    @staticmethod
    def reference(
        p: Array,
        g: Array,
        m: Array,
        v: Array,
        g_last: Array,
        *,
        t: int,
        lr: float,
        betas: tuple[float, float],
        eps: float,
        gamma: float,
        corrects_first: bool,
        sums: tuple[float],
    ) -> None:
        """The formula in NumPy."""
        number = p.dtype.type
        beta1, beta2 = (decay(p.dtype, beta) for beta in betas)
        bias_correction1, bias_correction2 = (bias_correction_of(float(beta), t) for beta in (beta1, beta2))
        norm = math.sqrt(sums[0])
        c = number(1 / norm if norm > 1 else 1) * _corrected(g, g_last, t, betas[0], gamma, corrects_first)
        m[...] = beta1 * m + number(1 - float(beta1)) * c
        v[...] = beta2 * v + number(1 - float(beta2)) * c * c
        g_last[...] = g
        step_size = number(lr * math.sqrt(bias_correction2) / bias_correction1)
        p -= step_size * m / (np.sqrt(v) + number(eps * math.sqrt(bias_correction2)))


def _corrected(g: Array, g_last: Array, t: int, beta1: float, gamma: float, corrects_first: bool) -> Array:
    correction = 0.0 if t == 1 and not corrects_first else gamma * beta1 / (1 - beta1)
    corrected: Array = g + g.dtype.type(correction) * (g - g_last)
    return corrected
