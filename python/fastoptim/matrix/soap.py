"""SOAP: Adam in the eigenbases of Shampoo's factors."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np

from ..engines.stages import MatrixWork, Stage
from ..optimizer.base import Optimizer
from ..options.checks import Decay, LearningRate, NonNegative, PositiveCount
from ..options.fields import option
from ..options.schema import SquareMatrices
from ..options.settings import scheduled_decay
from ..reference_math import Array, bias_correction_of, decay
from .kronecker import axes_of, in_axes, next_factors, sides_of, turn, unpack

Betas = tuple[Decay, Decay]


def _mean(m: Any, g: Any, beta: float) -> Any:
    """Return the next moving average; arrays of other libraries than NumPy need plain numbers."""
    kept = decay(np.dtype(m.dtype), beta) if isinstance(m, np.ndarray) else beta
    return kept * m + type(kept)(1 - float(kept)) * g


def _mean_of_squares(v: Any, g: Any, beta: float) -> Any:
    kept = decay(np.dtype(v.dtype), beta) if isinstance(v, np.ndarray) else beta
    return kept * v + type(kept)(1 - float(kept)) * g * g


class SoapGradient(Optimizer):
    """The pass of SOAP that writes the prepared gradients."""

    variants = {"soap_gradient": ("r",)}

    @staticmethod
    def reference(p: Array, g: Array, r: Array, **_: Any) -> None:
        """The formula in NumPy."""
        r[...] = g


class SoapDirection(Optimizer):
    """The pass of SOAP that writes Adam's direction in the eigenbases."""

    variants = {"soap_direction": ("m", "v", "r", "o")}
    host_constants = ("beta1", "beta2", "eps")

    @staticmethod
    def compute_host_constants(*, betas: tuple[float, float], eps: float) -> dict[str, float]:
        """Return the numbers of the formula."""
        return {"beta1": betas[0], "beta2": betas[1], "eps": eps}

    @staticmethod
    def reference(p: Array, g: Array, m: Array, v: Array, r: Array, o: Array, **constants: float) -> None:
        """The formula in NumPy."""
        new_v = _mean_of_squares(v, r, constants["beta2"])
        o[...] = _mean(m, r, constants["beta1"]) / (np.sqrt(new_v) + o.dtype.type(constants["eps"]))


def turn_gradient(work: MatrixWork) -> dict[str, Any]:
    """Replace the gradient by itself in the eigenbases, and return the next factors, every k steps also the bases."""
    r, options, t = work["r"], work.options, work.group_step.t
    shape = tuple(r.shape)
    sides, made = sides_of(shape, options), {}
    if any(sides):
        x = in_axes(work, r)
        beta = options["betas"][1] if options["shampoo_beta"] is None else options["shampoo_beta"]
        factors = next_factors(work, "factors", x, sides, beta if t > 1 else 0.0, 1 - beta)
        made["factors"] = factors
        if t == 1:
            made["bases"] = _first_bases(work, factors, sides)
        else:
            r[...] = turn(work, x, unpack(work["bases"], sides)).reshape(shape)
            if (t - 1) % options["precondition_frequency"] == 0:
                made |= _change_bases(work, factors, sides)
    if t == 1:
        r[...] = 0.0
    return made


def turn_back(work: MatrixWork) -> dict[str, Any]:
    """Turn the direction back from the eigenbases."""
    o, options = work["o"], work.options
    shape = tuple(o.shape)
    sides = sides_of(shape, options)
    if work.group_step.t == 1:
        o[...] = 0.0
        return {}
    if any(sides):
        o[...] = turn(work, in_axes(work, o), unpack(work["bases"], sides), back=True).reshape(shape)
    if options["normalize_grads"] and math.prod(shape):
        (norm,) = work.norms([o])
        o *= 1 / (norm / math.sqrt(math.prod(shape)) + 1e-30)
    return {}


