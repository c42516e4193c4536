"""Nesterov's accelerated gradient with its true look-ahead."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from ..arrays.param_state import ParamState
from ..optimizer.base import Optimizer
from ..options.checks import Fraction, LearningRate
from ..reference_math import Array, compute_dtype
from .momentum import Momentum


class NAG(Optimizer):
    r"""Nesterov's accelerated gradient: the gradient is taken where the momentum is about to carry the parameters.

    .. math::
        g &= \nabla f(p + \mu v) \\
        v &= \mu v - \eta g \\
        p &= p + v

    `lookahead` shows the parameters at :math:`p + \mu v` while the gradient is computed.  It costs one copy of the
    parameters.  ``SGD(nesterov=True)`` and ``Momentum(nesterov=True)`` are the reparametrised forms that need no
    second point; take this one where the look-ahead point itself matters.  `weight_decay` takes :math:`p` as it is, not
    the look-ahead point.

    Args:
        params: Arrays to update in place; see `Optimizer`.
        lr: Learning rate :math:`\eta`, at least 0, or a callable of the step.
        momentum: :math:`\mu`, in [0, 1].
        **shared: Weight decay, clipping, averages and the rest that every optimizer has; see `Optimizer`.

    Raises:
        ValueError: An option out of range.
        RuntimeError: `step` or `lookahead` inside `lookahead`.

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

    lr: LearningRate = 0.01
    momentum: Fraction = 0.9

    @contextmanager
    def lookahead(self) -> Iterator[None]:
        """Shows the parameters at ``p + momentum*v``, and puts them back bit for bit, also after an exception."""
        settings = [self._settings(index) for index in range(len(self.param_groups))]
        with self.swapped_params(
            "lookahead", [_ahead(param, settings[param.group].options["momentum"]) for param in self.param_states]
        ):
            yield

    @staticmethod
    def variant(**_: Any) -> str:
        """Momentum's velocity form; only the point of the gradient differs."""
        return "momentum_velocity"

    @staticmethod
    def reference(p: Array, g: Array, v: Array, *, t: int, lr: float, momentum: float) -> None:
        """The formula in NumPy."""
        Momentum.reference(p, g, v, t=t, lr=lr, momentum=momentum, nesterov=False, form="velocity")


def _ahead(param: ParamState, momentum: float) -> Any:
    """Where the momentum is about to carry a parameter, in the compute type."""
    dtype = compute_dtype(param.metadata.dtype)
    with param.family.arithmetic(param.p):
        return param.family.astype(param.p, dtype) + dtype.type(momentum) * param.state["v"]
