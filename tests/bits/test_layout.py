"""Shapes and memory orders: whatever the layout of parameter and gradient, each element meets its own gradient."""

from __future__ import annotations

from collections.abc import Callable
from itertools import permutations
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pytest

import fastoptim as fo
from cases import DTYPES, FLOAT16, FLOAT32, MIN_SHARE, Array, DType, assert_same_bits, ordinary_values
from fastoptim.engines import native
from loops import loop
from models import each_backend, each_dtype

SHAPE = (5, 6, 7)
STEPS = 3
Backend = Literal["native", "reference"]


def filled(array: Array, seed: int) -> Array:
    """The same array, with the values that this seed puts at each index."""
    array[...] = ordinary_values(np.random.default_rng(seed), array.dtype, array.size).reshape(array.shape)
    return array


def contiguous(dtype: DType) -> Array:
    return np.empty(SHAPE, dtype)


def fortran(dtype: DType) -> Array:
    return np.empty(SHAPE, dtype, order="F")


def permuted(dtype: DType) -> Array:
    array: Array = np.empty((6, 5, 7), dtype).transpose(1, 0, 2)
    return array


def rotated(dtype: DType) -> Array:
    array: Array = np.empty((7, 5, 6), dtype).transpose(1, 2, 0)
    return array


def strided(dtype: DType) -> Array:
    return np.empty((10, 6, 21), dtype)[::2, :, 1::3]


def reversed_axes(dtype: DType) -> Array:
    return np.empty(SHAPE, dtype)[::-1, :, ::-1]


def unaligned(dtype: DType) -> Array:
    memory = np.zeros(int(np.prod(SHAPE)) * dtype.itemsize + 1, np.uint8)
    array: Array = memory[1:].view(dtype).reshape(SHAPE)
    return array


def slice_of_a_larger_array(dtype: DType) -> Array:
    array: Array = np.empty((9, *SHAPE), dtype)[4]
    return array


Layout = Callable[[DType], Array]
DENSE: list[Layout] = [contiguous, fortran, permuted, rotated, unaligned, slice_of_a_larger_array]
ANY: list[Layout] = [*DENSE, strided, reversed_axes]


def layout_id(value: Any) -> str:
    return value.__name__ if callable(value) else str(value)


def check(p: Array, grads: list[Array], backend: Backend) -> None:
    """The same as contiguous copies of parameter and gradients with the reference."""
    wanted = np.array(p, order="C")
    opt, plain = fo.Adam(p, lr=0.1, backend=backend), fo.Adam(wanted, lr=0.1, backend="reference")
    where = p.ctypes.data
    for g in grads:
        before = g.copy()
        opt.step(g)
        plain.step(before.copy())
        assert_same_bits(np.array(g), np.array(before), "g")
    assert p.ctypes.data == where
    assert_same_bits(np.array(p), wanted, "p")
    assert_same_bits(opt.state["m"], plain.state["m"], "m")
    assert_same_bits(opt.state["v"], plain.state["v"], "v")


@loop("offset", [0, 4, 16, 60, 64, 100, 4092])
@loop(("size", "within"), [(2048, 64), (4096, 4096), (5000, 4096)])
def test_state_lies_as_its_parameter_does(size: int, within: int, offset: int) -> None:
    """State shares its parameter's offset in a cache line, or in a page if it is large enough, against 4K aliasing."""
    memory = np.zeros(4 * size + 2 * 4096, np.uint8)
    begin = -memory.ctypes.data % 4096 + offset
    p = memory[begin : begin + 4 * size].view(np.float32)
    opt = fo.Adam(p)
    opt.step(np.ones_like(p))
    behind = {name: array.ctypes.data % within for name, array in opt.live_state().items()}
    assert behind == dict.fromkeys(("m", "v"), offset % within)


def test_state_of_a_parameter_between_numbers_is_aligned() -> None:
    memory = np.zeros(4 * 5000 + 1, np.uint8)
    opt = fo.Adam(memory[1:].view(np.float32))
    opt.step(np.ones(5000, np.float32))
    assert all(array.flags.aligned for array in opt.live_state().values())


@loop("axes", [(0, 1, 2), (2, 1, 0), (1, 0, 2), (1, 2, 0)])
def test_state_of_some_size_has_its_parameters_memory_order(axes: tuple[int, ...]) -> None:
    p = np.zeros((20, 30, 40), np.float32).transpose(axes)
    opt = fo.Adam(p)
    opt.step(np.ones(p.shape, np.float32))
    assert {array.strides for array in opt.live_state().values()} == {p.strides}


