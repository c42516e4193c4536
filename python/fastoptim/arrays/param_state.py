"""A parameter with its state, and the checks of all of them together before a step."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from ..reference_math import Array
from .checks import check_gradient, check_scalar, check_state, check_target, in_order_of
from .families import ArrayFamily, family_of
from .written_ranges import WrittenRanges


@dataclass(frozen=True)
class ParamState:
    """One parameter array with its live state arrays, its group, and the places that messages name."""

    p: Any  # of the user's library, as the state
    state: dict[str, Any]
    group: int = 0
    place: str = ""  # of the gradient and the state in their structures, as in grads['w1']
    p_place: str = "p"
    g_name: str = "grads"
    scalar_state: tuple[str, ...] = ()  # the state arrays that are one number

    @property
    def g_place(self) -> str:
        """What a message calls the gradient."""
        return self.g_name + self.place

    def state_place(self, name: str) -> str:
        """What a message calls a state array."""
        return f"state{self.place}[{name!r}]"

    @property
    def family(self) -> ArrayFamily:
        """What made the parameter."""
        family = family_of(self.p)
        assert family is not None
        return family

    @property
    def metadata(self) -> Array:
        """The parameter's shape, dtype and place in memory."""
        return self.family.metadata(self.p, self.p_place)


def check_targets(param_states: Sequence[ParamState]) -> WrittenRanges:
    """Refuses parameters and state that a step could not write as they are now."""
    targets = []
    for param in param_states:
        if param.family is not param_states[0].family:
            first, name = param_states[0], param.family.name
            raise ValueError(f"{param.p_place}: expected {first.family.name}'s array as {first.p_place}, got {name}'s")
        p = check_target(param.p, param.p_place)
        targets.append((param.p_place, p))
        for name, array in param.state.items():
            check = check_scalar if name in param.scalar_state else check_state
            targets.append((param.state_place(name), check(array, param.state_place(name), p)))
    return WrittenRanges(targets)


def check_one(param: ParamState, grad: Any, written: WrittenRanges) -> Array:
    """A NumPy gradient in its parameter's memory order, or its refusal."""
    checked = check_gradient(grad, param.g_place, param.p)
    written.check_no_overlap(checked, param.g_place)
    return in_order_of(param.p, checked)
