"""SignSGD."""

from __future__ import annotations

from ..optimizer.base import Optimizer
from ..options.checks import LearningRate
from ..reference_math import Array, sign


class SignSGD(Optimizer):
    r"""SignSGD: steps along the sign of the gradient.

    .. math::
        p = p - \eta \operatorname{sign}(g)

    The baseline of the sign-based methods, without state.  It needs one bit of each gradient, which makes communication
    in distributed training cheap.  It does not converge closer than :math:`\eta`: use a decreasing learning rate.
    `Signum` uses the sign of a moving average and is less sensitive to noise.  An element whose gradient is 0 does not
    move.

    Args:
        params: Arrays to update in place; see `Optimizer`.
        lr: Learning rate :math:`\eta`, the size of each step, at least 0, or a callable of the step.  Default 1e-3.
        **shared: Weight decay, clipping, averages and the rest that every optimizer has; see `Optimizer`.

    Raises:
        ValueError: If an option is out of range.

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
    def reference(p: Array, g: Array, *, t: int, lr: float) -> None:
        """The formula in NumPy."""
        p -= p.dtype.type(lr) * sign(g)
