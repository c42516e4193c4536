"""Kernels on a GPU equal the plain-NumPy reference bit for bit, parameters and state, and leave all other memory alone.

The same grid as test_bits.py, from which the values and what the reference makes of them come: with a GPU all of it, in
an emulated build, where the same code runs on the CPU, one case a variant.
"""

from __future__ import annotations

import random
from collections.abc import Iterator
from functools import partial
from itertools import chain, product
from typing import Any

import numpy as np
import pytest

import fastoptim as fo
from bit_checks import (
    LARGEST_CASE,
    RATES,
    STEPS,
    drifting_pairings,
    expected,
    model,
    one_at_a_time,
    pool,
    prefix,
    special_steps,
    updated,
)
from cases import (
    DTYPES,
    FLOAT16,
    FLOAT32,
    Case,
    DType,
    assert_same_bits,
    case_id,
    ordinary_values,
    special_values,
)
from devices import CASES, IS_EMULATED, OFFSETS, OPTIMIZERS, VARIANT_CASES, Placed, get, put, with_device
from fastoptim.engines.reference import FLUSH_INTERVAL
from fastoptim.reference_math import compute_dtype
from loops import each_case

every_variant = each_case(VARIANT_CASES)

TILE = 1024  # what sums are taken over, and a multiple of what a block works on at a time

LONG = [case for case in VARIANT_CASES if case.optimizer in (fo.Adam, fo.LAMB, fo.NovoGrad)]
# Options meet a 16-bit parameter as they meet a float32 one: only one case for each variant tries all formats.
TRIED = [(case, dtype) for case in VARIANT_CASES for dtype in DTYPES]
LIMITED = [
    case
    for case in CASES
    if case.optimizer in (fo.SGD, fo.AdamW, fo.LAMB)
    and (case.options["cautious"] or case.options["cautious_decay"] or case.options["bounds"])
]
TRIED += [(case, dtype) for case in LIMITED for dtype in DTYPES]
TRIED += [
    (case, dtype) for case in CASES for dtype in DTYPES[:2] if not IS_EMULATED and case not in VARIANT_CASES + LIMITED
]


