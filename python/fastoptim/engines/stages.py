"""The engine of rules before which whole matrices are worked on, such as Muon's and Adafactor's.

A stage is a pass of a rule that writes scratch arrays, and work on these: of the array library, or sums over axes.
After all stages one step of the backend's engine updates every array together with those of other optimizers.  So a
step that is refused, skipped or interrupted before has changed nothing, and options apply as they do to any rule.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from .. import core
from ..arrays.checks import check_gradient, check_state, memory_of
from ..arrays.cuda_families import ArrayMetadata, Cuda
from ..arrays.families import family_of, in_numpy
from ..arrays.numpy_family import NUMPY
from ..arrays.param_state import ParamState, check_targets, memory_order
from ..arrays.rows import Rows, check_rows
from ..arrays.tree import Structure
from ..extra_bits import WAYS
from ..options.settings import Settings
from ..reference_math import Array, compute_dtype, norm, norm_in_order, square_sums
from . import native
from .base import (
    NO_COUNTS,
    NOTHING_ELSEWHERE,
    Counts,
    Elsewhere,
    GroupSnapshot,
    GroupStep,
    PartEngine,
    depends_on_all,
    with_constants,
)
from .gpu_axes import GpuAxes

if TYPE_CHECKING:
    from ..options.settings import RuleClass

#: The options of a stage's pass that are those of the whole step.
_OF_THE_STEP = {
    "decoupled": False,
    "decay_schedule": "lr",
    "cautious": False,
    "cautious_decay": False,
    "bounds": None,
    "ema": None,
    "swa_start": None,
    **WAYS,
}


class Stage(NamedTuple):
    """A pass that writes scratch arrays, and the work of the array library on them."""

    rule: Any
    """The rule of the pass: one without a name, whose state arrays are those of the optimizer and its scratch."""
    work: Callable[[MatrixWork], Mapping[str, Any]]
    """The work on one parameter: may change scratch arrays, and returns new values of stage state."""
    shared: str = ""
    """The array of the pass that is in memory of all parameters together: one parameter after another has the pass and
    the work.  Empty if the pass runs over all of them."""
    copies_gradient: bool = False
    """True if the pass writes the prepared gradient alone, whose sign has no effect on the work.  A gradient that needs
    no preparation is then read where it is."""


@dataclass
class Workspace:
    """Memory for the work on one parameter after another."""

    _flat: dict[tuple[Any, ...], Any] = field(default_factory=dict)

    def array(self, name: str, like: Any, family: Any, shape: tuple[int, ...], dtype: np.dtype[Any]) -> Any:
        """Return an array in C order, with any values, in the memory of `like`."""
        key, size = (name, dtype, memory_of(family.metadata(like, ""))), math.prod(shape)
        if key not in self._flat or math.prod(self._flat[key].shape) < size:
            self._flat[key] = family.full(like, (size,), 0.0, dtype)
        return self._flat[key][:size].reshape(shape)


@dataclass
class MatrixWork:
    """One parameter in a step, for the array library.  The CPU's arrays are NumPy's over the same memory."""

    completes_squares = True
    param: ParamState
    group_step: GroupStep
    backend: str
    workspace: Workspace
    kept: Workspace
    """Memory of this parameter alone."""

    def __post_init__(self) -> None:
        metadata = self.param.metadata
        self.on_gpu = isinstance(metadata, ArrayMetadata)
        self.shape, self.size = metadata.shape, metadata.size
        self.options = self.group_step.settings.options
        self.dtype = compute_dtype(metadata.dtype)
        self._family = self.param.family if self.on_gpu else NUMPY

    def __getitem__(self, name: str) -> Any:
        """Return a scratch or state array."""
        array = self.param.state[name]
        return array if self.on_gpu else in_numpy(array)

    def array(self, name: str, shape: tuple[int, ...]) -> Any:
        """Return memory of the compute type for this parameter alone, until the next one."""
        like = self.param.p if self.on_gpu else self.param.metadata
        return self.workspace.array(name, like, self._family, shape, self.dtype)

    def next_state(self, name: str) -> Any:
        """Return memory for new values of a state array, until the parameter's next step."""
        like = self[name]
        return self.kept.array(name, like, self._family, tuple(like.shape), self.dtype)

    @property
    def gpu(self) -> GpuAxes:
        """The kernels of sums over rows and columns; their results are in the workspace."""
        family, double = self.param.family, np.dtype(np.float64)
        assert isinstance(family, Cuda)

        def allocate(name: str, size: int) -> Any:
            return self.workspace.array(name, self.param.p, family, (size,), double)

        return GpuAxes(family, self.param.p, allocate)

    def assign(self, array: Any, values: Any) -> None:
        """Assign the elements of another array, in C order."""
        self._family.assign(array, values.reshape(tuple(array.shape)))

    def matmul(self, a: Any, b: Any, out: Any) -> None:
        """Assign a product of matrices, computed by NumPy on the CPU and by the parameter's library on a GPU."""
        self._family.matmul(a, b, out)

    def astype(self, array: Any, dtype: np.dtype[Any]) -> Any:
        """Return a copy in that dtype."""
        return self._family.astype(array, dtype)

    def to_numpy(self, array: Any) -> Any:
        """Return a NumPy copy."""
        return self._family.to_numpy(array)

    def from_numpy(self, array: Any) -> Any:
        """Return a copy of a NumPy array in the compute type and the parameter's memory."""
        like = self.param.p if self.on_gpu else self.param.metadata
        copied = self._family.full(like, array.shape, 0.0, self.dtype)
        self._family.assign(copied, array)
        return copied

    def zeros_like(self, name: str) -> Any:
        """Return zeros of the shape and memory order of a scratch or state array."""
        return self._family.zeros(self[name], self.dtype)

    def eigh(self, matrix: Any) -> tuple[Any, Any]:
        """Return the eigenvalues of a symmetric matrix in ascending order, and its eigenvectors as columns."""
        values, vectors = self._family.eigh(matrix)
        return values, vectors

    def orthonormal(self, matrix: Any) -> Any:
        """Return the orthogonal matrix of a QR decomposition."""
        return self._family.orthonormal(matrix)

    def permuted(self, array: Any, axis: int, order: Any) -> Any:
        """Return an array whose slices along an axis are those of `array` in that order."""
        new = self._family.zeros(array, self.dtype)
        rows = np.arange(len(order))
        self._family.copy_rows(new.swapaxes(0, axis), rows, array.swapaxes(0, axis), np.array(order, np.int64))
        return new

    @property
    def t(self) -> int:
        """The number of the step, from 1."""
        return self.group_step.t

    def square_sums(self, array: Array) -> tuple[Array, Array]:
        """Return the sums of squares over the last axis and over the last but one, in double and with axes of length 1.

        The order of the additions depends on the shape alone.
        """
        *batch, rows, columns = array.shape
        matrices = np.ascontiguousarray(array).reshape(math.prod(batch), rows, columns)
        of_rows, of_columns = (native.square_sums if self.backend == "native" else square_sums)(matrices)
        return of_rows.reshape(*batch, rows, 1), of_columns.reshape(*batch, 1, columns)

    def norms(self, arrays: list[Any]) -> list[float]:
        """Return the Euclidean norms of arrays; on a GPU of those whose squares are finite in double."""
        if self.on_gpu:
            squares = (self.astype(array, np.dtype(np.float64)).reshape(-1) ** 2 for array in arrays)
            return [math.sqrt(float(self.to_numpy(each.sum(0)))) for each in squares]
        if self.backend == "native":
            return native.norms(arrays, 2.0)
        return [norm(array, 2.0) for array in arrays]


