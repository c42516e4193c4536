"""Every optimizer in the call shape of `autograd.misc.optimizers`: ``adam(grad, x0, callback, num_iters, ...)``.

`sgd`, `rmsprop` and `adam` are those of autograd, with its defaults and keywords; every other name in
`fastoptim.OPTIMIZERS` is a function, too, and takes the options of its class by keyword.  Those three take the options
of their class in addition, and `lr`, `momentum`, `alpha` and `betas` have precedence over autograd's keywords.

A function takes `num_iters` steps from `x0`.  Before each step ``callback(x, i, g)`` receives the point and the
gradient ``g = grad(x, i)``, for i from 0.  The arrays of `x` are copies, so that both functions may keep them.

Args:
    grad: Returns the gradient in the structure of its first argument.  For `nag` that is the look-ahead point.
    x0: One array, or any nesting of dicts, lists and tuples of arrays and numbers.  It is not changed.  Numbers and
        integers become float64 arrays.
    callback: Its result is not used.  Default None.
    num_iters: The number of steps.  Default 100, for `sgd` 200.

Returns:
    The last point, new arrays in the structure of `x0`; for `schedule_free_sgd` and `schedule_free_adamw` the average.

Raises:
    TypeError: A gradient has another structure or is None, complex or text; or an unknown option.
    ValueError: A gradient has another shape, or an option is out of range.

>>> import numpy as np, fastoptim.autograd
>>> fastoptim.autograd.lion(lambda x, i: 2 * x, np.array([0.5, -0.25]), num_iters=4, lr=0.125)
array([0., 0.])
"""

from collections.abc import Callable as _Callable
from typing import Any as _Any

from .frontends import autograd as _autograd
from .frontends.autograd import adam as adam
from .frontends.autograd import rmsprop as rmsprop
from .frontends.autograd import sgd as sgd

__all__ = sorted(_autograd.NAMES)


def __getattr__(name: str) -> _Callable[..., _Any]:
    return _autograd.loop_of(name)


def __dir__() -> list[str]:
    return [*__all__, *(name for name in globals() if name.startswith("__"))]
