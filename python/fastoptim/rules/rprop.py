"""Rprop."""

from __future__ import annotations

from typing import Annotated, Any

import numpy as np

from ..optimizer.base import Optimizer
from ..options.checks import Decay, LearningRate, NonNegative, Range, rate_at
from ..options.schema import StateArray
from ..reference_math import Array, maximum, minimum, sign


class Rprop(Optimizer):
    r"""Rprop: a step size of its own for each element, larger while its gradient keeps its sign, smaller when it turns.

    .. math::
        \Delta &= \begin{cases} \eta^+ \Delta & g \cdot g_\text{prev} > 0 \\ \eta^- \Delta & g \cdot g_\text{prev} < 0
                  \\ \Delta & \text{else} \end{cases} \quad \text{within } [\Delta_\text{min}, \Delta_\text{max}] \\
        g &= 0 \text{ where } g \cdot g_\text{prev} < 0, \qquad g_\text{prev} = g \\
        p &= p - \Delta \operatorname{sign}(g)

    For batch gradient descent, where it wants no tuning.  Not for mini-batches: it takes noise in a gradient's sign for
    a turn.  ``optax.rprop`` computes something else, each update one step late.

    Of the paper's variants this is the one that takes no step back after a turn (iRprop-), as in PyTorch.  Only signs
    are multiplied, so that the product of two tiny gradients cannot underflow to zero.

    Args:
        params: Arrays to update in place; see `Optimizer`.
        lr: What every step size :math:`\Delta` starts from, at least 0; of a callable its first value.  Later changes
            have no effect.
        etas: :math:`\eta^-` in [0, 1) and :math:`\eta^+`, at least 1: the factors of a step size.
        step_sizes: :math:`\Delta_\text{min}` and :math:`\Delta_\text{max}`, at least 0: its bounds.
        **shared: Weight decay, clipping, averages and the rest that every optimizer has; see `Optimizer`.

    Raises:
        ValueError: An option out of range; the bounds in the wrong order.

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
    state_schema = {"step_size": StateArray(initial=lambda options: rate_at(options["lr"], 0, "lr"))}

    lr: LearningRate = 0.01
    etas: tuple[Decay, Annotated[float, Range(1)]] = (0.5, 1.2)
    step_sizes: tuple[NonNegative, NonNegative] = (1e-6, 50.0)

    @staticmethod
    def variant(*, step_sizes: tuple[float, float], **_: Any) -> str:
        """There is one."""
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
        down, up = map(number, etas)
        smallest, largest = map(number, step_sizes)
        way = sign(g)
        turns, keeps = way * prev < 0, way * prev > 0
        factor = np.select([turns, keeps], [down, up], number(1))
        step_size[...] = minimum(maximum(factor * step_size, smallest), largest)
        prev[...] = np.where(turns, number(0), g)
        p -= np.where(turns, number(0), way) * step_size
