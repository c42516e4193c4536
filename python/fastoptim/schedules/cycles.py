"""Schedules that rise and fall: with restarts, in cycles, and once."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import Literal

from ..options.checks import Fraction, NonNegative, Positive, PositiveCount
from .base import Schedule, blend, cosine, linear

_ANNEALING = {"cos": cosine, "linear": linear}


@dataclass(frozen=True)
class CosineWarmRestarts(Schedule):
    r"""Cosine annealing with warm restarts, each period longer than the one before.

    .. math::
        \eta_t = \eta_\text{min} + \tfrac{1}{2} (\eta - \eta_\text{min})\, a^i\, (1 + \cos(\pi\, t_i / T_i)),
        \qquad T_i = T_0\, T_\text{mult}^i

    where :math:`t_i` is the number of steps since the :math:`i`-th restart.  Gives a good model at the end of each
    period, for ensembles or for training without a fixed end.  Periods continue without end.

    Args:
        lr: Learning rate :math:`\eta` after each restart, at least 0.
        T_0: The length of the first period, at least 1.
        T_mult: The ratio of the lengths of successive periods, at least 1.
        eta_min: The rate that each period approaches, at least 0.
        amplitude_mult: :math:`a`, the ratio of the heights of successive periods above `eta_min`, in [0, 1]; Keras's
            ``m_mul``.

    Raises:
        TypeError: A length or multiple that is no integer.
        ValueError: An option out of range.

    Source: SGDR: Loshchilov & Hutter, 2016, arXiv:1608.03983.

    >>> import fastoptim as fo
    >>> schedule = fo.schedules.CosineWarmRestarts(0.1, T_0=10, T_mult=2)
    >>> [round(schedule(step), 4) for step in (0, 5, 9, 10, 20, 30)]
    [0.1, 0.05, 0.0024, 0.1, 0.05, 0.1]
    """

    lr: NonNegative
    T_0: PositiveCount
    T_mult: PositiveCount = 1
    eta_min: NonNegative = 0.0
    amplitude_mult: Fraction = 1.0

    def _at(self, step: int) -> float:
        length = self.T_0
        restarts, since = divmod(step, length) if self.T_mult == 1 else (0, step)
        while since >= length:
            restarts, since, length = restarts + 1, since - length, length * self.T_mult
        top = blend(self.eta_min, self.lr, self.amplitude_mult**restarts)
        return blend(top, self.eta_min, cosine(since / length))


@dataclass(frozen=True)
class Cyclic(Schedule):
    r"""A triangle wave between two bounds.

    .. math::
        \eta_t = \eta_\text{base} + (\eta_\text{max} - \eta_\text{base})\, h_t\, a_t

    where :math:`h_t` goes from 0 to 1 in `step_size_up` steps and back in `step_size_down`, and :math:`a_t` is 1 with
    "triangular", :math:`2^{-i}` in the :math:`i`-th cycle, counted from 0, with "triangular2", and
    :math:`\gamma^t` with "exp_range".

    Replaces the search for one good rate; the paper takes bounds from a short run with a rising rate.  Momentum is not
    cycled, as with PyTorch's ``CyclicLR(cycle_momentum=False)``.  Cycles continue without end.

    Args:
        base_lr: :math:`\eta_\text{base}`, the rate at first and between cycles, at least 0.
        max_lr: :math:`\eta_\text{max}`, the rate at the top of the first cycle, at least 0.
        step_size_up: The number of rising steps, at least 1.
        step_size_down: The number of falling steps, at least 1; None for `step_size_up`.
        mode: "triangular", "triangular2" or "exp_range".
        gamma: :math:`\gamma` of "exp_range", in [0, 1].

    Raises:
        TypeError: A length that is no integer.
        ValueError: An option out of range.

    Source: Smith, 2015, arXiv:1506.01186.

    >>> import fastoptim as fo
    >>> schedule = fo.schedules.Cyclic(0.0, 0.8, step_size_up=10, mode="triangular2")
    >>> [schedule(step) for step in (0, 5, 10, 20, 30)]
    [0.0, 0.4, 0.8, 0.0, 0.4]
    """

    base_lr: NonNegative
    max_lr: NonNegative
    step_size_up: PositiveCount = 2000
    step_size_down: PositiveCount | None = None
    mode: Literal["triangular", "triangular2", "exp_range"] = "triangular"
    gamma: Fraction = 1.0

    def _at(self, step: int) -> float:
        up, down = self.step_size_up, self.step_size_down or self.step_size_up
        cycle, since = divmod(step, up + down)
        height = min(since / up, (up + down - since) / down)
        amplitude = {"triangular": 1.0, "triangular2": 0.5**cycle, "exp_range": self.gamma**step}[self.mode]
        return blend(self.base_lr, self.max_lr, height * amplitude)


@dataclass(frozen=True)
class OneCycle(Schedule):
    r"""The one-cycle policy: one rise to `max_lr`, then one fall to almost zero.

    .. math::
        \eta_t = \eta_a + (\eta_b - \eta_a)\, s((t - t_a) / (t_b - t_a)), \qquad s(x) = \tfrac{1}{2} (1 - \cos \pi x)
        \text{ or } x

    in phases from :math:`(t_a, \eta_a)` to :math:`(t_b, \eta_b)`: with :math:`\eta_0 = \eta_\text{max}` / `div_factor`
    and :math:`\eta_T = \eta_0` / `final_div_factor` they go through :math:`\eta_0, \eta_\text{max}, \eta_T`, or
    with `three_phase` through :math:`\eta_0, \eta_\text{max}, \eta_0, \eta_T`.  The rise ends at step
    ``pct_start * total_steps - 1``, the first fall of three phases at ``2 * pct_start * total_steps - 2``, all of it at
    ``total_steps - 1``, exactly as in PyTorch's ``OneCycleLR``.

    Trains fast with large rates when the number of steps is known.  Momentum is not cycled, as with PyTorch's
    ``cycle_momentum=False``.  Holds the last rate after the end, where PyTorch raises an error.

    Args:
        max_lr: :math:`\eta_\text{max}`, the largest rate, at least 0.
        total_steps: The number of steps, at least 1.
        pct_start: The share of rising steps, in [0, 1].
        anneal_strategy: "cos" or "linear", the shape of the phases.
        div_factor: The ratio of `max_lr` to the first rate, above 0.
        final_div_factor: The ratio of the first rate to the last, above 0.
        three_phase: Whether the fall has two phases: to the first rate, as long as the rise, and then to the last rate.

    Raises:
        TypeError: A number of steps that is no integer.
        ValueError: An option out of range.

    Source: Smith & Topin, 2017, arXiv:1708.07120.

    >>> import fastoptim as fo
    >>> schedule = fo.schedules.OneCycle(1.0, total_steps=100)
    >>> [round(schedule(step), 4) for step in (0, 29, 64, 99, 1000)]
    [0.04, 1.0, 0.5, 0.0, 0.0]
    """

    max_lr: NonNegative
    total_steps: PositiveCount
    pct_start: Fraction = 0.3
    anneal_strategy: Literal["cos", "linear"] = "cos"
    div_factor: Positive = 25.0
    final_div_factor: Positive = 1e4
    three_phase: bool = False

    @cached_property
    def _phases(self) -> tuple[tuple[float, float, float, float], ...]:
        """The first and last step of each phase, and the rates there."""
        first = self.max_lr / self.div_factor
        final, end = first / self.final_div_factor, self.total_steps - 1
        top = self.pct_start * self.total_steps - 1
        rise = (0.0, top, first, self.max_lr)
        if self.three_phase:
            back = 2 * self.pct_start * self.total_steps - 2
            return rise, (top, back, self.max_lr, first), (back, end, first, final)
        return rise, (top, end, self.max_lr, final)

    def _at(self, step: int) -> float:
        step = min(step, self.total_steps - 1)
        start, end, first, last = next(phase for phase in self._phases if step <= phase[1])
        share = (step - start) / (end - start) if end > start else 1.0
        return blend(first, last, _ANNEALING[self.anneal_strategy](share))
