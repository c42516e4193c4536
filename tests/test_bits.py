"""Native code equals the plain-NumPy reference bit for bit, parameters and state, and leaves all other memory alone.

What is crossed with what:

- every case x both compute types, and one case a variant x every format of the parameter; each x every format of the
  gradient x every instruction set, on all pairs of special values;
- for one case a variant, with and without preparation: special values in the state at near and far steps; every size
  up to more than two vectors of the widest set, sizes around tiles, and a size for several threads.  Formats and
  offsets in memory run along with the sizes, each at its own pace;
- for the variant with the most arrays: every two buffers at every two byte offsets; sizes around every number of
  thread shares on 1 to 7 threads (shares are cut before any rule is known).
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import lru_cache
from itertools import chain, product
from typing import Literal, NamedTuple

import numpy as np
import pytest

import fastoptim as fo
from cases import (
    CASES,
    DTYPES,
    ISAS,
    MIN_SHARE,
    PLAIN_CASES,
    TILE,
    VARIANT_CASES,
    Array,
    Case,
    DType,
    assert_same_bits,
    case_id,
    ordinary_values,
    random_values,
    special_values,
    state_values,
)
from fastoptim.core import RULES
from fastoptim.reference_math import compute_dtype

Backend = Literal["native", "reference"]
Arrays = dict[str, Array]

LINE = 64  # bytes in a cache line, and in the widest vector
ODD = 67  # a prime above LINE: offsets modulo it reach every place in a line

LARGEST_CASE = max(PLAIN_CASES, key=lambda case: len(case.state))


def test_every_rule_is_reached() -> None:
    """But for the one that no options lead to: Sophia.update_hessian is tested in test_rules_adaptive.py."""
    assert {case.variant for case in CASES} == set(RULES) - {"sophia_hessian"}


def test_ids_are_unique() -> None:
    assert len({case.id for case in CASES}) == len(CASES)


# ---- special values

RATES = (1, 1, 0.3, 7, 1)  # of the case's learning rate, step by step


def special_pairs(p_dtype: DType, g_dtype: DType) -> tuple[Array, Array]:
    """Every special parameter with every special gradient, and random ones."""
    p, g = special_values(p_dtype), special_values(g_dtype)
    rng = np.random.default_rng(1)
    return (
        np.concatenate([np.repeat(p, len(g)), random_values(rng, p_dtype, 300)]),
        np.concatenate([np.tile(g, len(p)), random_values(rng, g_dtype, 300)]),
    )


@lru_cache(maxsize=8)
def special_steps(p_dtype: DType) -> tuple[Arrays, list[Arrays]]:
    """One parameter a gradient format, by its name, and each step's gradients."""
    rng = np.random.default_rng(2)
    pairs = {g_dtype.name: special_pairs(p_dtype, g_dtype) for g_dtype in DTYPES}
    params = {name: p for name, (p, _) in pairs.items()}
    first = {name: g for name, (_, g) in pairs.items()}
    return params, [first] + [{k: rng.permutation(g) for k, g in first.items()} for _ in RATES[1:]]


def follow(case: Case, p_dtype: DType, backend: Backend) -> tuple[list[Arrays], list[Arrays]]:
    """Every parameter and state array after each step; and the gradients that were passed."""
    params, steps = special_steps(p_dtype)
    opt = case.optimize({name: p.copy() for name, p in params.items()}, backend)
    given = [{name: g.copy() for name, g in grads.items()} for grads in steps]
    found = []
    for rate, grads in zip(RATES, given, strict=True):
        opt.param_groups[0]["lr"] = rate * case.options["lr"]
        opt.step(grads)
        arrays = {f"p with {name} gradients": p.copy() for name, p in opt.params.items()}
        for name, state in opt.state.items():
            arrays |= {f"{key} with {name} gradients": s.copy() for key, s in state.items()}
        found.append(arrays)
    return found, given


@lru_cache(maxsize=2)
def expected(case: Case, p_dtype: DType) -> list[Arrays]:
    return follow(case, p_dtype, "reference")[0]


# Options meet a 16-bit parameter as they meet a float32 one: only a case a variant tries all formats.
SPECIAL = [(case, p_dtype) for case in CASES for p_dtype in (DTYPES if case in VARIANT_CASES else DTYPES[:2])]


@pytest.mark.parametrize("isa", ISAS, indirect=True)
@pytest.mark.parametrize(("case", "p_dtype"), SPECIAL, ids=[f"{case.id}-{p_dtype}" for case, p_dtype in SPECIAL])
def test_special_values(case: Case, p_dtype: DType, isa: str) -> None:
    found, given = follow(case, p_dtype, "native")
    for t, (arrays, wanted) in enumerate(zip(found, expected(case, p_dtype), strict=True), 1):
        for name, array in arrays.items():
            assert_same_bits(array, wanted[name], f"{name} after step {t}")
    for grads, originals in zip(given, special_steps(p_dtype)[1], strict=True):
        assert all(g.tobytes() == originals[name].tobytes() for name, g in grads.items())


