"""SGDW."""

from __future__ import annotations

from ..options.checks import NonNegative
from ..options.fields import option
from .sgd import SGD


class SGDW(SGD):
    r"""Gradient descent with decoupled weight decay: the parameters shrink by themselves, not through the momentum.

    .. math::
        p &= (1 - \eta \lambda)\, p \\
        \text{then } &\text{SGD's update with the undecayed gradient}

    :math:`\lambda` is `weight_decay`, by default 0.01.  Without momentum this is `SGD` with weight decay; with it, the
    best decay no longer moves with the learning rate.  The paper scales the decay by the schedule alone; here it is
    :math:`\eta`, as in AdamW of PyTorch, so its :math:`\lambda` is :math:`\eta \lambda` here.

    Args:
        params: Arrays to update in place; see `Optimizer`.
        lr: Learning rate :math:`\eta`, at least 0, or a callable of the step.
        momentum: :math:`\mu`, in [0, 1].  With 0 there is no state.
        dampening: :math:`\tau`, in [0, 1]; not of the first step, as in `SGD`.
        nesterov: Steps along :math:`g + \mu b`; needs momentum, and no dampening.
        lr_inside: Multiplies by the learning rate what enters the buffer, not what leaves it.
        dampen_first: Dampens the first step too.
        weight_decay: :math:`\lambda`, at least 0.
        decoupled: If False the decay is added to the gradient, and this is `SGD`.
        convention: Those of `SGD`, without change to the decay; "paper" has this paper's momentum, too.
        **shared: Weight decay, clipping, averages and the rest that every optimizer has; see `Optimizer`.

    Raises:
        ValueError: An option out of range; `nesterov` without momentum or with dampening.

    Source: Loshchilov & Hutter, "Decoupled weight decay regularization", 2019, arXiv:1711.05101.

    >>> import numpy as np, fastoptim as fo
    >>> p = np.array([1.0])
    >>> fo.SGDW(p, lr=0.5, momentum=0.9, weight_decay=0.5).step(np.array([1.0]))
    >>> p
    array([0.25])
    """

    name = "sgdw"

    weight_decay: NonNegative = option(default=0.01, kw_only=True)
    decoupled: bool = option(default=True, kw_only=True)
