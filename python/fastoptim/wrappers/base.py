"""The base of methods on top of an optimizer: attributes of the optimizer, and state of the method's own.

A wrapper's state is declared by a schema, as that of an optimizer.  Its checkpoint contains the optimizer's.
"""

from __future__ import annotations

import copy
import inspect
from collections.abc import Mapping
from dataclasses import replace
from typing import Any, ClassVar

from .. import core
from ..arrays.param_state import ParamState
from ..arrays.tree import describe
from ..optimizer import checkpoint
from ..optimizer.accumulation import ACCUMULATED, Accumulation
from ..optimizer.base import Optimizer
from ..optimizer.remapping import changes_of, remapped
from ..optimizer.saving import SavedInFiles
from ..options.checks import check_option
from ..options.schema import StateArray
from ..options.suggestions import did_you_mean

States = list[tuple[ParamState, dict[str, Any]]]
"""Parameters, and the state arrays that each is to have."""


class Wrapper(SavedInFiles):
    """A method on top of an optimizer, whose attributes, groups and state are those of the wrapper, too."""

    name: ClassVar[str]
    options: ClassVar[Mapping[str, Any]] = {}
    """The options of the method with their types and ranges; attributes of an instance."""
    counts: ClassVar[tuple[str, ...]] = ()
    """Whole numbers that a checkpoint contains; attributes of an instance."""
    schema: ClassVar[Mapping[str, StateArray]] = {}
    """The method's state arrays of a parameter."""

    optimizer: Any
    _own: list[ParamState]
    _followed: list[ParamState] | None
    """The list of the optimizer's parameters that `_own` follows."""

    def __init__(self, optimizer: Any, **options: Any) -> None:
        if not isinstance(optimizer, (Optimizer, Wrapper)):
            expected = "an optimizer of fastoptim that updates the parameters of this process"
            raise TypeError(f"optimizer: expected {expected}, got {describe(optimizer)}")
        vars(self)["optimizer"] = optimizer
        for name, value in options.items():
            setattr(self, name, value)
        for name in self.counts:
            setattr(self, name, 0)
        vars(self).update(_own=[], _followed=None)
        self._extend()

    @property
    def own_states(self) -> list[ParamState]:
        """Each parameter with the method's state, also those of groups that were added to the optimizer itself."""
        if self._followed is not self.param_states:
            for own, param in zip(self._own, self.param_states, strict=False):
                if own.p is not param.p:
                    raise RuntimeError(
                        f"{param.p_place}: expected the same array as before; call remap of the "
                        f"{type(self).__name__}, not of the optimizer inside"
                    )
            self._extend()
        return self._own

    def _extend(self) -> None:
        """Make the state of parameters that have none yet; the paths of all may be new."""
        known = len(self._own)
        own = [replace(param, state={}, schema=self.schema, copy=None) for param in self.param_states]
        for param, before in zip(own, self._own, strict=False):
            param.state.update(before.state)
        for param in own[known:]:
            param.state.update({name: param.initial_state(name, {}) for name in self._first_state()})
        vars(self).update(_own=own, _followed=self.param_states)

    def _first_state(self) -> tuple[str, ...]:
        """Return the names of the state arrays that exist before the first step."""
        return tuple(self.schema)

    def __getattr__(self, name: str) -> Any:
        if name in ("optimizer", "_own", "_followed"):
            raise AttributeError(name)
        try:
            return getattr(self.optimizer, name)
        except AttributeError as error:
            raise AttributeError(f"{error}{did_you_mean(name, [*self.options, *self.defaults])}") from None

    def __setattr__(self, name: str, value: Any) -> None:
        if name in self.options:
            object.__setattr__(self, name, check_option(self.options[name], value, name))
        elif name.startswith("_") or name in self.counts or hasattr(type(self), name):
            object.__setattr__(self, name, value)
        else:
            if not hasattr(self.optimizer, name) and (suggestion := did_you_mean(name, self.options)):
                raise AttributeError(f"{name}: not an attribute of {type(self).__name__}{suggestion}")
            setattr(self.optimizer, name, value)

    def step(self, grads: Any = ACCUMULATED, *, accumulation: Accumulation = "mean") -> bool | None:
        """Update the parameters in place; see `Optimizer.step`."""
        _ = self.own_states
        return self.optimizer.step(grads, accumulation=accumulation)  # type: ignore[no-any-return]

    def add_param_group(self, param_group: Mapping[str, Any]) -> None:
        """Add a group; see `Optimizer.add_param_group`."""
        _ = self.own_states
        self.optimizer.add_param_group(param_group)
        self._extend()

    def remap(self, params: Any, source: Any) -> None:
        """Replace parameters by arrays with other rows, also in the method's state; see `Optimizer.remap`."""
        changes = changes_of(self.optimizer, params, source)
        own = [
            param if change is None else remapped(param, change, param.schema, {})
            for param, change in zip(self.own_states, changes, strict=True)
        ]

        def change() -> None:
            self.optimizer.remap(params, source)
            vars(self).update(_own=own, _followed=self.param_states)

        core.complete(change)

    def zero_state(self) -> None:
        """Set the state of the optimizer and of the method to its first values; see `Optimizer.zero_state`."""
        first = self._first_state()
        fresh = [(param, {name: param.initial_state(name, {}) for name in first}) for param in self.own_states]

        def zero() -> None:
            self.optimizer.zero_state()
            self._assign(dict.fromkeys(self.counts, 0), fresh)

        core.complete(zero)

    def state_dict(self) -> dict[str, Any]:
        """Return everything needed to continue with identical bits; see `Optimizer.state_dict`."""
        inner = self.optimizer.state_dict()
        return {
            "version": checkpoint.STATE_DICT_VERSION,
            "optimizer": self.name,
            "options": {name: getattr(self, name) for name in self.options},
            "counts": {name: getattr(self, name) for name in self.counts},
            "arrays": [checkpoint.array_entry(param, self.step_count) for param in self.own_states],
            "inner": inner,
        }

    def load_state_dict(self, state_dict: Mapping[str, Any], *, convert: bool = False) -> None:
        """Continue from a `state_dict`; a call that raises an error has changed nothing.

        Raises:
            ValueError: It is of another method or optimizer, or does not fit; see `Optimizer.load_state_dict`.
        """
        checkpoint.check_header(state_dict, self.name)
        entries = {key: checkpoint.entry_of(state_dict, key, "state_dict") for key in ("options", "counts", "inner")}
        options = self._check_options(entries["options"])
        counts = self._check_counts(entries["counts"], entries["inner"])
        by_place = checkpoint.entries_by_place(state_dict, self.own_states)
        loaded = [
            checkpoint.check_array(param, self._first_state(), 2**63 - 1, by_place[param.place], convert)[1]
            for param in self._own
        ]
        targets = [checkpoint.targets_for(param, state) for param, state in zip(self._own, loaded, strict=True)]
        pairs = list(zip(self._own, targets, strict=True))

        def load() -> None:
            self.optimizer.load_state_dict(entries["inner"], convert=convert)
            for (param, target), state in zip(pairs, loaded, strict=True):
                for name, array in target.items():
                    param.family.assign(array, state[name])
            self._assign({**options, **counts}, pairs)

        core.complete(load)

    def _check_options(self, saved: Any) -> dict[str, Any]:
        """Return the saved options, with defaults for those that were not saved."""
        place = "state_dict['options']"
        if not isinstance(saved, Mapping):
            raise ValueError(f"{place}: expected a dict, got {describe(saved)}")
        if unknown := [name for name in saved if name not in self.options]:
            raise ValueError(f"{place}: expected options among {[*self.options]}, got unknown {unknown}")
        parameters = inspect.signature(type(self)).parameters
        try:
            return {
                name: check_option(kind, saved.get(name, parameters[name].default), f"{place}[{name!r}]")
                for name, kind in self.options.items()
            }
        except TypeError as error:
            raise ValueError(str(error)) from None

    def _check_counts(self, saved: Any, inner: Any) -> dict[str, int]:
        """Return the saved counts, each at most the step count of the optimizer's own state dict."""
        place, optimizer = "state_dict['counts']", self.optimizer
        while isinstance(optimizer, Wrapper):
            optimizer, inner = optimizer.optimizer, checkpoint.entry_of(inner, "inner", "state_dict['inner']")
        taken = checkpoint.count_of(checkpoint.entry_of(inner, "step_count", "state_dict['inner']"), "step_count")
        checkpoint.check_header(inner, optimizer.name)
        counts = {name: checkpoint.count_of(checkpoint.entry_of(saved, name, place), name) for name in self.counts}
        for name, count in counts.items():
            if count > taken:
                raise ValueError(f"{place}[{name!r}]: expected at most {taken}, the steps taken, got {count}")
        return counts

    def _assign(self, attributes: Mapping[str, Any], states: States) -> None:
        for name, value in attributes.items():
            object.__setattr__(self, name, value)
        for param, state in states:
            param.state.clear()
            param.state.update(state)

    def __copy__(self) -> Any:
        twin = type(self).__new__(type(self))
        vars(twin).update(vars(self), optimizer=copy.copy(self.optimizer), _own=[], _followed=None)
        states = [{name: param.family.copy(array) for name, array in param.state.items()} for param in self._own]
        vars(twin)["_own"] = [replace(param, state=state) for param, state in zip(self._own, states, strict=True)]
        return twin

    def __getstate__(self) -> dict[str, Any]:
        own = [replace(param, p=None, schema={}) for param in self.own_states]  # the optimizer has them
        return {**vars(self), "_own": own, "_followed": None}

    def __setstate__(self, attributes: dict[str, Any]) -> None:
        vars(self).update(attributes)
        pairs = zip(self._own, self.param_states, strict=True)
        vars(self)["_own"] = [replace(param, p=inner.p, schema=self.schema) for param, inner in pairs]

    def __repr__(self) -> str:
        options = "".join(f", {name}={getattr(self, name)!r}" for name in self.options)
        return f"<{type(self).__name__} of {self.optimizer!r}{options}>"
