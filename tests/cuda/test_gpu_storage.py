"""Compressed state and parameters of 16 bits in a GPU's memory: the bits of the reference, as on the CPU.

The options, formats and sizes are those of tests/bits; a chunk of a block of threads and more comes on top.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

import fastoptim as fo
from backend_pairs import AROUND, assert_equal, check_steps, pair, placed, values
from cases import BFLOAT16, FLOAT16, FLOAT32, FLOAT64, TILE, Array, DType, assert_same_bits
from devices import IS_EMULATED, OPTIMIZERS, get, with_device
from fastoptim.optimizer.base import FACTORED_OPTIMIZERS, MATRIX_OPTIMIZERS
from loops import loop
from models import name_of
from row_checks import rows_of, selections

CHUNK = 4096  # elements of a block of threads
SIZES = (0, 1, 63, 64, 65, TILE, CHUNK + 77)
INT8: dict[str, Any] = {"state_format": "int8", "int8_min_size": 0}
STORAGE: dict[str, dict[str, Any]] = {
    "bfloat16": {"state_format": "bfloat16"},
    "int8": INT8,
    "24 bits": {"master_weight_bits": 24},
    "32 bits": {"master_weight_bits": 32},
    "kahan": {"kahan": True},
    "stochastic": {"stochastic_rounding": True, "seed": 11},
    "int8 and 24 bits": {**INT8, "master_weight_bits": 24},
    "bfloat16, stochastic": {"state_format": "bfloat16", "stochastic_rounding": True},
}
STORED = [cls for cls in OPTIMIZERS if not any(cls.state_schema[name].is_of_rows for name in cls.state)]
FORMATS: tuple[DType, ...] = (FLOAT32, BFLOAT16, FLOAT64, FLOAT16)
each_storage = loop("storage", STORAGE.values())


@pytest.fixture(autouse=IS_EMULATED)
def _blocks_in_any_order(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FASTOPTIM_EMULATED_ORDER", "random")


def formats_of(optimizer: Any) -> tuple[DType, ...]:
    """Return the formats of parameters: sums over all arrays have no kernel for stored forms in float64."""
    return tuple(dtype for dtype in FORMATS if dtype != FLOAT64 or not optimizer.reduces_all)


@with_device
@pytest.mark.parametrize("optimizer", STORED, ids=name_of)
def test_steps_have_the_bits_of_the_reference(xp: Any, optimizer: Any) -> None:
    """Each storage with one of the options around the rule, in turn; all of them in the exhaustive test."""
    for i, storage in enumerate(STORAGE.values()):
        around = [AROUND[i % len(AROUND)]]
        check_steps(optimizer, storage, around, formats_of(optimizer), SIZES, steps=2, xp=xp)


@with_device
@pytest.mark.exhaustive
@pytest.mark.parametrize("optimizer", STORED, ids=name_of)
@each_storage
def test_steps_with_all_options(xp: Any, optimizer: Any, storage: dict[str, Any]) -> None:
    sizes = (*SIZES, 5 * CHUNK - 1)
    check_steps(optimizer, storage, AROUND, formats_of(optimizer), sizes, steps=4, xp=xp)


@with_device
@each_storage
def test_some_steps_flush_subnormal_numbers(xp: Any, storage: dict[str, Any]) -> None:
    native, reference = pair(fo.Adam, lambda: values(0, BFLOAT16, 200), xp, lr=0.01, ema=0.5, **storage)
    grad = values(1, FLOAT32, 200) * np.float32(1e-19)
    for _ in range(66):
        native.step(placed(xp, grad))
        reference.step(grad)
    assert_equal(native, reference, xp=xp)


@with_device
@each_storage
def test_special_values(xp: Any, storage: dict[str, Any]) -> None:
    """Every upper half of a float32 with some lower ones, among them infinities and NaN."""
    x = (np.arange(0, 2**16, 3, dtype=np.uint32) << 16 | 0x8001).view(FLOAT32)
    with np.errstate(invalid="ignore"):
        x = x + np.float32(0)
    for dtype in (BFLOAT16, FLOAT16, FLOAT32):
        native, reference = pair(fo.SGD, lambda dtype=dtype: np.zeros(x.size, dtype), xp, lr=1.0, **storage)
        for grad in (-x, x[::-1].copy()):
            native.step(placed(xp, grad))
            reference.step(grad)
            assert_equal(native, reference, str(dtype), xp)


@with_device
@each_storage
@loop("offset", range(1, 9))
def test_arrays_at_any_address(xp: Any, storage: dict[str, Any], offset: int) -> None:
    """Only wider parameters have copies of 16 bits, which are compared, too."""
    for dtype in (BFLOAT16, FLOAT32):
        start, grad = (values(seed, dtype, 1100 + offset) for seed in (0, 1))
        has_copy = dtype == FLOAT32
        there, here = xp.zeros(1100 + offset, FLOAT16)[offset:], np.zeros(1100, FLOAT16)
        native = fo.AdamW(placed(xp, start)[offset:], copies=there if has_copy else None, **storage)
        twin = start[offset:].copy()
        reference = fo.AdamW(twin, copies=here if has_copy else None, backend="reference", **storage)
        for _ in range(2):
            native.step(placed(xp, grad)[offset:])
            reference.step(grad[offset:].copy())
            assert_equal(native, reference, f"{dtype} from {offset} on", xp)
        assert_same_bits(get(xp, there), here)


@with_device
@each_storage
def test_any_memory_order(xp: Any, storage: dict[str, Any]) -> None:
    native, reference = pair(fo.Adam, lambda: values(0, BFLOAT16, 1400).reshape(40, 7, 5).T, xp, **storage)
    grad = values(1, FLOAT32, 1400).reshape(5, 7, 40)
    for _ in range(2):
        native.step(placed(xp, grad))
        reference.step(grad)
        assert_equal(native, reference, xp=xp)
    assert_same_values(xp, native, reference)


def assert_same_values(xp: Any, native: Any, reference: Any) -> None:
    """Compare the numbers that codes and extra bits mean."""
    assert_same_bits(get(xp, native.master_params()), reference.master_params())
    found, wanted = native.state_values(), reference.state_values()
    assert found.keys() == wanted.keys()
    for name, array in wanted.items():
        assert_same_bits(get(xp, found[name]), array, name)
    assert native.state_nbytes == reference.state_nbytes


@with_device
@pytest.mark.parametrize("optimizer", FACTORED_OPTIMIZERS.values(), ids=name_of)
@each_storage
def test_arrays_of_which_some_are_broadcast(xp: Any, optimizer: Any, storage: dict[str, Any]) -> None:
    for dtype, shape in ((FLOAT32, (37, 66)), (BFLOAT16, (3, 5, 100)), (FLOAT64, (70,))):

        def make(dtype: Any = dtype, shape: Any = shape) -> Any:
            return values(0, dtype, int(np.prod(shape))).reshape(shape)

        native, reference = pair(optimizer, make, xp, lr=0.01, ema=0.9, **storage)
        for seed in (1, 2):
            grad = values(seed, FLOAT32, int(np.prod(shape))).reshape(shape)
            native.step(placed(xp, grad))
            reference.step(grad)
            assert_equal(native, reference, f"{shape}", xp)


@with_device
@pytest.mark.parametrize("optimizer", MATRIX_OPTIMIZERS.values(), ids=name_of)
def test_parameters_of_matrix_methods_have_extra_bits(xp: Any, optimizer: Any) -> None:
    """Products of matrices, and with them steps, are those of the array library: only the storage is compared."""

    def make() -> Any:
        return values(0, BFLOAT16, 640).reshape(10, 64)

    native, reference = pair(optimizer, make, xp, lr=0.01, master_weight_bits=24)
    for seed in (1, 2):  # the first step of some only collects statistics
        grad = values(seed, FLOAT32, 640).reshape(10, 64)
        native.step(placed(xp, grad))
        reference.step(grad)
    found, wanted = get(xp, native.master_params()), reference.master_params()
    np.testing.assert_allclose(found, wanted, rtol=2.0**-14, atol=1e-4)
    assert np.count_nonzero(get(xp, native.state["master_bits8"])) > 500


# ---- rows


@with_device
@each_storage
@loop("row_steps", [False, True])
def test_rows(xp: Any, storage: dict[str, Any], row_steps: bool) -> None:
    rng = np.random.default_rng(5)
    shapes: tuple[tuple[int, ...], ...] = ((30, 64), (20, 2, 96))
    if storage.get("state_format") != "int8":
        shapes = (*shapes, (33, 3), (7, 1030), (50,))
    for dtype, shape in ((dtype, shape) for dtype in (FLOAT32, BFLOAT16) for shape in shapes):

        def make(dtype: Any = dtype, shape: Any = shape) -> Any:
            return values(0, dtype, int(np.prod(shape))).reshape(shape)

        native, reference = pair(fo.AdamW, make, xp, lr=0.01, ema=0.9, row_steps=row_steps, **storage)
        for index in selections(rng, shape[0]):
            rows = fo.Rows(index, rows_of(rng, index, shape, FLOAT32))
            native.step(placed(xp, rows))
            reference.step(rows)
            assert_equal(native, reference, f"{shape}", xp)
        dense = rows_of(rng, np.arange(shape[0]), shape, dtype)
        native.step(placed(xp, dense))
        reference.step(dense)
        assert_equal(native, reference, f"{shape}, dense", xp)


@with_device
@loop("optimizer", [cls for cls in OPTIMIZERS if cls not in STORED])
def test_optimizers_with_numbers_of_rows_are_rejected(xp: Any, optimizer: Any) -> None:
    narrow, wide = (placed(xp, values(0, dtype, 128).reshape(2, 64)) for dtype in (BFLOAT16, FLOAT32))
    for name, value in (("state_format", "int8"), ("kahan", True), ("stochastic_rounding", True)):
        with pytest.raises(ValueError, match=f"^{name}: expected .* for params, which is on a GPU, got"):
            optimizer(narrow, **{name: value})
    with pytest.raises(
        ValueError, match=r"^state_format: expected 'native' for params, which is on a GPU, got 'int8'$"
    ):
        fo.Prodigy(placed(xp, np.ones(4)), state_format="int8")
    optimizer(wide, kahan=True).step(placed(xp, values(1, FLOAT32, 128).reshape(2, 64)))


@with_device
def test_rows_that_cut_blocks_are_rejected(xp: Any) -> None:
    opt = fo.Adam(placed(xp, values(0, FLOAT32, 630).reshape(10, 63)), **INT8)
    with pytest.raises(ValueError, match="expected rows of a multiple of 64 elements"):
        opt.step(fo.Rows(np.array([1]), placed(xp, values(1, FLOAT32, 63).reshape(1, 63))))


# ---- many arrays, checkpoints, values


@with_device
def test_hundreds_of_arrays_of_several_storages(xp: Any) -> None:
    """Some too small for codes, some without extra bits: one launch for those that are staged, one for the others."""

    def make() -> list[Array]:
        dtypes: tuple[DType, ...] = (FLOAT32, BFLOAT16, FLOAT64, FLOAT16)
        return [values(i, dtypes[i % 4], 11 * i % 300) for i in range(300)]

    native, reference = pair(fo.AdamW, make, xp, state_format="int8", int8_min_size=100, master_weight_bits=24)
    for t in range(2):
        grads = [None if i % 7 == t else values(i + t, FLOAT32, 11 * i % 300) for i in range(300)]
        native.step(placed(xp, grads))
        reference.step(grads)
        assert_equal(native, reference, f"step {t}", xp)


@with_device
@each_storage
def test_a_checkpoint_continues_on_the_other_device(xp: Any, storage: dict[str, Any]) -> None:
    def make() -> Array:
        return values(0, BFLOAT16, 5000)

    native, reference = pair(fo.AdamW, make, xp, **storage)
    grad = values(1, FLOAT32, 5000)
    native.step(placed(xp, grad))
    reference.step(grad)
    assert_same_values(xp, native, reference)
    here = fo.AdamW(get(xp, native.params), **storage)
    here.load_state_dict(native.state_dict())
    there = fo.AdamW(placed(xp, reference.params), **storage)
    there.load_state_dict(reference.state_dict())
    for opt in (here, there):
        opt.step(grad if opt is here else placed(xp, grad))
    reference.step(grad)
    assert_equal(here, reference)
    assert_equal(there, reference, xp=xp)


@with_device
def test_averages_and_the_lookahead_point(xp: Any) -> None:
    options = {"lr": 0.1, "ema": 0.5, **STORAGE["int8 and 24 bits"]}
    native, reference = pair(fo.NAG, lambda: values(0, BFLOAT16, 640), xp, **options)
    grad = values(1, FLOAT32, 640)
    for _ in range(2):
        with native.lookahead(), reference.lookahead():
            assert_equal(native, reference, "at the lookahead point", xp)
        with native.averaged(), reference.averaged():
            assert_equal(native, reference, "averaged", xp)
        native.step(placed(xp, grad))
        reference.step(grad)
        assert_equal(native, reference, xp=xp)


@with_device
def test_remap_keeps_the_state_of_rows(xp: Any) -> None:
    source = np.array([5, 5, -1, 9])

    def make() -> Array:
        return values(0, BFLOAT16, 1280).reshape(10, 128)

    native, reference = pair(fo.Adam, make, xp, **STORAGE["int8 and 24 bits"])
    grad = values(1, FLOAT32, 1280).reshape(10, 128)
    native.step(placed(xp, grad))
    reference.step(grad)
    for opt, new in ((native, placed(xp, make()[:4])), (reference, make()[:4].copy())):
        opt.remap(new, source)
    assert_equal(native, reference, xp=xp)


@with_device
@loop("dtype", [BFLOAT16, FLOAT16])
def test_functions_round_randomly(xp: Any, dtype: DType) -> None:
    p, g = values(0, dtype, 1000), values(1, FLOAT32, 1000)
    on_gpu = placed(xp, p)
    for module, target, grad in ((fo.functional, on_gpu, placed(xp, g)), (fo.reference, p, g)):
        module.sgd(target, grad, step=3, lr=0.1, stochastic_rounding=True, seed=5)
    assert_same_bits(get(xp, on_gpu), p)
