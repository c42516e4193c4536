"""Sums of squares over rows and columns have the bits of the reference, whatever the threads, and are accurate."""

from __future__ import annotations

import math
from typing import Any

import ml_dtypes
import numpy as np

import fastoptim as fo
from cases import ISAS, Array, assert_same_bits
from fastoptim import core
from fastoptim.engines import native
from fastoptim.reference_math import square_sums
from loops import loop

# At the borders of a row block (64), of the lanes (32) and of a tile (1024); more than one share of a thread.
SHAPES = [
    *((1, 1, 1), (1, 1, 5), (2, 7, 3), (1, 63, 31), (1, 64, 32), (3, 65, 33), (1, 129, 1023), (1, 5, 1024)),
    *((2, 3, 1025), (1, 2, 3079), (1, 300, 700), (5, 70, 200), (0, 4, 5), (2, 0, 3), (2, 3, 0)),
]


def values(shape: tuple[int, ...], dtype: Any) -> Array:
    rng = np.random.default_rng(math.prod(shape))
    with np.errstate(over="ignore"):
        return (rng.standard_normal(shape) * 10.0 ** rng.integers(-4, 5, shape)).astype(dtype)


@loop("dtype", [np.float64, np.float32, np.float16, ml_dtypes.bfloat16])
@loop("shape", SHAPES)
def test_bits(shape: tuple[int, ...], dtype: Any) -> None:
    x = values(shape, dtype)
    for wanted, found in zip(square_sums(x), native.square_sums(x), strict=True):
        assert_same_bits(found, wanted)


@loop("isa", ISAS)
def test_every_instruction_set(isa: str) -> None:
    x = values((2, 130, 1100), np.float32)
    for wanted, found in zip(square_sums(x), core.square_sums(x, isa), strict=True):
        assert_same_bits(found, wanted)


@loop("threads", [1, 2, 3, 7])
def test_any_number_of_threads(threads: int) -> None:
    x = values((1, 700, 2050), np.float32)
    fo.set_num_threads(threads)
    try:
        for wanted, found in zip(square_sums(x), native.square_sums(x), strict=True):
            assert_same_bits(found, wanted)
    finally:
        fo.set_num_threads(None)


def test_any_address() -> None:
    x = values((1, 70, 1030), np.float32)
    shifted = np.zeros(x.nbytes + 1, np.uint8)[1:].view(np.float32).reshape(x.shape)
    shifted[...] = x
    for wanted, found in zip(native.square_sums(x), native.square_sums(shifted), strict=True):
        assert_same_bits(found, wanted)


def test_sums_are_those_of_the_squares() -> None:
    """A sum of n terms that are not negative has a relative error of n roundings at most."""
    x = values((1, 200, 300), np.float32)
    squares = x.astype(np.float64)[0] ** 2
    rows, columns = native.square_sums(x)
    for found, terms in ((rows, squares), (columns, squares.T)):
        np.testing.assert_allclose(found, [math.fsum(each) for each in terms], rtol=300 * 2**-53, atol=0)


def test_numbers_that_are_not_finite_stay_in_their_rows_and_columns() -> None:
    x = np.ones((1, 70, 1030))
    x[0, 3, 1025], x[0, 66, 2] = np.nan, np.inf
    for wanted, found in zip(square_sums(x), native.square_sums(x), strict=True):
        assert_same_bits(np.isnan(found), np.isnan(wanted))
        assert np.isnan(found).sum() == np.isinf(found).sum() == 1
