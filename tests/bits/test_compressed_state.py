"""Compressed state: native code has the bits of the reference, and averages arrive where they would without it."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest

import backend_pairs
import fastoptim as fo
from backend_pairs import assert_equal, check_steps, values
from cases import BFLOAT16, FLOAT16, FLOAT32, FLOAT64, MIN_SHARE, TILE, Array, DType, assert_same_bits
from fastoptim import block_codes
from fastoptim.random_bits import rounding_bits, state_bits
from loops import each_isa, loop
from models import INDEPENDENT, each_backend, every_optimizer, name_of
from row_checks import rows_of, selections

FORMATS = ("bfloat16", "int8")
CODES = (block_codes.SIGNED, block_codes.NON_NEGATIVE)
SIZES = (0, 1, 63, 64, 65, TILE, 2 * TILE + 77)
STORAGE: tuple[dict[str, Any], ...] = (
    {},
    {},
    {"master_weight_bits": 24},
    {"stochastic_rounding": True},
    {"kahan": True},
)
AROUND = [around | storage for around, storage in zip(backend_pairs.AROUND, STORAGE, strict=True)]
each_format = loop("state_format", FORMATS)


def pair(optimizer: Any, make: Any, **options: Any) -> tuple[Any, Any]:
    """Return the optimizer on both backends, with blocks in arrays of any size."""
    return backend_pairs.pair(optimizer, make, int8_min_size=0, **options)


# ---- codes


def special_blocks() -> Array:
    """Blocks of numbers of every size, of zeros, of equal, subnormal and special numbers; the last one is partial."""
    rng = np.random.default_rng(0)
    any_bits = rng.integers(0, 2**32, 64 * 200, dtype=np.uint32).view(np.float32)
    with np.errstate(over="ignore"):
        sizes = [np.float32(10.0) ** np.float32(e) for e in (-44, -38, -37, -20, -3, 0, 20, 38)]
        blocks = [(rng.standard_normal(640).clip(-3, 3) * size).astype(np.float32) for size in sizes]
    special = np.zeros(64 * 4, np.float32)
    special[:64] = 0.1
    special[64:67] = [np.inf, -np.inf, np.nan]
    special[128:131] = [1.0, np.nan, -0.0]
    return np.concatenate([any_bits, *blocks, special, blocks[4][:17]])


@loop("code", CODES)
def test_the_largest_element_of_a_block_is_exact_and_zero_is_zero(code: block_codes.Code) -> None:
    x = special_blocks()
    if code is block_codes.NON_NEGATIVE:
        x = np.abs(x)
    for random in block_codes.random_of(np.array([0, 4, 2**15, 2**16 - 1])):
        codes, scales = block_codes.encode(x, code, random)
        found = block_codes.decode(codes, scales, code)
        for begin in range(0, x.size, 64):
            block, decoded = x[begin : begin + 64], found[begin : begin + 64]
            magnitude = np.where(np.isfinite(block), np.abs(block), np.float32(0))
            finite = np.isfinite(block)
            assert ((decoded == 0) | (np.signbit(decoded) == np.signbit(block)))[finite].all()
            assert (decoded[block == 0] == 0).all()
            if (largest := magnitude.max()) >= 2.0**-110:
                assert (np.abs(decoded)[finite & (magnitude == largest)] == largest).all()
                assert (np.abs(decoded)[~finite] == largest).all()
        if code is block_codes.NON_NEGATIVE:
            assert (codes[np.isfinite(x) & (x > 0)] > 0).all()


@loop("code", CODES)
def test_every_largest_element_has_the_largest_code_at_both_ends_of_the_random_numbers(code: block_codes.Code) -> None:
    """Over every fraction of 23 bits, by blocks of one element: the factor and the place depend on nothing else."""
    ends = block_codes.random_of(np.array([0, 2**16 - 1]))
    for begin in range(0, 2**23, 2**20):
        x = (np.arange(begin, begin + 2**20, dtype=np.uint32) | np.uint32(0x3F800000)).view(np.float32)
        place = block_codes.place_of(x, np.float32(code.units) / x, code)
        for random in ends:
            assert ((place - np.float32(code.zero - 2) - random).astype(np.int32) == code.largest).all()


def test_the_sign_of_a_nan_makes_no_difference() -> None:
    """It is that of the processor, and not of the arithmetic."""
    x = np.array([np.nan, np.copysign(np.nan, -1), -1.0, 1.0], np.float32)
    assert block_codes.encode(x, block_codes.SIGNED)[0].tolist() == [127, 127, -127, 127]


@loop("code", CODES)
def test_codes_are_the_nearest_or_both_neighbors_without_bias(code: block_codes.Code) -> None:
    k = np.arange(code.largest + 1, dtype=np.float32)
    table = block_codes.decode(k.astype(code.dtype), np.ones(-(-k.size // 64), np.float32), code)
    x = np.linspace(float(table[1]), 1, 63 * 100, dtype=np.float32)
    blocks = np.concatenate([np.ones((100, 1), np.float32), x.reshape(100, 63)], axis=1).reshape(-1)
    codes, scales = block_codes.encode(blocks, code)
    assert (scales == 1).all()
    nearest = np.abs(table.astype(np.float64)[:, None] - blocks).min(axis=0)
    assert (np.abs(table[codes.astype(int)] - blocks) <= nearest + 2.0**-21).all()
    total = np.zeros(blocks.size)
    n = 512
    for i in range(n):  # every part of the interval of random numbers once
        total += block_codes.decode(*block_codes.encode(blocks, code, np.float32(1 + (i + 0.5) / n)), code)
    gap = np.diff(table.astype(np.float64)).max()
    assert np.abs(total / n - blocks).max() <= gap / n + 2.0**-20


def test_errors_of_nearest_codes() -> None:
    """The normalized mean square error on Gaussian numbers, which docs/compressed_state.md states."""
    x = np.random.default_rng(0).standard_normal(2**18).astype(np.float32)
    for scale in (1e-3, 1e-6):
        for code, bound in zip(CODES, (3.1e-5, 1.2e-5), strict=True):
            y = np.float32(scale) * x
            y = y * y if code is block_codes.NON_NEGATIVE else y
            error = block_codes.decode(*block_codes.encode(y, code), code).astype(np.float64) - y
            assert (error**2).sum() / (y.astype(np.float64) ** 2).sum() < bound


def test_random_bits_of_arrays_are_independent() -> None:
    places = np.arange(2**16, dtype=np.uint64)
    bits = [state_bits(3, 7, k, places).astype(np.float64) for k in range(4)]
    bits.append(rounding_bits(0, 3, 7, places).astype(np.float64))
    assert np.abs(np.corrcoef(bits) - np.eye(5)).max() < 0.02


@each_isa
@loop("dtype", [FLOAT32, FLOAT64])
def test_native_codes_have_the_bits_of_the_reference_for_every_kind_of_number(dtype: DType) -> None:
    with np.errstate(invalid="ignore"):  # a signalling NaN
        x = special_blocks().astype(dtype)
    for optimizer, options in ((fo.Signum, {"beta": 0.0}), (fo.Adam, {"betas": (0.5, 0.25)})):
        native, reference = pair(optimizer, lambda: np.zeros(x.size, dtype), lr=0.0, state_format="int8", **options)
        for _ in range(3):
            native.step(x)
            reference.step(x)
            assert_equal(native, reference, optimizer.__name__)


# ---- steps


@every_optimizer
@each_format
def test_native_code_has_the_bits_of_the_reference(optimizer: Any, state_format: Any) -> None:
    options = {"state_format": state_format, "int8_min_size": 0}
    check_steps(optimizer, options, AROUND, (FLOAT32, BFLOAT16, FLOAT64, FLOAT16), SIZES, steps=3)


@each_format
def test_every_64th_step_flushes_subnormal_numbers(state_format: Any) -> None:
    native, reference = pair(fo.Adam, lambda: values(0, FLOAT32, 200), lr=0.01, state_format=state_format)
    grad = values(1, FLOAT32, 200) * np.float32(1e-19)
    for _ in range(66):
        native.step(grad)
        reference.step(grad)
        assert_equal(native, reference)


@each_isa
@each_format
@loop("dtype", [FLOAT32, BFLOAT16])
def test_threads_and_the_place_in_memory_make_no_difference(state_format: Any, dtype: DType) -> None:
    size = 3 * MIN_SHARE + 1001
    found = []
    for threads, offset in ((1, 0), (2, 1), (3, 5)):
        fo.set_num_threads(threads)
        p = np.zeros(size + offset, dtype)[offset:]
        p[...] = values(0, dtype, size)
        opt = fo.AdamW(p, lr=0.01, state_format=state_format)
        for t in range(2):
            opt.step(values(t, dtype, size))
        found.append([p, *opt.param_states[0].state.values()])
    for other in found[1:]:
        for array, want in zip(other, found[0], strict=True):
            assert_same_bits(array, want)
    reference = fo.AdamW(values(0, dtype, size), lr=0.01, backend="reference", state_format=state_format)
    for t in range(2):
        reference.step(values(t, dtype, size))
    assert_same_bits(found[0][0], reference.params)


@each_format
def test_any_memory_order(state_format: Any) -> None:
    def make() -> Any:
        return values(0, FLOAT32, 1400).reshape(40, 1, 7, 5).T

    native, reference = pair(fo.Adam, make, lr=0.01, state_format=state_format)
    for t in range(3):
        grad = values(t + 1, FLOAT32, 1400).reshape(5, 7, 1, 40)
        native.step(grad)
        reference.step(grad)
        assert_equal(native, reference)


@each_isa
@each_format
@loop("row_steps", [False, True])
def test_rows_have_the_bits_of_the_reference(state_format: Any, row_steps: bool) -> None:
    rng = np.random.default_rng(5)
    shapes: tuple[tuple[int, ...], ...] = ((30, 64), (20, 2, 96), (5, 1152))
    if state_format == "bfloat16":
        shapes = (*shapes, (33, 3), (7, 1030))
    for dtype, shape in ((dtype, shape) for dtype in (FLOAT32, BFLOAT16) for shape in shapes):

        def make(dtype: Any = dtype, shape: Any = shape) -> Any:
            return values(0, dtype, math.prod(shape)).reshape(shape)

        native, reference = pair(fo.AdamW, make, lr=0.01, row_steps=row_steps, state_format=state_format)
        for index in selections(rng, shape[0]):
            rows = fo.Rows(index, rows_of(rng, index, shape, FLOAT32))
            native.step(rows)
            reference.step(rows)
            assert_equal(native, reference, f"{shape}")
        dense = rows_of(rng, np.arange(shape[0]), shape, dtype)
        native.step(dense)
        reference.step(dense)
        assert_equal(native, reference, f"{shape}, dense")


# ---- averages


@pytest.mark.parametrize("optimizer", INDEPENDENT, ids=name_of)
@each_format
def test_steps_are_near_those_of_native_state(optimizer: Any, state_format: Any) -> None:
    """Equal gradients of random sign: the path of each parameter stays within a few steps of the uncompressed one."""
    start = values(0, FLOAT32, 1000)
    opt = optimizer(start.copy(), lr=1e-3, state_format=state_format, int8_min_size=0)
    twin = optimizer(start.copy(), lr=1e-3)
    rng = np.random.default_rng(1)
    for _ in range(30):
        grad = rng.standard_normal(1000).astype(np.float32)
        opt.step(grad)
        twin.step(grad)
    moved = np.abs(twin.params - start).astype(np.float64)
    assert np.abs(opt.params - twin.params).mean() <= 0.15 * moved.mean() + 1e-7


@each_format
@loop("beta2", [0.9, 0.999, 0.9999])
def test_no_average_stalls_when_gradients_fall(state_format: Any, beta2: float) -> None:
    """Gradients vanish: the second moment falls as it would, also where the change of a step is far below a code."""
    n, steps = 6400, 2000
    opt = fo.Adam(np.zeros(n, np.float32), betas=(0.9, beta2), state_format=state_format, int8_min_size=0)
    opt.step(np.abs(values(2, FLOAT32, n)) + np.float32(0.5))
    start = opt.state_values()["v"].astype(np.float64)
    tiny = np.full(n, 1e-12, np.float32)
    for _ in range(steps):
        opt.step(tiny)
    ratio = opt.state_values()["v"].astype(np.float64).sum() / start.sum()
    expected = beta2**steps
    assert ratio == pytest.approx(expected, rel=0.1) or expected < 1e-30


@each_format
def test_an_element_whose_gradients_vanish_forgets_them_while_its_neighbors_go_on(state_format: Any) -> None:
    n, steps = 6400, 6000
    rng = np.random.default_rng(0)
    silent = np.arange(n) % 64 < 8
    opt = fo.Adam(np.zeros(n, np.float32), betas=(0.9, 0.999), state_format=state_format, int8_min_size=0)
    for t in range(steps):
        grad = rng.standard_normal(n).astype(np.float32)
        if t > 0:
            grad[silent] = 0
        opt.step(grad)
    state = opt.state_values()
    # 0.001 of the first square is left of a factor of 0.0025; codes end at 4/66044 of the block's largest
    assert state["v"][silent].mean() < 3e-4
    assert (state["m"][silent] == 0).mean() > 0.99
    assert state["v"][~silent].mean() == pytest.approx(1, rel=0.05)


@each_backend
@each_format
def test_blocks_recover_from_numbers_that_are_not_finite(state_format: Any, backend: Any) -> None:
    p = np.zeros(128, np.float32)
    opt = fo.Adam(p, lr=0.1, state_format=state_format, int8_min_size=0, backend=backend)
    grad = np.ones(128, np.float32)
    grad[[3, 5]] = [np.inf, np.nan]
    opt.step(grad)
    state = opt.state_values()
    others = ~np.isin(np.arange(128), [3, 5])
    assert np.isfinite(p[others]).all()
    assert np.isfinite(state["m"][others]).all()
    if state_format == "int8":  # an inf or NaN is stored as the largest of its block
        assert (state["m"][[3, 5]] == state["m"].max()).all()
        assert (state["v"][[3, 5]] == state["v"].max()).all()
        p[...] = 0
        for _ in range(3):
            opt.step(np.ones(128, np.float32))
        assert np.isfinite(p).all()
