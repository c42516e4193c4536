"""The checked options of a group."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import TYPE_CHECKING, Any

from .schema import AVERAGE

if TYPE_CHECKING:
    from ..optimizer.base import Optimizer


@dataclass(frozen=True, eq=False)
class Settings:
    """An optimizer's options, checked; the learning rate may be a callable."""

    optimizer: type[Optimizer]
    variant: str
    options: Mapping[str, Any]
    memo: dict[str, Any] = field(default_factory=dict, repr=False)  # what a backend makes of them, once

    def __getstate__(self) -> dict[str, Any]:
        return {**vars(self), "memo": {}}

    @property
    def state(self) -> tuple[str, ...]:
        """The state arrays that these options use."""
        return self.optimizer.variants[self.variant] + (AVERAGE,) * self.averages

    @cached_property
    def skips(self) -> bool:
        """Whether a step may be skipped."""
        return bool(self.options["skip_nonfinite"])

    @cached_property
    def is_steady(self) -> bool:
        """Whether each step has the same numbers but for its count."""
        rate, scale = self.options["lr"], self.options["grad_scale"]
        return not callable(rate) and isinstance(scale, float) and "t" not in self._host_constant_arguments

    @cached_property
    def _host_constant_arguments(self) -> dict[str, Any]:
        wanted = self.optimizer.host_constants_takes
        return {name: value for name, value in {"t": 0, **self.options}.items() if name in wanted}

    def host_constants_at(self, t: int, lr: float) -> dict[str, float]:
        """What the optimizer's `compute_host_constants` gives."""
        arguments = self._host_constant_arguments.copy()
        if "t" in arguments:
            arguments["t"] = t
        if "lr" in arguments:
            arguments["lr"] = lr
        return self.optimizer.compute_host_constants(**arguments)

    @property
    def averages(self) -> bool:
        """Whether an average of the parameters is kept."""
        return self.options["ema"] is not None or self.options["swa_start"] is not None
