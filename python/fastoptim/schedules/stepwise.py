"""Schedules that change at given steps: constant, staircase and piecewise constant."""

from __future__ import annotations

import operator
from bisect import bisect_right
from dataclasses import dataclass
from functools import cached_property
from itertools import accumulate

from ..options.checks import Boundaries, NonNegative, Numbers, PositiveCount
from .base import Schedule, check_lengths, power


@dataclass(frozen=True)
class Constant(Schedule):
    r"""A constant rate.

    .. math::
        \eta_t = \eta

    Equivalent to a number, where a schedule is required.  (PyTorch's ``ConstantLR``, which changes once, is
    `PiecewiseConstant` with one boundary.)

    Args:
        lr: Learning rate :math:`\eta`, at least 0.

    Raises:
        ValueError: An option out of range.

    Source: optax.constant_schedule, 2020, https://optax.readthedocs.io.

    >>> import fastoptim as fo
    >>> fo.schedules.Constant(0.1)(1000)
    0.1
    """

    lr: NonNegative

    def _at(self, step: int) -> float:
        return self.lr


@dataclass(frozen=True)
class Step(Schedule):
    r"""A staircase: the rate times `gamma` after every `step_size` steps.

    .. math::
        \eta_t = \eta\, \gamma^{\lfloor t / s \rfloor}

    PyTorch's ``StepLR``.  Continues without end.

    Args:
        lr: Learning rate :math:`\eta` at first, at least 0.
        step_size: :math:`s`, the number of steps between two changes, at least 1.
        gamma: The factor of each change, at least 0.

    Raises:
        TypeError: A length that is no integer.
        ValueError: An option out of range.

    Source: Szegedy et al., 2014, arXiv:1409.4842, with ``step_size`` of 8 epochs and ``gamma=0.96``.

    >>> import fastoptim as fo
    >>> schedule = fo.schedules.Step(0.1, step_size=30, gamma=0.5)
    >>> [schedule(step) for step in (0, 29, 30, 60)]
    [0.1, 0.1, 0.05, 0.025]
    """

    lr: NonNegative
    step_size: PositiveCount
    gamma: NonNegative = 0.1

    def _at(self, step: int) -> float:
        return self.lr * power(self.gamma, step // self.step_size)


@dataclass(frozen=True)
class MultiStep(Schedule):
    r"""A staircase with given milestones, at each of which the rate is multiplied by `gamma`.

    .. math::
        \eta_t = \eta\, \gamma^{|\{m \in \text{milestones} : m \le t\}|}

    For training of known length with drops at chosen steps; PyTorch's ``MultiStepLR``.  Holds the last
    rate after the last milestone.

    Args:
        lr: Learning rate :math:`\eta` at first, at least 0.
        milestones: The steps from which a lower rate holds, at least 1 and increasing.
        gamma: The factor at each, at least 0.

    Raises:
        TypeError: Milestones that are no tuple or list of integers.
        ValueError: An option out of range, or milestones that do not increase.

    Source: He et al., 2015, arXiv:1512.03385, with milestones after 32,000 and 48,000 steps.

    >>> import fastoptim as fo
    >>> schedule = fo.schedules.MultiStep(0.8, milestones=[30, 80], gamma=0.5)
    >>> [schedule(step) for step in (29, 30, 80, 1000)]
    [0.8, 0.4, 0.2, 0.2]
    """

    lr: NonNegative
    milestones: Boundaries
    gamma: NonNegative = 0.1

    def _at(self, step: int) -> float:
        return self.lr * power(self.gamma, bisect_right(self.milestones, step))


@dataclass(frozen=True)
class PiecewiseConstant(Schedule):
    r"""A staircase with given boundaries, each with its own factor.

    .. math::
        \eta_t = \eta \prod_{i :\, b_i \le t} s_i

    `MultiStep` with different drops; optax's ``piecewise_constant_schedule``, with its
    ``boundaries_and_scales={b: s, ...}`` as two tuples.  The factors accumulate.  Holds the last rate after the last
    boundary.

    Args:
        lr: Learning rate :math:`\eta` at first, at least 0.
        boundaries: The steps :math:`b_i` from which another rate holds, at least 1 and increasing.
        scales: The factors :math:`s_i`, at least 0, one per boundary.

    Raises:
        TypeError: Boundaries or scales that are no tuple or list of numbers.
        ValueError: An option out of range, boundaries that do not increase, or not as many scales.

    Source: optax.piecewise_constant_schedule, 2020, https://optax.readthedocs.io.

    >>> import fastoptim as fo
    >>> schedule = fo.schedules.PiecewiseConstant(0.8, boundaries=[100, 150], scales=[0.5, 0.25])
    >>> [schedule(step) for step in (99, 100, 150)]
    [0.8, 0.4, 0.1]
    """

    lr: NonNegative
    boundaries: Boundaries
    scales: Numbers

    def __post_init__(self) -> None:
        super().__post_init__()
        check_lengths(tuple(self.scales), "scales", len(self.boundaries), "one a boundary")

    @cached_property
    def _rates(self) -> tuple[float, ...]:
        return tuple(accumulate(self.scales, operator.mul, initial=self.lr))

    def _at(self, step: int) -> float:
        return self._rates[bisect_right(self.boundaries, step)]
