"""Adam and AMSGrad."""

from __future__ import annotations

import math
from typing import Any, Literal

import numpy as np

from ..optimizer.base import Optimizer
from ..options.checks import Decay, LearningRate, NonNegative
from ..options.fields import argument
from ..reference_math import Array, decay, maximum, power


class Adam(Optimizer):
    r"""Adam: bias-corrected running means of the gradient and of its square.

    .. math::
        m &= \beta_1 m + (1 - \beta_1) g, \qquad \hat m = m / (1 - \beta_1^t) \\
        v &= \beta_2 v + (1 - \beta_2) g^2, \qquad \hat v = v / (1 - \beta_2^t) \\
        p &= p - \eta\, \hat m / (\sqrt{\hat v + \epsilon_\text{root}} + \epsilon)

    With `amsgrad` the running maximum of :math:`v` stands in place of :math:`v` in :math:`\hat v`, as in PyTorch; with
    `amsgrad_corrected` too, the running maximum of :math:`\hat v` in place of :math:`\hat v`.  With `eps_hat` the
    epsilons are added before the correction, :math:`\sqrt{1 - \beta_2^t}\, \hat m / (\sqrt{v + \epsilon_\text{root}}
    + \epsilon)`, as at the end of the paper's section 2: in the first steps they weigh more.

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
        eps_hat: Adds the epsilons to the mean before its correction.
        bias_correction: Without it :math:`\hat m = m` and :math:`\hat v = v`.
        amsgrad_corrected: Takes the largest mean after its correction.
        convention: "torch" and "paper", as above; "keras", with `eps_hat` and `eps` 1e-7; "optax", with
            `amsgrad_corrected`.
        **shared: Weight decay, clipping, averages and the rest that every optimizer has; see `Optimizer`.

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
    conventions = {
        "torch": {},
        "keras": {"eps": 1e-7, "eps_hat": True},
        "optax": {"amsgrad_corrected": True},
        "paper": {},
    }

    lr: LearningRate = 1e-3
    betas: tuple[Decay, Decay] = (0.9, 0.999)
    eps: NonNegative = 1e-8
    eps_root: NonNegative = 0.0
    amsgrad: bool = False
    eps_hat: bool = False
    bias_correction: bool = True
    amsgrad_corrected: bool = False
    convention: Literal["torch", "keras", "optax", "paper"] = argument(default="torch", kw_only=True)

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
        eps_hat: bool,
        bias_correction: bool,
        amsgrad_corrected: bool,
    ) -> None:
        """The formula in NumPy."""
        number = p.dtype.type
        beta1, beta2 = (decay(p.dtype, beta) for beta in betas)
        bias1, bias2 = (1 - power(float(beta), t) if bias_correction else 1.0 for beta in (beta1, beta2))
        m[...] = beta1 * m + number(1 - float(beta1)) * g
        v[...] = beta2 * v + number(1 - float(beta2)) * g * g
        lacking = bias2  # in what the root is of
        if v_max is not None:
            if amsgrad_corrected:
                v, lacking = number(1 / bias2) * v, 1.0
            v_max[...] = maximum(v_max, v)
            v = v_max
        meant = lacking / bias2 if eps_hat else lacking  # the same of the epsilons
        rate = number(lr * math.sqrt(lacking) / bias1)
        p -= rate * m / (np.sqrt(v + number(eps_root * meant)) + number(eps * math.sqrt(meant)))
