"""The recipe's worked example."""

from __future__ import annotations

from typing import Any

import numpy as np

from ..arrays import Array
from ..optimizer import Optimizer
from ..options import Decay, LearningRate
from ..reference import decay


class RecipeSignum(Optimizer):
    r"""Steps of one size along the sign of a running mean of the gradient.

    .. math::
        m &= \beta m + (1 - \beta) g \\
        p &= p - \eta\, \text{sign}(m)

    Args:
        params: Arrays to update in place; see `Optimizer`.
        lr: Learning rate :math:`\eta`, at least 0, or a callable of the step.
        beta: :math:`\beta`, how slowly the mean forgets, in [0, 1).
        weight_decay: Adds ``weight_decay * p`` to the gradient.
        maximize: Ascends instead.
        backend: "native", or "reference" for plain NumPy with the same bits.

    Source: Bernstein et al., 2018, arXiv:1802.04434.

    >>> import numpy as np, fastoptim as fo
    >>> p = np.array([1.0, 1.0])
    >>> fo.RecipeSignum(p, lr=0.25).step(np.array([100.0, -0.01]))
    >>> p
    array([0.75, 1.25])
    """

    name = "recipe_signum"
    variants = {"recipe_signum": ("m",)}

    lr: LearningRate = 1e-3
    beta: Decay = 0.9

    @staticmethod
    def variant(**_: Any) -> str:
        """There is one."""
        return "recipe_signum"

    @staticmethod
    def reference(p: Array, g: Array, m: Array, *, t: int, lr: float, beta: float) -> None:
        """The formula in NumPy."""
        number = p.dtype.type
        keep = decay(p.dtype, beta)
        m[...] = keep * m + number(1 - float(keep)) * g
        p -= number(lr) * (np.sign(m) + number(0))  # + 0: the kernels' sign of -0 is 0
