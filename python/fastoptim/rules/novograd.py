"""NovoGrad."""

from __future__ import annotations

import math
from typing import Any, Literal

import numpy as np

from ..optimizer.base import Optimizer
from ..options.checks import Decay, LearningRate, NonNegative
from ..options.fields import argument
from ..options.schema import StateArray
from ..reference_math import Array, decay, shrink, square, total


class NovoGrad(Optimizer):
    r"""NovoGrad: momentum of gradients that are normalized for each array by their average norm.

    .. math::
        v &= \beta_2 v + (1 - \beta_2) \lVert g \rVert^2 \qquad (v = \lVert g \rVert^2 \text{ in the first step}) \\
        m &= \beta_1 m + \Big( \frac{g}{\sqrt v + \epsilon} + \lambda p \Big) \\
        p &= p - \eta m

    For speech and image models that train well with Adam but generalize better with SGD.  Has half of Adam's state, as
    :math:`v` is one number per array.  The step has the size of a unit vector, not of a vector of ones: for large
    arrays start from 10 to 100 times Adam's learning rate.

    The norm is a sum in double with a fixed order, so the result does not depend on the number of threads.

    Args:
        params: Arrays to update in place; see `Optimizer`.
        lr: Learning rate :math:`\eta`, at least 0, or a callable of the step.  Default 0.01.
        betas: :math:`\beta_1` and :math:`\beta_2`, decay rates of the moving averages, each in [0, 1).  Default (0.95,
            0.98).
        eps: Added to the denominator for numerical stability, at least 0.  Default 1e-8.
        grad_averaging: Multiply the term added to :math:`m` by :math:`1 - \beta_1`.  Default False.
        dampen_first: If False, `grad_averaging` begins with the second step, and :math:`m` starts from the whole first
            term, as the paper initializes it.  Default True.
        convention: "paper"; or "optax", with betas 0.9 and 0.25 and `eps` 1e-6.  Default "paper".
        **shared: Weight decay, clipping, averages and the rest that every optimizer has; see `Optimizer`.

    Raises:
        ValueError: If an option is out of range.

    Source: Ginsburg et al., 2019, arXiv:1905.11286.

    >>> import numpy as np, fastoptim as fo
    >>> p = np.array([1.0, 2.0])
    >>> fo.NovoGrad(p, lr=0.1).step(np.array([30.0, 40.0]))
    >>> p.round(6)
    array([0.94, 1.92])
    """

    name = "novograd"
    variants = {"novograd": ("m", "v")}
    state_schema = {"m": StateArray(compress="signed"), "v": StateArray("scalar")}
    decays_itself = True
    conventions = {"paper": {}, "optax": {"betas": (0.9, 0.25), "eps": 1e-6}}

    lr: LearningRate = 0.01
    betas: tuple[Decay, Decay] = (0.95, 0.98)
    eps: NonNegative = 1e-8
    grad_averaging: bool = False
    dampen_first: bool = True
    convention: Literal["paper", "optax"] = argument(default="paper", kw_only=True)

    @staticmethod
    def reduce_terms(p: Array, g: Array, **_: Any) -> tuple[float, ...]:
        """Return the squared norm of the gradient."""
        return (total(square(g)),)

    @staticmethod
    def reference(
        p: Array,
        g: Array,
        m: Array,
        v: Array,
        *,
        t: int,
        lr: float,
        betas: tuple[float, float],
        eps: float,
        grad_averaging: bool,
        dampen_first: bool,
        weight_decay: float,
        decoupled: bool,
        sums: tuple[float],
    ) -> None:
        """The formula in NumPy."""
        number = p.dtype.type
        beta1, beta2 = decay(p.dtype, betas[0]), betas[1]
        is_dampened = grad_averaging and (dampen_first or t > 1)
        gradient_weight = number(1 - float(beta1)) if is_dampened else number(1)
        v[...] = sums[0] if t == 1 else beta2 * float(v) + (1 - beta2) * sums[0]
        g = number(np.float64(1) / (math.sqrt(float(v)) + eps)) * g
        if decoupled:
            p[...] = shrink(p, lr * weight_decay)
        else:
            g = g + number(weight_decay) * p
        m[...] = beta1 * m + gradient_weight * g
        p -= number(lr) * m