@each_backend
@loop("g_layout", ANY)
@loop("p_layout", DENSE)
def test_memory_orders(p_layout: Layout, g_layout: Layout, backend: Backend) -> None:
    for i, p_dtype in enumerate(DTYPES):
        g_dtype = DTYPES[(i + 1) % 4] if p_layout is g_layout else p_dtype
        check(filled(p_layout(p_dtype), 0), [filled(g_layout(g_dtype), k) for k in range(1, 1 + STEPS)], backend)


def packed_field(dtype: DType, shape: tuple[int, ...]) -> Array:
    """A field of records of which the next begins at no multiple of its size."""
    field: Array = np.zeros(shape, np.dtype([("key", "u1"), ("value", dtype)]))["value"]
    return field


@pytest.mark.parametrize(
    ("optimizer", "options"),
    [(fo.Adam, {}), (fo.LAMB, {}), (fo.SGD, {"momentum": 0.9, "clip_global_norm": 1.0, "weight_decay": 0.1})],
)
@each_dtype
@loop("axes", [(0, 1, 2, 3), (3, 1, 0, 2)])
def test_gradients_in_any_order_are_read_where_they_are(
    optimizer: Any, options: dict[str, Any], dtype: DType, axes: tuple[int, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The bits are those from gradients in the parameter's order, across tiles and threads, too."""
    whole = (7, 23, 5, 2 * MIN_SHARE // 805 + 4)
    shape = tuple(whole[axis] for axis in axes)
    places: list[Array] = [
        *(
            np.empty([shape[axis] for axis in order], dtype).transpose(np.argsort(order))
            for order in permutations(range(4))
        ),
        np.empty((2 * shape[0], shape[1], shape[2], 3 * shape[3]), dtype)[::2, :, ::-1, ::-3],
        packed_field(dtype, shape),
    ]
    places.append(np.broadcast_to(np.ones((shape[1], 1, 1), dtype), shape))
    p = [filled(np.empty(whole, dtype).transpose(axes), 0) for _ in range(2)]
    opt, dense = (optimizer(array, **options) for array in p)
    dense.step(np.ones_like(p[0]))
    opt.step(np.ones_like(p[0]))
    monkeypatch.delattr(native, "check_one", raising=False)  # which copies what native code does not recognize
    for seed, place in enumerate(places):
        grad = filled(place, seed) if place.flags.writeable else place
        ordered = np.empty_like(p[0])
        ordered[...] = grad
        opt.step(grad)
        dense.step(ordered)
        assert_same_bits(p[0], p[1], f"strides {grad.strides}")


@each_backend
def test_gradients_of_many_axes(backend: Backend) -> None:
    """More than native code reads where they are."""
    shape = (2, 3, 2, 3, 2, 3)
    grads = [filled(np.empty(shape, np.float32).transpose(5, 3, 1, 0, 2, 4).reshape(shape, order="A"), 1)]
    grads += [
        filled(np.empty(shape[::-1], np.float32).transpose(axes), 2)
        for axes in ((5, 4, 3, 2, 1, 0), (1, 4, 3, 2, 5, 0))
    ]
    check(filled(np.empty(shape, np.float32), 0), grads, backend)


@each_backend
@loop("p_layout", DENSE)
@loop("shape", [(), (1,), (7,), (6, 1), (5, 1, 1), (5, 1, 7)])
def test_broadcast_gradients(shape: tuple[int, ...], p_layout: Layout, backend: Backend) -> None:
    grads = [np.broadcast_to(filled(np.empty(shape, np.float32), k), SHAPE) for k in range(1, 1 + STEPS)]
    check(filled(p_layout(FLOAT32), 0), grads, backend)


@each_backend
def test_the_layout_of_the_gradient_may_change_from_step_to_step(backend: Backend) -> None:
    grads = [filled(layout(FLOAT32), k) for k, layout in enumerate([*ANY, *reversed(ANY), contiguous, contiguous])]
    check(filled(fortran(FLOAT32), 0), grads, backend)


def test_state_has_the_order_of_its_parameter() -> None:
    p = filled(rotated(FLOAT16), 0)
    opt = fo.Adam(p)
    assert all(s.strides == tuple(2 * stride for stride in p.strides) for s in opt.state.values())


@each_backend
@each_dtype
def test_axes_of_length_one(dtype: DType, backend: Backend) -> None:
    p = filled(np.empty((4, 1, 3, 1), dtype), 0)
    g = filled(np.empty((1, 3, 1, 4), dtype), 1).transpose(3, 0, 1, 2)
    odd = np.lib.stride_tricks.as_strided(p, strides=(p.strides[0], 12345, p.strides[2], -7))
    check(odd, [g], backend)


@each_backend
@each_dtype
def test_arrays_without_axes(dtype: DType, backend: Backend) -> None:
    p = filled(np.empty((), dtype), 0)
    grads = [filled(np.empty((), dtype), k) for k in range(1, 1 + STEPS)]
    check(p.copy(), grads, backend)
    scalars = p.copy()
    opt, plain = fo.Adam(scalars, backend=backend), fo.Adam(p, backend="reference")
    for g in grads:
        opt.step(g[()])  # a NumPy scalar, as p.mean() returns it
        plain.step(g)
    assert_same_bits(scalars, p, "p")


@each_backend
@loop("shape", [(0,), (0, 3), (3, 0), (2, 0, 4)])
def test_arrays_without_elements(shape: tuple[int, ...], backend: Backend) -> None:
    empty, full = np.empty(shape, np.float32), np.ones(3, np.float32)
    opt = fo.Adam([empty, full, np.empty(shape[::-1], np.float16).T], backend=backend)
    opt.step([np.empty(shape), np.ones(3), np.empty(shape, order="F")])
    assert (full < 1).all()
    assert opt.state[0]["m"].shape == shape
    alone = fo.Adam(empty, backend=backend)
    alone.step(np.empty(shape, np.float32))
    assert alone.step_count == 1


@each_backend
def test_memory_maps(tmp_path: Path, backend: Backend) -> None:
    p = np.memmap(tmp_path / "p", np.float32, "w+", shape=(40, 5))
    g = np.memmap(tmp_path / "g", np.float32, "w+", shape=(40, 5))
    check(filled(p, 0), [filled(g, 1)], backend)
    in_memory = np.array(p)
    p.flush()
    assert_same_bits(np.fromfile(tmp_path / "p", np.float32).reshape(40, 5), in_memory, "file")


@each_backend
def test_subclasses(backend: Backend) -> None:
    class Named(np.ndarray[Any, Any]):
        pass

    p, g = (filled(np.empty(9, np.float32), k).view(Named) for k in range(2))
    opt = fo.Adam(p, backend=backend)
    assert type(opt.state["m"]) is np.ndarray
    check(p, [g], backend)
    assert type(p) is Named


@pytest.mark.large
@loop("threads", [1, 7])
def test_more_elements_than_an_int_counts(threads: int) -> None:
    size = 2**31 + 12345
    fo.set_num_threads(threads)
    p, g = np.ones(size, np.float16), np.ones(size, np.float16)
    g[-3:] = [2, 3, 4]
    fo.SGD(p, lr=0.25).step(g)
    assert p[-3:].tolist() == [0.5, 0.25, 0.0]
    assert all((part == 0.75).all() for part in np.array_split(p[:-3], 64))


@loop("axes", range(1, 9))
def test_any_number_of_axes(axes: int) -> None:
    """Include an order that is neither C's nor Fortran's; a change of any axis is rejected."""
    shape = tuple(range(2, 2 + axes)) if axes < 5 else (2,) * (axes - 1) + (3,)
    order = np.roll(np.arange(axes), 1)
    make = [np.empty(shape, np.float32), np.empty(shape, np.float32, order="F")]
    make += [np.empty(tuple(np.array(shape)[np.argsort(order)]), np.float32).transpose(order)]
    for p in make:
        g, expected = np.empty_like(p), np.empty(shape, np.float32)
        filled(p, 1)
        expected[...] = p
        opt, reference = fo.SGD(p, lr=0.1), fo.SGD(expected, lr=0.1, backend="reference")
        for step in range(STEPS):
            opt.step(filled(g, step))
            reference.step(np.ascontiguousarray(g))
        assert_same_bits(p, expected, f"{axes} axes")
        for axis in range(axes):
            other = list(shape)
            other[axis] += 1
            with pytest.raises(ValueError, match="expected shape"):
                opt.step(np.empty(other, np.float32))
