"""Momentum in the three notations of the textbooks."""

from __future__ import annotations

from typing import Any, Literal

from ..optimizer.base import Optimizer
from ..options.checks import Fraction, LearningRate
from ..options.schema import StateArray
from ..reference_math import Array, decay


class Momentum(Optimizer):
    r"""Momentum in any of its three notations.

    .. math::
        \text{velocity:}   &\quad v = \mu v - \eta g,\quad p = p + v \\
        \text{heavy\_ball:} &\quad v = \mu v + g,\quad p = p - \eta v \\
        \text{ema:}        &\quad v = \mu v + (1 - \mu) g,\quad p = p - \eta v

    With `nesterov` the step is that of the next velocity for an unchanged gradient: :math:`p + (\mu v - \eta g)`,
    :math:`p - \eta (g + \mu v)` and :math:`p - \eta (\mu v + (1 - \mu) g)`, with the new :math:`v`.

    The forms agree up to the scale of `lr` while it is constant: heavy_ball with `lr` equals velocity with `lr`, and
    ema with ``lr / (1 - momentum)``.  When the learning rate changes, velocity keeps the previous ones in its buffer
    (Keras); the others do not (PyTorch, optax).  To reproduce a textbook's numbers select its notation; otherwise use
    `SGD`.

    Args:
        params: Arrays to update in place; see `Optimizer`.
        lr: Learning rate :math:`\eta`, at least 0, or a callable of the step.  Default 0.01.
        momentum: :math:`\mu`, in [0, 1]; for ema below 1.  Default 0.9.
        nesterov: Use Nesterov's step.  Default False.
        form: "velocity", "heavy_ball" or "ema".  Default "velocity".
        **shared: Weight decay, clipping, averages and the rest that every optimizer has; see `Optimizer`.

    Raises:
        ValueError: If an option is out of range.

    Source: Polyak, 1964, doi:10.1016/0041-5553(64)90137-5; Nesterov, 1983; Sutskever et al., ICML 2013.

    >>> import numpy as np, fastoptim as fo
    >>> p = np.array([1.0])
    >>> opt = fo.Momentum(p, lr=0.1, momentum=0.5, form="heavy_ball")
    >>> for _ in range(2):
    ...     opt.step(np.array([1.0]))
    >>> p
    array([0.75])
    """

    name = "momentum"
    variants = {
        "momentum_velocity": ("v",),
        "momentum_heavy_ball": ("v",),
        "momentum_ema": ("v",),
        "momentum_velocity_nesterov": ("v",),
        "momentum_heavy_ball_nesterov": ("v",),
        "momentum_ema_nesterov": ("v",),
    }
    state_schema = {"v": StateArray(compress="signed")}

    lr: LearningRate = 0.01
    momentum: Fraction = 0.9
    nesterov: bool = False
    form: Literal["velocity", "heavy_ball", "ema"] = "velocity"

    @staticmethod
    def variant(*, form: str, nesterov: bool, **_: Any) -> str:
        """Return the rule for a form, with or without Nesterov's step."""
        return f"momentum_{form}_nesterov" if nesterov else f"momentum_{form}"

    @staticmethod
    def reference(
        p: Array, g: Array, v: Array, *, t: int, lr: float, momentum: float, nesterov: bool, form: str
    ) -> None:
        """The formula in NumPy."""
        number = p.dtype.type
        step_size, mu = number(lr), number(momentum)
        if form == "velocity":
            v[...] = mu * v - step_size * g
            p += mu * v - step_size * g if nesterov else v
            return
        if form == "ema":
            mu = decay(p.dtype, momentum)
            g = number(1 - float(mu)) * g
        v[...] = mu * v + g
        p -= step_size * (mu * v + g if nesterov else v)
