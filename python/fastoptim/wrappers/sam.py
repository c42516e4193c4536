"""Sharpness-aware minimization: the gradient at a nearby point where the loss is approximately highest."""

from __future__ import annotations

from contextlib import AbstractContextManager
from typing import Any

from ..arrays.param_state import check_targets, in_compute_type
from ..norms import global_norm
from ..options.checks import NonNegative, scale_at
from ..reference_math import compute_dtype
from .base import Wrapper

_EPS = 1e-12


class SAM(Wrapper):
    r"""Sharpness-aware minimization (SAM): a step by the gradient at a nearby point where the loss is about highest.

    .. math::
        e &= \rho\, \frac{g}{\lVert g \rVert + 10^{-12}}, \qquad
        \text{adaptive: } e = \rho\, \frac{p^2 g}{\lVert\, |p|\, g\, \rVert + 10^{-12}} \\
        g' &= \nabla f(p + e), \qquad \text{then the optimizer's step with } g'

    `ascent` moves the parameters to :math:`p + e` while the second gradient is computed, and restores every bit.  The
    norm is that of all gradients.  Gradients are divided by `grad_scale` first; with `maximize` the loss is
    approximately lowest there.  An array whose gradient is None stays where it is.  If a gradient is not finite,
    neither are the parameters in the block, so that `skip_nonfinite` skips the step.

    Each step needs two gradients, and the memory of two more sets of parameters while `ascent` moves them.

    Args:
        optimizer: Any optimizer except `LBFGS`, or another wrapper; its attributes are those of the wrapper, too.
        rho: :math:`\rho`, the distance, at least 0.  Default 0.05.
        adaptive: Measure the distance relative to the parameters (ASAM); `rho` is then some ten times larger.  Default
            False.

    Raises:
        TypeError: `optimizer` is not an optimizer of this package.
        ValueError: An option is out of range.
        RuntimeError: `step` or `ascent` is called inside `ascent`.

    Source: Foret, Kleiner, Mobahi, Neyshabur, "Sharpness-Aware Minimization for Efficiently Improving Generalization",
    2021, arXiv:2010.01412; Kwon, Kim, Park, Choi, "ASAM", 2021, arXiv:2102.11600.

    >>> import numpy as np, fastoptim as fo
    >>> p = np.array([3.0, 4.0])
    >>> opt = fo.SAM(fo.SGD(p, lr=0.5), rho=5.0)
    >>> with opt.ascent(p):
    ...     g = p.copy()
    >>> opt.step(g)
    >>> g.round(6), p.round(6)
    (array([6., 8.]), array([0., 0.]))
    """

    name = "sam"
    options = {"rho": NonNegative, "adaptive": bool}

    rho: float
    adaptive: bool

    def __init__(self, optimizer: Any, rho: float = 0.05, adaptive: bool = False) -> None:
        super().__init__(optimizer, rho=rho, adaptive=adaptive)

    def ascent(self, grads: Any) -> AbstractContextManager[None]:
        """Move the parameters to ``p + e`` in the block; restore them bit for bit, also after an exception.

        `grads` are the gradients at the parameters, as for `step`.
        """
        return self.swapped_params("ascent", lambda: self._points(grads))  # type: ignore[no-any-return]

    def _points(self, grads: Any) -> list[Any]:
        """Return the point nearby of each parameter in the compute type, None where there is no gradient."""
        flat = self._structure.match(grads, "grads")
        written = check_targets([])  # gradients may be the parameters themselves
        directions: list[Any] = []
        lengths = []
        for param, grad in zip(self.param_states, flat, strict=True):
            if grad is None:
                directions.append(None)
                continue
            options = self._settings(param.group).options
            scale = scale_at(options["grad_scale"], f"param_groups[{param.group}]['grad_scale']")
            multiplier = (-1.0 if options["maximize"] else 1.0) / scale
            dtype = compute_dtype(param.metadata.dtype)
            with param.family.arithmetic(param.p):
                g = dtype.type(multiplier) * in_compute_type(param, grad, written)
                if self.adaptive:
                    p = param.values()
                    lengths.append(p * g)  # whose norm is that of |p| g
                    g = p * p * g
                else:
                    lengths.append(g)
            directions.append(g)
        factor = self.rho / (global_norm(lengths) + _EPS)
        points = []
        for param, direction in zip(self.param_states, directions, strict=True):
            dtype = compute_dtype(param.metadata.dtype)
            with param.family.arithmetic(param.p):
                points.append(None if direction is None else param.values() + dtype.type(factor) * direction)
        return points
