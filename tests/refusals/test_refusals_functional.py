"""Refusals of one update on the caller's buffers, by `fo.functional` and `fo.reference`."""

from __future__ import annotations

import math

import ml_dtypes
import numpy as np

from loops import loop
from models import NO_ARRAYS, ODD_DTYPES, WRONG_SHAPES, Buffers, FakeCuda, each_buffers, of_dtype, without_cuda


@each_buffers
def test_functions_reject_what_is_no_array(buffers: Buffers) -> None:
    for name in ("p", "g", *buffers.state):
        for thing, got in NO_ARRAYS:
            with buffers.refuses(TypeError, f"{name}: expected a NumPy array", got):
                buffers.update(**{name: thing})


@each_buffers
def test_functions_reject_wrong_dtypes(buffers: Buffers) -> None:
    for name in ("p", "g", *buffers.state):
        for dtype in ODD_DTYPES:
            with buffers.refuses(TypeError, f"{name}: expected dtype float64, float32", repr(dtype)):
                buffers.update(**{name: of_dtype(dtype)})


@each_buffers
def test_functions_reject_state_of_another_compute_type(buffers: Buffers) -> None:
    for name in buffers.arrays:
        for dtype in (np.float64, np.float16, ml_dtypes.bfloat16):
            with buffers.refuses(TypeError, f"{name}: expected float32", np.dtype(dtype).name):
                buffers.update(**{name: of_dtype(np.dtype(dtype))})


@each_buffers
def test_functions_reject_wrong_shapes(buffers: Buffers) -> None:
    for name in ("g", *buffers.arrays):
        for shape in WRONG_SHAPES:
            with buffers.refuses(ValueError, f"{name}: expected shape (2, 3)", f"got {shape}"):
                buffers.update(**{name: np.ones(shape, np.float32)})


@each_buffers
def test_functions_reject_what_they_cannot_write(buffers: Buffers) -> None:
    for name in ("p", *buffers.arrays):
        locked = buffers.array((2, 3))
        locked.flags.writeable = False
        with buffers.refuses(ValueError, f"{name}: expected a writeable array"):
            buffers.update(**{name: locked})
        with buffers.refuses(ValueError, f"{name}: expected a dense array"):
            buffers.update(**{name: buffers.array((2, 6))[:, ::2]})
    for name in buffers.arrays:
        with buffers.refuses(ValueError, f"{name}: expected the parameter's memory order"):
            buffers.update(**{name: buffers.array((3, 2)).T})


@each_buffers
def test_functions_reject_memory_in_common(buffers: Buffers) -> None:
    written = {"p": buffers.p, **{name: buffers.state[name] for name in buffers.arrays}}
    for name, array in written.items():
        for offset in (0, 4, -4, 23):
            with buffers.refuses(ValueError, "g: overlaps ", name):
                buffers.update(g=buffers.near(array, offset))
            for other in buffers.arrays:
                if other != name:
                    with buffers.refuses(ValueError, name, other):
                        buffers.update(**{other: buffers.near(array, offset)})


@each_buffers
def test_functions_reject_a_wrong_number_of_state_arrays(buffers: Buffers) -> None:
    update = getattr(buffers.module, buffers.case.optimizer.name)
    options = buffers.case.options
    needed = list(buffers.case.state)
    for count in range(len(buffers.case.optimizer.state) + 3):
        if count not in (len(needed), len(buffers.case.optimizer.state)):
            state = [buffers.array((2, 3)) for _ in range(count)]
            with buffers.refuses(TypeError, f"expected the state arrays {needed}, got {count} arrays"):
                update(buffers.p, buffers.g, *state, step=1, **options)


@each_buffers
def test_functions_reject_a_wrong_step(buffers: Buffers) -> None:
    for step in (0, -1, -(2**70), np.int64(0)):
        with buffers.refuses(ValueError, "step: expected an integer >= 1, got"):
            buffers.update(step=step)
    for nonsense in (1.0, np.float64(1), True, None, "1", [1], math.nan):
        with buffers.refuses(TypeError, "step: expected an integer >= 1, got"):
            buffers.update(step=nonsense)


@each_buffers
def test_functions_need_a_step(buffers: Buffers) -> None:
    with buffers.refuses(TypeError, "step"):
        getattr(buffers.module, buffers.case.optimizer.name)(buffers.p, buffers.g, *buffers.state.values())


@each_buffers
@loop("option", ["learning_rate", "backend", "params", "t"])
def test_functions_reject_unknown_options(buffers: Buffers, option: str) -> None:
    with buffers.refuses(TypeError, f"{option}: not an option of ", "'lr'"):
        buffers.update(**{option: 1})


@without_cuda
@each_buffers
def test_functions_reject_cuda_arrays_without_a_cuda_build(buffers: Buffers) -> None:
    for name in ("p", "g", *buffers.state):
        with buffers.refuses(RuntimeError, f"{name}: ", "CUDA", "FakeCuda"):
            buffers.update(**{name: FakeCuda()})
