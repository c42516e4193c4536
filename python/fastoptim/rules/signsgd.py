"""SignSGD."""

from __future__ import annotations

from typing import Any

from ..optimizer.base import Optimizer
from ..options.checks import LearningRate
from ..reference_math import Array, sign


class SignSGD(Optimizer):
    r"""SignSGD: steps of one size, by the sign of the gradient.

    .. math::
        p &= p - \eta \operatorname{sign}(g)

    The baseline of the sign methods, without state; of gradients only a bit each is needed, which distributed training
    exchanges cheaply.  It never settles closer than :math:`\eta`: let the learning rate fall.  `Signum` takes the sign
    of a running mean and is less disturbed by noise.  Where the gradient is 0, p stays.

    Args:
        params: Arrays to update in place; see `Optimizer`.
        lr: Learning rate :math:`\eta`, the size of each step, at least 0, or a callable of the step.
        **shared: Weight decay, clipping, averages and the rest that every optimizer has; see `Optimizer`.

    Raises:
        ValueError: An option out of range.

    Source: Bernstein et al., "signSGD: compressed optimisation for non-convex problems", ICML 2018, arXiv:1802.04434.

    >>> import numpy as np, fastoptim as fo
    >>> p = np.array([1.0, 1.0, 1.0])
    >>> fo.SignSGD(p, lr=0.25).step(np.array([100.0, -0.01, 0.0]))
    >>> p
    array([0.75, 1.25, 1.  ])
    """

    name = "signsgd"
    variants = {"signsgd": ()}

    lr: LearningRate = 1e-3

    @staticmethod
    def variant(**_: Any) -> str:
        """There is one."""
        return "signsgd"

    @staticmethod
    def reference(p: Array, g: Array, *, t: int, lr: float) -> None:
        """The formula in NumPy."""
        p -= p.dtype.type(lr) * sign(g)