def _first_bases(work: MatrixWork, factors: Any, sides: Sequence[int]) -> Any:
    """Return the eigenvectors of each factor."""
    new = work.zeros_like("bases")
    for basis, factor in zip(unpack(new, sides), unpack(factors, sides), strict=True):
        if factor is not None:
            basis[...] = work.permuted(work.eigh(factor)[1], 1, range(factor.shape[0])[::-1])
    return new


def _change_bases(work: MatrixWork, factors: Any, sides: Sequence[int]) -> dict[str, Any]:
    """Return the bases after a step of orthogonal iteration, and the moments of this step in them.

    The columns are sorted by their estimated eigenvalues first; the squares of elements only follow this order.
    """
    shape, options, r = tuple(work["r"].shape), work.options, work["r"]
    axes = axes_of(shape, options)
    before, new = unpack(work["bases"], sides), work.zeros_like("bases")
    m = _mean(work["m"], r, options["betas"][0])
    v = _mean_of_squares(work["v"], r, options["betas"][1]).reshape(axes)
    after = unpack(new, sides)
    for axis, (factor, old) in enumerate(zip(unpack(factors, sides), before, strict=True)):
        if factor is None:
            continue
        product = work.array("product", tuple(factor.shape))
        work.matmul(factor, old, product)
        order = np.argsort(-work.to_numpy((old * product).sum(0)), kind="stable")
        after[axis][...] = work.orthonormal(work.permuted(product, 1, order))
        v = work.permuted(v, axis, order)
    turned_back = turn(work, in_axes(work, m), before, back=True)
    m[...] = turn(work, turned_back, after, again=True).reshape(shape)
    return {"bases": new, "m": m, "v": v.reshape(shape)}


