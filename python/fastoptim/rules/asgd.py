"""Averaged stochastic gradient descent."""

from __future__ import annotations

from typing import Any

from ..optimizer.base import Optimizer
from ..options.checks import LearningRate, NonNegative
from ..reference_math import Array


class ASGD(Optimizer):
    r"""Averaged SGD: gradient descent with a falling rate, and the average of the parameters beside it.

    .. math::
        \eta_t &= \frac{\eta}{(1 + \lambda \eta (t - 1))^\alpha}, \qquad
        \mu_t = \frac{1}{\max(1, t - 1 - t_0)} \\
        p &= (1 - \lambda \eta_t)\, p - \eta_t g \\
        a &= a + \mu_t (p - a)

    For convex problems with noisy gradients, where the average is as good as the best step size: set `t0` to about one
    pass over the data and read the state array ``ax``, which is :math:`a`.  Until `t0` it is the parameter itself.  For
    an average of any other optimizer's parameters there are `ema` and `swa_start`.

    :math:`\eta_t` is of this step's learning rate; PyTorch takes that of the step before, which differs where the rate
    changes.

    Args:
        params: Arrays to update in place; see `Optimizer`.
        lr: Learning rate :math:`\eta`, at least 0, or a callable of the step.
        lambd: :math:`\lambda`, decay of the parameters and of the rate, at least 0.
        alpha: :math:`\alpha`, the power by which the rate falls, at least 0.
        t0: :math:`t_0`, the step after which the average begins, at least 0.
        **shared: Weight decay, clipping, averages and the rest that every optimizer has; see `Optimizer`.

    Raises:
        ValueError: An option out of range.

    Source: Polyak & Juditsky, "Acceleration of stochastic approximation by averaging", 1992, doi:10.1137/0330046; the
    rate: Xu, 2011, arXiv:1107.2490.

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
    def variant(**_: Any) -> str:
        """There is one."""
        return "asgd"

    @staticmethod
    def compute_host_constants(*, t: int, lr: float, lambd: float, alpha: float, t0: float) -> dict[str, float]:
        """The step's own rate, and what it weighs in the average."""
        eta = lr * (1 + lambd * lr * (t - 1)) ** -alpha
        return {"eta": eta, "mu": 1 / max(1.0, t - 1 - t0)}

    @staticmethod
    def reference(p: Array, g: Array, ax: Array, *, lambd: float, eta: float, mu: float, **_: Any) -> None:
        """The formula in NumPy."""
        number = p.dtype.type
        p[...] = number(1 - lambd * eta) * p - number(eta) * g
        ax[...] = p if mu == 1 else ax + number(mu) * (p - ax)
