"""Rules that end a training loop, and the parameters of the lowest loss."""

from __future__ import annotations

import math
from typing import Any, NamedTuple, Protocol

from . import core
from .arrays.checks import check_gradient
from .arrays.families import ArrayFamily
from .arrays.param_state import ParamState, refresh
from .arrays.tree import Structure, describe
from .extra_bits import EXTRA_BITS
from .norms import global_norm
from .options.checks import NonNegative, PositiveCount, as_float, check_option, is_array
from .texts import brief


class _Optimizer(Protocol):
    """The parts of an optimizer that the rules read."""

    param_states: list[ParamState]
    _structure: Structure

    @property
    def step_count(self) -> int:
        """Return the number of steps taken."""

    def check_not_swapped(self) -> None:
        """Raise RuntimeError while the parameters hold other values."""


class _Best(NamedTuple):
    """The lowest loss so far."""

    loss: float
    step: int
    """The step after which it was measured."""
    params: list[Any]
    """The parameters, if they are to be restored."""
    copies: list[dict[str, Any]]
    """Copies of each parameter, with the name "", and of its state that is to be restored."""


_NONE = _Best(math.inf, 0, [], [])


class EarlyStopping:
    r"""Rules that end a training loop, which then has the parameters of the lowest loss.

    .. math::
        \text{stop if}\quad &L < L_\text{ref} - \delta \ \text{for none of the last } \text{patience losses} \\
        \text{or}\quad &L \le \text{threshold}, \qquad \max_i |g_i| \le \text{grad\_tol}, \qquad
        t \ge \text{max\_steps}

    The reference :math:`L_\text{ref}` is the last loss that was lower than the reference before it by more than
    :math:`\delta`; so many small improvements count as one.  NaN is never an improvement.  `update` takes each loss and
    says whether to stop; `reason` then is the name of the option that did, and every later `update` returns True and
    changes nothing.

    The parameters are those at the time of `update`: measure the loss, update, then step.  Those of the lowest loss are
    assigned in place when the loop ends; the optimizer's state and step count remain those of its last step.  With
    Schedule-Free, measure between `eval` and `train`; z is restored, too, so that `eval` has the averages of that loss.
    After a `remap` the lowest loss is that of the new arrays; `patience` counts on.

    Args:
        optimizer: The optimizer, whose parameters are copied and restored.
        patience: The number of losses in a row without an improvement that ends the loop, at least 1, or None.
        min_delta: :math:`\delta`, the least improvement that counts, at least 0.
        restore_best: Copy the parameters whenever the loss is the lowest so far, and restore them at the end.  It needs
            the memory of a second set of parameters (Schedule-Free: and of z), and of a third while copying.
        max_steps: The number of the optimizer's steps that ends the loop, at least 1, or None.
        threshold: The loss that is low enough, or None.
        grad_tol: The largest absolute value of the gradient's elements that counts as zero, at least 0, or None;
            `update` then needs the gradients, as `step` does.

    Raises:
        TypeError: `optimizer` is not an optimizer, or an option has the wrong type.
        ValueError: An option is out of range.

    Source: Prechelt, "Early Stopping - But When?", 1998, doi:10.1007/3-540-49430-8_3; patience and min_delta are those
    of Keras's EarlyStopping.

    >>> import numpy as np, fastoptim as fo
    >>> p = np.array([1.75])
    >>> opt = fo.SGD(p, lr=0.5)
    >>> stopping = fo.EarlyStopping(opt, patience=2)
    >>> while not stopping.update(abs(p[0])):
    ...     opt.step(np.sign(p))
    >>> p, stopping.reason, stopping.best_step, opt.step_count
    (array([0.25]), 'patience', 3, 5)
    """

    def __init__(
        self,
        optimizer: _Optimizer,
        patience: int | None = 10,
        min_delta: float = 0.0,
        restore_best: bool = True,
        *,
        max_steps: int | None = None,
        threshold: float | None = None,
        grad_tol: float | None = None,
    ) -> None:
        if not (hasattr(optimizer, "param_states") and hasattr(optimizer, "step_count")):
            raise TypeError(f"optimizer: expected one with param_states and step_count, got {describe(optimizer)}")
        self.optimizer = optimizer
        self.patience: int | None = check_option(PositiveCount | None, patience, "patience")
        self.min_delta: float = check_option(NonNegative, min_delta, "min_delta")
        self.restore_best: bool = check_option(bool, restore_best, "restore_best")
        self.max_steps: int | None = check_option(PositiveCount | None, max_steps, "max_steps")
        self.threshold = None if threshold is None else as_float(threshold, "threshold")
        if self.threshold is not None and math.isnan(self.threshold):
            raise ValueError(f"threshold: expected a number, got {brief(threshold)}")
        self.grad_tol: float | None = check_option(NonNegative | None, grad_tol, "grad_tol")
        self.reason = ""
        self._best = _NONE
        self._progress = (math.inf, 0)  # the reference loss, and the number of losses since then

    @property
    def best_loss(self) -> float:
        """The lowest loss so far, inf before the first one."""
        return self._best.loss

    @property
    def best_step(self) -> int:
        """The optimizer's step count at the lowest loss."""
        return self._best.step

    def update(self, loss: Any, grads: Any = None) -> bool:
        """Return whether to stop, after the loss of the present parameters and, for `grad_tol`, their gradients."""
        if self.reason:
            return True
        self.optimizer.check_not_swapped()
        value = as_float(loss.item() if is_array(loss) and math.prod(loss.shape) == 1 else loss, "loss")
        norm = math.inf if self.grad_tol is None else self._largest(grads)
        self._forget_remapped()
        reference, waited = self._progress
        progress = (value, 0) if value < reference - self.min_delta else (reference, waited + 1)
        if value < self._best.loss:
            self._best = _Best(value, self.optimizer.step_count, *self._copies())
        self._progress = progress
        reached = {
            "threshold": self.threshold is not None and value <= self.threshold,
            "grad_tol": self.grad_tol is not None and norm <= self.grad_tol,
            "patience": self.patience is not None and progress[1] >= self.patience,
            "max_steps": self.max_steps is not None and self.optimizer.step_count >= self.max_steps,
        }
        reason = next((name for name, stops in reached.items() if stops), "")
        if reason:
            self.restore()
        self.reason = reason
        return bool(reason)

    def restore(self) -> None:
        """Assign the parameters of the lowest loss in place, also before the end, such as after an interruption.

        A no-op before the first loss below infinity, also since a `remap`, or with ``restore_best=False``.
        """
        self._forget_remapped()
        copies = self._best.copies
        if copies:
            self.optimizer.check_not_swapped()
            core.complete(lambda: self._assign(copies))

    def _assign(self, copies: list[dict[str, Any]]) -> None:
        for (family, arrays), own in zip(self._arrays(), copies, strict=False):  # groups may have been added since
            for name, array in arrays.items():
                family.assign(array, own.get(name, 0))  # extra bits of an option that was assigned since begin at zero
        refresh(self.optimizer.param_states)

    def _arrays(self) -> list[tuple[ArrayFamily, dict[str, Any]]]:
        """Return each parameter, with the name "", and the state that its values in the mode `eval` depend on.

        A parameter whose state another process has is alone.
        """
        names = (*getattr(self.optimizer, "evaluated_state", ()), *EXTRA_BITS)
        return [
            (param.family, {"": param.p, **{name: param.state[name] for name in names if name in param.state}})
            for param in self.optimizer.param_states
        ]

    def _copies(self) -> tuple[list[Any], list[dict[str, Any]]]:
        """Return the parameters and copies of what is to be restored."""
        found = self._arrays() if self.restore_best else []
        copies = [{name: family.copy(array) for name, array in arrays.items()} for family, arrays in found]
        return [arrays[""] for _, arrays in found], copies

    def _forget_remapped(self) -> None:
        """Forget the lowest loss if `remap` has replaced an array since, which its copies may not fit."""
        if any(p is not param.p for p, param in zip(self._best.params, self.optimizer.param_states, strict=False)):
            self._best = _NONE

    def _largest(self, grads: Any) -> float:
        """Return the largest absolute value of the gradients' elements."""
        if grads is None:
            raise TypeError("grads: expected the gradients, which grad_tol needs, got None")
        flat = self.optimizer._structure.match(grads, "grads")
        for param, grad in zip(self.optimizer.param_states, flat, strict=True):
            if grad is not None:
                check_gradient(grad, param.g_place, param.metadata)
        if flat and all(grad is None for grad in flat):
            raise ValueError("grads: expected at least one gradient, got None for every parameter")
        return global_norm(flat, math.inf)
