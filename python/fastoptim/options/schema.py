"""The state arrays of an optimizer."""

from __future__ import annotations

from dataclasses import dataclass

#: The state array that `ema` and `swa_start` keep.
AVERAGE = "average"


@dataclass(frozen=True)
class StateArray:
    """One state array of a parameter."""

    shape: str = "param"

    @property
    def is_scalar(self) -> bool:
        """Whether it is one number for the whole parameter."""
        return self.shape == "scalar"
