"""RMSprop in the form of Graves."""

from __future__ import annotations

import numpy as np

from ..optimizer.base import Optimizer
from ..options.checks import Decay, Fraction, LearningRate, NonNegative
from ..options.schema import StateArray
from ..reference_math import Array, decay, maximum


class RMSpropGraves(Optimizer):
    r"""Graves' RMSprop: centered, with epsilon under the square root and momentum in the step itself.

    .. math::
        s &= \alpha s + (1 - \alpha) g^2, \qquad a = \alpha a + (1 - \alpha) g \\
        \delta &= \mu \delta - \eta\, g / \sqrt{s - a^2 + \epsilon} \\
        p &= p + \delta

    For recurrent networks, with the paper's constants as defaults.  ``RMSprop(centered=True)`` with momentum does not
    multiply the terms of its buffer by the learning rate, and by default adds epsilon outside the square root.

    The variance :math:`s - a^2` is clamped to at least 0, as rounding can make it negative.

    Args:
        params: Arrays to update in place; see `Optimizer`.
        lr: Learning rate :math:`\eta`, at least 0, or a callable of the step.  Default 1e-4.
        alpha: :math:`\alpha`, decay rate of the moving averages, in [0, 1).  Default 0.95.
        momentum: :math:`\mu`, the weight of the previous step, in [0, 1].  Default 0.9.
        eps: :math:`\epsilon`, at least 0, added to the variance for numerical stability.  Default 1e-4.
        **shared: Weight decay, clipping, averages and the rest that every optimizer has; see `Optimizer`.

    Raises:
        ValueError: If an option is out of range.

    Source: Graves, "Generating Sequences With Recurrent Neural Networks", 2013, arXiv:1308.0850, equations 38 to 45.

    >>> import numpy as np, fastoptim as fo
    >>> p = np.array([1.0])
    >>> fo.RMSpropGraves(p, lr=0.1, alpha=0.5, eps=0.75).step(np.array([1.0]))
    >>> p
    array([0.9])
    """

    name = "rmsprop_graves"
    variants = {"rmsprop_graves": ("s", "g_avg", "delta")}
    state_schema = {"delta": StateArray(compress="signed")}

    lr: LearningRate = 1e-4
    alpha: Decay = 0.95
    momentum: Fraction = 0.9
    eps: NonNegative = 1e-4

    @staticmethod
    def reference(
        p: Array,
        g: Array,
        s: Array,
        g_avg: Array,
        delta: Array,
        *,
        t: int,
        lr: float,
        alpha: float,
        momentum: float,
        eps: float,
    ) -> None:
        """The formula in NumPy."""
        number = p.dtype.type
        alpha = decay(p.dtype, alpha)
        one_minus_alpha = number(1 - float(alpha))
        s[...] = alpha * s + one_minus_alpha * g * g
        g_avg[...] = alpha * g_avg + one_minus_alpha * g
        variance = maximum(s - g_avg * g_avg, number(0))
        delta[...] = number(momentum) * delta - number(lr) * g / np.sqrt(variance + number(eps))
        p += delta
