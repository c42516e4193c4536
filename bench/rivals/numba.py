"""numba: Adam as a loop that is compiled, without fast-math, over all arrays in one call."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache
from typing import Any

import numpy as np

from .base import Array, Offer, Options, Peer
from .scalars import adam_scalars
from .written import Written

#: Elements of an array below which a second thread costs more than it brings.
LEAST_PARALLEL = 50_000


@cache
def kernel(parallel: bool) -> Any:
    """The compiled update; ``error_model`` spares it a branch at the division, which would forbid vectors."""
    import numba

    def adam(p, g, m, v, keep1, rise1, keep2, rise2, rate, eps):  # type: ignore[no-untyped-def]
        for i in numba.prange(p.size):
            m[i] = keep1 * m[i] + rise1 * g[i]
            v[i] = keep2 * v[i] + rise2 * g[i] * g[i]
            p[i] -= rate * m[i] / (np.sqrt(v[i]) + eps)

    one = numba.njit(adam, fastmath=False, error_model="numpy", parallel=parallel)

    def each(ps, gs, ms, vs, keep1, rise1, keep2, rise2, rate, eps):  # type: ignore[no-untyped-def]
        for k in range(len(ps)):
            one(ps[k], gs[k], ms[k], vs[k], keep1, rise1, keep2, rise2, rate, eps)

    return numba.njit(each)


class Compiled(Written):
    """Lists that the compiled code walks by itself: one crossing for small arrays, one for large ones."""

    def __init__(self, options: Options, params: Sequence[Array], grads: Sequence[Array]) -> None:
        super().__init__(options, params, grads)
        self._parts = [
            (kernel(parallel), lists)
            for parallel in (False, True)
            if (lists := self._lists([(p.size >= LEAST_PARALLEL) == parallel for p in self._p]))
        ]

    def _lists(self, chosen: Sequence[bool]) -> list[Any]:
        """The chosen arrays as four typed lists; nothing if there are none."""
        import numba

        if not any(chosen):
            return []
        kept = (
            [a for a, c in zip(arrays, chosen, strict=True) if c] for arrays in (self._p, self._g, self._m, self._v)
        )
        return [numba.typed.List(arrays) for arrays in kept]

    def step(self) -> None:
        """One step."""
        self._step += 1
        s = adam_scalars(self._options, self._step)
        for run, lists in self._parts:
            run(*lists, *s)


class Numba(Peer):
    """The update written by hand."""

    name = "numba"
    package = "numba"
    about = f"Adam as a njit loop without fastmath, parallel from {LEAST_PARALLEL:,} elements an array"
    offers = {"adam": Offer("Adam, by hand")}

    def use(self, threads: int) -> None:
        """The threads of prange."""
        import numba

        numba.set_num_threads(min(threads, numba.config.NUMBA_NUM_THREADS))

    def make(self, optimizer: str, options: Options, params: Sequence[Array], grads: Sequence[Array]) -> Compiled:
        """Copies of the arrays."""
        return Compiled(options, params, grads)
