"""LARS."""

from __future__ import annotations

import math
from typing import Any, Literal

from ..optimizer.base import Optimizer
from ..options.checks import Fraction, LearningRate, NonNegative
from ..options.fields import argument
from ..reference_math import Array, square, total


class LARS(Optimizer):
    r"""LARS: momentum whose learning rate is each array's own, by the ratio of its norm to its gradient's.

    .. math::
        \rho &= \tau \lVert p \rVert / (\lVert g \rVert + \lambda \lVert p \rVert + \epsilon)
        \qquad (1 \text{ where a norm is } 0) \\
        v &= \mu v + \eta \rho\, (g + \lambda p) \\
        p &= p - v

    For very large batches of image models, with a warm-up; `lr` is then of the order of 1 to 10, as :math:`\tau` is
    small.  Biases and gains of normalisation layers are usually given to a group of plain SGD instead.

    The norms are sums in double of a fixed shape, so their bits do not depend on threads.

    Args:
        params: Arrays to update in place; see `Optimizer`.
        lr: Learning rate :math:`\eta`, at least 0, or a callable of the step.
        momentum: :math:`\mu`, in [0, 1].
        trust_coefficient: :math:`\tau`, how large a step may be beside its array.
        eps: Added to the norms.
        decayed_norm: Takes the norm of :math:`g + \lambda p` in place of :math:`\lVert g \rVert + \lambda \lVert p
            \rVert`.
        nesterov: Steps along :math:`\mu v + \eta \rho\, (g + \lambda p)`.
        convention: "paper", or "optax" (`decayed_norm`).
        **shared: Weight decay, clipping, averages and the rest that every optimizer has; see `Optimizer`.

    Raises:
        ValueError: An option out of range.

    Source: You, Gitman & Ginsburg, 2017, arXiv:1708.03888.  `weight_decay` is the formula's :math:`\lambda`; with
    `decoupled` the parameters shrink by themselves, before the norms are taken.

    >>> import numpy as np, fastoptim as fo
    >>> p = np.array([3.0, 4.0])
    >>> fo.LARS(p, lr=1.0, trust_coefficient=0.1).step(np.array([0.0, 2.0]))
    >>> p
    array([3. , 3.5])
    """

    name = "lars"
    variants = {"lars": ("v",)}
    decays_itself = True
    conventions = {"paper": {}, "optax": {"decayed_norm": True}}

    lr: LearningRate = 1.0
    momentum: Fraction = 0.9
    trust_coefficient: NonNegative = 1e-3
    eps: NonNegative = 0.0
    decayed_norm: bool = False
    nesterov: bool = False
    convention: Literal["paper", "optax"] = argument(default="paper", kw_only=True)

    @staticmethod
    def variant(**_: Any) -> str:
        """One rule."""
        return "lars"

    @staticmethod
    def reduce_terms(
        p: Array, g: Array, *, lr: float, weight_decay: float, decoupled: bool, decayed_norm: bool, **_: Any
    ) -> tuple[float, ...]:
        """The squared norms of the parameter and of the gradient."""
        number = p.dtype.type
        if decoupled:
            p = number(1 - lr * weight_decay) * p
        elif decayed_norm:
            g = g + number(weight_decay) * p
        return total(square(p)), total(square(g))

    @staticmethod
    def reference(
        p: Array,
        g: Array,
        v: Array,
        *,
        t: int,
        lr: float,
        momentum: float,
        trust_coefficient: float,
        eps: float,
        decayed_norm: bool,
        nesterov: bool,
        weight_decay: float,
        decoupled: bool,
        sums: tuple[float, float],
    ) -> None:
        """The formula in NumPy."""
        number = p.dtype.type
        p_norm, g_norm = map(math.sqrt, sums)
        ratio = 1.0
        if p_norm > 0 and g_norm > 0:
            beside = 0.0 if decoupled or decayed_norm or weight_decay == 0 else weight_decay * p_norm
            ratio = trust_coefficient * p_norm / (g_norm + beside + eps)
        if decoupled:
            p *= number(1 - lr * weight_decay)
        else:
            g = g + number(weight_decay) * p
        push = number(lr * ratio) * g
        v[...] = number(momentum) * v + push
        p -= number(momentum) * v + push if nesterov else v
