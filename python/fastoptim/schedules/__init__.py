r"""Learning rates that change with the step: give one to any optimizer as its `lr`.

>>> import numpy as np, fastoptim as fo
>>> params = {"w": np.ones((3, 2)), "b": np.zeros(2)}
>>> schedule = fo.schedules.Warmup(fo.schedules.Cosine(lr=0.1, T_max=900), warmup_steps=100)
>>> opt = fo.Adam(params, lr=schedule)
>>> opt.step({"w": np.ones((3, 2)), "b": np.ones(2)})
>>> [round(schedule(step), 4) for step in (0, 50, 100, 550, 1000)]
[0.0, 0.05, 0.1, 0.05, 0.0]

A schedule is a pure function of the step, counted from 0: it keeps no state, so nothing of it has to be saved, and any
step may be asked for at any time.  Schedules are immutable and compare by their options.  What "step" means is the
optimizer's business, one call of `step`; a schedule in epochs is ``lambda step: schedule(step // steps_per_epoch)``.

Options have PyTorch's names, order and defaults, or optax's where PyTorch has none, and come after the learning rate,
which PyTorch reads from the optimizer.  Values are those of PyTorch's closed forms.  After its end a schedule holds
its last value, as in optax; those that are periodic go on.

`ReduceOnPlateau` alone has a state: it is told how training goes.
"""

from __future__ import annotations

import math
import operator
from abc import ABC, abstractmethod
from bisect import bisect_right
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cache, cached_property
from itertools import accumulate
from typing import Annotated, Any, Literal, get_type_hints

from ..arrays.tree import describe
from ..options import checks as options
from ..options.checks import (
    Boundaries,
    Count,
    Decay,
    Fraction,
    LearningRate,
    NonNegative,
    Positive,
    PositiveCount,
    as_float,
    check_option,
    rate_at,
)

STATE_DICT_VERSION = 1


class Schedule(ABC):
    """A learning rate as a function of the step; each subclass is a dataclass that says which."""

    def __post_init__(self) -> None:
        hints = _hints(type(self))
        vars(self).update({name: check_option(hints[name], value, name) for name, value in vars(self).items()})

    def __call__(self, step: int) -> float:
        """The learning rate of a step, counted from 0."""
        return self._at(_STEP.check(step, "step"))

    @abstractmethod
    def _at(self, step: int) -> float:
        """The learning rate of a step that was checked."""


_STEP = options.Whole()


@cache
def _hints(cls: type[Schedule]) -> dict[str, Any]:
    return get_type_hints(cls, include_extras=True)


def _blend(start: float, end: float, share: float) -> float:
    """From `start` to `end`, both met exactly."""
    return start * (1 - share) + end * share


def _power(base: float, exponent: float) -> float:
    try:
        return float(base**exponent)
    except OverflowError:
        return math.inf


def _linear(share: float) -> float:
    return share


def _cosine(share: float) -> float:
    """From 0 to 1 along half a period."""
    return (1 - math.cos(math.pi * share)) / 2


_ANNEALING = {"cos": _cosine, "linear": _linear}


def _check_lengths(values: tuple[Any, ...], name: str, expected: int, why: str) -> None:
    if len(values) != expected:
        raise ValueError(f"{name}: expected {expected}, {why}, got {len(values)}: {values!r}")


# ---- falling


