"""The argument `copies`: arrays of 16 bits that receive the rounded parameters in the pass of the update."""

from __future__ import annotations

import copy
import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import fastoptim as fo
from cases import BFLOAT16, DTYPES, FLOAT16, FLOAT32, FLOAT64, TILE, Array, DType, assert_same_bits, random_values
from fastoptim.reference_math import rounded_to
from loops import each_isa, loop
from models import Backend, each_backend, every_optimizer

SIZE = TILE + 77
each_half = loop("half", [FLOAT16, BFLOAT16])


def make(seed: int, dtype: DType = FLOAT32, size: int = SIZE) -> Array:
    return np.random.default_rng(seed).standard_normal(size).astype(dtype)


def assert_rounded(halves: Any, p: Any) -> None:
    assert_same_bits(halves, rounded_to(p, halves.dtype))


@every_optimizer
def test_every_rule_writes_them_and_takes_the_same_step(optimizer: Any) -> None:
    for backend, half, dtype in (
        (backend, half, dtype)
        for backend in ("native", "reference")
        for half in (FLOAT16, BFLOAT16)
        for dtype in (FLOAT32, FLOAT64)
    ):
        p, expected, halves = make(0, dtype), make(0, dtype), np.zeros(SIZE, half)
        opt = optimizer(p, copies=halves, ema=0.5, backend=backend)
        assert_rounded(halves, p)
        twin = optimizer(expected, ema=0.5, backend=backend)
        for t in range(3):
            opt.step(make(1 + t, dtype))
            twin.step(make(1 + t, dtype))
            assert_same_bits(p, expected)
            assert_rounded(halves, p)


@each_half
@loop("dtype", [FLOAT32, FLOAT64])
@each_isa
def test_every_number_is_rounded_once(half: DType, dtype: DType) -> None:
    p = random_values(np.random.default_rng(0), dtype, 20_000)
    halves = np.zeros(p.size + 2, half)[1:-1]
    fo.SGD(p, lr=0.0, copies=halves, bounds=(-1e30, 1e30)).step(np.zeros_like(p))
    assert_rounded(halves, p)


@each_backend
def test_only_stepped_parameters_have_new_ones(backend: Backend) -> None:
    params = {"w": make(0), "b": make(1), "c": make(2)}
    halves: Any = {"w": np.zeros(SIZE, FLOAT16), "b": None, "c": np.zeros(SIZE, BFLOAT16)}
    opt = fo.Adam(params, copies=halves, skip_nonfinite=True, backend=backend)
    before = halves["c"].copy()
    assert opt.step({"w": make(3), "b": make(4), "c": None})
    assert_rounded(halves["w"], params["w"])
    assert_same_bits(halves["c"], before)
    before = halves["w"].copy()
    assert opt.step({"w": np.full(SIZE, np.nan, FLOAT32), "b": make(4), "c": make(5)}) is False
    assert_same_bits(halves["w"], before)
    for t in range(3):  # on the fast path
        opt.step({"w": make(t), "b": make(4), "c": make(5)})
        assert_rounded(halves["w"], params["w"])
        assert_rounded(halves["c"], params["c"])


def test_groups_have_one_structure_each_or_none() -> None:
    params = [make(i) for i in range(3)]
    halves = [np.zeros(SIZE, FLOAT16) for _ in range(2)]
    opt = fo.SGD([{"params": params[:2]}, {"params": params[2]}], lr=0.1, copies=[halves, None])
    opt.add_param_group({"params": make(5)})
    opt.step([[make(6), make(7)], make(8), make(9)])
    for each, p in zip(halves, params[:2], strict=True):
        assert_rounded(each, p)
    again = pickle.loads(pickle.dumps(opt))
    again.step([[make(6), make(7)], make(8), make(9)])
    for each, p in zip(again.copies[0], again.param_groups[0]["params"], strict=True):
        assert_rounded(each, p)
        assert not any(np.shares_memory(each, old) for old in halves)
    copy.copy(opt).step([[make(6), make(7)], make(8), make(9)])
    assert_rounded(halves[0], params[0])


