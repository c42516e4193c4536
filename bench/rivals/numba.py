"""numba: Adam as a loop that is compiled, without fast-math; a few arrays one by one, many in one call."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence
from functools import cache, partial
from typing import Any

import numpy as np

from .base import Array, Offer, Options, Peer
from .written import Written

#: Elements of an array below which a second thread costs more than it brings.
LEAST_PARALLEL = 50_000
#: Arrays from which one call with typed lists, which takes some 8 us, is faster than a call for each.
LEAST_LISTED = 8


@cache
def kernel(parallel: bool) -> Any:
    """The compiled update; ``error_model`` spares it a branch at the division, which would forbid vectors."""
    import numba

    @numba.njit(fastmath=False, error_model="numpy", parallel=parallel)
    def adam(p, g, m, v, lr, beta1, beta2, eps, step):  # type: ignore[no-untyped-def]
        root = np.sqrt(1 - beta2**step)
        keep1, rise1 = np.float32(beta1), np.float32(1 - beta1)
        keep2, rise2 = np.float32(beta2), np.float32(1 - beta2)
        rate, eps_ = np.float32(lr * root / (1 - beta1**step)), np.float32(eps * root)
        for i in numba.prange(p.size):
            m[i] = keep1 * m[i] + rise1 * g[i]
            v[i] = keep2 * v[i] + rise2 * g[i] * g[i]
            p[i] -= rate * m[i] / (np.sqrt(v[i]) + eps_)

    return adam


@cache
def listed(parallel: bool) -> Any:
    """The same over lists of arrays."""
    import numba

    adam = kernel(parallel)

    @numba.njit
    def each(ps, gs, ms, vs, lr, beta1, beta2, eps, step):  # type: ignore[no-untyped-def]
        for k in range(len(ps)):
            adam(ps[k], gs[k], ms[k], vs[k], lr, beta1, beta2, eps, step)

    return each


class Compiled(Written):
    """Arrays large enough for several threads go to the parallel loop, the others to the plain one."""

    def __init__(self, options: Options, params: Sequence[Array], grads: Sequence[Array]) -> None:
        super().__init__(options, params, grads)
        self._numbers = (options["lr"], *options["betas"], options["eps"])
        self._calls: list[Callable[..., object]] = []
        for parallel in (False, True):
            chosen = [(p.size >= LEAST_PARALLEL) == parallel for p in self._p]
            self._calls += calls(parallel, *(list(itertools.compress(arrays, chosen)) for arrays in self._arrays()))

    def _arrays(self) -> tuple[list[Array], ...]:
        return self._p, self._g, self._m, self._v

    def step(self) -> None:
        """One step."""
        self._step += 1
        for call in self._calls:
            call(*self._numbers, self._step)


def calls(parallel: bool, *arrays: list[Array]) -> list[Callable[..., object]]:
    """What steps these parameters, gradients and means."""
    import numba

    if len(arrays[0]) < LEAST_LISTED:
        return [partial(kernel(parallel), *each) for each in zip(*arrays, strict=True)]
    return [partial(listed(parallel), *map(numba.typed.List, arrays))]


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
