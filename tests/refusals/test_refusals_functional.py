"""Refusals of one update on the caller's buffers, by `fo.functional` and `fo.reference`."""

from __future__ import annotations

import math
from types import ModuleType

import ml_dtypes
import numpy as np

import fastoptim as fo
from loops import loop
from models import (
    NO_ARRAYS,
    ODD_DTYPES,
    WRONG_SHAPES,
    Buffers,
    FakeCuda,
    each_kind,
    each_module,
    of_dtype,
    without_cuda,
)


@each_kind
@each_module
def test_functions_reject_what_is_no_array(optimizer: type[fo.Optimizer], module: ModuleType) -> None:
    buffers = Buffers(optimizer)
    for name in ("p", "g", *buffers.state):
        for thing, got in NO_ARRAYS:
            with buffers.refuses(TypeError, f"{name}: expected a NumPy array", got):
                buffers.update(module, **{name: thing})


@each_kind
@each_module
def test_functions_reject_wrong_dtypes(optimizer: type[fo.Optimizer], module: ModuleType) -> None:
    buffers = Buffers(optimizer)
    for name in ("p", "g", *buffers.state):
        for dtype in ODD_DTYPES:
            with buffers.refuses(TypeError, f"{name}: expected dtype float64, float32", repr(dtype)):
                buffers.update(module, **{name: of_dtype(dtype)})


@each_kind
@each_module
def test_functions_reject_state_of_another_compute_type(optimizer: type[fo.Optimizer], module: ModuleType) -> None:
    buffers = Buffers(optimizer)
    for name in buffers.arrays:
        for dtype in (np.float64, np.float16, ml_dtypes.bfloat16):
            with buffers.refuses(TypeError, f"{name}: expected float32", np.dtype(dtype).name):
                buffers.update(module, **{name: of_dtype(np.dtype(dtype))})


@each_kind
@each_module
def test_functions_reject_wrong_shapes(optimizer: type[fo.Optimizer], module: ModuleType) -> None:
    buffers = Buffers(optimizer)
    for name in ("g", *buffers.arrays):
        for shape in WRONG_SHAPES:
            with buffers.refuses(ValueError, f"{name}: expected shape (2, 3)", f"got {shape}"):
                buffers.update(module, **{name: np.ones(shape, np.float32)})


@each_kind
@each_module
def test_functions_reject_what_they_cannot_write(optimizer: type[fo.Optimizer], module: ModuleType) -> None:
    buffers = Buffers(optimizer)
    for name in ("p", *buffers.arrays):
        locked = buffers.array((2, 3))
        locked.flags.writeable = False
        with buffers.refuses(ValueError, f"{name}: expected a writeable array"):
            buffers.update(module, **{name: locked})
        with buffers.refuses(ValueError, f"{name}: expected a dense array"):
            buffers.update(module, **{name: buffers.array((2, 6))[:, ::2]})
    for name in buffers.arrays:
        with buffers.refuses(ValueError, f"{name}: expected the parameter's memory order"):
            buffers.update(module, **{name: buffers.array((3, 2)).T})


@each_kind
@each_module
def test_functions_reject_memory_in_common(optimizer: type[fo.Optimizer], module: ModuleType) -> None:
    buffers = Buffers(optimizer)
    written = {"p": buffers.p, **{name: buffers.state[name] for name in buffers.arrays}}
    for name, array in written.items():
        for offset in (0, 4, -4, 23):
            with buffers.refuses(ValueError, "g: overlaps ", name):
                buffers.update(module, g=buffers.near(array, offset))
            for other in buffers.arrays:
                if other != name:
                    with buffers.refuses(ValueError, name, other):
                        buffers.update(module, **{other: buffers.near(array, offset)})


@each_kind
@each_module
def test_functions_reject_a_wrong_number_of_state_arrays(optimizer: type[fo.Optimizer], module: ModuleType) -> None:
    buffers = Buffers(optimizer)
    update = getattr(module, optimizer.name)
    options = buffers.case.options
    needed = list(buffers.case.state)
    for count in range(len(optimizer.state) + 3):
        if count not in (len(needed), len(optimizer.state)):
            state = [buffers.array((2, 3)) for _ in range(count)]
            with buffers.refuses(TypeError, f"expected the state arrays {needed}, got {count} arrays"):
                update(buffers.p, buffers.g, *state, step=1, **options)


@each_kind
@each_module
def test_functions_reject_a_wrong_step(optimizer: type[fo.Optimizer], module: ModuleType) -> None:
    buffers = Buffers(optimizer)
    for step in (0, -1, -(2**70), np.int64(0)):
        with buffers.refuses(ValueError, "step: expected an integer >= 1, got"):
            buffers.update(module, step=step)
    for nonsense in (1.0, np.float64(1), True, None, "1", [1], math.nan):
        with buffers.refuses(TypeError, "step: expected an integer >= 1, got"):
            buffers.update(module, step=nonsense)


@each_kind
@each_module
def test_functions_need_a_step(optimizer: type[fo.Optimizer], module: ModuleType) -> None:
    buffers = Buffers(optimizer)
    with buffers.refuses(TypeError, "step"):
        getattr(module, optimizer.name)(buffers.p, buffers.g, *buffers.state.values())


@each_kind
@each_module
@loop("option", ["learning_rate", "backend", "params", "t"])
def test_functions_reject_unknown_options(optimizer: type[fo.Optimizer], module: ModuleType, option: str) -> None:
    buffers = Buffers(optimizer)
    with buffers.refuses(TypeError, f"{option}: not an option of ", "'lr'"):
        buffers.update(module, **{option: 1})


@without_cuda
@each_kind
@each_module
def test_functions_reject_cuda_arrays_without_a_cuda_build(optimizer: type[fo.Optimizer], module: ModuleType) -> None:
    buffers = Buffers(optimizer)
    for name in ("p", "g", *buffers.state):
        with buffers.refuses(RuntimeError, f"{name}: ", "CUDA", "FakeCuda"):
            buffers.update(module, **{name: FakeCuda()})
