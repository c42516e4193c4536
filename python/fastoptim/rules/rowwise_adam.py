"""Row-wise Adam."""

from __future__ import annotations

import numpy as np

from ..optimizer.base import Optimizer
from ..options.checks import Decay, LearningRate, NonNegative
from ..options.schema import StateArray
from ..reference_math import Array, along_rows, bias_correction_of, decay, mean_squares


class RowwiseAdam(Optimizer):
    r"""Row-wise Adam: Adam whose average of squared gradients is one number for each row.

    .. math::
        m &= \beta_1 m + (1 - \beta_1) g, \qquad \hat m = m / (1 - \beta_1^t) \\
        v &= \beta_2 v + (1 - \beta_2) \lVert g \rVert^2 / n, \qquad \hat v = v / (1 - \beta_2^t) \\
        p &= p - \eta\, \hat m / (\sqrt{\hat v} + \epsilon)

    :math:`p`, :math:`g` and :math:`m` are a row of :math:`n` elements, its gradient and its moving average, and
    :math:`v` is one number for the row.  A row is an index of the first axis, so each element of a parameter with one
    axis is a row, and a parameter without axes is one row.

    Use it for embedding tables, with gradients for some rows (`Rows`) or for all; with `row_steps` each row has its own
    :math:`t`.  The state is about half of that of `Adam`.

    The sums are in double precision in a fixed order, so the result does not depend on the number of threads.  A step
    with `Rows` gives the bits of a step on a dense array of these rows.

    Args:
        params: Arrays to update in place; see `Optimizer`.
        lr: Learning rate :math:`\eta`, at least 0, or a callable of the step.  Default 1e-3.
        betas: :math:`\beta_1` and :math:`\beta_2`, decay rates of the moving averages, each in [0, 1).  Default (0.9,
            0.999).
        eps: Added to the denominator for numerical stability, at least 0.  Default 1e-8.
        **shared: Weight decay, clipping, averages and the rest that every optimizer has; see `Optimizer`.

    Raises:
        ValueError: If an option is out of range.

    Source: FBGEMM, `PARTIAL_ROWWISE_ADAM`, github.com/pytorch/FBGEMM; Kingma & Ba, 2015, arXiv:1412.6980.

    >>> import numpy as np, fastoptim as fo
    >>> p = np.array([[1.0, 1.0], [1.0, 1.0]])
    >>> fo.RowwiseAdam(p, lr=0.1).step(np.array([[7.0, 1.0], [0.03, 0.04]]))
    >>> p.round(3)
    array([[0.86 , 0.98 ],
           [0.915, 0.887]])
    """

    name = "rowwise_adam"
    variants = {"rowwise_adam": ("m", "v")}
    state_schema = {"m": StateArray(compress="signed"), "v": StateArray("rows")}

    lr: LearningRate = 1e-3
    betas: tuple[Decay, Decay] = (0.9, 0.999)
    eps: NonNegative = 1e-8

    @staticmethod
    def reference(
        p: Array, g: Array, m: Array, v: Array, *, t: int, lr: float, betas: tuple[float, float], eps: float
    ) -> None:
        """The formula in NumPy."""
        beta1, beta2 = decay(p.dtype, betas[0]), betas[1]
        step_size = lr / bias_correction_of(float(beta1), t)
        v[...] = beta2 * v.astype(np.float64) + (1 - beta2) * mean_squares(g)
        rate = step_size / (np.sqrt(v.astype(np.float64) / bias_correction_of(beta2, t)) + eps)
        m[...] = beta1 * m + p.dtype.type(1 - float(beta1)) * g
        p -= along_rows(rate.astype(p.dtype), p) * m
