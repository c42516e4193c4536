"""Second moments that are estimated from their means over the rows and columns of matrices."""

from __future__ import annotations

from typing import Any

import numpy as np

from ..engines.gpu_axes import Moment, matrices_of
from ..engines.stages import MatrixWork, Stage
from ..optimizer.base import Optimizer
from ..options.schema import StateArray
from ..reference_math import Array, square, totals

#: The schema of the factors and of the number of elements, which are scratch arrays.
FACTORS = {
    "row_factor": StateArray("row_factor"),
    "column_factor": StateArray("column_factor"),
    "size": StateArray("scalar"),
}

#: The schema of the means of squares: over rows and columns, or of the elements of arrays that are no matrices.
MOMENTS = {"r": StateArray("row_sums"), "c": StateArray("column_sums"), "v": StateArray("no_matrix")}


class FactoredGradient(Optimizer):
    """The pass that writes the prepared gradient, of which the means are taken."""

    variants = {"factored_gradient": ("x",)}

    @staticmethod
    def reference(p: Array, g: Array, x: Array, **_: Any) -> None:
        """The formula in NumPy."""
        x[...] = g


def gradient_stage(work: Any) -> Stage:
    """Return the stage with this work on the prepared gradient ``x``, of which it takes squares or absolute values."""
    return Stage(FactoredGradient, work, shared="x", copies_gradient=True)


def in_order_of(g: Array, factor: Array) -> Array:
    """Return ``g * factor`` in the memory order of g, which is that of sums; an operator may choose another one."""
    return np.multiply(g, factor, out=np.empty_like(g))


def average(old: Array, weight: float, new: Array) -> Array:
    """Return ``(1 - weight) * old + weight * new``, in double and rounded to the type of the old values."""
    return ((1 - weight) * old.astype(np.float64) + weight * new).astype(old.dtype)


def update_moments(work: MatrixWork, weight: float, eps: float, least: float = 0.0, prefix: str = "") -> dict[str, Any]:
    """Return the moving averages ``r`` and ``c`` of the means of x^2, plus `eps`, over rows and columns.

    Set the factors of the inverse square root of ``r * c / mean(r)``, where the mean is at least `least`.
    """
    if work.on_gpu:
        return _update_moments_on_gpu(work, weight, eps, least, prefix)
    x, r, c = work["x"], prefix + "r", prefix + "c"
    rows, columns = x.shape[-2:]
    of_rows, of_columns = work.square_sums(x)
    moments = {
        r: average(work[r], weight, of_rows / columns + eps),
        c: average(work[c], weight, of_columns / rows + eps),
    }
    _set_factors(work, moments[r].astype(np.float64), moments[c].astype(np.float64), least, prefix)
    return moments


def _set_factors(work: MatrixWork, r: Array, c: Array, least: float, prefix: str) -> None:
    mean = totals(r[..., 0])[..., None, None] / r.shape[-2]
    work[prefix + "row_factor"][...] = 1 / np.sqrt(r / np.maximum(mean, least))
    work[prefix + "column_factor"][...] = 1 / np.sqrt(c)


def _update_moments_on_gpu(work: MatrixWork, weight: float, eps: float, least: float, prefix: str) -> dict[str, Any]:
    shape, gpu, r, c = matrices_of(work.shape), work.gpu, prefix + "r", prefix + "c"
    _, rows, columns = shape
    of_rows, of_columns = gpu.reduce(work["x"], shape)
    moments = {name: work.next_state(name) for name in (r, c)}
    column_factor = work[prefix + "column_factor"]
    gpu.update_moments(
        [
            Moment(of_rows, work[r], moments[r], columns, weight, eps, is_kept=True),
            Moment(of_columns, work[c], moments[c], rows, weight, eps, factors=column_factor),
        ]
    )
    gpu.add_groups(of_rows, rows)
    gpu.set_row_factors(moments[r], of_rows, work[prefix + "row_factor"], rows, least)
    return moments


def update_elements(work: MatrixWork, weight: float, eps: float) -> dict[str, Any]:
    """Return the moving average ``v`` of x^2 plus `eps` of an array that is no matrix, and set its factors."""
    work["column_factor"][...] = 1
    if work.on_gpu:
        gpu, v = work.gpu, work.next_state("v")
        _, squares = gpu.reduce(work["x"], matrices_of(work.shape), rows=False)
        gpu.update_moments([Moment(squares, work["v"], v, 1, weight, eps, factors=work["row_factor"])])
        return {"v": v}
    v = average(work["v"], weight, square(work["x"]) + eps)
    work["row_factor"][...] = 1 / np.sqrt(v.astype(np.float64))
    return {"v": v}
