"""RAdam."""

from __future__ import annotations

import math
from typing import Annotated, Any, Literal

import numpy as np

from ..optimizer.base import Optimizer
from ..options.checks import Decay, LearningRate, NonNegative, Range
from ..options.fields import argument
from ..options.schema import StateArray
from ..reference_math import Array, bias_correction_of, decay, maximum


class RAdam(Optimizer):
    r"""RAdam: Adam with a built-in warm-up, its step rectified for the variance of the second moment.

    .. math::
        m &= \beta_1 m + (1 - \beta_1) g, \qquad \hat m = m / (1 - \beta_1^t), \qquad
        v = \beta_2 v + (1 - \beta_2) g^2 \\
        \rho_\infty &= \frac{2}{1 - \beta_2} - 1, \qquad
        \rho = \rho_\infty - \frac{2 t \beta_2^t}{1 - \beta_2^t} \\
        r &= \sqrt{\frac{(\rho - 4)(\rho - 2)\, \rho_\infty}{(\rho_\infty - 4)(\rho_\infty - 2)\, \rho}} \\
        p &= p - \eta\, r\, \hat m \sqrt{1 - \beta_2^t} / (\sqrt{v} + \epsilon)
             \text{ if } \rho > \text{threshold, else } p - \eta\, \hat m

    Without `eps_hat` the quotient is :math:`\hat m / (\sqrt{v / (1 - \beta_2^t)} + \epsilon)`.

    For problems where Adam needs a warm-up.  The first steps, 5 at :math:`\beta_2 = 0.999`, are those of momentum alone
    and proportional to the gradient; if they are too large, clip the gradient.

    The paper's threshold is 4.  It has no epsilon: with all gradients zero its step would be 0/0.

    Args:
        params: Arrays to update in place; see `Optimizer`.
        lr: Learning rate :math:`\eta`, at least 0, or a callable of the step.  Default 1e-3.
        betas: :math:`\beta_1` and :math:`\beta_2`, decay rates of the moving averages, each in [0, 1).  Default (0.9,
            0.999).
        eps: :math:`\epsilon`, at least 0, added to the denominator for numerical stability.  Default 1e-8.
        threshold: Value of :math:`\rho` above which the step is Adam's, at least 4, where :math:`r` becomes real.
            Default 5.0.
        eps_hat: Add epsilon before the bias correction of :math:`v`; if False, after it.  Default True.
        amsgrad: Use the maximum of :math:`v` over the steps so far in its place, as AMSGrad does.  Default False.
        convention: "torch", as above; "optax", without `eps_hat`; "paper", with `threshold` 4 and an unchanged `eps`.
            Default "torch".
        **shared: Weight decay, clipping, averages and the rest that every optimizer has; see `Optimizer`.

    Raises:
        ValueError: If an option is out of range.

    Source: Liu et al., "On the variance of the adaptive learning rate and beyond", ICLR 2020, arXiv:1908.03265.

    >>> import numpy as np, fastoptim as fo
    >>> p = np.array([1.0, 1.0])
    >>> fo.RAdam(p, lr=0.1).step(np.array([2.0, -0.5]))
    >>> p.round(6)
    array([0.8 , 1.05])
    """

    name = "radam"
    variants = {"radam": ("m", "v"), "radam_amsgrad": ("m", "v", "v_max")}
    state_schema = {"m": StateArray(compress="signed"), "v": StateArray(compress="non-negative")}
    conventions = {"torch": {}, "optax": {"eps_hat": False}, "paper": {"threshold": 4.0}}

    lr: LearningRate = 1e-3
    betas: tuple[Decay, Decay] = (0.9, 0.999)
    eps: NonNegative = 1e-8
    threshold: Annotated[float, Range(4)] = 5.0
    eps_hat: bool = True
    amsgrad: bool = False
    convention: Literal["torch", "optax", "paper"] = argument(default="torch", kw_only=True)

    @staticmethod
    def variant(*, amsgrad: bool, **_: Any) -> str:
        """Return the rule with the maximum, which has one more state array, or without it."""
        return "radam_amsgrad" if amsgrad else "radam"

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
        eps: float,
        threshold: float,
        amsgrad: bool,
        eps_hat: bool,
    ) -> None:
        """The formula in NumPy."""
        number = p.dtype.type
        beta1, beta2 = (decay(p.dtype, beta) for beta in betas)
        one_minus_beta1, one_minus_beta2 = number(1 - float(beta1)), number(1 - float(beta2))
        bias_correction1, bias_correction2 = (bias_correction_of(float(beta), t) for beta in (beta1, beta2))
        rho_inf = (1 + float(beta2)) / (1 - float(beta2))
        rho = _moving_average_length(float(beta2), t)
        m[...] = beta1 * m + one_minus_beta1 * g
        v[...] = beta2 * v + one_minus_beta2 * g * g
        if v_max is not None:
            v_max[...] = maximum(v_max, v)
            v = v_max
        step_size = lr / bias_correction1
        if not rho > threshold:
            p -= number(step_size) * m
            return
        root = math.sqrt(bias_correction2)
        step_size *= root * math.sqrt((rho - 4) * (rho - 2) * rho_inf / ((rho_inf - 4) * (rho_inf - 2) * rho))
        p -= number(step_size) * m / (np.sqrt(v) + number(eps if eps_hat else eps * root))


def _moving_average_length(beta: float, t: int) -> float:
    """Return the paper's rho, without its difference of nearly equal numbers.

    It is 2 q/c - 1 with c = 1 - beta^n and q the sum over i < n of beta^i - beta^n, for n = t.  The bits of t lead
    there in steps from n to 2 n and to n + 1, and every step adds positive numbers alone.
    """
    n, c, q, power = 0.0, 0.0, 0.0, 1.0
    for bit in f"{t:b}":
        q = q * (1 + power) + n * power * c
        c = c * (1 + power)
        n *= 2
        power = 1 - c if c <= 0.5 else power * power
        if bit == "1":
            n += 1
            q += n * power * (1 - beta)
            c += power * (1 - beta)
            power = 1 - c if c <= 0.5 else power * beta
    return 2 * (q / c) - 1
