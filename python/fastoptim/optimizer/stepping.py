"""The slow path of a step, and steps that a CUDA graph has captured.

The fast path is at the top of `Optimizer.step`.  The slow path takes the steps whose learning rate or other constants
change, and those in which anything may be new or wrong.  It produces the error messages.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, Literal

from ..arrays.checks import raise_nonfinite
from ..arrays.rows import values_of
from ..arrays.torch_families import version_marker
from ..engines import cuda
from ..engines.base import Counts, FastPath, GroupStep, group_step_at
from ..options.checks import check_option, rate_at
from .accumulation import ACCUMULATED, Accumulation, check_none_pending, drop, take
from .containers import check_not_rebound, mutable_containers
from .groups import check_group_count, check_norm_types, raise_lr_max

if TYPE_CHECKING:
    from .protocols import OptimizerParts


def try_scheduled_step(optimizer: OptimizerParts, fast_path: FastPath, grads: Any) -> bool:
    """Take a step on the fast path with learning rates of the package's schedules; return whether it was taken."""
    step = optimizer._step_count
    scheduled = (step + 1, *[rate(step) for rate in fast_path.rates])
    # The schedules are Python code, in which other threads, signal handlers and finalizers may run: the checks follow.
    if optimizer._fast_path is not fast_path or optimizer._swapped_by or fast_path.try_scheduled_step is None:
        return False
    return fast_path.try_scheduled_step(optimizer.param_groups, grads, optimizer._counts, scheduled)


def step_slow_path(optimizer: OptimizerParts, grads: Any, accumulation: Accumulation) -> bool | None:
    """Take a step, and return what `Optimizer.step` does."""
    if optimizer._swapped_by:
        optimizer.check_not_swapped()
    if accumulation != "mean":
        check_option(Accumulation, accumulation, "accumulation")
    fast_path = optimizer._fast_path
    flat = fast_path.match_inputs(optimizer.param_groups, optimizer._resolved, grads) if fast_path else None
    as_seen = flat is not None
    divisor = 1
    if flat is None:
        check_not_rebound(optimizer)
        if grads is ACCUMULATED:
            flat, divisor = take(optimizer, accumulation)
            grads = optimizer._structure.build(iter(flat))
        else:
            check_none_pending(optimizer, "step")
            flat = optimizer._structure.match(grads, "grads")
    group_steps = group_steps_of(optimizer, as_seen)
    if divisor > 1:
        group_steps = [own._replace(grad_scale=own.grad_scale * divisor) for own in group_steps]
    result = None  # of a step that is taken; determined before it, because that may raise MemoryError
    for group_step in group_steps:
        if group_step.settings.skips:
            result = True
    if optimizer._swapped_by:  # a callable learning rate has entered averaged() or lookahead()
        optimizer.check_not_swapped()
    status = ""
    if fast_path and as_seen and optimizer._fast_path is fast_path:  # else a callable has assigned options
        status, _ = fast_path.step_with(flat, group_steps, optimizer._counts)
    try:
        stepped = status == "stepped" or (status != "skipped" and optimizer._step_by_engine(flat, group_steps))
    except FloatingPointError:  # of a stage, for a gradient of which no later step could be taken either
        drop(optimizer)
        raise
    if not stepped:
        drop(optimizer)
        return check_skipped(optimizer, group_steps, grads)  # a gradient is not finite
    raise_lr_max(optimizer, group_steps)
    return result


def check_skipped(
    optimizer: OptimizerParts, group_steps: Sequence[GroupStep], grads: Any, root: str = "grads"
) -> Literal[False]:
    """Return False, the result of a skipped step, or raise the error that `on_nonfinite` demands."""
    if any(group_step.settings.when_nonfinite == "raise" for group_step in group_steps):
        flat = optimizer._structure.match(grads, root)
        paths = (root + param.place for param in optimizer.param_states)
        raise_nonfinite(values_of(zip(paths, flat, strict=True)))
    return False


def step_by_engine(optimizer: OptimizerParts, flat: list[Any], group_steps: list[GroupStep]) -> bool:
    """Call the engine's step, and prepare the fast path for the next one; return False if it was skipped.

    The step itself counts, and may end in an exception of a signal handler: what is to follow it goes before.
    """
    optimizer._fast_path = None
    missed, now = optimizer._missed, optimizer._step_count
    step_of = _add_late_group_steps(optimizer, group_steps) if missed else None
    engine = optimizer._engine or optimizer.engine_for(optimizer.param_states)
    pairs = zip(group_steps, optimizer._resolved, strict=False)
    is_current = all(group_step.settings is seen.settings for group_step, seen in pairs)
    # Otherwise a callable has assigned options of its own group, which are valid from the next step on.
    optimizer._engine = engine if is_current else None
    absent = [i for i, grad in enumerate(flat) if grad is None]
    counts = Counts(optimizer._counts, (now + 1, missed_with(missed, absent, optimizer.reduces_all)))
    present = (param for param, grad in zip(optimizer.param_states, flat, strict=True) if grad is not None)
    written = [array for param in present for array in (param.p, param.copy) if array is not None]
    mark = version_marker(written)
    stepped = engine.step(flat, group_steps, step_of, counts)
    try:
        if mark and stepped is not None:
            mark()
        if is_current and stepped == len(flat) and not missed:
            containers = mutable_containers(optimizer)
            fast_path = engine.fast_path(optimizer._structure, optimizer._resolved, containers)
            optimizer._fast_path = _marked(fast_path, mark) if fast_path and mark else fast_path
    except MemoryError:  # the step is taken; a later one prepares the fast path
        pass
    return stepped is not None