@pytest.mark.parametrize("p_dtype", DTYPES, ids=str)
@pytest.mark.parametrize("case", VARIANT_CASES, ids=case_id)
def test_special_state(case: Case, p_dtype: DType, isa: str) -> None:
    rng = np.random.default_rng(3)
    for t, g_dtype in zip((1, 2, 1000, 2**40 + 1), DTYPES, strict=True):
        arrays = [rng.choice(special_values(kind), 5000) for kind in (p_dtype, g_dtype)]
        arrays += case.make_state(lambda: rng.choice(special_values(compute_dtype(p_dtype)), 5000))
        wanted = [array.copy() for array in arrays]
        case.update(fo.functional, arrays[0], arrays[1], arrays[2:], t)
        case.update(fo.reference, wanted[0], wanted[1], wanted[2:], t)
        for name, array, want in zip(("p", "g", *case.state), arrays, wanted, strict=True):
            assert_same_bits(array, want, f"{name} at step {t} with {g_dtype} gradients")


# ---- sizes, offsets, threads


class Buffer:
    """An array at a byte offset from a cache line, with sentinels before and behind it."""

    def __init__(self, values: Array, offset: int) -> None:
        self.memory = np.full(values.nbytes + ODD + 4 * LINE, 0xA5, np.uint8)
        self.begin = -self.memory.ctypes.data % LINE + LINE + offset
        self.array: Array = np.ndarray(values.shape, values.dtype, self.memory, self.begin)
        self.array[...] = values

    def assert_intact(self, place: str) -> None:
        end = self.begin + self.array.nbytes
        assert (self.memory[: self.begin] == 0xA5).all(), f"{place}: written before its begin"
        assert (self.memory[end:] == 0xA5).all(), f"{place}: written behind its end"


class Pool(NamedTuple):
    """Buffers before and after one update by the reference; where that goes element by element, every shorter prefix
    of them too."""

    names: Sequence[str]
    before: list[Array]
    after: list[Array]


@lru_cache(maxsize=16)
def pool(case: Case, p_dtype: DType, g_dtype: DType, size: int) -> Pool:
    rng = np.random.default_rng(4)
    before = [ordinary_values(rng, dtype, size) for dtype in (p_dtype, g_dtype)]
    before += case.make_state(lambda: state_values(rng, p_dtype, max(size, 1))[:size])
    return Pool(("p", "g", *case.state), before, updated(case, before))


def updated(case: Case, before: list[Array]) -> list[Array]:
    after = [array.copy() for array in before]
    case.update(fo.reference, after[0], after[1], after[2:], 3)
    return after


def prefix(array: Array, size: int) -> Array:
    return array[:size] if array.ndim else array


def check_update(case: Case, buffers: Pool, size: int, offsets: Iterator[int]) -> None:
    """One native update of a prefix, each buffer at its own offset."""
    before = [prefix(array, size) for array in buffers.before]
    after = [prefix(array, size) for array in buffers.after] if case.elementwise else updated(case, before)
    placed = [Buffer(array, next(offsets)) for array in before]
    p, g, *state = (buffer.array for buffer in placed)
    case.update(fo.functional, p, g, state, 3)
    for name, buffer, wanted in zip(buffers.names, placed, after, strict=True):
        buffer.assert_intact(name)
        assert_same_bits(buffer.array, wanted, name)


def drifting_offsets() -> Iterator[int]:
    """0 to 66 again and again, in a new order each time."""
    rng = np.random.default_rng(5)
    while True:
        yield from map(int, rng.permutation(ODD))


def drifting_pairings() -> Iterator[tuple[DType, DType]]:
    while True:
        yield from product(DTYPES, DTYPES)


