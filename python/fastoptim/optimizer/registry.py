"""The registry of optimizers."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from .base import Optimizer

#: Every optimizer by name.
OPTIMIZERS: dict[str, type[Optimizer]] = {}
