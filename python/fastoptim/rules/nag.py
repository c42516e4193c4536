"""Nesterov's accelerated gradient with an explicit look-ahead point."""

from __future__ import annotations

from contextlib import AbstractContextManager
from typing import Any

from ..arrays.param_state import ParamState
from ..optimizer.base import Optimizer
from ..options.checks import Fraction, LearningRate
from ..options.schema import StateArray
from ..reference_math import Array, compute_dtype
from .momentum import Momentum


class NAG(Optimizer):
    r"""Nesterov's accelerated gradient: the gradient is evaluated at the look-ahead point of the momentum.

    .. math::
        g &= \nabla f(p + \mu v) \\
        v &= \mu v - \eta g \\
        p &= p + v

    `lookahead` moves the parameters to :math:`p + \mu v` while the gradient is computed.  It needs one copy of the
    parameters.  ``SGD(nesterov=True)`` and ``Momentum(nesterov=True)`` are reformulations without a second point; use
    this one where the look-ahead point itself matters.  `weight_decay` applies to :math:`p`, not to the look-ahead
    point.

    Args:
        params: Arrays to update in place; see `Optimizer`.
        lr: Learning rate :math:`\eta`, at least 0, or a callable of the step.  Default 0.01.
        momentum: :math:`\mu`, in [0, 1].  Default 0.9.
        **shared: Weight decay, clipping, averages and the rest that every optimizer has; see `Optimizer`.

    Raises:
        ValueError: If an option is out of range.
        RuntimeError: If `step` or `lookahead` is called inside `lookahead`.

    Source: Nesterov, "A method of solving a convex programming problem with convergence rate O(1/k^2)", 1983.

    >>> import numpy as np, fastoptim as fo
    >>> p = np.array([1.0])
    >>> opt = fo.NAG(p, lr=0.1, momentum=0.9)
    >>> for _ in range(2):
    ...     with opt.lookahead():
    ...         g = 2 * p
    ...     opt.step(g)
    >>> p
    array([0.496])
    """

    name = "nag"
    variants = {"momentum_velocity": ("v",)}
    state_schema = {"v": StateArray(compress="signed")}

    lr: LearningRate = 0.01
    momentum: Fraction = 0.9

    def lookahead(self) -> AbstractContextManager[None]:
        """Move the parameters to ``p + momentum*v`` in the block; restore them bit for bit, also after an exception."""
        return self.swapped_params("lookahead", self._lookahead_points)

    def _lookahead_points(self) -> list[Any]:
        settings = [self._settings(index) for index in range(len(self.param_groups))]
        return self.own_values(lambda param: _lookahead_point(param, settings[param.group].options["momentum"]))

    @staticmethod
    def reference(p: Array, g: Array, v: Array, *, t: int, lr: float, momentum: float) -> None:
        """The formula in NumPy."""
        Momentum.reference(p, g, v, t=t, lr=lr, momentum=momentum, nesterov=False, form="velocity")


def _lookahead_point(param: ParamState, momentum: float) -> Any:
    """Return the look-ahead point of a parameter, in the compute type."""
    dtype = compute_dtype(param.metadata.dtype)
    with param.family.arithmetic(param.p):
        return param.values() + dtype.type(momentum) * param.values_of("v")
