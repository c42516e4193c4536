"""Sums of a fixed shape: the same bits in both backends, whatever the size, threads, instruction set or memory, and as
accurate as can be asked for."""

from __future__ import annotations

import math
import os
import re
import subprocess
import sys
from collections.abc import Callable, Iterator
from functools import lru_cache
from itertools import cycle, product
from typing import Any

import numpy as np
import pytest

import fastoptim as fo
from bit_checks import Buffer, drifting_offsets, prefix
from cases import (
    DTYPES,
    FLOAT16,
    FLOAT32,
    FLOAT64,
    ISAS,
    MIN_SHARE,
    PLAIN_CASES,
    PREPARED_CASES,
    TILE,
    Array,
    Case,
    DType,
    assert_same_bits,
    ordinary_values,
)
from fastoptim.reference_math import norm, square, total
from loops import each_case, each_isa, loop, using_isa
from models import NO_ARRAYS, ODD_DTYPES, Backend, FakeCuda, each_backend, each_dtype, without_cuda

LANES = 32
SIZES = sorted(
    {0, 1, 2, 3, LANES - 1, LANES, LANES + 1, 2 * LANES - 1, 100, TILE - LANES - 1, TILE - LANES}
    | {k * TILE + d for k in (1, 2, 3, 4, 5, 6, 7, 9, 13) for d in (-1, 0, 1)}
)

NORM_CLIPS: dict[str, dict[str, Any]] = {
    "clip_norm": {"clip_norm": 0.7},
    "clip_global_norm": {"clip_global_norm": 0.7, "clip_value": 2.0},
    "norm_type=1": {"clip_norm": 0.7, "clip_global_norm": 0.3, "norm_type": 1.0, "clip_eps": 0.0},
    "norm_type=inf": {"clip_norm": 0.7, "clip_global_norm": 0.3, "norm_type": math.inf, "clip_eps": 0.1},
    "both": {"clip_norm": 3.0, "clip_global_norm": 2.0, "grad_scale": 1.3, "skip_nonfinite": True},
}


def with_options(case: Case, label: str, options: dict[str, Any]) -> Case:
    return Case(case.optimizer, case.options | options, f"{case.optimizer.name}-{label}")


SGD = next(case for case in PLAIN_CASES if case.optimizer is fo.SGD)
MEASURING = [case for case in PLAIN_CASES + PREPARED_CASES if case.optimizer.reduce_terms is not None]
SUMMING = [with_options(SGD, label, options) for label, options in NORM_CLIPS.items()] + MEASURING

each_sum = each_case(SUMMING)
each_pairing = loop(("p_dtype", "g_dtype"), list(product(DTYPES, DTYPES)))


def test_the_rules_with_sums_are_here() -> None:
    assert {"lars", "lamb", "novograd", "prodigy"} <= {case.optimizer.name for case in MEASURING}


# ---- the shape of the sum


def in_pairs(sums: list[float]) -> float:
    """Neighbours first; the last of an odd number waits."""
    while len(sums) > 1:
        paired = [sums[i] + sums[i + 1] for i in range(0, len(sums) - 1, 2)]
        sums = paired + sums[len(paired) * 2 :]
    return sums[0]


def naive_total(terms: list[float]) -> float:
    """Tiles, lanes and pairs, one addition at a time."""
    tiles = []
    for begin in range(0, max(len(terms), 1), TILE):
        lanes = [0.0] * LANES
        for i, term in enumerate(terms[begin : begin + TILE]):
            lanes[i % LANES] += term
        tiles.append(in_pairs(lanes))
    return in_pairs(tiles)


def wild(size: int, dtype: DType = FLOAT64, seed: int = 0) -> Array:
    """Numbers of sizes so different that every order of additions rounds otherwise."""
    rng = np.random.default_rng(seed)
    return (rng.standard_normal(size) * 10 ** rng.uniform(-3, 3, size)).astype(dtype)


@loop("size", SIZES)
def test_the_reference_adds_in_the_documented_order(size: int) -> None:
    terms = wild(size)
    assert total(terms) == naive_total(terms.tolist())


def test_the_order_matters_here() -> None:
    """Else the tests of it would say nothing.  Two orders may agree by chance."""

    def results(seed: int) -> set[float]:
        terms = wild(5 * TILE + 7, seed=seed)
        return {total(terms), total(terms[::-1].copy()), float(np.cumsum(terms)[-1]), math.fsum(terms)}

    assert sum(len(results(seed)) == 4 for seed in range(20)) > 5


