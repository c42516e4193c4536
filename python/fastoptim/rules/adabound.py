"""AdaBound and AMSBound."""

from __future__ import annotations

import math
from typing import Annotated, Any

import numpy as np

from ..optimizer.base import Optimizer
from ..options.checks import Decay, LearningRate, NonNegative, Range
from ..reference_math import Array, decay, maximum, power


class AdaBound(Optimizer):
    r"""AdaBound: Adam whose step sizes are held within bounds that close in on one of SGD.

    .. math::
        m &= \beta_1 m + (1 - \beta_1) g, \qquad v = \beta_2 v + (1 - \beta_2) g^2 \\
        a &= \eta\, \frac{\sqrt{1 - \beta_2^t}}{1 - \beta_1^t} \Big/ (\sqrt v + \epsilon), \qquad
             f = \eta_\text{final} \cdot \eta / \eta_\text{base} \\
        p &= p - \min\Big(\max\Big(a,\; f \Big(1 - \frac{1}{\gamma t + 1}\Big)\Big),\;
             f \Big(1 + \frac{1}{\gamma t}\Big)\Big)\, m

    With `amsbound` the running maximum of :math:`v` stands in place of :math:`v`, as in `Adam` with `amsgrad`.

    Starts as Adam and ends as SGD with momentum and the rate `final_lr`, which is to be what would suit SGD; with
    `gamma` 1e-3 it is within a factor of two of that after 1000 steps.  With 0 it stays Adam.

    The form and the defaults, but for `base_lr`, are those of the authors' code: the paper has
    :math:`\gamma = 1 - \beta_2`, no :math:`\epsilon`, and a learning rate that falls with the root of the step.

    Args:
        params: Arrays to update in place; see `Optimizer`.
        lr: Learning rate :math:`\eta` of the beginning, at least 0, or a callable of the step.
        betas: :math:`\beta_1` and :math:`\beta_2`, how slowly the means forget, each in [0, 1).
        final_lr: :math:`\eta_\text{final}`, the rate that the bounds close in on, at least 0.
        gamma: :math:`\gamma`, how fast they do, at least 0.
        eps: :math:`\epsilon`, at least 0, added to the root.
        amsbound: Divides by the largest mean so far; one more state array.
        base_lr: :math:`\eta_\text{base}`, above 0: the bounds follow a schedule of `lr` in proportion to this, its
            value at the beginning, as in the authors' code.  With None they stay as they are whatever `lr` does.
        **shared: Weight decay, clipping, averages and the rest that every optimizer has; see `Optimizer`.

    Raises:
        ValueError: An option out of range.

    Source: Luo et al., "Adaptive gradient methods with dynamic bound of learning rate", ICLR 2019, arXiv:1902.09843.

    >>> import numpy as np, fastoptim as fo
    >>> p = np.array([1.0, 1.0])
    >>> fo.AdaBound(p, lr=0.1).step(np.array([100.0, -0.01]))
    >>> p.round(4)
    array([0.9, 1.1])
    """

    name = "adabound"
    variants = {"adabound": ("m", "v"), "adabound_amsbound": ("m", "v", "v_max")}
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
        """AMSBound keeps one array more."""
        return "adabound_amsbound" if amsbound else "adabound"

    @staticmethod
    def compute_host_constants(*, lr: float, base_lr: float | None) -> dict[str, float]:
        """How the bounds follow the learning rate."""
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
        bias1, bias2 = (1 - power(float(beta), t) for beta in (beta1, beta2))
        m[...] = beta1 * m + number(1 - float(beta1)) * g
        v[...] = beta2 * v + number(1 - float(beta2)) * g * g
        if v_max is not None:
            v_max[...] = maximum(v_max, v)
            v = v_max
        goal, closing = final_lr * lr_ratio, gamma * t
        lower = goal * (1 - 1 / (closing + 1))
        upper = goal * (1 + 1 / closing) if closing else math.inf
        size = number(lr * math.sqrt(bias2) / bias1) / (np.sqrt(v) + number(eps))
        p -= np.where(size < number(lower), number(lower), np.where(size > number(upper), number(upper), size)) * m
