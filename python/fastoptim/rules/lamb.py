"""LAMB."""

from __future__ import annotations

import math
from typing import Any, Literal

import numpy as np

from ..optimizer.base import Optimizer
from ..options.checks import Decay, LearningRate, NonNegative
from ..options.fields import argument
from ..reference_math import Array, decay, power, square, total


class LAMB(Optimizer):
    r"""LAMB: Adam's step, scaled to each array's own norm.

    .. math::
        m &= \beta_1 m + (1 - \beta_1) g, \qquad \hat m = m / (1 - \beta_1^t) \\
        v &= \beta_2 v + (1 - \beta_2) g^2, \qquad \hat v = v / (1 - \beta_2^t) \\
        u &= \hat m / (\sqrt{\hat v + \epsilon_\text{root}} + \epsilon) + \lambda p \\
        p &= p - \eta \frac{\lVert p \rVert}{\lVert u \rVert} u \qquad (1 \text{ where a norm is } 0)

    For very large batches of transformers, with a warm-up; `weight_decay` 0.01 is usual.

    The norms are sums in double of a fixed shape, so their bits do not depend on threads.

    Args:
        params: Arrays to update in place; see `Optimizer`.
        lr: Learning rate :math:`\eta`, at least 0, or a callable of the step.
        betas: :math:`\beta_1` and :math:`\beta_2`, how slowly the means forget, each in [0, 1).
        eps: Added to the root.
        eps_root: Added inside the root.
        bias_correction: Whether :math:`\hat m` and :math:`\hat v` are corrected.
        convention: "paper" and "optax", or "keras" (`eps` 1e-7 and `decoupled`: the decay before the norms are taken,
            outside their ratio).
        **shared: Weight decay, clipping, averages and the rest that every optimizer has; see `Optimizer`.

    Raises:
        ValueError: An option out of range.

    Source: You et al., 2020, arXiv:1904.00962, with the identity for its :math:`\phi`.

    >>> import numpy as np, fastoptim as fo
    >>> p = np.array([3.0, 4.0])
    >>> fo.LAMB(p, lr=0.1, eps=0).step(np.array([1.0, -10.0]))
    >>> p.round(6)
    array([2.646447, 4.353553])
    """

    name = "lamb"
    variants = {"lamb": ("m", "v")}
    decays_itself = True
    conventions = {"paper": {}, "optax": {}, "keras": {"eps": 1e-7, "decoupled": True}}

    lr: LearningRate = 1e-3
    betas: tuple[Decay, Decay] = (0.9, 0.999)
    eps: NonNegative = 1e-6
    eps_root: NonNegative = 0.0
    bias_correction: bool = True
    convention: Literal["paper", "optax", "keras"] = argument(default="paper", kw_only=True)

    @staticmethod
    def variant(**_: Any) -> str:
        """One rule."""
        return "lamb"

    @staticmethod
    def reduce_terms(p: Array, g: Array, m: Array, v: Array, **options: Any) -> tuple[float, ...]:
        """Takes the gradient into the means; the squared norms of the parameter and of its step."""
        number = p.dtype.type
        beta1, beta2 = (decay(p.dtype, beta) for beta in options["betas"])
        m[...] = beta1 * m + number(1 - float(beta1)) * g
        v[...] = beta2 * v + number(1 - float(beta2)) * g * g
        shrunk, u = _step(p, m, v, **options)
        return total(square(shrunk)), total(square(u))

    @staticmethod
    def reference(
        p: Array, g: Array, m: Array, v: Array, *, lr: float, sums: tuple[float, float], **options: Any
    ) -> None:
        """The formula in NumPy; `reduce_terms` has updated the means."""
        p_norm, u_norm = map(math.sqrt, sums)
        ratio = p_norm / u_norm if p_norm > 0 and u_norm > 0 else 1.0
        p[...], u = _step(p, m, v, lr=lr, **options)
        p -= p.dtype.type(lr * ratio) * u


def _step(
    p: Array,
    m: Array,
    v: Array,
    *,
    t: int,
    lr: float,
    betas: tuple[float, float],
    eps: float,
    eps_root: float,
    bias_correction: bool,
    weight_decay: float,
    decoupled: bool,
) -> tuple[Array, Array]:
    """The parameter, shrunk where the decay is decoupled, and the step that is to be scaled."""
    number = p.dtype.type
    bias1, bias2 = (1 - power(float(decay(p.dtype, beta)), t) if bias_correction else 1.0 for beta in betas)
    u = number(math.sqrt(bias2) / bias1) * m / (np.sqrt(v + number(eps_root * bias2)) + number(eps * math.sqrt(bias2)))
    if decoupled:
        return number(1 - lr * weight_decay) * p, u
    return p, u + number(weight_decay) * p
