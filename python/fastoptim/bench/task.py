"""One row before it is measured: an optimizer with options on some work, where and how; what it moves and needs."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import cached_property, partial
from importlib import import_module
from typing import Any

import numpy as np

from .. import core
from ..engines import cuda, native
from ..optimizer.base import OPTIMIZERS, Optimizer
from ..options.checks import Backend
from ..options.settings import Settings
from ..reference_math import compute_dtype
from . import gpu, machine
from .models import Shape, Work
from .timing import Step

DTYPES = ("float64", "float32", "float16", "bfloat16")
DEVICES = ("cpu", "cuda")

#: Options that make a step read its gradients once more beforehand, which the limit does not.
PASSES_OF_THEIR_OWN = ("clip_norm", "clip_global_norm", "skip_nonfinite")

#: Of the free memory; the rest is for everybody else.
MOST_OF_MEMORY = 0.9

#: Random numbers that are laid out again and again: drawing a new one for every element would take longer than timing.
_NUMBERS = 1 << 16


@dataclass(frozen=True)
class Task:
    """What one row of the table is about."""

    optimizer: str
    work: Work
    dtype: str = "float32"
    grad_dtype: str = "float32"
    threads: int | None = 1  # None on a GPU, as the instruction set
    isa: str | None = ""
    device: str = "cpu"
    options: tuple[tuple[str, Any], ...] = ()

    @property
    def cls(self) -> type[Optimizer]:
        """The optimizer's class."""
        return OPTIMIZERS[self.optimizer]

    @cached_property
    def settings(self) -> Settings:
        """Its options, checked."""
        return self.cls.check_options(dict(self.options), f"{self.optimizer}: ")

    def on(self, work: Work) -> Task:
        """The same on other work."""
        return replace(self, work=work)

    @property
    def bytes_moved(self) -> int:
        """What a step reads and writes of p, g and every state array; what it writes it has read before."""
        own, gradient = dtype_of(self.dtype), dtype_of(self.grad_dtype)
        kept = compute_dtype(own).itemsize
        rule = core.RULES[self.settings.variant]
        an_element = 2 * kept * self.settings.averages
        for accesses in (rule.reduces, rule.updates):
            sizes = (own.itemsize, gradient.itemsize, *[kept] * len(rule.state))
            an_element += sum(size * len(access) for size, access in zip(sizes, accesses, strict=False))
        return an_element * self.work.elements

    @property
    def bytes_kept(self) -> int:
        """The memory of its arrays."""
        own, gradient = dtype_of(self.dtype), dtype_of(self.grad_dtype)
        arrays = len(core.RULES[self.settings.variant].state) + self.settings.averages
        return (own.itemsize + gradient.itemsize + arrays * compute_dtype(own).itemsize) * self.work.elements


def dtype_of(name: str) -> np.dtype[Any]:
    """A format by its name; ImportError where that needs another package."""
    if name == "bfloat16":
        try:
            import_module("ml_dtypes")  # which gives NumPy the name
        except ImportError:
            raise ImportError("bfloat16: needs ml_dtypes; pip install 'fastoptim[bfloat16]'") from None
    return np.dtype(name)


def refuse(tasks: Sequence[Task]) -> None:
    """Raises what is wrong with any of these, before anything is allocated or timed."""
    if any(task.device == "cuda" for task in tasks):
        gpu.require()
    free = {device: free_bytes(device) for device in {task.device for task in tasks}}
    for task in tasks:
        dtype_of(task.dtype), dtype_of(task.grad_dtype)
        for name in PASSES_OF_THEIR_OWN:
            if task.settings.options[name] != task.cls.defaults[name]:  # 0 is a bound, too
                raise ValueError(f"{name}: expected none of {list(PASSES_OF_THEIR_OWN)}: they add a pass of their own")
        available = free[task.device]
        if available is not None and task.bytes_kept > MOST_OF_MEMORY * available:
            on_gpu = " on the GPU" if task.device == "cuda" else ""
            raise MemoryError(
                f"{task.optimizer} on {task.work.name} {task.dtype}: needs {in_gigabytes(task.bytes_kept)} "
                f"for its arrays, {in_gigabytes(available)} are free{on_gpu}"
            )


def free_bytes(device: str) -> int | None:
    """Of the memory that a device's arrays are in."""
    return gpu.free_bytes() if device == "cuda" else machine.free_bytes()


def in_gigabytes(count: float) -> str:
    """A number of bytes for a reader.

    >>> in_gigabytes(1.6e9)
    '1.6 GB'
    """
    return f"{count / 1e9:,.1f} GB"


@dataclass(frozen=True)
class Setup:
    """Arrays, an optimizer that has taken one step on them, and the limit over the very same arrays.

    The limit is the machine's, not an instruction set's: wider registers are not always faster, so each has its pass.
    A GPU has one, under its device's name.
    """

    opt: Optimizer
    grads: Sequence[Any]  # of the device's library
    step: Step
    limits: dict[str, Step]


def set_up(task: Task) -> Setup:
    """Allocates what a task needs, on the threads and the instruction set that are set now."""
    opt, grads = optimizer_of(task, "native")
    step = partial(opt.step, grads)
    step()
    return Setup(opt, grads, step, {name: partial(limit, 0) for name, limit in _limits(task, opt, grads).items()})


def _limits(task: Task, opt: Optimizer, grads: Sequence[Any]) -> dict[str, Callable[[int], object]]:
    if task.device == "cuda":
        return {task.device: cuda.BandwidthProbe(opt.param_states, grads, task.settings)}
    usable: list[str] = core.build_info()["isa_usable"]
    return {isa: native.bandwidth_probe_of(opt.param_states, grads, task.settings, isa) for isa in usable}


def optimizer_of(task: Task, backend: Backend) -> tuple[Optimizer, list[Any]]:
    """An optimizer over new arrays and their gradients, each time the same numbers; the reference's are NumPy's."""
    rng = np.random.default_rng(0)
    library = gpu.cupy() if task.device == "cuda" and backend == "native" else np
    own, gradient = dtype_of(task.dtype), dtype_of(task.grad_dtype)
    params = [_filled(library, rng, shape, own) for shape in task.work.shapes]
    grads = [_filled(library, rng, shape, gradient) for shape in task.work.shapes]
    options: Mapping[str, Any] = {**dict(task.options), "backend": backend}
    return task.cls(params, **options), grads


def _filled(library: Any, rng: np.random.Generator, shape: Shape, dtype: np.dtype[Any]) -> Any:
    """Standard normal numbers, repeated where there are many."""
    array = library.empty(shape, dtype)
    flat = array.reshape(-1)
    numbers = library.asarray(rng.standard_normal(min(flat.size, _NUMBERS), np.float32).astype(dtype))
    for begin in range(0, flat.size, _NUMBERS):
        flat[begin : begin + _NUMBERS] = numbers[: flat.size - begin]
    return array


@contextmanager
def configured(task: Task) -> Iterator[None]:
    """While it lasts, steps on the CPU run on the task's threads, and new optimizers on its instruction set."""
    call, isa = core.thread_info()["limits"]["call"], native.Engine.isa
    try:
        core.set_num_threads(task.threads or call or 0)  # 0: no call
        native.Engine.isa = isa if task.isa is None else task.isa
        yield
    finally:
        core.set_num_threads(call or 0)
        native.Engine.isa = isa
