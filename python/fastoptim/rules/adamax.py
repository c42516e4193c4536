"""Adamax."""

from __future__ import annotations

from typing import Any, Literal

import numpy as np

from ..optimizer.base import Optimizer
from ..options.checks import Decay, LearningRate, NonNegative
from ..options.fields import argument
from ..reference_math import Array, decay, maximum, power


class Adamax(Optimizer):
    r"""Adamax: Adam with the largest recent gradient in place of the root mean square.

    .. math::
        m &= \beta_1 m + (1 - \beta_1) g \\
        u &= \max(\beta_2 u, |g| + \epsilon) \\
        p &= p - \frac{\eta}{1 - \beta_1^t} \cdot \frac{m}{u}

    With `eps_outside`, :math:`u = \max(\beta_2 u, |g|)` and the last quotient is :math:`m / (u + \epsilon)`.

    No element moves by much more than the learning rate, and no root is taken.  For sparse or heavy-tailed gradients,
    as of embeddings; 2e-3 is the usual rate.

    The paper has no epsilon: an element whose gradients have all been zero would be 0/0.  `eps` keeps it where it is.

    Args:
        params: Arrays to update in place; see `Optimizer`.
        lr: Learning rate :math:`\eta`, at least 0, or a callable of the step.
        betas: :math:`\beta_1` and :math:`\beta_2`, how slowly mean and maximum forget, each in [0, 1).
        eps: :math:`\epsilon`, at least 0.
        eps_outside: Adds it to the maximum where that divides, and not to what the maximum is of.
        convention: "torch" and "optax", the formula above; "keras", with `eps_outside`, `lr` 1e-3 and `eps` 1e-7.
        **shared: Weight decay, clipping, averages and the rest that every optimizer has; see `Optimizer`.

    Raises:
        ValueError: An option out of range.

    Source: Kingma & Ba, 2015, arXiv:1412.6980, section 7.1.

    >>> import numpy as np, fastoptim as fo
    >>> p = np.array([1.0, 1.0])
    >>> fo.Adamax(p, lr=0.1).step(np.array([100.0, -0.01]))
    >>> p.round(6)
    array([0.9, 1.1])
    """

    name = "adamax"
    variants = {"adamax": ("m", "u")}
    conventions = {"torch": {}, "keras": {"lr": 1e-3, "eps": 1e-7, "eps_outside": True}, "optax": {}}

    lr: LearningRate = 2e-3
    betas: tuple[Decay, Decay] = (0.9, 0.999)
    eps: NonNegative = 1e-8
    eps_outside: bool = False
    convention: Literal["torch", "keras", "optax"] = argument(default="torch", kw_only=True)

    @staticmethod
    def variant(**_: Any) -> str:
        """There is one."""
        return "adamax"

    @staticmethod
    def reference(
        p: Array,
        g: Array,
        m: Array,
        u: Array,
        *,
        t: int,
        lr: float,
        betas: tuple[float, float],
        eps: float,
        eps_outside: bool,
    ) -> None:
        """The formula in NumPy."""
        number = p.dtype.type
        beta1, beta2 = (decay(p.dtype, beta) for beta in betas)
        inner, outer = (0.0, eps) if eps_outside else (eps, 0.0)
        m[...] = beta1 * m + number(1 - float(beta1)) * g
        u[...] = maximum(beta2 * u, np.abs(g) + number(inner))
        p -= number(lr / (1 - power(float(beta1), t))) * m / (u + number(outer))
