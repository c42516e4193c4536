"""NovoGrad."""

from __future__ import annotations

import math
from typing import Any, Literal

import numpy as np

from ..optimizer.base import Optimizer
from ..options.checks import Decay, LearningRate, NonNegative
from ..options.fields import argument
from ..options.schema import StateArray
from ..reference_math import Array, decay, square, total


class NovoGrad(Optimizer):
    r"""NovoGrad: momentum of gradients normalised array by array, by a running mean of their squared norm.

    .. math::
        v &= \beta_2 v + (1 - \beta_2) \lVert g \rVert^2 \qquad (v = \lVert g \rVert^2 \text{ in the first step}) \\
        m &= \beta_1 m + \Big( \frac{g}{\sqrt v + \epsilon} + \lambda p \Big) \\
        p &= p - \eta m

    For speech and image models that Adam trains well but SGD generalises better on; it keeps half of Adam's state, as
    :math:`v` is one number an array.  Its step has the size of a unit vector, not of a vector of ones: start from
    10 to 100 times Adam's learning rate for large arrays.

    The norm is a sum in double of a fixed shape, so its bits do not depend on threads.

    Args:
        params: Arrays to update in place; see `Optimizer`.
        lr: Learning rate :math:`\eta`, at least 0, or a callable of the step.
        betas: :math:`\beta_1` and :math:`\beta_2`, how slowly the means forget, each in [0, 1).
        eps: Added to the root.
        grad_averaging: Weighs what is added to :math:`m` by :math:`1 - \beta_1`.
        convention: "paper", or "optax" (betas 0.9 and 0.25, `eps` 1e-6).
        **shared: Weight decay, clipping, averages and the rest that every optimizer has; see `Optimizer`.

    Raises:
        ValueError: An option out of range.

    Source: Ginsburg et al., 2019, arXiv:1905.11286.

    >>> import numpy as np, fastoptim as fo
    >>> p = np.array([1.0, 2.0])
    >>> fo.NovoGrad(p, lr=0.1).step(np.array([30.0, 40.0]))
    >>> p.round(6)
    array([0.94, 1.92])
    """

    name = "novograd"
    variants = {"novograd": ("m", "v")}
    state_schema = {"v": StateArray("scalar")}
    decays_itself = True
    conventions = {"paper": {}, "optax": {"betas": (0.9, 0.25), "eps": 1e-6}}

    lr: LearningRate = 0.01
    betas: tuple[Decay, Decay] = (0.95, 0.98)
    eps: NonNegative = 1e-8
    grad_averaging: bool = False
    convention: Literal["paper", "optax"] = argument(default="paper", kw_only=True)

    @staticmethod
    def variant(**_: Any) -> str:
        """One rule."""
        return "novograd"

    @staticmethod
    def reduce_terms(p: Array, g: Array, **_: Any) -> tuple[float, ...]:
        """The gradient's squared norm."""
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
        weight_decay: float,
        decoupled: bool,
        sums: tuple[float],
    ) -> None:
        """The formula in NumPy."""
        number = p.dtype.type
        beta1, beta2 = decay(p.dtype, betas[0]), betas[1]
        v[...] = sums[0] if t == 1 else beta2 * float(v) + (1 - beta2) * sums[0]
        g = number(np.float64(1) / (math.sqrt(float(v)) + eps)) * g
        if decoupled:
            p *= number(1 - lr * weight_decay)
        else:
            g = g + number(weight_decay) * p
        m[...] = beta1 * m + (number(1 - float(beta1)) if grad_averaging else number(1)) * g
        p -= number(lr) * m
