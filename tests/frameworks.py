"""Live frameworks: how their optimizers are made, stepped in float64, and what they call our options.

A test of a framework that is not installed is skipped.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial
from importlib.util import find_spec
from typing import Any, NamedTuple

import numpy as np
import pytest

from cases import Array
from optional import optional

# Keras asks NumPy for arrays in a way that NumPy is going to change.
keras_warning = pytest.mark.filterwarnings("ignore:__array__ implementation doesn't accept a copy:DeprecationWarning")

Way = Iterator[list[Array]]  # the parameters after each step


def import_torch() -> Any:
    return optional("torch")


def import_optax() -> Any:
    optional("jax")
    return optional("optax")


def import_keras() -> Any:
    backends = [name for name in ("jax", "torch") if find_spec(name)]
    if "KERAS_BACKEND" not in os.environ and backends:
        os.environ["KERAS_BACKEND"] = backends[0]  # or it would ask for TensorFlow
    return optional("keras")  # and its backend


@contextmanager
def _torch_in_float64() -> Iterator[None]:
    """Or the scalars that it keeps from step to step would be float32.  One thread: more cost more than a step."""
    torch = import_torch()
    before, threads = torch.get_default_dtype(), torch.get_num_threads()
    torch.set_default_dtype(torch.float64)
    torch.set_num_threads(1)
    yield
    torch.set_default_dtype(before)
    torch.set_num_threads(threads)


@contextmanager
def jax_in_float64() -> Iterator[None]:
    if find_spec("jax") is None:
        yield
        return
    import jax

    before = jax.config.jax_enable_x64
    jax.config.update("jax_enable_x64", True)
    yield
    jax.config.update("jax_enable_x64", before)


@contextmanager
def _keras_in_float64() -> Iterator[None]:
    """The learning rate and the numbers of a step are of Keras' default type, whatever the variables are."""
    keras = import_keras()
    before = keras.config.floatx()
    keras.config.set_floatx("float64")
    with jax_in_float64():
        yield
    keras.config.set_floatx(before)


def _follow_torch(
    make: Callable[..., Any], rates: Sequence[float], start: list[Array], grads: list[list[Array]]
) -> Way:
    torch = import_torch()
    tensors = [torch.tensor(p, requires_grad=True) for p in start]
    opt = make(params=tensors, lr=rates[0])
    for rate, step in zip(rates, grads, strict=True):
        opt.param_groups[0]["lr"] = rate
        for tensor, g in zip(tensors, step, strict=True):
            tensor.grad = torch.from_numpy(g)
        opt.step()
        yield [tensor.detach().numpy().copy() for tensor in tensors]


def follow_keras(make: Callable[..., Any], rates: Sequence[float], start: list[Array], grads: list[list[Array]]) -> Way:
    keras = import_keras()
    variables = [keras.Variable(p, dtype="float64") for p in start]
    opt = make(learning_rate=rates[0])
    for rate, step in zip(rates, grads, strict=True):
        opt.learning_rate = rate
        opt.apply([keras.ops.convert_to_tensor(g) for g in step], variables)
        yield [keras.ops.convert_to_numpy(variable.value) for variable in variables]


def _follow_optax(
    make: Callable[..., Any], rates: Sequence[float], start: list[Array], grads: list[list[Array]]
) -> Way:
    import jax

    optax = import_optax()

    def step(carry: Any, given: Any) -> Any:
        params, state = carry
        rate, g = given
        group_steps, state = make(learning_rate=rate).update(g, state, params)
        params = optax.apply_updates(params, group_steps)
        return (params, state), params

    params = [jax.numpy.asarray(p) for p in start]
    columns = [np.stack(column) for column in zip(*grads, strict=True)]
    state = make(learning_rate=rates[0]).init(params)
    _, ways = jax.jit(partial(jax.lax.scan, step))((params, state), (np.asarray(rates), columns))
    yield from ([*map(np.asarray, step)] for step in zip(*ways, strict=True))


def _optax_factory(name: str) -> Any:
    """Its own, or what its users chain: decay that is coupled, or SGD's that is not."""
    optax = import_optax()
    made: dict[str, Callable[..., Any]] = {
        "add_decayed_weights before sgd": lambda learning_rate, weight_decay, momentum: optax.chain(
            optax.add_decayed_weights(weight_decay), optax.sgd(learning_rate, momentum)
        ),
        "trace before add_decayed_weights": lambda learning_rate, weight_decay, momentum: optax.chain(
            optax.trace(momentum), optax.add_decayed_weights(weight_decay), optax.scale_by_learning_rate(learning_rate)
        ),
    }
    return made.get(name) or getattr(optax, name, None) or getattr(optax.contrib, name)


class Framework(NamedTuple):
    """Where its optimizers are, what it calls our options (several names for the parts of one), and how it steps."""

    factory: Callable[[str], Any]
    names: Callable[[], list[str]]
    options: Mapping[str, str | tuple[str, ...]]
    in_float64: Callable[[], Any]
    follow: Callable[..., Way]


FRAMEWORKS = {
    "torch": Framework(
        lambda name: getattr(import_torch().optim, name),
        lambda: dir(import_torch().optim),
        {},
        _torch_in_float64,
        _follow_torch,
    ),
    "keras": Framework(
        lambda name: getattr(import_keras().optimizers, name),
        lambda: dir(import_keras().optimizers),
        {
            "lr": "learning_rate",
            "betas": ("beta_1", "beta_2"),
            "eps": "epsilon",
            "alpha": "rho",
            "l1_regularization": "l1_regularization_strength",
            "l2_regularization": "l2_regularization_strength",
            "l2_shrinkage": "l2_shrinkage_regularization_strength",
        },
        _keras_in_float64,
        follow_keras,
    ),
    "optax": Framework(
        _optax_factory,
        lambda: dir(import_optax()) + dir(import_optax().contrib),
        {
            "lr": "learning_rate",
            "betas": ("b1", "b2", "b3"),
            "alpha": "decay",
            "initial_accumulator_value": "initial_scale",
            "momentum": "b1",
            "clipped": "use_clipping",
            "d0": "estim_lr0",
            "d_coef": "estim_lr_coef",
        },
        jax_in_float64,
        _follow_optax,
    ),
}


def assert_follows(
    opt: Any,
    framework: str,
    name: str,
    theirs: Mapping[str, Any],
    rates: Sequence[float],
    grads: list[list[Array]],
    rtol: float,
    atol: float,
) -> None:
    """Compare an optimizer's parameters after each step with those of the framework's, which start from them."""
    peer = FRAMEWORKS[framework]
    factory, params = peer.factory(name), [param.p for param in opt.param_states]
    with peer.in_float64():
        way = peer.follow(lambda **given: factory(**given, **theirs), rates, [p.copy() for p in params], grads)
        for lr, given, theirs_now in zip(rates, grads, way, strict=True):
            opt.lr = lr
            opt.step(given)
            for p, q in zip(params, theirs_now, strict=True):
                np.testing.assert_allclose(p, q, rtol=rtol, atol=atol)
