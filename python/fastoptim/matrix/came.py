"""CAME: Adafactor's normalized gradient, with the confidence in its mean."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from ..engines.stages import MatrixWork, Stage
from ..optimizer.base import Optimizer
from ..options.checks import Decay, LearningRate, NonNegative, Positive
from ..options.fields import option
from ..options.schema import StateArray
from ..reference_math import Array, decay, square, total
from .factors import FACTORS, MOMENTS, gradient_stage, in_order_of, update_elements, update_moments

_RESIDUAL = "residual_"


def _normalized(g: Array, row_factor: Array, column_factor: Array) -> Array:
    return in_order_of(g, row_factor * column_factor)


def _clipped(
    g: Array, row_factor: Array, column_factor: Array, clip_threshold: float, sums: tuple[float, ...]
) -> Array:
    """Return the normalized gradient with a root mean square of at most `clip_threshold`."""
    rms = math.sqrt(sums[0] / g.size) if g.size else 0.0
    return np.asarray(g.dtype.type(1 / max(rms / clip_threshold, 1.0)) * _normalized(g, row_factor, column_factor))


def _next_mean(m: Array, u: Array, beta1: float) -> Array:
    beta = decay(m.dtype, beta1)
    return np.asarray(beta * m + m.dtype.type(1 - float(beta)) * u)


def _terms(p: Array, g: Array, *, row_factor: Array, column_factor: Array, **_: Any) -> tuple[float, ...]:
    """Return the sum of squares of the normalized gradient."""
    return (total(square(_normalized(g, row_factor, column_factor))),)


class CameResidual(Optimizer):
    """The pass of CAME that writes the difference of the clipped gradient and its next mean."""

    variants = {"came_residual": ("m", "row_factor", "column_factor", "x", "size")}
    state_schema = FACTORS
    host_constants = ("clip_threshold", "beta1")
    reduce_terms = staticmethod(_terms)

    @staticmethod
    def compute_host_constants(*, clip_threshold: float, betas: tuple[float, float, float]) -> dict[str, float]:
        """Return the numbers of the formula."""
        return {"clip_threshold": clip_threshold, "beta1": betas[0]}

    @staticmethod
    def reference(
        p: Array,
        g: Array,
        m: Array,
        row_factor: Array,
        column_factor: Array,
        x: Array,
        *,
        clip_threshold: float,
        beta1: float,
        sums: tuple[float, ...],
        **_: Any,
    ) -> None:
        """The formula in NumPy."""
        u = _clipped(g, row_factor, column_factor, clip_threshold, sums)
        x[...] = u - _next_mean(m, u, beta1)


def _update_second_moment(work: MatrixWork) -> dict[str, Any]:
    """Update the means of squares, and set the factors of the rows and columns of the normalized gradient."""
    weight, eps = 1 - work.options["betas"][1], work.options["eps"][0]
    if not work.size:
        return {}
    work["size"][...] = work.size
    if len(work.shape) < 2:
        return update_elements(work, weight, eps)
    return update_moments(work, weight, eps)


def _update_instability(work: MatrixWork) -> dict[str, Any]:
    """Update the means of squared differences, and set the factors of the mean; these are 1 without a matrix."""
    weight, eps = 1 - work.options["betas"][2], work.options["eps"][1]
    if len(work.shape) < 2 or not work.size:
        work["residual_row_factor"][...] = 1
        work["residual_column_factor"][...] = 1
        return {}
    return update_moments(work, weight, eps, prefix=_RESIDUAL)


class CAME(Optimizer):
    r"""Adafactor with momentum, whose steps are smaller where the momentum differs from the gradients.

    .. math::
        r &= \beta_2 r + (1 - \beta_2) \operatorname{mean}_\text{columns}(g^2 + \epsilon_1), \qquad
        c = \beta_2 c + (1 - \beta_2) \operatorname{mean}_\text{rows}(g^2 + \epsilon_1) \\
        u &= g / \sqrt{r c / \operatorname{mean}(r)}, \qquad u = u / \max(1, \operatorname{RMS}(u) / d), \qquad
        m = \beta_1 m + (1 - \beta_1)\, u \\
        R &= \beta_3 R + (1 - \beta_3) \operatorname{mean}_\text{columns}((u - m)^2 + \epsilon_2), \qquad
        C = \beta_3 C + (1 - \beta_3) \operatorname{mean}_\text{rows}((u - m)^2 + \epsilon_2) \\
        p &= (1 - \eta \lambda)\, p - \eta\, m / \sqrt{R C / \operatorname{mean}(R)}

    RMS is the root mean square of all elements.  The state is one array of the parameter's shape, and two numbers for
    each row and for each column of a matrix, of which ``(..., rows, columns)`` is a batch.  An array of fewer than two
    axes has the moving average ``v`` of :math:`g^2` itself, and the step :math:`\eta m`.

    The first steps are long, since :math:`R` and :math:`C` start at zero without bias correction: use a warm-up.

    All sums have a fixed order, so that the bits are the same on every machine and for any number of threads.
    Each step runs through Python, which takes some 0.1 ms for each matrix.

    Args:
        params: Arrays to update in place; see `Optimizer`.
        lr: :math:`\eta`, at least 0, or a callable of the step.  Default 2e-4.
        betas: :math:`(\beta_1, \beta_2, \beta_3)`, in [0, 1).  Default (0.9, 0.999, 0.9999).
        eps: :math:`(\epsilon_1, \epsilon_2)`, both at least 0.  Default (1e-30, 1e-16).
        clip_threshold: :math:`d`, above 0.  Default 1.
        weight_decay: :math:`\lambda`, at least 0.  Default 0.
        decoupled: If False, weight decay is added to the gradient.  Default True.
        **shared: Weight decay, clipping, averages and the rest that every optimizer has; see `Optimizer`.

    Raises:
        ValueError: If an option is out of range.

    Source: Luo et al., "CAME: Confidence-guided Adaptive Memory Efficient Optimization", 2023, arXiv:2307.02047; the
    rule for arrays of fewer than two axes is that of the authors' code, https://github.com/yangluo7/CAME.

    >>> import numpy as np, fastoptim as fo
    >>> p = np.ones((2, 3))
    >>> opt = fo.CAME(p, lr=0.1)
    >>> opt.step(np.array([[1.0, -1.0, 1.0], [2.0, -2.0, 2.0]]))
    >>> p.round(3)
    array([[-0.111,  2.111, -0.111],
           [-0.111,  2.111, -0.111]])
    >>> {name: array.shape for name, array in opt.state.items()}
    {'m': (2, 3), 'r': (2, 1), 'c': (1, 3), 'residual_r': (2, 1), 'residual_c': (1, 3)}
    """

    name = "came"
    variants = {"came": ("m",)}
    scratch = ("row_factor", "column_factor", "residual_row_factor", "residual_column_factor", "size")
    stages = (gradient_stage(_update_second_moment), Stage(CameResidual, _update_instability, shared="x"))
    stage_state = ("r", "c", "residual_r", "residual_c", "v")
    state_schema = {
        **FACTORS,
        **MOMENTS,
        "residual_r": StateArray("row_sums"),
        "residual_c": StateArray("column_sums"),
        "residual_row_factor": StateArray("row_factor"),
        "residual_column_factor": StateArray("column_factor"),
    }
    is_factored = True
    reduce_terms = staticmethod(_terms)

    lr: LearningRate = 2e-4
    betas: tuple[Decay, Decay, Decay] = (0.9, 0.999, 0.9999)
    eps: tuple[NonNegative, NonNegative] = (1e-30, 1e-16)
    clip_threshold: Positive = 1.0
    decoupled: bool = option(default=True, kw_only=True)

    @staticmethod
    def reference(
        p: Array,
        g: Array,
        m: Array,
        *,
        row_factor: Array,
        column_factor: Array,
        residual_row_factor: Array,
        residual_column_factor: Array,
        lr: float,
        betas: tuple[float, float, float],
        clip_threshold: float,
        sums: tuple[float, ...],
        **_: Any,
    ) -> None:
        """The formula in NumPy."""
        m[...] = _next_mean(m, _clipped(g, row_factor, column_factor, clip_threshold, sums), betas[0])
        p -= p.dtype.type(lr) * (m * (residual_row_factor * residual_column_factor))
