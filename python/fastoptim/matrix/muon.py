"""Muon: momentum whose matrices are orthogonalized."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Annotated, Any, Literal

import numpy as np

from ..engines.stages import MatrixWork, NarrowWork, Stage
from ..optimizer.base import Optimizer
from ..options.checks import Decay, LearningRate, NonNegative, PositiveCount, Whole
from ..options.fields import argument, option
from ..options.schema import StateArray
from ..reference_math import Array, bias_correction_of, decay
from .newton_schulz import NORM_FACTORS, Coefficients, iterate, normalize, polynomials_of

Steps = Annotated[int, Whole(1, 100)]


def _next_momentum(m: Array, g: Array, momentum: float, is_ema: float) -> Array:
    number = m.dtype.type
    beta = decay(m.dtype, momentum) if is_ema else number(momentum)
    return np.asarray(beta * m + number(1 - float(beta) if is_ema else 1) * g)


class MuonDirection(Optimizer):
    """The pass of Muon that writes the matrices to orthogonalize."""

    variants = {"muon_direction": ("m", "o")}
    host_constants = ("momentum", "is_ema", "m_weight", "g_weight")

    @staticmethod
    def compute_host_constants(
        *, t: int, momentum: float, nesterov: bool, form: str, bias_correction: bool
    ) -> dict[str, float]:
        """Return the weights of the new momentum and of the gradient."""
        is_ema = form == "ema"
        of_m, of_g = 1.0, 0.0
        if nesterov:
            of_m, of_g = momentum, 1 - momentum if is_ema else 1.0
        if bias_correction:
            of_m /= bias_correction_of(momentum, t + nesterov)
            of_g /= bias_correction_of(momentum, t)
        return {"momentum": momentum, "is_ema": float(is_ema), "m_weight": of_m, "g_weight": of_g}

    @staticmethod
    def reference(p: Array, g: Array, m: Array, o: Array, **constants: float) -> None:
        """The formula in NumPy."""
        number = o.dtype.type
        following = _next_momentum(m, g, constants["momentum"], constants["is_ema"])
        o[...] = number(constants["m_weight"]) * following + number(constants["g_weight"]) * g


def matrix_shape(shape: tuple[int, ...], options: Mapping[str, Any]) -> tuple[int, ...]:
    """Return the shape of the matrices of a parameter, after a batch of them: ``(..., rows, columns)``."""
    if options["flatten"]:
        shape = (math.prod(shape[:-1]), shape[-1]) if options["input_first"] else (shape[0], math.prod(shape[1:]))
    *batch, rows, columns = shape
    if (heads := options["heads"]) == 1:
        return shape
    block = (rows, columns // heads) if options["input_first"] else (rows // heads, columns)
    return (*batch, heads, *block)


def _to_matrices(array: Any, options: Mapping[str, Any]) -> Any:
    """Return the matrices of a parameter's shape: a view, or a copy."""
    *batch, rows, columns = shape = matrix_shape(array.shape, options)
    if options["heads"] == 1 or not options["input_first"]:
        return array.reshape(shape)
    *batch, heads = batch
    return array.reshape(*batch, rows, heads, columns).swapaxes(-3, -2)


def _from_matrices(matrices: Any, shape: tuple[int, ...], options: Mapping[str, Any]) -> Any:
    """Return matrices in the parameter's shape."""
    splits_columns = options["heads"] != 1 and options["input_first"]
    return (matrices.swapaxes(-3, -2) if splits_columns else matrices).reshape(shape)


def _scale_of(rows: int, columns: int, options: Mapping[str, Any]) -> float:
    """Return the factor of an orthogonal matrix."""
    fan_out, fan_in = (columns, rows) if options["input_first"] else (rows, columns)
    adjust = options["adjust_lr_fn"] or "original"
    if adjust == "match_rms_adamw":
        return float(options["rms"] * math.sqrt(max(rows, columns)))
    ratios = {"original": max(1, fan_out / fan_in), "spectral": fan_out / fan_in, "unscaled": 1}
    return math.sqrt(ratios[adjust])