def test_the_order_is_that_of_memory() -> None:
    terms = wild(6 * TILE).reshape(6, 4, TILE // 4)
    for axes in ((0, 1, 2), (2, 1, 0), (1, 0, 2)):
        assert total(np.ascontiguousarray(terms.transpose(axes)).transpose(np.argsort(axes))) == naive_total(
            terms.transpose(axes).reshape(-1).tolist()
        )


# ---- one norm


NORM_TYPES = (1.0, 2.0, math.inf)


def naive_norm(*arrays: Array, norm_type: float = 2.0) -> float:
    """Each array's norm, whose squares are added one after another."""
    sizes = [np.abs(array.astype(FLOAT64)).reshape(-1).tolist() for array in arrays]
    if norm_type == math.inf:
        return max((max(each, default=0.0) for each in sizes), default=0.0)
    if norm_type == 1:
        return _plain_sum(naive_total(each) for each in sizes)
    whole = 0.0
    for array in arrays:
        norm = math.sqrt(naive_total(square(array).reshape(-1).tolist()))
        whole += norm * norm
    return math.sqrt(whole)


@loop("size", SIZES)
@loop("norm_type", NORM_TYPES)
@each_dtype
@each_isa
def test_a_norm_at_every_kind_of_size(size: int, dtype: DType, norm_type: float) -> None:
    x = wild(size, dtype)
    assert fo.global_norm(x, norm_type) == naive_norm(x, norm_type=norm_type)


@each_dtype
def test_a_norm_at_every_offset(dtype: DType) -> None:
    x = wild(2 * TILE + 5, dtype)
    expected = naive_norm(x)
    for offset in range(67):
        placed = Buffer(x, offset)
        assert fo.global_norm(placed.array) == expected, f"offset {offset}"
        placed.assert_intact("x")


@each_dtype
@loop("size", [k * MIN_SHARE + d for k in (2, 3, 7) for d in (-TILE, -1, 0, 1, TILE)])
def test_a_norm_on_several_threads(dtype: DType, size: int) -> None:
    x = wild(size, dtype)
    expected = [norm(x, norm_type) for norm_type in NORM_TYPES]
    for threads in (1, 2, 3, 7):
        fo.set_num_threads(threads)
        assert [fo.global_norm(x, norm_type) for norm_type in NORM_TYPES] == expected, f"{threads} threads"


PRINT_NORMS = """
import sys, numpy as np, fastoptim as fo
assert fo.build_info()["isa"] == sys.argv[1]
for size in map(int, sys.argv[2:]):
    rng = np.random.default_rng(size)
    x = rng.standard_normal(size) * 10 ** rng.uniform(-3, 3, size)
    print(*(fo.global_norm(x.astype(kind)).hex() for kind in (np.float64, np.float32, np.float16)))
"""


def test_a_norm_by_every_instruction_set() -> None:
    sizes = [1, 31, 100, TILE - 1, TILE + 33, 3 * TILE + 5]
    printed = {isa: _run(PRINT_NORMS, isa, *map(str, sizes)) for isa in ISAS}
    expected = [
        " ".join(naive_norm(wild(size, dtype, seed=size)).hex() for dtype in (FLOAT64, FLOAT32, FLOAT16))
        for size in sizes
    ]
    assert printed == dict.fromkeys(ISAS, expected)


def _run(program: str, isa: str, *args: str) -> list[str]:
    env = {**os.environ, "FASTOPTIM_ISA": isa}
    done = subprocess.run(
        [sys.executable, "-c", program, isa, *args], env=env, check=True, capture_output=True, text=True
    )
    return done.stdout.splitlines()


@each_dtype
@loop("size", [1, 1000, TILE, 200_003])
def test_a_norm_is_accurate(dtype: DType, size: int) -> None:
    x = wild(size, dtype)
    wide = x.astype(FLOAT64)
    assert fo.global_norm(x) == pytest.approx(math.sqrt(math.fsum(wide * wide)), rel=1e-14)


def test_a_norm_of_many_small_terms_beside_a_large_one() -> None:
    """Where a sum in float32 would not move."""
    x = np.full(2**20 + 1, 2.0**-13, np.float32)
    x[0] = 1.0
    assert fo.global_norm(x) == math.sqrt(1 + 2.0**-6)


# ---- many arrays


@loop("count", [1, 2, 3, 17, 500])
@loop("threads", [1, 3])
def test_a_norm_of_many_arrays(count: int, threads: int) -> None:
    fo.set_num_threads(threads)
    rng = np.random.default_rng(count)
    arrays = [wild(int(rng.integers(0, 300)), DTYPES[i % 4], seed=i) for i in range(count)]
    for norm_type in NORM_TYPES:
        assert fo.global_norm(arrays, norm_type) == naive_norm(*arrays, norm_type=norm_type)


def test_a_norm_of_large_and_small_arrays() -> None:
    fo.set_num_threads(3)
    arrays = [wild(size, FLOAT32, seed=size) for size in (5, 2 * MIN_SHARE + 1, 0, 1, MIN_SHARE - 1, 3 * TILE)]
    expected = math.sqrt(_plain_sum(math.sqrt(total(square(x))) ** 2 for x in arrays))
    assert fo.global_norm(arrays) == expected


def _plain_sum(terms: Iterator[float]) -> float:
    whole = 0.0
    for term in terms:
        whole += term
    return whole


@loop("seed", range(40))
@each_backend
def test_it_is_the_norm_that_steps_clip_by(seed: int, backend: Any) -> None:
    """With float64 gradients over several arrays, the factor's last bit shows in the result."""
    grads = [wild(7, seed=10 * seed + i) for i in range(5)]
    params = [np.zeros(7) for _ in grads]
    fo.SGD(params, lr=1.0, clip_global_norm=0.5, backend=backend).step(grads)
    factor = 0.5 / (fo.global_norm(grads) + 1e-6)
    for p, g in zip(params, grads, strict=True):
        assert_same_bits(p, -(factor * g))


@each_backend
def test_an_array_s_own_clip_comes_before_the_norm_of_all(backend: Any) -> None:
    grads = [wild(9, seed=i) for i in range(3)]
    params = [np.zeros(9) for _ in grads]
    fo.SGD(params, lr=1.0, clip_norm=2.0, clip_global_norm=3.0, backend=backend).step(grads)
    assert [fo.global_norm(p) for p in params] == pytest.approx([3 / math.sqrt(3)] * 3, rel=1e-6)


# ---- nestings, memory, refusals


NESTINGS: list[tuple[Any, float]] = [
    (np.array([3.0, 4.0]), 5.0),
    ({"w": np.array([[3.0]]), "b": (np.array(4.0, np.float16), [np.array([12], np.float32)])}, 13.0),
    ([None, np.array([3.0, -4.0]), {"x": None}], 5.0),
    (None, 0.0),
    ([], 0.0),
    ({}, 0.0),
    (np.zeros((0, 3)), 0.0),
    ([np.array(-2.0)], 2.0),
    ([np.float32(3.0), np.float64(4.0)], 5.0),  # what NumPy's reductions return
    ([{"params": np.array([3.0])}, {"params": np.array([4.0])}], 5.0),
]


@loop(("arrays", "expected"), NESTINGS)
def test_nestings(arrays: Any, expected: float) -> None:
    found = fo.global_norm(arrays)
    assert type(found) is float
    assert found == expected


@loop("bad", [math.inf, -math.inf, math.nan])
@each_dtype
def test_what_is_not_finite_shows(bad: float, dtype: DType) -> None:
    x = np.ones(100, dtype)
    x[70] = bad
    for norm_type in NORM_TYPES:
        assert str(fo.global_norm([np.ones(3), x, np.ones(2)], norm_type)) == str(abs(bad))


LAYOUTS: dict[str, Callable[[Array], Array]] = {
    "strided": lambda x: x[::2],
    "columns": lambda x: x[:, ::3],
    "reversed": lambda x: x[::-1, ::-1],
    "broadcast": lambda x: np.broadcast_to(x[0], (5, x.shape[1])),
    "read_only": lambda x: np.frombuffer(x.tobytes(), x.dtype).reshape(x.shape),
    "subclass": lambda x: x.view(np.memmap),
}


@loop("name", LAYOUTS)
@each_dtype
def test_any_memory_is_read(name: str, dtype: DType) -> None:
    whole = wild(60 * 51, dtype).reshape(60, 51)
    before = whole.tobytes()
    x = LAYOUTS[name](whole)
    assert fo.global_norm(x) == naive_norm(np.ascontiguousarray(x).view(np.ndarray))
    assert whole.tobytes() == before


def test_a_dense_array_is_read_in_the_order_of_its_memory() -> None:
    x = wild(70 * 90).reshape(70, 90)
    assert fo.global_norm(np.asfortranarray(x)) == fo.global_norm(np.ascontiguousarray(x.T))
    assert fo.global_norm(x.T) == fo.global_norm(x)


@loop(("thing", "got"), NO_ARRAYS)
def test_what_is_no_array_is_rejected(thing: Any, got: str) -> None:
    with pytest.raises(TypeError, match=re.escape("arrays['w'][1]: expected a NumPy array, got")) as caught:
        fo.global_norm({"w": [np.ones(2), thing], "b": np.ones(3)})
    assert got in str(caught.value)


@loop("dtype", ODD_DTYPES)
def test_other_dtypes_are_rejected(dtype: np.dtype[Any]) -> None:
    with pytest.raises(TypeError, match=re.escape("arrays: expected dtype float64, float32, float16 or bfloat16")):
        fo.global_norm(np.zeros(3, dtype))


@loop(("norm_type", "error"), [(3, ValueError), (-1.0, ValueError), (math.nan, ValueError), ("2", TypeError)])
def test_other_types_of_norms_are_rejected(norm_type: Any, error: type[Exception]) -> None:
    with pytest.raises(error, match=re.escape("norm_type: expected 1, 2 or inf, got ")):
        fo.global_norm(np.ones(3), norm_type)


@without_cuda
def test_a_cuda_array_is_rejected() -> None:
    with pytest.raises(RuntimeError, match=re.escape("arrays[0]: got a CUDA array")):
        fo.global_norm([FakeCuda()])


# ---- steps that need sums


@lru_cache(maxsize=64)
def buffers(case: Case, p_dtype: DType, g_dtype: DType, size: int) -> list[Array]:
    rng = np.random.default_rng(size)
    made = [ordinary_values(rng, dtype, size) for dtype in (p_dtype, g_dtype)]
    kept = FLOAT64 if p_dtype == FLOAT64 else FLOAT32
    state = case.make_state(lambda: np.abs(ordinary_values(rng, kept, max(size, 1))))
    return made + [prefix(array, size) for array in state]


@lru_cache(maxsize=64)
def expected_of(case: Case, p_dtype: DType, g_dtype: DType, size: int) -> list[Array]:
    after = [array.copy() for array in buffers(case, p_dtype, g_dtype, size)]
    case.update(fo.reference, after[0], after[1], after[2:], 3)
    return after


def check_step(case: Case, p_dtype: DType, g_dtype: DType, size: int, offsets: Iterator[int]) -> None:
    """One native update, each buffer at its own offset between sentinels."""
    placed = [Buffer(array, next(offsets)) for array in buffers(case, p_dtype, g_dtype, size)]
    p, g, *state = (buffer.array for buffer in placed)
    case.update(fo.functional, p, g, state, 3)
    wanted = expected_of(case, p_dtype, g_dtype, size)
    for name, buffer, want in zip(("p", "g", *case.state), placed, wanted, strict=True):
        buffer.assert_intact(name)
        assert_same_bits(buffer.array, want, f"{name}, size {size}")


@each_pairing
@each_sum
@each_isa
def test_steps_in_every_pairing(case: Case, p_dtype: DType, g_dtype: DType) -> None:
    offsets = drifting_offsets()
    for size in (0, LANES + 1, TILE - 1, 2 * TILE + LANES - 1):
        check_step(case, p_dtype, g_dtype, size, offsets)


@each_sum
@each_isa
def test_steps_at_every_kind_of_size(case: Case) -> None:
    offsets = drifting_offsets()
    for i, size in enumerate(SIZES):
        check_step(case, DTYPES[i % 4], DTYPES[i // 4 % 4], size, offsets)


@each_sum
@each_isa
def test_steps_on_several_threads(case: Case) -> None:
    """Shares of a sum are cut at tiles, and those of a step elsewhere."""
    offsets = drifting_offsets()
    sizes = [2 * MIN_SHARE - 1, 2 * MIN_SHARE + TILE + 1, 7 * MIN_SHARE, 7 * MIN_SHARE + TILE - 1]
    for (i, size), threads in product(enumerate(sizes), (1, 2, 3, 7)):
        fo.set_num_threads(threads)
        check_step(case, DTYPES[i], DTYPES[-i], size, offsets)


def stepped_many(case: Case, backend: Backend, isa: str, threads: int) -> list[Array]:
    """Step arrays of many sizes twice; return parameters and state."""
    fo.set_num_threads(threads)
    sizes = [*map(int, np.random.default_rng(0).integers(0, 3000, 20)), 3 * MIN_SHARE + 5, 0, 1]
    params = [wild(size, DTYPES[i % 4], seed=i) for i, size in enumerate(sizes)]
    opt = case.optimize(params, backend)
    with using_isa(isa):
        for t in (1, 2):
            opt.step([None if (i + t) % 7 == 0 else wild(n, DTYPES[i // 4 % 4], 9 * i) for i, n in enumerate(sizes)])
    return [*params, *(array for entry in opt.state for array in entry.values())]


@each_sum
def test_steps_over_many_arrays(case: Case) -> None:
    wanted = stepped_many(case, "reference", ISAS[0], 1)
    for threads, isa in zip((1, 2, 3, 7), cycle(ISAS)):
        for found, expected in zip(stepped_many(case, "native", isa, threads), wanted, strict=True):
            assert_same_bits(found, expected, f"{threads} threads, {isa}")
