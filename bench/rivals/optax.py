"""optax under jax.jit, its parameters and state donated, so that XLA may work in place."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np

from .base import Array, Names, Offer, Options, Peer, renamed

NAMES: Names = {"lr": "learning_rate", "betas": ("b1", "b2"), "alpha": "decay"}
IN_ROOT = {"eps": 0.0, "eps_root": 1e-10}  # where it has Adagrad's eps of works.OPTIONS


class Jitted:
    """Arrays of jax, and the compiled step that replaces them."""

    def __init__(self, rule: Any, params: Sequence[Array], grads: Sequence[Array]) -> None:
        import jax
        import optax

        def step(params: Any, state: Any, grads: Any) -> Any:
            updates, state = rule.update(grads, state, params)
            return optax.apply_updates(params, updates), state

        self._wait = jax.block_until_ready
        self._run = jax.jit(step, donate_argnums=(0, 1))
        self._params = [jax.numpy.array(p) for p in params]
        self._state = rule.init(self._params)
        self.feed(grads)

    def feed(self, grads: Iterable[Array]) -> None:
        """Takes these gradients."""
        import jax

        self._grads = [jax.numpy.array(g) for g in grads]

    def step(self) -> None:
        """One step, waited for."""
        self._params, self._state = self._run(self._params, self._state, self._grads)
        self._wait((self._params, self._state))

    def params(self) -> list[Array]:
        """The parameters, which the next step replaces."""
        return [np.asarray(p) for p in self._params]


class Optax(Peer):
    """A transformation of gradients, compiled together with its application."""

    name = "optax"
    package = "optax"
    about = "jax.jit of update and apply_updates, parameters and state donated, waited for"
    # No RAdam: with the length of its mean computed in float32 it is off by some 1e-3 of a step.
    offers = {
        "adam": Offer("adam"),
        "adamw": Offer("adamw"),
        "sgd": Offer("sgd"),
        "rmsprop": Offer("rmsprop", {"eps_in_sqrt": False}),
        "lion": Offer("lion", {"weight_decay": 0.0}),
        "adamax": Offer("adamax"),
        "adadelta": Offer("adadelta"),
        "adagrad": Offer("adagrad", {"initial_accumulator_value": 0.0}, IN_ROOT),
    }

    def make(self, optimizer: str, options: Options, params: Sequence[Array], grads: Sequence[Array]) -> Jitted:
        """Copies of the arrays in jax's memory."""
        import optax

        offer = self.offers[optimizer]
        return Jitted(getattr(optax, offer.theirs)(**renamed(options, NAMES), **offer.more), params, grads)
