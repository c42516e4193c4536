"""NAdam."""

from __future__ import annotations

import math
from functools import lru_cache
from typing import Any, Literal

import numpy as np

from ..optimizer.base import Optimizer
from ..options.checks import Decay, LearningRate, NonNegative
from ..options.fields import argument
from ..reference_math import Array, decay, power


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
    host_constants = ("ramp", "next_ramp", "ramp_product")
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
        """Return the momentum of this step and of the next relative to beta1, and the product of those so far."""
        if momentum_decay is None:
            return {"ramp": 1.0, "next_ramp": 1.0, "ramp_product": 1.0}
        products = _ramp_products(momentum_decay)
        return {
            "ramp": _ramp(t, momentum_decay),
            "next_ramp": _ramp(t + 1, momentum_decay),
            "ramp_product": products[t - 1] if t < len(products) else products[-1],
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
        ramp: float,
        next_ramp: float,
        ramp_product: float,
        **_: Any,
    ) -> None:
        """The formula in NumPy."""
        number = p.dtype.type
        beta1, beta2 = (decay(p.dtype, beta) for beta in betas)
        one_minus_beta1, one_minus_beta2 = number(1 - float(beta1)), number(1 - float(beta2))
        root = math.sqrt(1 - power(float(beta2), t))
        mu, next_mu = float(beta1) * ramp, float(beta1) * next_ramp
        mu_product = power(float(beta1), t) * ramp_product
        g_step_size = number(lr * root * (1 - mu) / (1 - mu_product))
        m_step_size = number(lr * root * next_mu / (1 - mu_product * next_mu))
        m[...] = beta1 * m + one_minus_beta1 * g
        v[...] = beta2 * v + one_minus_beta2 * g * g
        p -= (g_step_size * g + m_step_size * m) / (np.sqrt(v) + number(eps * root))


def _ramp(t: int, momentum_decay: float) -> float:
    return 1 - 0.5 * math.pow(0.96, t * momentum_decay)


@lru_cache(maxsize=64)
def _ramp_products(momentum_decay: float) -> list[float]:
    """Return the products of the ramps up to each step.

    The list ends where further products cannot matter: they are too small to change 1 - product, or every ramp is 1.
    """
    products = [ramp := _ramp(1, momentum_decay)]
    while products[-1] > 2.0**-60 and ramp < 1:
        ramp = _ramp(len(products) + 1, momentum_decay)
        products.append(products[-1] * ramp)
    return products
