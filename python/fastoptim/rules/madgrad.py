"""MADGRAD."""

from __future__ import annotations

import math
from typing import Any, Literal

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

    with :math:`x_0` the parameters before the first step.  Adaptive like Adagrad, but keeps its pace; meant to
    generalise as SGD does.  Its learning rates compare to no other optimizer's: search them widely, from 1e-4 to 1, and
    take less weight decay than elsewhere, often none.

    The cube root is computed by fixed operations, within one unit in the last place.

    Args:
        params: Arrays to update in place; see `Optimizer`.
        lr: Learning rate :math:`\eta`, at least 0, or a callable of the step.
        momentum: :math:`\mu`, in [0, 1): how much of the parameters stays where it is.
        eps: :math:`\epsilon`, added to the cube root, at least 0.
        eps_in_lr: Adds `eps` to the learning rate, too.
        convention: "paper"; or "optax": `eps_in_lr`, as also in the authors' own code.
        **shared: Weight decay, clipping, averages and the rest that every optimizer has; see `Optimizer`.

    Raises:
        ValueError: An option out of range.

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
    def variant(**_: Any) -> str:
        """There is one."""
        return "madgrad"

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
        weight = number((lr + (eps if eps_in_lr else 0)) * math.sqrt(t))
        s[...] = s + weight * g
        v[...] = v + weight * g * g
        z = x0 - s / (cube_root(v) + number(eps))
        p += number(1 - float(decay(p.dtype, momentum))) * (z - p)
