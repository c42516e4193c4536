"""The native backend for arrays in a GPU's memory: one call a step and GPU, on the current stream of their family."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from operator import is_
from typing import Any, NamedTuple
from weakref import ref

import numpy as np

from ..arrays.checks import check_gradient, memory_of, same_layout
from ..arrays.cuda_families import ArrayMetadata, Cuda, Stream
from ..arrays.families import family_of
from ..arrays.param_state import ParamState, check_targets
from ..arrays.tree import Structure
from ..arrays.written_ranges import WrittenRanges, address_of
from ..core import RULES, CudaBandwidthProbe, CudaPlan, cuda_squared_norms
from ..options.settings import Settings
from .base import GroupSnapshot, GroupStep, group_step_at
from .native import numbers_of, state_of


class _Part(NamedTuple):
    """The arrays of one GPU: which they are, and what steps them."""

    gpu: int
    indices: list[int]
    plan: CudaPlan


class Engine:
    """Steps all arrays in one call a GPU, and waits for no GPU, but where the step may be skipped."""

    def __init__(self, param_states: Sequence[ParamState]) -> None:
        family = param_states[0].family
        assert isinstance(family, Cuda)
        self._param_states = param_states
        self._family = family
        self._parts: list[_Part] = []
        self._recorded: _Recorded | None = None

    def step(self, grads: list[Any], group_steps: Sequence[GroupStep], step_of: list[int] | None = None) -> int | None:
        """Update every array that has a gradient; see fastoptim.engines.base.Engine.

        None also of a step that a graph records, which is yet to be taken.
        """
        if not self._parts or (self._family.moves and self._have_moved()):
            for param in self._param_states:
                self._family.check_takes_place(param.p)
            self._make_parts(group_steps, step_of)
        self._gradients.read(grads)
        streams = [self._family.stream(part.gpu) for part in self._parts]
        records = any(stream.records for stream in streams)
        if records:
            self._check_recording(group_steps)
        if not self._launch(group_steps, step_of, streams):
            return None
        if records:
            self._recorded = _Recorded.of(self._param_states, grads, group_steps, step_of)
            return None
        return sum(grad is not None for grad in grads)

    def _launch(self, group_steps: Sequence[GroupStep], step_of: list[int] | None, streams: Sequence[Stream]) -> bool:
        """Whether the step was taken."""
        numbers = numbers_of(group_steps)
        calls = []
        for part, stream in zip(self._parts, streams, strict=True):
            addresses, formats = self._of(part, self._gradients.addresses), self._of(part, self._gradients.formats)
            calls.append((part, (addresses, formats, self._of(part, step_of), numbers, stream.pointer)))
        norm = None
        if len(self._parts) > 1 and any(map(_looks_at_all, group_steps)):
            clipped = [0.0] * len(self._param_states)
            for part, arguments in calls:
                norms = part.plan.gradient_norms(*arguments)
                if norms is None:
                    return False
                for i, squared in zip(part.indices, norms, strict=True):
                    clipped[i] = squared
            whole = 0.0
            for squared in clipped:  # in the arrays' order, as on one GPU; sum() would compensate from Python 3.12 on
                whole += squared
            norm = math.sqrt(whole)
        stepped = [part.plan.step(*arguments, whole_norm=norm) for part, arguments in calls]
        return CudaPlan.SKIPPED not in stepped

    def _of(self, part: _Part, values: Any) -> Any:
        """Those of a list that belong to one GPU's arrays."""
        return [values[i] for i in part.indices] if isinstance(values, list) and len(self._parts) > 1 else values

    def repeat(self, structure: Structure, groups: Sequence[GroupSnapshot]) -> None:
        """None; see fastoptim.engines.base.Engine."""

    # ---- parameters

    def _have_moved(self) -> bool:
        """Whether a parameter stands for other memory than when the plans were made."""
        params = zip(self._param_states, self._params, strict=True)
        return any(self._family.address(param.p) != address_of(p) for param, p in params if p.size)

    def _make_parts(self, group_steps: Sequence[GroupStep], step_of: list[int] | None) -> None:
        self._gradients = _Gradients(self._param_states, self._family, check_targets(self._param_states))
        self._params = [_metadata(param.p) for param in self._param_states]
        used = [param.group for param in self._param_states] if step_of is None else step_of
        by_gpu: dict[int, list[int]] = {}
        for i, p in enumerate(self._params):
            by_gpu.setdefault(p.gpu, []).append(i)
        self._check_groups(used, group_steps)
        self._parts = [
            _Part(gpu, indices, self._make_plan(gpu, indices, [group_steps[used[i]].settings for i in indices]))
            for gpu, indices in by_gpu.items()
        ]
        self._recorded = None

    def _check_groups(self, used: list[int], group_steps: Sequence[GroupStep]) -> None:
        first: dict[int, int] = {}
        for i, param in enumerate(self._param_states):
            if group_steps[used[i]].settings.optimizer.reduces_group:
                j = first.setdefault(param.group, i)
                expected, got = memory_of(self._params[j]), memory_of(self._params[i])
                if got != expected:
                    raise ValueError(
                        f"{param.p_place}: expected an array on {expected} as {self._param_states[j].p_place}, as sums "
                        f"run over the whole group, got one on {got}"
                    )

    def _make_plan(self, gpu: int, indices: list[int], settings: list[Settings]) -> CudaPlan:
        param_states = [self._param_states[i] for i in indices]
        params = [_named(self._params[i]) for i in indices]
        return CudaPlan(params, _addresses_of(param_states, settings), [param.group for param in param_states], gpu)

    # ---- graphs

    def _check_recording(self, group_steps: Sequence[GroupStep]) -> None:
        if any(group_step.settings.skips for group_step in group_steps):
            raise ValueError("skip_nonfinite: expected False in a step that a CUDA graph captures: nobody waits for it")
        if self._gradients.copies:
            raise ValueError("grads: expected the parameters' memory orders in a step that a CUDA graph captures")

    def replay(self, on_time: Sequence[GroupStep], missed: Mapping[int, int]) -> list[int]:
        """Hands the numbers of the next step to the step that a graph has recorded.

        They are made of the groups' own group_steps and of how many steps each array has missed.  Returns which arrays
        have no gradient there.  RuntimeError where the recorded step is not as it would be now.
        """
        recorded = self._recorded
        if recorded is None:
            raise RuntimeError("graph_step: expected a step captured in a CUDA graph before")
        numbers = numbers_of(recorded.group_steps(on_time, missed))
        for part in self._parts:
            step_of, stream = self._of(part, recorded.step_of), self._family.stream(part.gpu)
            part.plan.advance(step_of, numbers, stream.pointer)
        return recorded.absent


