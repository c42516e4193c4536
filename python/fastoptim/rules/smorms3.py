"""SMORMS3."""

from __future__ import annotations

from typing import Any

import numpy as np

from ..optimizer.base import Optimizer
from ..options.checks import LearningRate, NonNegative
from ..options.schema import StateArray
from ..reference_math import Array, minimum


class SMORMS3(Optimizer):
    r"""SMORMS3: RMSprop whose memory and step follow from the gradient's ratio of signal to noise.

    .. math::
        r &= 1 / (\text{mem} + 1) \\
        m &= (1 - r) m + r g, \qquad v = (1 - r) v + r g^2 \\
        x &= m^2 / (v + \epsilon) \\
        p &= p - \min(\eta, x)\, g / (\sqrt v + \epsilon) \\
        \text{mem} &= 1 + \text{mem}\, (1 - x)

    Where gradients agree, :math:`x` is near 1, the means are short and the step is that of `lr`; where they only differ
    by noise, :math:`x` falls towards 0, the memory grows and the step shrinks with it.  So `lr` is an upper bound that
    needs little tuning; 1e-3, the default, suits most.

    Args:
        params: Arrays to update in place; see `Optimizer`.
        lr: Largest learning rate :math:`\eta`, at least 0, or a callable of the step.
        eps: :math:`\epsilon`, added to the mean square and to its root, at least 0.
        **shared: Weight decay, clipping, averages and the rest that every optimizer has; see `Optimizer`.

    Raises:
        ValueError: An option out of range.

    Source: Funk, "RMSprop loses to SMORMS3 - Beware the Epsilon!", 2015, sifter.org/~simon/journal/20150420.html; as in
    Chainer.

    >>> import numpy as np, fastoptim as fo
    >>> p = np.array([1.0])
    >>> fo.SMORMS3(p, lr=0.1).step(np.array([5.0]))
    >>> p.round(6)
    array([0.858579])
    """

    name = "smorms3"
    variants = {"smorms3": ("mem", "m", "v")}
    state_schema = {"mem": StateArray(initial=1.0)}  # the first means are half of the first gradient and its square

    lr: LearningRate = 1e-3
    eps: NonNegative = 1e-16

    @staticmethod
    def variant(**_: Any) -> str:
        """There is one."""
        return "smorms3"

    @staticmethod
    def reference(p: Array, g: Array, mem: Array, m: Array, v: Array, *, t: int, lr: float, eps: float) -> None:
        """The formula in NumPy."""
        number = p.dtype.type
        one, least = number(1), number(eps)
        r = one / (mem + one)
        m[...] = (one - r) * m + r * g
        v[...] = (one - r) * v + r * g * g
        x = m * m / (v + least)
        mem[...] = one + mem * (one - x)
        p -= g * minimum(number(lr), x) / (np.sqrt(v) + least)
