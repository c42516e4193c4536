"""MADGRAD."""

from __future__ import annotations

import math
from typing import Literal

from ..optimizer.base import Optimizer
from ..options.checks import Decay, LearningRate, NonNegative
from ..options.fields import argument
from ..options.schema import StateArray
from ..reference_math import Array, cube_root, decay


class MADGRAD(Optimizer):
    r"""MADGRAD: dual averaging with momentum, over the cube root of the sum of squared gradients.

    .. math::
        \lambda &= \eta \sqrt t \\
        s &= s + \lambda g, \qquad v = v + \lambda g^2 \\
        z &= x_0 - s / (\sqrt[3]{v} + \epsilon) \\
        p &= p + (1 - \mu)(z - p)

    with :math:`x_0` the parameters before the first step.  Adaptive like Adagrad, but its learning rate decreases more
    slowly; designed to generalize like SGD.  Its learning rates are not comparable to those of other optimizers: search
    from 1e-4 to 1.  Use less weight decay than elsewhere, often none.

    The cube root is computed by fixed operations, within one unit in the last place.

    Args:
        params: Arrays to update in place; see `Optimizer`.
        lr: Learning rate :math:`\eta`, at least 0, or a callable of the step.  Default 0.01.
        momentum: :math:`\mu`, in [0, 1): the weight of the current parameters.  Default 0.9.
        eps: :math:`\epsilon`, at least 0, added to the denominator for numerical stability.  Default 1e-6.
        eps_in_lr: Add `eps` to the learning rate, too.  Default False.
        convention: "paper"; or "optax", with `eps_in_lr`, as in the authors' code.  Default "paper".
        **shared: Weight decay, clipping, averages and the rest that every optimizer has; see `Optimizer`.

    Raises:
        ValueError: If an option is out of range.

    Source: Defazio & Jelassi, "Adaptivity without Compromise: A Momentumized, Adaptive, Dual Averaged Gradient Method
    for Stochastic Optimization", 2021, arXiv:2101.11075.

    >>> import numpy as np, fastoptim as fo
    >>> p = np.array([1.0])
    >>> fo.MADGRAD(p, lr=1.0, momentum=0.5, eps=0.0).step(np.array([8.0]))
    >>> p.round(6)
    array([0.])
    """

    name = "madgrad"
    variants = {"madgrad": ("s", "v", "x0")}
    state_schema = {"x0": StateArray(initial="p")}
    conventions = {"paper": {}, "optax": {"eps_in_lr": True}}

    lr: LearningRate = 0.01
    momentum: Decay = 0.9
    eps: NonNegative = 1e-6
    eps_in_lr: bool = False
    convention: Literal["paper", "optax"] = argument(default="paper", kw_only=True)

    @staticmethod
    def reference(
        p: Array,
        g: Array,
        s: Array,
        v: Array,
        x0: Array,
        *,
        t: int,
        lr: float,
        momentum: float,
        eps: float,
        eps_in_lr: bool,
    ) -> None:
        """The formula in NumPy."""
        number = p.dtype.type
        gradient_weight = number((lr + (eps if eps_in_lr else 0)) * math.sqrt(t))
        one_minus_momentum = number(1 - float(decay(p.dtype, momentum)))
        s[...] = s + gradient_weight * g
        v[...] = v + gradient_weight * g * g
        z = x0 - s / (cube_root(v) + number(eps))
        p += one_minus_momentum * (z - p)