@dataclass
class NarrowWork:
    """The products of a parameter's library in bfloat16, on arrays of its own."""

    completes_squares = False
    work: MatrixWork

    def __post_init__(self) -> None:
        self.param = self.work.param
        self._family: Any = self.param.family
        if not self._family.multiplies_bfloat16:
            raise ValueError(
                f"{self.param.p_place}: expected a PyTorch tensor for products in bfloat16, got an array of "
                f"{self._family.name}"
            )

    def from_compute(self, array: Any) -> Any:
        """Return a rounded copy of an array of the compute type."""
        return self._family.in_bfloat16(array)

    def to_compute(self, array: Any) -> Any:
        """Return a copy in float32, on the CPU as a NumPy array."""
        wide = array.float()
        return wide if self.work.on_gpu else in_numpy(wide)

    def array(self, name: str, shape: tuple[int, ...]) -> Any:
        """Return memory with any values."""
        return self._family.empty_bfloat16(self.param.p, shape)

    def matmul(self, a: Any, b: Any, out: Any) -> None:
        """Assign a product of matrices."""
        self._family.matmul(a, b, out)


class Engine:
    """Run the stages of every array, then one step of all."""

    def __init__(
        self,
        param_states: Sequence[ParamState],
        rules: Sequence[type[RuleClass]],
        backend: str,
        make: Callable[[Sequence[ParamState]], PartEngine],
    ) -> None:
        self._backend, self._rules = backend, rules
        self._params = [
            replace(param, state={**param.state, **{name: param.allocate(name) for name in rule.scratch}})
            for param, rule in zip(param_states, rules, strict=True)
        ]
        self._whole = make(self._params)
        self._workspace = Workspace()
        self._kept = [Workspace() for _ in self._params]
        self._passes: list[_Pass] = []
        shared: dict[tuple[Any, ...], Any] = {}
        for k in range(max(len(rule.stages) for rule in rules)):
            having = [i for i, rule in enumerate(rules) if k < len(rule.stages)]
            alone = [i for i in having if rules[i].stages[k].shared]
            together = [i for i in having if not rules[i].stages[k].shared]
            for indices in (*([i] for i in alone), *([together] if together else [])):
                params = [self._for_stage(i, k, shared) for i in indices]
                self._passes.append(_Pass(k, indices, params, make(params)))

    def _for_stage(self, index: int, k: int, shared: dict[tuple[Any, ...], Any]) -> ParamState:
        """Return the parameter with the arrays of a stage's pass; one of these may be in memory of all parameters."""
        param, stage = self._params[index], self._rules[index].stages[k]
        (names,) = stage.rule.variants.values()
        state = {name: param.state[name] for name in names if name != stage.shared}
        if stage.shared:
            key = _memory_key(param)
            if key not in shared:
                sizes = [each.metadata.size for each in self._params if _memory_key(each) == key]
                shared[key] = _flat_memory(param, max(sizes))
            state[stage.shared] = _in_layout_of(param, shared[key])
        return replace(param, state={name: state[name] for name in names}, copy=None)

    def step(
        self,
        grads: list[Any],
        group_steps: Sequence[GroupStep],
        step_of: list[int] | None = None,
        counts: Counts = NO_COUNTS,
        elsewhere: Elsewhere = NOTHING_ELSEWHERE,
    ) -> int | None:
        """Update every array that has a gradient; see fastoptim.engines.base.Engine."""
        which = [param.group for param in self._params] if step_of is None else step_of
        steps = [group_steps[index] for index in which]
        self._check(grads, steps)
        if elsewhere.global_norm is None and any(map(depends_on_all, group_steps)):
            norms = self._whole.clipped_norms(list(grads), group_steps, step_of)
            if norms is None:
                return None
            norm_type = group_steps[0].settings.options["norm_type"]
            elsewhere = elsewhere._replace(global_norm=norm_in_order(norms, norm_type))
        state: list[tuple[Any, Any, Any]] = []
        for each in self._passes:
            own_steps = [_step_of_stage(steps[i], each.k) for i in each.indices]
            own_grads = [grads[i] for i in each.indices]
            if all(grad is None for grad in own_grads):
                continue
            as_it_is = self._gradient_as_it_is(each, own_grads, own_steps)
            if as_it_is is None:
                taken = each.engine.step(own_grads, own_steps, [*range(len(own_steps))], NO_COUNTS, elsewhere)
                if taken is None:
                    return None
            for i, param in zip(each.indices, each.params, strict=True):
                if grads[i] is not None:
                    state += self._work(i, steps[i], each.k, param.state if as_it_is is None else as_it_is)
        group_steps = [_first_step(each) for each in group_steps]
        if not state:
            return self._whole.step(grads, group_steps, step_of, counts, elsewhere)
        return self._commit(state, grads, group_steps, step_of, counts, elsewhere)

    def _gradient_as_it_is(
        self, each: _Pass, grads: Sequence[Any], steps: Sequence[GroupStep]
    ) -> dict[str, Array] | None:
        """Return the array that a pass would write if that is the gradient itself, else None."""
        stage = self._rules[each.indices[0]].stages[each.k]
        if not stage.copies_gradient or grads[0] is None or isinstance(grads[0], Rows) or prepares(steps[0]):
            return None
        p = each.params[0].metadata
        checked = check_gradient(grads[0], each.params[0].g_place, p)
        if checked.dtype == np.float64 and compute_dtype(p.dtype) != np.float64:  # it is rounded
            return None
        if not isinstance(p, ArrayMetadata):
            return {stage.shared: in_numpy(checked)}
        is_on_the_stream = family_of(grads[0]) is each.params[0].family
        return {stage.shared: grads[0]} if is_on_the_stream else None

    def _work(
        self, index: int, group_step: GroupStep, k: int, arrays: Mapping[str, Any]
    ) -> Iterable[tuple[Any, Any, Any]]:
        """Do a stage's work on one parameter, with the arrays of its pass, and yield the assignments of its state."""
        param = self._params[index]
        with_arrays = replace(param, state={**param.state, **arrays})
        work = MatrixWork(with_arrays, group_step, self._backend, self._workspace, self._kept[index])
        with param.family.arithmetic(param.p), np.errstate(all="ignore"):
            made = self._rules[index].stages[k].work(work)
        for name, value in made.items():
            yield param.family, param.state[name], value

    def _commit(
        self,
        state: list[tuple[Any, Any, Any]],
        grads: list[Any],
        group_steps: Sequence[GroupStep],
        step_of: list[int] | None,
        counts: Counts,
        elsewhere: Elsewhere,
    ) -> int | None:
        """Take the step and assign the stages' state, or neither, also where a signal handler raises an exception."""
        counts = counts if counts.after else Counts([0], (1,))
        before, result = counts.now[0], sum(grad is not None for grad in grads)

        def commit() -> None:
            if counts.now[0] == before:  # else this is the second attempt, after an interrupt
                self._whole.step(list(grads), group_steps, step_of, counts, elsewhere)
            for family, array, value in state:
                family.assign(array, value)

        core.complete(commit)
        return result

    def _check(self, grads: list[Any], steps: Sequence[GroupStep]) -> None:
        """Raise an error for shapes that an option has excluded since, and for rows of a matrix."""
        for i, rule in enumerate(self._rules):
            param, settings = self._params[i], steps[i].settings
            if not rule.stages:
                continue
            _refuse_capture(param, rule)
            rule.check_shape(param.metadata.shape, settings.options, param.p_place)
            schema = rule.schema_for(settings.options)
            for name in rule.stage_state:
                if schema[name].belongs_to(param.metadata.shape):
                    check_state(param.state[name], param.state_place(name), param.metadata, schema[name])
            if isinstance(grads[i], Rows):
                check_rows(param, grads[i], check_targets(self._params), settings)

    def clipped_norms(
        self, grads: list[Any], group_steps: Sequence[GroupStep], step_of: list[int] | None = None
    ) -> list[float] | None:
        """See fastoptim.engines.base.Engine."""
        return self._whole.clipped_norms(grads, group_steps, step_of)

    def rule_sums(
        self,
        grads: list[Any],
        group_steps: Sequence[GroupStep],
        step_of: list[int] | None = None,
        global_norm: float | None = None,
    ) -> list[tuple[float, ...]]:
        """See fastoptim.engines.base.Engine."""
        return self._whole.rule_sums(grads, group_steps, step_of, global_norm)

    def fast_path(self, structure: Structure, groups: Sequence[GroupSnapshot], containers: list[Any]) -> None:
        """Return None: this engine has no fast path."""


