"""Adagrad."""

from __future__ import annotations

from operator import itemgetter
from typing import Any, Literal

import numpy as np

from ..optimizer.base import Optimizer
from ..options.checks import LearningRate, NonNegative
from ..options.fields import argument
from ..options.schema import StateArray
from ..reference_math import Array, proximal_step


class Adagrad(Optimizer):
    r"""Adagrad: a learning rate for each element that decreases with the sum of its squared gradients.

    .. math::
        s &= s + g^2 \\
        p &= p - \frac{\eta}{1 + (t - 1)\,\text{lr\_decay}} \cdot
             \frac{g}{\sqrt{s + \epsilon_\text{root}} + \epsilon}

    Suits sparse features, where rare elements keep a large learning rate.  In long runs the learning rates only
    decrease; `RMSprop` and `Adam` avoid this.  The form with epsilon under the square root is ``eps_root=e, eps=0``.

    With `l1_regularization` or `l2_regularization` the step is followed by the proximal operator of
    :math:`\ell_1 \lvert p \rvert + \frac{\ell_2}{2} p^2` at the rate :math:`r` of each element, the factor of :math:`g`
    above: :math:`p = \operatorname{sign}(p) \max(\lvert p \rvert - r \ell_1, 0) / (1 + r \ell_2)`.  Unlike `l1`, which
    changes the gradient, it makes parameters exactly 0.

    Args:
        params: Arrays to update in place; see `Optimizer`.
        lr: Learning rate :math:`\eta`, at least 0, or a callable of the step.  Default 0.01.
        eps: Added to the denominator for numerical stability, at least 0.  Default 1e-10.
        eps_root: Added under the square root, at least 0.  Default 0.0.
        lr_decay: Decay of the learning rate with the step, at least 0.  Default 0.0.
        initial_accumulator_value: Initial value of :math:`s`, at least 0.  Default 0.0.
        l1_regularization: :math:`\ell_1`, at least 0.  Default 0.0.
        l2_regularization: :math:`\ell_2`, at least 0.  Default 0.0.
        convention: "torch" and "paper", as above; "optax", with `eps` 0, `eps_root` 1e-7 and
            `initial_accumulator_value` 0.1; "keras", with the same and `lr` 1e-3.  Default "torch".
        **shared: Weight decay, clipping, averages and the rest that every optimizer has; see `Optimizer`.

    Raises:
        ValueError: If an option is out of range.

    Source: Duchi, Hazan & Singer, "Adaptive subgradient methods for online learning and stochastic optimization",
    JMLR 12, 2011; the proximal step as in tf.compat.v1.train.ProximalAdagradOptimizer.

    >>> import numpy as np, fastoptim as fo
    >>> p = np.array([1.0, 1.0])
    >>> fo.Adagrad(p, lr=0.1).step(np.array([100.0, -0.01]))
    >>> p.round(6)
    array([0.9, 1.1])
    """

    name = "adagrad"
    variants = {"adagrad": ("s",), "adagrad_proximal": ("s",)}
    state_schema = {"s": StateArray(initial=itemgetter("initial_accumulator_value"))}
    conventions = {
        "torch": {},
        "keras": {"lr": 1e-3, "eps": 0.0, "eps_root": 1e-7, "initial_accumulator_value": 0.1},
        "optax": {"eps": 0.0, "eps_root": 1e-7, "initial_accumulator_value": 0.1},
        "paper": {},
    }

    lr: LearningRate = 0.01
    eps: NonNegative = 1e-10
    eps_root: NonNegative = 0.0
    lr_decay: NonNegative = 0.0
    initial_accumulator_value: NonNegative = 0.0
    l1_regularization: NonNegative = 0.0
    l2_regularization: NonNegative = 0.0
    convention: Literal["torch", "keras", "optax", "paper"] = argument(default="torch", kw_only=True)

    @staticmethod
    def variant(*, l1_regularization: float, l2_regularization: float, **_: Any) -> str:
        """Return the rule with the proximal step or without it."""
        return "adagrad_proximal" if l1_regularization or l2_regularization else "adagrad"

    @staticmethod
    def reference(
        p: Array,
        g: Array,
        s: Array,
        *,
        t: int,
        lr: float,
        eps: float,
        eps_root: float,
        lr_decay: float,
        l1_regularization: float,
        l2_regularization: float,
        **_: Any,
    ) -> None:
        """The formula in NumPy."""
        number = p.dtype.type
        step_size = number(lr / (1 + (t - 1) * lr_decay))
        s += g * g
        denominator = np.sqrt(s + number(eps_root)) + number(eps)
        if l1_regularization or l2_regularization:
            proximal_step(p, g, step_size / denominator, l1_regularization, l2_regularization)
        else:
            p -= step_size * g / denominator
