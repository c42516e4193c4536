"""Row-wise Adagrad."""

from __future__ import annotations

from operator import itemgetter

import numpy as np

from ..optimizer.base import Optimizer
from ..options.checks import LearningRate, NonNegative
from ..options.schema import StateArray
from ..reference_math import Array, along_rows, mean_squares


class RowwiseAdagrad(Optimizer):
    r"""Row-wise Adagrad: a learning rate for each row that decreases with its mean squared gradients.

    .. math::
        s &= s + \lVert g \rVert^2 / n \\
        p &= p - \eta\, g / (\sqrt s + \epsilon)

    :math:`p` and :math:`g` are a row of :math:`n` elements and its gradient, and :math:`s` is the one number that the
    row has in the state.  A row is an index of the first axis, so each element of a parameter with one axis is a row,
    and a parameter without axes is one row.

    Use it for embedding tables, with gradients for some rows (`Rows`) or for all: the state has one number for each
    row, where that of `Adagrad` has one for each element.

    The sums are in double precision in a fixed order, so the result does not depend on the number of threads.  A step
    with `Rows` gives the bits of a step on a dense array of these rows.

    Args:
        params: Arrays to update in place; see `Optimizer`.
        lr: Learning rate :math:`\eta`, at least 0, or a callable of the step.  Default 0.01.
        eps: Added to the denominator for numerical stability, at least 0.  Default 1e-8.
        initial_accumulator_value: Initial value of :math:`s`, at least 0.  Default 0.0.
        **shared: Weight decay, clipping, averages and the rest that every optimizer has; see `Optimizer`.

    Raises:
        ValueError: If an option is out of range.

    Source: Mudigere et al., 2022, arXiv:2104.05158; the form of FBGEMM and TorchRec.

    >>> import numpy as np, fastoptim as fo
    >>> p = np.array([[1.0, 1.0], [1.0, 1.0]])
    >>> fo.RowwiseAdagrad(p, lr=0.1).step(np.array([[7.0, 1.0], [0.03, 0.04]]))
    >>> p.round(3)
    array([[0.86 , 0.98 ],
           [0.915, 0.887]])
    """

    name = "rowwise_adagrad"
    variants = {"rowwise_adagrad": ("s",)}
    state_schema = {"s": StateArray("rows", initial=itemgetter("initial_accumulator_value"))}

    lr: LearningRate = 0.01
    eps: NonNegative = 1e-8
    initial_accumulator_value: NonNegative = 0.0

    @staticmethod
    def reference(
        p: Array, g: Array, s: Array, *, t: int, lr: float, eps: float, initial_accumulator_value: float
    ) -> None:
        """The formula in NumPy."""
        s[...] = s.astype(np.float64) + mean_squares(g)
        rate = lr / (np.sqrt(s.astype(np.float64)) + eps)
        p -= along_rows(rate.astype(p.dtype), p) * g
