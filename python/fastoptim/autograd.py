"""Every optimizer in the call shape of `autograd.misc.optimizers`: ``adam(grad, x0, callback, num_iters, ...)``.

`sgd`, `rmsprop` and `adam` are those of autograd, with its defaults and keywords; every other name in
`fastoptim.OPTIMIZERS` is a function, too, and takes the options of its class.

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
