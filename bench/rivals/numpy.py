"""Plain NumPy: Adam as one would write it who knows `out=`: in place, one array to spare, one thread."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from .base import Array, Offer, Options, Peer
from .scalars import adam_scalars
from .written import Written


class InPlace(Written):
    """A dozen passes, none of which makes an array."""

    def __init__(self, options: Options, params: Sequence[Array], grads: Sequence[Array]) -> None:
        super().__init__(options, params, grads)
        self._spare = np.empty(max(p.size for p in self._p), np.float32)

    def step(self) -> None:
        """One step."""
        self._step += 1
        s = adam_scalars(self._options, self._step)
        for p, g, m, v in zip(self._p, self._g, self._m, self._v, strict=True):
            spare = self._spare[: p.size]
            m *= s.keep1
            np.multiply(g, s.rise1, out=spare)
            m += spare
            v *= s.keep2
            np.multiply(g, g, out=spare)
            spare *= s.rise2
            v += spare
            np.sqrt(v, out=spare)
            spare += s.eps
            np.divide(m, spare, out=spare)
            spare *= s.rate
            p -= spare


class NumPy(Peer):
    """The update written by hand."""

    name = "numpy"
    package = "numpy"
    about = "Adam in place with out=, one spare array, one thread (NumPy has no more)"
    offers = {"adam": Offer("Adam, by hand")}

    def make(self, optimizer: str, options: Options, params: Sequence[Array], grads: Sequence[Array]) -> InPlace:
        """Copies of the arrays."""
        return InPlace(options, params, grads)
