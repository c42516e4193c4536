"""Adam and AMSGrad."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from ..arrays import Array
from ..optimizer import Optimizer
from ..options import Decay, LearningRate, NonNegative
from ..reference import decay, maximum, power


class Adam(Optimizer):
    r"""Adam: bias-corrected running means of the gradient and of its square.

    .. math::
        m &= \beta_1 m + (1 - \beta_1) g, \qquad \hat m = m / (1 - \beta_1^t) \\
        v &= \beta_2 v + (1 - \beta_2) g^2, \qquad \hat v = v / (1 - \beta_2^t) \\
        p &= p - \eta\, \hat m / (\sqrt{\hat v + \epsilon_\text{root}} + \epsilon)

    With `amsgrad` the running maximum of :math:`v` stands in place of :math:`v` in :math:`\hat v`, as in PyTorch.

    The usual first choice; 1e-3 suits many networks, less with large models.  For weight decay prefer `AdamW`.  The
    form with epsilon inside the root is ``eps_root=e, eps=0``.  (A printed Adam with minus signs in both means is an
    error of print: the second would be negative, and has no root.)

    Computed with the corrections folded into scalars, one division and one root an element, and with each
    :math:`\beta` as the compute type keeps it, in the means and in their corrections alike.

    Args:
        params: Arrays to update in place; see `Optimizer`.
        lr: Learning rate :math:`\eta`, at least 0, or a callable of the step.
        betas: :math:`\beta_1` and :math:`\beta_2`, how slowly the means forget, each in [0, 1).
        eps: Added to the root.
        eps_root: Added inside the root.
        amsgrad: Divides by the largest mean so far; one more state array.
        weight_decay: Adds ``weight_decay * p`` to the gradient.
        maximize: Ascends instead.
        backend: "native", or "reference" for plain NumPy with the same bits.

    Raises:
        ValueError: An option out of range.

    Source: Kingma & Ba, 2015, arXiv:1412.6980; AMSGrad: Reddi, Kale & Kumar, 2018, arXiv:1904.09237.

    >>> import numpy as np, fastoptim as fo
    >>> p = np.array([1.0, 1.0])
    >>> fo.Adam(p, lr=0.1).step(np.array([100.0, -0.01]))
    >>> p.round(6)
    array([0.9, 1.1])
    """

    name = "adam"
    variants = {"adam": ("m", "v"), "adam_amsgrad": ("m", "v", "v_max")}

    lr: LearningRate = 1e-3
    betas: tuple[Decay, Decay] = (0.9, 0.999)
    eps: NonNegative = 1e-8
    eps_root: NonNegative = 0.0
    amsgrad: bool = False

    @staticmethod
    def variant(*, amsgrad: bool, **_: Any) -> str:
        """AMSGrad keeps one array more."""
        return "adam_amsgrad" if amsgrad else "adam"

    @staticmethod
    def reference(
        p: Array,
        g: Array,
        m: Array,
        v: Array,
        v_max: Array | None = None,
        *,
        t: int,
        lr: float,
        betas: tuple[float, float],
        eps: float,
        eps_root: float,
        amsgrad: bool,
    ) -> None:
        """The formula in NumPy."""
        number = p.dtype.type
        beta1, beta2 = (decay(p.dtype, beta) for beta in betas)
        bias1, bias2 = (1 - power(float(beta), t) for beta in (beta1, beta2))
        m[...] = beta1 * m + number(1 - float(beta1)) * g
        v[...] = beta2 * v + number(1 - float(beta2)) * g * g
        if v_max is not None:
            v_max[...] = maximum(v_max, v)
            v = v_max
        rate = number(lr * math.sqrt(bias2) / bias1)
        p -= rate * m / (np.sqrt(v + number(eps_root * bias2)) + number(eps * math.sqrt(bias2)))
