"""Schedules of other schedules: a warm-up, one after the other, and a product."""

from __future__ import annotations

import math
from bisect import bisect_right
from dataclasses import dataclass

from ..options.checks import Boundaries, Count, NonNegative, ScheduledRate, ScheduledRates, rate_at
from .base import Schedule, blend, check_lengths


@dataclass(frozen=True)
class Warmup(Schedule):
    r"""A linear warm-up to the first rate of another schedule, which then follows.

    .. math::
        \eta_t = \begin{cases}
            \eta_\text{init} + (\eta(0) - \eta_\text{init})\, t / w & t < w \\
            \eta(t - w) & t \ge w
        \end{cases}

    Avoids divergence at the start of large models, while the second moments of `Adam` are still inaccurate.  The other
    schedule counts its own steps from 0, as with optax's ``warmup_cosine_decay_schedule``; its length is therefore that
    of the training less `warmup_steps`.  Step 0 uses `init_value`; with 0 it changes nothing.

    Args:
        lr: What follows, :math:`\eta`: a schedule, any callable of the step, or a number.
        warmup_steps: :math:`w`, the number of warm-up steps, at least 0.
        init_value: The rate at step 0, at least 0.

    Raises:
        TypeError: A length that is no integer.
        ValueError: An option out of range.

    Source: Goyal et al., 2017, arXiv:1706.02677.

    >>> import fastoptim as fo
    >>> schedule = fo.schedules.Warmup(fo.schedules.Step(0.8, step_size=100, gamma=0.5), warmup_steps=4)
    >>> [schedule(step) for step in (0, 1, 2, 4, 103, 104)]
    [0.0, 0.2, 0.4, 0.8, 0.8, 0.4]
    """

    lr: ScheduledRate
    warmup_steps: Count
    init_value: NonNegative = 0.0

    def _at(self, step: int) -> float:
        if step >= self.warmup_steps:
            return rate_at(self.lr, step - self.warmup_steps, "lr")
        return blend(self.init_value, rate_at(self.lr, 0, "lr"), step / self.warmup_steps)


@dataclass(frozen=True)
class Sequence(Schedule):
    r"""Schedules in sequence, each from its own step 0.

    .. math::
        \eta_t = \eta_i(t - b_i), \qquad b_i \le t < b_{i+1}

    with :math:`b_0 = 0` and the last continues without end.  PyTorch's ``SequentialLR``, optax's ``join_schedules``.

    Args:
        schedules: The :math:`\eta_i`: schedules, any callables of the step, or numbers; at least one.
        boundaries: The steps at which the next takes over, at least 1 and increasing, one fewer than there are
            schedules; PyTorch's ``milestones``.

    Raises:
        TypeError: Boundaries that are no tuple or list of integers, schedules that are no tuple or list.
        ValueError: An option out of range, boundaries that do not increase, or not one fewer than schedules.

    Source: optax.join_schedules, 2020, https://optax.readthedocs.io.

    >>> import fastoptim as fo
    >>> schedule = fo.schedules.Sequence([0.1, fo.schedules.Linear(0.1, 1, 0, total_iters=50)], boundaries=[100])
    >>> [schedule(step) for step in (0, 99, 100, 125, 150)]
    [0.1, 0.1, 0.1, 0.05, 0.0]
    """

    schedules: ScheduledRates
    boundaries: Boundaries

    def __post_init__(self) -> None:
        super().__post_init__()
        if not self.schedules:
            raise ValueError("schedules: expected at least one, got none")
        check_lengths(tuple(self.boundaries), "boundaries", len(self.schedules) - 1, "one fewer than schedules")

    def _at(self, step: int) -> float:
        i = bisect_right(self.boundaries, step)
        start = self.boundaries[i - 1] if i else 0
        return rate_at(self.schedules[i], step - start, f"schedules[{i}]")


@dataclass(frozen=True)
class Product(Schedule):
    r"""The product of schedules.

    .. math::
        \eta_t = \prod_i \eta_i(t)

    The first usually has the rate, and the others are factors, with a `lr` of 1.  PyTorch's ``ChainedScheduler``.

    Args:
        schedules: The :math:`\eta_i`: schedules, any callables of the step, or numbers; at least one.

    Raises:
        TypeError: Schedules that are no tuple or list.
        ValueError: An option out of range, or no schedule.

    Source: torch.optim.lr_scheduler.ChainedScheduler; a warm-up as a factor in Vaswani et al., 2017, arXiv:1706.03762.

    >>> import fastoptim as fo
    >>> schedule = fo.schedules.Product([fo.schedules.Step(0.8, step_size=10, gamma=0.5), fo.schedules.Warmup(1, 4)])
    >>> [schedule(step) for step in (0, 2, 4, 10)]
    [0.0, 0.4, 0.8, 0.4]
    """

    schedules: ScheduledRates

    def __post_init__(self) -> None:
        super().__post_init__()
        if not self.schedules:
            raise ValueError("schedules: expected at least one, got none")

    def _at(self, step: int) -> float:
        return math.prod(rate_at(each, step, f"schedules[{i}]") for i, each in enumerate(self.schedules))
