"""Momentum in the three notations of the textbooks."""

from __future__ import annotations

from typing import Any, Literal

from ..optimizer.base import Optimizer
from ..options.checks import Fraction, LearningRate
from ..reference_math import Array, decay


class Momentum(Optimizer):
    r"""Momentum, as any of the three notations in use writes it.

    .. math::
        \text{velocity:}   &\quad v = \mu v - \eta g,\quad p = p + v \\
        \text{heavy\_ball:} &\quad v = \mu v + g,\quad p = p - \eta v \\
        \text{ema:}        &\quad v = \mu v + (1 - \mu) g,\quad p = p - \eta v

    With `nesterov` the step is that of the next velocity, were the gradient to stay: :math:`p + (\mu v - \eta g)`,
    :math:`p - \eta (g + \mu v)` and :math:`p - \eta (\mu v + (1 - \mu) g)`, with the new :math:`v`.

    The forms agree up to the scale of `lr` while it is constant: heavy_ball with `lr` is velocity with `lr`, and ema
    with ``lr / (1 - momentum)``.  When the rate changes, velocity keeps the old rate in what it has accumulated
    (Keras); the others do not (PyTorch, optax).  To repeat a textbook's numbers take its notation; else `SGD`.

    Args:
        params: Arrays to update in place; see `Optimizer`.
        lr: Learning rate :math:`\eta`, at least 0, or a callable of the step.
        momentum: :math:`\mu`, in [0, 1]; for ema one step below 1.
        nesterov: Takes Nesterov's step.
        form: "velocity", "heavy_ball" or "ema".
        **shared: Weight decay, clipping, averages and the rest that every optimizer has; see `Optimizer`.

    Raises:
        ValueError: An option out of range.

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

    lr: LearningRate = 0.01
    momentum: Fraction = 0.9
    nesterov: bool = False
    form: Literal["velocity", "heavy_ball", "ema"] = "velocity"

    @staticmethod
    def variant(*, form: str, nesterov: bool, **_: Any) -> str:
        """One a form and kind of step."""
        return f"momentum_{form}_nesterov" if nesterov else f"momentum_{form}"

    @staticmethod
    def reference(
        p: Array, g: Array, v: Array, *, t: int, lr: float, momentum: float, nesterov: bool, form: str
    ) -> None:
        """The formula in NumPy."""
        number = p.dtype.type
        rate, keep = number(lr), number(momentum)
        if form == "velocity":
            v[...] = keep * v - rate * g
            p += keep * v - rate * g if nesterov else v
            return
        if form == "ema":
            keep = decay(p.dtype, momentum)
            g = number(1 - float(keep)) * g
        v[...] = keep * v + g
        p -= rate * (keep * v + g if nesterov else v)
