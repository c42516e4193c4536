"""Aggregated momentum."""

from __future__ import annotations

from ..optimizer.base import Optimizer
from ..options.checks import Decay, LearningRate
from ..options.schema import StateArray
from ..reference_math import Array, decay


class AggMo(Optimizer):
    r"""Aggregated momentum: the average of the steps of three velocities with different decay rates.

    .. math::
        v_i &= \beta_i v_i + g, \qquad i = 1, 2, 3 \\
        p &= p - \frac{\eta}{3} (v_1 + v_2 + v_3)

    A velocity with a high decay rate is fast but oscillates, and the others damp it.  Decay rates of 0.99 or 0.999
    become usable where momentum alone would oscillate.  Learning rates are those of `SGD` with momentum, or slightly
    higher.  With three equal decay rates it is heavy-ball momentum.

    The paper does not fix the number of velocities and recommends three, with decay rates 0, 0.9 and 0.99.  This
    implementation always has three.

    Args:
        params: Arrays to update in place; see `Optimizer`.
        lr: Learning rate :math:`\eta`, at least 0, or a callable of the step.  Default 0.01.
        betas: :math:`\beta_i`, decay rates of the velocities, each in [0, 1).  Default (0.0, 0.9, 0.99).
        **shared: Weight decay, clipping, averages and the rest that every optimizer has; see `Optimizer`.

    Raises:
        ValueError: If an option is out of range.

    Source: Lucas, Sun, Zemel & Grosse, "Aggregated Momentum: Stability Through Passive Damping", 2019,
    arXiv:1804.00325.

    >>> import numpy as np, fastoptim as fo
    >>> p = np.array([1.0])
    >>> opt = fo.AggMo(p, lr=0.1, betas=(0.0, 0.5, 1 / 4))
    >>> for _ in range(2):
    ...     opt.step(np.array([1.0]))
    >>> p
    array([0.775])
    """

    name = "aggmo"
    variants = {"aggmo": ("v1", "v2", "v3")}
    state_schema = {
        "v1": StateArray(compress="signed"),
        "v2": StateArray(compress="signed"),
        "v3": StateArray(compress="signed"),
    }

    lr: LearningRate = 0.01
    betas: tuple[Decay, Decay, Decay] = (0.0, 0.9, 0.99)

    @staticmethod
    def reference(
        p: Array,
        g: Array,
        v1: Array,
        v2: Array,
        v3: Array,
        *,
        t: int,
        lr: float,
        betas: tuple[float, float, float],
    ) -> None:
        """The formula in NumPy."""
        for v, beta in zip((v1, v2, v3), betas, strict=True):
            v[...] = decay(p.dtype, beta) * v + g
        p -= p.dtype.type(lr / 3) * (v1 + v2 + v3)
