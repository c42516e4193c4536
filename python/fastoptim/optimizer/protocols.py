"""The attributes of an optimizer that groups, stepping, parameter swaps and checkpoints work on.

`fastoptim.Optimizer` has them.  The protocol lets the modules of this package stay below it in the import graph.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, ClassVar, Protocol

from ..arrays.param_state import ParamState
from ..arrays.tree import Structure
from ..engines.base import Engine, FastPath, GroupSnapshot, GroupStep, PartEngine
from ..options.checks import Backend
from ..options.schema import StateArray
from ..options.settings import Settings
from ..reference_math import Array

if TYPE_CHECKING:  # a protocol takes time to make
    from ..options.settings import RuleClass

    class Rule(RuleClass, Protocol):
        """The class of an optimizer, from which a group has its options and its formula."""

        @classmethod
        def check_options(cls, given: Mapping[str, Any], place: str = "") -> Settings:
            """Return the checked options."""


class OptimizerParts(Protocol):
    """An optimizer's parts; one leading underscore means private to this package and to the rules."""

    name: ClassVar[str]
    state_schema: ClassVar[Mapping[str, StateArray]]
    reduces_all: ClassVar[bool]

    backend: Backend
    copies: Any
    params: Any  # in containers of the optimizer's own
    param_groups: list[dict[str, Any]]
    param_states: list[ParamState]

    _structure: Structure  # of the parameters, those of all groups together
    _constructed_with: dict[str, Any]  # the constructor's options
    _given: Any  # the caller's argument `params`; None in a copy of the optimizer
    _given_structure: Structure
    _trees: list[Any]  # the parameters of each group, nested
    _resolved: list[GroupSnapshot]  # by group
    _views: list[dict[str, Array]] | None  # views of the state, cached for `state`
    _counts: list[Any]  # [_step_count, _missed]: a list, so that native code counts a step as it takes it
    _swapped_by: str  # the method that has put other values into the parameters; empty if none has
    _engine: Engine | None
    _accumulator: Any  # the `Accumulator`, or None, of gradients that wait for a step
    _raised_lr_max: Mapping[int, tuple[float | None, float]]  # by group: `lr_max` before steps have raised it, and now
    _fast_path: FastPath | None  # the engine's fast path, once there is one

    @staticmethod
    def _adder() -> type[Any]:
        """Return the optimizer that adds gradients to sums: `SGD`."""

    @property
    def _watched(self) -> Sequence[Any]:
        """Return a front end's dicts and lists that show the parameters and the state."""

    @property
    def _step_count(self) -> int:
        """Return the number of steps taken."""

    @property
    def _missed(self) -> dict[int, int]:
        """Return, by the index of an array, the number of steps in which it had no gradient; never changed in place."""

    def rule_of(self, index: int) -> type[Rule]:
        """Return the class of a group's formula: the optimizer's own, except in `Mixed`."""

    def check_arrays(self) -> None:
        """Raise an error if a step could not write a parameter or a state array."""

    def check_not_swapped(self) -> None:
        """Raise RuntimeError while the parameters hold other values."""

    def engine_for(self, param_states: Sequence[ParamState]) -> PartEngine:
        """Return an engine for these arrays."""

    def _settings(self, index: int) -> Settings:
        """Return a group's settings."""

    def _step_by_engine(self, flat: list[Any], group_steps: list[GroupStep]) -> bool:
        """Take a step without the fast path; return False if it was skipped."""
