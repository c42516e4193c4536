"""The native backend for arrays in a GPU's memory: one call a step and GPU, on the current stream of their library."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from operator import is_
from typing import Any, NamedTuple
from weakref import ref

import numpy as np

from .arrays import Territory, address_of, check_gradient, memory_of, same_layout
from .cuda_libraries import Cuda, Outline, Stream
from .engine import Seen, Settings, Slot, Update, check_targets, update_at
from .libraries import library_of
from .native import RULES, CudaLimit, CudaPlan, cuda_squared_norms, numbers_of, state_of
from .trees import Structure


class _Part(NamedTuple):
    """The arrays of one GPU: which they are, and what steps them."""

    gpu: int
    indices: list[int]
    plan: CudaPlan


class Engine:
    """Steps all arrays in one call a GPU, and waits for no GPU, but where the step may be skipped."""

    def __init__(self, slots: Sequence[Slot]) -> None:
        library = slots[0].library
        assert isinstance(library, Cuda)
        self._slots = slots
        self._library = library
        self._parts: list[_Part] = []
        self._recorded: _Recorded | None = None

    def step(self, grads: list[Any], updates: Sequence[Update], update_of: list[int] | None = None) -> int | None:
        """Updates every array that has a gradient; see fastoptim.engine.Engine.

        None also of a step that a graph records, which is yet to be taken.
        """
        if not self._parts or (self._library.moves and self._have_moved()):
            for slot in self._slots:
                self._library.check_takes_place(slot.p)
            self._make_parts(updates, update_of)
        self._gradients.read(grads)
        streams = [self._library.stream(part.gpu) for part in self._parts]
        records = any(stream.records for stream in streams)
        if records:
            self._check_recording(updates)
        if not self._launch(updates, update_of, streams):
            return None
        if records:
            self._recorded = _Recorded.of(self._slots, grads, updates, update_of)
            return None
        return sum(grad is not None for grad in grads)

    def _launch(self, updates: Sequence[Update], update_of: list[int] | None, streams: Sequence[Stream]) -> bool:
        """Whether the step was taken."""
        numbers = numbers_of(updates)
        calls = []
        for part, stream in zip(self._parts, streams, strict=True):
            addresses, formats = self._of(part, self._gradients.addresses), self._of(part, self._gradients.formats)
            calls.append((part, (addresses, formats, self._of(part, update_of), numbers, stream.pointer)))
        norm = None
        if len(self._parts) > 1 and any(map(_looks_at_all, updates)):
            lefts = [0.0] * len(self._slots)
            for part, arguments in calls:
                measured = part.plan.measure(*arguments)
                if measured is None:
                    return False
                for i, left in zip(part.indices, measured, strict=True):
                    lefts[i] = left
            whole = 0.0
            for left in lefts:  # in the arrays' order, as on one GPU; sum() would compensate from Python 3.12 on
                whole += left
            norm = math.sqrt(whole)
        stepped = [part.plan.step(*arguments, whole_norm=norm) for part, arguments in calls]
        return CudaPlan.SKIPPED not in stepped

    def _of(self, part: _Part, values: Any) -> Any:
        """Those of a list that belong to one GPU's arrays."""
        return [values[i] for i in part.indices] if isinstance(values, list) and len(self._parts) > 1 else values

    def repeat(self, structure: Structure, groups: Sequence[Seen]) -> None:
        """None; see fastoptim.engine.Engine."""

    # ---- parameters

    def _have_moved(self) -> bool:
        """Whether a parameter stands for other memory than when the plans were made."""
        params = zip(self._slots, self._params, strict=True)
        return any(self._library.address(slot.p) != address_of(p) for slot, p in params if p.size)

    def _make_parts(self, updates: Sequence[Update], update_of: list[int] | None) -> None:
        self._gradients = _Gradients(self._slots, self._library, check_targets(self._slots))
        self._params = [_outline(slot.p) for slot in self._slots]
        used = [slot.group for slot in self._slots] if update_of is None else update_of
        by_gpu: dict[int, list[int]] = {}
        for i, p in enumerate(self._params):
            by_gpu.setdefault(p.gpu, []).append(i)
        self._check_groups(used, updates)
        self._parts = [
            _Part(gpu, indices, self._make_plan(gpu, indices, [updates[used[i]].settings for i in indices]))
            for gpu, indices in by_gpu.items()
        ]
        self._recorded = None

    def _check_groups(self, used: list[int], updates: Sequence[Update]) -> None:
        first: dict[int, int] = {}
        for i, slot in enumerate(self._slots):
            if updates[used[i]].settings.optimizer.measures_group:
                j = first.setdefault(slot.group, i)
                expected, got = memory_of(self._params[j]), memory_of(self._params[i])
                if got != expected:
                    raise ValueError(
                        f"{slot.p_place}: expected an array on {expected} as {self._slots[j].p_place}, as sums "
                        f"run over the whole group, got one on {got}"
                    )

    def _make_plan(self, gpu: int, indices: list[int], settings: list[Settings]) -> CudaPlan:
        slots = [self._slots[i] for i in indices]
        params = [_named(self._params[i]) for i in indices]
        return CudaPlan(params, _addresses_of(slots, settings), [slot.group for slot in slots], gpu)

    # ---- graphs

    def _check_recording(self, updates: Sequence[Update]) -> None:
        if any(update.settings.skips for update in updates):
            raise ValueError("skip_nonfinite: expected False in a step that a CUDA graph captures: nobody waits for it")
        if self._gradients.copies:
            raise ValueError("grads: expected the parameters' memory orders in a step that a CUDA graph captures")

    def replay(self, on_time: Sequence[Update], missed: Mapping[int, int]) -> list[int]:
        """Hands the numbers of the next step to the step that a graph has recorded.

        They are made of the groups' own updates and of how many steps each array has missed.  Returns which arrays
        have no gradient there.  RuntimeError where the recorded step is not as it would be now.
        """
        recorded = self._recorded
        if recorded is None:
            raise RuntimeError("graph_step: expected a step captured in a CUDA graph before")
        numbers = numbers_of(recorded.updates(on_time, missed))
        for part in self._parts:
            update_of, stream = self._of(part, recorded.update_of), self._library.stream(part.gpu)
            part.plan.advance(update_of, numbers, stream.pointer)
        return recorded.absent


