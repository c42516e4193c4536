"""Tiger."""

from __future__ import annotations

from ..options.checks import Decay, NonNegative
from ..options.fields import option
from .signum import Signum


class Tiger(Signum):
    r"""Tiger: the sign of a running mean of the gradient, with decoupled weight decay.

    .. math::
        m &= \beta m + (1 - \beta) g \\
        p &= (1 - \eta \lambda)\, p - \eta \operatorname{sign}(m)

    `Lion` with one rate in place of two, made for language models with little memory; :math:`\lambda` is
    `weight_decay`, by default 0.01.  Besides this formula the source scales the learning rate by the kind and the norm
    of a parameter, and accumulates gradients in m: here a group with an `lr` of its own does the first.

    Args:
        params: Arrays to update in place; see `Optimizer`.
        lr: Learning rate :math:`\eta`, the size of each step, at least 0, or a callable of the step.
        beta: :math:`\beta`, how slowly the mean forgets, in [0, 1).
        weight_decay: :math:`\lambda`, at least 0.
        decoupled: If False the decay is added to the gradient.
        **shared: Weight decay, clipping, averages and the rest that every optimizer has; see `Optimizer`.

    Raises:
        ValueError: An option out of range.

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
