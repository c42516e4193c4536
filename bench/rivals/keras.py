"""Keras 3: on JAX the compiled stateless step that `fit` runs, on PyTorch `apply`, which takes foreach operations."""

from __future__ import annotations

import os
from collections.abc import Iterable, Sequence
from importlib.util import find_spec
from typing import Any

import numpy as np

from .base import Array, Contender, Names, Offer, Options, Peer, renamed

NAMES: Names = {"lr": "learning_rate", "betas": ("beta_1", "beta_2"), "eps": "epsilon", "alpha": "rho"}
HAT = {"eps_hat": True}


class OnJax:
    """Variables' values, and the compiled step that replaces them."""

    def __init__(self, opt: Any, params: Sequence[Array], grads: Sequence[Array]) -> None:
        import jax
        import keras

        variables = [keras.Variable(p) for p in params]
        opt.build(variables)

        def step(values: Any, state: Any, grads: Any) -> Any:
            return opt.stateless_apply(state, grads, values)

        self._wait = jax.block_until_ready
        self._run = jax.jit(step, donate_argnums=(0, 1))
        self._values = [jax.numpy.array(p) for p in params]
        self._state = [jax.numpy.array(variable.value) for variable in opt.variables]
        self.feed(grads)

    def feed(self, grads: Iterable[Array]) -> None:
        """Takes these gradients."""
        import jax

        self._grads = [jax.numpy.array(g) for g in grads]

    def step(self) -> None:
        """One step, waited for."""
        self._values, self._state = self._run(self._values, self._state, self._grads)
        self._wait((self._values, self._state))

    def params(self) -> list[Array]:
        """The parameters, which the next step replaces."""
        return [np.asarray(p) for p in self._values]


class OnTorch:
    """Variables, and the step on them."""

    def __init__(self, opt: Any, params: Sequence[Array], grads: Sequence[Array]) -> None:
        import keras

        self._opt, self._variables = opt, [keras.Variable(p) for p in params]
        opt.build(self._variables)
        self.feed(grads)

    def feed(self, grads: Iterable[Array]) -> None:
        """Takes these gradients."""
        import torch

        self._grads = [torch.from_numpy(g.copy()) for g in grads]

    def step(self) -> None:
        """One step."""
        self._opt.apply(self._grads)

    def params(self) -> list[Array]:
        """The live parameters."""
        return [variable.value.detach().numpy() for variable in self._variables]


class Keras(Peer):
    """Its optimizers on JAX or, where the environment says so or there is no JAX, on PyTorch."""

    name = "keras"
    package = "keras"
    about = "jax.jit of the optimizer's stateless_apply, variables donated, waited for (backend PyTorch: apply)"
    offers = {
        "adam": Offer("Adam", {}, HAT),
        "adamw": Offer("AdamW", {}, HAT),
        "sgd": Offer("SGD", {}, {"lr_inside": True}),
        "lion": Offer("Lion"),
        "adamax": Offer("Adamax", {}, {"eps_outside": True}),
        "adadelta": Offer("Adadelta"),
    }

    def installed(self) -> bool:
        """With a backend that this room knows."""
        os.environ.setdefault("KERAS_BACKEND", "jax" if find_spec("jax") else "torch")
        backend = os.environ["KERAS_BACKEND"]
        return super().installed() and backend in ("jax", "torch") and find_spec(backend) is not None

    def make(self, optimizer: str, options: Options, params: Sequence[Array], grads: Sequence[Array]) -> Contender:
        """Copies of the arrays in the backend's memory."""
        self.installed()  # says which backend, before Keras is imported
        import keras

        offer = self.offers[optimizer]
        opt = getattr(keras.optimizers, offer.theirs)(**renamed(options, NAMES), **offer.more)
        return (OnJax if keras.backend.backend() == "jax" else OnTorch)(opt, params, grads)
