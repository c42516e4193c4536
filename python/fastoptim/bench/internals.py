"""Everything of the package that the benchmark uses and that the package does not export, in this one file.

It makes optimizers and bandwidth probes for a `Workload`, counts their bytes, compares native answers with the
reference, and rejects workloads that cannot run.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from importlib import import_module
from typing import Any

import numpy as np

from .. import _bench, core
from ..engines import native
from ..extra_bits import is_narrow
from ..optimizer.base import OPTIMIZERS, Optimizer
from ..options.schema import AVERAGE, SCALES
from ..options.settings import Settings
from ..reference_math import Array
from . import machine
from .workload import Workload

#: The number of elements up to which the reference takes a fraction of a second.  Of larger workloads it steps a part.
MOST_CHECKED = 1 << 20
CHECKED_STEPS = 3
#: The part of the free memory that a workload may take.
MOST_OF_MEMORY = 0.9
#: Options that make a step read its gradients once more beforehand, which the probe does not.
EXTRA_PASSES = ("clip_norm", "clip_global_norm", "skip_nonfinite", "on_nonfinite")
#: Random numbers that are repeated in larger arrays: a new one for every element would take longer than the timing.
NUMBERS = 1 << 16

Probe = Callable[[int], object]  # called with a mask; 0 changes no array


# ---- what a workload costs


def settings_of(workload: Workload) -> Settings:
    """Return its optimizer's options, checked."""
    return OPTIMIZERS[workload.optimizer].check_options(dict(workload.options), f"{workload.optimizer}: ")


def dtype_of(name: str) -> np.dtype[Any]:
    """Return a format by its name; ImportError if that needs another package."""
    if name == "bfloat16":
        try:
            import_module("ml_dtypes")  # registers the name
        except ImportError:
            raise ImportError("bfloat16: needs ml_dtypes; pip install 'fastoptim[bfloat16]'") from None
    return np.dtype(name)


def passes_of(settings: Settings) -> list[dict[str, str]]:
    """Return the accesses of each pass over the elements: "r", "rw" or "" by the array's name."""
    rule = core.RULES[settings.variant]
    passes = [dict(zip(("p", "g", *rule.state), accesses, strict=False)) for accesses in (rule.reduces, rule.updates)]
    passes[-1] |= {AVERAGE: "rw"} if settings.averages else {}
    return passes


def count_bytes(workload: Workload) -> tuple[int, int]:
    """Count the bytes that a step reads and writes, and the bytes of its arrays."""
    settings, p, g = settings_of(workload), dtype_of(workload.dtype), dtype_of(workload.grad_dtype)
    passes = passes_of(settings)
    if is_narrow(p) and settings.extra_bits is not None:
        passes[-1][settings.extra_bits] = "rw"
    moved = held = 0
    for shape in workload.shapes:
        size = math.prod(shape)
        schema = settings.stored_schema(size)
        sizes = {"p": size * p.itemsize, "g": size * g.itemsize}
        for name in passes[-1].keys() - sizes.keys():
            arrays = [schema[key] for key in (name, name + SCALES) if key in schema]
            sizes[name] = sum(math.prod(array.shape_for(shape)) * array.dtype_for(p).itemsize for array in arrays)
        moved += sum(sizes[name] * len(access) for accesses in passes for name, access in accesses.items())
        held += sum(sizes.values())
    return moved, held


def check_workloads(workloads: Sequence[Workload]) -> None:
    """Raise an error if one of them cannot run, before anything is allocated or timed."""
    if any(workload.device == "cuda" for workload in workloads):
        if status := core.cuda_status():
            raise RuntimeError(f"--device cuda: {status}")
        machine.import_cupy()
    free = {device: machine.free_bytes(device) for device in {workload.device for workload in workloads}}
    for workload in workloads:
        given, defaults = settings_of(workload).options, OPTIMIZERS[workload.optimizer].defaults
        for name in EXTRA_PASSES:
            if given[name] != defaults[name]:  # 0 is a bound, too
                raise ValueError(f"{name}: expected none of {list(EXTRA_PASSES)}: they add a pass of their own")
        needed, available = count_bytes(workload)[1], free[workload.device]
        if base := workload.in_float32:
            needed += count_bytes(base)[1]
        if available is not None and needed > MOST_OF_MEMORY * available:
            where = " on the GPU" if workload.device == "cuda" else ""
            raise MemoryError(
                f"{workload.optimizer} on {workload.name} {workload.dtype}: needs {needed / 1e9:,.1f} GB "
                f"for its arrays, {available / 1e9:,.1f} GB are free{where}"
            )