class SOAP(Optimizer):
    r"""Adam in the basis of eigenvectors of Shampoo's factors, which are averages of the gradient times its transpose.

    For a matrix :math:`G`, with the bases :math:`Q_L, Q_R` of the factors :math:`L, R`:

    .. math::
        G' &= Q_L^T G\, Q_R, \qquad m = \beta_1 m + (1 - \beta_1)\, G', \qquad v = \beta_2 v + (1 - \beta_2)\, G'^2 \\
        p &= p - \eta\, \frac{\sqrt{1 - \beta_2^t}}{1 - \beta_1^t}\, Q_L \frac{m}{\sqrt v + \epsilon}\, Q_R^T,
        \qquad p = p - \eta \lambda\, p \\
        L &= \beta_s L + (1 - \beta_s)\, G G^T, \qquad R = \beta_s R + (1 - \beta_s)\, G^T G

    The first step only initializes the factors and computes their eigenvectors; parameters and moments stay as they
    are, and :math:`t` counts the steps after it.  Every `precondition_frequency` steps each basis becomes :math:`Q` of
    the QR decomposition of :math:`L Q_L`, after its columns were sorted by their estimated eigenvalues.  :math:`m` is
    transformed to the new basis; :math:`v` is only permuted by the same order.

    Parameters may have any shape.  Each axis has a factor, unless it is longer than `max_precond_dim`.  An array of one
    axis has none without `precondition_1d`: its steps are Adam's, from the second one on.  The gradient is only read.
    The state is two arrays of the parameter's size and two square matrices for each axis with a factor, all in the
    compute type: float64 for float64 parameters, else float32.

    Adam's part is computed as in the other optimizers.  The products and decompositions are NumPy's on the CPU and
    those of the array library on a GPU, on which their last bits depend: docs/matrix_methods.md lists the promises.
    Each step takes the slow path through Python.

    Args:
        params: Arrays to update in place; see `Optimizer`.
        lr: Learning rate :math:`\eta`, at least 0, or a callable of the step.  Default 3e-3.
        betas: :math:`(\beta_1, \beta_2)`, each in [0, 1).  Default (0.95, 0.95).
        shampoo_beta: :math:`\beta_s`, in [0, 1), or None for :math:`\beta_2`.  Default None.
        eps: :math:`\epsilon`, at least 0.  Default 1e-8.
        precondition_frequency: Steps between two changes of the bases, at least 1.  Default 10.
        max_precond_dim: The longest axis that has a factor, at least 1.  Default 10000.
        merge_dims: Merge neighboring axes, from the first one on, as long as their product is at most
            `max_precond_dim`.  Default False.
        precondition_1d: Give arrays of one axis a factor, too.  Default False.
        normalize_grads: Divide each array's direction by its root mean square.  Default False.
        correct_bias: Use the factor with the square root, which is 1 otherwise.  Default True.
        weight_decay: :math:`\lambda`, at least 0.  Default 0.01.
        decoupled: If False, weight decay is added to the gradient.  Default True.
        **shared: Weight decay, clipping, averages and the rest that every optimizer has; see `Optimizer`.

    Raises:
        ValueError: If an option is out of range; in `step`, if `max_precond_dim`, `merge_dims` or `precondition_1d`,
            which determine the state's shape, was assigned after the state was made.
        FloatingPointError: In `step`, if the sum of the squares of a gradient is not finite in the compute type;
            nothing has changed then.

    Source: Vyas et al., "SOAP: Improving and Stabilizing Shampoo using Adam", 2024, arXiv:2409.11321; the first step
    and the order of operations are those of the authors' https://github.com/nikhilvyas/SOAP.

    >>> import numpy as np, fastoptim as fo
    >>> p = np.ones((2, 2))
    >>> opt = fo.SOAP(p, lr=0.1, weight_decay=0)
    >>> g = np.array([[3.0, 0.0], [0.0, 1.0]])
    >>> opt.step(g)  # begins the factors
    >>> opt.step(g)
    >>> p.round(4)
    array([[0.9, 1. ],
           [1. , 0.9]])
    """

    name = "soap"
    variants = {"soap": ("m", "v")}
    scratch = ("r", "o")
    stages = (Stage(SoapGradient, turn_gradient), Stage(SoapDirection, turn_back))
    stage_state = ("factors", "bases")
    host_constants = ("step_size",)
    first_step_options = {"weight_decay": 0.0}

    lr: LearningRate = 3e-3
    betas: Betas = (0.95, 0.95)
    shampoo_beta: Decay | None = None
    eps: NonNegative = 1e-8
    precondition_frequency: PositiveCount = 10
    max_precond_dim: PositiveCount = 10000
    merge_dims: bool = False
    precondition_1d: bool = False
    normalize_grads: bool = False
    correct_bias: bool = True
    weight_decay: NonNegative = option(default=0.01, kw_only=True)
    decoupled: bool = option(default=True, kw_only=True)

    state_schema = dict.fromkeys(
        stage_state,
        SquareMatrices(
            sides=sides_of, options={"max_precond_dim": 10000, "merge_dims": False, "precondition_1d": False}
        ),
    )

    @staticmethod
    def compute_host_constants(
        *,
        t: int,
        lr: float,
        betas: tuple[float, float],
        correct_bias: bool,
        weight_decay: float,
        decoupled: bool,
        cautious_decay: bool,
        decay_schedule: str,
        lr_max: float | None,
    ) -> dict[str, float]:
        """Return the factor of the direction, 0 in the first step.

        The step precedes the decay here, and follows it in the passes: so the decay multiplies the step, too.
        """
        if t == 1:
            return {"step_size": 0.0}
        scale = 1.0
        if correct_bias:
            scale = math.sqrt(bias_correction_of(betas[1], t - 1)) / bias_correction_of(betas[0], t - 1)
        if decoupled and not cautious_decay:
            scale *= 1 - lr * scheduled_decay(lr, weight_decay, decay_schedule, lr_max)
        return {"step_size": lr * scale}

    @staticmethod
    def reference(
        p: Array,
        g: Array,
        m: Array,
        v: Array,
        r: Array,
        o: Array,
        *,
        betas: tuple[float, float],
        step_size: float,
        **_: Any,
    ) -> None:
        """The formula in NumPy, with the gradient in the eigenbases in r and the direction in o."""
        m[...], v[...] = _mean(m, r, betas[0]), _mean_of_squares(v, r, betas[1])
        p -= p.dtype.type(step_size) * o
