"""GrokFast: gradients whose slow part is amplified."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from .. import core
from ..arrays.param_state import ParamState, check_targets, in_compute_type
from ..optimizer.accumulation import ACCUMULATED, Accumulation
from ..options.checks import Decay, NonNegative
from ..options.schema import StateArray
from ..reference_math import compute_dtype, decay
from .base import States, Wrapper


class GrokFast(Wrapper):
    r"""GrokFast: gradients plus a multiple of their exponential moving average.

    .. math::
        h = \alpha h + (1 - \alpha)\, g \quad (h = g \text{ the first time}), \qquad
        g' = g + \lambda h

    Everything else, such as clipping and weight decay, is done with :math:`g'`.  The average is in the compute type
    (float64 for float64 parameters, otherwise float32) and costs the memory of one more state array; a step temporarily
    needs two more.  An array whose gradient is None keeps its average.  A skipped step leaves the averages unchanged.
    Rows that `remap` adds start with an average of 0.

    Args:
        optimizer: Any optimizer except `LBFGS`, or another wrapper; its attributes are those of the wrapper, too.
        alpha: :math:`\alpha`, in [0, 1).  Default 0.98.
        lamb: :math:`\lambda`, at least 0.  Default 2.

    Raises:
        TypeError: `optimizer` is not an optimizer of this package.
        ValueError: An option is out of range.

    Source: Lee, Kang, Kim, Lee, "Grokfast: Accelerated Grokking by Amplifying Slow Gradients", 2024, arXiv:2405.20233.

    >>> import numpy as np, fastoptim as fo
    >>> p = np.array([0.0])
    >>> opt = fo.GrokFast(fo.SGD(p, lr=1.0), alpha=0.5, lamb=1.0)
    >>> for g in ([1.0], [0.0]):
    ...     opt.step(np.array(g))
    >>> p
    array([-2.5])
    """

    name = "grokfast"
    options = {"alpha": Decay, "lamb": NonNegative}
    schema = {"h": StateArray()}

    alpha: float
    lamb: float

    def __init__(self, optimizer: Any, alpha: float = 0.98, lamb: float = 2.0) -> None:
        super().__init__(optimizer, alpha=alpha, lamb=lamb)
        self._next: tuple[int, list[Any]] = (-1, [])

    def _first_state(self) -> tuple[str, ...]:
        return ()

    def accumulate(self, grads: Any) -> None:
        """Raise TypeError: each step needs its own gradients."""
        raise TypeError("accumulate: expected an optimizer without GrokFast, which averages each gradient")

    def step(self, grads: Any = ACCUMULATED, *, accumulation: Accumulation = "mean") -> bool | None:
        """Update the parameters in place by the amplified gradients; see `Optimizer.step`."""
        if grads is ACCUMULATED:
            raise TypeError("step: expected gradients, as GrokFast does not accumulate them; got none")
        self._take_averages()  # a no-op, unless the exception of a signal handler has come between a step and this
        self.optimizer.check_not_swapped()
        flat = self._structure.match(grads, "grads")
        written = check_targets(self.param_states)
        averages: list[Any] = [None] * len(flat)
        amplified: list[Any] = [None] * len(flat)
        for i, (param, grad) in enumerate(zip(self.own_states, flat, strict=True)):
            if grad is not None:
                averages[i], amplified[i] = self._amplify(param, in_compute_type(param, grad, written))
        self._next = (self.step_count + 1, averages)
        result = self.optimizer.step(self._structure.build(iter(amplified)), accumulation=accumulation)
        self._take_averages()
        self._next = (-1, [])
        return result  # type: ignore[no-any-return]

    def remap(self, params: Any, source: Any) -> None:
        """Replace parameters by arrays with other rows, also in the averages; see `Optimizer.remap`."""
        self._take_averages()
        super().remap(params, source)

    def _amplify(self, param: ParamState, g: Any) -> tuple[Any, Any]:
        """Return the next average, and the gradient to step by."""
        dtype = compute_dtype(param.metadata.dtype)
        with param.family.arithmetic(param.p):
            h = g
            if "h" in param.state:
                alpha = decay(dtype, self.alpha)
                h = alpha * param.state["h"] + (dtype.type(1) - alpha) * g
            return h, g + dtype.type(self.lamb) * h

    def _take_averages(self) -> None:
        """Assign the averages of the last step if it was taken, which the optimizer's step count says."""
        count, averages = self._next
        if count != self.step_count:
            return

        def assign() -> None:
            for param, h in zip(self._own, averages, strict=True):
                if h is not None:
                    param.state["h"] = np.asarray(h) if isinstance(h, np.generic) else h  # of an array without axes
            self._next = (-1, [])

        core.complete(assign)

    def _assign(self, attributes: Mapping[str, Any], states: States) -> None:
        super()._assign(attributes, states)
        self._next = (-1, [])