def _refuse_capture(param: ParamState, rule: type[RuleClass]) -> None:
    """Raise RuntimeError if a CUDA graph is being captured."""
    family, metadata = param.family, param.metadata
    if not isinstance(family, Cuda) or not isinstance(metadata, ArrayMetadata):
        return
    if family.stream(metadata.gpu, param.p).records:
        raise RuntimeError(
            f"step: expected no step of {rule.__name__} while a CUDA graph is captured, as its work on whole matrices "
            f"cannot be in a graph, got one"
        )


def _first_step(group_step: GroupStep) -> GroupStep:
    """Return the step with the options that a rule has in its first step alone."""
    settings, lr, t, scale, _ = group_step
    changes = settings.optimizer.first_step_options
    if t != 1 or not changes:
        return group_step
    if "first step" not in settings.memo:
        options = {**settings.options, **changes}
        settings.memo["first step"] = Settings(settings.optimizer, settings.variant, options)
    return with_constants(settings.memo["first step"], lr, t, scale)


class _Pass(NamedTuple):
    """The pass of a stage over these arrays."""

    k: int
    indices: list[int]
    params: list[ParamState]
    """With the arrays of the pass as their state."""
    engine: PartEngine


def _memory_key(param: ParamState) -> tuple[Any, ...]:
    """Return a key that parameters have in common whose scratch arrays may be in the same memory."""
    metadata = param.metadata
    return compute_dtype(metadata.dtype), memory_of(metadata)