class Limit:
    """The pass that a step over these arrays, all on one GPU, is measured against; see fastoptim.native.limit_of.

    A call hands it to the stream that a step would go to; `answer` waits for it, and is what the pass only read.
    """

    def __init__(self, slots: Sequence[Slot], grads: Sequence[Any], settings: Settings) -> None:
        library = slots[0].library
        assert isinstance(library, Cuda)
        gradients = _Gradients(slots, library, check_targets(slots))
        gradients.read(list(grads))
        params = [_outline(slot.p) for slot in slots]
        self._kept = [*slots, *grads, *gradients.copies]  # so that the addresses stay good
        self._library, self._gpu = library, params[0].gpu
        self._passes = CudaLimit(
            rule=RULES[settings.variant].number,
            params=[_named(p) for p in params],
            states=_addresses_of(slots, [settings] * len(slots)),
            grads=gradients.addresses,
            formats=gradients.formats,
            device=self._gpu,
        )

    def __call__(self, mask: int) -> None:
        """With 0 it changes nothing."""
        self._passes(mask, self._library.stream(self._gpu).pointer)

    def answer(self) -> int:
        """The exclusive or of all words that a step only reads."""
        return self._passes.answer(self._library.stream(self._gpu).pointer)


class _Recorded(NamedTuple):
    """What a step that a graph has recorded has in common with all of its replays."""

    update_of: list[int]  # of each array
    absent: list[int]  # the arrays without a gradient
    groups: list[int]  # of each update
    users: list[list[int]]  # of each update, the arrays with a gradient

    @classmethod
    def of(
        cls, slots: Sequence[Slot], grads: list[Any], updates: Sequence[Update], update_of: list[int] | None
    ) -> _Recorded:
        """From the arguments of the engine's step, in which the groups' own updates come first."""
        which = update_of or [slot.group for slot in slots]
        groups = list(range(len(updates)))
        users: list[list[int]] = [[] for _ in updates]
        absent: list[int] = []
        for i, (slot, grad) in enumerate(zip(slots, grads, strict=True)):
            groups[which[i]] = slot.group
            (absent if grad is None else users[which[i]]).append(i)
        return cls(which, absent, groups, users)

    def updates(self, on_time: Sequence[Update], missed: Mapping[int, int]) -> Iterator[Update]:
        """Those of the next step; RuntimeError where arrays that share one no longer have the same clock."""
        for group, users in zip(self.groups, self.users, strict=True):
            settings, lr, t, *_ = on_time[group]
            late = {missed.get(i, 0) for i in users} or {0}
            if len(late) > 1:
                raise RuntimeError(
                    "graph_step: expected that no array has missed a step that others took since the capture, got one "
                    "that did: capture the step again"
                )
            yield update_at(settings, lr, t - late.pop(), f"param_groups[{group}]")


