"""AdaBelief."""

from __future__ import annotations

import math
from typing import Any, Literal

import numpy as np

from ..optimizer.base import Optimizer
from ..options.checks import Decay, LearningRate, NonNegative
from ..options.fields import argument
from ..reference_math import Array, decay, power


class AdaBelief(Optimizer):
    r"""AdaBelief: Adam that divides by how far gradients lie from their mean, not by how large they are.

    .. math::
        m &= \beta_1 m + (1 - \beta_1) g, \qquad \hat m = m / (1 - \beta_1^t) \\
        s &= \beta_2 s + (1 - \beta_2) (g - m)^2 + \epsilon_\text{root}, \qquad \hat s = s / (1 - \beta_2^t) \\
        p &= p - \eta\, \hat m / (\sqrt{\hat s} + \epsilon)

    Where gradients agree, the steps grow beyond Adam's; where they disagree, they shrink.  Adam's learning rate is a
    good start; with noisy gradients that nearly vanish, a larger `eps_root` (1e-12 to 1e-8) keeps the steps in bounds.

    With `previous_mean` it is the distance from the mean before the step, :math:`g - m_{t-1}`, which is
    :math:`1 / \beta_1` times the other.  Both are computed from it, as a multiple, so that nothing cancels.  With the
    corrections folded into scalars an element costs one division and one root.

    Args:
        params: Arrays to update in place; see `Optimizer`.
        lr: Learning rate :math:`\eta`, at least 0, or a callable of the step.
        betas: :math:`\beta_1` and :math:`\beta_2`, how slowly the means forget, each in [0, 1).
        eps: :math:`\epsilon`, at least 0, added to the root.
        eps_root: :math:`\epsilon_\text{root}`, at least 0, added to the kept :math:`s` in each step.
        previous_mean: Takes the gradient's distance from the mean before this step in place of the one after, as
            optax did before version 0.2.4.
        convention: "paper" or "optax", which agree.
        **shared: Weight decay, clipping, averages and the rest that every optimizer has; see `Optimizer`.

    Raises:
        ValueError: An option out of range.

    Source: Zhuang et al., "AdaBelief optimizer: adapting stepsizes by the belief in observed gradients", NeurIPS 2020,
    arXiv:2010.07468.

    >>> import numpy as np, fastoptim as fo
    >>> p = np.array([1.0, 1.0, 1.0])
    >>> fo.AdaBelief(p, lr=0.09).step(np.array([100.0, -0.01, 0.0]))
    >>> p.round(6)
    array([0.9, 1.1, 1. ])
    """

    name = "adabelief"
    variants = {"adabelief": ("m", "s")}
    conventions = {"paper": {}, "optax": {}}

    lr: LearningRate = 1e-3
    betas: tuple[Decay, Decay] = (0.9, 0.999)
    eps: NonNegative = 1e-16
    eps_root: NonNegative = 1e-16
    previous_mean: bool = False
    convention: Literal["paper", "optax"] = argument(default="paper", kw_only=True)

    @staticmethod
    def variant(**_: Any) -> str:
        """There is one."""
        return "adabelief"

    @staticmethod
    def reference(
        p: Array,
        g: Array,
        m: Array,
        s: Array,
        *,
        t: int,
        lr: float,
        betas: tuple[float, float],
        eps: float,
        eps_root: float,
        previous_mean: bool,
    ) -> None:
        """The formula in NumPy."""
        number = p.dtype.type
        beta1, beta2 = (decay(p.dtype, beta) for beta in betas)
        bias1, bias2 = (1 - power(float(beta), t) for beta in (beta1, beta2))
        distance = (number(1) if previous_mean else beta1) * (g - m)
        m[...] = beta1 * m + number(1 - float(beta1)) * g
        s[...] = beta2 * s + number(1 - float(beta2)) * distance * distance + number(eps_root)
        p -= number(lr * math.sqrt(bias2) / bias1) * m / (np.sqrt(s) + number(eps * math.sqrt(bias2)))
