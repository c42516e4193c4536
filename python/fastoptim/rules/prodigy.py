"""Prodigy."""

from __future__ import annotations

import math
from operator import itemgetter
from typing import Annotated, Any

import numpy as np

from ..optimizer.base import Optimizer
from ..options.checks import Decay, LearningRate, NonNegative, Range
from ..options.fields import option
from ..options.schema import StateArray
from ..reference_math import Array, bias_correction_of, decay, shrink, total


class Prodigy(Optimizer):
    r"""Prodigy: Adam that estimates its learning rate from the distance of the parameters to their initial values.

    .. math::
        r &= \beta_3 r + \tfrac{d}{d_0}\, d \eta\, \langle g, p_0 - p \rangle, \qquad
        s = \beta_3 s + \tfrac{d}{d_0}\, d \eta\, g \\
        m &= \beta_1 m + (1 - \beta_1)\, d g, \qquad v = \beta_2 v + (1 - \beta_2)\, d^2 g^2 \\
        d' &= \max(d, c\, r / \lVert s \rVert_1) \\
        p &= p - \eta d\, m / (\sqrt v + d' \epsilon)

    with :math:`p_0` the parameters before the first step.  Leave `lr` at 1, or use a schedule that ends at 0.  The sums
    run over all arrays of all groups, in their order, and the estimate and the step count are the optimizer's.  Each
    array stores a copy of the three numbers, which every step updates, also one without its gradient: an array whose
    gradients begin late uses the present estimate.  A group whose `d0`, `betas`, `beta3`, `d_coef` or `growth_rate` is
    its own has an estimate of its own from the same sums; `lr` may differ, too.  16-bit parameters need a larger `d0`:
    at 1e-6 they do not change at all, and the estimate cannot grow.

    The sums are in double with a fixed order, so the result does not depend on the number of threads.

    Args:
        params: Arrays to update in place; see `Optimizer`.
        lr: Factor :math:`\eta` of the estimated learning rate, at least 0, or a callable of the step.  Default 1.0.
        betas: :math:`\beta_1` and :math:`\beta_2`, decay rates of the moving averages, each in [0, 1).  Default (0.9,
            0.999).
        beta3: Decay rate of the estimate, in [0, 1); None for the square root of :math:`\beta_2`.  Default None.
        eps: :math:`\epsilon`, at least 0, times the estimate, is added to the denominator for numerical stability.
            Default 1e-8.
        d0: :math:`d_0`, the initial estimate, above 0.  The estimate never decreases, so it must not be too large.
            Default 1e-6.
        d_coef: :math:`c`, a factor of the estimate, at least 0.  Default 1.0.
        growth_rate: Maximum growth factor of the estimate per step, at least 1; None for no limit.  Default None.
        safeguard_warmup: Omit :math:`\eta` from :math:`s`, so that a warm-up does not inflate the estimate.  Default
            False.
        bias_correction: Multiply the learning rate by Adam's bias corrections.  Default False.
        decoupled: Multiply the parameters by the weight decay, with the estimated learning rate :math:`\eta d`; if
            False, it is added to the gradient.  Default True.
        **shared: Weight decay, clipping, averages and the rest that every optimizer has; see `Optimizer`.

    Raises:
        ValueError: If an option is out of range.

    Source: Mishchenko & Defazio, 2024, arXiv:2306.06101.  As in the authors' code, :math:`d` in the step and in the
    moving averages is the estimate before this step.

    >>> import numpy as np, fastoptim as fo
    >>> p = np.array([10.0, -10.0])
    >>> opt = fo.Prodigy(p)
    >>> for _ in range(100):
    ...     opt.step(2 * p)
    >>> abs(p) < 1
    array([ True,  True])
    """

    name = "prodigy"
    variants = {"prodigy": ("m", "v", "s", "p0", "d", "d_max", "d_numerator")}
    state_schema = {
        "m": StateArray(compress="signed"),
        "v": StateArray(compress="non-negative"),
        "p0": StateArray(initial="p"),
        "d": StateArray("scalar", initial=itemgetter("d0")),
        "d_max": StateArray("scalar", initial=itemgetter("d0")),
        "d_numerator": StateArray("scalar"),
    }
    decays_itself = True
    reduces_all = True
    host_constants = ("beta3", "growth_rate")

    lr: LearningRate = 1.0
    betas: tuple[Decay, Decay] = (0.9, 0.999)
    beta3: Decay | None = None
    eps: NonNegative = 1e-8
    d0: Annotated[float, Range(1e-30, 1e30)] = 1e-6
    d_coef: NonNegative = 1.0
    growth_rate: Annotated[float, Range(1.0)] | None = None
    safeguard_warmup: bool = False
    bias_correction: bool = False
    decoupled: bool = option(default=True, kw_only=True)

    @staticmethod
    def reduce_terms(
        p: Array,
        g: Array,
        m: Array,
        v: Array,
        s: Array,
        p0: Array,
        d: Array,
        *,
        t: int,
        lr: float,
        betas: tuple[float, float],
        beta3: float,
        d0: float,
        safeguard_warmup: bool,
        bias_correction: bool,
        weight_decay: float,
        decoupled: bool,
        **_: Any,
    ) -> tuple[float, ...]:
        """Update the moving averages; return the inner product of lr*g and p0 - p, and the L1 norm of s."""
        number, previous_d = p.dtype.type, float(d)
        corrected_lr = _corrected_lr(p, t, lr, betas, bias_correction)
        if not decoupled:
            g = g + number(weight_decay) * p
        beta1, beta2 = (decay(p.dtype, beta) for beta in betas)
        one_minus_beta1, one_minus_beta2 = number(1 - float(beta1)), number(1 - float(beta2))
        m[...] = beta1 * m + number(previous_d * float(one_minus_beta1)) * g
        v[...] = beta2 * v + number(previous_d * previous_d * float(one_minus_beta2)) * g * g
        s_lr = previous_d if safeguard_warmup else previous_d * corrected_lr
        s[...] = decay(p.dtype, beta3) * s + number(previous_d / d0 * s_lr) * g
        return total(corrected_lr * (g.astype(np.float64) * (p0 - p).astype(np.float64))), total(np.abs(s))

    @staticmethod
    def reference(
        p: Array,
        g: Array,
        m: Array,
        v: Array,
        s: Array,
        p0: Array,
        d: Array,
        d_max: Array,
        d_numerator: Array,
        *,
        t: int,
        lr: float,
        betas: tuple[float, float],
        beta3: float,
        eps: float,
        d0: float,
        d_coef: float,
        growth_rate: float,
        safeguard_warmup: bool,
        bias_correction: bool,
        weight_decay: float,
        decoupled: bool,
        sums: tuple[float, float],
    ) -> None:
        """The formula in NumPy; `reduce_terms` has updated the moving averages."""
        number, previous_d = p.dtype.type, float(d)
        inner_product, s_norm = sums
        corrected_lr = _corrected_lr(p, t, lr, betas, bias_correction)
        scaled_lr = previous_d * corrected_lr
        d_numerator[...] = beta3 * float(d_numerator) + previous_d / d0 * previous_d * inner_product
        if s_norm == 0:
            return
        if corrected_lr > 0 or inner_product != 0:
            estimate = d_coef * float(d_numerator) / s_norm
            current_d = estimate if previous_d == d0 and estimate > previous_d else previous_d
            d_max[...] = estimate if estimate > d_max else d_max
            d[...] = min(float(d_max), current_d * growth_rate)
        if decoupled:
            p[...] = shrink(p, float(number(weight_decay)) * scaled_lr)
        p -= number(scaled_lr) * m / (np.sqrt(v) + number(float(d) * eps))

    @staticmethod
    def compute_host_constants(
        *, betas: tuple[float, float], beta3: float | None, growth_rate: float | None
    ) -> dict[str, float]:
        """Replace None by the default of the paper or of the authors' code."""
        return {
            "beta3": math.sqrt(betas[1]) if beta3 is None else beta3,
            "growth_rate": math.inf if growth_rate is None else growth_rate,
        }


def _corrected_lr(p: Array, t: int, lr: float, betas: tuple[float, float], bias_correction: bool) -> float:
    """Return the learning rate with any bias corrections, without the estimate."""
    if not bias_correction:
        return lr
    bias_correction1, bias_correction2 = (bias_correction_of(float(decay(p.dtype, beta)), t) for beta in betas)
    return lr * math.sqrt(bias_correction2) / bias_correction1
