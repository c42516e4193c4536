"""Yogi."""

from __future__ import annotations

import math
from operator import itemgetter
from typing import Any, Literal

import numpy as np

from ..optimizer.base import Optimizer
from ..options.checks import Decay, LearningRate, NonNegative
from ..options.fields import argument
from ..options.schema import StateArray
from ..reference_math import Array, bias_correction_of, decay, proximal_step, sign


class Yogi(Optimizer):
    r"""Yogi: Adam whose second moment changes by at most (1 - beta2)*g^2 in a step, so it never drops fast.

    .. math::
        m &= \beta_1 m + (1 - \beta_1) g \\
        v &= v - (1 - \beta_2) \operatorname{sign}(v - g^2)\, g^2 \\
        p &= p - \eta\, m / (\sqrt v + \epsilon)

    With `bias_correction`, :math:`m / (1 - \beta_1^t)` and :math:`v / (1 - \beta_2^t)` replace :math:`m` and :math:`v`
    in the last line.

    With `l1_regularization` or `l2_regularization` the step is followed by the proximal operator of
    :math:`\ell_1 \lvert p \rvert + \frac{\ell_2}{2} p^2` at the rate :math:`r` of each element, the factor of :math:`m`
    above: :math:`p = \operatorname{sign}(p) \max(\lvert p \rvert - r \ell_1, 0) / (1 + r \ell_2)`.

    For gradients that are usually small and occasionally large, where Adam's average decays between the large ones.
    With the large `eps` it needs a larger learning rate than Adam, 1e-2.

    Args:
        params: Arrays to update in place; see `Optimizer`.
        lr: Learning rate :math:`\eta`, at least 0, or a callable of the step.  Default 1e-2.
        betas: :math:`\beta_1`, decay rate of the moving average, and :math:`\beta_2`, where :math:`1 - \beta_2` is the
            largest relative change of :math:`v`, each in [0, 1).  Default (0.9, 0.999).
        eps: :math:`\epsilon`, at least 0, added to the denominator for numerical stability.  Default 1e-3.
        bias_correction: Apply bias corrections to both averages, as in Adam.  Default False.
        initial_accumulator_value: Initial value of :math:`v`, at least 0.  Default 1e-6.
        initial_mean: Initial value of :math:`m`, at least 0.  Default 0.0.
        l1_regularization: :math:`\ell_1`, at least 0.  Default 0.0.
        l2_regularization: :math:`\ell_2`, at least 0.  Default 0.0.
        convention: "paper"; "optax", with `bias_correction` and an `initial_mean` of 1e-6.  Default "paper".
        **shared: Weight decay, clipping, averages and the rest that every optimizer has; see `Optimizer`.

    Raises:
        ValueError: If an option is out of range.

    Source: Zaheer et al., "Adaptive methods for nonconvex optimization", NeurIPS 2018.

    >>> import numpy as np, fastoptim as fo
    >>> p = np.array([1.0, 1.0])
    >>> fo.Yogi(p, lr=0.1, convention="optax").step(np.array([100.0, -1.0]))
    >>> p.round(3)
    array([0.9, 1.1])
    """

    name = "yogi"
    variants = {"yogi": ("m", "v"), "yogi_proximal": ("m", "v")}
    state_schema = {
        "m": StateArray(initial=itemgetter("initial_mean"), compress="signed"),
        "v": StateArray(initial=itemgetter("initial_accumulator_value"), compress="non-negative"),
    }
    conventions = {"paper": {}, "optax": {"bias_correction": True, "initial_mean": 1e-6}}

    lr: LearningRate = 1e-2
    betas: tuple[Decay, Decay] = (0.9, 0.999)
    eps: NonNegative = 1e-3
    bias_correction: bool = False
    initial_accumulator_value: NonNegative = 1e-6
    initial_mean: NonNegative = 0.0
    l1_regularization: NonNegative = 0.0
    l2_regularization: NonNegative = 0.0
    convention: Literal["paper", "optax"] = argument(default="paper", kw_only=True)

    @staticmethod
    def variant(*, l1_regularization: float, l2_regularization: float, **_: Any) -> str:
        """Return the rule with the proximal step or without it."""
        return "yogi_proximal" if l1_regularization or l2_regularization else "yogi"

    @staticmethod
    def reference(
        p: Array,
        g: Array,
        m: Array,
        v: Array,
        *,
        t: int,
        lr: float,
        betas: tuple[float, float],
        eps: float,
        bias_correction: bool,
        l1_regularization: float,
        l2_regularization: float,
        **_: Any,
    ) -> None:
        """The formula in NumPy."""
        number = p.dtype.type
        beta1, beta2 = (decay(p.dtype, beta) for beta in betas)
        one_minus_beta1, one_minus_beta2 = number(1 - float(beta1)), number(1 - float(beta2))
        bias_correction1 = bias_correction_of(float(beta1), t) if bias_correction else 1.0
        bias_correction2 = bias_correction_of(float(beta2), t) if bias_correction else 1.0
        step_size = number(lr * math.sqrt(bias_correction2) / bias_correction1)
        square = g * g
        m[...] = beta1 * m + one_minus_beta1 * g
        v -= one_minus_beta2 * sign(v - square) * square
        denominator = np.sqrt(v) + number(eps * math.sqrt(bias_correction2))
        if l1_regularization or l2_regularization:
            proximal_step(p, m, step_size / denominator, l1_regularization, l2_regularization)
        else:
            p -= step_size * m / denominator
