"""The native engine for arrays in a GPU's memory: one call a step and GPU, on the current stream of their family."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from typing import Any, NamedTuple

from .. import core
from ..arrays.checks import check_gradient, memory_of, same_layout
from ..arrays.cuda_families import ArrayMetadata, Cuda, Stream
from ..arrays.families import family_of
from ..arrays.param_state import ParamState, check_takes_options, check_targets
from ..arrays.rows import Rows, check_rows
from ..arrays.tree import Structure
from ..arrays.written_ranges import WrittenRanges
from ..options.settings import Settings
from ..reference_math import Array, norm_in_order
from .base import (
    NO_COUNTS,
    NOTHING_ELSEWHERE,
    Counts,
    Elsewhere,
    FastPath,
    GroupSnapshot,
    GroupStep,
    depends_on_all,
    group_step_at,
    settings_used,
)
from .native import (
    compression_of,
    make_fast_path,
    native_steps,
    refuse_unsteady,
    register_dtypes,
    state_of,
    with_row_steps,
)

_SUMS = "the rule's sums run over the arrays of several processes"


class _Part(NamedTuple):
    """The arrays of one GPU: their indices, and the model that steps them."""

    gpu: int
    indices: list[int]
    model: core.Model


class Engine:
    """Step all arrays in one call a GPU, without waiting for a GPU unless the step may be skipped."""

    def __init__(self, param_states: Sequence[ParamState]) -> None:
        family = param_states[0].family
        assert isinstance(family, Cuda)
        self._param_states = param_states
        self._family = family
        self._reader = None if family.reader is None else core.ArrayReader(*family.reader)
        self._parts: list[_Part] = []
        self._params: list[ArrayMetadata] = []
        self._written = WrittenRanges([])
        self._copies: list[Any] = []  # of gradients in another memory order, alive until the next step
        self._recorded: _Recorded | None = None

    def step(
        self,
        grads: list[Any],
        group_steps: Sequence[GroupStep],
        step_of: list[int] | None = None,
        counts: Counts = NO_COUNTS,
        elsewhere: Elsewhere = NOTHING_ELSEWHERE,
    ) -> int | None:
        """Update every array that has a gradient; see fastoptim.engines.base.Engine.  May change the list `grads`.

        Also return None for a step that a graph captures, which is yet to be taken.
        """
        used = settings_used(self._param_states, group_steps, step_of)
        for param, settings in zip(self._param_states, used, strict=True):
            check_takes_options(param, settings)
        if elsewhere.sums:
            raise ValueError(f"params: expected NumPy arrays, as {_SUMS}, got CUDA arrays")
        self._copies = []
        if not self._parts or self._have_moved():
            self._make_parts(group_steps, step_of)
        captures = any(self._stream(part).records for part in self._parts)
        if captures:
            self._check_capture(group_steps)
        group_steps = with_row_steps(self._param_states, grads, group_steps, step_of)
        self._recognize(grads, group_steps, step_of, captures)
        if captures:  # before the launches, as the graph contains those before an error
            arrays = [(param.p, *param.state.values()) for param in self._param_states]
            self._param_states[0].used_by_graphs.append((self._parts, arrays))
        if not self._launch(grads, group_steps, step_of, NO_COUNTS if captures else counts, elsewhere.global_norm):
            return None
        if captures:
            self._recorded = _Recorded.of(self._param_states, grads, group_steps, step_of)
            return None
        return sum(grad is not None for grad in grads)

    def fast_path(
        self, structure: Structure, groups: Sequence[GroupSnapshot], containers: list[Any]
    ) -> FastPath | None:
        """See fastoptim.engines.base.Engine.  Only arrays of one GPU, of a family that native code reads, have one."""
        if len(self._parts) != 1 or self._reader is None:
            return None
        stream = partial(self._family.stream, self._parts[0].gpu)
        return make_fast_path(self._parts[0].model, structure, groups, containers, stream)

    def _launch(
        self,
        grads: list[Any],
        group_steps: Sequence[GroupStep],
        step_of: list[int] | None,
        counts: Counts,
        norm: float | None,
    ) -> bool:
        """Return whether the step was taken."""
        steps = native_steps(group_steps)
        calls = []
        for part in self._parts:
            pointer = self._stream(part).pointer
            calls.append((part, pointer, (self._of(part, grads), self._of(part, step_of), steps)))
        if norm is None and len(self._parts) > 1 and any(map(depends_on_all, group_steps)):
            norms = self._clipped_norms(grads, group_steps, step_of)
            if norms is None:
                return False
            norm = norm_in_order(
                norms, group_steps[0].settings.options["norm_type"]
            )  # in the arrays' order, as on one GPU
        statuses = []
        for part, pointer, arguments in calls:
            own_counts = counts if part is self._parts[-1] else NO_COUNTS
            statuses.append(part.model.step(*arguments, *own_counts, pointer, norm)[0])
        assert set(statuses) <= {"stepped", "skipped"}, statuses
        return "skipped" not in statuses

    def clipped_norms(
        self, grads: list[Any], group_steps: Sequence[GroupStep], step_of: list[int] | None = None
    ) -> list[float] | None:
        """See fastoptim.engines.base.Engine.  May change the list `grads`."""
        if not self._parts or self._have_moved():
            self._make_parts(group_steps, step_of)
        self._recognize(grads, group_steps, step_of)
        return self._clipped_norms(grads, group_steps, step_of)

    def _clipped_norms(
        self, grads: list[Any], group_steps: Sequence[GroupStep], step_of: list[int] | None
    ) -> list[float] | None:
        norms = [0.0] * len(self._param_states)
        steps = native_steps(group_steps)
        for part in self._parts:
            pointer = self._stream(part).pointer
            own = part.model.clipped_norms(self._of(part, grads), self._of(part, step_of), steps, pointer)
            if own is None:
                return None
            for i, clipped in zip(part.indices, own, strict=True):
                norms[i] = clipped
        return norms

    def rule_sums(
        self,
        grads: list[Any],
        group_steps: Sequence[GroupStep],
        step_of: list[int] | None = None,
        global_norm: float | None = None,
    ) -> list[tuple[float, ...]]:
        """Raise ValueError: sums over the arrays of several engines are not supported on a GPU."""
        raise ValueError(f"params: expected NumPy arrays, as {_SUMS}, got CUDA arrays")

    def _of(self, part: _Part, values: Any) -> Any:
        """Return the entries of a list that belong to one GPU's arrays."""
        return [values[i] for i in part.indices] if isinstance(values, list) and len(self._parts) > 1 else values

    # ---- gradients

    def _recognize(
        self, grads: list[Any], group_steps: Sequence[GroupStep], step_of: list[int] | None, captures: bool = False
    ) -> None:
        """Replace gradients that native code does not recognize by their metadata, or raise their error."""
        reported: set[tuple[str, int]] = set()
        waited: defaultdict[int, set[int]] = defaultdict(set)  # streams, by GPU
        steps = native_steps(group_steps)
        waiting = [*self._parts]
        if self._family.names_streams:
            for part in waiting:
                for param in (self._param_states[i] for i in part.indices):
                    for array in (param.p, *param.state.values()):
                        self._wait_for_producer(part, array, waited[part.gpu])
        while waiting:
            part = waiting[-1]
            status, value = part.model.recognize(self._of(part, grads), self._of(part, step_of), steps)
            if status == "stepped":
                waiting.pop()
                continue
            i = part.indices[value]
            refuse_unsteady((status, i), reported, self._param_states[i])
            if status == "parameter changed":
                self._make_parts(group_steps, step_of)
                waiting = [*self._parts]
            else:
                used = settings_used(self._param_states, group_steps, step_of)
                own_waited = None if captures else waited[part.gpu]
                grads[i] = self._check_gradient(part, value, grads[i], used, own_waited)

    def _stream(self, part: _Part) -> Stream:
        return self._family.stream(part.gpu, self._param_states[part.indices[0]].p)

    def _wait_for_producer(self, part: _Part, array: Any, waited: set[int]) -> None:
        """Let the stream of a part wait for the one on which another library produces an array, once for each."""
        family, own = family_of(array), self._stream(part).pointer
        if not isinstance(family, Cuda) or (family is self._family and not family.names_streams):
            return
        stream = family.producer(part.gpu, array)
        if stream is not None and stream not in {own, *waited}:
            core.cuda_wait(part.gpu, own, stream)
            waited.add(stream)

    def _check_gradient(
        self, part: _Part, index: int, grad: Any, used: Sequence[Settings], waited: set[int] | None
    ) -> ArrayMetadata | Rows:
        """Return the metadata of a gradient, or of its copy in the parameter's memory order.

        `waited` are the streams that were waited for; None while a graph is captured.
        """
        register_dtypes()
        param = self._param_states[part.indices[index]]
        if isinstance(grad, Rows):
            rows = check_rows(param, grad, self._written, used[part.indices[index]])
            if waited is None:
                raise ValueError(
                    f"{param.g_place}: expected a gradient for the whole array in a step that a CUDA graph captures, "
                    f"got Rows"
                )
            self._wait_for_producer(part, grad.values, waited)
            if not rows.values.flags.c_contiguous:
                copy = self._family.full(param.p, rows.values.shape, 0.0, rows.values.dtype)
                return Rows(rows.index, self._copied(copy, grad.values))
            return rows
        p = param.metadata
        metadata = check_gradient(grad, param.g_place, p)
        self._written.check_no_overlap(metadata, param.g_place)
        assert isinstance(metadata, ArrayMetadata)
        if waited is not None:
            self._wait_for_producer(part, grad, waited)
        if not same_layout(metadata, p):
            if waited is None:  # the graph would contain the copy
                raise ValueError(
                    f"{param.g_place}: expected the parameter's memory order in a step that a CUDA graph captures, got "
                    f"strides of {metadata.strides} bytes"
                )
            return self._copied(self._family.zeros(param.p, metadata.dtype), grad)
        if self._reader is not None and family_of(grad) is self._family:
            part.model.remember(index, grad, metadata)
        return metadata

    def _copied(self, copy: Any, grad: Any) -> ArrayMetadata:
        """Return the metadata of an array to which a gradient is assigned."""
        self._family.assign(copy, grad)
        self._copies.append(copy)
        return _metadata(copy)

    # ---- parameters

    def _have_moved(self) -> bool:
        """Return whether a parameter uses other memory than when the models were made; native code sees others."""
        if self._reader is not None:
            return False
        params = zip(self._param_states, self._params, strict=True)
        return any(core.address_of(_metadata(param.p)) != core.address_of(p) for param, p in params if p.size)

    def _make_parts(self, group_steps: Sequence[GroupStep], step_of: list[int] | None) -> None:
        register_dtypes()
        for param in self._param_states:
            self._family.check_takes_place(param.p)
        self._written = check_targets(self._param_states)
        for param in self._param_states:
            for name in param.state:
                if (schema := param.schema_of(name)).format != "compute":
                    raise ValueError(
                        f"{param.state_place(name)}: expected format 'compute' on a GPU, got {schema.format!r}"
                    )
        self._params = [_metadata(param.p) for param in self._param_states]
        used = settings_used(self._param_states, group_steps, step_of)
        by_gpu: dict[int, list[int]] = {}
        for i, p in enumerate(self._params):
            by_gpu.setdefault(p.gpu, []).append(i)
        self._check_sums(group_steps)
        self._parts = [
            _Part(gpu, indices, self._make_model(gpu, indices, [used[i] for i in indices]))
            for gpu, indices in by_gpu.items()
        ]
        self._recorded = None

    def _check_sums(self, group_steps: Sequence[GroupStep]) -> None:
        if not group_steps[0].settings.optimizer.reduces_all:
            return
        expected = memory_of(self._params[0])
        for param, metadata in zip(self._param_states, self._params, strict=True):
            if (got := memory_of(metadata)) != expected:
                raise ValueError(
                    f"{param.p_place}: expected an array on {expected} as {self._param_states[0].p_place}, as sums run "
                    f"over all arrays, got one on {got}"
                )

    def _make_model(self, gpu: int, indices: list[int], settings: list[Settings]) -> core.Model:
        params = [self._param_states[i] for i in indices]
        states: list[tuple[list[Array], list[Array], list[Array]]] = []
        for param, own in zip(params, settings, strict=True):
            arrays, scalars, average = state_of(param, own)
            states.append(([*map(_metadata, arrays)], [*map(_metadata, scalars)], [*map(_metadata, average)]))
        return core.Model(
            params=[self._params[i] for i in indices],
            states=states,
            groups=[param.group for param in params],
            where=gpu,
            array_type=ArrayMetadata,
            reader=self._reader,
            owners=[param.p for param in params] if self._family.moves and self._reader is not None else [],
            rows_type=Rows,
            copies=[None if param.copy is None else _metadata(param.copy) for param in params],
            extras=[
                _metadata(param.state[own.extra_bits]) if own.extra_bits in param.state else None
                for param, own in zip(params, settings, strict=True)
            ],
            indices=[param.index for param in params],
            compressed=[compression_of(param, own) for param, own in zip(params, settings, strict=True)],
        )

    # ---- graphs

    def _check_capture(self, group_steps: Sequence[GroupStep]) -> None:
        if any(group_step.settings.when_nonfinite for group_step in group_steps):
            raise ValueError(
                "skip_nonfinite: expected False, and on_nonfinite None, in a step that a CUDA graph captures: "
                "nobody waits for it"
            )
        if any(group_step.settings.options["row_steps"] for group_step in group_steps):
            raise ValueError("row_steps: expected False in a step that a CUDA graph captures, got True")

    def replay(self, on_time: Sequence[GroupStep], missed: Mapping[int, int]) -> list[int]:
        """Pass the constants of the next step to the step that a graph has captured.

        They follow from the groups' own steps and from how many steps each array has missed.  Return which arrays have
        no gradient in the captured step.  RuntimeError if that step is not as it would be now.
        """
        recorded = self._recorded
        if recorded is None:
            raise RuntimeError("graph_step: expected a step captured in a CUDA graph before")
        steps = native_steps(recorded.group_steps(on_time, missed))
        for part in self._parts:
            step_of, stream = self._of(part, recorded.step_of), self._stream(part)
            part.model.advance(step_of, steps, stream.pointer)
        return recorded.absent