# ---- optimizers and probes


def make_optimizer(workload: Workload, *, reference: bool = False) -> tuple[Optimizer, list[Any]]:
    """Return an optimizer over new arrays and their gradients.  Every call fills in the same numbers."""
    rng = np.random.default_rng(0)
    xp = machine.import_cupy() if workload.device == "cuda" and not reference else np

    def random(dtype: str) -> list[Any]:
        numbers = (rng.standard_normal(min(math.prod(shape), NUMBERS), np.float32) for shape in workload.shapes)
        formatted = (array.astype(dtype_of(dtype)) for array in numbers)
        return [xp.asarray(np.resize(a, shape)) for a, shape in zip(formatted, workload.shapes, strict=True)]

    params, grads = random(workload.dtype), random(workload.grad_dtype)
    options: dict[str, Any] = {**workload.options, "backend": "reference" if reference else "native"}
    return OPTIMIZERS[workload.optimizer](params, **options), grads


def make_probes(opt: Optimizer, grads: Sequence[Any], workload: Workload) -> dict[str, Probe]:
    """Return the bandwidth probes of an optimizer that has taken a step, by name.

    On the CPU there is one for each usable instruction set.  It reads and writes what a step does, and XORs its mask
    into what is written, together with what is only read.  On a GPU the probe copies an array of half as many bytes as
    a step reads and writes.
    """
    if workload.device == "cuda":
        xp = machine.import_cupy()
        source, target = (xp.empty(count_bytes(workload)[0] // 2, np.uint8) for _ in range(2))
        return {"copy": lambda mask: target.__setitem__(..., source)}
    model = opt._engine._model  # type: ignore[union-attr]
    rule = core.RULES[settings_of(workload).variant].number
    usable: list[str] = core.build_info()["isa_usable"]
    return {isa: core.BandwidthProbe(model, list(grads), rule, _bench.LOOPS[isa]) for isa in usable}


@contextmanager
def configured(workload: Workload) -> Iterator[None]:
    """Run the CPU's steps on the workload's threads, and new optimizers on its instruction set, inside the block."""
    call, isa = core.thread_info()["limits"]["call"] or 0, native.Engine.isa  # 0: not set by a call
    try:
        core.set_num_threads(workload.threads or call)
        native.Engine.isa = isa if workload.isa is None else workload.isa
        yield
    finally:
        core.set_num_threads(call)
        native.Engine.isa = isa


def default_isa() -> str:
    """Return the instruction set that new optimizers use."""
    return native.Engine.isa or str(core.build_info()["isa"])


# ---- answers


def check_answers(workload: Workload) -> int:
    """Compare every bit of a few steps with the reference's; return the number of parameters' elements compared."""
    part = workload.capped(MOST_CHECKED)
    with configured(part), np.errstate(all="ignore"):
        own, grads = make_optimizer(part)
        reference, same = make_optimizer(part, reference=True)
        for _ in range(CHECKED_STEPS):
            own.step(grads)
            reference.step(same)
    for param, expected in zip(own.param_states, reference.param_states, strict=True):
        pairs = [(param.p_place, param.p, expected.p)]
        pairs += [(param.state_place(name), array, expected.state[name]) for name, array in param.state.items()]
        for place, array, wanted in pairs:
            if different := count_different(param.family.to_numpy(array), wanted):
                raise ArithmeticError(
                    f"{part.optimizer}: {place} differs from the reference in {different:,} of {array.size:,} elements "
                    f"after {CHECKED_STEPS} steps; nothing was timed"
                )
    return part.elements


def count_different(a: Array, b: Array) -> int:
    """Count the elements that differ in a bit; all NaNs are equal."""
    words = f"u{a.itemsize}"
    different = a.reshape(-1).view(words) != b.reshape(-1).view(words)
    return int((different & ~(np.isnan(a) & np.isnan(b)).reshape(-1)).sum())
