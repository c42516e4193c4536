"""RAdam."""

from __future__ import annotations

import math
from typing import Annotated, Any, Literal

import numpy as np

from ..optimizer.base import Optimizer
from ..options.checks import Decay, LearningRate, NonNegative, Range
from ..options.fields import argument
from ..reference_math import Array, decay, power


class RAdam(Optimizer):
    r"""RAdam: Adam that warms up by itself, its step rectified for how uncertain the second mean still is.

    .. math::
        m &= \beta_1 m + (1 - \beta_1) g, \qquad \hat m = m / (1 - \beta_1^t), \qquad
        v = \beta_2 v + (1 - \beta_2) g^2 \\
        \rho_\infty &= \frac{2}{1 - \beta_2} - 1, \qquad
        \rho = \rho_\infty - \frac{2 t \beta_2^t}{1 - \beta_2^t} \\
        r &= \sqrt{\frac{(\rho - 4)(\rho - 2)\, \rho_\infty}{(\rho_\infty - 4)(\rho_\infty - 2)\, \rho}} \\
        p &= p - \eta\, r\, \hat m \sqrt{1 - \beta_2^t} / (\sqrt{v} + \epsilon)
             \text{ if } \rho > \text{threshold, else } p - \eta\, \hat m

    Without `eps_hat` the quotient is :math:`\hat m / (\sqrt{v / (1 - \beta_2^t)} + \epsilon)`.

    Where Adam needs a warm-up.  The first steps, 5 at :math:`\beta_2 = 0.999`, are momentum's alone and as large as the
    gradient; where that is too much, clip it.

    The paper's threshold is 4, and it has no epsilon: where every gradient was zero its step would be 0/0.

    Args:
        params: Arrays to update in place; see `Optimizer`.
        lr: Learning rate :math:`\eta`, at least 0, or a callable of the step.
        betas: :math:`\beta_1` and :math:`\beta_2`, how slowly the means forget, each in [0, 1).
        eps: :math:`\epsilon`, added to the root, at least 0.
        threshold: From which :math:`\rho` on the step is Adam's, at least 4, where :math:`r` begins.
        eps_hat: Adds epsilon to the root of the uncorrected mean; else to that of the corrected one.
        convention: "torch", as above; "optax", without `eps_hat`; "paper", with `threshold` 4 (and `eps` as it is).
        **shared: Weight decay, clipping, averages and the rest that every optimizer has; see `Optimizer`.

    Raises:
        ValueError: An option out of range.

    Source: Liu et al., "On the variance of the adaptive learning rate and beyond", ICLR 2020, arXiv:1908.03265.

    >>> import numpy as np, fastoptim as fo
    >>> p = np.array([1.0, 1.0])
    >>> fo.RAdam(p, lr=0.1).step(np.array([2.0, -0.5]))
    >>> p.round(6)
    array([0.8 , 1.05])
    """

    name = "radam"
    variants = {"radam": ("m", "v")}
    conventions = {"torch": {}, "optax": {"eps_hat": False}, "paper": {"threshold": 4.0}}

    lr: LearningRate = 1e-3
    betas: tuple[Decay, Decay] = (0.9, 0.999)
    eps: NonNegative = 1e-8
    threshold: Annotated[float, Range(4)] = 5.0
    eps_hat: bool = True
    convention: Literal["torch", "optax", "paper"] = argument(default="torch", kw_only=True)

    @staticmethod
    def variant(**_: Any) -> str:
        """There is one."""
        return "radam"

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
        threshold: float,
        eps_hat: bool,
    ) -> None:
        """The formula in NumPy."""
        number = p.dtype.type
        beta1, beta2 = (decay(p.dtype, beta) for beta in betas)
        power2 = power(float(beta2), t)
        m[...] = beta1 * m + number(1 - float(beta1)) * g
        v[...] = beta2 * v + number(1 - float(beta2)) * g * g

        rho_inf = 2 / (1 - float(beta2)) - 1
        rho = rho_inf - 2 * float(t) * power2 / (1 - power2)
        rate = lr / (1 - power(float(beta1), t))
        if not rho > threshold:
            p -= number(rate) * m
            return
        root = math.sqrt(1 - power2)
        rate *= root * math.sqrt((rho - 4) * (rho - 2) * rho_inf / ((rho_inf - 4) * (rho_inf - 2) * rho))
        p -= number(rate) * m / (np.sqrt(v) + number(eps if eps_hat else eps * root))
