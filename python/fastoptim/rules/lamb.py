"""LAMB."""

from __future__ import annotations

import math
from typing import Any, Literal

import numpy as np

from ..optimizer.base import Optimizer
from ..options.checks import Decay, LearningRate, NonNegative
from ..options.fields import argument
from ..options.schema import StateArray
from ..reference_math import Array, bias_correction_of, decay, maximum, minimum, shrink, square, total


class LAMB(Optimizer):
    r"""LAMB: Adam's step, scaled for each array by the trust ratio of the norms of parameter and step.

    .. math::
        m &= \beta_1 m + (1 - \beta_1) g, \qquad \hat m = m / (1 - \beta_1^t) \\
        v &= \beta_2 v + (1 - \beta_2) g^2, \qquad \hat v = v / (1 - \beta_2^t) \\
        u &= \hat m / (\sqrt{\hat v + \epsilon_\text{root}} + \epsilon) + \lambda p \\
        p &= p - \eta \frac{\lVert p \rVert}{\lVert u \rVert} u \qquad (1 \text{ where a norm is } 0)

    For training transformers with very large batches and a warm-up; `weight_decay` 0.01 is usual.

    The norms are sums in double with a fixed order, so the result does not depend on the number of threads.

    Args:
        params: Arrays to update in place; see `Optimizer`.
        lr: Learning rate :math:`\eta`, at least 0, or a callable of the step.  Default 1e-3.
        betas: :math:`\beta_1` and :math:`\beta_2`, decay rates of the moving averages, each in [0, 1).  Default (0.9,
            0.999).
        eps: Added to the denominator for numerical stability, at least 0.  Default 1e-6.
        eps_root: Added under the square root, at least 0.  Default 0.0.
        bias_correction: If False, :math:`\hat m = m` and :math:`\hat v = v`.  Default True.
        min_trust: Lower bound of the trust ratio where no norm is 0, at least 0.  Default 0.0.
        max_trust: Upper bound of the same, at least 0 and not below `min_trust`, or None; DeepSpeed's bounds are 0.01
            and 10.  Default None.
        convention: "paper" and "optax"; or "keras", with `eps` 1e-7 and `decoupled`: weight decay is applied before the
            norms are taken, outside the trust ratio.  Default "paper".
        **shared: Weight decay, clipping, averages and the rest that every optimizer has; see `Optimizer`.

    Raises:
        ValueError: If an option is out of range.

    Source: You et al., 2020, arXiv:1904.00962, with the identity for its :math:`\phi`.

    >>> import numpy as np, fastoptim as fo
    >>> p = np.array([3.0, 4.0])
    >>> fo.LAMB(p, lr=0.1, eps=0).step(np.array([1.0, -10.0]))
    >>> p.round(6)
    array([2.646447, 4.353553])
    """

    name = "lamb"
    variants = {"lamb": ("m", "v")}
    state_schema = {"m": StateArray(compress="signed"), "v": StateArray(compress="non-negative")}
    decays_itself = True
    conventions = {"paper": {}, "optax": {}, "keras": {"eps": 1e-7, "decoupled": True}}

    lr: LearningRate = 1e-3
    betas: tuple[Decay, Decay] = (0.9, 0.999)
    eps: NonNegative = 1e-6
    eps_root: NonNegative = 0.0
    bias_correction: bool = True
    min_trust: NonNegative = 0.0
    max_trust: NonNegative | None = None
    convention: Literal["paper", "optax", "keras"] = argument(default="paper", kw_only=True)

    @classmethod
    def variant(cls, *, min_trust: float, max_trust: float | None, **_: Any) -> str:
        """Return the rule; ValueError for bounds that exclude every ratio."""
        if max_trust is not None and max_trust < min_trust:
            raise ValueError(f"max_trust: expected at least min_trust, {min_trust}, got {max_trust}")
        return super().variant()

    @staticmethod
    def reduce_terms(p: Array, g: Array, m: Array, v: Array, **options: Any) -> tuple[float, ...]:
        """Update the moving averages; return the squared norms of the parameter and of its unscaled step."""
        number = p.dtype.type
        beta1, beta2 = (decay(p.dtype, beta) for beta in options["betas"])
        one_minus_beta1, one_minus_beta2 = number(1 - float(beta1)), number(1 - float(beta2))
        m[...] = beta1 * m + one_minus_beta1 * g
        v[...] = beta2 * v + one_minus_beta2 * g * g
        decayed, step = _unscaled_step(p, m, v, **options)
        return total(square(decayed)), total(square(step))

    @staticmethod
    def reference(
        p: Array,
        g: Array,
        m: Array,
        v: Array,
        *,
        lr: float,
        min_trust: float,
        max_trust: float | None,
        sums: tuple[float, float],
        **options: Any,
    ) -> None:
        """The formula in NumPy; `reduce_terms` has updated the moving averages."""
        p_norm, step_norm = map(math.sqrt, sums)
        trust_ratio = 1.0
        if p_norm > 0 and step_norm > 0:
            ratio, high = np.float64(p_norm / step_norm), np.float64(math.inf if max_trust is None else max_trust)
            trust_ratio = float(minimum(maximum(ratio, np.float64(min_trust)), high))
        p[...], step = _unscaled_step(p, m, v, lr=lr, **options)
        p -= p.dtype.type(lr * trust_ratio) * step


def _unscaled_step(
    p: Array,
    m: Array,
    v: Array,
    *,
    t: int,
    lr: float,
    betas: tuple[float, float],
    eps: float,
    eps_root: float,
    bias_correction: bool,
    weight_decay: float,
    decoupled: bool,
    **_: Any,
) -> tuple[Array, Array]:
    """Return the parameter, after any decoupled weight decay, and the step before the trust ratio."""
    number = p.dtype.type
    beta1, beta2 = (decay(p.dtype, beta) for beta in betas)
    bias_correction1 = bias_correction_of(float(beta1), t) if bias_correction else 1.0
    bias_correction2 = bias_correction_of(float(beta2), t) if bias_correction else 1.0
    root = math.sqrt(bias_correction2)
    denominator = np.sqrt(v + number(eps_root * bias_correction2)) + number(eps * root)
    step = number(root / bias_correction1) * m / denominator
    if decoupled:
        return shrink(p, lr * weight_decay), step
    return p, step + number(weight_decay) * p
