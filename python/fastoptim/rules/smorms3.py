"""SMORMS3."""

from __future__ import annotations

import numpy as np

from ..optimizer.base import Optimizer
from ..options.checks import LearningRate, NonNegative
from ..options.schema import StateArray
from ..reference_math import Array, minimum


class SMORMS3(Optimizer):
    r"""SMORMS3: RMSprop whose decay rate and step size follow from the signal-to-noise ratio of the gradient.

    .. math::
        r &= 1 / (\text{mem} + 1) \\
        m &= (1 - r) m + r g, \qquad v = (1 - r) v + r g^2 \\
        x &= m^2 / (v + \epsilon) \\
        p &= p - \min(\eta, x)\, g / (\sqrt v + \epsilon) \\
        \text{mem} &= 1 + \text{mem}\, (1 - x)

    Where gradients agree, :math:`x` is near 1, the averages are short and the step is that of `lr`.  Where they differ
    only by noise, :math:`x` approaches 0, the averages become longer and the step shrinks.  `lr` is therefore an upper
    bound that needs little tuning; the default, 1e-3, suits most problems.

    Args:
        params: Arrays to update in place; see `Optimizer`.
        lr: Largest learning rate :math:`\eta`, at least 0, or a callable of the step.  Default 1e-3.
        eps: :math:`\epsilon`, at least 0, added to both denominators for numerical stability.  Default 1e-16.
        **shared: Weight decay, clipping, averages and the rest that every optimizer has; see `Optimizer`.

    Raises:
        ValueError: If an option is out of range.

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
    def reference(p: Array, g: Array, mem: Array, m: Array, v: Array, *, t: int, lr: float, eps: float) -> None:
        """The formula in NumPy."""
        number = p.dtype.type
        one, epsilon = number(1), number(eps)
        one_minus_beta = one / (mem + one)
        beta = one - one_minus_beta
        m[...] = beta * m + one_minus_beta * g
        v[...] = beta * v + one_minus_beta * g * g
        signal = m * m / (v + epsilon)
        mem[...] = one + mem * (one - signal)
        p -= g * minimum(number(lr), signal) / (np.sqrt(v) + epsilon)
