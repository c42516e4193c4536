"""Check that rules with a number for each row have the reference's bits, and the same in every memory order."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, cast

import numpy as np
import pytest

import fastoptim as fo
from cases import BFLOAT16, DTYPES, FLOAT16, FLOAT32, FLOAT64, Array, DType, assert_same_bits, ordinary_values
from devices import get, on_every_device, put, with_device
from loops import each_isa, loop

ROW_RULES = [cls for cls in fo.OPTIMIZERS.values() if any(cls.state_schema[name].is_of_rows for name in cls.state)]
#: Rows of one element, of less than a tile, of several tiles and of none; no rows; enough elements for two threads.
SHAPES: tuple[tuple[int, ...], ...] = (
    *((50,), (), (0, 4), (5, 0), (40, 1), (33, 3), (20, 2, 5), (7, 1030), (2, 5, 1500), (3, 40_000), (700, 96)),
)
OPTIONS: list[dict[str, Any]] = [
    {},
    {"weight_decay": 0.03, "l1": 0.01, "clip_value": 3.0, "grad_scale": 3.0, "maximize": True, "ema": 0.85},
    {"weight_decay": 0.3, "decoupled": True, "cautious": True, "cautious_decay": True, "bounds": (None, 2)},
    {"clip_norm": 0.5, "clip_global_norm": 0.7, "skip_nonfinite": True, "swa_start": 2},
]
NARROW: list[dict[str, Any]] = [{"master_weight_bits": 24, "weight_decay": 0.1}, {"kahan": True, "l1": 0.01}]
each_rule = pytest.mark.parametrize("optimizer", ROW_RULES, ids=lambda cls: str(cls.name))


def moved(x: Array) -> Array:
    """A copy whose last axis is the outermost in memory."""
    return np.moveaxis(np.moveaxis(x, -1, 0).copy(), 0, -1) if x.ndim else x.copy()


ORDERS: dict[str, Callable[[Array], Array]] = {
    "C": np.copy,
    "F": lambda x: np.array(x, order="F"),
    "last first": moved,
}


def values(rng: np.random.Generator, dtype: DType) -> list[Array]:
    return [ordinary_values(rng, dtype, int(np.prod(shape))).reshape(shape) for shape in SHAPES]


def follow(
    optimizer: type[fo.Optimizer], dtype: DType, backend: str, order: str, grad_order: str, xp: Any = np, **options: Any
) -> list[Array]:
    """Return the parameters and the state of arrays of `xp` after some steps."""
    rng = np.random.default_rng(5)
    params = [put(xp, ORDERS[order](p)) for p in values(rng, dtype)]
    opt = cast(Any, optimizer)(params, lr=0.01, **options, backend=backend)
    for g_dtype in (FLOAT32, dtype, BFLOAT16):
        opt.step([put(xp, ORDERS[grad_order](g)) for g in values(rng, g_dtype)])
    return [get(xp, array) for array in (*params, *(array for state in opt.state for array in state.values()))]


@each_rule
@loop("options", OPTIONS)
@loop("dtype", DTYPES)
def test_state_of_rows_has_the_references_bits(
    optimizer: type[fo.Optimizer], options: dict[str, Any], dtype: DType
) -> None:
    """With every number of threads, and the same in every memory order except for norms of whole arrays."""
    wanted = follow(optimizer, dtype, "reference", "C", "C", **options)
    for threads, order, grad_order in ((1, "C", "C"), (2, "C", "F"), (3, "F", "F"), (2, "last first", "C")):
        fo.set_num_threads(threads)
        try:
            found = follow(optimizer, dtype, "native", order, grad_order, **options)
        finally:
            fo.set_num_threads(None)
        if "clip_norm" in options:
            wanted = follow(optimizer, dtype, "reference", order, grad_order, **options)
        for i, (own, other) in enumerate(zip(found, wanted, strict=True)):
            assert_same_bits(own, other, f"array {i}, {order} order, {threads} threads")


@with_device
@each_rule
@loop("options", OPTIONS)
@loop("dtype", DTYPES)
def test_state_of_rows_on_a_gpu(optimizer: type[fo.Optimizer], options: dict[str, Any], dtype: DType, xp: Any) -> None:
    for order, grad_order in (("C", "C"), ("F", "F"), ("last first", "C")):
        found = follow(optimizer, dtype, "native", order, grad_order, xp, **options)
        wanted = follow(optimizer, dtype, "reference", order, order, **options)
        for i, pair in enumerate(zip(found, wanted, strict=True)):
            assert_same_bits(*pair, f"array {i}, {order} order")


@with_device
@each_rule
def test_state_of_rows_is_flushed_on_a_gpu(optimizer: type[fo.Optimizer], xp: Any) -> None:
    name, tiny = optimizer.name, np.float32(1e-41)
    arrays = [np.ones((3, 2), np.float32), np.zeros((3, 2), np.float32)]
    state = [np.full(3 if optimizer.state_schema[own].is_of_rows else (3, 2), tiny) for own in optimizer.state]
    there = [put(xp, array) for array in (*arrays, *state)]
    for step in (63, 64):
        getattr(fo.functional, name)(*there, step=step)
        getattr(fo.reference, name)(*arrays, *state, step=step)
        for pair in zip(there, (*arrays, *state), strict=True):
            assert_same_bits(get(xp, pair[0]), pair[1])
    assert not state[-1].any()


@each_rule
@loop("options", NARROW)
@loop("dtype", [FLOAT16, BFLOAT16])
def test_state_of_rows_with_extra_bits(optimizer: type[fo.Optimizer], options: dict[str, Any], dtype: DType) -> None:
    wanted = follow(optimizer, dtype, "reference", "C", "C", **options)
    for order, grad_order in (("C", "C"), ("F", "C")):
        found = follow(optimizer, dtype, "native", order, grad_order, **options)
        for i, pair in enumerate(zip(found, wanted, strict=True)):
            assert_same_bits(*pair, f"array {i}, {order} order")


@each_rule
@each_isa
def test_state_of_rows_in_every_instruction_set(optimizer: type[fo.Optimizer]) -> None:
    found, wanted = (follow(optimizer, FLOAT64, backend, "C", "C") for backend in ("native", "reference"))
    for pair in zip(found, wanted, strict=True):
        assert_same_bits(*pair)


@on_every_device
@each_rule
def test_only_selected_rows_have_new_numbers(optimizer: type[fo.Optimizer], xp: Any) -> None:
    opt = cast(Any, optimizer)(put(xp, np.ones((5, 3), np.float32)), lr=0.1)
    name = optimizer.state[-1]
    opt.step(put(xp, np.ones((5, 3), np.float32)))
    before = get(xp, opt.state[name])
    opt.step(fo.Rows(np.array([1, 3, 1]), put(xp, np.ones((3, 3), np.float32))))
    assert (get(xp, opt.state[name]) != before).tolist() == [False, True, False, True, False]


@on_every_device
@each_rule
def test_remap_moves_the_numbers_of_rows(optimizer: type[fo.Optimizer], xp: Any) -> None:
    params = {"p": put(xp, np.ones((3, 2)))}
    opt = cast(Any, optimizer)(params, lr=0.1)
    opt.step({"p": put(xp, np.array([[1.0, 1.0], [2.0, 2.0], [3.0, 3.0]]))})
    before = get(xp, opt.state["p"][optimizer.state[-1]])
    opt.remap({"p": put(xp, np.ones((4, 2)))}, source={"p": np.array([2, 2, -1, 0])})
    assert get(xp, opt.state["p"][optimizer.state[-1]]).tolist() == [before[2], before[2], 0.0, before[0]]
