"""AdamW."""

from __future__ import annotations

from typing import Literal

from ..options.checks import NonNegative
from ..options.fields import argument, option
from .adam import Adam


class AdamW(Adam):
    r"""Adam with decoupled weight decay: the parameters shrink by themselves, not through the gradient's means.

    .. math::
        p &= (1 - \eta \lambda)\, p \\
        \text{then } &\text{Adam's update with the undecayed gradient}

    The usual choice for transformers, with `weight_decay` 0.01 to 0.1.  :math:`\lambda` is `weight_decay`, 0.01 unless
    given.  It is multiplied by the learning rate, as in every framework; in the paper only by that rate's schedule.

    Args:
        params: Arrays to update in place; see `Optimizer`.
        lr: Learning rate :math:`\eta`, at least 0, or a callable of the step.
        betas: :math:`\beta_1` and :math:`\beta_2`, how slowly the means forget, each in [0, 1).
        eps: Added to the root.
        eps_root: Added inside the root.
        amsgrad: Divides by the largest mean so far; one more state array.
        eps_hat: Adds the epsilons to the mean before its correction.
        bias_correction: Without it the means are taken as they are.
        amsgrad_corrected: Takes the largest mean after its correction.
        weight_decay: :math:`\lambda`, at least 0.
        decoupled: If False the decay is added to the gradient, and this is `Adam`.
        convention: "torch", as above; "keras", with `eps_hat`, `eps` 1e-7 and `weight_decay` 0.004; "optax", with
            `amsgrad_corrected` and `weight_decay` 1e-4.
        **shared: Weight decay, clipping, averages and the rest that every optimizer has; see `Optimizer`.

    Raises:
        ValueError: An option out of range.

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
