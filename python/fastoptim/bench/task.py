"""One row before it is measured: an optimizer with options on some work, where and how; what it moves and needs."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import cached_property, partial
from importlib import import_module
from typing import Any

import numpy as np

from .. import native
from ..arrays import Array, compute_dtype
from ..engine import Settings
from ..optimizer import OPTIMIZERS, Optimizer
from ..options import Backend
from .machine import free_bytes
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
    threads: int = 1
    isa: str = ""
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
        rule = native.RULES[self.settings.variant]
        an_element = 2 * kept * self.settings.averages
        for accesses in (rule.measured, rule.updated):
            sizes = (own.itemsize, gradient.itemsize, *[kept] * len(rule.state))
            an_element += sum(size * len(access) for size, access in zip(sizes, accesses, strict=False))
        return an_element * self.work.elements

    @property
    def bytes_kept(self) -> int:
        """The memory of its arrays."""
        own, gradient = dtype_of(self.dtype), dtype_of(self.grad_dtype)
        arrays = len(native.RULES[self.settings.variant].state) + self.settings.averages
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
    free = free_bytes()
    for task in tasks:
        _refuse_device(task.device)
        dtype_of(task.dtype), dtype_of(task.grad_dtype)
        for name in PASSES_OF_THEIR_OWN:
            if task.settings.options[name] != task.cls.defaults[name]:  # 0 is a bound, too
                raise ValueError(f"{name}: expected none of {list(PASSES_OF_THEIR_OWN)}: they add a pass of their own")
        if free is not None and task.bytes_kept > MOST_OF_MEMORY * free:
            raise MemoryError(
                f"{task.optimizer} on {task.work.name} {task.dtype}: needs {in_gigabytes(task.bytes_kept)} "
                f"for its arrays, {in_gigabytes(free)} are free"
            )


def _refuse_device(device: str) -> None:
    info = native.build_info()
    if device == "cpu":
        return
    if info["cuda"] is None:
        raise RuntimeError("--device cuda: this fastoptim was built without CUDA")
    if not info["cuda_devices"]:
        raise RuntimeError("--device cuda: no CUDA device was found")
    raise RuntimeError("--device cuda: the benchmark has no limit for it yet")


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
    """

    opt: Optimizer
    grads: Sequence[Array]
    step: Step
    limits: dict[str, Step]


def set_up(task: Task) -> Setup:
    """Allocates what a task needs, on the threads and the instruction set that are set now."""
    opt, grads = optimizer_of(task, "native")
    step = partial(opt.step, grads)
    step()
    usable: list[str] = native.build_info()["isa_usable"]
    limits: dict[str, Step] = {isa: partial(native.limit_of(opt.slots, grads, task.settings, isa), 0) for isa in usable}
    return Setup(opt, grads, step, limits)


def optimizer_of(task: Task, backend: Backend) -> tuple[Optimizer, list[Array]]:
    """An optimizer over new arrays and their gradients, each time the same numbers."""
    rng = np.random.default_rng(0)
    own, gradient = dtype_of(task.dtype), dtype_of(task.grad_dtype)
    params = [_filled(rng, shape, own) for shape in task.work.shapes]
    grads = [_filled(rng, shape, gradient) for shape in task.work.shapes]
    options: Mapping[str, Any] = {**dict(task.options), "backend": backend}
    return task.cls(params, **options), grads


def _filled(rng: np.random.Generator, shape: Shape, dtype: np.dtype[Any]) -> Array:
    """Standard normal numbers, repeated where there are many."""
    array = np.empty(shape, dtype)
    flat = array.reshape(-1)
    numbers = rng.standard_normal(min(flat.size, _NUMBERS), np.float32).astype(dtype)
    for begin in range(0, flat.size, _NUMBERS):
        flat[begin : begin + _NUMBERS] = numbers[: flat.size - begin]
    return array


@contextmanager
def configured(task: Task) -> Iterator[None]:
    """While it lasts, steps run on the task's threads, and new optimizers on its instruction set."""
    threads, isa = native.get_num_threads(), native.Engine.isa
    try:
        native.set_num_threads(task.threads)
        native.Engine.isa = task.isa
        yield
    finally:
        native.set_num_threads(threads)
        native.Engine.isa = isa
