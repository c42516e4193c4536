"""AdEMAMix."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from ..optimizer.base import Optimizer
from ..options.checks import Count, Decay, LearningRate, NonNegative
from ..options.fields import option
from ..reference_math import Array, decay, power


class AdEMAMix(Optimizer):
    r"""AdEMAMix: Adam with a second, much slower mean of the gradient beside the first.

    .. math::
        m_1 &= \beta_1 m_1 + (1 - \beta_1) g, \qquad \hat m_1 = m_1 / (1 - \beta_1^t) \\
        m_2 &= \beta_3 m_2 + (1 - \beta_3) g \\
        v &= \beta_2 v + (1 - \beta_2) g^2, \qquad \hat v = v / (1 - \beta_2^t) \\
        p &= p - \eta\, (\hat m_1 + \alpha m_2) / (\sqrt{\hat v} + \epsilon)

    For long runs, from some tens of thousands of steps on, where gradients that are thousands of steps old still say
    something.  Set `t_alpha_beta3` to the number of steps of the run then: a slow mean at full weight from the start
    can make the beginning diverge.  For short runs a smaller :math:`\beta_3`.

    During that warm-up, with :math:`a = t / T < 1`, :math:`\alpha` is :math:`a \alpha`, and :math:`\beta_3` goes from
    :math:`\beta_1` so that the time in which it forgets, :math:`-1 / \ln \beta`, grows linearly:
    :math:`\ln \beta = 1 / ((1 - a) / \ln \beta_1 + a / \ln \beta_3)`.

    Args:
        params: Arrays to update in place; see `Optimizer`.
        lr: Learning rate :math:`\eta`, at least 0, or a callable of the step.
        betas: :math:`\beta_1`, :math:`\beta_2` and :math:`\beta_3`, how slowly the fast mean, the mean square and the
            slow mean forget, each in [0, 1).
        alpha: :math:`\alpha`, the weight of the slow mean, at least 0.
        eps: :math:`\epsilon`, at least 0, added to the root.
        t_alpha_beta3: :math:`T`, how many steps the warm-up of :math:`\alpha` and :math:`\beta_3` takes, at least 1;
            None for none.
        decoupled: Whether weight decay shrinks the parameters themselves; else it is added to the gradient.
        **shared: Weight decay, clipping, averages and the rest that every optimizer has; see `Optimizer`.

    Raises:
        ValueError: An option out of range.

    Source: Pagliardini, Ablin & Grangier, "The AdEMAMix optimizer: better, faster, older", 2024, arXiv:2409.03137.
    Weight decay is decoupled by default, as there.

    >>> import numpy as np, fastoptim as fo
    >>> p = np.array([1.0, 1.0])
    >>> fo.AdEMAMix(p, lr=0.1).step(np.array([100.0, -0.01]))
    >>> p.round(4)
    array([0.9, 1.1])
    """

    name = "ademamix"
    variants = {"ademamix": ("m1", "m2", "v")}
    host_constants = ("alpha", "beta3")

    lr: LearningRate = 1e-3
    betas: tuple[Decay, Decay, Decay] = (0.9, 0.999, 0.9999)
    alpha: NonNegative = 5.0
    eps: NonNegative = 1e-8
    t_alpha_beta3: Count | None = None
    decoupled: bool = option(default=True, kw_only=True)

    @staticmethod
    def variant(**_: Any) -> str:
        """There is one."""
        return "ademamix"

    @staticmethod
    def compute_host_constants(
        *, t: int, betas: tuple[float, float, float], alpha: float, t_alpha_beta3: int | None
    ) -> dict[str, float]:
        """The slow mean's weight and rate as they are now."""
        beta1, _, beta3 = betas
        if t_alpha_beta3 is None or t >= t_alpha_beta3:
            return {"alpha": alpha, "beta3": beta3}
        done = t / t_alpha_beta3
        memory = -sum(share / math.log(beta) for share, beta in ((1 - done, beta1), (done, beta3)) if beta)
        return {"alpha": done * alpha, "beta3": min(math.exp(-1 / memory), beta3) if memory else 0.0}

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
        fast, square, slow = (decay(p.dtype, beta) for beta in (*betas[:2], beta3))
        bias1, bias2 = (1 - power(float(beta), t) for beta in (fast, square))
        m1[...] = fast * m1 + number(1 - float(fast)) * g
        m2[...] = slow * m2 + number(1 - float(slow)) * g
        v[...] = square * v + number(1 - float(square)) * g * g
        root = math.sqrt(bias2)
        step = number(lr * root / bias1) * m1 + number(lr * root * alpha) * m2
        p -= step / (np.sqrt(v) + number(eps * root))
