"""Stochastic gradient descent."""

from __future__ import annotations

from typing import Any, Literal

from ..optimizer.base import Optimizer
from ..options.checks import Fraction, LearningRate
from ..options.fields import argument
from ..reference_math import Array


class SGD(Optimizer):
    r"""Gradient descent, with momentum and its Nesterov form as PyTorch computes them.

    .. math::
        b &= \mu b + (1 - \tau) g \qquad (b = g \text{ in the first step}) \\
        d &= g + \mu b \text{ if nesterov, else } b \qquad (g \text{ where } \mu = 0) \\
        p &= p - \eta d

    Whether a step is batch, stochastic or mini-batch gradient descent is the caller's choice of gradient.  Plain SGD
    wants a learning rate tuned to the problem; momentum 0.9 with Nesterov's step is the usual start for vision models.

    Args:
        params: Arrays to update in place; see `Optimizer`.
        lr: Learning rate :math:`\eta`, at least 0, or a callable of the step.
        momentum: :math:`\mu`, in [0, 1].  With 0 there is no state.
        dampening: :math:`\tau`, in [0, 1].  The undamped first step is the array's first, t = 1: momentum that is
            switched on later starts from a zero buffer and is damped.
        nesterov: Steps along :math:`g + \mu b`; needs momentum, and no dampening.
        lr_inside: Multiplies by the learning rate what enters the buffer, not what leaves it.  While the rate is
            constant the steps are the same; when it changes, the buffer keeps the old one.
        dampen_first: Dampens the first step too: :math:`b = (1 - \tau) g`.
        convention: "torch" and "optax", as above; "keras", with `lr` 0.01 and `lr_inside`, its velocity being
            :math:`-b`; "paper" (Sutskever et al.), with `lr_inside` and `dampen_first`.
        **shared: Weight decay, clipping, averages and the rest that every optimizer has; see `Optimizer`.

    Raises:
        ValueError: An option out of range; `nesterov` without momentum or with dampening.

    Source: Robbins & Monro, 1951, doi:10.1214/aoms/1177729586; Sutskever et al., "On the importance of initialization
    and momentum in deep learning", ICML 2013.

    >>> import numpy as np, fastoptim as fo
    >>> p = np.array([1.0, 2.0])
    >>> fo.SGD(p, lr=0.1, momentum=0.9).step(np.array([1.0, -1.0]))
    >>> p
    array([0.9, 2.1])
    """

    name = "sgd"
    variants = {"sgd": (), "sgd_momentum": ("b",), "sgd_nesterov": ("b",)}
    conventions = {
        "torch": {},
        "keras": {"lr": 0.01, "lr_inside": True},
        "optax": {},
        "paper": {"lr_inside": True, "dampen_first": True},
    }

    lr: LearningRate = 1e-3
    momentum: Fraction = 0.0
    dampening: Fraction = 0.0
    nesterov: bool = False
    lr_inside: bool = False
    dampen_first: bool = False
    convention: Literal["torch", "keras", "optax", "paper"] = argument(default="torch", kw_only=True)

    @staticmethod
    def variant(*, momentum: float, dampening: float, nesterov: bool, **_: Any) -> str:
        """Without momentum plain; Nesterov's step needs momentum and no dampening."""
        if nesterov and (momentum == 0 or dampening != 0):
            raise ValueError(
                f"nesterov: expected momentum > 0 and dampening 0, got momentum {momentum} and dampening {dampening}"
            )
        if momentum == 0:
            return "sgd"
        return "sgd_nesterov" if nesterov else "sgd_momentum"

    @staticmethod
    def reference(
        p: Array,
        g: Array,
        b: Array | None = None,
        *,
        t: int,
        lr: float,
        momentum: float,
        dampening: float,
        nesterov: bool,
        lr_inside: bool,
        dampen_first: bool,
    ) -> None:
        """The formula in NumPy."""
        number = p.dtype.type
        if b is None:
            p -= number(lr) * g
            return
        inside, outside = (lr, 1.0) if lr_inside else (1.0, lr)
        push = number(inside) * g
        undamped = t == 1 and not dampen_first
        b[...] = push if undamped else number(momentum) * b + number(inside * (1 - dampening)) * g
        p -= number(outside) * (push + number(momentum) * b if nesterov else b)
