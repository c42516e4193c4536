"""Adafactor: second moments by rows and columns, and steps relative to the parameter's size."""

from __future__ import annotations

import math
from typing import Annotated, Any, Literal

import numpy as np

from ..engines.stages import MatrixWork
from ..optimizer.base import Optimizer
from ..options.checks import Decay, LearningRate, NonNegative, Positive, Range
from ..options.fields import argument, option
from ..options.schema import StateArray
from ..reference_math import Array, decay, square, total
from .factors import FACTORS, MOMENTS, gradient_stage, in_order_of, update_elements, update_moments

Exponent = Annotated[float, Range(-100, 0)]


def _update_second_moment(work: MatrixWork) -> dict[str, Any]:
    """Update the means of squares, and set the factors of the rows and columns of the normalized gradient."""
    options = work.options
    if not work.size:
        return {}
    weight = work.t ** options["beta2_decay"]
    eps1, adds = options["eps"][0], options["eps_form"] == "added"
    least = float(np.finfo(work.dtype).eps) if eps1 is None else eps1
    eps = least if adds else 0.0
    work["size"][...] = work.size
    if len(work.shape) < 2:
        return update_elements(work, weight, eps)
    return update_moments(work, weight, eps, 0.0 if adds else least)


class Adafactor(Optimizer):
    r"""Steps divided by a second moment that is estimated from its means over rows and columns.

    .. math::
        w &= t^{\text{beta2\_decay}}, \qquad
        r = (1 - w)\, r + w \operatorname{mean}_\text{columns}(g^2), \qquad
        c = (1 - w)\, c + w \operatorname{mean}_\text{rows}(g^2) \\
        u &= g / \max(\sqrt{r c / \max(\operatorname{mean}(r), \epsilon_1)},\, \epsilon_1) \\
        \alpha &= \max(\epsilon_2, \operatorname{RMS}(p)) \min(\eta, 1/\sqrt t), \qquad
        p = (1 - \eta \lambda)\, p - \alpha u / \max(1, \operatorname{RMS}(u) / d)

    RMS is the root mean square of all elements.  The state has one number for each row and one for each column of a
    matrix, of which ``(..., rows, columns)`` is a batch.  For an array of fewer than two axes it is the moving average
    ``v`` of :math:`g^2` itself.  Use it where the two state arrays of Adam do not fit into memory.

    All sums have a fixed order, so that the bits are the same on every machine and for any number of threads.
    Each step runs through Python, which takes some 0.1 ms for each matrix.

    Args:
        params: Arrays to update in place; see `Optimizer`.
        lr: :math:`\eta`, at least 0, or a callable of the step.  Default 0.01.
        beta2_decay: The exponent of :math:`w`, from -100 to 0.  Default -0.8.
        eps: :math:`(\epsilon_1, \epsilon_2)`, both at least 0.  None for :math:`\epsilon_1` is the machine epsilon of
            the compute type: float64 for float64 parameters, else float32.  Default (None, 1e-3).
        d: The largest root mean square of :math:`u`, above 0.  Default 1.
        beta1: If not None, the step is replaced by its moving average ``m = beta1*m + (1-beta1)*step``, in one more
            state array of the parameter's shape.  In [0, 1).  Default None.
        relative_step: If False, :math:`\eta` takes the place of :math:`\min(\eta, 1/\sqrt t)`.  Default True.
        scale_parameter: If False, :math:`\alpha` has no factor :math:`\max(\epsilon_2, \operatorname{RMS}(p))`.
            Default True.
        eps_form: "floor", as above, or "added": :math:`\epsilon_1` is added to :math:`g^2` and bounds nothing.
            Default "floor".
        weight_decay: :math:`\lambda`, at least 0.  Default 0.
        decoupled: If False, weight decay is added to the gradient.  Default True.
        convention: "torch", or "keras" (lr 1e-3, eps (1e-30, 1e-3), eps_form "added"), which with lr 0.01 is also the
            form of Hugging Face's transformers.  Default "torch".
        **shared: Weight decay, clipping, averages and the rest that every optimizer has; see `Optimizer`.

    Raises:
        ValueError: If an option is out of range.

    Source: Shazeer & Stern, "Adafactor: Adaptive Learning Rates with Sublinear Memory Cost", 2018, arXiv:1804.04235.

    >>> import numpy as np, fastoptim as fo
    >>> p = np.ones((2, 3))
    >>> opt = fo.Adafactor(p, lr=0.1)
    >>> opt.step(np.array([[1.0, -1.0, 1.0], [2.0, -2.0, 2.0]]))
    >>> p.round(3)
    array([[0.9, 1.1, 0.9],
           [0.9, 1.1, 0.9]])
    >>> {name: array.shape for name, array in opt.state.items()}
    {'r': (2, 1), 'c': (1, 3)}
    """

    name = "adafactor"
    variants = {"adafactor": (), "adafactor_momentum": ("m",)}
    scratch = ("row_factor", "column_factor", "size")
    stages = (gradient_stage(_update_second_moment),)
    stage_state = ("r", "c", "v")
    state_schema = {**FACTORS, **MOMENTS, "m": StateArray(compress="signed")}
    is_factored = True
    host_constants = ("rate", "eps1", "eps2")
    conventions = {"torch": {}, "keras": {"lr": 1e-3, "eps": (1e-30, 1e-3), "eps_form": "added"}}

    lr: LearningRate = 0.01
    beta2_decay: Exponent = -0.8
    eps: tuple[NonNegative | None, NonNegative] = (None, 1e-3)
    d: Positive = 1.0
    beta1: Decay | None = option(default=None, kw_only=True)
    relative_step: bool = option(default=True, kw_only=True)
    scale_parameter: bool = option(default=True, kw_only=True)
    eps_form: Literal["floor", "added"] = option(default="floor", kw_only=True)
    decoupled: bool = option(default=True, kw_only=True)
    convention: Literal["torch", "keras"] = argument(default="torch", kw_only=True)

    @classmethod
    def variant(cls, *, beta1: float | None, **_: Any) -> str:
        """Return the rule: with or without a moving average of the steps."""
        return "adafactor" if beta1 is None else "adafactor_momentum"

    @staticmethod
    def compute_host_constants(
        *, t: int, lr: float, relative_step: bool, eps: tuple[float | None, float], eps_form: str
    ) -> dict[str, float]:
        """Return the learning rate of the step, and the bounds of the formula; an infinite one is the machine's."""
        floor = math.inf if eps[0] is None else eps[0]
        return {
            "rate": min(lr, 1 / math.sqrt(t)) if relative_step else lr,
            "eps1": floor if eps_form == "floor" else 0.0,
            "eps2": eps[1],
        }

    @staticmethod
    def reduce_terms(
        p: Array, g: Array, *, row_factor: Array, column_factor: Array, eps1: float, **_: Any
    ) -> tuple[float, ...]:
        """Return the sums of squares of the normalized gradient and of the parameter."""
        u = _normalized(g, row_factor, column_factor, eps1)
        return total(square(u)), total(square(p))

    @staticmethod
    def reference(
        p: Array,
        g: Array,
        m: Array | None = None,
        *,
        row_factor: Array,
        column_factor: Array,
        rate: float,
        eps1: float,
        eps2: float,
        d: float,
        beta1: float | None,
        scale_parameter: bool,
        sums: tuple[float, ...],
        **_: Any,
    ) -> None:
        """The formula in NumPy."""
        if not p.size:
            return
        u_rms, p_rms = (math.sqrt(each / p.size) for each in sums)
        scale = max(p_rms, eps2) if scale_parameter else 1.0
        step = p.dtype.type(scale * rate / max(u_rms / d, 1.0)) * _normalized(g, row_factor, column_factor, eps1)
        if m is not None and beta1 is not None:
            beta = decay(p.dtype, beta1)
            m[...] = beta * m + p.dtype.type(1 - float(beta)) * step
            step = m
        p -= step


def _normalized(g: Array, row_factor: Array, column_factor: Array, eps1: float) -> Array:
    """Return the gradient over the root of its second moment, which is at least `eps1`."""
    floor = float(np.finfo(g.dtype).eps) if eps1 == math.inf else eps1
    limit = g.dtype.type(1 / floor if floor else math.inf)
    factor = row_factor * column_factor
    return in_order_of(g, np.where(limit < factor, limit, factor))
