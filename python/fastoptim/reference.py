"""One update on buffers that the caller owns, in plain NumPy: ``fo.reference.NAME``.

Signatures, results and error messages are those of ``fo.functional.NAME``.  No compiled code of fastoptim runs.

>>> import numpy as np, fastoptim as fo
>>> p, g = np.array([1.0, 2.0]), np.array([0.5, -0.5])
>>> fo.reference.sgd(p, g, step=1, lr=0.1)
>>> p
array([0.95, 2.05])
"""

from __future__ import annotations

from typing import Any

from .functional import bind
from .optimizer.base import known_optimizers


def __getattr__(name: str) -> Any:
    if name == "__all__":
        return sorted(known_optimizers())
    return bind(name, "reference", __name__)


def __dir__() -> list[str]:
    return sorted([*known_optimizers(), *(name for name in globals() if name.startswith("__"))])