def test_they_have_the_parameter_s_memory_order() -> None:
    p = np.asfortranarray(make(0, size=600).reshape(20, 30))
    halves = np.asfortranarray(np.zeros((20, 30), BFLOAT16))
    opt = fo.Lion(p, copies=halves)
    opt.step(make(1, size=600).reshape(20, 30))
    assert_rounded(halves, p)


def test_they_follow_parameters_that_other_calls_change(tmp_path: Path) -> None:
    p, halves = make(0), np.zeros(SIZE, FLOAT16)
    opt = fo.SGD(p, lr=0.1, copies=halves)
    stopping = fo.EarlyStopping(opt, patience=1)
    fo.save(tmp_path / "checkpoint", params=p, optimizer=opt)
    stopping.update(1.0)
    opt.step(make(1))
    stopping.update(2.0)
    assert_same_bits(p, make(0))
    assert_rounded(halves, p)
    opt.step(make(1))
    fo.load(tmp_path / "checkpoint", params=p, optimizer=opt)
    assert_rounded(halves, p)
    p[...] = make(2)
    opt.refresh_copies()
    assert_rounded(halves, p)


def test_a_locked_or_resized_copy_is_noticed() -> None:
    p, halves = make(0), np.zeros(SIZE, FLOAT16)
    opt = fo.SGD(p, lr=0.1, copies=halves)
    for _ in range(2):
        opt.step(make(1))
    halves.flags.writeable = False
    before = p.copy()
    with pytest.raises(ValueError, match=r"^copies: expected a writeable array"):
        opt.step(make(1))
    assert_same_bits(p, before)


P, HALF = make(0), np.zeros(SIZE, FLOAT16)
REJECTED: list[tuple[Any, Any, type[Exception], str]] = [
    (P, HALF.astype(FLOAT32), TypeError, "^copies: expected float16 or bfloat16"),
    (P, HALF.astype(np.int16), TypeError, "^copies: expected float16 or bfloat16"),
    (P, HALF[1:], ValueError, "^copies: expected shape"),
    (P, [HALF], TypeError, "^copies: expected a NumPy array"),
    (P, np.zeros(2 * SIZE, FLOAT16)[::2], ValueError, "^copies: expected a dense array"),
    (P, P.view(FLOAT16)[:SIZE], ValueError, "overlaps"),
    (P.astype(BFLOAT16), HALF, ValueError, "^copies: expected None, as the parameter itself has 16 bits"),
    ([P, P + 1], [HALF, HALF], ValueError, r"copies\[1\]: is the same memory as copies\[0\]"),
    ({"a": P}, {"b": HALF}, TypeError, "^copies: expected the keys"),
    (P.reshape(-1, 1, order="F"), HALF, ValueError, "^copies: expected shape"),
]


@loop(("params", "copies", "error", "message"), REJECTED)
def test_copies_that_do_not_fit_are_rejected(params: Any, copies: Any, error: type[Exception], message: str) -> None:
    for backend in ("native", "reference"):
        with pytest.raises(error, match=message):
            fo.SGD(params, copies=copies, backend=backend)


def test_a_gradient_may_not_overlap_them() -> None:
    memory = np.zeros(2 * SIZE, FLOAT16)
    for backend in ("native", "reference"):
        opt = fo.SGD(make(0), copies=memory[:SIZE], backend=backend)
        with pytest.raises(ValueError, match=r"^grads: overlaps copies"):
            opt.step(memory[SIZE // 2 : SIZE // 2 + SIZE])


def test_they_combine_with_the_other_options() -> None:
    for dtype in DTYPES[:2]:
        p, halves = make(0, dtype), np.zeros(SIZE, BFLOAT16)
        opt = fo.AdamW(p, lr=0.1, copies=halves, cautious=True, cautious_decay=True, bounds=(-0.5, 0.5))
        for t in range(70):  # also a step that flushes subnormal numbers
            opt.step(make(t, FLOAT16))
            assert_rounded(halves, p)
        assert float(np.abs(halves.astype(FLOAT32)).max()) == 0.5
