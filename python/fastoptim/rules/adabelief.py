"""AdaBelief."""

from __future__ import annotations

import math
from typing import Any, Literal

import numpy as np

from ..optimizer.base import Optimizer
from ..options.checks import Decay, LearningRate, NonNegative
from ..options.fields import argument
from ..options.schema import StateArray
from ..reference_math import Array, bias_correction_of, decay, maximum


class AdaBelief(Optimizer):
    r"""AdaBelief: Adam that divides by the deviation of the gradient from its moving average, not by its magnitude.

    .. math::
        m &= \beta_1 m + (1 - \beta_1) g, \qquad \hat m = m / (1 - \beta_1^t) \\
        s &= \beta_2 s + (1 - \beta_2) (g - m)^2 + \epsilon_\text{root}, \qquad \hat s = s / (1 - \beta_2^t) \\
        p &= p - \eta\, \hat m / (\sqrt{\hat s} + \epsilon)

    Steps are larger than Adam's where successive gradients agree, and smaller where they disagree.  Adam's learning
    rate is a good start.  With noisy gradients that nearly vanish, a larger `eps_root` (1e-12 to 1e-8) limits the
    steps.

    With `previous_mean` the deviation is taken from the moving average before the step, :math:`g - m_{t-1}`, which is
    :math:`1 / \beta_1` times the other.  Both are computed from this difference, as a multiple of it, to avoid
    cancellation.  The bias corrections are folded into per-step constants, so an element costs one division and one
    square root.

    Args:
        params: Arrays to update in place; see `Optimizer`.
        lr: Learning rate :math:`\eta`, at least 0, or a callable of the step.  Default 1e-3.
        betas: :math:`\beta_1` and :math:`\beta_2`, decay rates of the moving averages, each in [0, 1).  Default (0.9,
            0.999).
        eps: :math:`\epsilon`, at least 0, added to the denominator for numerical stability.  Default 1e-16.
        eps_root: :math:`\epsilon_\text{root}`, at least 0, added to :math:`s` in each step.  Default 1e-16.
        previous_mean: Use the deviation from the moving average before this step instead of the one after it, as optax
            did before version 0.2.4.  Default False.
        amsgrad: Use the maximum of :math:`s` over the steps so far in its place, as AMSGrad does.  Default False.
        convention: "paper" or "optax", which agree.  Default "paper".
        **shared: Weight decay, clipping, averages and the rest that every optimizer has; see `Optimizer`.

    Raises:
        ValueError: If an option is out of range.

    Source: Zhuang et al., "AdaBelief optimizer: adapting stepsizes by the belief in observed gradients", NeurIPS 2020,
    arXiv:2010.07468.

    >>> import numpy as np, fastoptim as fo
    >>> p = np.array([1.0, 1.0, 1.0])
    >>> fo.AdaBelief(p, lr=0.09).step(np.array([100.0, -0.01, 0.0]))
    >>> p.round(6)
    array([0.9, 1.1, 1. ])
    """

    name = "adabelief"
    variants = {"adabelief": ("m", "s"), "adabelief_amsgrad": ("m", "s", "s_max")}
    state_schema = {"m": StateArray(compress="signed"), "s": StateArray(compress="non-negative")}
    conventions = {"paper": {}, "optax": {}}

    lr: LearningRate = 1e-3
    betas: tuple[Decay, Decay] = (0.9, 0.999)
    eps: NonNegative = 1e-16
    eps_root: NonNegative = 1e-16
    previous_mean: bool = False
    amsgrad: bool = False
    convention: Literal["paper", "optax"] = argument(default="paper", kw_only=True)

    @staticmethod
    def variant(*, amsgrad: bool, **_: Any) -> str:
        """Return the rule with the maximum, which has one more state array, or without it."""
        return "adabelief_amsgrad" if amsgrad else "adabelief"

    @staticmethod
    def reference(
        p: Array,
        g: Array,
        m: Array,
        s: Array,
        s_max: Array | None = None,
        *,
        t: int,
        lr: float,
        betas: tuple[float, float],
        eps: float,
        eps_root: float,
        amsgrad: bool,
        previous_mean: bool,
    ) -> None:
        """The formula in NumPy."""
        number = p.dtype.type
        beta1, beta2 = (decay(p.dtype, beta) for beta in betas)
        one_minus_beta1, one_minus_beta2 = number(1 - float(beta1)), number(1 - float(beta2))
        bias_correction1, bias_correction2 = (bias_correction_of(float(beta), t) for beta in (beta1, beta2))
        step_size = number(lr * math.sqrt(bias_correction2) / bias_correction1)
        deviation = (number(1) if previous_mean else beta1) * (g - m)
        m[...] = beta1 * m + one_minus_beta1 * g
        s[...] = beta2 * s + one_minus_beta2 * deviation * deviation + number(eps_root)
        if s_max is not None:
            s_max[...] = maximum(s_max, s)
            s = s_max
        p -= step_size * m / (np.sqrt(s) + number(eps * math.sqrt(bias_correction2)))