class _Recorded(NamedTuple):
    """A captured step: what it has in common with all of its replays."""

    step_of: list[int]  # of each array
    absent: list[int]  # the arrays without a gradient
    groups: list[int]  # of each group step
    users: list[list[int]]  # of each group step, the arrays with a gradient

    @classmethod
    def of(
        cls,
        param_states: Sequence[ParamState],
        grads: list[Any],
        group_steps: Sequence[GroupStep],
        step_of: list[int] | None,
    ) -> _Recorded:
        """Make it from the arguments of the engine's step, in which the groups' own steps come first."""
        which = step_of or [param.group for param in param_states]
        groups = list(range(len(group_steps)))
        users: list[list[int]] = [[] for _ in group_steps]
        absent: list[int] = []
        for i, (param, grad) in enumerate(zip(param_states, grads, strict=True)):
            groups[which[i]] = param.group
            (absent if grad is None else users[which[i]]).append(i)
        return cls(which, absent, groups, users)

    def group_steps(self, on_time: Sequence[GroupStep], missed: Mapping[int, int]) -> Iterator[GroupStep]:
        """Return those of the next step; RuntimeError where arrays that share one no longer have the same clock."""
        for group, users in zip(self.groups, self.users, strict=True):
            settings, lr, t, *_ = on_time[group]
            late = {missed.get(i, 0) for i in users} or {0}
            if len(late) > 1:
                raise RuntimeError(
                    "graph_step: expected that no array has missed a step that others took since the capture, got one "
                    "that did: capture the step again"
                )
            yield group_step_at(settings, lr, t - late.pop(), f"param_groups[{group}]")


def _metadata(array: Any) -> ArrayMetadata:
    family = family_of(array)
    assert isinstance(family, Cuda)
    return family.metadata(array, "")


def norms(arrays: Sequence[Any], norm_type: float) -> list[float]:
    """Return the norm of each array, dense and of a known dtype; waits for them."""
    register_dtypes()
    by_gpu: dict[int, list[int]] = {}
    metadata = [_metadata(array) for array in arrays]
    for i, one in enumerate(metadata):
        by_gpu.setdefault(one.gpu, []).append(i)
    found = [0.0] * len(arrays)
    for gpu, indices in by_gpu.items():
        family = family_of(arrays[indices[0]])
        assert isinstance(family, Cuda)
        own = core.norms([metadata[i] for i in indices], norm_type, gpu, family.stream(gpu).pointer)
        for i, value in zip(indices, own, strict=True):
            found[i] = value
    return found