def orthogonalize(work: MatrixWork) -> dict[str, Any]:
    """Replace each matrix by an orthogonal one, times the factor of its shape."""
    o, options = work["o"], work.options
    if not math.prod(o.shape):
        return {}
    matrices = _to_matrices(o, options)
    x = work.array("x", tuple(matrices.shape))
    x[...] = matrices
    coefficients = options["ns_coefficients"]
    factor = NORM_FACTORS.get(coefficients, 1.0) if isinstance(coefficients, str) else 1.0
    normalize(work, x, factor, options["eps"], options["eps_floor"])
    rows, columns = x.shape[-2:]
    scale, polynomials = _scale_of(rows, columns, options), polynomials_of(coefficients, options["ns_steps"])
    made, is_normalized = {}, "beta2" in options
    factor = 1.0 if is_normalized else scale
    if options["ns_dtype"] == "bfloat16":
        narrow = NarrowWork(work)
        x = narrow.to_compute(iterate(narrow, narrow.from_compute(x), polynomials, factor))
    else:
        x = iterate(work, x, polynomials, factor)
    if is_normalized:
        made["v"] = _normalize_rows(x, work["v"], options["beta2"], scale)
    o[...] = _from_matrices(x, o.shape, options)
    return made


def _normalize_rows(x: Any, v: Any, beta2: float, scale: float) -> Any:
    """Divide each row by the root of its running mean square, keep the matrix's norm, and return the new means."""
    means = (x * x).mean(-1)[..., None]
    new = beta2 * v.reshape(means.shape) + (1 - beta2) * means
    roots = new**0.5 + 1e-8
    before, after = (each.sum((-2, -1))[..., None, None] ** 0.5 for each in (means, means / (roots * roots)))
    x *= scale * before / (after + (after <= 0)) / roots
    return new.reshape(v.shape)


