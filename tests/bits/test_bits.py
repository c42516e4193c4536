"""Check that native code equals the NumPy reference bit for bit, parameters and state, and writes no other memory.

The default run covers:

- every case with float32 on one instruction set, one case for each variant with every format of the parameter on every
  instruction set; each with every format of the gradient, on all pairs of special values;
- for one case of each variant, with and without preparation: special values in the state at early and late steps; every
  size up to more than two vectors of the widest set, sizes around tiles, and a size for several threads.  Formats and
  offsets in memory change with the size;
- for the variant with the most arrays: sizes around every number of thread shares on 1 to 7 threads, and a sample of
  the offsets of every two buffers.

The mark `exhaustive` adds float64 and every instruction set for every case, every format at every size, and every two
offsets.
"""

from __future__ import annotations

from itertools import cycle, product

import numpy as np
import pytest

import fastoptim as fo
from bit_checks import (
    LARGEST_CASE,
    ODD,
    by_groups,
    check_update,
    drifting_offsets,
    drifting_pairings,
    expected,
    follow,
    model,
    one_at_a_time,
    pool,
    special_steps,
)
from cases import (
    CASES,
    DTYPES,
    FLOAT32,
    FLOAT64,
    ISAS,
    MIN_SHARE,
    TILE,
    VARIANT_CASES,
    Case,
    DType,
    assert_same_bits,
    special_values,
)
from devices import FACTORED_RULES, LINE
from fastoptim.core import RULES
from fastoptim.reference_math import compute_dtype
from loops import each_case, each_isa, loop, using_isa
from models import every_variant

exhaustive = pytest.mark.exhaustive

OTHER_CASES = [case for case in CASES if case not in VARIANT_CASES]


def test_every_rule_is_reached() -> None:
    """Sophia.update_hessian, the passes of L-BFGS and optimizers with stages have tests of their own."""
    passes = {name for name in RULES if name.startswith(("lbfgs_", "muon", "soap", "shampoo"))}
    passes |= FACTORED_RULES
    assert {case.variant for case in CASES} == set(RULES) - {"sophia_hessian"} - passes


def test_ids_are_unique() -> None:
    assert len({case.id for case in CASES}) == len(CASES)


# ---- special values


def check_special_values(case: Case, p_dtype: DType) -> None:
    found, given = follow(case, p_dtype, "native")
    for t, (arrays, wanted) in enumerate(zip(found, expected(case, p_dtype), strict=True), 1):
        for name, array in arrays.items():
            assert_same_bits(array, wanted[name], f"{case.id} on {p_dtype}: {name} after step {t}")
    for grads, originals in zip(given, special_steps(p_dtype)[1], strict=True):
        assert all(g.tobytes() == originals[name].tobytes() for name, g in grads.items())


@each_case(OTHER_CASES)
def test_special_values(case: Case) -> None:
    with using_isa(ISAS[OTHER_CASES.index(case) % len(ISAS)]):
        check_special_values(case, FLOAT32)


@every_variant
@loop("p_dtype", DTYPES)
@each_isa
def test_special_values_in_every_format(case: Case, p_dtype: DType) -> None:
    check_special_values(case, p_dtype)


@exhaustive
@each_case(OTHER_CASES)
@loop("p_dtype", [FLOAT32, FLOAT64])
@each_isa
def test_special_values_of_every_case(case: Case, p_dtype: DType) -> None:
    check_special_values(case, p_dtype)


@every_variant
@loop("p_dtype", DTYPES)
@each_isa
def test_special_state(case: Case, p_dtype: DType) -> None:
    rng = np.random.default_rng(3)
    for t, g_dtype in zip((1, 2, 1024, 2**40 + 1), DTYPES, strict=True):
        arrays = [rng.choice(special_values(kind), 1500) for kind in (p_dtype, g_dtype)]
        arrays += case.make_state(lambda: rng.choice(special_values(compute_dtype(p_dtype)), 1500))
        wanted = [array.copy() for array in arrays]
        case.update(fo.functional, arrays[0], arrays[1], arrays[2:], t)
        case.update(fo.reference, wanted[0], wanted[1], wanted[2:], t)
        for name, array, want in zip(("p", "g", *case.state), arrays, wanted, strict=True):
            assert_same_bits(array, want, f"{name} at step {t} with {g_dtype} gradients")