@dataclass(frozen=True)
class Constant(Schedule):
    r"""The same rate at every step.

    .. math::
        \eta_t = \eta

    The same as a number; for places that want a schedule.  (PyTorch's ``ConstantLR``, which changes once, is
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
    r"""The rate is multiplied by `gamma` after every `step_size` steps.

    .. math::
        \eta_t = \eta\, \gamma^{\lfloor t / s \rfloor}

    A plain staircase; PyTorch's ``StepLR``.  Goes on for ever.

    Args:
        lr: Learning rate :math:`\eta` at first, at least 0.
        step_size: :math:`s`, the length of a stair, at least 1.
        gamma: The factor from stair to stair, at least 0.

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
        return self.lr * _power(self.gamma, step // self.step_size)


@dataclass(frozen=True)
class MultiStep(Schedule):
    r"""The rate is multiplied by `gamma` at each milestone.

    .. math::
        \eta_t = \eta\, \gamma^{|\{m \in \text{milestones} : m \le t\}|}

    For training of known length, with drops where experience puts them; PyTorch's ``MultiStepLR``.  Holds the last
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
        return self.lr * _power(self.gamma, bisect_right(self.milestones, step))


@dataclass(frozen=True)
class PiecewiseConstant(Schedule):
    r"""The rate is multiplied by a factor of its own at each boundary.

    .. math::
        \eta_t = \eta \prod_{i :\, b_i \le t} s_i

    `MultiStep` where the drops differ; optax's ``piecewise_constant_schedule``, with its
    ``boundaries_and_scales={b: s, ...}`` as two tuples.  The factors multiply up.  Holds the last rate after the last
    boundary.

    Args:
        lr: Learning rate :math:`\eta` at first, at least 0.
        boundaries: The steps :math:`b_i` from which another rate holds, at least 1 and increasing.
        scales: The factors :math:`s_i`, at least 0, one a boundary.

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
    scales: options.Numbers

    def __post_init__(self) -> None:
        super().__post_init__()
        _check_lengths(tuple(self.scales), "scales", len(self.boundaries), "one a boundary")

    @cached_property
    def _rates(self) -> tuple[float, ...]:
        return tuple(accumulate(self.scales, operator.mul, initial=self.lr))

    def _at(self, step: int) -> float:
        return self._rates[bisect_right(self.boundaries, step)]


@dataclass(frozen=True)
class Exponential(Schedule):
    r"""The rate is multiplied by `gamma` after every step.

    .. math::
        \eta_t = \eta\, \gamma^t

    A steady fall; PyTorch's ``ExponentialLR``, and optax's ``exponential_decay`` with
    ``gamma = decay_rate ** (1 / transition_steps)``.  A `gamma` a little above 1 rises instead, to find the largest
    rate that works.  Goes on for ever.

    Args:
        lr: Learning rate :math:`\eta` at first, at least 0.
        gamma: The factor from step to step, at least 0.

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

    def _at(self, step: int) -> float:
        return self.lr * _power(self.gamma, step)


@dataclass(frozen=True)
class NaturalExponential(Schedule):
    r"""The rate falls as a power of e.

    .. math::
        \eta_t = \eta\, e^{-k t / T}

    `Exponential` for who thinks in time constants: after :math:`T / k` steps the rate is down to 37 %.  Goes on for
    ever.

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
    r"""The rate falls as one over the step.

    .. math::
        \eta_t = \eta\, / (1 + k t / T)

    The classical choice for stochastic gradients: the rates' sum has no bound, the sum of their squares has.  Often
    too slow in practice.  Goes on for ever.

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
    r"""The rate falls as one over the root of the step.

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


@dataclass(frozen=True)
class Polynomial(Schedule):
    r"""The rate falls to `end_value` as a power of the steps left.

    .. math::
        \eta_t = \eta_\text{end} + (\eta - \eta_\text{end}) (1 - \min(t, T) / T)^p

    Usual for segmentation, with a `power` of 0.9; PyTorch's ``PolynomialLR`` and optax's ``polynomial_schedule``.
    Holds `end_value` from step :math:`T` on.

    Args:
        lr: Learning rate :math:`\eta` at first, at least 0.
        total_iters: :math:`T`, how many steps the fall takes, at least 1.
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
        return _blend(self.end_value, self.lr, left**self.power)


@dataclass(frozen=True)
class Linear(Schedule):
    r"""The rate goes from one multiple of `lr` to another in a straight line.

    .. math::
        \eta_t = \eta\, (f_0 + (f_1 - f_0) \min(t, T) / T)

    PyTorch's ``LinearLR``, and with its defaults a short warm-up.  ``start_factor=1, end_factor=0`` falls to zero,
    which suits fine-tuning.  Holds the last rate from step :math:`T` on.

    Args:
        lr: Learning rate :math:`\eta`, at least 0.
        start_factor: :math:`f_0`, the part of it at step 0, at least 0.
        end_factor: :math:`f_1`, the part of it from step :math:`T` on, at least 0.
        total_iters: :math:`T`, how many steps it takes, at least 1.

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
        return self.lr * _blend(self.start_factor, self.end_factor, min(step, self.total_iters) / self.total_iters)


@dataclass(frozen=True)
class Cosine(Schedule):
    r"""The rate falls to `eta_min` along half a period of the cosine.

    .. math::
        \eta_t = \eta_\text{min} + \tfrac{1}{2} (\eta - \eta_\text{min}) (1 + \cos(\pi \min(t, T) / T))

    The usual choice where the length of training is known, most often behind a `Warmup`.  Up to :math:`T` it is
    PyTorch's ``CosineAnnealingLR``.  After that it holds `eta_min`, as optax's ``cosine_decay_schedule`` does, whereas
    PyTorch climbs back to `lr` in another `T_max` steps: a loop that runs a little longer than planned should not heat
    up again.  For periods see `CosineWarmRestarts`.

    Args:
        lr: Learning rate :math:`\eta` at first, at least 0.
        T_max: :math:`T`, how many steps the fall takes, at least 1.
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
        return _blend(self.lr, self.eta_min, _cosine(min(step, self.T_max) / self.T_max))


# ---- periodic


@dataclass(frozen=True)
class CosineWarmRestarts(Schedule):
    r"""The rate falls along the cosine, jumps back, and falls again, each time more slowly.

    .. math::
        \eta_t = \eta_\text{min} + \tfrac{1}{2} (\eta - \eta_\text{min}) (1 + \cos(\pi\, t_i / T_i)),
        \qquad T_i = T_0\, T_\text{mult}^i

    where :math:`t_i` is the number of steps since the :math:`i`-th restart.  Gives a good model at the end of each
    period, for ensembles or for training whose end is open.  Periods go on for ever.

    Args:
        lr: Learning rate :math:`\eta` after each restart, at least 0.
        T_0: The length of the first period, at least 1.
        T_mult: How many times as long as the one before each period is, at least 1.
        eta_min: The rate that a period falls towards, at least 0.

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

    def _at(self, step: int) -> float:
        since, length = (step % self.T_0 if self.T_mult == 1 else step), self.T_0
        while since >= length:
            since, length = since - length, length * self.T_mult
        return _blend(self.lr, self.eta_min, _cosine(since / length))


@dataclass(frozen=True)
class Cyclic(Schedule):
    r"""The rate goes up and down between two bounds in straight lines.

    .. math::
        \eta_t = \eta_\text{base} + (\eta_\text{max} - \eta_\text{base})\, h_t\, a_t

    where :math:`h_t` goes from 0 to 1 in `step_size_up` steps and back in `step_size_down`, and :math:`a_t` is 1 with
    "triangular", :math:`2^{-i}` in the :math:`i`-th cycle, counted from 0, with "triangular2", and
    :math:`\gamma^t` with "exp_range".

    Spares the search for one good rate; the paper takes bounds from a short run with a rising rate.  Momentum is not
    cycled, as with PyTorch's ``CyclicLR(cycle_momentum=False)``.  Cycles go on for ever.

    Args:
        base_lr: :math:`\eta_\text{base}`, the rate at first and between cycles, at least 0.
        max_lr: :math:`\eta_\text{max}`, the rate at the top of the first cycle, at least 0.
        step_size_up: How many steps it rises, at least 1.
        step_size_down: How many steps it falls, at least 1; as many if None.
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
        return _blend(self.base_lr, self.max_lr, height * amplitude)


# ---- one rise, one fall


@dataclass(frozen=True)
class OneCycle(Schedule):
    r"""The rate rises to `max_lr` and falls to almost nothing, once.

    .. math::
        \eta_t = \eta_a + (\eta_b - \eta_a)\, s((t - t_a) / (t_b - t_a)), \qquad s(x) = \tfrac{1}{2} (1 - \cos \pi x)
        \text{ or } x

    in phases from :math:`(t_a, \eta_a)` to :math:`(t_b, \eta_b)`: with :math:`\eta_0 = \eta_\text{max}` / `div_factor`
    and :math:`\eta_T = \eta_0` / `final_div_factor` they go through :math:`\eta_0, \eta_\text{max}, \eta_T`, or
    with `three_phase` through :math:`\eta_0, \eta_\text{max}, \eta_0, \eta_T`.  The rise ends at step
    ``pct_start * total_steps - 1``, the first fall of three phases at ``2 * pct_start * total_steps - 2``, all of it at
    ``total_steps - 1``, as in PyTorch's ``OneCycleLR``, steps and all.

    Trains fast with large rates when the number of steps is known.  Momentum is not cycled, as with PyTorch's
    ``cycle_momentum=False``.  Holds the last rate after the end, where PyTorch refuses.

    Args:
        max_lr: :math:`\eta_\text{max}`, the largest rate, at least 0.
        total_steps: How many steps there are, at least 1.
        pct_start: The part of them spent rising, in [0, 1].
        anneal_strategy: "cos" or "linear", the shape of the phases.
        div_factor: How many times as large as the first rate `max_lr` is, above 0.
        final_div_factor: How many times as large as the last rate the first is, above 0.
        three_phase: Falls to the first rate in as many steps as it rose in, and then to the last.

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
        """Of each phase the step it starts from and the step it ends at, and the rates there."""
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
        return _blend(first, last, _ANNEALING[self.anneal_strategy](share))


# ---- made of others


@dataclass(frozen=True)
class Warmup(Schedule):
    r"""The rate rises in a straight line to where another schedule starts, which then takes over.

    .. math::
        \eta_t = \begin{cases}
            \eta_\text{init} + (\eta(0) - \eta_\text{init})\, t / w & t < w \\
            \eta(t - w) & t \ge w
        \end{cases}

    Spares large models a rough start, and `Adam` steps of a size it has no measure for yet.  The other schedule
    counts its own steps from 0 when it takes over, as with optax's ``warmup_cosine_decay_schedule``; so its length is
    that of the training less `warmup_steps`.  Step 0 is made with `init_value`: with 0 it changes nothing.

    Args:
        lr: What follows, :math:`\eta`: a schedule, any callable of the step, or a number.
        warmup_steps: :math:`w`, how many steps it takes, at least 0.
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

    lr: LearningRate
    warmup_steps: Count
    init_value: NonNegative = 0.0

    def _at(self, step: int) -> float:
        if step >= self.warmup_steps:
            return rate_at(self.lr, step - self.warmup_steps, "lr")
        return _blend(self.init_value, rate_at(self.lr, 0, "lr"), step / self.warmup_steps)


@dataclass(frozen=True)
class Sequence(Schedule):
    r"""One schedule after the other, each from its own step 0.

    .. math::
        \eta_t = \eta_i(t - b_i), \qquad b_i \le t < b_{i+1}

    with :math:`b_0 = 0` and no end to the last.  PyTorch's ``SequentialLR``, optax's ``join_schedules``.

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

    schedules: options.LearningRates
    boundaries: Boundaries

    def __post_init__(self) -> None:
        super().__post_init__()
        if not self.schedules:
            raise ValueError("schedules: expected at least one, got none")
        _check_lengths(tuple(self.boundaries), "boundaries", len(self.schedules) - 1, "one fewer than schedules")

    def _at(self, step: int) -> float:
        i = bisect_right(self.boundaries, step)
        start = self.boundaries[i - 1] if i else 0
        return rate_at(self.schedules[i], step - start, f"schedules[{i}]")


# ---- told how training goes

# By mode: what is worse than every metric, the sign of an improvement, and the comparison.
_MODES = {"min": (math.inf, -1, operator.lt), "max": (-math.inf, 1, operator.gt)}


class _NotNaN:
    """Numbers that compare, infinities among them."""

    def check(self, value: Any, place: str) -> float:
        number = as_float(value, place)
        if math.isnan(number):
            raise ValueError(f"{place}: expected a number, got {value!r}")
        return number


@dataclass(frozen=True, eq=False)
class ReduceOnPlateau(Schedule):
    r"""The rate is multiplied by `factor` whenever a metric has not improved for a while.

    .. math::
        \eta \leftarrow \max(\eta f, \eta_\text{min})

    after more than `patience` metrics in a row without a better one, which is :math:`m < m_\text{best} (1 - \epsilon)`.

    For training by the validation loss, where no plan is known.  The same numbers as PyTorch's ``ReduceLROnPlateau``.
    `update` takes in a metric, most often once an epoch; called with a step, the schedule gives the present rate,
    whatever the step.  What it has seen is in `rate`, `best`, `num_bad_epochs` and `cooldown_counter`.

    It is the only schedule with a state: save its `state_dict` beside the optimizer's.  One compares equal to itself
    alone.

    Args:
        lr: Learning rate :math:`\eta` at first, at least 0.
        mode: "min" where a lower metric is better, "max" where a higher one is.
        factor: :math:`f`, in [0, 1).
        patience: How many metrics in a row may bring nothing better, at least 0.
        threshold: :math:`\epsilon`, by how much a metric has to be better to count, at least 0.
        threshold_mode: "rel" for a part of the best metric, "abs" for a difference from it.
        cooldown: How many metrics after a reduction are not held against it, at least 0.
        min_lr: :math:`\eta_\text{min}`, at least 0.
        eps: A reduction by no more than this is not made, at least 0.

    Raises:
        TypeError: A count that is no integer.
        ValueError: An option out of range.

    Source: torch.optim.lr_scheduler.ReduceLROnPlateau; by hand in He et al., 2015, arXiv:1512.03385.

    >>> import numpy as np, fastoptim as fo
    >>> schedule = fo.schedules.ReduceOnPlateau(0.8, factor=0.5, patience=1)
    >>> opt = fo.SGD(np.ones(3), lr=schedule)
    >>> for loss in (3.0, 2.0, 2.5, 2.1):
    ...     opt.step(np.ones(3))
    ...     schedule.update(loss)
    >>> schedule.rate, schedule.best
    (0.4, 2.0)
    """

    lr: NonNegative
    mode: Literal["min", "max"] = "min"
    factor: Decay = 0.1
    patience: Count = 10
    threshold: NonNegative = 1e-4
    threshold_mode: Literal["rel", "abs"] = "rel"
    cooldown: Count = 0
    min_lr: NonNegative = 0.0
    eps: NonNegative = 1e-8

    rate: NonNegative = field(init=False, repr=False)
    best: Annotated[float, _NotNaN()] = field(init=False, repr=False)
    num_bad_epochs: Count = field(init=False, repr=False)
    cooldown_counter: Count = field(init=False, repr=False)

    def __post_init__(self) -> None:
        super().__post_init__()
        vars(self).update(rate=self.lr, best=_MODES[self.mode][0], num_bad_epochs=0, cooldown_counter=0)

    def _at(self, step: int) -> float:
        return self.rate

    def update(self, metric: float) -> None:
        """Takes in the newest metric; NaN is never better."""
        metric = as_float(metric, "metric")
        better, cooling = self._is_better(metric), self.cooldown_counter > 0
        state = {
            "best": metric if better else self.best,
            "num_bad_epochs": 0 if better or cooling else self.num_bad_epochs + 1,
            "cooldown_counter": self.cooldown_counter - cooling,
        }
        if state["num_bad_epochs"] > self.patience:
            state.update(rate=self._reduced(), num_bad_epochs=0, cooldown_counter=self.cooldown)
        vars(self).update(state)

    def _is_better(self, metric: float) -> bool:
        _, sign, better = _MODES[self.mode]
        margin = sign * self.threshold
        return bool(better(metric, self.best * (1 + margin) if self.threshold_mode == "rel" else self.best + margin))

    def _reduced(self) -> float:
        rate = max(self.rate * self.factor, self.min_lr)
        return rate if self.rate - rate > self.eps else self.rate

    def state_dict(self) -> dict[str, Any]:
        """Everything needed to go on: its options and what it has seen, as numbers and strings."""
        return {"version": STATE_DICT_VERSION, "schedule": type(self).__name__, **vars(self)}

    def load_state_dict(self, state_dict: Mapping[str, Any]) -> None:
        """Goes on from a `state_dict`, with its options.  Checks all of it first, and changes nothing if it refuses."""
        vars(self).update(self._checked(state_dict))

    def _checked(self, state_dict: Any) -> dict[str, Any]:
        own = self.state_dict()
        if not isinstance(state_dict, Mapping):
            raise TypeError(f"state_dict: expected a dict, got {describe(state_dict)}")
        if state_dict.keys() != own.keys():
            raise ValueError(f"state_dict: expected the keys {list(own)}, got {list(state_dict)}")
        for name in ("version", "schedule"):
            if state_dict[name] != own[name]:
                raise ValueError(f"state_dict[{name!r}]: expected {own[name]!r}, got {state_dict[name]!r}")
        hints = _hints(type(self))
        checked = {name: check_option(hints[name], state_dict[name], f"state_dict[{name!r}]") for name in vars(self)}
        for name, most in (("rate", "lr"), ("num_bad_epochs", "patience"), ("cooldown_counter", "cooldown")):
            if checked[name] > checked[most]:
                raise ValueError(f"state_dict[{name!r}]: expected at most {checked[most]!r}, got {checked[name]!r}")
        return checked
