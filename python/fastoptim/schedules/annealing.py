"""Schedules that fall to an end value over a given number of steps."""

from __future__ import annotations

from dataclasses import dataclass

from ..options.checks import NonNegative, Positive, PositiveCount
from .base import Schedule, blend, cosine


@dataclass(frozen=True)
class Polynomial(Schedule):
    r"""Decay to `end_value` as a power of the remaining share of steps.

    .. math::
        \eta_t = \eta_\text{end} + (\eta - \eta_\text{end}) (1 - \min(t, T) / T)^p

    Usual for segmentation, with a `power` of 0.9; PyTorch's ``PolynomialLR`` and optax's ``polynomial_schedule``.
    Holds `end_value` from step :math:`T` on.  With `cycle` the decay continues instead, to the next multiple of
    :math:`T`: the rate falls at the same points to `end_value` and restarts lower each time, as with Keras's
    ``PolynomialDecay(cycle=True)``.

    Args:
        lr: Learning rate :math:`\eta` at first, at least 0.
        total_iters: :math:`T`, the number of steps of the decay, at least 1.
        power: :math:`p`, at least 0; 1 is a straight line, more is a steep start and a flat end.
        end_value: :math:`\eta_\text{end}`, at least 0.
        cycle: Whether the length becomes :math:`2 T, 3 T, \dots` after each end.

    Raises:
        TypeError: A length that is no integer.
        ValueError: An option out of range.

    Source: Chen et al., 2016, arXiv:1606.00915.

    >>> import fastoptim as fo
    >>> schedule = fo.schedules.Polynomial(0.8, total_iters=100, power=2)
    >>> [schedule(step) for step in (0, 50, 100, 1000)]
    [0.8, 0.2, 0.0, 0.0]
    """

    lr: NonNegative
    total_iters: PositiveCount = 5
    power: NonNegative = 1.0
    end_value: NonNegative = 0.0
    cycle: bool = False

    def _at(self, step: int) -> float:
        cycles = max(1, -(-step // self.total_iters)) if self.cycle else 1
        left = 1 - min(step, cycles * self.total_iters) / (cycles * self.total_iters)
        return blend(self.end_value, self.lr, left**self.power)


@dataclass(frozen=True)
class Linear(Schedule):
    r"""Linear interpolation from one multiple of `lr` to another.

    .. math::
        \eta_t = \eta\, (f_0 + (f_1 - f_0) \min(t, T) / T)

    PyTorch's ``LinearLR``, and with its defaults a short warm-up.  ``start_factor=1, end_factor=0`` falls to zero,
    which suits fine-tuning.  Holds the last rate from step :math:`T` on.

    Args:
        lr: Learning rate :math:`\eta`, at least 0.
        start_factor: :math:`f_0`, the factor at step 0, at least 0.
        end_factor: :math:`f_1`, the factor from step :math:`T` on, at least 0.
        total_iters: :math:`T`, the number of steps, at least 1.

    Raises:
        TypeError: A length that is no integer.
        ValueError: An option out of range.

    Source: Devlin et al., 2018, arXiv:1810.04805.

    >>> import fastoptim as fo
    >>> schedule = fo.schedules.Linear(0.1, start_factor=1, end_factor=0, total_iters=100)
    >>> [schedule(step) for step in (0, 50, 75, 100, 1000)]
    [0.1, 0.05, 0.025, 0.0, 0.0]
    """

    lr: NonNegative
    start_factor: NonNegative = 1 / 3
    end_factor: NonNegative = 1.0
    total_iters: PositiveCount = 5

    def _at(self, step: int) -> float:
        return self.lr * blend(self.start_factor, self.end_factor, min(step, self.total_iters) / self.total_iters)


@dataclass(frozen=True)
class Cosine(Schedule):
    r"""Cosine annealing: decay to `eta_min` along half a period of the cosine.

    .. math::
        \eta_t = \eta_\text{min} + (\eta - \eta_\text{min}) \big(\tfrac{1}{2} (1 + \cos(\pi \min(t, T) / T))\big)^p

    The usual choice for training of known length, most often after a `Warmup`.  Up to :math:`T` it is
    PyTorch's ``CosineAnnealingLR``.  After that it holds `eta_min`, as optax's ``cosine_decay_schedule`` does, whereas
    PyTorch climbs back to `lr` in another `T_max` steps: a loop that runs a little longer than planned should not
    return to large rates.  With `cycle` it does climb back, in periods of :math:`2 T`; for periods with restarts see
    `CosineWarmRestarts`.

    Args:
        lr: Learning rate :math:`\eta` at first, at least 0.
        T_max: :math:`T`, the number of steps of the decay, at least 1.
        eta_min: The last rate, at least 0; optax's ``alpha`` times `lr`.
        power: :math:`p`, at least 0; optax's ``exponent``.
        cycle: Whether the rate rises again after :math:`T` steps.

    Raises:
        TypeError: A length that is no integer.
        ValueError: An option out of range.

    Source: Loshchilov & Hutter, 2016, arXiv:1608.03983.

    >>> import fastoptim as fo
    >>> schedule = fo.schedules.Cosine(0.1, T_max=100, eta_min=0.01)
    >>> [round(schedule(step), 4) for step in (0, 50, 100, 1000)]
    [0.1, 0.055, 0.01, 0.01]
    """

    lr: NonNegative
    T_max: PositiveCount
    eta_min: NonNegative = 0.0
    power: NonNegative = 1.0
    cycle: bool = False

    def _at(self, step: int) -> float:
        share = cosine((step % (2 * self.T_max) if self.cycle else min(step, self.T_max)) / self.T_max)
        return blend(self.lr, self.eta_min, share if self.power == 1 else 1 - (1 - share) ** self.power)


@dataclass(frozen=True)
class OneMinusPower(Schedule):
    r"""Decay to `end_value` by a power of the elapsed share of steps.

    .. math::
        \eta_t = \eta_\text{end} + (\eta - \eta_\text{end}) (1 - (\min(t, T) / T)^p)

    One minus the square root with a `power` of 1/2, which falls steeply at first: for the last phase of training after
    a constant rate, in a `Sequence`.  One minus the square with 2, which falls late.  Holds `end_value` from step
    :math:`T` on.

    Args:
        lr: Learning rate :math:`\eta` at first, at least 0.
        total_iters: :math:`T`, the number of steps of the decay, at least 1.
        power: :math:`p`, above 0.
        end_value: :math:`\eta_\text{end}`, at least 0.

    Raises:
        TypeError: A length that is no integer.
        ValueError: An option out of range.

    Source: Haegele et al., 2024, arXiv:2405.18392.

    >>> import fastoptim as fo
    >>> schedule = fo.schedules.OneMinusPower(0.8, total_iters=100)
    >>> [schedule(step) for step in (0, 25, 100, 1000)]
    [0.8, 0.4, 0.0, 0.0]
    """

    lr: NonNegative
    total_iters: PositiveCount
    power: Positive = 0.5
    end_value: NonNegative = 0.0

    def _at(self, step: int) -> float:
        return blend(self.lr, self.end_value, (min(step, self.total_iters) / self.total_iters) ** self.power)


@dataclass(frozen=True)
class REX(Schedule):
    r"""REX, reflected exponential: between a straight line and a constant rate that drops at the end.

    .. math::
        \eta_t = \eta\, \frac{1 - x}{1 - x / 2}, \qquad x = \min(t, T) / T

    For training with few steps, where the authors find it better than other decays.  Holds 0 from step :math:`T` on.

    Args:
        lr: Learning rate :math:`\eta` at first, at least 0.
        total_iters: :math:`T`, the number of steps of the decay, at least 1.

    Raises:
        TypeError: A length that is no integer.
        ValueError: An option out of range.

    Source: Chen, Wolfe & Kyrillidis, 2021, arXiv:2107.04197.

    >>> import fastoptim as fo
    >>> schedule = fo.schedules.REX(0.6, total_iters=100)
    >>> [round(schedule(step), 4) for step in (0, 50, 100, 1000)]
    [0.6, 0.4, 0.0, 0.0]
    """

    lr: NonNegative
    total_iters: PositiveCount

    def _at(self, step: int) -> float:
        share = min(step, self.total_iters) / self.total_iters
        return self.lr * ((1 - share) / (1 - share / 2))