def _flat_memory(param: ParamState, size: int) -> Any:
    """Return a vector of the compute type with any values, in the parameter's memory; on the CPU NumPy's."""
    dtype = compute_dtype(param.metadata.dtype)
    on_gpu = isinstance(param.metadata, ArrayMetadata)
    return param.family.full(param.p, (size,), 0.0, dtype) if on_gpu else np.empty(size, dtype)


def _in_layout_of(param: ParamState, flat: Any) -> Any:
    """Return an array of the parameter's shape and memory order in the memory of a vector."""
    p = param.metadata
    axes = memory_order(p)
    in_order = flat[: p.size].reshape([p.shape[axis] for axis in axes])
    family = param.family if isinstance(p, ArrayMetadata) else NUMPY
    return family.transpose(in_order, np.argsort(axes).tolist())


def prepares(group_step: GroupStep) -> bool:
    """Return whether anything but its sign is changed in a gradient before the rule."""
    options = group_step.settings.options
    clips = any(options[name] is not None for name in native.CLIPS)
    penalties = options["l1"] or (options["weight_decay"] and not options["decoupled"])
    return bool(clips or penalties or group_step.grad_scale != 1)


def _step_of_stage(group_step: GroupStep, k: int) -> GroupStep:
    """Return the step of a stage's pass.

    Its number is 1, since every 64th step would flush subnormal numbers of state that the pass only reads.
    """
    settings, lr, t, scale, _ = group_step
    memo = settings.memo
    if f"stage {k}" not in memo:
        rule, options = settings.optimizer.stages[k].rule, settings.options
        weight_decay = 0.0 if options["decoupled"] else options["weight_decay"]
        (variant,) = rule.variants
        memo[f"stage {k}"] = Settings(rule, variant, {**options, **_OF_THE_STEP, "weight_decay": weight_decay})
    return with_constants(memo[f"stage {k}"], lr, t, scale)._replace(t=1)
