"""Loops in the call shape of `autograd.misc.optimizers`; autograd itself is not needed."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from functools import cache
from typing import Any

import numpy as np

from ..arrays.tree import structure_of
from ..optimizer.base import OPTIMIZERS, Optimizer
from ..options.suggestions import did_you_mean
from .real_arrays import as_real

Grad = Callable[[Any, int], Any]
Callback = Callable[[Any, int, Any], Any]

#: The functions that `fastoptim.autograd` has.
NAMES = OPTIMIZERS.keys()

_PLACE = "grad(x, i)"


@cache
def loop_of(name: str) -> Callable[..., Any]:
    """Return the loop of an optimizer: ``loop(grad, x0, callback=None, num_iters=100, *, <the class's options>)``."""
    if name not in OPTIMIZERS:
        raise AttributeError(f"module 'fastoptim.autograd' has no attribute {name!r}{did_you_mean(name, OPTIMIZERS)}")
    optimizer = OPTIMIZERS[name]

    def loop(grad: Grad, x0: Any, callback: Callback | None = None, num_iters: int = 100, **options: Any) -> Any:
        return run(optimizer, grad, x0, callback, num_iters, **options)

    own = list(inspect.signature(loop).parameters.values())[:-1]
    options = list(inspect.signature(optimizer).parameters.values())[1:]
    options = [each.replace(kind=inspect.Parameter.KEYWORD_ONLY) for each in options if each.name != "copies"]
    loop.__signature__ = inspect.Signature([*own, *options])  # type: ignore[attr-defined]
    loop.__name__ = loop.__qualname__ = name
    loop.__module__ = "fastoptim.autograd"
    loop.__doc__ = (
        f"Take `num_iters` steps of `fastoptim.{optimizer.__name__}` from `x0`, and return the last point.\n\n"
        f"The options are those of the class; help(fastoptim.autograd) has the arguments that all functions share."
    )
    return loop


def run(
    optimizer: type[Optimizer],
    grad: Grad,
    x0: Any,
    callback: Callback | None = None,
    num_iters: int = 100,
    **options: Any,
) -> Any:
    """Take steps from `x0`; the docstring of `fastoptim.autograd` describes it."""
    structure = structure_of(x0)
    starts = [np.array(leaf) for leaf in structure.match(x0, "x0")]
    leaves = [p.astype(np.float64) if p.dtype.kind in "biu" else p for p in starts]
    opt = optimizer(structure.build(iter(leaves)), **options)
    for i in range(num_iters):
        with opt.lookahead():
            x = structure.build(p.copy() for p in leaves)
        g = grad(x, i)
        if callback:
            callback(x, i, g)
        named = zip(structure.match(g, _PLACE), leaves, structure.paths(_PLACE), strict=True)
        opt.step(structure.build(as_real(each, p.dtype, place) for each, p, place in named))
    if hasattr(opt, "eval"):
        opt.eval()
    return structure.build(iter(leaves))


def sgd(
    grad: Grad,
    x0: Any,
    callback: Callback | None = None,
    num_iters: int = 200,
    step_size: float = 0.1,
    mass: float = 0.9,
    **options: Any,
) -> Any:
    r"""Run autograd's SGD with momentum, which is `Momentum` with ``form="ema"``; see `fastoptim.autograd`.

    .. math::
        v = \text{mass} \cdot v + (1 - \text{mass})\, g, \qquad x = x - \text{step\_size} \cdot v

    >>> import numpy as np, fastoptim.autograd
    >>> fastoptim.autograd.sgd(lambda x, i: 2 * x, np.array([1.0]), num_iters=1)
    array([0.98])
    """
    momentum = OPTIMIZERS["momentum"]
    return run(momentum, grad, x0, callback, num_iters, **{"lr": step_size, "momentum": mass, "form": "ema", **options})


def rmsprop(
    grad: Grad,
    x0: Any,
    callback: Callback | None = None,
    num_iters: int = 100,
    step_size: float = 0.1,
    gamma: float = 0.9,
    eps: float = 1e-8,
    **options: Any,
) -> Any:
    r"""Run autograd's RMSprop, which is `RMSprop` with a mean of squares that starts at 1; see `fastoptim.autograd`.

    .. math::
        s = \gamma s + (1 - \gamma)\, g^2, \qquad x = x - \text{step\_size} \cdot g / (\sqrt s + \epsilon)

    >>> import numpy as np, fastoptim.autograd
    >>> fastoptim.autograd.rmsprop(lambda x, i: np.sign(x), np.array([1.0]), num_iters=1)
    array([0.9])
    """
    given = {"lr": step_size, "alpha": gamma, "eps": eps, "initial_accumulator_value": 1.0, **options}
    return run(OPTIMIZERS["rmsprop"], grad, x0, callback, num_iters, **given)


def adam(
    grad: Grad,
    x0: Any,
    callback: Callback | None = None,
    num_iters: int = 100,
    step_size: float = 0.001,
    b1: float = 0.9,
    b2: float = 0.999,
    eps: float = 1e-8,
    **options: Any,
) -> Any:
    r"""Run autograd's Adam, which is `Adam`; see `fastoptim.autograd`.

    .. math::
        m &= b_1 m + (1 - b_1)\, g, \qquad v = b_2 v + (1 - b_2)\, g^2 \\
        x &= x - \text{step\_size} \cdot \frac{m}{1 - b_1^t} / (\sqrt{v / (1 - b_2^t)} + \epsilon)

    >>> import numpy as np, fastoptim.autograd
    >>> fastoptim.autograd.adam(lambda x, i: 2 * x, np.array([1.0]), num_iters=1).round(6)
    array([0.999])
    """
    return run(
        OPTIMIZERS["adam"], grad, x0, callback, num_iters, **{"lr": step_size, "betas": (b1, b2), "eps": eps, **options}
    )