def _marked(fast_path: FastPath, mark: Callable[[], None]) -> FastPath:
    """Return the fast path of tensors, whose versions each step that is taken increments."""

    def with_mark(call: Any) -> Any:
        def step(*args: Any) -> Any:
            result = call(*args)
            if result is True or (result and result[0] == "stepped"):
                mark()
            return result

        return call and step

    steps = ("step_with", "try_step", "try_scheduled_step")
    return fast_path._replace(**{name: with_mark(getattr(fast_path, name)) for name in steps})


class StepsInGraphs:
    """The method of an optimizer that takes a captured step."""

    def graph_step(self: Any) -> None:
        """Take the step that a CUDA graph has captured: call it before each replay, on the replay's stream.

        It passes the learning rate, the step count and the other constants of the next step to the graph.  The arrays,
        the gradients' buffers and which of them are None stay as they were at the capture.  Options may change, except
        those that determine the launches, such as whether norms are bounded: RuntimeError if they have changed.  The
        captured call of `step` is not a step: it returns False and is not counted.

        With CuPy::

            cupy.cuda.Device().synchronize()  # wait for the streams that the arrays were made on
            with cupy.cuda.Stream(non_blocking=True) as stream:
                opt.step(grads)  # an ordinary step first
                stream.begin_capture()
                opt.step(grads)
                graph = stream.end_capture()
                for batch in data:
                    ...  # write the batch's gradients into the arrays of grads
                    opt.graph_step()
                    graph.launch()
        """
        self.check_not_swapped()
        group_steps = group_steps_of(self)
        if not isinstance(self._engine, cuda.Engine):
            raise RuntimeError("graph_step: expected a step captured in a CUDA graph before")
        absent = self._engine.replay(group_steps, self._missed)
        missed = missed_with(self._missed, absent, self.reduces_all)
        self._counts[:] = self._step_count + 1, missed
        raise_lr_max(self, group_steps)


def group_steps_of(optimizer: OptimizerParts, as_seen: bool = False) -> list[GroupStep]:
    """Return the next step of each group; with `as_seen` no option was assigned since the last one."""
    group_steps = []
    before, missed = optimizer._step_count, optimizer._missed
    for index in range(len(optimizer._trees)):
        if len(optimizer.param_groups) != len(optimizer._trees):  # in the loop, since a callable may change the list
            check_group_count(optimizer)
        if not as_seen:
            optimizer._settings(index)
        _, settings, place = optimizer._resolved[index]
        lr = settings.options["lr"]
        if type(lr) is not float:
            lr = rate_at(lr, optimizer._step_count, place, "['lr']")
            as_seen = False  # it may have assigned options of the groups that follow
        group_steps.append(group_step_at(settings, lr, before + 1, place))
    if not optimizer._fast_path:  # else no option has changed
        check_norm_types([group_step.settings for group_step in group_steps], "param_groups")
    if optimizer._step_count != before or optimizer._missed is not missed:
        did = "took it" if optimizer._step_count == before + 1 else "loaded a state dict"
        raise RuntimeError(f"lr: expected a schedule that leaves step {before + 1} alone, got one that {did}")
    return group_steps


def missed_with(missed: dict[int, int], absent: Sequence[int], reduces_all: bool) -> dict[int, int]:
    """Return how many steps each array has missed after a step in which these have no gradient."""
    return missed if reduces_all else missed | {i: missed.get(i, 0) + 1 for i in absent}


def _add_late_group_steps(optimizer: OptimizerParts, group_steps: list[GroupStep]) -> list[int]:
    """Append the steps of arrays that have missed some, and return the index of each array's step."""
    which = {(index, 0): index for index in range(len(group_steps))}
    step_of = []
    for i, param in enumerate(optimizer.param_states):
        key = (param.group, optimizer._missed.get(i, 0))
        if key not in which:
            which[key] = len(group_steps)
            on_time = group_steps[param.group]
            late = group_step_at(on_time.settings, on_time.lr, on_time.t - key[1], f"param_groups[{param.group}]")
            group_steps.append(late._replace(grad_scale=on_time.grad_scale))
        step_of.append(which[key])
    return step_of
