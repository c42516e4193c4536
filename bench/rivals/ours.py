"""fastoptim itself."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import numpy as np

import fastoptim as fo
from fastoptim.options.checks import Backend

from .base import Array, Options


class Ours:
    """A class of fastoptim over copies of the arrays; one array is given as it is, several as a list."""

    def __init__(
        self,
        optimizer: str,
        options: Options,
        params: Sequence[Array],
        grads: Sequence[Array],
        backend: Backend = "native",
    ) -> None:
        self._params, self._grads = [p.copy() for p in params], [g.copy() for g in grads]
        single = len(params) == 1
        self._opt = fo.OPTIMIZERS[optimizer](self._params[0] if single else self._params, backend=backend, **options)
        self._given = self._grads[0] if single else self._grads

    def feed(self, grads: Iterable[Array]) -> None:
        """Takes these gradients."""
        for own, g in zip(self._grads, grads, strict=True):
            np.copyto(own, g)

    def step(self) -> object:
        """One step."""
        return self._opt.step(self._given)

    def params(self) -> list[Array]:
        """The live parameters."""
        return self._params
