"""Compare native updates with the reference bit for bit: special values, buffers between sentinels, lists of arrays."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import lru_cache
from itertools import chain, product
from typing import Literal, NamedTuple

import numpy as np

import fastoptim as fo
from cases import (
    DTYPES,
    MIN_SHARE,
    PLAIN_CASES,
    VARIANT_CASES,
    Array,
    Case,
    DType,
    assert_same_bits,
    ordinary_values,
    random_values,
    special_values,
    state_values,
)

Backend = Literal["native", "reference"]
Arrays = dict[str, Array]

LINE = 64  # bytes in a cache line, and in the widest vector
ODD = 67  # a prime above LINE: offsets modulo it reach every place in a line

LARGEST_CASE = max(PLAIN_CASES, key=lambda case: len(case.state))

# ---- special values

RATES = (1, 0.3, 7)  # of the case's learning rate, step by step


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


# ---- sizes, offsets


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


# ---- lists of arrays

SHAPES: tuple[tuple[int, ...], ...] = ((3,), (), (0,), (30, 31), (1,), (0, 5), (2, 3, 4), (17,), (1025,), (64,))
STEPS = 6


class Entry(NamedTuple):
    """One array of a model, with its gradients; None where a step has none."""

    case: Case
    p: Array
    grads: list[Array | None]


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
    if fo.OPTIMIZERS[name].reduces_all:  # whose arrays depend on each other
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
