"""AdEMAMix."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from ..optimizer.base import Optimizer
from ..options.checks import Count, Decay, LearningRate, NonNegative
from ..options.fields import option
from ..options.schema import StateArray
from ..reference_math import Array, bias_correction_of, decay


class AdEMAMix(Optimizer):
    r"""AdEMAMix: Adam with a second, much slower moving average of the gradient.

    .. math::
        m_1 &= \beta_1 m_1 + (1 - \beta_1) g, \qquad \hat m_1 = m_1 / (1 - \beta_1^t) \\
        m_2 &= \beta_3 m_2 + (1 - \beta_3) g \\
        v &= \beta_2 v + (1 - \beta_2) g^2, \qquad \hat v = v / (1 - \beta_2^t) \\
        p &= p - \eta\, (\hat m_1 + \alpha m_2) / (\sqrt{\hat v} + \epsilon)

    For long runs, from some tens of thousands of steps on, in which gradients that are thousands of steps old are still
    informative.  Set `t_alpha_beta3` to the number of steps of the run: with the full weight of the slow average from
    the start, training can diverge early.  For short runs use a smaller :math:`\beta_3`.

    During this warm-up, with :math:`a = t / T < 1`, :math:`\alpha` is replaced by :math:`a \alpha`, and :math:`\beta_3`
    increases from :math:`\beta_1` such that its time constant :math:`-1 / \ln \beta` grows linearly: :math:`\ln \beta =
    1 / ((1 - a) / \ln \beta_1 + a / \ln \beta_3)`.

    Args:
        params: Arrays to update in place; see `Optimizer`.
        lr: Learning rate :math:`\eta`, at least 0, or a callable of the step.  Default 1e-3.
        betas: :math:`\beta_1`, :math:`\beta_2` and :math:`\beta_3`, decay rates of the fast average, of the average of
            squares and of the slow average, each in [0, 1).  Default (0.9, 0.999, 0.9999).
        alpha: :math:`\alpha`, the weight of the slow average, at least 0.  Default 5.0.
        eps: :math:`\epsilon`, at least 0, added to the denominator for numerical stability.  Default 1e-8.
        t_alpha_beta3: :math:`T`, the number of warm-up steps of :math:`\alpha` and :math:`\beta_3`, at least 1; None
            for no warm-up.  Default None.
        decoupled: Multiply the parameters by the weight decay; if False, it is added to the gradient.  Default True.
        **shared: Weight decay, clipping, averages and the rest that every optimizer has; see `Optimizer`.

    Raises:
        ValueError: If an option is out of range.

    Source: Pagliardini, Ablin & Grangier, "The AdEMAMix optimizer: better, faster, older", 2024, arXiv:2409.03137.
    Weight decay is decoupled by default, as in the paper.

    >>> import numpy as np, fastoptim as fo
    >>> p = np.array([1.0, 1.0])
    >>> fo.AdEMAMix(p, lr=0.1).step(np.array([100.0, -0.01]))
    >>> p.round(4)
    array([0.9, 1.1])
    """

    name = "ademamix"
    variants = {"ademamix": ("m1", "m2", "v")}
    state_schema = {
        "m1": StateArray(compress="signed"),
        "m2": StateArray(compress="signed"),
        "v": StateArray(compress="non-negative"),
    }
    host_constants = ("alpha", "beta3")

    lr: LearningRate = 1e-3
    betas: tuple[Decay, Decay, Decay] = (0.9, 0.999, 0.9999)
    alpha: NonNegative = 5.0
    eps: NonNegative = 1e-8
    t_alpha_beta3: Count | None = None
    decoupled: bool = option(default=True, kw_only=True)

    @staticmethod
    def compute_host_constants(
        *, t: int, betas: tuple[float, float, float], alpha: float, t_alpha_beta3: int | None
    ) -> dict[str, float]:
        """Return the weight and the decay rate of the slow average in step t."""
        beta1, _, beta3 = betas
        if t_alpha_beta3 is None or t >= t_alpha_beta3:
            return {"alpha": alpha, "beta3": beta3}
        fraction = t / t_alpha_beta3
        time_constant = -sum(w / math.log(beta) for w, beta in ((1 - fraction, beta1), (fraction, beta3)) if beta)
        beta3 = min(math.exp(-1 / time_constant), beta3) if time_constant else 0.0
        return {"alpha": fraction * alpha, "beta3": beta3}

    @staticmethod
    def reference(
        p: Array,
        g: Array,
        m1: Array,
        m2: Array,
        v: Array,
        *,
        t: int,
        lr: float,
        betas: tuple[float, float, float],
        alpha: float,
        beta3: float,
        eps: float,
        **_: Any,
    ) -> None:
        """The formula in NumPy."""
        number = p.dtype.type
        beta1, beta2 = (decay(p.dtype, beta) for beta in betas[:2])
        slow_beta = decay(p.dtype, beta3)
        one_minus_beta1, one_minus_beta2 = number(1 - float(beta1)), number(1 - float(beta2))
        bias_correction1, bias_correction2 = (bias_correction_of(float(beta), t) for beta in (beta1, beta2))
        root = math.sqrt(bias_correction2)
        m1_step_size, m2_step_size = number(lr * root / bias_correction1), number(lr * root * alpha)
        m1[...] = beta1 * m1 + one_minus_beta1 * g
        m2[...] = slow_beta * m2 + number(1 - float(slow_beta)) * g
        v[...] = beta2 * v + one_minus_beta2 * g * g
        p -= (m1_step_size * m1 + m2_step_size * m2) / (np.sqrt(v) + number(eps * root))
