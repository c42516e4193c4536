"""The choice of the engine for a backend and an array family."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import TYPE_CHECKING

from ..arrays.cuda_families import ArrayMetadata
from ..arrays.param_state import ParamState
from ..reference_math import Array
from . import cuda, native, reference, stages
from .base import PartEngine

if TYPE_CHECKING:
    from ..options.settings import RuleClass

_OF_NUMPY: dict[str, type[PartEngine]] = {"native": native.Engine, "reference": reference.Engine}


def check_backend(backend: str, p: Array, place: str) -> None:
    """Raise ValueError for a parameter that the backend cannot update."""
    if backend == "reference" and isinstance(p, ArrayMetadata):
        raise ValueError(
            f"{place}: expected a NumPy array, as the reference computes with NumPy alone, got a CUDA array; "
            f"make NumPy arrays of parameters and gradients, or take the native backend"
        )


def engine_for(backend: str, param_states: Sequence[ParamState], rules: Sequence[type[RuleClass]] = ()) -> PartEngine:
    """Return an engine of that backend for these arrays, which are all of one family; `rules` are those of each."""
    if any(rule.stages for rule in rules):
        return stages.Engine(param_states, rules, backend, partial(engine_for, backend))
    on_gpu = isinstance(param_states[0].metadata, ArrayMetadata)
    return cuda.Engine(param_states) if on_gpu else _OF_NUMPY[backend](param_states)
