"""Schedules that fall to an end value over a given number of steps."""

from __future__ import annotations

from dataclasses import dataclass

from ..options.checks import NonNegative, PositiveCount
from .base import Schedule, blend, cosine


@dataclass(frozen=True)
class Polynomial(Schedule):
    r"""Decay to `end_value` as a power of the remaining share of steps.

    .. math::
        \eta_t = \eta_\text{end} + (\eta - \eta_\text{end}) (1 - \min(t, T) / T)^p

    Usual for segmentation, with a `power` of 0.9; PyTorch's ``PolynomialLR`` and optax's ``polynomial_schedule``.
    Holds `end_value` from step :math:`T` on.

    Args:
        lr: Learning rate :math:`\eta` at first, at least 0.
        total_iters: :math:`T`, the number of steps of the decay, at least 1.
        power: :math:`p`, at least 0; 1 is a straight line, more is a steep start and a flat end.
        end_value: :math:`\eta_\text{end}`, at least 0.

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

    def _at(self, step: int) -> float:
        left = 1 - min(step, self.total_iters) / self.total_iters
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
        \eta_t = \eta_\text{min} + \tfrac{1}{2} (\eta - \eta_\text{min}) (1 + \cos(\pi \min(t, T) / T))

    The usual choice for training of known length, most often after a `Warmup`.  Up to :math:`T` it is
    PyTorch's ``CosineAnnealingLR``.  After that it holds `eta_min`, as optax's ``cosine_decay_schedule`` does, whereas
    PyTorch climbs back to `lr` in another `T_max` steps: a loop that runs a little longer than planned should not
    return to large rates.  For periods see `CosineWarmRestarts`.

    Args:
        lr: Learning rate :math:`\eta` at first, at least 0.
        T_max: :math:`T`, the number of steps of the decay, at least 1.
        eta_min: The last rate, at least 0; optax's ``alpha`` times `lr`.

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

    def _at(self, step: int) -> float:
        return blend(self.lr, self.eta_min, cosine(min(step, self.T_max) / self.T_max))