@pytest.fixture(autouse=IS_EMULATED)
def _blocks_in_any_order(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FASTOPTIM_EMULATED_ORDER", "random")


# ---- special values


@with_device
@pytest.mark.parametrize(("case", "p_dtype"), TRIED, ids=[f"{case.id}-{p_dtype}" for case, p_dtype in TRIED])
def test_special_values(xp: Any, case: Case, p_dtype: DType) -> None:
    params, steps = special_steps(p_dtype)
    opt: Any = case.optimize({name: put(xp, p) for name, p in params.items()})
    given = [{name: put(xp, g) for name, g in grads.items()} for grads in steps]
    for t, (rate, grads, wanted) in enumerate(zip(RATES, given, expected(case, p_dtype), strict=True), 1):
        opt.param_groups[0]["lr"] = rate * case.options["lr"]
        opt.step(grads)
        arrays = {f"p with {name} gradients": p for name, p in opt.params.items()}
        for name, state in opt.state.items():
            arrays |= {f"{key} with {name} gradients": s for key, s in state.items()}
        assert arrays.keys() == wanted.keys()
        for name, array in arrays.items():
            assert_same_bits(get(xp, array), wanted[name], f"{name} after step {t}")
    for grads, originals in zip(given, steps, strict=True):
        assert all(get(xp, g).tobytes() == originals[name].tobytes() for name, g in grads.items())


@with_device
@pytest.mark.parametrize("p_dtype", DTYPES, ids=str)
@every_variant
def test_special_state(xp: Any, case: Case, p_dtype: DType) -> None:
    rng = np.random.default_rng(3)
    for t, g_dtype in zip((1, 2, 1024, 2**40 + 1), DTYPES, strict=True):
        before = [rng.choice(special_values(kind), 5000) for kind in (p_dtype, g_dtype)]
        before += case.make_state(lambda: rng.choice(special_values(compute_dtype(p_dtype)), 5000))
        arrays = [put(xp, array) for array in before]
        case.update(fo.functional, arrays[0], arrays[1], arrays[2:], t)
        case.update(fo.reference, before[0], before[1], before[2:], t)
        for name, array, wanted in zip(("p", "g", *case.state), arrays, before, strict=True):
            assert_same_bits(get(xp, array), wanted, f"{name} at step {t} with {g_dtype} gradients")


@with_device
def test_some_steps_flush_averages(xp: Any) -> None:
    averages = []
    for place, backend in ((partial(put, xp), "native"), (np.copy, "reference")):
        opt = fo.OPTIMIZERS["sgd"](place(np.zeros(1030, np.float32)), ema=0.99, backend=backend)
        for _ in range(FLUSH_INTERVAL):
            opt.state["average"][...] = place(np.linspace(-1e-38, 3e-38, 1030, dtype=np.float32))
            opt.step(place(np.zeros(1030, np.float32)))
        averages.append(opt.state["average"])
    assert_same_bits(get(xp, averages[0]), averages[1], "average")
    assert np.abs(averages[1][averages[1] != 0]).min() >= np.finfo(np.float32).smallest_normal


@with_device
@pytest.mark.parametrize("half", [FLOAT16, DTYPES[3]], ids=str)
def test_copies(xp: Any, half: DType) -> None:
    """At every alignment of the copy, with thousands of elements and with few."""
    for p_dtype, size, offset in product(DTYPES[:2], (9, 9001), range(8)):
        start, grad = (ordinary_values(np.random.default_rng(seed), p_dtype, size) for seed in (0, 1))
        here, there = np.zeros(size, half), put(xp, np.zeros(size + offset, half))[offset:]
        options: Any = {"lr": 0.1, "cautious": True, "bounds": (-1.0, 1.0)}
        opt = fo.AdamW(put(xp, start), copies=there, **options)
        twin = fo.AdamW(start.copy(), copies=here, backend="reference", **options)
        assert_same_bits(get(xp, there), here)
        for _ in range(2):
            opt.step(put(xp, grad))
            twin.step(grad)
        assert_same_bits(get(xp, there), here, f"{size} elements of {p_dtype} from {offset} on")


# ---- sizes and offsets


def check_update(
    xp: Any, case: Case, dtypes: tuple[DType, DType], sizes: tuple[int, int], shifts: Iterator[int]
) -> None:
    """One update of a prefix of so many elements, each buffer so many of its elements from the begin of a line."""
    (p_dtype, g_dtype), (size, largest) = dtypes, sizes
    buffers = pool(case, p_dtype, g_dtype, largest)
    before = [prefix(array, size) for array in buffers.before]
    after = [prefix(array, size) for array in buffers.after] if case.elementwise else updated(case, before)
    placed = [Placed(xp, array, next(shifts) * array.itemsize) for array in before]
    p, g, *state = (buffer.array for buffer in placed)
    case.update(fo.functional, p, g, state, 3)
    for name, buffer, wanted in zip(buffers.names, placed, after, strict=True):
        place = f"{name} of {size} {p_dtype} with {g_dtype} gradients"
        buffer.assert_intact(place)
        assert_same_bits(buffer.values, wanted, place)


def drifting_shifts() -> Iterator[int]:
    rng = random.Random(5)
    while True:
        yield rng.randrange(OFFSETS)


@with_device
@every_variant
def test_sizes_of_a_few_loads(xp: Any, case: Case) -> None:
    shifts, largest = drifting_shifts(), 70
    for p_dtype, size in product(DTYPES, range(largest + 1)):
        check_update(xp, case, (p_dtype, DTYPES[(size + size // 4) % 4]), (size, largest), shifts)


@with_device
@every_variant
def test_sizes_around_a_block(xp: Any, case: Case) -> None:
    shifts, pairings = drifting_shifts(), drifting_pairings()
    sizes = [k * TILE + i for k in (1, 2, 3, 4, 8) for i in (-1, 0, 1)]
    for size in sizes:
        check_update(xp, case, next(pairings), (size, sizes[-1]), shifts)


@with_device
@pytest.mark.parametrize("dtypes", list(product(DTYPES, DTYPES)), ids=lambda pair: f"{pair[0]}-{pair[1]}")
def test_every_two_offsets(xp: Any, dtypes: tuple[DType, DType]) -> None:
    """Buffer k lies at a + k*b elements, modulo a prime: any two buffers meet every two offsets."""
    places = 17
    for a, b in product(range(places), range(0, places, 4 if IS_EMULATED else 1)):
        shifts = ((a + k * b) % places for k in range(places))
        check_update(xp, LARGEST_CASE, dtypes, (67 + a % 5, 80), shifts)


@with_device
@pytest.mark.parametrize("case", LONG, ids=case_id)
def test_more_than_a_wave_of_blocks(xp: Any, case: Case) -> None:
    size = 300_001 if IS_EMULATED else 30_000_001
    check_update(xp, case, (FLOAT32, FLOAT32), (size, size), iter([1, 0, 3, 2, 1, 0, 3, 2, 1]))


# ---- lists of arrays


def by_groups(xp: Any, name: str) -> Iterator[tuple[Any, dict[str, Any]]]:
    """All arrays of test_bits' model by one optimizer, each case a group."""
    entries = model(name)
    cases = list(dict.fromkeys(entry.case for entry in entries))
    chosen = [[entry for entry in entries if entry.case is case] for case in cases]
    groups = [
        {"params": [put(xp, entry.p) for entry in group], **case.options}
        for case, group in zip(cases, chosen, strict=True)
    ]
    opt: Any = fo.OPTIMIZERS[name](groups)
    for i in range(STEPS):
        grads = [[entry.grads[i] for entry in group] for group in chosen]
        opt.step([[None if g is None else put(xp, g) for g in group] for group in grads])
    return zip(chain(*opt.params), chain(*opt.state), strict=True)


@with_device
@pytest.mark.parametrize("name", [cls.name for cls in OPTIMIZERS])
def test_lists_equal_arrays_one_at_a_time(xp: Any, name: str) -> None:
    entries = model(name)
    pairs = zip(by_groups(xp, name), one_at_a_time(name), strict=True)
    for i, ((p, state), (wanted_p, wanted_state)) in enumerate(pairs):
        place = f"array {i} ({entries[i].case.id})"
        assert_same_bits(get(xp, p), wanted_p, f"{place}: p")
        assert state.keys() == wanted_state.keys()
        for key, s in state.items():
            assert_same_bits(get(xp, s), wanted_state[key], f"{place}: {key}")


# ---- the largest


@with_device
@pytest.mark.large
@pytest.mark.parametrize("options", [{"clip_norm": 1.0}, {"momentum": 0.5}], ids=str)
def test_more_than_two_to_the_31_elements(xp: Any, options: dict[str, Any]) -> None:
    """The first and the last ones, beyond where 32 bits wrap, as in an array of their own; the rest is zeros.

    Gradients are powers of two, so that their norm is the same whatever the order of its sum.
    """
    size, ends = 2**31 + 2**20 + 3, 4096
    rng = np.random.default_rng(0)
    small = [ordinary_values(rng, FLOAT16, ends), rng.choice(np.array([-2, -0.5, 0.25, 1], FLOAT16), ends)]
    large = [xp.zeros(size, FLOAT16) for _ in small]
    alone = [np.zeros(2 * ends, FLOAT16) for _ in small]
    for there, here, values in zip(large, alone, small, strict=True):
        there[:ends] = there[-ends:] = xp.asarray(values)
        here[:ends] = here[-ends:] = values
    for p, g in (large, alone):
        opt: Any = fo.SGD(p, lr=0.1, **options)
        opt.step(g)
    assert_same_bits(get(xp, large[0][:ends]), alone[0][:ends])
    assert_same_bits(get(xp, large[0][-ends:]), alone[0][-ends:])
    for begin in (ends, size // 2, size - 2 * ends):
        assert not get(xp, large[0][begin : begin + ends]).any()


def test_every_variant_is_tried() -> None:
    assert {case.variant for case, _ in TRIED} == {case.variant for case in CASES}