class BandwidthProbe:
    """The pass that a step over these arrays, all on one GPU, is compared with; see fastoptim.engines.native.

    A call hands it to the stream that a step would go to; `answer` waits for it, and is what the pass only read.
    """

    def __init__(self, param_states: Sequence[ParamState], grads: Sequence[Any], settings: Settings) -> None:
        family = param_states[0].family
        assert isinstance(family, Cuda)
        gradients = _Gradients(param_states, family, check_targets(param_states))
        gradients.read(list(grads))
        params = [_metadata(param.p) for param in param_states]
        self._kept = [*param_states, *grads, *gradients.copies]  # so that the addresses stay good
        self._family, self._gpu = family, params[0].gpu
        self._passes = CudaBandwidthProbe(
            rule=RULES[settings.variant].number,
            params=[_named(p) for p in params],
            states=_addresses_of(param_states, [settings] * len(param_states)),
            grads=gradients.addresses,
            formats=gradients.formats,
            device=self._gpu,
        )

    def __call__(self, mask: int) -> None:
        """With 0 it changes nothing."""
        self._passes(mask, self._family.stream(self._gpu).pointer)

    def answer(self) -> int:
        """The exclusive or of all words that a step only reads."""
        return self._passes.answer(self._family.stream(self._gpu).pointer)


class _Recorded(NamedTuple):
    """What a step that a graph has recorded has in common with all of its replays."""

    step_of: list[int]  # of each array
    absent: list[int]  # the arrays without a gradient
    groups: list[int]  # of each update
    users: list[list[int]]  # of each update, the arrays with a gradient

    @classmethod
    def of(
        cls,
        param_states: Sequence[ParamState],
        grads: list[Any],
        group_steps: Sequence[GroupStep],
        step_of: list[int] | None,
    ) -> _Recorded:
        """From the arguments of the engine's step, in which the groups' own group_steps come first."""
        which = step_of or [param.group for param in param_states]
        groups = list(range(len(group_steps)))
        users: list[list[int]] = [[] for _ in group_steps]
        absent: list[int] = []
        for i, (param, grad) in enumerate(zip(param_states, grads, strict=True)):
            groups[which[i]] = param.group
            (absent if grad is None else users[which[i]]).append(i)
        return cls(which, absent, groups, users)

    def group_steps(self, on_time: Sequence[GroupStep], missed: Mapping[int, int]) -> Iterator[GroupStep]:
        """Those of the next step; RuntimeError where arrays that share one no longer have the same clock."""
        for group, users in zip(self.groups, self.users, strict=True):
            settings, lr, t, *_ = on_time[group]
            late = {missed.get(i, 0) for i in users} or {0}
            if len(late) > 1:
                raise RuntimeError(
                    "graph_step: expected that no array has missed a step that others took since the capture, got one "
                    "that did: capture the step again"
                )
            yield group_step_at(settings, lr, t - late.pop(), f"param_groups[{group}]")


