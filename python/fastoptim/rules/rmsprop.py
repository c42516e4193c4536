"""RMSprop."""

from __future__ import annotations

import math
from collections.abc import Mapping
from operator import itemgetter
from typing import Any, Literal

import numpy as np

from ..optimizer.base import Optimizer
from ..options.checks import Decay, Fraction, LearningRate, NonNegative
from ..options.fields import argument
from ..options.schema import Compress, StateArray
from ..reference_math import Array, bias_correction_of, decay, maximum


def _compress_of_s(options: Mapping[str, Any]) -> Compress | None:
    """Return None with `centered`: rounding errors of both means would make their variance zero."""
    return None if options["centered"] else "non-negative"


class RMSprop(Optimizer):
    r"""RMSprop: the gradient over the square root of a moving average of its square.

    .. math::
        s &= \alpha s + (1 - \alpha) g^2, \qquad
        a = \alpha a + (1 - \alpha) g \text{ if centered, else } 0 \\
        d &= \sqrt{s - a^2 + \epsilon_\text{root}} + \epsilon \\
        p &= p - \eta\, g / d, \qquad \text{with momentum: } b = \mu b + g / d,\; p = p - \eta b

    For recurrent networks and non-stationary problems.  `centered` divides by the standard deviation instead of the
    root mean square.  The variance :math:`s - a^2` is clamped to at least 0, as rounding can make it negative
    (PyTorch's square root of it is then NaN).  The form with epsilon under the square root is ``eps_root=e, eps=0``.

    With `bias_correction`, :math:`s / (1 - \alpha^t)` and :math:`a / (1 - \alpha^t)` replace :math:`s` and :math:`a` in
    :math:`d`, so that the first steps are not larger than the later ones.

    Args:
        params: Arrays to update in place; see `Optimizer`.
        lr: Learning rate :math:`\eta`, at least 0, or a callable of the step.  Default 0.01.
        alpha: :math:`\alpha`, decay rate of the moving averages, in [0, 1).  Default 0.99.
        eps: Added to the denominator for numerical stability, at least 0.  Default 1e-8.
        eps_root: Added under the square root, at least 0.  Default 0.0.
        momentum: :math:`\mu`, in [0, 1].  With 0 there is no momentum buffer.  Default 0.0.
        centered: Subtract the square of the average gradient.  Default False.
        lr_inside: With momentum, multiply the terms of the buffer by the learning rate instead of the buffer; the same
            while the learning rate is constant.  Default False.
        bias_correction: Apply bias corrections to the moving averages, as in Adam.  Default False.
        initial_accumulator_value: Initial value of :math:`s`, at least 0; optax's `initial_scale`.  Default 0.0.
        convention: "torch", as above; "keras", with `lr` 1e-3, `alpha` 0.9, `eps` 0, `eps_root` 1e-7 and `lr_inside`;
            "optax", with `alpha` 0.9, `eps` 0, `eps_root` 1e-8 and `lr_inside`; "paper", with `alpha` 0.9 (it has no
            `eps`, which is unchanged here).  Default "torch".
        **shared: Weight decay, clipping, averages and the rest that every optimizer has; see `Optimizer`.

    Raises:
        ValueError: If an option is out of range.

    Source: Tieleman & Hinton, Coursera "Neural Networks for Machine Learning", lecture 6.5, 2012; centered: Graves,
    2013, arXiv:1308.0850.

    >>> import numpy as np, fastoptim as fo
    >>> p = np.array([1.0])
    >>> fo.RMSprop(p, lr=0.01).step(np.array([5.0]))
    >>> p.round(6)
    array([0.9])
    """

    name = "rmsprop"
    variants = {
        "rmsprop": ("s",),
        "rmsprop_centered": ("s", "g_avg"),
        "rmsprop_momentum": ("s", "b"),
        "rmsprop_centered_momentum": ("s", "g_avg", "b"),
    }
    state_schema = {
        "s": StateArray(initial=itemgetter("initial_accumulator_value"), compress=_compress_of_s),
        "b": StateArray(compress="signed"),
    }
    conventions = {
        "torch": {},
        "keras": {"lr": 1e-3, "alpha": 0.9, "eps": 0.0, "eps_root": 1e-7, "lr_inside": True},
        "optax": {"alpha": 0.9, "eps": 0.0, "eps_root": 1e-8, "lr_inside": True},
        "paper": {"alpha": 0.9},
    }

    lr: LearningRate = 0.01
    alpha: Decay = 0.99
    eps: NonNegative = 1e-8
    eps_root: NonNegative = 0.0
    momentum: Fraction = 0.0
    centered: bool = False
    lr_inside: bool = False
    bias_correction: bool = False
    initial_accumulator_value: NonNegative = 0.0
    convention: Literal["torch", "keras", "optax", "paper"] = argument(default="torch", kw_only=True)

    @staticmethod
    def variant(*, centered: bool, momentum: float, **_: Any) -> str:
        """Return the rule for a combination of centering and momentum."""
        return "rmsprop" + "_centered" * centered + "_momentum" * (momentum != 0)

    @staticmethod
    def reference(
        p: Array,
        g: Array,
        s: Array,
        g_avg: Array | None = None,
        b: Array | None = None,
        *,
        t: int,
        lr: float,
        alpha: float,
        eps: float,
        eps_root: float,
        momentum: float,
        centered: bool,
        lr_inside: bool,
        bias_correction: bool,
        **_: Any,
    ) -> None:
        """The formula in NumPy."""
        number = p.dtype.type
        alpha = decay(p.dtype, alpha)
        one_minus_alpha = number(1 - float(alpha))
        correction = bias_correction_of(float(alpha), t) if bias_correction else 1.0
        root = math.sqrt(correction)
        s[...] = alpha * s + one_minus_alpha * g * g
        variance = s
        if g_avg is not None:
            g_avg[...] = alpha * g_avg + one_minus_alpha * g
            variance = maximum(s - number(1 / correction) * g_avg * g_avg, number(0))
        denominator = np.sqrt(variance + number(eps_root * correction)) + number(eps * root)
        if b is None:
            p -= number(lr * root) * g / denominator
            return
        buffer_lr, step_lr = (lr * root, 1.0) if lr_inside else (root, lr)
        b[...] = number(momentum) * b + number(buffer_lr) * (g / denominator)
        p -= number(step_lr) * b
