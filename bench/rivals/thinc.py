"""thinc's Adam for NumPy, called for each array as its models do.  It clears the gradients, so a step writes them."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import numpy as np

from .base import Array, Offer, Options, Peer


class Called:
    """Arrays, and the optimizer that is called with each."""

    def __init__(self, options: Options, params: Sequence[Array], grads: Sequence[Array]) -> None:
        from thinc.api import Optimizer

        beta1, beta2 = options["betas"]
        self._opt = Optimizer(
            options["lr"], beta1=beta1, beta2=beta2, eps=options["eps"], L2=0.0, grad_clip=0.0, use_averages=False
        )
        self._params = [p.copy() for p in params]
        self._kept, self._given = ([g.copy() for g in grads] for _ in range(2))

    def feed(self, grads: Iterable[Array]) -> None:
        """Takes these gradients."""
        for own, g in zip(self._kept, grads, strict=True):
            np.copyto(own, g)

    def step(self) -> None:
        """One step; the gradients first, which a training loop would have written."""
        for key, (p, kept, given) in enumerate(zip(self._params, self._kept, self._given, strict=True)):
            np.copyto(given, kept)
            self._opt((key, "p"), p, given)

    def params(self) -> list[Array]:
        """The live parameters."""
        return self._params


class Thinc(Peer):
    """Its kernel has one thread."""

    name = "thinc"
    package = "thinc"
    about = "thinc.api.Optimizer called for each array; it clears the gradient, so that a step here writes it again"
    offers = {"adam": Offer("Adam", {}, {"eps_hat": True})}

    def make(self, optimizer: str, options: Options, params: Sequence[Array], grads: Sequence[Array]) -> Called:
        """Copies of the arrays."""
        return Called(options, params, grads)
