"""Adam and AMSGrad."""

from __future__ import annotations

import math
from typing import Any, Literal

import numpy as np

from ..optimizer.base import Optimizer
from ..options.checks import Decay, LearningRate, NonNegative
from ..options.fields import argument
from ..options.schema import StateArray
from ..reference_math import Array, bias_correction_of, decay, maximum


class Adam(Optimizer):
    r"""Adam: bias-corrected exponential moving averages of the gradient and of its square.

    .. math::
        m &= \beta_1 m + (1 - \beta_1) g, \qquad \hat m = m / (1 - \beta_1^t) \\
        v &= \beta_2 v + (1 - \beta_2) g^2, \qquad \hat v = v / (1 - \beta_2^t) \\
        p &= p - \eta\, \hat m / (\sqrt{\hat v + \epsilon_\text{root}} + \epsilon)

    With `amsgrad` the running maximum of :math:`v` replaces :math:`v` in :math:`\hat v`, as in PyTorch.  With
    `amsgrad_corrected` in addition, the running maximum of :math:`\hat v` replaces :math:`\hat v`.  With `eps_hat` the
    epsilons are added before the bias correction, :math:`\sqrt{1 - \beta_2^t}\, \hat m / (\sqrt{v +
    \epsilon_\text{root}} + \epsilon)`, as at the end of the paper's section 2, and have more influence in the first
    steps.

    The usual first choice.  A learning rate of 1e-3 suits many networks; large models need less.  For weight decay
    prefer `AdamW`.  The form with epsilon under the square root is ``eps_root=e, eps=0``.  (Adam is sometimes printed
    with minus signs in both moving averages.  That is a typo: the second moment would become negative.)

    The bias corrections are folded into per-step constants, so an element costs one division and one square root.  Each
    :math:`\beta` is rounded to the compute type once; the moving averages and their bias corrections use the rounded
    value.

    Args:
        params: Arrays to update in place; see `Optimizer`.
        lr: Learning rate :math:`\eta`, at least 0, or a callable of the step.  Default 1e-3.
        betas: :math:`\beta_1` and :math:`\beta_2`, decay rates of the moving averages, each in [0, 1).  Default (0.9,
            0.999).
        eps: Added to the denominator for numerical stability, at least 0.  Default 1e-8.
        eps_root: Added under the square root, at least 0.  Default 0.0.
        amsgrad: Divide by the running maximum of :math:`v`, which is one more state array.  Default False.
        eps_hat: Add the epsilons before the bias correction of :math:`v`.  Default False.
        bias_correction: If False, :math:`\hat m = m` and :math:`\hat v = v`.  Default True.
        amsgrad_corrected: Take the running maximum after the bias correction.  Default False.
        convention: "torch" and "paper", as above; "keras", with `eps_hat` and `eps` 1e-7; "optax", with
            `amsgrad_corrected`.  Default "torch".
        **shared: Weight decay, clipping, averages and the rest that every optimizer has; see `Optimizer`.

    Raises:
        ValueError: If an option is out of range.

    Source: Kingma & Ba, 2015, arXiv:1412.6980; AMSGrad: Reddi, Kale & Kumar, 2018, arXiv:1904.09237.

    >>> import numpy as np, fastoptim as fo
    >>> p = np.array([1.0, 1.0])
    >>> fo.Adam(p, lr=0.1).step(np.array([100.0, -0.01]))
    >>> p.round(6)
    array([0.9, 1.1])
    """

    name = "adam"
    variants = {"adam": ("m", "v"), "adam_amsgrad": ("m", "v", "v_max")}
    state_schema = {"m": StateArray(compress="signed"), "v": StateArray(compress="non-negative")}
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
        """Return the rule for AMSGrad, which has one more state array, or for Adam."""
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
        one_minus_beta1, one_minus_beta2 = number(1 - float(beta1)), number(1 - float(beta2))
        bias_correction1 = bias_correction_of(float(beta1), t) if bias_correction else 1.0
        bias_correction2 = bias_correction_of(float(beta2), t) if bias_correction else 1.0
        m[...] = beta1 * m + one_minus_beta1 * g
        v[...] = beta2 * v + one_minus_beta2 * g * g
        root_scale = bias_correction2  # factor of the argument of the square root
        if v_max is not None:
            if amsgrad_corrected:
                v, root_scale = number(1 / bias_correction2) * v, 1.0
            v_max[...] = maximum(v_max, v)
            v = v_max
        eps_scale = root_scale / bias_correction2 if eps_hat else root_scale
        step_size = number(lr * math.sqrt(root_scale) / bias_correction1)
        p -= step_size * m / (np.sqrt(v + number(eps_root * eps_scale)) + number(eps * math.sqrt(eps_scale)))
