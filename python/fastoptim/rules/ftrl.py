"""FTRL-proximal."""

from __future__ import annotations

from typing import Any, Literal

import numpy as np

from ..optimizer.base import Optimizer
from ..options.checks import LearningRate, NonNegative
from ..options.fields import argument
from ..options.schema import StateArray
from ..reference_math import Array, maximum, minimum


class FTRL(Optimizer):
    r"""FTRL-proximal: follows the regularised leader, and so keeps parameters at exactly zero.

    .. math::
        \sigma &= (\sqrt{n + g^2} - \sqrt n) / \eta, \qquad n = n + g^2 \\
        z &= z + g + \kappa \lambda_s p - \sigma p \\
        p &= \frac{\operatorname{clip}(z, \pm\lambda_1) - z}{(\beta + \sqrt n) / \eta + \kappa \lambda_2}

    with :math:`\kappa = 1` if `half_l2`, else 2.  For linear models of many sparse features: where
    :math:`|z| \le \lambda_1` the parameter is 0, exactly.  Rates are those of Adagrad, 0.01 to 1.

    The minimum does not know where the parameters started: with `initial_accumulator_value` or `beta` above 0 the
    first step forgets much of that, which for a network is its random start.  Give it ``initial_accumulator_value=0,
    beta=0``; then the first step is that of Adagrad, and a parameter without a gradient so far stays (the formula there
    is 0/0, and Keras' parameters become NaN).  With a learning rate of 0 the parameters rest, while the sums go on.

    The power of the sum is that of the paper, the root; Keras' `learning_rate_power` is -0.5 here.

    Args:
        params: Arrays to update in place; see `Optimizer`.
        lr: Learning rate :math:`\eta` (the paper's :math:`\alpha`), at least 0, or a callable of the step.
        beta: :math:`\beta`, added to the root, at least 0: shortens the first steps.
        l1_regularization: :math:`\lambda_1`, at least 0: the range of :math:`z` that is 0.  Unlike `l1`, which adds a
            gradient, it makes zeros.
        l2_regularization: :math:`\lambda_2`, at least 0: pulls the minimum towards 0.
        l2_shrinkage: :math:`\lambda_s`, at least 0: the gradient of a penalty, kept out of :math:`n`.
        half_l2: Whether those two penalties are half the squared norm times :math:`\lambda`, as in the paper, or the
            whole.
        initial_accumulator_value: :math:`n` before the first step, at least 0.
        convention: "paper"; or "keras": the whole squared norm, and Keras 3's defaults.
        **shared: Weight decay, clipping, averages and the rest that every optimizer has; see `Optimizer`.

    Raises:
        ValueError: An option out of range.

    Source: McMahan et al., "Ad Click Prediction: a View from the Trenches", 2013, doi:10.1145/2487575.2488200;
    shrinkage as in Keras 3.

    >>> import numpy as np, fastoptim as fo
    >>> p = np.zeros(2)
    >>> fo.FTRL(p, lr=0.5, l1_regularization=1.0).step(np.array([3.0, -1.0]))
    >>> p
    array([-0.25,  0.  ])
    """

    name = "ftrl"
    variants = {"ftrl": ("n", "z")}
    state_schema = {"n": StateArray(initial=lambda options: options["initial_accumulator_value"])}
    conventions = {
        "paper": {},
        "keras": {"lr": 1e-3, "beta": 0.0, "half_l2": False, "initial_accumulator_value": 0.1},
    }

    lr: LearningRate = 0.1
    beta: NonNegative = 1.0
    l1_regularization: NonNegative = 0.0
    l2_regularization: NonNegative = 0.0
    l2_shrinkage: NonNegative = 0.0
    half_l2: bool = True
    initial_accumulator_value: NonNegative = 0.0
    convention: Literal["paper", "keras"] = argument(default="paper", kw_only=True)

    @staticmethod
    def variant(**_: Any) -> str:
        """There is one."""
        return "ftrl"

    @staticmethod
    def reference(
        p: Array,
        g: Array,
        n: Array,
        z: Array,
        *,
        t: int,
        lr: float,
        beta: float,
        l1_regularization: float,
        l2_regularization: float,
        l2_shrinkage: float,
        half_l2: bool,
        initial_accumulator_value: float,
    ) -> None:
        """The formula in NumPy, the fraction with both halves times the learning rate."""
        number = p.dtype.type
        rests = number(lr) == 0
        slope = 1 if half_l2 else 2
        before = np.sqrt(n)
        n[...] = n + g * g
        after = np.sqrt(n)
        inverse = number(0 if rests else 1 / lr)
        z[...] = z + (g + number(slope * l2_shrinkage) * p - inverse * (after - before) * p)
        bound = number(l1_regularization)
        curvature = after + number(beta + slope * l2_regularization * lr)
        stays = curvature <= (np.inf if rests else 0)
        least = number(lr) * (maximum(minimum(z, bound), -bound) - z) / curvature
        p[...] = np.where(stays, p, least)
