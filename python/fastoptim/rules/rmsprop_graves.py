"""RMSprop as Graves wrote it."""

from __future__ import annotations

from typing import Any

import numpy as np

from ..optimizer.base import Optimizer
from ..options.checks import Decay, Fraction, LearningRate, NonNegative
from ..reference_math import Array, decay, maximum


class RMSpropGraves(Optimizer):
    r"""Graves' RMSprop: over the gradient's deviation, epsilon inside the root, and the momentum in the step itself.

    .. math::
        s &= \alpha s + (1 - \alpha) g^2, \qquad a = \alpha a + (1 - \alpha) g \\
        \delta &= \mu \delta - \eta\, g / \sqrt{s - a^2 + \epsilon} \\
        p &= p + \delta

    For recurrent networks, with the paper's constants, the defaults.  ``RMSprop(centered=True)`` with momentum keeps
    the learning rate out of its buffer and epsilon, unless told otherwise, out of the root.

    The variance :math:`s - a^2` is taken as at least 0: its rounded difference can fall below.

    Args:
        params: Arrays to update in place; see `Optimizer`.
        lr: Learning rate :math:`\eta`, at least 0, or a callable of the step.
        alpha: :math:`\alpha`, how slowly the means forget, in [0, 1).
        momentum: :math:`\mu`, how much of the last step stays, in [0, 1].
        eps: :math:`\epsilon`, added to the variance, at least 0.
        **shared: Weight decay, clipping, averages and the rest that every optimizer has; see `Optimizer`.

    Raises:
        ValueError: An option out of range.

    Source: Graves, "Generating Sequences With Recurrent Neural Networks", 2013, arXiv:1308.0850, equations 38 to 45.

    >>> import numpy as np, fastoptim as fo
    >>> p = np.array([1.0])
    >>> fo.RMSpropGraves(p, lr=0.1, alpha=0.5, eps=0.75).step(np.array([1.0]))
    >>> p
    array([0.9])
    """

    name = "rmsprop_graves"
    variants = {"rmsprop_graves": ("s", "g_avg", "delta")}

    lr: LearningRate = 1e-4
    alpha: Decay = 0.95
    momentum: Fraction = 0.9
    eps: NonNegative = 1e-4

    @staticmethod
    def variant(**_: Any) -> str:
        """There is one."""
        return "rmsprop_graves"

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
        keep = decay(p.dtype, alpha)
        fresh = number(1 - float(keep))
        s[...] = keep * s + fresh * g * g
        g_avg[...] = keep * g_avg + fresh * g
        variance = maximum(s - g_avg * g_avg, number(0))
        delta[...] = number(momentum) * delta - number(lr) * g / np.sqrt(variance + number(eps))
        p += delta
