"""Schedules that fall with a formula: exponential, rational and inverse square root."""

from __future__ import annotations

import math
from dataclasses import dataclass

from ..options.checks import NonNegative, PositiveCount
from .base import Schedule, power


@dataclass(frozen=True)
class Exponential(Schedule):
    r"""Exponential decay: the rate times `gamma` after every step.

    .. math::
        \eta_t = \max(\eta\, \gamma^t, \eta_\text{end}) \qquad (\min \text{ if } \gamma > 1)

    PyTorch's ``ExponentialLR``, and optax's ``exponential_decay`` with
    ``gamma = decay_rate ** (1 / transition_steps)``.  With a `gamma` a little above 1 the rate rises, which
    serves to find the largest stable rate.  Continues without end if `end_value` is None.

    Args:
        lr: Learning rate :math:`\eta` at first, at least 0.
        gamma: The factor from step to step, at least 0.
        end_value: :math:`\eta_\text{end}`, the rate that is held once it is reached, at least 0, or None.

    Raises:
        ValueError: An option out of range.

    Source: Szegedy et al., 2015, arXiv:1512.00567, who multiply by 0.94 every two epochs.

    >>> import fastoptim as fo
    >>> schedule = fo.schedules.Exponential(0.1, gamma=0.5)
    >>> [schedule(step) for step in range(3)]
    [0.1, 0.05, 0.025]
    """

    lr: NonNegative
    gamma: NonNegative
    end_value: NonNegative | None = None

    def _at(self, step: int) -> float:
        rate = self.lr * power(self.gamma, step)
        if self.end_value is None:
            return rate
        return min(rate, self.end_value) if self.gamma > 1 else max(rate, self.end_value)


@dataclass(frozen=True)
class NaturalExponential(Schedule):
    r"""Exponential decay with a time constant.

    .. math::
        \eta_t = \eta\, e^{-k t / T}

    `Exponential` in another parametrization: after :math:`T / k` steps the rate is 37 % of `lr`.  Continues without
    end.

    Args:
        lr: Learning rate :math:`\eta` at first, at least 0.
        decay_rate: :math:`k`, at least 0.
        transition_steps: :math:`T`, the steps in which the exponent falls by `decay_rate`, at least 1.

    Raises:
        TypeError: A length that is no integer.
        ValueError: An option out of range.

    Source: tf.compat.v1.train.natural_exp_decay, 2015,
    https://www.tensorflow.org/api_docs/python/tf/compat/v1/train/natural_exp_decay.

    >>> import fastoptim as fo
    >>> schedule = fo.schedules.NaturalExponential(0.1, decay_rate=0.5, transition_steps=100)
    >>> [round(schedule(step), 4) for step in (0, 100, 200)]
    [0.1, 0.0607, 0.0368]
    """

    lr: NonNegative
    decay_rate: NonNegative
    transition_steps: PositiveCount = 1

    def _at(self, step: int) -> float:
        return self.lr * math.exp(-self.decay_rate * (step / self.transition_steps))


@dataclass(frozen=True)
class InverseTime(Schedule):
    r"""Decay in inverse proportion to the step.

    .. math::
        \eta_t = \eta\, / (1 + k t / T)

    The classical choice for stochastic gradients: the sum of the rates is unbounded, the sum of their squares is
    bounded.  Often too slow in practice.  Continues without end.

    Args:
        lr: Learning rate :math:`\eta` at first, at least 0.
        decay_rate: :math:`k`, at least 0.
        transition_steps: :math:`T`, the steps in which the divisor grows by `decay_rate`, at least 1.

    Raises:
        TypeError: A length that is no integer.
        ValueError: An option out of range.

    Source: Robbins & Monro, 1951, doi:10.1214/aoms/1177729586.

    >>> import fastoptim as fo
    >>> schedule = fo.schedules.InverseTime(0.1, decay_rate=1, transition_steps=100)
    >>> [schedule(step) for step in (0, 100, 300)]
    [0.1, 0.05, 0.025]
    """

    lr: NonNegative
    decay_rate: NonNegative
    transition_steps: PositiveCount = 1

    def _at(self, step: int) -> float:
        return self.lr / (1 + self.decay_rate * (step / self.transition_steps))


@dataclass(frozen=True)
class InverseSqrt(Schedule):
    r"""Decay in inverse proportion to the square root of the step.

    .. math::
        \eta_t = \eta\, / \sqrt{1 + t / T}

    For training without a planned end.  ``Warmup(InverseSqrt(lr, w), w)`` is the Transformer's schedule: `lr` is its
    largest rate, :math:`(d\, w)^{-1/2}` in the paper, and from step `w` on the rate is :math:`\eta \sqrt{w / t}`.  Goes
    on for ever.

    Args:
        lr: Learning rate :math:`\eta` at first, at least 0.
        transition_steps: :math:`T`, at least 1; after three times as many the rate is halved.

    Raises:
        TypeError: A length that is no integer.
        ValueError: An option out of range.

    Source: Vaswani et al., 2017, arXiv:1706.03762.

    >>> import fastoptim as fo
    >>> schedule = fo.schedules.InverseSqrt(0.1, transition_steps=1000)
    >>> [schedule(step) for step in (0, 3000, 15000)]
    [0.1, 0.05, 0.025]
    """

    lr: NonNegative
    transition_steps: PositiveCount = 1

    def _at(self, step: int) -> float:
        return self.lr / math.sqrt(1 + step / self.transition_steps)
