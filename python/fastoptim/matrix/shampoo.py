"""Shampoo: the gradient times a root of the inverse of each axis's factor."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, Literal

import numpy as np

from ..engines.stages import MatrixWork, Stage
from ..optimizer.base import Optimizer
from ..options.checks import Decay, Fraction, LearningRate, NonNegative, Positive, PositiveCount
from ..options.fields import option
from ..options.schema import SquareMatrices
from ..reference_math import Array, bias_correction_of, decay
from .kronecker import axes_of, in_axes, next_factors, sides_of, turn, unpack


def _next_mean(m: Array, g: Array, beta1: float) -> Array:
    beta = decay(m.dtype, beta1)
    return np.asarray(beta * m + m.dtype.type(1 - float(beta)) * g)


class ShampooGradient(Optimizer):
    """The pass of Shampoo that writes the prepared gradients and their means."""

    variants = {"shampoo_gradient": ("m", "r", "o")}
    host_constants = ("beta1", "m_weight")

    @staticmethod
    def compute_host_constants(*, t: int, betas: tuple[float, float], bias_correction: bool) -> dict[str, float]:
        """Return the decay rate and the weight of the mean."""
        return {"beta1": betas[0], "m_weight": 1 / bias_correction_of(betas[0], t) if bias_correction else 1.0}

    @staticmethod
    def reference(p: Array, g: Array, m: Array, r: Array, o: Array, **constants: float) -> None:
        """The formula in NumPy."""
        r[...] = g
        o[...] = m.dtype.type(constants["m_weight"]) * _next_mean(m, g, constants["beta1"])


def precondition(work: MatrixWork) -> dict[str, Any]:
    """Multiply the mean by the roots, and return the next factors, every k steps also the roots."""
    r, o, options, t = work["r"], work["o"], work.options, work.group_step.t
    shape, beta2 = tuple(o.shape), options["betas"][1]
    sides, made = sides_of(shape, options), {}
    norm = _grafted_norm(work) if options["grafting"] and math.prod(shape) else None
    if any(sides):
        factors = next_factors(work, "factors", in_axes(work, r), sides, beta2, _weight_of_new(beta2))
        roots = work["roots"]
        if (t - 1) % options["precondition_frequency"] == 0:
            debias = 1 / bias_correction_of(beta2, t) if options["bias_correction"] and beta2 < 1 else 1.0
            exponent = -1 / (2 * len(axes_of(shape, options)))
            roots = made["roots"] = _powers(work, factors, sides, debias, options["eps"], exponent)
        made["factors"] = factors
        o[...] = turn(work, in_axes(work, o), unpack(roots, sides)).reshape(shape)
    if norm is not None:
        (own,) = work.norms([o])
        o *= norm / own if own else 1.0
    return made


def _powers(work: MatrixWork, factors: Any, sides: Sequence[int], weight: float, eps: float, exponent: float) -> Any:
    """Return the powers of the weighted factors, whose smallest eigenvalue is raised to 0 and all of them by `eps`.

    Eigenvalues are at least the machine epsilon times the largest one.  Smaller ones are rounding errors, by whose
    roots those of the gradient's products would be divided.
    """
    new = work.zeros_like("roots")
    for root, factor in zip(unpack(new, sides), unpack(factors, sides), strict=True):
        if factor is None:
            continue
        values, vectors = work.eigh(factor)
        spectrum = work.to_numpy(values).astype(np.float64) * weight
        least = float(np.finfo(work.dtype).eps) * spectrum[-1]
        halves = np.maximum(spectrum - min(spectrum[0], 0.0) + eps, least) ** (exponent / 2)
        scaled = vectors * work.from_numpy(halves)
        work.matmul(scaled, scaled.swapaxes(0, 1), root)  # a symmetric result, in half of the time
    return new


def _grafted_norm(work: MatrixWork) -> float:
    """Return the norm of another optimizer's step with the same mean, without the learning rate."""
    r, o, options = work["r"], work["o"], work.options
    if options["grafting"] == "sgd":
        return work.norms([o])[0]
    beta2 = options["grafting_beta2"]
    v = work["v"] * beta2 + r * r * _weight_of_new(beta2)
    if beta2 < 1 and options["bias_correction"]:
        v *= 1 / bias_correction_of(beta2, work.group_step.t)
    step = work.array("grafted", tuple(o.shape))  # where NumPy's result of no axes would be a number
    step[...] = o / (v**0.5 + options["grafting_eps"])
    return work.norms([step])[0]


def _weight_of_new(beta2: float) -> float:
    """Return the weight of a new value in a mean, and in a sum if the rate is 1."""
    return 1 - beta2 if beta2 < 1 else 1.0


