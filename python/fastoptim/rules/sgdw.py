"""SGDW."""

from __future__ import annotations

from ..options.checks import NonNegative
from ..options.fields import option
from .sgd import SGD


class SGDW(SGD):
    r"""Gradient descent with decoupled weight decay: the decay multiplies the parameters, not the momentum buffer.

    .. math::
        p &= (1 - \eta \lambda)\, p \\
        \text{then } &\text{SGD's update with the undecayed gradient}

    :math:`\lambda` is `weight_decay`.  Without momentum this is `SGD` with weight decay.  With momentum, the best decay
    no longer depends on the learning rate.  The paper multiplies the decay by the schedule alone; here it is multiplied
    by :math:`\eta`, as in PyTorch's AdamW, so the paper's :math:`\lambda` is :math:`\eta \lambda` here.

    Args:
        params: Arrays to update in place; see `Optimizer`.
        lr: Learning rate :math:`\eta`, at least 0, or a callable of the step.  Default 1e-3.
        momentum: :math:`\mu`, in [0, 1].  With 0 there is no state.  Default 0.0.
        dampening: :math:`\tau`, in [0, 1]; not applied in the first step, as in `SGD`.  Default 0.0.
        nesterov: Use the step :math:`g + \mu b`; requires momentum, and no dampening.  Default False.
        lr_inside: Multiply the terms of the buffer by the learning rate instead of the buffer.  Default False.
        dampen_first: Apply dampening in the first step, too.  Default False.
        weight_decay: :math:`\lambda`, at least 0.  Default 0.01.
        decoupled: If False, weight decay is added to the gradient, which is `SGD`.  Default True.
        convention: Those of `SGD`, with an unchanged weight decay; "paper" is the momentum of this optimizer's paper,
            too.  Default "torch".
        **shared: Weight decay, clipping, averages and the rest that every optimizer has; see `Optimizer`.

    Raises:
        ValueError: If an option is out of range, or `nesterov` is set without momentum or with dampening.

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
