"""Lion."""

from __future__ import annotations

from typing import Literal

from ..optimizer.base import Optimizer
from ..options.checks import Decay, LearningRate
from ..options.fields import argument, option
from ..options.schema import StateArray
from ..reference_math import Array, decay, sign


class Lion(Optimizer):
    r"""Lion: steps along the sign of an average of the gradient and of its moving average.

    .. math::
        p &= p - \eta \operatorname{sign}(\beta_1 m + (1 - \beta_1) g) \\
        m &= \beta_2 m + (1 - \beta_2) g

    Has half of Adam's state.  Every element moves by :math:`\eta`, so the learning rate is 3 to 10 times smaller than
    Adam's, and the weight decay, which is decoupled, is larger by the same factor.  Works well with large batches.  An
    element whose average is exactly 0 does not move.

    Args:
        params: Arrays to update in place; see `Optimizer`.
        lr: Learning rate :math:`\eta`, at least 0, or a callable of the step.  Default 1e-4.
        betas: :math:`\beta_1`, the weight of the moving average in the step, and :math:`\beta_2`, its decay rate, each
            in [0, 1).  Default (0.9, 0.99).
        decoupled: Multiply the parameters by the weight decay; if False, it is added to the gradient.  Default True.
        convention: "paper"; "keras", with `lr` 1e-3; "optax", with `weight_decay` 1e-3.  Default "paper".
        **shared: Weight decay, clipping, averages and the rest that every optimizer has; see `Optimizer`.

    Raises:
        ValueError: If an option is out of range.

    Source: Chen et al., "Symbolic discovery of optimization algorithms", 2023, arXiv:2302.06675.

    >>> import numpy as np, fastoptim as fo
    >>> p = np.array([1.0, 1.0, 1.0])
    >>> fo.Lion(p, lr=0.25).step(np.array([100.0, -0.01, 0.0]))
    >>> p
    array([0.75, 1.25, 1.  ])
    """

    name = "lion"
    variants = {"lion": ("m",)}
    state_schema = {"m": StateArray(compress="signed")}
    conventions = {"paper": {}, "keras": {"lr": 1e-3}, "optax": {"weight_decay": 1e-3}}

    lr: LearningRate = 1e-4
    betas: tuple[Decay, Decay] = (0.9, 0.99)
    decoupled: bool = option(default=True, kw_only=True)
    convention: Literal["paper", "keras", "optax"] = argument(default="paper", kw_only=True)

    @staticmethod
    def reference(p: Array, g: Array, m: Array, *, t: int, lr: float, betas: tuple[float, float]) -> None:
        """The formula in NumPy."""
        number = p.dtype.type
        beta1, beta2 = (decay(p.dtype, beta) for beta in betas)
        one_minus_beta1, one_minus_beta2 = number(1 - float(beta1)), number(1 - float(beta2))
        p -= number(lr) * sign(beta1 * m + one_minus_beta1 * g)
        m[...] = beta2 * m + one_minus_beta2 * g
