"""Averages that are shown in the place of the parameters: every bit is put back, and other calls are rejected."""

from __future__ import annotations

import copy
import pickle
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

import fastoptim as fo
from cases import FLOAT64, Array, DType, assert_same_bits, ordinary_values, random_values
from loops import loop
from models import Backend, each_backend, each_dtype


def numbers(seed: int, size: int) -> Array:
    return ordinary_values(np.random.default_rng(seed), FLOAT64, size)


def averaging(params: Any, **options: Any) -> fo.Adam:
    return fo.Adam(params, **{"lr": 0.25, "ema": 0.5} | options)


@each_backend
@each_dtype
def test_the_averages_are_shown_and_every_bit_put_back(backend: Backend, dtype: DType) -> None:
    """Include the bits of NaN."""
    p = random_values(np.random.default_rng(0), dtype, 4096)
    fortran = np.asfortranarray(random_values(np.random.default_rng(1), dtype, 120).reshape(4, 30))
    opt = averaging([p, {"f": fortran}], backend=backend)
    opt.step([numbers(0, 4096), {"f": numbers(1, 120).reshape(4, 30)}])
    before = p.tobytes(), fortran.tobytes(order="A")
    averages = [opt.state[0]["average"], opt.state[1]["f"]["average"]]
    kept = [average.copy() for average in averages]
    with opt.averaged() as nothing, np.errstate(all="ignore"):
        assert nothing is None
        assert_same_bits(p, kept[0].astype(dtype))
        assert_same_bits(fortran, kept[1].astype(dtype))
        p[...] = 0
    assert (p.tobytes(), fortran.tobytes(order="A")) == before
    for average, expected in zip(averages, kept, strict=True):
        assert_same_bits(average, expected)
    assert opt.step_count == 1


@each_backend
@loop("error", [ValueError, KeyboardInterrupt, GeneratorExit])
def test_the_parameters_are_put_back_after_an_exception(backend: Backend, error: type[BaseException]) -> None:
    p = np.ones(5)
    opt = averaging(p, backend=backend)
    opt.step(np.ones(5))
    before = p.tobytes()
    with pytest.raises(error), opt.averaged():
        raise error
    assert p.tobytes() == before
    with opt.averaged():
        assert p.tobytes() != before
    opt.step(np.ones(5))
    assert opt.step_count == 2


INSIDE: dict[str, Callable[[Any], Any]] = {
    "step": lambda opt: opt.step(np.ones(5)),
    "state_dict": lambda opt: opt.state_dict(),
    "pickle": pickle.dumps,
    "deepcopy": copy.deepcopy,
    "averaged": lambda opt: opt.averaged().__enter__(),
    "lookahead": lambda opt: opt.lookahead().__enter__(),
}


@each_backend
@loop("name", INSIDE)
def test_inside_the_block_others_are_rejected(backend: Backend, name: str) -> None:
    p = np.ones(5)
    opt = fo.NAG(p, ema=0.5, backend=backend)
    opt.step(np.ones(5))
    before = p.copy()
    with opt.averaged():
        shown = p.copy()
        with pytest.raises(RuntimeError, match="averaged: expected its block to have ended"):
            INSIDE[name](opt)
        assert_same_bits(p, shown)
    assert_same_bits(p, before)
    INSIDE[name](opt)


@each_backend
def test_averages_are_not_shown_within_a_lookahead(backend: Backend) -> None:
    p = np.ones(5)
    opt = fo.NAG(p, ema=0.5, backend=backend)
    opt.step(np.ones(5))
    with opt.lookahead(), pytest.raises(RuntimeError, match="lookahead: expected its block"), opt.averaged():
        pytest.fail("the block was entered")


@each_backend
def test_a_locked_parameter_is_not_shown(backend: Backend) -> None:
    first, p = np.ones(3), np.ones(4)
    opt = averaging([first, p], backend=backend)
    opt.step([np.ones(3), np.ones(4)])
    before = first.tobytes()
    p.flags.writeable = False
    with pytest.raises(ValueError, match=r"params\[1\]: expected a writeable array"), opt.averaged():
        pytest.fail("the block was entered")
    assert first.tobytes() == before
    p.flags.writeable = True
    with opt.averaged():
        assert first.tobytes() != before