class Muon(Optimizer):
    r"""Momentum whose matrices are replaced by nearly orthogonal ones, for the weights of hidden layers.

    .. math::
        m &= \mu m + (1 - \mu)\, g, \qquad u = \mu m + (1 - \mu)\, g \quad (u = m \text{ without } \texttt{nesterov}) \\
        X &= u / \max(\lVert u \rVert, \epsilon), \qquad
        X = b X + c\, X X^T X + d\, (X X^T)^2 X \quad \text{ns\_steps times} \\
        p &= (1 - \eta \lambda)\, p - \eta s X

    Norms are Frobenius norms.  The iterations (Newton-Schulz) bring all singular values near 1 without a decomposition.
    :math:`s` depends on the matrix's shape, see `adjust_lr_fn`; the decay :math:`\lambda` is multiplied by :math:`\eta`
    only.

    Parameters need two axes or more: ``(..., rows, columns)`` is a batch of matrices, each with a norm of its own.
    Step biases, norms, embeddings and the last layer by another optimizer, together in one step: see `Mixed`.
    The gradient is only read.  There is one state array, and buffers for the matrices of a step.

    Everything except the matrix products is computed as in the other optimizers, with the same bits everywhere.  The
    products are NumPy's on the CPU and those of the array library on a GPU, and their last bits depend on its BLAS:
    docs/matrix_methods.md lists the promises.  Each step takes the slow path through Python.

    Args:
        params: Arrays of two or more axes to update in place; see `Optimizer`.
        lr: Learning rate :math:`\eta`, at least 0, or a callable of the step.  Default 1e-3.
        momentum: :math:`\mu`, in [0, 1).  Default 0.95.
        nesterov: Use Nesterov's step.  Default True.
        ns_steps: The number of iterations, from 1 to 100.  Default 5.
        ns_coefficients: :math:`(b, c, d)`, a sequence of these of which the last one repeats, or "classic", "quintic"
            or "polar_express"; for the last of these the norm is multiplied by 1.02.  Default "classic".
        adjust_lr_fn: :math:`s`: "original" or None, :math:`\sqrt{\max(1, \text{outputs} / \text{inputs})}`;
            "match_rms_adamw", `rms` times :math:`\sqrt{\max(\text{outputs}, \text{inputs})}`, with which learning rates
            of AdamW apply; "spectral", :math:`\sqrt{\text{outputs} / \text{inputs}}`; "unscaled", 1.  Default
            "original".
        rms: See `adjust_lr_fn`.  At least 0, default 0.2.
        eps: :math:`\epsilon`, at least 0.  Default 1e-7.
        eps_floor: If False, :math:`\epsilon` is added to the norm.  Default True.
        form: "ema", as above, or "heavy_ball", :math:`m = \mu m + g` and :math:`u = \mu m + g`.  Default "ema".
        bias_correction: Divide :math:`m` in :math:`u` by :math:`1 - \mu^{t+1}`, and :math:`g` by :math:`1 - \mu^t`, as
            optax does.  Default False.
        input_first: The matrices have the shape (inputs, outputs), as in Keras and JAX, not (outputs, inputs).
            Default False.
        ns_dtype: "compute" iterates in float64 for float64 parameters, else in float32.  "bfloat16" iterates as PyTorch
            does, for PyTorch's tensors only.  Default "compute".
        flatten: Make one matrix of a parameter of more axes, as of convolution kernels: (outputs, the rest), or with
            `input_first` (the rest, outputs).  Default False.
        heads: The number of equal blocks of outputs of which each is a matrix of its own, as for the attention heads in
            one projection.  Default 1.
        weight_decay: :math:`\lambda`, at least 0.  Default 0.1.
        decoupled: If False, weight decay is added to the gradient.  Default True.
        convention: "torch"; "keras", "optax" or "paper" (Jordan's own), whose differences docs/matrix_methods.md lists.
            Default "torch".
        **shared: Weight decay, clipping, averages and the rest that every optimizer has; see `Optimizer`.

    Raises:
        ValueError: If an option is out of range, a parameter has fewer than two axes, or `heads` does not divide the
            outputs.

    Source: Jordan et al., "Muon: An optimizer for hidden layers in neural networks", 2024,
    https://kellerjordan.github.io/posts/muon; Liu et al., "Muon is Scalable for LLM Training", 2025, arXiv:2502.16982
    ("match_rms_adamw"); Amsel et al., 2025, arXiv:2505.16932 ("polar_express").

    >>> import numpy as np, fastoptim as fo
    >>> p = np.zeros((2, 2))
    >>> opt = fo.Muon(p, lr=0.1, ns_coefficients=(1.875, -1.25, 0.375), ns_steps=20)
    >>> opt.step(np.array([[0.0, -5.0], [3.0, 0.0]]))
    >>> p.round(4) + 0.0
    array([[ 0. ,  0.1],
           [-0.1,  0. ]])
    """

    name = "muon"
    variants = {"muon": ("m",)}
    scratch = ("o",)
    stages = (Stage(MuonDirection, orthogonalize),)
    host_constants = ("is_ema",)
    conventions = {
        "torch": {},
        "keras": {
            "adjust_lr_fn": "match_rms_adamw",
            "eps_floor": False,
            "form": "heavy_ball",
            "input_first": True,
            "weight_decay": 0.004,
        },
        "optax": {"eps": 1e-8, "eps_floor": False, "bias_correction": True, "input_first": True, "weight_decay": 0.0},
        "paper": {"lr": 0.02, "eps_floor": False, "weight_decay": 0.0},
    }

    lr: LearningRate = 1e-3
    momentum: Decay = 0.95
    nesterov: bool = True
    ns_steps: Steps = 5
    ns_coefficients: Coefficients = "classic"
    adjust_lr_fn: Literal["original", "match_rms_adamw", "spectral", "unscaled"] | None = "original"
    rms: NonNegative = 0.2
    eps: NonNegative = 1e-7
    eps_floor: bool = True
    form: Literal["ema", "heavy_ball"] = "ema"
    bias_correction: bool = False
    input_first: bool = option(default=False, kw_only=True)
    flatten: bool = option(default=False, kw_only=True)
    heads: PositiveCount = option(default=1, kw_only=True)
    ns_dtype: Literal["compute", "bfloat16"] = option(default="compute", kw_only=True)
    weight_decay: NonNegative = option(default=0.1, kw_only=True)
    decoupled: bool = option(default=True, kw_only=True)
    convention: Literal["torch", "keras", "optax", "paper"] = argument(default="torch", kw_only=True)

    @staticmethod
    def check_shape(shape: tuple[int, ...], options: Mapping[str, Any], place: str) -> None:
        """Raise ValueError for a parameter that is no matrix, or not of so many heads."""
        if len(shape) < 2:
            raise ValueError(
                f"{place}: expected a matrix or a batch of matrices, got shape {shape}; take another optimizer for it, "
                f"in one step with fastoptim.Mixed"
            )
        whole = matrix_shape(shape, {**options, "heads": 1})
        outputs = whole[-1] if options["input_first"] else whole[-2]
        if outputs % options["heads"]:
            raise ValueError(f"{place}: expected outputs that heads={options['heads']} divides, got {outputs}")

    @staticmethod
    def compute_host_constants(*, form: str) -> dict[str, float]:
        """Return whether the momentum is a moving average."""
        return {"is_ema": float(form == "ema")}

    @staticmethod
    def reference(
        p: Array, g: Array, m: Array, o: Array, *, lr: float, momentum: float, is_ema: float, **_: Any
    ) -> None:
        """The formula in NumPy, with the orthogonal matrices in o."""
        m[...] = _next_momentum(m, g, momentum, is_ema)
        p -= p.dtype.type(lr) * o


