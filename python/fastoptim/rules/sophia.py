"""Sophia."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from ..engines.base import GroupStep
from ..optimizer.base import Optimizer
from ..options.checks import Decay, LearningRate, NonNegative
from ..options.fields import option
from ..options.settings import Settings
from ..reference_math import Array, decay, maximum, minimum


class Sophia(Optimizer):
    r"""Sophia: the mean gradient over the mean of an estimate of the Hessian's diagonal, each element within bounds.

    .. math::
        m &= \beta_1 m + (1 - \beta_1) g \\
        p &= p - \eta \min(\max(m / \max(\gamma h, \epsilon), -1), 1) \\
        &\text{and with each estimate } u \text{ of the diagonal, } h = \beta_2 h + (1 - \beta_2) u

    For language models.  The caller estimates the diagonal every 10 steps or so and hands it to `update_hessian`: as
    Hutchinson's :math:`z \odot (H z)` with z of random signs, or as Gauss-Newton-Bartlett's batch size times the
    squared gradient of a mini-batch with labels drawn from the model.  `gamma` is to be such that a tenth to a half of
    the elements is within the bounds: 0.01 suits the first, 0.04 the second.  Where no curvature is known, as before
    the first estimate, or where it is negative, an element moves by :math:`\eta` against the sign of its mean.  The
    learning rate is about that of `Lion`; `weight_decay`, by default 0.1, is decoupled.  With ``fo.functional.sophia``
    the caller keeps h.

    Args:
        params: Arrays to update in place; see `Optimizer`.
        lr: Learning rate :math:`\eta`, the largest step, at least 0, or a callable of the step.
        betas: :math:`\beta_1` and :math:`\beta_2`, how slowly the means of gradient and curvature forget, each in
            [0, 1).
        gamma: :math:`\gamma`, at least 0: a smaller one lets more elements reach the bounds.
        eps: :math:`\epsilon`, at least 0, what the denominator is at least.
        weight_decay: Shrinks the parameters by ``lr * weight_decay``, at least 0.
        decoupled: If False the decay is added to the gradient.
        **shared: Weight decay, clipping, averages and the rest that every optimizer has; see `Optimizer`.

    Raises:
        ValueError: An option out of range.

    Source: Liu et al., "Sophia: a scalable stochastic second-order optimizer for language model pre-training", 2023,
    arXiv:2305.14342.  Defaults of the authors' code.

    For :math:`f = 2 p_1^2 + p_2^2 / 2`, whose diagonal is known; the smallest is at 0:

    >>> import numpy as np, fastoptim as fo
    >>> p = np.array([1.0, 1.0])
    >>> opt = fo.Sophia(p, lr=0.1, betas=(0.5, 0.9), gamma=1.0, weight_decay=0.0)
    >>> for step in range(100):
    ...     if step % 10 == 0:
    ...         opt.update_hessian(np.array([4.0, 1.0]))
    ...     opt.step(np.array([4 * p[0], p[1]]))
    >>> abs(p).round(4)
    array([0., 0.])
    """

    name = "sophia"
    variants = {"sophia": ("m", "h"), "sophia_hessian": ("h",)}

    lr: LearningRate = 1e-4
    betas: tuple[Decay, Decay] = (0.965, 0.99)
    gamma: NonNegative = 0.04
    eps: NonNegative = 1e-12
    weight_decay: NonNegative = option(default=0.1, kw_only=True)
    decoupled: bool = option(default=True, kw_only=True)

    def update_hessian(self, hessians: Any) -> bool | None:
        """Takes estimates of the Hessian's diagonal into ``state["h"]``; parameters and step count stay.

        `hessians` has the structure and shapes of `params`; None in the place of an array leaves that one's estimate
        alone.  They are taken as they are: unscaled, unclipped, and of what is minimized also with `maximize`.  Else as
        `step`: a refused call has written nothing, and with `skip_nonfinite` it returns whether they were taken.
        """
        self.check_not_swapped()
        flat = self._structure.match(hessians, "hessians")
        if len(self.param_groups) != len(self._trees):
            raise ValueError(f"param_groups: expected {len(self._trees)} groups, got {len(self.param_groups)}")
        every = [_of_hessian(self._settings(index)) for index in range(len(self._trees))]
        param_states = [replace(param, g_name="hessians") for param in self.param_states]
        taken = self.engine_for(param_states).step(flat, [GroupStep(settings, 0.0, 1) for settings in every])
        skips = any(settings.options["skip_nonfinite"] for settings in every)
        return taken is not None if skips else None

    @staticmethod
    def variant(**_: Any) -> str:
        """That of a step."""
        return "sophia"

    @staticmethod
    def reference(
        p: Array,
        g: Array,
        h: Array,
        m: Array | None = None,
        *,
        t: int,
        lr: float,
        betas: tuple[float, float],
        gamma: float,
        eps: float,
    ) -> None:
        """The formula in NumPy; without m it is h that takes g, an estimate of the Hessian's diagonal."""
        number = p.dtype.type
        beta1, beta2 = (decay(p.dtype, beta) for beta in betas)
        if m is None:
            h[...] = beta2 * h + number(1 - float(beta2)) * g
            return
        m[...] = beta1 * m + number(1 - float(beta1)) * g
        step = m / maximum(number(gamma) * h, number(eps))
        p -= number(lr) * minimum(maximum(step, number(-1)), number(1))


def _of_hessian(settings: Settings) -> Settings:
    """A group's settings with the rule that keeps h, and without what happens around a step's rule."""
    plain = {name: getattr(Optimizer, name) for name in Sophia.shared - {"skip_nonfinite"}}
    return replace(settings, variant="sophia_hessian", options={**settings.options, **plain}, memo={})
