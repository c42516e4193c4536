"""The schedule that follows a metric of training."""

from __future__ import annotations

import math
import operator
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Annotated, Any, Literal

from ..arrays.tree import describe
from ..options.checks import Count, Decay, NonNegative, as_float, check_option
from ..texts import brief
from .base import Schedule, hints_of

STATE_DICT_VERSION = 1


# By mode: a metric worse than any other, the sign of an improvement, and the comparison.
_MODES = {"min": (math.inf, -1, operator.lt), "max": (-math.inf, 1, operator.gt)}


class _NotNaN:
    """Numbers except NaN, infinities included."""

    def check(self, value: Any, place: str) -> float:
        number = as_float(value, place)
        if math.isnan(number):
            raise ValueError(f"{place}: expected a number, got {brief(value)}")
        return number


@dataclass(frozen=True, eq=False)
class ReduceOnPlateau(Schedule):
    r"""A reduction by `factor` whenever a metric has stopped improving.

    .. math::
        \eta \leftarrow \max(\eta f, \eta_\text{min})

    after more than `patience` metrics in a row without a better one, which is :math:`m < m_\text{best} (1 - \epsilon)`.

    For training by the validation loss, without a fixed plan.  The same numbers as PyTorch's ``ReduceLROnPlateau``.
    The `patience` of optax's ``reduce_on_plateau`` includes the metric at which it reduces: it is one more.
    `update` receives a metric, usually once per epoch; a call with a step returns the present rate, whatever the step.
    The state is in `rate`, `best`, `num_bad_epochs` and `cooldown_counter`.

    It is the only schedule with state, which is part of the optimizer's `state_dict`.  An instance compares equal only
    to itself.

    Args:
        lr: Learning rate :math:`\eta` at first, at least 0.
        mode: "min" where a lower metric is better, "max" where a higher one is.
        factor: :math:`f`, in [0, 1).
        patience: The number of successive metrics without improvement that are tolerated, at least 0.
        threshold: :math:`\epsilon`, the least improvement that counts, at least 0.
        threshold_mode: "rel" for a fraction of the best metric, "abs" for a difference from it.
        cooldown: The number of metrics after a reduction that are not counted as bad, at least 0.
        min_lr: :math:`\eta_\text{min}`, at least 0.
        eps: The least reduction that is made, at least 0.

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
        """Update the rate with the newest metric; NaN is never an improvement."""
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
        """Return everything needed to continue: the options and the state, as numbers and strings."""
        return {"version": STATE_DICT_VERSION, "schedule": type(self).__name__, **vars(self)}

    def load_state_dict(self, state_dict: Mapping[str, Any]) -> None:
        """Continue from a `state_dict`, with its options; a call that raises an error has changed nothing."""
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
        hints = hints_of(type(self))
        checked = {name: check_option(hints[name], state_dict[name], f"state_dict[{name!r}]") for name in vars(self)}
        for name, most in (("rate", "lr"), ("num_bad_epochs", "patience"), ("cooldown_counter", "cooldown")):
            if checked[name] > checked[most]:
                raise ValueError(f"state_dict[{name!r}]: expected at most {checked[most]!r}, got {checked[name]!r}")
        return checked
