"""Nesterov's accelerated gradient with its true look-ahead."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np

from ..arrays import Array, compute_dtype
from ..optimizer import Optimizer
from ..options import Fraction, LearningRate
from .momentum import Momentum


class NAG(Optimizer):
    r"""Nesterov's accelerated gradient: the gradient is taken where the momentum is about to carry the parameters.

    .. math::
        g &= \nabla f(p + \mu v) \\
        v &= \mu v - \eta g \\
        p &= p + v

    `lookahead` shows the parameters at :math:`p + \mu v` while the gradient is computed.  It costs one copy of the
    parameters.  ``SGD(nesterov=True)`` and ``Momentum(nesterov=True)`` are the reparametrised forms that need no
    second point; take this one where the look-ahead point itself matters.

    Args:
        params: Arrays to update in place; see `Optimizer`.
        lr: Learning rate :math:`\eta`, at least 0, or a callable of the step.
        momentum: :math:`\mu`, in [0, 1].
        weight_decay: Adds ``weight_decay * p`` to the gradient, at :math:`p`, not at the look-ahead point.
        maximize: Ascends instead.
        backend: "native", or "reference" for plain NumPy with the same bits.

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

    _looking_ahead = False

    @contextmanager
    def lookahead(self) -> Iterator[None]:
        """Shows the parameters at ``p + momentum*v``, and puts them back bit for bit, also after an exception."""
        self._refuse_inside()
        settings = [self._settings(index) for index in range(len(self.param_groups))]
        self.check_arrays()
        saved = [slot.p.copy(order="K") for slot in self.slots]
        self._looking_ahead = True
        try:
            for slot in self.slots:
                momentum = settings[slot.group].options["momentum"]
                dtype = compute_dtype(slot.p.dtype)
                with np.errstate(all="ignore"):
                    ahead = slot.p.astype(dtype) + dtype.type(momentum) * slot.state["v"]
                    slot.p[...] = ahead.astype(slot.p.dtype)
            yield
        finally:
            self._looking_ahead = False
            self._put_back(saved)

    def _put_back(self, saved: list[Array]) -> None:
        """Every array that still lets itself be written, before complaining of one that does not."""
        locked = None
        for slot, p in zip(self.slots, saved, strict=True):
            try:
                slot.p[...] = p
            except ValueError:
                locked = slot.p_place
        if locked:
            raise ValueError(f"{locked}: expected an array as it was before lookahead; it could not be put back")

    def step(self, grads: Any) -> None:
        """Updates the parameters in place; see `Optimizer.step`."""
        self._refuse_inside()
        super().step(grads)

    def __getstate__(self) -> dict[str, Any]:
        self._refuse_inside()
        return super().__getstate__()

    def _refuse_inside(self) -> None:
        if self._looking_ahead:
            raise RuntimeError("lookahead: expected its block to have ended; the parameters are not in their place yet")

    @staticmethod
    def variant(**_: Any) -> str:
        """Momentum's velocity form; only the point of the gradient differs."""
        return "momentum_velocity"

    @staticmethod
    def reference(p: Array, g: Array, v: Array, *, t: int, lr: float, momentum: float) -> None:
        """The formula in NumPy."""
        Momentum.reference(p, g, v, t=t, lr=lr, momentum=momentum, nesterov=False, form="velocity")
