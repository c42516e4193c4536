"""Stochastic gradient descent."""

from __future__ import annotations

from typing import Any, Literal

from ..optimizer.base import Optimizer
from ..options.checks import Fraction, LearningRate
from ..options.fields import argument
from ..options.schema import StateArray
from ..reference_math import Array


class SGD(Optimizer):
    r"""Gradient descent, with momentum and its Nesterov form as in PyTorch.

    .. math::
        b &= \mu b + (1 - \tau) g \qquad (b = g \text{ in the first step}) \\
        d &= g + \mu b \text{ if nesterov, else } b \qquad (g \text{ where } \mu = 0) \\
        p &= p - \eta d

    Whether a step is batch, stochastic or mini-batch gradient descent depends on the gradient that the caller computes.
    Plain SGD needs a learning rate tuned to the problem.  Momentum 0.9 with Nesterov's step is the usual start for
    vision models.

    Args:
        params: Arrays to update in place; see `Optimizer`.
        lr: Learning rate :math:`\eta`, at least 0, or a callable of the step.  Default 1e-3.
        momentum: :math:`\mu`, in [0, 1].  With 0 there is no state.  Default 0.0.
        dampening: :math:`\tau`, in [0, 1].  The first step of an array is undampened, also where momentum is switched
            on in mid-run, unless an average is kept.  Default 0.0.
        nesterov: Use the step :math:`g + \mu b`; requires momentum, and no dampening.  Default False.
        lr_inside: Multiply the terms of the buffer by the learning rate instead of the buffer.  The steps are the same
            while the learning rate is constant; when it changes, the buffer keeps the previous ones.  Default False.
        dampen_first: Apply dampening in the first step, too: :math:`b = (1 - \tau) g`.  Default False.
        convention: "torch" and "optax", as above; "keras", with `lr` 0.01 and `lr_inside`, where the velocity is
            :math:`-b`; "paper" (Sutskever et al.), with `lr_inside` and `dampen_first`.  Default "torch".
        **shared: Weight decay, clipping, averages and the rest that every optimizer has; see `Optimizer`.

    Raises:
        ValueError: If an option is out of range, or `nesterov` is set without momentum or with dampening.

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

    state_schema = {"b": StateArray(starts_count=True, compress="signed")}

    lr: LearningRate = 1e-3
    momentum: Fraction = 0.0
    dampening: Fraction = 0.0
    nesterov: bool = False
    lr_inside: bool = False
    dampen_first: bool = False
    convention: Literal["torch", "keras", "optax", "paper"] = argument(default="torch", kw_only=True)

    @staticmethod
    def variant(*, momentum: float, dampening: float, nesterov: bool, **_: Any) -> str:
        """Return the rule: plain, momentum or Nesterov; ValueError for Nesterov without momentum or with dampening."""
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
        buffer_lr, step_lr = (lr, 1.0) if lr_inside else (1.0, lr)
        scaled = number(buffer_lr) * g
        skips_dampening = t == 1 and not dampen_first
        b[...] = scaled if skips_dampening else number(momentum) * b + number(buffer_lr * (1 - dampening)) * g
        p -= number(step_lr) * (scaled + number(momentum) * b if nesterov else b)
