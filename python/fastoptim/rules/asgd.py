"""Averaged stochastic gradient descent."""

from __future__ import annotations

from typing import Any

from ..optimizer.base import Optimizer
from ..options.checks import LearningRate, NonNegative
from ..reference_math import Array, shrink


class ASGD(Optimizer):
    r"""Averaged SGD: gradient descent with a decreasing learning rate, and the average of the parameters.

    .. math::
        \eta_t &= \frac{\eta}{(1 + \lambda \eta (t - 1))^\alpha}, \qquad
        \mu_t = \frac{1}{\max(1, t - 1 - t_0)} \\
        p &= (1 - \lambda \eta_t)\, p - \eta_t g \\
        a &= a + \mu_t (p - a)

    For convex problems with noisy gradients, where the average is as good as the best step size.  Set `t0` to about one
    pass over the data, and read :math:`a` from the state array ``ax``.  Until `t0` it equals the parameter.  Averages
    of the parameters with any other optimizer are available as `ema` and `swa_start`.

    :math:`\eta_t` is computed from the learning rate of this step.  PyTorch uses that of the previous step, which
    differs when the learning rate changes.

    Args:
        params: Arrays to update in place; see `Optimizer`.
        lr: Learning rate :math:`\eta`, at least 0, or a callable of the step.  Default 0.01.
        lambd: :math:`\lambda`, decay of the parameters and of the learning rate, at least 0.  Default 1e-4.
        alpha: :math:`\alpha`, exponent of the decay of the learning rate, at least 0.  Default 0.75.
        t0: :math:`t_0`, the step after which averaging begins, at least 0.  Default 1e6.
        **shared: Weight decay, clipping, averages and the rest that every optimizer has; see `Optimizer`.

    Raises:
        ValueError: If an option is out of range.

    Source: Polyak & Juditsky, "Acceleration of stochastic approximation by averaging", 1992, doi:10.1137/0330046; the
    learning rate: Xu, 2011, arXiv:1107.2490.

    >>> import numpy as np, fastoptim as fo
    >>> p = np.array([1.0])
    >>> opt = fo.ASGD(p, lr=0.5, lambd=0, t0=0)
    >>> for g in (1.0, 1.0, -2.0):
    ...     opt.step(np.array([g]))
    >>> np.array([p[0], opt.state["ax"][0]])
    array([1. , 0.5])
    """

    name = "asgd"
    variants = {"asgd": ("ax",)}
    host_constants = ("eta", "mu")

    lr: LearningRate = 0.01
    lambd: NonNegative = 1e-4
    alpha: NonNegative = 0.75
    t0: NonNegative = 1e6

    @staticmethod
    def compute_host_constants(*, t: int, lr: float, lambd: float, alpha: float, t0: float) -> dict[str, float]:
        """Return the learning rate of step t and the weight of the step in the average."""
        eta = lr * (1 + lambd * lr * (t - 1)) ** -alpha
        return {"eta": eta, "mu": 1 / max(1.0, t - 1 - t0)}

    @staticmethod
    def reference(p: Array, g: Array, ax: Array, *, lambd: float, eta: float, mu: float, **_: Any) -> None:
        """The formula in NumPy."""
        number = p.dtype.type
        p[...] = shrink(p, lambd * eta) - number(eta) * g
        ax[...] = p if mu == 1 else ax + number(mu) * (p - ax)
