"""Yogi."""

from __future__ import annotations

import math
from typing import Any, Literal

import numpy as np

from ..optimizer.base import Optimizer
from ..options.checks import Decay, LearningRate, NonNegative
from ..options.fields import argument
from ..options.schema import StateArray
from ..reference_math import Array, decay, power, sign


class Yogi(Optimizer):
    r"""Yogi: Adam whose mean of the squares moves by a share of the present square alone, and so never falls fast.

    .. math::
        m &= \beta_1 m + (1 - \beta_1) g \\
        v &= v - (1 - \beta_2) \operatorname{sign}(v - g^2)\, g^2 \\
        p &= p - \eta\, m / (\sqrt v + \epsilon)

    With `bias_correction` :math:`m / (1 - \beta_1^t)` and :math:`v / (1 - \beta_2^t)` stand in the last line.

    For gradients that are mostly small and now and then large, where Adam forgets the large ones; with the large
    `eps` it needs a larger learning rate than Adam, 1e-2.

    Args:
        params: Arrays to update in place; see `Optimizer`.
        lr: Learning rate :math:`\eta`, at least 0, or a callable of the step.
        betas: :math:`\beta_1`, how slowly the mean forgets, and :math:`\beta_2`, how slowly the squares are followed,
            each in [0, 1).
        eps: :math:`\epsilon`, at least 0, added to the root.
        bias_correction: Corrects both means for their start, as Adam does.
        initial_accumulator_value: What :math:`v` starts from, at least 0.
        initial_mean: What :math:`m` starts from, at least 0.
        convention: "paper"; "optax", with `bias_correction` and an `initial_mean` of 1e-6.
        **shared: Weight decay, clipping, averages and the rest that every optimizer has; see `Optimizer`.

    Raises:
        ValueError: An option out of range.

    Source: Zaheer et al., "Adaptive methods for nonconvex optimization", NeurIPS 2018.

    >>> import numpy as np, fastoptim as fo
    >>> p = np.array([1.0, 1.0])
    >>> fo.Yogi(p, lr=0.1, convention="optax").step(np.array([100.0, -1.0]))
    >>> p.round(3)
    array([0.9, 1.1])
    """

    name = "yogi"
    variants = {"yogi": ("m", "v")}
    state_schema = {
        "m": StateArray(initial=lambda options: options["initial_mean"]),
        "v": StateArray(initial=lambda options: options["initial_accumulator_value"]),
    }
    conventions = {"paper": {}, "optax": {"bias_correction": True, "initial_mean": 1e-6}}

    lr: LearningRate = 1e-2
    betas: tuple[Decay, Decay] = (0.9, 0.999)
    eps: NonNegative = 1e-3
    bias_correction: bool = False
    initial_accumulator_value: NonNegative = 1e-6
    initial_mean: NonNegative = 0.0
    convention: Literal["paper", "optax"] = argument(default="paper", kw_only=True)

    @staticmethod
    def variant(**_: Any) -> str:
        """There is one."""
        return "yogi"

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
        **_: Any,
    ) -> None:
        """The formula in NumPy."""
        number = p.dtype.type
        beta1, beta2 = (decay(p.dtype, beta) for beta in betas)
        bias1, bias2 = (1 - power(float(beta), t) if bias_correction else 1.0 for beta in (beta1, beta2))
        square = g * g
        m[...] = beta1 * m + number(1 - float(beta1)) * g
        v -= number(1 - float(beta2)) * sign(v - square) * square
        p -= number(lr * math.sqrt(bias2) / bias1) * m / (np.sqrt(v) + number(eps * math.sqrt(bias2)))
