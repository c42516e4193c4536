"""Adamax."""

from __future__ import annotations

from typing import Literal

import numpy as np

from ..optimizer.base import Optimizer
from ..options.checks import Decay, LearningRate, NonNegative
from ..options.fields import argument
from ..options.schema import StateArray
from ..reference_math import Array, bias_correction_of, decay, maximum


class Adamax(Optimizer):
    r"""Adamax: Adam with an exponentially weighted maximum of the gradient in the denominator.

    .. math::
        m &= \beta_1 m + (1 - \beta_1) g \\
        u &= \max(\beta_2 u, |g| + \epsilon) \\
        p &= p - \frac{\eta}{1 - \beta_1^t} \cdot \frac{m}{u}

    With `eps_outside`, :math:`u = \max(\beta_2 u, |g|)` and the last quotient is :math:`m / (u + \epsilon)`.

    No element moves by much more than the learning rate, and no square root is computed.  For sparse or heavy-tailed
    gradients, as of embeddings; 2e-3 is the usual learning rate.

    The paper has no epsilon: the step of an element whose gradients were all zero would be 0/0.  With `eps` the element
    does not move.

    Args:
        params: Arrays to update in place; see `Optimizer`.
        lr: Learning rate :math:`\eta`, at least 0, or a callable of the step.  Default 2e-3.
        betas: :math:`\beta_1` and :math:`\beta_2`, decay rates of the moving average and of the maximum, each in [0,
            1).  Default (0.9, 0.999).
        eps: :math:`\epsilon`, at least 0, added for numerical stability.  Default 1e-8.
        eps_outside: Add epsilon to the denominator, not to the gradients of which the maximum is taken.  Default False.
        convention: "torch" and "optax", the formula above; "keras", with `eps_outside`, `lr` 1e-3 and `eps` 1e-7.
            Default "torch".
        **shared: Weight decay, clipping, averages and the rest that every optimizer has; see `Optimizer`.

    Raises:
        ValueError: If an option is out of range.

    Source: Kingma & Ba, 2015, arXiv:1412.6980, section 7.1.

    >>> import numpy as np, fastoptim as fo
    >>> p = np.array([1.0, 1.0])
    >>> fo.Adamax(p, lr=0.1).step(np.array([100.0, -0.01]))
    >>> p.round(6)
    array([0.9, 1.1])
    """

    name = "adamax"
    variants = {"adamax": ("m", "u")}
    state_schema = {"m": StateArray(compress="signed"), "u": StateArray(compress="non-negative")}
    conventions = {"torch": {}, "keras": {"lr": 1e-3, "eps": 1e-7, "eps_outside": True}, "optax": {}}

    lr: LearningRate = 2e-3
    betas: tuple[Decay, Decay] = (0.9, 0.999)
    eps: NonNegative = 1e-8
    eps_outside: bool = False
    convention: Literal["torch", "keras", "optax"] = argument(default="torch", kw_only=True)

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
        one_minus_beta1, bias_correction1 = number(1 - float(beta1)), bias_correction_of(float(beta1), t)
        inner_eps, outer_eps = (0.0, eps) if eps_outside else (eps, 0.0)
        m[...] = beta1 * m + one_minus_beta1 * g
        u[...] = maximum(beta2 * u, np.abs(g) + number(inner_eps))
        p -= number(lr / bias_correction1) * m / (u + number(outer_eps))
