"""QHAdam."""

from __future__ import annotations

from typing import Any

import numpy as np

from ..optimizer.base import Optimizer
from ..options.checks import Decay, Fraction, LearningRate, NonNegative
from ..reference_math import Array, decay, power


class QHAdam(Optimizer):
    r"""Quasi-hyperbolic Adam: weighted means of the gradient, and of its square, and of their running means.

    .. math::
        m &= \beta_1 m + (1 - \beta_1) g, \qquad \hat m = m / (1 - \beta_1^t) \\
        v &= \beta_2 v + (1 - \beta_2) g^2, \qquad \hat v = v / (1 - \beta_2^t) \\
        p &= p - \eta\, \frac{(1 - \nu_1) g + \nu_1 \hat m}{\sqrt{(1 - \nu_2) g^2 + \nu_2 \hat v} + \epsilon}

    With both :math:`\nu` 1 it is Adam, with :math:`\nu_1 = \beta_1` nearly NAdam.  The defaults are its authors' advice
    in general; for unstable training they take :math:`\nu_2` a little below 1, which bounds the step.

    pytorch_optimizer's QHAdam adds ``1 - beta2*g^2`` to the second mean, a slip of precedence, and is no convention
    here.

    Args:
        params: Arrays to update in place; see `Optimizer`.
        lr: Learning rate :math:`\eta`, at least 0, or a callable of the step.
        nus: :math:`\nu_1` and :math:`\nu_2`, the weights of the two means, each in [0, 1].
        betas: :math:`\beta_1` and :math:`\beta_2`, how slowly the means forget, each in [0, 1).
        eps: :math:`\epsilon`, added to the root, at least 0.
        **shared: Weight decay, clipping, averages and the rest that every optimizer has; see `Optimizer`.

    Raises:
        ValueError: An option out of range.

    Source: Ma & Yarats, 2019, arXiv:1810.06801.

    >>> import numpy as np, fastoptim as fo
    >>> p = np.array([1.0, 1.0])
    >>> fo.QHAdam(p, lr=0.1).step(np.array([100.0, -0.01]))
    >>> p.round(6)
    array([0.9, 1.1])
    """

    name = "qhadam"
    variants = {"qhadam": ("m", "v")}

    lr: LearningRate = 1e-3
    nus: tuple[Fraction, Fraction] = (0.7, 1.0)
    betas: tuple[Decay, Decay] = (0.995, 0.999)
    eps: NonNegative = 1e-8

    @staticmethod
    def variant(**_: Any) -> str:
        """There is one."""
        return "qhadam"

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
        bias1, bias2 = (1 - power(float(beta), t) for beta in (beta1, beta2))
        m[...] = beta1 * m + number(1 - float(beta1)) * g
        v[...] = beta2 * v + number(1 - float(beta2)) * g * g
        nu1, nu2 = nus
        step = number(lr * (1 - nu1)) * g + number(lr * nu1 / bias1) * m
        square = number(1 - nu2) * g * g + number(nu2 / bias2) * v
        p -= step / (np.sqrt(square) + number(eps))
