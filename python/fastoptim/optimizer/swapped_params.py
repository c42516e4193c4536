"""Temporary replacement of the parameters' values, as for averages and for a look-ahead point.

An exception at any moment, of a signal handler too, leaves every parameter swapped or none (csrc/python/interrupts.h).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from functools import partial
from typing import TYPE_CHECKING, Any

from .. import core
from ..arrays.param_state import ParamState
from ..options.schema import AVERAGE

if TYPE_CHECKING:
    from .protocols import OptimizerParts

Values = Callable[[], Sequence[Any]]
"""Computes the value to assign to each parameter, or None."""


class SwapsParams:
    """The methods of an optimizer that replace the parameters' values for a while."""

    _swapped_by: str

    def averaged(self: Any) -> AbstractContextManager[None]:
        """Temporarily assign the averages of `ema` or `swa_start` to the parameters, and restore every bit at the end.

        >>> import numpy as np, fastoptim as fo
        >>> p = np.array([1.0])
        >>> opt = fo.SGD(p, lr=0.5, ema=0.75)
        >>> opt.step(np.array([1.0]))
        >>> with opt.averaged():
        ...     print(p)
        [0.875]
        >>> p
        array([0.5])
        """
        return swapped_params(self, "averaged", lambda: averages_of(self))

    def swapped_params(self: Any, how: str, values: Callable[[], Sequence[Any]]) -> AbstractContextManager[None]:
        """Temporarily assign these values to the parameters, and restore every bit, also after an exception."""
        return swapped_params(self, how, values)

    def own_values(self: Any, value_of: Callable[[ParamState], Any]) -> list[Any]:
        """Return a value for each parameter whose state this process has, None for the others."""
        return own_values(self, value_of)

    def _swap_in(self: Any, how: str, values: Callable[[], Sequence[Any]], saved: list[Any]) -> None:
        swap_in(self, how, values, saved)

    def _swap_out(self: Any, how: str, saved: list[Any]) -> None:
        swap_out(self, how, saved)

    def check_not_swapped(self: Any) -> None:
        """Raise RuntimeError while the parameters hold other values."""
        if self._swapped_by:
            raise RuntimeError(
                f"{self._swapped_by}: expected its block to have ended; the parameters are not in their place yet"
            )


def swapped_params(optimizer: OptimizerParts, how: str, values: Values) -> AbstractContextManager[None]:
    """Return a context with these values in the parameters; every bit is restored at its end, whatever ends it."""
    saved: list[Any] = []
    return core.Temporarily(partial(_swap, optimizer, how, values, saved), partial(_restore, optimizer, how, saved, ""))


def swap_in(optimizer: OptimizerParts, how: str, values: Values, saved: list[Any]) -> None:
    """Assign these values to the parameters after a copy of each to `saved`."""
    restore = partial(_restore, optimizer, how, saved, how)
    core.Temporarily(partial(_swap, optimizer, how, values, saved), restore).__enter__()


def swap_out(optimizer: OptimizerParts, how: str, saved: list[Any]) -> None:
    """Restore the parameters from `saved`; they stay swapped if one of them is locked."""
    core.complete(partial(_restore, optimizer, how, saved, how))


def averages_of(optimizer: OptimizerParts) -> list[Any]:
    """Return the average of each parameter, None where its group keeps none or another process has it."""
    kept = [optimizer._settings(index).averages for index in range(len(optimizer.param_groups))]
    if not any(kept):
        raise ValueError("averaged: expected an optimizer with ema or swa_start, got one that keeps no average")
    return own_values(optimizer, lambda param: param.state[AVERAGE] if kept[param.group] else None)


def own_values(optimizer: OptimizerParts, value_of: Callable[[ParamState], Any]) -> list[Any]:
    """Return a value for each parameter whose state this process has, None for the others."""
    return [None if param.is_remote else value_of(param) for param in optimizer.param_states]


def _swap(optimizer: OptimizerParts, how: str, values: Values, saved: list[Any]) -> None:
    optimizer.check_not_swapped()
    optimizer.check_arrays()
    assigned = values()
    saved[:] = [param.family.copy(param.p) for param in optimizer.param_states]
    optimizer._swapped_by = how
    for param, value in zip(optimizer.param_states, assigned, strict=True):
        if value is not None:
            param.family.assign(param.p, value)


def _restore(optimizer: OptimizerParts, how: str, saved: list[Any], stays: str) -> None:
    """Restore what was saved, and only then raise an error for a locked array; `stays` then counts as the swap.

    It may be called again, after an exception at any moment, and without a swap before.
    """
    if not saved:
        return
    optimizer._swapped_by = stays
    locked = None
    for param, p in zip(optimizer.param_states, saved, strict=True):
        try:
            param.family.assign(param.p, p)
        except ValueError:
            if param.metadata.flags.writeable:
                raise
            locked = param.p_place
    if locked:
        raise ValueError(f"{locked}: expected an array as it was before {how}; it could not be put back")
    optimizer._swapped_by = ""
    saved.clear()
