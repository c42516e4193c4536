"""Sophia."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from ..engines.base import GroupStep
from ..optimizer.base import Optimizer
from ..options.checks import Decay, LearningRate, NonNegative
from ..options.fields import option
from ..options.schema import StateArray
from ..options.settings import Settings
from ..reference_math import Array, decay, maximum, minimum


class Sophia(Optimizer):
    r"""Sophia: the average gradient over an average of the Hessian's diagonal, clamped to [-1, 1].

    .. math::
        m &= \beta_1 m + (1 - \beta_1) g \\
        p &= p - \eta \min(\max(m / \max(\gamma h, \epsilon), -1), 1) \\
        &\text{and with each estimate } u \text{ of the diagonal, } h = \beta_2 h + (1 - \beta_2) u

    For language models.  The caller estimates the diagonal about every 10 steps and passes it to `update_hessian`: with
    Hutchinson's estimator, :math:`z \odot (H z)` for z of random signs, or with the Gauss-Newton-Bartlett estimator,
    the batch size times the squared gradient of a mini-batch with labels sampled from the model.  Choose `gamma` such
    that a tenth to a half of the elements is not clamped: 0.01 suits the first, 0.04 the second.  Where the curvature
    is not known, as before the first estimate, or is negative, an element moves by :math:`\eta` against the sign of its
    average.  The learning rate is about that of `Lion`; `weight_decay` is decoupled.  With ``fo.functional.sophia`` the
    caller updates h.

    Args:
        params: Arrays to update in place; see `Optimizer`.
        lr: Learning rate :math:`\eta`, the largest step, at least 0, or a callable of the step.  Default 1e-4.
        betas: :math:`\beta_1` and :math:`\beta_2`, decay rates of the moving averages of gradient and curvature, each
            in [0, 1).  Default (0.965, 0.99).
        gamma: :math:`\gamma`, at least 0; with a smaller value more elements are clamped.  Default 0.04.
        eps: :math:`\epsilon`, at least 0, the lower bound of the denominator.  Default 1e-12.
        weight_decay: Weight decay, at least 0: the parameters are multiplied by ``1 - lr * weight_decay``.  Default
            0.1.
        decoupled: If False, weight decay is added to the gradient.  Default True.
        **shared: Weight decay, clipping, averages and the rest that every optimizer has; see `Optimizer`.

    Raises:
        ValueError: If an option is out of range.

    Source: Liu et al., "Sophia: a scalable stochastic second-order optimizer for language model pre-training", 2023,
    arXiv:2305.14342.  Defaults of the authors' code.

    For :math:`f = 2 p_1^2 + p_2^2 / 2`, with known diagonal and its minimum at 0:

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
    state_schema = {"m": StateArray(compress="signed")}

    lr: LearningRate = 1e-4
    betas: tuple[Decay, Decay] = (0.965, 0.99)
    gamma: NonNegative = 0.04
    eps: NonNegative = 1e-12
    weight_decay: NonNegative = option(default=0.1, kw_only=True)
    decoupled: bool = option(default=True, kw_only=True)

    def update_hessian(self, hessians: Any) -> bool | None:
        """Average estimates of the Hessian's diagonal into ``state["h"]``; parameters and step count are unchanged.

        `hessians` has the structure and shapes of `params`; None instead of an array leaves its average unchanged.  The
        estimates are neither scaled nor clipped.  With `maximize` they are those of the negated function, which is
        minimized.  Otherwise as `step`: a rejected call has written nothing, and with `skip_nonfinite` the result tells
        whether the estimates were used.
        """
        self.check_not_swapped()
        flat = self._structure.match(hessians, "hessians")
        if len(self.param_groups) != len(self._trees):
            raise ValueError(f"param_groups: expected {len(self._trees)} groups, got {len(self.param_groups)}")
        every = [_of_hessian(self._settings(index)) for index in range(len(self._trees))]
        group_steps = [GroupStep(settings, 0.0, 1) for settings in every]
        param_states = [replace(param, g_name="hessians") for param in self.param_states]
        taken = self.engine_for(param_states).step(flat, group_steps)
        if taken is None:
            self._check_skipped(group_steps, hessians, "hessians")
        return taken is not None if any(settings.skips for settings in every) else None

    @staticmethod
    def variant(**_: Any) -> str:
        """Return the rule of `step`; `update_hessian` selects its own."""
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
        """The formula in NumPy; without m it updates h with g, an estimate of the Hessian's diagonal."""
        number = p.dtype.type
        beta1, beta2 = (decay(p.dtype, beta) for beta in betas)
        one_minus_beta1, one_minus_beta2 = number(1 - float(beta1)), number(1 - float(beta2))
        if m is None:
            h[...] = beta2 * h + one_minus_beta2 * g
            return
        m[...] = beta1 * m + one_minus_beta1 * g
        ratio = m / maximum(number(gamma) * h, number(eps))
        p -= number(lr) * minimum(maximum(ratio, number(-1)), number(1))


def _of_hessian(settings: Settings) -> Settings:
    """Return a group's settings with the rule that updates h, and with preparation disabled."""
    plain = {name: getattr(Optimizer, name) for name in Sophia.shared - {"skip_nonfinite", "on_nonfinite"}}
    return replace(settings, variant="sophia_hessian", options={**settings.options, **plain}, memo={})
