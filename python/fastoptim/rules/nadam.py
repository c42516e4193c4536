"""NAdam."""

from __future__ import annotations

import math
from functools import lru_cache
from typing import Any, Literal

import numpy as np

from ..optimizer.base import Optimizer
from ..options.checks import Decay, LearningRate, NonNegative
from ..options.fields import argument
from ..options.schema import StateArray
from ..reference_math import Array, bias_correction_of, decay


class NAdam(Optimizer):
    r"""NAdam: Adam with Nesterov momentum.

    .. math::
        \mu_t &= \beta_1 (1 - \tfrac12 \cdot 0.96^{t \psi}) \\
        m &= \beta_1 m + (1 - \beta_1) g, \qquad v = \beta_2 v + (1 - \beta_2) g^2 \\
        p &= p - \eta \left( \frac{(1 - \mu_t)\, g}{1 - \prod_{i \le t} \mu_i} +
             \frac{\mu_{t+1} m}{1 - \prod_{i \le t+1} \mu_i} \right) \Big/
             \left( \sqrt{v / (1 - \beta_2^t)} + \epsilon \right)

    The momentum grows from half of :math:`\beta_1` to :math:`\beta_1`, at a speed given by :math:`\psi`.  With
    ``momentum_decay=None`` it is :math:`\mu_t = \beta_1` throughout.

    For the same problems as Adam, often slightly faster at first.  The usual learning rate is 2e-3; for weight decay as
    in AdamW use ``decoupled=True``.

    In the paper :math:`m` is averaged with :math:`\mu_t`, and :math:`v` has another factor :math:`\beta_2` in the step.
    Here both are Adam's, as in PyTorch, Keras and optax.

    Args:
        params: Arrays to update in place; see `Optimizer`.
        lr: Learning rate :math:`\eta`, at least 0, or a callable of the step.  Default 2e-3.
        betas: :math:`\beta_1` and :math:`\beta_2`, decay rates of the moving averages, each in [0, 1).  Default (0.9,
            0.999).
        eps: :math:`\epsilon`, at least 0, added to the denominator for numerical stability.  Default 1e-8.
        momentum_decay: :math:`\psi`, at least 0, or None for constant momentum.  Default 4e-3.
        convention: "torch", as above; "keras", with `lr` 1e-3, `eps` 1e-7 and `momentum_decay` 1; "optax", with
            `momentum_decay` None.  Default "torch".
        **shared: Weight decay, clipping, averages and the rest that every optimizer has; see `Optimizer`.

    Raises:
        ValueError: If an option is out of range.

    Source: Dozat, "Incorporating Nesterov momentum into Adam", ICLR workshop, 2016.

    >>> import numpy as np, fastoptim as fo
    >>> p = np.array([1.0, 1.0])
    >>> fo.NAdam(p, lr=0.1, momentum_decay=None).step(np.array([100.0, -0.01]))
    >>> p.round(4)
    array([0.8526, 1.1474])
    """

    name = "nadam"
    variants = {"nadam": ("m", "v")}
    state_schema = {"m": StateArray(compress="signed"), "v": StateArray(compress="non-negative")}
    host_constants = ("fade", "next_fade", "ramp_loss")
    conventions = {
        "torch": {},
        "keras": {"lr": 1e-3, "eps": 1e-7, "momentum_decay": 1.0},
        "optax": {"momentum_decay": None},
    }

    lr: LearningRate = 2e-3
    betas: tuple[Decay, Decay] = (0.9, 0.999)
    eps: NonNegative = 1e-8
    momentum_decay: NonNegative | None = 4e-3
    convention: Literal["torch", "keras", "optax"] = argument(default="torch", kw_only=True)

    @staticmethod
    def compute_host_constants(*, t: int, momentum_decay: float | None) -> dict[str, float]:
        """Return 1 minus the momentum relative to beta1 of this step and the next, and 1 minus the product so far."""
        if momentum_decay is None:
            return {"fade": 0.0, "next_fade": 0.0, "ramp_loss": 0.0}
        losses = _ramp_losses(momentum_decay)
        return {
            "fade": _fade(t, momentum_decay),
            "next_fade": _fade(t + 1, momentum_decay),
            "ramp_loss": losses[t - 1] if t < len(losses) else losses[-1],
        }

    @staticmethod
    def reference(
        p: Array,
        g: Array,
        m: Array,
        v: Array,
        *,
        t: int,
        lr: float,
        betas: tuple[float, float],
        eps: float,
        fade: float,
        next_fade: float,
        ramp_loss: float,
        **_: Any,
    ) -> None:
        """The formula in NumPy."""
        number = p.dtype.type
        beta1, beta2 = (decay(p.dtype, beta) for beta in betas)
        one_minus_beta1, one_minus_beta2 = number(1 - float(beta1)), number(1 - float(beta2))
        root = math.sqrt(bias_correction_of(float(beta2), t))
        beta, bias_correction1 = float(beta1), bias_correction_of(float(beta1), t)
        one_minus_mu, one_minus_next = (1 - beta) + beta * fade, (1 - beta) + beta * next_fade
        one_minus_product = bias_correction1 + (1 - bias_correction1) * ramp_loss
        product = (1 - bias_correction1) * (1 - ramp_loss)
        g_step_size = number(lr * root * one_minus_mu / one_minus_product)
        m_step_size = number(lr * root * beta * (1 - next_fade) / (one_minus_product + product * one_minus_next))
        m[...] = beta1 * m + one_minus_beta1 * g
        v[...] = beta2 * v + one_minus_beta2 * g * g
        p -= (g_step_size * g + m_step_size * m) / (np.sqrt(v) + number(eps * root))


def _fade(t: int, momentum_decay: float) -> float:
    return 0.5 * math.pow(0.96, t * momentum_decay)


@lru_cache(maxsize=64)
def _ramp_losses(momentum_decay: float) -> list[float]:
    """Return 1 minus the product of 1 - fade up to each step, in sums of positive numbers.

    The list ends where further factors cannot matter: the product is too small, or every factor is 1.
    """
    fade = _fade(1, momentum_decay)
    loss, low, losses = fade, 0.0, [fade]  # low: the roundings of loss
    while (product := (1 - loss) - low) > 2.0**-60 and fade > 2.0**-60:
        fade = _fade(len(losses) + 1, momentum_decay)
        longer = loss + product * fade
        low += product * fade - (longer - loss)
        loss = longer
        losses.append(loss + low)
    return losses
