"""Temporary replacement of the parameters' values, as for averages and for a look-ahead point."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from ..options.schema import AVERAGE

if TYPE_CHECKING:
    from .protocols import OptimizerParts


@contextmanager
def swapped_params(optimizer: OptimizerParts, how: str, values: Sequence[Any]) -> Iterator[None]:
    """Assign these values to the parameters, and restore every bit at the end, also after an exception."""
    optimizer.check_not_swapped()
    optimizer.check_arrays()
    saved = [param.family.copy(param.p) for param in optimizer.param_states]
    optimizer._swapped_by = how
    try:
        for param, value in zip(optimizer.param_states, values, strict=True):
            if value is not None:
                param.family.assign(param.p, value)
        yield
    finally:
        optimizer._swapped_by = ""
        put_back(optimizer, saved, how)


def averages_of(optimizer: OptimizerParts) -> list[Any]:
    """Return the average of each parameter, None where its group keeps none."""
    kept = [optimizer._settings(index).averages for index in range(len(optimizer.param_groups))]
    if not any(kept):
        raise ValueError("averaged: expected an optimizer with ema or swa_start, got one that keeps no average")
    return [param.state[AVERAGE] if kept[param.group] else None for param in optimizer.param_states]


def put_back(optimizer: OptimizerParts, saved: Sequence[Any], how: str) -> None:
    """Restore every array that is writeable, and only then raise an error for one that is not."""
    locked = None
    for param, p in zip(optimizer.param_states, saved, strict=True):
        try:
            param.family.assign(param.p, p)
        except ValueError:
            locked = param.p_place
    if locked:
        raise ValueError(f"{locked}: expected an array as it was before {how}; it could not be put back")
