"""Loops in the call shape of `autograd.misc.optimizers`; autograd itself is not needed."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np

from ..arrays.tree import structure_of
from ..optimizer.base import OPTIMIZERS, Optimizer
from ..options.suggestions import did_you_mean

Grad = Callable[[Any, int], Any]
Callback = Callable[[Any, int, Any], Any]

#: The functions that `fastoptim.autograd` has.
NAMES = OPTIMIZERS.keys()


def loop_of(name: str) -> Callable[..., Any]:
    """Return the loop of an optimizer: ``loop(grad, x0, callback=None, num_iters=100, **options)``."""
    if name not in OPTIMIZERS:
        raise AttributeError(f"module 'fastoptim.autograd' has no attribute {name!r}{did_you_mean(name, OPTIMIZERS)}")
    return partial(run, OPTIMIZERS[name])


def run(
    optimizer: type[Optimizer],
    grad: Grad,
    x0: Any,
    callback: Callback | None = None,
    num_iters: int = 100,
    **options: Any,
) -> Any:
    """Take `num_iters` steps from `x0`, and return the parameters: new arrays in its structure.

    Before each step ``callback(x, i, g)`` receives the point and the gradient ``g = grad(x, i)``, for i from 0.  The
    arrays of `x` are copies, so that both functions may keep them.

    Args:
        optimizer: The class.
        grad: Returns the gradient in the structure of its first argument.  For `NAG` that is the look-ahead point.
        x0: One array, or any nesting of dicts, lists and tuples of arrays and numbers.  It is not changed.  Numbers and
            integers become float64 arrays.
        callback: Its result is not used.
        num_iters: The number of steps.
        **options: The optimizer's.

    Returns:
        The last point; for `ScheduleFreeSGD` and `ScheduleFreeAdamW` the average.
    """
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
        pairs = zip(structure.match(g, "grad(x, i)"), leaves, strict=True)
        opt.step(structure.build(np.asarray(each, p.dtype) for each, p in pairs))
    if hasattr(opt, "eval"):
        opt.eval()
    return structure.build(iter(leaves))


def sgd(
    grad: Grad,
    x: Any,
    callback: Callback | None = None,
    num_iters: int = 200,
    step_size: float = 0.1,
    mass: float = 0.9,
    **options: Any,
) -> Any:
    r"""Run autograd's SGD with momentum, which is `Momentum` with ``form="ema"``; see `run`.

    .. math::
        v = \text{mass} \cdot v + (1 - \text{mass})\, g, \qquad x = x - \text{step\_size} \cdot v

    >>> import numpy as np, fastoptim.autograd
    >>> fastoptim.autograd.sgd(lambda x, i: 2 * x, np.array([1.0]), num_iters=1)
    array([0.98])
    """
    momentum = OPTIMIZERS["momentum"]
    return run(momentum, grad, x, callback, num_iters, **{"lr": step_size, "momentum": mass, "form": "ema", **options})


def rmsprop(
    grad: Grad,
    x: Any,
    callback: Callback | None = None,
    num_iters: int = 100,
    step_size: float = 0.1,
    gamma: float = 0.9,
    eps: float = 1e-8,
    **options: Any,
) -> Any:
    r"""Run autograd's RMSprop, which is `RMSprop` with a mean of squares that starts at 1; see `run`.

    .. math::
        s = \gamma s + (1 - \gamma)\, g^2, \qquad x = x - \text{step\_size} \cdot g / (\sqrt s + \epsilon)

    >>> import numpy as np, fastoptim.autograd
    >>> fastoptim.autograd.rmsprop(lambda x, i: np.sign(x), np.array([1.0]), num_iters=1)
    array([0.9])
    """
    given = {"lr": step_size, "alpha": gamma, "eps": eps, "initial_accumulator_value": 1.0, **options}
    return run(OPTIMIZERS["rmsprop"], grad, x, callback, num_iters, **given)


def adam(
    grad: Grad,
    x: Any,
    callback: Callback | None = None,
    num_iters: int = 100,
    step_size: float = 0.001,
    b1: float = 0.9,
    b2: float = 0.999,
    eps: float = 1e-8,
    **options: Any,
) -> Any:
    r"""Run autograd's Adam, which is `Adam`; see `run`.

    .. math::
        m &= b_1 m + (1 - b_1)\, g, \qquad v = b_2 v + (1 - b_2)\, g^2 \\
        x &= x - \text{step\_size} \cdot \frac{m}{1 - b_1^t} / (\sqrt{v / (1 - b_2^t)} + \epsilon)

    >>> import numpy as np, fastoptim.autograd
    >>> fastoptim.autograd.adam(lambda x, i: 2 * x, np.array([1.0]), num_iters=1).round(6)
    array([0.999])
    """
    return run(
        OPTIMIZERS["adam"], grad, x, callback, num_iters, **{"lr": step_size, "betas": (b1, b2), "eps": eps, **options}
    )