class NorMuon(Muon):
    r"""Muon whose rows are divided by their running root mean square, so that all neurons take steps of similar size.

    .. math::
        X &= \text{the orthogonal matrix of } \texttt{Muon}, \qquad
        v = \beta_2 v + (1 - \beta_2) \operatorname{mean}_\text{columns}(X^2) \\
        Y &= X / (\sqrt v + 10^{-8}), \qquad p = (1 - \eta \lambda)\, p - \eta s\, Y \lVert X \rVert / \lVert Y \rVert

    The state has one number for each row in addition to the momentum.  The defaults are those of the package dion:
    heavy-ball momentum without Nesterov's step, "polar_express" and "spectral".

    Args:
        params: Arrays of two or more axes to update in place, (outputs, inputs) or batches of these; see `Optimizer`.
        lr: Learning rate :math:`\eta`, at least 0, or a callable of the step.  Default 0.01.
        momentum: :math:`\mu`, in [0, 1).  Default 0.95.
        nesterov: Use Nesterov's step.  Default False.
        ns_steps: The number of iterations, from 1 to 100.  Default 5.
        ns_coefficients: As in `Muon`.  Default "polar_express".
        adjust_lr_fn: :math:`s`, as in `Muon`.  Default "spectral".
        rms: As in `Muon`.  Default 0.2.
        eps: Added to the norm, at least 0.  Default 1e-8.
        eps_floor: As in `Muon`.  Default False.
        form: As in `Muon`.  Default "heavy_ball".
        bias_correction: As in `Muon`.  Default False.
        beta2: :math:`\beta_2`, in [0, 1).  Default 0.95.
        input_first: False only, as rows are outputs.
        flatten: False only; pass a view of two axes.
        heads: As in `Muon`.  Default 1.
        ns_dtype: As in `Muon`.  Default "compute".
        weight_decay: :math:`\lambda`, at least 0.  Default 0.01.
        decoupled: If False, weight decay is added to the gradient.  Default True.
        **shared: Weight decay, clipping, averages and the rest that every optimizer has; see `Optimizer`.

    Raises:
        ValueError: As `Muon`, and with `input_first` or `flatten`.

    Source: Li et al., "NorMuon: Making Muon more efficient and scalable", 2025, arXiv:2510.05491.

    >>> import numpy as np, fastoptim as fo
    >>> p = np.zeros((3, 4), np.float32)
    >>> opt = fo.NorMuon(p, lr=0.1)
    >>> opt.step(np.arange(12, dtype=np.float32).reshape(3, 4))
    >>> bool(np.allclose((p**2).sum(1), (p**2).sum() / 3, rtol=1e-3))
    True
    """

    name = "normuon"
    stage_state = ("v",)
    state_schema = {"v": StateArray("matrix_rows")}
    conventions = {}
    convention = None  # type: ignore[assignment]

    lr: LearningRate = 0.01
    nesterov: bool = False
    ns_coefficients: Coefficients = "polar_express"
    adjust_lr_fn: Literal["original", "match_rms_adamw", "spectral", "unscaled"] | None = "spectral"
    eps: NonNegative = 1e-8
    eps_floor: bool = False
    form: Literal["ema", "heavy_ball"] = "heavy_ball"
    beta2: Decay = 0.95
    weight_decay: NonNegative = option(default=0.01, kw_only=True)

    @classmethod
    def variant(cls, *, input_first: bool, flatten: bool, **_: Any) -> str:
        """Return the rule, or raise ValueError for options that rows as outputs exclude."""
        for name, value in (("input_first", input_first), ("flatten", flatten)):
            if value:
                raise ValueError(f"{name}: expected False for NorMuon, whose state has a number for each row, got True")
        return "muon"
