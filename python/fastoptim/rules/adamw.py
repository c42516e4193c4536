"""AdamW."""

from __future__ import annotations

from typing import Literal

from ..options.checks import NonNegative
from ..options.fields import argument, option
from .adam import Adam


class AdamW(Adam):
    r"""Adam with decoupled weight decay: the decay multiplies the parameters and is not part of the gradient.

    .. math::
        p &= (1 - \eta \lambda)\, p \\
        \text{then } &\text{Adam's update with the undecayed gradient}

    The usual choice for transformers, with `weight_decay` 0.01 to 0.1.  :math:`\lambda` is `weight_decay`.  It is
    multiplied by the learning rate, as in every framework; the paper multiplies it only by the schedule of the learning
    rate.

    Args:
        params: Arrays to update in place; see `Optimizer`.
        lr: Learning rate :math:`\eta`, at least 0, or a callable of the step.  Default 1e-3.
        betas: :math:`\beta_1` and :math:`\beta_2`, decay rates of the moving averages, each in [0, 1).  Default (0.9,
            0.999).
        eps: Added to the denominator for numerical stability, at least 0.  Default 1e-8.
        eps_root: Added under the square root, at least 0.  Default 0.0.
        amsgrad: Divide by the running maximum of :math:`v`, which is one more state array.  Default False.
        eps_hat: Add the epsilons before the bias correction of :math:`v`.  Default False.
        bias_correction: If False, the moving averages are used without bias correction.  Default True.
        amsgrad_corrected: Take the running maximum after the bias correction.  Default False.
        weight_decay: :math:`\lambda`, at least 0.  Default 0.01.
        decoupled: If False, weight decay is added to the gradient, which is `Adam`.  Default True.
        convention: "torch", as above; "keras", with `eps_hat`, `eps` 1e-7 and `weight_decay` 0.004; "optax", with
            `amsgrad_corrected` and `weight_decay` 1e-4.  Default "torch".
        **shared: Weight decay, clipping, averages and the rest that every optimizer has; see `Optimizer`.

    Raises:
        ValueError: If an option is out of range.

    Source: Loshchilov & Hutter, 2019, arXiv:1711.05101.

    >>> import numpy as np, fastoptim as fo
    >>> p = np.array([1.0])
    >>> fo.AdamW(p, lr=0.1, weight_decay=0.5).step(np.array([1.0]))
    >>> p.round(6)
    array([0.85])
    """

    name = "adamw"
    conventions = {
        "torch": {},
        "keras": {"eps": 1e-7, "eps_hat": True, "weight_decay": 0.004},
        "optax": {"amsgrad_corrected": True, "weight_decay": 1e-4},
    }

    weight_decay: NonNegative = option(default=0.01, kw_only=True)
    decoupled: bool = option(default=True, kw_only=True)
    convention: Literal["torch", "keras", "optax"] = argument(default="torch", kw_only=True)
