"""What the hand-written Adams have in common: NumPy arrays of their own, flat, and a count of steps."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import numpy as np

from .base import Array, Options


class Written:
    """Copies of the arrays, with zeros for the two means."""

    def __init__(self, options: Options, params: Sequence[Array], grads: Sequence[Array]) -> None:
        self._options, self._step = options, 0
        self._shapes = [p.shape for p in params]
        self._p, self._g = ([array.reshape(-1).copy() for array in arrays] for arrays in (params, grads))
        self._m, self._v = ([np.zeros_like(p) for p in self._p] for _ in range(2))

    def feed(self, grads: Iterable[Array]) -> None:
        """Takes these gradients."""
        for own, g in zip(self._g, grads, strict=True):
            np.copyto(own, g.reshape(-1))

    def params(self) -> list[Array]:
        """The live parameters."""
        return [p.reshape(shape) for p, shape in zip(self._p, self._shapes, strict=True)]
