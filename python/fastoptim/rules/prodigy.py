"""Prodigy."""

from __future__ import annotations

import math
from typing import Annotated, Any

import numpy as np

from ..optimizer.base import Optimizer
from ..options.checks import Decay, LearningRate, NonNegative, Range
from ..options.fields import option
from ..options.schema import StateArray
from ..reference_math import Array, decay, power, total


class Prodigy(Optimizer):
    r"""Prodigy: Adam that estimates its own learning rate from how far the parameters have come.

    .. math::
        r &= \beta_3 r + \tfrac{d}{d_0}\, d \eta\, \langle g, p_0 - p \rangle, \qquad
        s = \beta_3 s + \tfrac{d}{d_0}\, d \eta\, g \\
        m &= \beta_1 m + (1 - \beta_1)\, d g, \qquad v = \beta_2 v + (1 - \beta_2)\, d^2 g^2 \\
        d' &= \max(d, c\, r / \lVert s \rVert_1), \qquad
        p_0 \text{ where the parameters started} \\
        p &= p - \eta d\, m / (\sqrt v + d' \epsilon)

    Leave `lr` at 1, if need be with a schedule that ends at 0.  The sums run over all arrays of a group, in their
    order (the authors' code adds up all groups); each array keeps a copy of the group's three numbers, and one without
    a gradient misses that step's: an array whose gradients begin when the others' estimate has grown hardly moves, and
    belongs into a group of its own.  16-bit parameters want a larger `d0`: at 1e-6 they do not move at all, and then
    there is nothing to estimate from.

    The sums are in double and of a fixed shape, so their bits do not depend on threads.

    Args:
        params: Arrays to update in place; see `Optimizer`.
        lr: A factor :math:`\eta` on the estimated rate, at least 0, or a callable of the step.
        betas: :math:`\beta_1` and :math:`\beta_2`, how slowly the means forget, each in [0, 1).
        beta3: How slowly the estimate forgets, in [0, 1); None for the root of :math:`\beta_2`.
        eps: Added to the root, times the estimate.
        d0: :math:`d_0`, the first estimate, above 0; too large a one is never corrected.
        d_coef: :math:`c`, a factor on the estimate.
        growth_rate: The estimate grows by no more than this factor a step; None for no bound.
        safeguard_warmup: Leaves :math:`\eta` out of :math:`s`, so that a warm-up does not inflate the estimate.
        bias_correction: Corrects the rate for the means' start at zero, as Adam does.
        decoupled: Whether weight decay shrinks the parameters themselves, by the learning rate in use, :math:`\eta d`,
            times `weight_decay`; else it joins the gradient.
        **shared: Weight decay, clipping, averages and the rest that every optimizer has; see `Optimizer`.

    Raises:
        ValueError: An option out of range.

    Source: Mishchenko & Defazio, 2024, arXiv:2306.06101.  As in the authors' code, :math:`d` in the step and in the
    means is the estimate before this step.

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
        "p0": StateArray(initial="p"),
        "d": StateArray("scalar", initial=lambda options: options["d0"]),
        "d_max": StateArray("scalar", initial=lambda options: options["d0"]),
        "d_numerator": StateArray("scalar"),
    }
    decays_itself = True
    reduces_group = True
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
    def variant(**_: Any) -> str:
        """One rule."""
        return "prodigy"

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
        """Takes the gradient into the means; how far it agrees with the way come, and what to compare that with."""
        number, estimate = p.dtype.type, float(d)
        if not decoupled:
            g = g + number(weight_decay) * p
        beta1, beta2 = (decay(p.dtype, beta) for beta in betas)
        keep3 = decay(p.dtype, beta3)
        weight = estimate if safeguard_warmup else estimate * _rate(p, t, lr, betas, bias_correction)
        m[...] = beta1 * m + number(estimate * (1 - float(beta1))) * g
        v[...] = beta2 * v + number(estimate * estimate * (1 - float(beta2))) * g * g
        s[...] = keep3 * s + number(estimate / d0 * weight) * g
        return total(g.astype(np.float64) * (p0 - p).astype(np.float64)), total(np.abs(s))

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
        """The formula in NumPy; `reduce_terms` has updated the means."""
        number, before = p.dtype.type, float(d)
        agreement, size = sums
        rate = _rate(p, t, lr, betas, bias_correction)
        d_numerator[...] = beta3 * float(d_numerator) + before / d0 * (before * rate) * agreement
        if size == 0:
            return
        if rate > 0:
            estimate = d_coef * float(d_numerator) / size
            grown = estimate if before == d0 and estimate > before else before
            d_max[...] = estimate if estimate > d_max else d_max
            d[...] = min(float(d_max), grown * growth_rate)
        if decoupled:
            p *= number(1 - float(number(weight_decay)) * (before * rate))
        p -= number(before * rate) * m / (np.sqrt(v) + number(float(d) * eps))

    @staticmethod
    def compute_host_constants(
        *, betas: tuple[float, float], beta3: float | None, growth_rate: float | None
    ) -> dict[str, float]:
        """What None stands for."""
        return {
            "beta3": math.sqrt(betas[1]) if beta3 is None else beta3,
            "growth_rate": math.inf if growth_rate is None else growth_rate,
        }


def _rate(p: Array, t: int, lr: float, betas: tuple[float, float], bias_correction: bool) -> float:
    """The learning rate but for the estimate."""
    if not bias_correction:
        return lr
    bias1, bias2 = (1 - power(float(decay(p.dtype, beta)), t) for beta in betas)
    return lr * math.sqrt(bias2) / bias1
