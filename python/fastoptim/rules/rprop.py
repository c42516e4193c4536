"""Rprop."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any

import numpy as np

from ..optimizer.base import Optimizer
from ..options.checks import Decay, LearningRate, NonNegative, Range, rate_at
from ..options.schema import StateArray
from ..reference_math import Array, maximum, minimum, sign


def _first_rate(options: Mapping[str, Any]) -> float:
    return rate_at(options["lr"], 0, "lr")


class Rprop(Optimizer):
    r"""Rprop: a step size for each element that grows while the gradient keeps its sign and shrinks when it changes.

    .. math::
        \Delta &= \begin{cases} \eta^+ \Delta & g \cdot g_\text{prev} > 0 \\ \eta^- \Delta & g \cdot g_\text{prev} < 0
                  \\ \Delta & \text{else} \end{cases} \quad \text{within } [\Delta_\text{min}, \Delta_\text{max}] \\
        g &= 0 \text{ where } g \cdot g_\text{prev} < 0, \qquad g_\text{prev} = g \\
        p &= p - \Delta \operatorname{sign}(g)

    For full-batch gradient descent, where it needs no tuning.  Not for mini-batches, where noise changes the sign of
    the gradient.  ``optax.rprop`` computes a different method, with each update one step late.

    Of the published variants this is the one without weight backtracking (iRprop-), as in PyTorch.  Only signs are
    multiplied, so the product of two tiny gradients cannot underflow to zero.

    Args:
        params: Arrays to update in place; see `Optimizer`.
        lr: Initial value of every step size :math:`\Delta`, at least 0; of a callable the value at step 0.  Later
            changes have no effect.  Default 0.01.
        etas: :math:`\eta^-` in [0, 1) and :math:`\eta^+`, at least 1: factors of the step size.  Default (0.5, 1.2).
        step_sizes: :math:`\Delta_\text{min}` and :math:`\Delta_\text{max}`, at least 0: bounds of the step size.
            Default (1e-6, 50.0).
        **shared: Weight decay, clipping, averages and the rest that every optimizer has; see `Optimizer`.

    Raises:
        ValueError: If an option is out of range, or the bounds are in the wrong order.

    Source: Riedmiller & Braun, 1993, doi:10.1109/ICNN.1993.298623; iRprop-: Igel & Hüsken, 2003,
    doi:10.1016/S0925-2312(01)00700-7.

    >>> import numpy as np, fastoptim as fo
    >>> p = np.array([1.0, 1.0])
    >>> opt = fo.Rprop(p, lr=0.1)
    >>> opt.step(np.array([100.0, -0.01]))
    >>> opt.step(np.array([0.01, 100.0]))
    >>> p
    array([0.78, 1.1 ])
    """

    name = "rprop"
    variants = {"rprop": ("prev", "step_size")}
    state_schema = {"step_size": StateArray(initial=_first_rate)}

    lr: LearningRate = 0.01
    etas: tuple[Decay, Annotated[float, Range(1)]] = (0.5, 1.2)
    step_sizes: tuple[NonNegative, NonNegative] = (1e-6, 50.0)

    @staticmethod
    def variant(*, step_sizes: tuple[float, float], **_: Any) -> str:
        """Return the only rule; ValueError for step size bounds in the wrong order."""
        if step_sizes[0] > step_sizes[1]:
            raise ValueError(f"step_sizes: expected the smaller bound first, got {step_sizes}")
        return "rprop"

    @staticmethod
    def reference(
        p: Array,
        g: Array,
        prev: Array,
        step_size: Array,
        *,
        t: int,
        lr: float,
        etas: tuple[float, float],
        step_sizes: tuple[float, float],
    ) -> None:
        """The formula in NumPy."""
        number = p.dtype.type
        eta1, eta2 = map(number, etas)
        min_step_size, max_step_size = map(number, step_sizes)
        direction = sign(g)
        changed_sign, kept_sign = direction * prev < 0, direction * prev > 0
        factor = np.select([changed_sign, kept_sign], [eta1, eta2], number(1))
        step_size[...] = minimum(maximum(factor * step_size, min_step_size), max_step_size)
        prev[...] = np.where(changed_sign, number(0), g)
        p -= np.where(changed_sign, number(0), direction) * step_size