# ---- sizes, offsets, threads

LARGEST = 2 * LINE // 4 + 38  # float32 vectors of the widest set, and every tail


@every_variant
def test_sizes_below_a_tile(case: Case) -> None:
    """Each size in one format by one instruction set, which change from size to size and from case to case."""
    offsets, first = drifting_offsets(), VARIANT_CASES.index(case)
    for size in range(LARGEST + 1):
        p_dtype, g_dtype = DTYPES[(first + size // 16 + size) % 4], DTYPES[(size + size // 4) % 4]
        with using_isa(ISAS[(first + size) % len(ISAS)]):
            check_update(case, pool(case, p_dtype, g_dtype, LARGEST), size, offsets)


@exhaustive
@every_variant
@each_isa
def test_sizes_below_a_tile_in_every_format(case: Case) -> None:
    offsets = drifting_offsets()
    for p_dtype, size in product(DTYPES, range(LARGEST + 1)):
        check_update(case, pool(case, p_dtype, DTYPES[(size + size // 4) % 4], LARGEST), size, offsets)


@every_variant
@each_isa
def test_tiles(case: Case) -> None:
    offsets, pairings = drifting_offsets(), drifting_pairings()
    for size in (*range(TILE - 3, TILE + 4), 2 * TILE - 1, 2 * TILE, 2 * TILE + 1):
        for _ in range(2):
            check_update(case, pool(case, *next(pairings), 2 * TILE + 1), size, offsets)


@every_variant
@each_isa
def test_several_threads(case: Case) -> None:
    fo.set_num_threads(3)
    size = 3 * MIN_SHARE + 1
    p_dtype, g_dtype = DTYPES[CASES.index(case) % 4], DTYPES[CASES.index(case) // 4 % 4]
    check_update(case, pool(case, p_dtype, g_dtype, size), size, drifting_offsets())


@loop(("p_dtype", "threads"), zip(DTYPES, [2, 3, 7, 1], strict=True))
@each_isa
def test_thread_shares(p_dtype: DType, threads: int) -> None:
    fo.set_num_threads(threads)
    borders = [k * MIN_SHARE + i for k in (2, 3, 7) for i in (-1, 0, 1)]
    buffers = pool(LARGEST_CASE, p_dtype, np.dtype(np.float32), borders[-1])
    offsets = drifting_offsets()
    for size in borders:
        check_update(LARGEST_CASE, buffers, size, offsets)


def check_offsets(places: range) -> None:
    """Place buffer k at a + k*b: since ODD is a prime, any two buffers meet every two offsets."""
    pairings = drifting_pairings()
    for a, b in product(places, range(ODD)):
        offsets = ((a + k * b) % ODD for k in range(ODD))
        check_update(LARGEST_CASE, pool(LARGEST_CASE, *next(pairings), ODD + 4), ODD + a % 5, offsets)


@each_isa
def test_offsets() -> None:
    check_offsets(range(0, ODD, 9))


@exhaustive
@each_isa
def test_every_two_offsets() -> None:
    check_offsets(range(ODD))


# ---- lists of arrays


@pytest.mark.parametrize("name", fo.OPTIMIZERS)
@loop(("threads", "isa"), zip([1, 2, 3, 7], cycle(ISAS)))
def test_lists_equal_arrays_one_at_a_time(name: str, threads: int, isa: str) -> None:
    fo.set_num_threads(threads)
    entries = model(name)
    with using_isa(isa):
        found = by_groups(name, "native")
    for i, ((p, state), (wanted_p, wanted_state)) in enumerate(zip(found, one_at_a_time(name), strict=True)):
        place = f"array {i} ({entries[i].case.id})"
        assert_same_bits(p, wanted_p, f"{place}: p")
        assert state.keys() == wanted_state.keys()
        for key, s in state.items():
            assert_same_bits(s, wanted_state[key], f"{place}: {key}")
