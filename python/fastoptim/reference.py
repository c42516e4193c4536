"""What the answer is, in plain NumPy.  ``fo.reference.NAME`` has the signature of ``fo.functional.NAME``.

Preparation and storage stand here, the formula of each optimizer in its own file; all are written from the papers and
not from the kernels, and fix the order of the operations, so that native code has bits to equal.  No compiled code of
fastoptim runs.

>>> import numpy as np, fastoptim as fo
>>> p, g = np.array([1.0, 2.0]), np.array([0.5, -0.5])
>>> fo.reference.sgd(p, g, step=1, lr=0.1)
>>> p
array([0.95, 2.05])
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from .arrays import Array, compute_dtype
from .engine import Settings, Slot, Update, check_one, check_targets


def prepare(p: Array, g: Array, settings: Settings, lr: float) -> Array:
    """What happens before the rule: ``g = -g``, ``g += weight_decay*p``, or decoupled ``p *= 1 - lr*weight_decay``."""
    number = p.dtype.type
    weight_decay = settings.options["weight_decay"]
    if settings.options["maximize"]:
        g = np.negative(g)
    if weight_decay and settings.optimizer.decoupled:
        p *= number(1 - lr * weight_decay)
    elif weight_decay:
        g = g + number(weight_decay) * p
    return np.asarray(g)


def step(p: Array, g: Array, state: Mapping[str, Array], update: Update) -> None:
    """One update of one array, in place."""
    settings, lr, t = update
    dtype = compute_dtype(p.dtype)
    own = {k: v for k, v in settings.options.items() if k not in ("lr", "maximize", "weight_decay")}
    used = {name: state[name] for name in settings.state}
    with np.errstate(all="ignore"):
        x = p.astype(dtype)
        d = prepare(x, g.astype(dtype), settings, lr)
        settings.optimizer.reference(x, d, **used, t=t, lr=lr, **own)
        p[...] = x.astype(p.dtype)


def power(base: float, t: int) -> float:
    """``base**t`` by repeated squaring: fixed multiplications, where a libm's pow may differ from another's."""
    result = 1.0
    while t > 0:
        if t % 2:
            result *= base
        base *= base
        t //= 2
    return result


def decay(dtype: np.dtype[Any], rate: float) -> Any:
    """A decay rate as its dtype keeps it, below one: float32 would round 0.99999999 to one, which never decays."""
    number = dtype.type
    return min(number(rate), np.nextafter(number(1), number(0)))


def maximum(a: Array, b: Array) -> Array:
    """The larger, NaN if either is, and the first of equals: np.maximum leaves open which of 0 and -0 it takes."""
    return np.where((a >= b) | np.isnan(a), a, b)


class Engine:
    """The reference backend: one array after another."""

    def __init__(self, slots: Sequence[Slot]) -> None:
        self._slots = slots

    def step(self, grads: list[Any], updates: Sequence[Update], update_of: list[int] | None = None) -> bool:
        """Updates every array that has a gradient; see fastoptim.engine.Engine."""
        territory = check_targets(self._slots)
        checked = [
            None if grad is None else check_one(slot, grad, territory)
            for slot, grad in zip(self._slots, grads, strict=True)
        ]
        for i, (slot, grad) in enumerate(zip(self._slots, checked, strict=True)):
            if grad is not None:
                update = updates[slot.group if update_of is None else update_of[i]]
                step(slot.p, grad, slot.state, update)
        return all(grad is not None for grad in checked)


def __getattr__(name: str) -> Callable[..., None]:
    from .functional import bind

    return bind(name, Engine, __name__)


def __dir__() -> list[str]:
    from .optimizer import OPTIMIZERS

    return sorted([*globals(), *OPTIMIZERS])
