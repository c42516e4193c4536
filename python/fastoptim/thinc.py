"""Every optimizer as one of thinc and spaCy: ``fastoptim.thinc.AdamW(0.001)``, or in a configuration

.. code-block:: ini

    [training.optimizer]
    @optimizers = "fastoptim.AdamW.v1"
    learn_rate = 0.001
    L2 = 0.01

>>> import numpy as np, fastoptim.thinc
>>> optimizer = fastoptim.thinc.SGD(0.5, grad_clip=0.0)
>>> weights, gradient = np.ones(2, "f"), np.array([1, -1], "f")
>>> optimizer((0, "W"), weights, gradient)
(array([0.5, 1.5], dtype=float32), array([0., 0.], dtype=float32))
"""

from collections.abc import Callable as _Callable

from .frontends import thinc as _thinc
from .frontends.thinc import Optimizer as Optimizer
from .frontends.thinc import factory as factory

__all__ = ["Optimizer", "factory", *sorted(_thinc.CLASSES)]


def __getattr__(name: str) -> _Callable[..., Optimizer]:
    if name not in _thinc.CLASSES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return factory(_thinc.CLASSES[name])


def __dir__() -> list[str]:
    return [*__all__, *(name for name in globals() if name.startswith("__"))]
