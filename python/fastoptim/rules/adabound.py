"""AdaBound and AMSBound."""

from __future__ import annotations

import math
from typing import Annotated, Any

import numpy as np

from ..optimizer.base import Optimizer
from ..options.checks import Decay, LearningRate, NonNegative, Range
from ..options.schema import StateArray
from ..reference_math import Array, bias_correction_of, decay, maximum


class AdaBound(Optimizer):
    r"""AdaBound: Adam whose step sizes are clamped to bounds that converge to one SGD learning rate.

    .. math::
        m &= \beta_1 m + (1 - \beta_1) g, \qquad v = \beta_2 v + (1 - \beta_2) g^2 \\
        a &= \eta\, \frac{\sqrt{1 - \beta_2^t}}{1 - \beta_1^t} \Big/ (\sqrt v + \epsilon), \qquad
             f = \eta_\text{final} \cdot \eta / \eta_\text{base} \\
        p &= p - \min\Big(\max\Big(a,\; f \Big(1 - \frac{1}{\gamma t + 1}\Big)\Big),\;
             f \Big(1 + \frac{1}{\gamma t}\Big)\Big)\, m

    With `amsbound` the running maximum of :math:`v` replaces :math:`v`, as in `Adam` with `amsgrad`.

    Starts like Adam and ends like SGD with momentum and the learning rate `final_lr`, which should therefore suit SGD.
    With `gamma` 1e-3 the step sizes are within a factor of two of it after 1000 steps; with 0 the method remains Adam.

    The formula and the defaults, except `base_lr`, are those of the authors' code.  The paper has :math:`\gamma = 1 -
    \beta_2`, no :math:`\epsilon`, and a learning rate that decreases with the square root of the step.

    Args:
        params: Arrays to update in place; see `Optimizer`.
        lr: Initial learning rate :math:`\eta`, at least 0, or a callable of the step.  Default 1e-3.
        betas: :math:`\beta_1` and :math:`\beta_2`, decay rates of the moving averages, each in [0, 1).  Default (0.9,
            0.999).
        final_lr: :math:`\eta_\text{final}`, the step size to which the bounds converge, at least 0.  Default 0.1.
        gamma: :math:`\gamma`, the speed of that convergence, at least 0.  Default 1e-3.
        eps: :math:`\epsilon`, at least 0, added to the denominator for numerical stability.  Default 1e-8.
        amsbound: Divide by the running maximum of :math:`v`, which is one more state array.  Default False.
        base_lr: :math:`\eta_\text{base}`, above 0: scale the bounds by `lr` / `base_lr`, so that they follow a schedule
            of `lr` that starts from this value, as in the authors' code.  With None the bounds do not depend on `lr`.
            Default None.
        **shared: Weight decay, clipping, averages and the rest that every optimizer has; see `Optimizer`.

    Raises:
        ValueError: If an option is out of range.

    Source: Luo et al., "Adaptive gradient methods with dynamic bound of learning rate", ICLR 2019, arXiv:1902.09843.

    >>> import numpy as np, fastoptim as fo
    >>> p = np.array([1.0, 1.0])
    >>> fo.AdaBound(p, lr=0.1).step(np.array([100.0, -0.01]))
    >>> p.round(4)
    array([0.9, 1.1])
    """

    name = "adabound"
    variants = {"adabound": ("m", "v"), "adabound_amsbound": ("m", "v", "v_max")}
    state_schema = {"m": StateArray(compress="signed"), "v": StateArray(compress="non-negative")}
    host_constants = ("lr_ratio",)

    lr: LearningRate = 1e-3
    betas: tuple[Decay, Decay] = (0.9, 0.999)
    final_lr: NonNegative = 0.1
    gamma: NonNegative = 1e-3
    eps: NonNegative = 1e-8
    amsbound: bool = False
    base_lr: Annotated[float, Range(float.fromhex("0x1p-1000"))] | None = None

    @staticmethod
    def variant(*, amsbound: bool, **_: Any) -> str:
        """Return the rule for AMSBound, which has one more state array, or for AdaBound."""
        return "adabound_amsbound" if amsbound else "adabound"

    @staticmethod
    def compute_host_constants(*, lr: float, base_lr: float | None) -> dict[str, float]:
        """Return the ratio of the learning rate to its initial value."""
        return {"lr_ratio": 1.0 if base_lr is None else lr / base_lr}

    @staticmethod
    def reference(
        p: Array,
        g: Array,
        m: Array,
        v: Array,
        v_max: Array | None = None,
        *,
        t: int,
        lr: float,
        betas: tuple[float, float],
        final_lr: float,
        gamma: float,
        eps: float,
        lr_ratio: float,
        **_: Any,
    ) -> None:
        """The formula in NumPy."""
        number = p.dtype.type
        beta1, beta2 = (decay(p.dtype, beta) for beta in betas)
        one_minus_beta1, one_minus_beta2 = number(1 - float(beta1)), number(1 - float(beta2))
        bias_correction1, bias_correction2 = (bias_correction_of(float(beta), t) for beta in (beta1, beta2))
        step_size = number(lr * math.sqrt(bias_correction2) / bias_correction1)
        m[...] = beta1 * m + one_minus_beta1 * g
        v[...] = beta2 * v + one_minus_beta2 * g * g
        if v_max is not None:
            v_max[...] = maximum(v_max, v)
            v = v_max
        limit, gamma_t = final_lr * lr_ratio, gamma * t
        lower = number(limit / (1 + 1 / gamma_t) if gamma_t else 0.0)
        upper = number(limit * (1 + 1 / gamma_t) if gamma_t else math.inf)
        size = step_size / (np.sqrt(v) + number(eps))
        p -= np.where(size < lower, lower, np.where(size > upper, upper, size)) * m