@pytest.mark.parametrize("isa", ISAS, indirect=True)
@pytest.mark.parametrize("case", VARIANT_CASES, ids=case_id)
def test_sizes_below_a_tile(case: Case, isa: str) -> None:
    largest = 2 * LINE // 4 + 38  # float32 vectors of the widest set, and every tail
    offsets = drifting_offsets()
    for p_dtype, size in product(DTYPES, range(largest + 1)):
        g_dtype = DTYPES[(size + size // 4) % 4]
        check_update(case, pool(case, p_dtype, g_dtype, largest), size, offsets)


@pytest.mark.parametrize("isa", ISAS, indirect=True)
@pytest.mark.parametrize("case", VARIANT_CASES, ids=case_id)
def test_tiles(case: Case, isa: str) -> None:
    offsets, pairings = drifting_offsets(), drifting_pairings()
    for size in (*range(TILE - 3, TILE + 4), 2 * TILE - 1, 2 * TILE, 2 * TILE + 1):
        for _ in range(4):
            check_update(case, pool(case, *next(pairings), 2 * TILE + 1), size, offsets)


@pytest.mark.parametrize("isa", ISAS, indirect=True)
@pytest.mark.parametrize("case", VARIANT_CASES, ids=case_id)
def test_several_threads(case: Case, isa: str) -> None:
    fo.set_num_threads(3)
    size = 3 * MIN_SHARE + 1
    p_dtype, g_dtype = DTYPES[CASES.index(case) % 4], DTYPES[CASES.index(case) // 4 % 4]
    check_update(case, pool(case, p_dtype, g_dtype, size), size, drifting_offsets())


@pytest.mark.parametrize("isa", ISAS, indirect=True)
@pytest.mark.parametrize("threads", [1, 2, 3, 7])
@pytest.mark.parametrize("p_dtype", DTYPES, ids=str)
def test_thread_shares(p_dtype: DType, threads: int, isa: str) -> None:
    fo.set_num_threads(threads)
    borders = [k * MIN_SHARE + i for k in (2, 3, 7) for i in (-1, 0, 1)]
    buffers = pool(LARGEST_CASE, p_dtype, np.dtype(np.float32), borders[-1])
    offsets = drifting_offsets()
    for size in borders:
        check_update(LARGEST_CASE, buffers, size, offsets)


def test_every_two_offsets(isa: str) -> None:
    """Buffer k lies at a + k*b: as ODD is a prime, any two buffers meet every two offsets."""
    pairings = drifting_pairings()
    for a, b in product(range(ODD), range(ODD)):
        offsets = ((a + k * b) % ODD for k in range(ODD))
        buffers = pool(LARGEST_CASE, *next(pairings), ODD + 4)
        check_update(LARGEST_CASE, buffers, ODD + a % 5, offsets)


# ---- lists of arrays

SHAPES: tuple[tuple[int, ...], ...] = ((3,), (), (0,), (30, 31), (1,), (0, 5), (2, 3, 4), (17,), (1025,), (64,))


class Entry(NamedTuple):
    """One array of a model, with its gradients; None where a step has none."""

    case: Case
    p: Array
    grads: list[Array | None]


STEPS = 10


@lru_cache(maxsize=1)
def model(name: str) -> list[Entry]:
    """Every variant with and without preparation, arrays of every kind of size, in all pairings of formats; one in each
    group so large that there is a share for each of 7 threads, and their borders fall inside the arrays."""
    rng = np.random.default_rng(6)
    pairings = drifting_pairings()
    cases = [case for case in VARIANT_CASES if case.optimizer.name == name]
    shapes = (*SHAPES, (7 * MIN_SHARE // len(cases),))
    return [random_entry(rng, case, shape, *next(pairings)) for case, shape in product(cases, shapes)]


def random_entry(rng: np.random.Generator, case: Case, shape: tuple[int, ...], p_dtype: DType, g_dtype: DType) -> Entry:
    size = int(np.prod(shape))
    p = ordinary_values(rng, p_dtype, size).reshape(shape)
    grads = [ordinary_values(rng, g_dtype, size).reshape(shape) for _ in range(STEPS)]
    skipped = {*range(rng.integers(0, 3)), int(rng.integers(0, STEPS))}
    return Entry(case, p, [None if i in skipped else g for i, g in enumerate(grads)])


@lru_cache(maxsize=1)
def one_at_a_time(name: str) -> list[tuple[Array, Arrays]]:
    """Each array with an optimizer of its own, by the reference; a step without its gradient never was."""
    if fo.OPTIMIZERS[name].reduces_group:  # whose arrays depend on each other
        return list(by_groups(name, "reference"))
    results = []
    for case, p, grads in model(name):
        opt = case.optimize(p.copy(), "reference")
        for grad in grads:
            if grad is not None:
                opt.step(grad)
        results.append((opt.params, opt.state))
    return results


def by_groups(name: str, backend: Backend) -> Iterator[tuple[Array, Arrays]]:
    """All arrays by one optimizer, each case a group."""
    entries = model(name)
    cases = list(dict.fromkeys(entry.case for entry in entries))
    chosen = [[entry for entry in entries if entry.case is case] for case in cases]
    groups = [
        {"params": [entry.p.copy() for entry in group], **case.options}
        for case, group in zip(cases, chosen, strict=True)
    ]
    opt = fo.OPTIMIZERS[name](groups, backend=backend)
    for i in range(STEPS):
        opt.step([[entry.grads[i] for entry in group] for group in chosen])
    return zip(chain(*opt.params), chain(*opt.state), strict=True)


@pytest.mark.parametrize("isa", ISAS, indirect=True)
@pytest.mark.parametrize("threads", [1, 2, 3, 7])
@pytest.mark.parametrize("name", fo.OPTIMIZERS)
def test_lists_equal_arrays_one_at_a_time(name: str, threads: int, isa: str) -> None:
    fo.set_num_threads(threads)
    entries = model(name)
    found = by_groups(name, "native")
    for i, ((p, state), (wanted_p, wanted_state)) in enumerate(zip(found, one_at_a_time(name), strict=True)):
        place = f"array {i} ({entries[i].case.id})"
        assert_same_bits(p, wanted_p, f"{place}: p")
        assert state.keys() == wanted_state.keys()
        for key, s in state.items():
            assert_same_bits(s, wanted_state[key], f"{place}: {key}")
