"""LARS."""

from __future__ import annotations

import math
from typing import Any, Literal

import numpy as np

from ..optimizer.base import Optimizer
from ..options.checks import Fraction, LearningRate, NonNegative
from ..options.fields import argument
from ..options.schema import StateArray
from ..reference_math import Array, minimum, shrink, square, total


class LARS(Optimizer):
    r"""LARS: momentum with a learning rate for each array, scaled by the ratio of its norm to its gradient's.

    .. math::
        \rho &= \tau \lVert p \rVert / (\lVert g \rVert + \lambda \lVert p \rVert + \epsilon)
        \qquad (1 \text{ where a norm is } 0) \\
        v &= \mu v + \eta \rho\, (g + \lambda p) \\
        p &= p - v

    For training image models with very large batches and a warm-up.  As the trust coefficient :math:`\tau` is small,
    `lr` is of the order of 1 to 10.  Biases and the scales of normalization layers usually belong to a group of plain
    SGD instead.

    The norms are sums in double with a fixed order, so the result does not depend on the number of threads.

    Args:
        params: Arrays to update in place; see `Optimizer`.
        lr: Learning rate :math:`\eta`, at least 0, or a callable of the step.  Default 1.0.
        momentum: :math:`\mu`, in [0, 1].  Default 0.9.
        trust_coefficient: :math:`\tau`, the size of a step relative to the norm of its array, at least 0.  Default
            1e-3.
        eps: Added to the denominator of the trust ratio for numerical stability, at least 0.  Default 0.0.
        decayed_norm: Use the norm of :math:`g + \lambda p` instead of :math:`\lVert g \rVert + \lambda \lVert p
            \rVert`.  Default False.
        nesterov: Use the step :math:`\mu v + \eta \rho\, (g + \lambda p)`.  Default False.
        trust_clip: Use :math:`\min(\rho, \eta)` in place of :math:`\eta \rho`, where no norm is 0: the ratio is then
            the learning rate, up to `lr`.  It is LARC, with `trust_coefficient` 0.02.  Default False.
        decays_ratio_only: Use :math:`\lambda` in :math:`\rho` alone, as Chainer's ``GradientLARS`` does, and not in
            :math:`g + \lambda p`.  Default False.
        convention: "paper"; or "optax", with `decayed_norm`.  Default "paper".
        **shared: Weight decay, clipping, averages and the rest that every optimizer has; see `Optimizer`.

    Raises:
        ValueError: If an option is out of range.

    Source: You, Gitman & Ginsburg, 2017, arXiv:1708.03888.  `weight_decay` is the formula's :math:`\lambda`; with
    `decoupled` it multiplies the parameters before the norms are taken.

    >>> import numpy as np, fastoptim as fo
    >>> p = np.array([3.0, 4.0])
    >>> fo.LARS(p, lr=1.0, trust_coefficient=0.1).step(np.array([0.0, 2.0]))
    >>> p
    array([3. , 3.5])
    """

    name = "lars"
    variants = {"lars": ("v",)}
    state_schema = {"v": StateArray(compress="signed")}
    decays_itself = True
    conventions = {"paper": {}, "optax": {"decayed_norm": True}}

    lr: LearningRate = 1.0
    momentum: Fraction = 0.9
    trust_coefficient: NonNegative = 1e-3
    eps: NonNegative = 0.0
    decayed_norm: bool = False
    nesterov: bool = False
    trust_clip: bool = False
    decays_ratio_only: bool = False
    convention: Literal["paper", "optax"] = argument(default="paper", kw_only=True)

    @staticmethod
    def reduce_terms(
        p: Array, g: Array, *, lr: float, weight_decay: float, decoupled: bool, decayed_norm: bool, **_: Any
    ) -> tuple[float, ...]:
        """Return the squared norms of the parameter and of the gradient."""
        number = p.dtype.type
        if decoupled:
            p = shrink(p, lr * weight_decay)
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
        trust_clip: bool,
        decays_ratio_only: bool,
        weight_decay: float,
        decoupled: bool,
        sums: tuple[float, float],
    ) -> None:
        """The formula in NumPy."""
        number = p.dtype.type
        p_norm, g_norm = map(math.sqrt, sums)
        step_size = lr
        if p_norm > 0 and g_norm > 0:
            decay_norm = 0.0 if decoupled or decayed_norm or weight_decay == 0 else weight_decay * p_norm
            trust_ratio = np.float64(trust_coefficient) * p_norm / (g_norm + decay_norm + eps)
            step_size = float(minimum(trust_ratio, np.float64(lr)) if trust_clip else lr * trust_ratio)
        if decoupled:
            p[...] = shrink(p, lr * weight_decay)
        else:
            g = g + number(0 if decays_ratio_only else weight_decay) * p
        scaled = number(step_size) * g
        v[...] = number(momentum) * v + scaled
        p -= number(momentum) * v + scaled if nesterov else v
