"""Adam-mini: Adam with one second moment for each block of a parameter."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any, Literal

import numpy as np

from ..engines.gpu_axes import Moment, matrices_of
from ..engines.stages import MatrixWork
from ..optimizer.base import Optimizer
from ..options.checks import Decay, LearningRate, NonNegative, PositiveCount
from ..options.fields import option
from ..options.schema import Shape, StateArray
from ..reference_math import Array, bias_correction_of, decay, totals
from .factors import average, gradient_stage


def _blocks_shape(shape: tuple[int, ...], options: Mapping[str, Any]) -> tuple[int, ...]:
    """Return the number of blocks along each axis of a parameter of this shape."""
    if len(shape) < 2 or options["partition"] == "array":
        return (1,) * len(shape)
    return (*shape[:-2], min(options["heads"], shape[-2]) if options["partition"] == "heads" else shape[-2], 1)


@dataclass(frozen=True)
class Blocks(StateArray):
    """The declaration of one number for each block that the options make of a parameter."""

    options: Mapping[str, Any] = field(default_factory=dict)

    @property
    def kind(self) -> Shape:
        """The kind of its shape."""
        return Shape(self._of, None, False, ", one number for each block", has_rows=False)

    def _of(self, shape: tuple[int, ...]) -> tuple[int, ...]:
        return _blocks_shape(shape, {"partition": "rows", **self.options})

    def under(self, options: Mapping[str, Any]) -> StateArray:
        """Return the declaration under these options."""
        return replace(self, options=options)


def _sums_of_blocks(work: MatrixWork, x: Array) -> Array:
    """Return the sum of squares of each block."""
    rows = work.square_sums(x.reshape(*x.shape[:-2], *(1, x.size) if x.ndim < 2 else x.shape[-2:]))[0][..., 0]
    if x.ndim < 2 or work.options["partition"] == "array":
        return totals(rows.reshape(-1)).reshape((1,) * x.ndim)
    if work.options["partition"] == "heads":
        rows = totals(rows.reshape(*x.shape[:-2], work.options["heads"], -1))
    return rows[..., None]


def _update_second_moment(work: MatrixWork) -> dict[str, Any]:
    """Update the mean of squares of each block, and set the factor of each row."""
    if not work.size:
        return {}
    if work.on_gpu:
        return _update_second_moment_on_gpu(work)
    x, options = work["x"], work.options
    beta2 = options["betas"][1]
    old = work["v"]
    v = average(old, 1 - beta2, _sums_of_blocks(work, x) / (x.size // old.size))
    factors = 1 / (np.sqrt(v.astype(np.float64) / bias_correction_of(beta2, work.t)) + options["eps"])
    if options["partition"] == "heads" and x.ndim > 1:
        factors = np.repeat(factors, x.shape[-2] // options["heads"], axis=-2)
    work["factor"][...] = factors
    return {"v": v}


def _update_second_moment_on_gpu(work: MatrixWork) -> dict[str, Any]:
    shape, gpu, beta2, v = matrices_of(work.shape), work.gpu, work.options["betas"][1], work.next_state("v")
    blocks = math.prod(v.shape)
    group = shape[0] * shape[1] // blocks
    sums, _ = gpu.reduce(work["x"], shape, columns=False)
    if group > 1:
        gpu.add_groups(sums, group)
    divisor, eps = bias_correction_of(beta2, work.t), work.options["eps"]
    count = work.size // blocks
    gpu.update_moments(
        [
            Moment(
                sums, work["v"], v, count, 1 - beta2, group=group, factors=work["factor"], divisor=divisor, summand=eps
            )
        ]
    )
    return {"v": v}


class AdamMini(Optimizer):
    r"""Adam with one second moment for each block of a parameter, such as the weights of one neuron.

    .. math::
        m &= \beta_1 m + (1 - \beta_1)\, g, \qquad v_B = \beta_2 v_B + (1 - \beta_2) \operatorname{mean}_B(g^2) \\
        p &= (1 - \eta \lambda)\, p
            - \eta \frac{m / (1 - \beta_1^t)}{\sqrt{v_B / (1 - \beta_2^t)} + \epsilon} \quad \text{in block } B

    The state is half of AdamW's, and the values of AdamW's options are suitable.  The blocks should be those in which
    the Hessian is dense.  In a transformer these are the rows (outputs) of most matrices, of embeddings and of the last
    layer, and the heads of the projections of queries and keys: put these into a group with ``partition="heads"``.

    ``(..., rows, columns)`` is a batch of matrices; an array of fewer than two axes is one block.  All sums have a
    fixed order, so that the bits are the same on every machine and for any number of threads.
    Each step runs through Python, which takes some 0.1 ms for each matrix.

    Args:
        params: Arrays to update in place; see `Optimizer`.
        lr: :math:`\eta`, at least 0, or a callable of the step.  Default 1e-3.
        betas: :math:`(\beta_1, \beta_2)`, in [0, 1).  Default (0.9, 0.999).
        eps: :math:`\epsilon`, at least 0.  Default 1e-8.
        partition: "rows"; "heads", `heads` equal groups of consecutive rows; or "array", the whole parameter.  Default
            "rows".
        heads: See `partition`.  Default 1.
        weight_decay: :math:`\lambda`, at least 0.  Default 0.
        decoupled: If False, weight decay is added to the gradient.  Default True.
        **shared: Weight decay, clipping, averages and the rest that every optimizer has; see `Optimizer`.

    Raises:
        ValueError: If an option is out of range or `heads` does not divide the rows.

    Source: Zhang et al., "Adam-mini: Use Fewer Learning Rates To Gain More", 2024, arXiv:2406.16793.

    >>> import numpy as np, fastoptim as fo
    >>> p = np.zeros((2, 2))
    >>> opt = fo.AdamMini(p, lr=0.1)
    >>> opt.step(np.array([[3.0, 4.0], [0.1, 0.1]]))
    >>> p.round(4)
    array([[-0.0849, -0.1131],
           [-0.1   , -0.1   ]])
    >>> opt.state["v"].shape
    (2, 1)
    """

    name = "adam_mini"
    variants = {"adam_mini": ("m",)}
    scratch = ("factor",)
    stages = (gradient_stage(_update_second_moment),)
    stage_state = ("v",)
    state_schema = {"m": StateArray(compress="signed"), "v": Blocks(), "factor": StateArray("row_block")}
    is_factored = True

    lr: LearningRate = 1e-3
    betas: tuple[Decay, Decay] = (0.9, 0.999)
    eps: NonNegative = 1e-8
    partition: Literal["rows", "heads", "array"] = "rows"
    heads: PositiveCount = 1
    decoupled: bool = option(default=True, kw_only=True)

    @staticmethod
    def check_shape(shape: tuple[int, ...], options: Mapping[str, Any], place: str) -> None:
        """Raise ValueError for a parameter whose rows are no such number of heads."""
        if options["partition"] == "heads" and len(shape) > 1 and shape[-2] % options["heads"]:
            raise ValueError(f"{place}: expected rows that heads={options['heads']} divides, got {shape[-2]}")

    @staticmethod
    def reference(
        p: Array, g: Array, m: Array, *, factor: Array, lr: float, betas: tuple[float, float], t: int, **_: Any
    ) -> None:
        """The formula in NumPy."""
        beta1 = decay(p.dtype, betas[0])
        m[...] = beta1 * m + p.dtype.type(1 - float(beta1)) * g
        p -= p.dtype.type(lr / bias_correction_of(float(beta1), t)) * (m * factor)