class Shampoo(Optimizer):
    r"""The gradient's mean times an inverse root of each axis's factor, the sum of gradients times their transposes.

    For a matrix :math:`G`:

    .. math::
        L &= \beta_2 L + (1 - \beta_2)\, G G^T, \qquad R = \beta_2 R + (1 - \beta_2)\, G^T G
             \qquad (L + G G^T \text{ and } R + G^T G \text{ if } \beta_2 = 1) \\
        m &= \beta_1 m + (1 - \beta_1)\, G, \qquad \hat m = m / (1 - \beta_1^t) \\
        p &= (1 - \eta \lambda)\, p - \eta\, (L + \epsilon I)^{-1/4}\, \hat m\, (R + \epsilon I)^{-1/4}

    An array of k axes has k factors and the power :math:`-1/(2k)`; an array of one axis thus has the inverse square
    root of one matrix.  If :math:`\beta_2 < 1` the factors are first divided by :math:`1 - \beta_2^t`.  The roots are
    computed by an eigendecomposition in every `precondition_frequency`-th step, beginning with the first one.  If
    rounding makes the smallest eigenvalue negative, its size is added to all of them, and none is less than the machine
    epsilon times the largest one.  With `grafting` the step has the norm of another optimizer's.  The method of the
    paper is ``betas=(0, 1)``.

    Parameters may have any shape; an axis longer than `max_precond_dim` has no factor.  The gradient is only read.  The
    state is one array of the parameter's size, two with ``grafting="adam"``, and two square matrices for each axis with
    a factor, in the compute type: float64 for float64 parameters, else float32.

    The products and decompositions are NumPy's on the CPU and those of the array library on a GPU, on which their last
    bits depend: docs/matrix_methods.md lists the promises.  Each step takes the slow path through Python.

    Args:
        params: Arrays to update in place; see `Optimizer`.
        lr: Learning rate :math:`\eta`, at least 0, or a callable of the step.  Default 0.01.
        betas: :math:`\beta_1` in [0, 1) and :math:`\beta_2` in [0, 1].  Default (0.9, 1.0).
        eps: :math:`\epsilon`, above 0.  Default 1e-12.
        precondition_frequency: Steps between two computations of the roots, at least 1.  Default 1.
        grafting: None; "sgd", the norm of :math:`\hat m`; or "adam", that of :math:`\hat m / (\sqrt{\hat v} +
            \epsilon_g)` with the corrected mean :math:`\hat v` of the squares.  Default None.
        grafting_beta2: The decay rate of that mean, in [0, 1]; with 1 it is the sum, as in AdaGrad.  Default 0.999.
        grafting_eps: :math:`\epsilon_g`, at least 0.  Default 1e-8.
        bias_correction: Use the divisors :math:`1 - \beta^t`.  Default True.
        max_precond_dim: The longest axis that has a factor, at least 1.  Default 1024.
        merge_dims: Merge neighboring axes, from the first one on, as long as their product is at most
            `max_precond_dim`.  Default False.
        precondition_1d: Give arrays of one axis a factor.  Default True.
        weight_decay: :math:`\lambda`, at least 0.  Default 0.
        decoupled: If False, weight decay is added to the gradient.  Default True.
        **shared: Weight decay, clipping, averages and the rest that every optimizer has; see `Optimizer`.

    Raises:
        ValueError: If an option is out of range; in `step`, if `max_precond_dim`, `merge_dims` or `precondition_1d`,
            which determine the state's shape, was assigned after the state was made.
        FloatingPointError: In `step`, if the sum of the squares of a gradient is not finite in the compute type;
            nothing has changed then.

    Source: Gupta, Koren & Singer, "Shampoo: Preconditioned stochastic tensor optimization", 2018, arXiv:1802.09568;
    Shi et al., "A distributed data-parallel PyTorch implementation of the distributed Shampoo optimizer", 2023,
    arXiv:2309.06497 (means, grafting and defaults, without its blocks).

    >>> import numpy as np, fastoptim as fo
    >>> p = np.zeros((2, 2))
    >>> opt = fo.Shampoo(p, lr=0.1)
    >>> opt.step(np.array([[0.0, -4.0], [9.0, 0.0]]))  # the nearest orthogonal matrix, in the first step
    >>> p.round(4) + 0.0
    array([[ 0. ,  0.1],
           [-0.1,  0. ]])
    """

    name = "shampoo"
    variants = {"shampoo": ("m",), "shampoo_grafted": ("m", "v")}
    scratch = ("r", "o")
    stages = (Stage(ShampooGradient, precondition),)
    stage_state = ("factors", "roots")

    lr: LearningRate = 0.01
    betas: tuple[Decay, Fraction] = (0.9, 1.0)
    eps: Positive = 1e-12
    precondition_frequency: PositiveCount = 1
    grafting: Literal["sgd", "adam"] | None = None
    grafting_beta2: Fraction = 0.999
    grafting_eps: NonNegative = 1e-8
    bias_correction: bool = True
    max_precond_dim: PositiveCount = 1024
    merge_dims: bool = False
    precondition_1d: bool = True
    decoupled: bool = option(default=True, kw_only=True)

    state_schema = dict.fromkeys(
        stage_state,
        SquareMatrices(sides=sides_of, options={"max_precond_dim": 1024, "merge_dims": False, "precondition_1d": True}),
    )

    @classmethod
    def variant(cls, *, grafting: str | None, **_: Any) -> str:
        """Return the rule."""
        return "shampoo_grafted" if grafting == "adam" else "shampoo"

    @staticmethod
    def reference(
        p: Array,
        g: Array,
        m: Array,
        v: Array | None = None,
        *,
        r: Array,
        o: Array,
        lr: float,
        betas: tuple[float, float],
        grafting_beta2: float,
        **_: Any,
    ) -> None:
        """The formula in NumPy, with the gradient in r and the direction in o."""
        number = p.dtype.type
        m[...] = _next_mean(m, r, betas[0])
        if v is not None:
            v[...] = number(grafting_beta2) * v + number(_weight_of_new(grafting_beta2)) * r * r
        p -= number(lr) * o