class _Gradients:
    """The addresses and formats of a step's gradients.

    Gradients that are the very objects of the step before, of a library whose arrays stay where they are, are not
    looked at again.  They are remembered by weak references, so that their memory is free between steps.
    """

    def __init__(self, param_states: Sequence[ParamState], family: Cuda, written: WrittenRanges) -> None:
        self._param_states = param_states
        self._family = family
        self._written = written
        self._types: set[type] = set()  # of gradients that are the library's own
        self._keys: list[Any] = [None] * len(param_states)  # of the library's gradient that each array took last
        self._seen: list[Any] = []
        self._sizes = np.zeros(len(param_states), np.int64)  # in bytes
        self._formats = ["float32"] * len(param_states)
        self.addresses: list[int | None] = []  # None where there is no gradient
        self.formats: str | list[str] = "float32"
        self.copies: list[Any] = []  # in the parameter's memory order, alive until the next step

    def read(self, grads: list[Any]) -> None:
        """Looks at this step's gradients, and refuses those that do not fit."""
        seen = _references(grads)
        if seen and len(seen) == len(self._seen) and all(map(is_, seen, self._seen)):
            return
        self._seen, self.copies = [], []
        there = [i for i, grad in enumerate(grads) if grad is not None]
        found = [grads[i] for i in there]
        addresses: list[int | None] = [None] * len(grads)
        odd = there
        if set(map(type, found)) <= self._types:
            for i, address in zip(there, map(self._family.address, found), strict=True):
                addresses[i] = address
            keys = list(map(self._family.key, found))
            odd = [] if keys == self._keys else [i for i, k in zip(there, keys, strict=True) if k != self._keys[i]]
        for i in odd:
            addresses[i] = self._look_at(i, grads[i])
        begins = np.array([addresses[i] for i in there], np.int64)
        for k in self._written.overlapping(begins, begins + self._sizes[there]):
            self._look_at(there[k], found[k])
        self.formats = self._formats[0] if len(set(self._formats)) == 1 else list(self._formats)
        self.addresses = addresses
        if not odd and not self._family.moves:
            self._seen = seen

    def _look_at(self, i: int, grad: Any) -> int:
        """The address of a gradient, or of its copy in the parameter's memory order; or its refusal."""
        param = self._param_states[i]
        p = param.metadata
        metadata = check_gradient(grad, param.g_place, p)
        self._written.check_no_overlap(metadata, param.g_place)
        self._sizes[i], self._formats[i], self._keys[i] = metadata.nbytes, metadata.dtype.name, None
        if not same_layout(metadata, p):
            self.copies.append(self._family.zeros(param.p, metadata.dtype))
            self._family.assign(self.copies[-1], grad)
            return address_of(_metadata(self.copies[-1]))
        if family_of(grad) is self._family:
            self._types.add(type(grad))
            self._keys[i] = self._family.key(grad)
        return address_of(metadata)


def _looks_at_all(group_step: GroupStep) -> bool:
    """Whether a step depends on the gradients of all arrays together."""
    options = group_step.settings.options
    return group_step.settings.skips or options["clip_global_norm"] is not None


def _references(grads: list[Any]) -> list[Any]:
    """A weak reference to each; nothing where one cannot be had."""
    try:
        return [None if grad is None else ref(grad) for grad in grads]
    except TypeError:
        return []


def _metadata(array: Any) -> ArrayMetadata:
    family = family_of(array)
    assert isinstance(family, Cuda)
    return family.metadata(array, "")


def _named(metadata: ArrayMetadata) -> tuple[int, int, str]:
    """An array as native code takes it."""
    return address_of(metadata), metadata.size, metadata.dtype.name


def _addresses_of(
    param_states: Sequence[ParamState], settings: Sequence[Settings]
) -> list[tuple[list[int], list[int], list[int]]]:
    """Each array's state as native code takes it."""
    states = []
    for param, own in zip(param_states, settings, strict=True):
        arrays, numbers, average = ([address_of(_metadata(array)) for array in kind] for kind in state_of(param, own))
        states.append((arrays, numbers, average))
    return states


def squared_norms(arrays: Sequence[Any]) -> list[float]:
    """The sum of the squares of each array, dense and of a known dtype; waits for them."""
    by_gpu: dict[int, list[int]] = {}
    metadatas = [_metadata(array) for array in arrays]
    for i, metadata in enumerate(metadatas):
        by_gpu.setdefault(metadata.gpu, []).append(i)
    found = [0.0] * len(arrays)
    for gpu, indices in by_gpu.items():
        named = [_named(metadatas[i]) for i in indices]
        family = family_of(arrays[indices[0]])
        assert isinstance(family, Cuda)
        sums = cuda_squared_norms(named, gpu, family.stream(gpu).pointer)
        for i, value in zip(indices, sums, strict=True):
            found[i] = value
    return found
