"""Steps of parameters of 16 bits with extra bits or stochastic rounding: native code has the bits of the reference."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

import fastoptim as fo
from backend_pairs import AROUND, assert_equal, check_steps, pair, values
from cases import BFLOAT16, FLOAT16, FLOAT32, MIN_SHARE, TILE, DType, assert_same_bits
from loops import each_isa, loop
from models import INDEPENDENT, each_backend, every_optimizer, name_of
from row_checks import SHAPES, rows_of, selections

NARROW = (FLOAT16, BFLOAT16)
KINDS: tuple[dict[str, Any], ...] = (
    {"master_weight_bits": 24},
    {"master_weight_bits": 32},
    {"kahan": True},
    {"stochastic_rounding": True, "seed": 11},
)
SIZES = (0, 1, 15, 63, TILE, 2 * TILE + 77)


@every_optimizer
@loop("kind", KINDS)
def test_native_code_has_the_bits_of_the_reference(optimizer: Any, kind: dict[str, Any]) -> None:
    check_steps(optimizer, kind, AROUND, (FLOAT16, BFLOAT16, FLOAT32), SIZES, steps=4)


@loop("kind", KINDS)
@loop("dtype", NARROW)
@each_isa
def test_threads_and_the_place_in_memory_make_no_difference(kind: dict[str, Any], dtype: DType) -> None:
    size = 3 * MIN_SHARE + 1001
    found = []
    for threads, offset in ((1, 0), (2, 1), (3, 5)):
        fo.set_num_threads(threads)
        p = np.zeros(size + offset, dtype)[offset:]
        p[...] = values(0, dtype, size)
        opt = fo.AdamW(p, lr=0.01, **kind)
        for t in range(2):
            opt.step(values(t, dtype, size))
        found.append([p, *opt.state.values()])
    for other in found[1:]:
        for array, want in zip(other, found[0], strict=True):
            assert_same_bits(array, want)
    reference = fo.AdamW(values(0, dtype, size), lr=0.01, backend="reference", **kind)
    for t in range(2):
        reference.step(values(t, dtype, size))
    assert_same_bits(found[0][0], reference.params)


@loop("kind", KINDS)
@loop("dtype", NARROW)
def test_any_memory_order(kind: dict[str, Any], dtype: DType) -> None:
    shape = (5, 7, 40)

    def make() -> Any:
        return values(0, dtype, 1400).reshape(40, 7, 5).T

    native, reference = pair(fo.Adam, make, lr=0.01, **kind)
    for t in range(3):
        grad = values(t + 1, FLOAT32, 1400).reshape(shape)
        native.step(grad)
        reference.step(grad)
        assert_equal(native, reference)


@pytest.mark.parametrize("kind", KINDS, ids=str)
@loop("row_steps", [False, True])
@each_isa
def test_rows_have_the_bits_of_the_reference(kind: dict[str, Any], row_steps: bool) -> None:
    rng = np.random.default_rng(5)
    for dtype, shape in ((dtype, shape) for dtype in NARROW for shape in SHAPES):

        def make(dtype: Any = dtype, shape: Any = shape) -> Any:
            return values(0, dtype, int(np.prod(shape))).reshape(shape)

        native, reference = pair(fo.AdamW, make, lr=0.01, row_steps=row_steps, **kind)
        before = native.params.copy()
        stepped = np.zeros(len(before), bool)
        for index in selections(rng, shape[0]):
            rows = fo.Rows(index, rows_of(rng, index, shape, FLOAT32))
            stepped[index] = True
            native.step(rows)
            reference.step(rows)
            assert_equal(native, reference, f"{shape}")
        assert_same_bits(native.params[~stepped], before[~stepped])
        dense = rows_of(rng, np.arange(shape[0]), shape, dtype)
        native.step(dense)
        reference.step(dense)
        assert_equal(native, reference, f"{shape}, dense")


def test_rows_are_rounded_by_their_place_in_the_parameter() -> None:
    """So that the rows of one step have other random bits, whatever their places among them."""
    n = 4096
    p, q = np.ones((n, 8), BFLOAT16), np.ones((n, 8), BFLOAT16)
    options: dict[str, Any] = {"lr": 1.0, "stochastic_rounding": True}
    grads = np.full((n, 8), -(2.0**-9), FLOAT32)
    fo.SGD(p, **options).step(grads)
    opt = fo.SGD(q, **options)
    for half in (slice(0, None, 2), slice(1, None, 2)):
        index = np.arange(n)[half]
        opt.load_state_dict(fo.SGD(q, **options).state_dict())  # back to step 0
        opt.step(fo.Rows(index, grads[index]))
    assert_same_bits(q, p)


@pytest.mark.parametrize("optimizer", INDEPENDENT, ids=name_of)
def test_bfloat16_with_32_bits_trains_as_float32_does(optimizer: Any) -> None:
    wide = values(0, BFLOAT16, 300).astype(FLOAT32)
    opt = optimizer(wide.astype(BFLOAT16), master_weight_bits=32, lr=0.01, weight_decay=0.01)
    twin = optimizer(wide, lr=0.01, weight_decay=0.01)
    for t in range(5):
        grad = values(t + 1, FLOAT32, 300)
        opt.step(grad)
        twin.step(grad)
    assert_same_bits(opt.master_params(), wide)


@each_backend
@loop("kind", KINDS)
def test_special_values(kind: dict[str, Any], backend: Any) -> None:
    """Infinities and NaN stay what they are, and a number that overflows becomes infinite."""
    for dtype in NARROW:
        p = np.array([np.inf, -np.inf, np.nan, 0.0, -0.0, 1.0, 1.0], dtype)
        opt = fo.SGD(p, lr=1.0, backend=backend, **kind)
        for _ in range(2):
            opt.step(np.array([1, 1, 1, 0, 0, -np.inf, -3e38], FLOAT32))
        found = opt.master_params()
        assert np.isnan([p[2], found[2]]).all()
        assert p[[0, 1, 5, 6]].tolist() == found[[0, 1, 5, 6]].tolist() == [np.inf, -np.inf, np.inf, np.inf]
        assert p[3] == p[4] == 0
        assert np.signbit(p[4]) == np.signbit(found[4])
