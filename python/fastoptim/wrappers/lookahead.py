"""Lookahead: slow weights that follow an optimizer's fast ones."""

from __future__ import annotations

from typing import Any

from .. import core
from ..arrays.param_state import refresh
from ..optimizer.accumulation import ACCUMULATED, Accumulation
from ..options.checks import Fraction, PositiveCount
from ..options.schema import StateArray
from ..reference_math import compute_dtype, mean_of
from .base import Wrapper


class Lookahead(Wrapper):
    r"""Lookahead: every k steps the parameters return part of the way to where they were k steps before.

    .. math::
        \text{every } k \text{ steps}: \qquad s = s + \alpha (p - s), \qquad p = s

    The slow weights :math:`s` start as the parameters.  They are kept in the compute type (float64 for float64
    parameters, otherwise float32) and cost the memory of one more state array; a synchronization temporarily needs the
    same amount again.  The optimizer's state, such as its momentum, is kept.  A step that is skipped does not count.
    `ema` and `swa_start` average the fast weights.

    Args:
        optimizer: Any optimizer except `LBFGS`, or another wrapper; its attributes are those of the wrapper, too.
        k: The number of steps between two synchronizations, at least 1.  Default 5.
        alpha: :math:`\alpha`, in [0, 1].  Default 0.5.

    Raises:
        TypeError: `optimizer` is not an optimizer of this package.
        ValueError: An option is out of range.

    Source: Zhang, Lucas, Hinton, Ba, "Lookahead Optimizer: k steps forward, 1 step back", 2019, arXiv:1907.08610.

    >>> import numpy as np, fastoptim as fo
    >>> p = np.array([1.0])
    >>> opt = fo.Lookahead(fo.SGD(p, lr=0.25), k=2)
    >>> for _ in range(2):
    ...     opt.step(np.array([1.0]))
    >>> p
    array([0.75])
    """

    name = "lookahead"
    options = {"k": PositiveCount, "alpha": Fraction}
    counts = ("synchronized_at",)
    schema = {"slow": StateArray(initial="p")}

    k: int
    alpha: float
    synchronized_at: int
    """The step count at the last synchronization."""

    def __init__(self, optimizer: Any, k: int = 5, alpha: float = 0.5) -> None:
        super().__init__(optimizer, k=k, alpha=alpha)
        self.synchronized_at = self.step_count

    def step(self, grads: Any = ACCUMULATED, *, accumulation: Accumulation = "mean") -> bool | None:
        """Update the parameters in place, and synchronize after every k steps; see `Optimizer.step`."""
        self._synchronize()  # a no-op, unless the exception of a signal handler has come between a step and this
        result = super().step(grads, accumulation=accumulation)
        self._synchronize()
        return result

    def graph_step(self) -> None:
        """Raise RuntimeError: the synchronization is not part of a captured step."""
        raise RuntimeError("graph_step: expected an optimizer without Lookahead, which is not part of a graph")

    def _synchronize(self) -> None:
        """Move the slow weights, and assign them to the parameters, if k steps have been taken since the last time."""
        now, own = self.step_count, self.own_states
        self.synchronized_at = min(self.synchronized_at, now)  # the optimizer's own zero_state may have been called
        if now - self.synchronized_at < self.k:
            return
        self.optimizer.check_arrays()
        moved = []
        for param, inner in zip(own, self.param_states, strict=True):
            dtype, slow = compute_dtype(param.metadata.dtype), param.state["slow"]
            with param.family.arithmetic(param.p):
                moved.append((param, inner, mean_of(slow, inner.values(), self.alpha, dtype)))

        def assign() -> None:
            for param, inner, slow in moved:
                param.family.assign(param.state["slow"], slow)
                inner.assign(slow)
            refresh(self.optimizer.param_states)
            self.synchronized_at = now

        core.complete(assign)
