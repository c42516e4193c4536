"""Tiger."""

from __future__ import annotations

from ..options.checks import Decay, NonNegative
from ..options.fields import option
from .signum import Signum


class Tiger(Signum):
    r"""Tiger: the sign of a moving average of the gradient, with decoupled weight decay.

    .. math::
        m &= \beta m + (1 - \beta) g \\
        p &= (1 - \eta \lambda)\, p - \eta \operatorname{sign}(m)

    `Lion` with one decay rate instead of two, designed for language models with little memory; :math:`\lambda` is
    `weight_decay`.  In addition to this formula the source scales the learning rate by the kind and the norm of a
    parameter, and accumulates gradients in m.  For the former, use a group with its own `lr`.

    Args:
        params: Arrays to update in place; see `Optimizer`.
        lr: Learning rate :math:`\eta`, the size of each step, at least 0, or a callable of the step.  Default 1e-3.
        beta: :math:`\beta`, decay rate of the moving average, in [0, 1).  Default 0.965.
        weight_decay: :math:`\lambda`, at least 0.  Default 0.01.
        decoupled: If False, weight decay is added to the gradient.  Default True.
        **shared: Weight decay, clipping, averages and the rest that every optimizer has; see `Optimizer`.

    Raises:
        ValueError: If an option is out of range.

    Source: Su, "Tiger: a tight-fisted optimizer", 2023, https://kexue.fm/archives/9512.

    >>> import numpy as np, fastoptim as fo
    >>> p = np.array([1.0, 1.0])
    >>> fo.Tiger(p, lr=0.25, weight_decay=0.5).step(np.array([100.0, -0.01]))
    >>> p
    array([0.625, 1.125])
    """

    name = "tiger"

    beta: Decay = 0.965
    weight_decay: NonNegative = option(default=0.01, kw_only=True)
    decoupled: bool = option(default=True, kw_only=True)
