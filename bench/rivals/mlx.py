"""MLX on the CPU, whose arrays are replaced and not written: compiled for small models, by operations for large."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np

from .base import Array, Names, Offer, Options, Peer, renamed

NAMES: Names = {"lr": "learning_rate"}
#: Elements below which `mx.compile` pays; above, what it generates is slower than MLX's own operations.
MOST_COMPILED = 100_000


class Evaluated:
    """MLX's arrays, and the step that replaces them."""

    def __init__(self, opt: Any, params: Sequence[Array], grads: Sequence[Array]) -> None:
        import mlx.core as mx

        self._mx, self._opt = mx, opt
        self._params = {str(i): mx.array(p) for i, p in enumerate(params)}
        self.feed(grads)
        opt.init(self._params)
        self._state = [self._params, opt.state]
        self._update = self._apply
        if sum(p.size for p in params) <= MOST_COMPILED:
            self._update = mx.compile(self._apply, inputs=self._state, outputs=self._state)

    def _apply(self, grads: Any) -> None:
        self._params.update(self._opt.apply_gradients(grads, self._params))

    def feed(self, grads: Iterable[Array]) -> None:
        """Takes these gradients."""
        self._grads = {str(i): self._mx.array(g) for i, g in enumerate(grads)}

    def step(self) -> None:
        """One step, evaluated."""
        self._update(self._grads)
        self._mx.eval(self._state)

    def params(self) -> list[Array]:
        """Copies of the parameters."""
        return [np.array(p) for p in self._params.values()]


class Mlx(Peer):
    """On Linux without a GPU; its CPU backend gives one thread to a stream."""

    name = "mlx"
    package = "mlx"
    about = f"mlx.optimizers on the CPU, evaluated each step, mx.compile up to {MOST_COMPILED:,} elements"
    offers = {
        "adam": Offer("Adam", {"bias_correction": True}),
        "adamw": Offer("AdamW", {"bias_correction": True}),
        "sgd": Offer("SGD"),
        "rmsprop": Offer("RMSprop"),
        "adagrad": Offer("Adagrad"),
        "adadelta": Offer("AdaDelta"),
        "lion": Offer("Lion"),
    }

    def make(self, optimizer: str, options: Options, params: Sequence[Array], grads: Sequence[Array]) -> Evaluated:
        """Copies of the arrays in MLX's memory."""
        import mlx.core as mx
        import mlx.optimizers

        mx.set_default_device(mx.cpu)
        offer = self.offers[optimizer]
        return Evaluated(getattr(mlx.optimizers, offer.theirs)(**renamed(options, NAMES), **offer.more), params, grads)