class _Gradients:
    """The addresses and formats of a step's gradients.

    Gradients that are the very objects of the step before, of a library whose arrays stay where they are, are not
    looked at again.  They are remembered by weak references, so that their memory is free between steps.
    """

    def __init__(self, slots: Sequence[Slot], library: Cuda, territory: Territory) -> None:
        self._slots = slots
        self._library = library
        self._territory = territory
        self._types: set[type] = set()  # of gradients that are the library's own
        self._keys: list[Any] = [None] * len(slots)  # of the library's gradient that each array took last
        self._seen: list[Any] = []
        self._sizes = np.zeros(len(slots), np.int64)  # in bytes
        self._formats = ["float32"] * len(slots)
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
            for i, address in zip(there, map(self._library.address, found), strict=True):
                addresses[i] = address
            keys = list(map(self._library.key, found))
            odd = [] if keys == self._keys else [i for i, k in zip(there, keys, strict=True) if k != self._keys[i]]
        for i in odd:
            addresses[i] = self._look_at(i, grads[i])
        begins = np.array([addresses[i] for i in there], np.int64)
        for k in self._territory.overlapping(begins, begins + self._sizes[there]):
            self._look_at(there[k], found[k])
        self.formats = self._formats[0] if len(set(self._formats)) == 1 else list(self._formats)
        self.addresses = addresses
        if not odd and not self._library.moves:
            self._seen = seen

    def _look_at(self, i: int, grad: Any) -> int:
        """The address of a gradient, or of its copy in the parameter's memory order; or its refusal."""
        slot = self._slots[i]
        p = slot.outline
        outline = check_gradient(grad, slot.g_place, p)
        self._territory.check_clear(outline, slot.g_place)
        self._sizes[i], self._formats[i], self._keys[i] = outline.nbytes, outline.dtype.name, None
        if not same_layout(outline, p):
            self.copies.append(self._library.zeros(slot.p, outline.dtype))
            self._library.assign(self.copies[-1], grad)
            return address_of(_outline(self.copies[-1]))
        if library_of(grad) is self._library:
            self._types.add(type(grad))
            self._keys[i] = self._library.key(grad)
        return address_of(outline)


def _looks_at_all(update: Update) -> bool:
    """Whether a step depends on the gradients of all arrays together."""
    options = update.settings.options
    return update.settings.skips or options["clip_global_norm"] is not None


def _references(grads: list[Any]) -> list[Any]:
    """A weak reference to each; nothing where one cannot be had."""
    try:
        return [None if grad is None else ref(grad) for grad in grads]
    except TypeError:
        return []


def _outline(array: Any) -> Outline:
    library = library_of(array)
    assert isinstance(library, Cuda)
    return library.outline(array, "")


def _named(outline: Outline) -> tuple[int, int, str]:
    """An array as native code takes it."""
    return address_of(outline), outline.size, outline.dtype.name


def _addresses_of(slots: Sequence[Slot], settings: Sequence[Settings]) -> list[tuple[list[int], list[int], list[int]]]:
    """Each array's state as native code takes it."""
    states = []
    for slot, own in zip(slots, settings, strict=True):
        arrays, numbers, average = ([address_of(_outline(array)) for array in kind] for kind in state_of(slot, own))
        states.append((arrays, numbers, average))
    return states


def squared_norms(arrays: Sequence[Any]) -> list[float]:
    """The sum of the squares of each array, dense and of a known dtype; waits for them."""
    by_gpu: dict[int, list[int]] = {}
    outlines = [_outline(array) for array in arrays]
    for i, outline in enumerate(outlines):
        by_gpu.setdefault(outline.gpu, []).append(i)
    found = [0.0] * len(arrays)
    for gpu, indices in by_gpu.items():
        named = [_named(outlines[i]) for i in indices]
        library = library_of(arrays[indices[0]])
        assert isinstance(library, Cuda)
        sums = cuda_squared_norms(named, gpu, library.stream(gpu).pointer)
        for i, value in zip(indices, sums, strict=True):
            found[i] = value
    return found
