"""SM3: Adagrad in the memory of one number for each row and each column."""

from __future__ import annotations

from typing import Any

import numpy as np

from ..engines.gpu_axes import matrices_of
from ..engines.stages import MatrixWork, Stage
from ..optimizer.base import Optimizer
from ..options.checks import Decay, LearningRate
from ..options.schema import StateArray
from ..reference_math import Array, decay, minimum

_BOUNDS = {"r": StateArray("row_factor"), "c": StateArray("column_factor")}


def _bound(g: Array, r: Array, c: Array) -> Array:
    """Return the bound of each element's sum of squares, with this gradient."""
    return np.asarray(minimum(r, c) + g * g)


class SM3Bound(Optimizer):
    """The pass of SM3 that writes the bounds of a step."""

    variants = {"sm3_bound": ("r", "c", "x")}
    state_schema = _BOUNDS

    @staticmethod
    def reference(p: Array, g: Array, r: Array, c: Array, x: Array, **_: Any) -> None:
        """The formula in NumPy."""
        x[...] = _bound(g, r, c)


def _take_maxima(work: MatrixWork) -> dict[str, Any]:
    """Return the largest bound of each row and of each column; an array of one axis is a matrix of one column."""
    if not work.size:
        return {}
    if work.on_gpu:
        return _take_maxima_on_gpu(work)
    x = work["x"]
    if x.ndim < 2:
        return {"r": x.copy(), "c": x.max(keepdims=True)}
    return {"r": x.max(axis=-1, keepdims=True), "c": x.max(axis=-2, keepdims=True)}


def _take_maxima_on_gpu(work: MatrixWork) -> dict[str, Any]:
    x, is_matrix, maxima = work["x"], len(work.shape) > 1, {name: work.next_state(name) for name in "rc"}
    of_rows, of_columns = work.gpu.reduce(x, matrices_of(work.shape), columns=is_matrix, largest=True)
    for name, values in zip("rc", (of_rows, of_columns) if is_matrix else (x, of_rows), strict=True):
        work.assign(maxima[name], values)
    return maxima


class SM3(Optimizer):
    r"""Adagrad whose sums of squares are bounded by one number for each row and one for each column.

    .. math::
        \nu &= \min(r, c) + g^2, \qquad r = \max_\text{columns} \nu, \qquad c = \max_\text{rows} \nu \\
        u &= g / \sqrt \nu, \qquad m = \mu m + (1 - \mu)\, u, \qquad p = p - \eta m

    The minimum of a row's and a column's number is at least the sum of all squares of an element.  Steps are therefore
    at most Adagrad's, and close to them where the gradients of a row or column have similar sizes.  An element does not
    change while :math:`\nu` is 0.  Use it like Adagrad, for sparse or very large models.  With ``momentum=0`` the state
    has no array of the parameter's shape.

    ``(..., rows, columns)`` is a batch of matrices.  For an array of fewer than two axes this is Adagrad; the state
    then has a number for each element, and one for the whole array.  Maxima do not depend on an order, so that the bits
    are the same on every machine.  Each step runs through Python, which takes some 0.1 ms for each matrix.

    Args:
        params: Arrays to update in place; see `Optimizer`.
        lr: Learning rate :math:`\eta`, at least 0, or a callable of the step.  Default 0.1.
        momentum: :math:`\mu`, in [0, 1).  Default 0.9.
        **shared: Weight decay, clipping, averages and the rest that every optimizer has; see `Optimizer`.

    Raises:
        ValueError: If an option is out of range.

    Source: Anil et al., "Memory-Efficient Adaptive Optimization", 2019, arXiv:1901.11150 (SM3-II, with the momentum of
    the authors' code).

    >>> import numpy as np, fastoptim as fo
    >>> p = np.zeros((2, 2))
    >>> opt = fo.SM3(p, lr=1.0, momentum=0.0)
    >>> opt.step(np.array([[3.0, 0.0], [0.0, 4.0]]))
    >>> p
    array([[-1.,  0.],
           [ 0., -1.]])
    >>> opt.state
    {'r': array([[ 9.],
           [16.]]), 'c': array([[ 9., 16.]])}
    """

    name = "sm3"
    variants = {"sm3_momentum": ("m", "r", "c"), "sm3": ("r", "c")}
    stages = (Stage(SM3Bound, _take_maxima, shared="x"),)
    state_schema = {**_BOUNDS, "m": StateArray(compress="signed")}
    is_factored = True

    lr: LearningRate = 0.1
    momentum: Decay = 0.9

    @classmethod
    def variant(cls, *, momentum: float, **_: Any) -> str:
        """Return the rule: with or without momentum."""
        return "sm3_momentum" if momentum else "sm3"

    @staticmethod
    def reference(
        p: Array, g: Array, m: Array | None = None, *, r: Array, c: Array, lr: float, momentum: float, **_: Any
    ) -> None:
        """The formula in NumPy."""
        bound = _bound(g, r, c)
        u = np.where(bound == 0, p.dtype.type(0), g / np.sqrt(bound))
        if m is not None:
            beta = decay(p.dtype, momentum)
            m[...] = beta * m + p.dtype.type(1 - float(beta)) * u
            u = m
        p -= p.dtype.type(lr) * u
