"""FTRL-proximal."""

from __future__ import annotations

from operator import itemgetter
from typing import Literal

import numpy as np

from ..optimizer.base import Optimizer
from ..options.checks import LearningRate, NonNegative
from ..options.fields import argument
from ..options.schema import StateArray
from ..reference_math import Array, maximum, minimum


class FTRL(Optimizer):
    r"""FTRL-proximal: follow the regularized leader; an L1 penalty makes parameters exactly zero.

    .. math::
        \sigma &= (\sqrt{n + g^2} - \sqrt n) / \eta, \qquad n = n + g^2 \\
        z &= z + g + \kappa \lambda_s p - \sigma p \\
        p &= \frac{\operatorname{clip}(z, \pm\lambda_1) - z}{(\beta + \sqrt n) / \eta + \kappa \lambda_2}

    with :math:`\kappa = 1` if `half_l2`, else 2.  For linear models of many sparse features: where :math:`|z| \le
    \lambda_1` the parameter is exactly 0.  Learning rates are those of Adagrad, 0.01 to 1.

    The minimum does not depend on the initial parameters.  With `initial_accumulator_value` or `beta` above 0, the
    first step discards much of them, which for a network is its random initialization.  With
    ``initial_accumulator_value=0, beta=0`` the first step is that of Adagrad, and a parameter whose gradients were all
    zero does not change (the formula is 0/0 there, and Keras' parameters become NaN).  With a learning rate of 0 the
    parameters do not change, and the sums are still updated.

    The exponent of the sum is the paper's, a square root; Keras' `learning_rate_power` is -0.5 here.

    Args:
        params: Arrays to update in place; see `Optimizer`.
        lr: Learning rate :math:`\eta` (the paper's :math:`\alpha`), at least 0, or a callable of the step.  Default
            0.1.
        beta: :math:`\beta`, added to the square root, at least 0; shortens the first steps.  Default 1.0.
        l1_regularization: :math:`\lambda_1`, at least 0: where :math:`|z|` is smaller, the parameter is 0.  Unlike
            `l1`, which adds to the gradient, it produces exact zeros.  Default 0.0.
        l2_regularization: :math:`\lambda_2`, at least 0: L2 penalty of the minimization.  Default 0.0.
        l2_shrinkage: :math:`\lambda_s`, at least 0: L2 penalty added to the gradient, but not to :math:`n`.  Default
            0.0.
        half_l2: Whether those two penalties are half the squared norm times :math:`\lambda`, as in the paper, or the
            whole squared norm.  Default True.
        initial_accumulator_value: Initial value of :math:`n`, at least 0.  Default 0.0.
        convention: "paper"; or "keras", with the whole squared norm and Keras 3's defaults.  Default "paper".
        **shared: Weight decay, clipping, averages and the rest that every optimizer has; see `Optimizer`.

    Raises:
        ValueError: If an option is out of range.

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
    state_schema = {"n": StateArray(initial=itemgetter("initial_accumulator_value"))}
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
        """The formula in NumPy, with numerator and denominator multiplied by the learning rate."""
        number = p.dtype.type
        is_zero = number(lr) == 0
        inverse_lr = number(0 if is_zero else 1 / lr)
        min_curvature = np.inf if is_zero else 0
        l2_scale = 1 if half_l2 else 2
        previous_root = np.sqrt(n)
        n[...] = n + g * g
        root = np.sqrt(n)
        z[...] = z + (g + number(l2_scale * l2_shrinkage) * p - inverse_lr * (root - previous_root) * p)
        l1 = number(l1_regularization)
        curvature = root + number(beta + l2_scale * l2_regularization * lr)
        minimizer = number(lr) * (maximum(minimum(z, l1), -l1) - z) / curvature
        p[...] = np.where(curvature <= min_curvature, p, minimizer)
