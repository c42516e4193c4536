"""MADGRAD (Defazio & Jelassi, 2021), and the cube root that it needs."""

from __future__ import annotations

from math import sqrt

import numpy as np

import fastoptim as fo
from cases import FLOAT32, FLOAT64, Array, DType, assert_same_bits
from fastoptim import reference_math
from loops import each_isa, loop
from models import Backend, each_backend
from oracles import OTHERS, Row, State, assert_follows


def madgrad(p: float, g: float, s: State, t: int, *, lr: float, momentum: float, eps: float, eps_in_lr: bool) -> float:
    if t == 1:
        s["x0"] = p
    weight = (lr + eps * eps_in_lr) * sqrt(t)
    s["s"] += weight * g
    s["v"] += weight * g**2
    z = s["x0"] - s["s"] / (float(s["v"] ** (1 / 3)) + eps)
    return momentum * p + (1 - momentum) * z


ROWS = [
    Row(madgrad, lr=0.01, decay=(0.0, False), arguments={"momentum": 0.9, "eps": 1e-6, "eps_in_lr": False}),
    Row(madgrad, {**OTHERS, "momentum": 0.0, "eps": 1e-2}),
    Row(madgrad, {"lr": 0.05, "momentum": 0.5, "convention": "optax", "eps": 1e-2}, {"eps_in_lr": True}),
]


@each_backend
@loop("row", ROWS)
def test_follows_the_formula(row: Row, backend: Backend) -> None:
    assert_follows("madgrad", row, backend)


def cube_root(x: Array) -> Array:
    with np.errstate(all="ignore"):
        return np.asarray(reference_math.cube_root(x))


def patterns(dtype: DType, size: int) -> Array:
    """Positive finite numbers of all exponents, and as many subnormal ones; the ends; zeros, infinities and NaN."""
    rng = np.random.default_rng(0)
    unsigned = np.dtype(f"u{dtype.itemsize}")
    info = np.finfo(dtype)
    top, tiny = (int(np.array(x, dtype).view(unsigned)) for x in (info.max, info.tiny))
    ends = np.array([1, 2, tiny - 1, tiny, tiny + 1, top - 1, top], unsigned)
    drawn = [rng.integers(1, top, size, unsigned), rng.integers(1, tiny, size, unsigned), ends]
    return np.concatenate(drawn).view(dtype)


@loop("dtype", [FLOAT32, FLOAT64])
def test_the_cube_root_is_within_a_unit_in_the_last_place(dtype: DType) -> None:
    x = patterns(dtype, 1_000_000)
    if dtype == FLOAT32:  # every fraction of three neighbouring exponents
        x = np.concatenate([x, np.arange(0x3F800000, 0x3F800000 + (3 << 23), 5, dtype=np.uint32).view(dtype)])
    found = cube_root(x)
    wanted = np.cbrt(x.astype(np.longdouble))
    error = np.abs(found - wanted) / np.spacing(wanted.astype(dtype))
    assert float(error.max()) < 0.8
    assert_same_bits(cube_root(-x), -found)


@loop("dtype", [FLOAT32, FLOAT64])
def test_the_cube_root_of_what_is_no_ordinary_number(dtype: DType) -> None:
    x = np.array([0, -0.0, np.inf, -np.inf, np.nan, 1, 8, -27], dtype)
    wanted = np.array([0, -0.0, np.inf, -np.inf, np.nan, 1, 2, -3], dtype)
    assert_same_bits(cube_root(x), wanted)


@loop("dtype", [FLOAT32, FLOAT64])
@each_isa
def test_native_cube_roots_have_the_references_bits(dtype: DType) -> None:
    """With these options and a gradient of 0 the parameter becomes 1 / cbrt(v)."""
    v = patterns(dtype, 200_000)
    v = np.concatenate([v, -v, np.array([0, -0.0, np.inf, np.nan], dtype)])
    found, wanted = np.zeros((2, v.size), dtype)
    for step, p in ((fo.functional.madgrad, found), (fo.reference.madgrad, wanted)):
        s, sums, x0 = np.full(v.size, -1, dtype), v.copy(), np.zeros(v.size, dtype)
        step(p, np.zeros(v.size, dtype), s, sums, x0, step=1, momentum=0.0, eps=0.0)
    assert_same_bits(found, wanted)
