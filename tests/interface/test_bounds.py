"""The option `bounds`: the new parameter is clamped in the pass."""

from __future__ import annotations

from math import inf, nan
from typing import Any

import numpy as np
import pytest

import fastoptim as fo
from cases import DTYPES, DType, assert_same_bits, ordinary_values
from loops import loop
from models import OPTIMIZERS, Backend, each_backend, each_dtype, every_optimizer

LOW, HIGH = -0.3, 0.5
REJECTING = {"asgd", "schedule_free_sgd", "schedule_free_adamw"}
ACCEPTING = [cls for cls in OPTIMIZERS if cls.name not in REJECTING]
SIZE = 2100  # two tiles and a part of one


def clipped(p: Any, low: float, high: float) -> Any:
    """The bounds are rounded to the parameter's format."""
    return np.clip(p.astype(np.float64), p.dtype.type(low), p.dtype.type(high)).astype(p.dtype)


def values(seed: int, dtype: DType = DTYPES[0]) -> Any:
    return ordinary_values(np.random.default_rng(seed), dtype, SIZE)


@pytest.mark.parametrize("optimizer", ACCEPTING, ids=lambda cls: cls.name)
def test_the_first_step_is_that_without_bounds_and_then_clipped(optimizer: Any) -> None:
    """With the same state: of each backend, in each format, and with the averages of the clipped parameters."""
    for backend, dtype in ((backend, dtype) for backend in ("native", "reference") for dtype in DTYPES):
        p, expected = values(0, dtype), values(0, dtype)
        options = {"lr": 0.3, "grad_scale": 0.5, "backend": backend}
        opt = optimizer(p, bounds=(LOW, HIGH), ema=0.0, **options)
        free = optimizer(expected, **options)
        for each in (opt, free):
            each.step(values(1, dtype))
        assert_same_bits(p, clipped(expected, LOW, HIGH), optimizer.name)
        with opt.averaged():
            assert_same_bits(opt.params, p)
        for name in free.state:
            assert_same_bits(opt.state[name], free.state[name], name)


@each_backend
@each_dtype
def test_either_end_may_be_open_and_nan_stays(dtype: DType, backend: Backend) -> None:
    for bounds, low, high in (((None, HIGH), -inf, HIGH), ((LOW, None), LOW, inf), ((None, None), -inf, inf)):
        p = np.array([-2, 2, nan, 0.125], dtype)
        opt = fo.SGD(p, lr=0.0, bounds=bounds, backend=backend)
        opt.step(np.zeros(4, dtype))
        assert_same_bits(p, clipped(np.array([-2, 2, nan, 0.125], dtype), low, high))
        assert opt.bounds == (low, high)


def test_groups_have_their_own_which_may_be_assigned() -> None:
    p = [np.zeros(1), np.zeros(1)]
    opt = fo.SGD([{"params": p[0], "bounds": [0, 1]}, {"params": p[1]}], lr=1.0)
    grads = [np.full(1, -3.0)] * 2
    opt.step(grads)
    assert [each[0] for each in p] == [1, 3]
    opt.param_groups[0]["bounds"], opt.param_groups[1]["bounds"] = None, (None, 4)
    opt.step(grads)
    assert [each[0] for each in p] == [4, 4]


def test_a_checkpoint_has_them() -> None:
    opt, other = fo.SGD(np.ones(2), bounds=(None, 2)), fo.SGD(np.ones(2))
    other.load_state_dict(opt.state_dict())
    assert other.bounds == (-inf, 2)


@each_backend
def test_functions_have_them(backend: Backend) -> None:
    module = fo.functional if backend == "native" else fo.reference
    for high in (0.5, 0.25):
        p = np.ones(3)
        module.sgd(p, np.zeros(3), step=1, bounds=(None, high))
        assert p.tolist() == [high] * 3


@every_optimizer
def test_optimizers_whose_parameters_cannot_be_clamped_reject_them(optimizer: Any) -> None:
    if optimizer.name not in REJECTING:
        return
    with pytest.raises(ValueError, match=f"bounds: expected None for {optimizer.__name__}, as its "):
        optimizer(np.ones(2), bounds=(0, 1))


@loop(
    ("bounds", "error", "message"),
    [
        ((1, 0), ValueError, "bounds: expected low <= high"),
        ((nan, 1), ValueError, "bounds: expected low <= high"),
        (1.0, TypeError, "bounds: expected .low, high."),
        ((0, 1, 2), TypeError, "bounds: expected .low, high."),
        (("0", 1), TypeError, r"bounds\[0\]: expected a number or None"),
        ((0, True), TypeError, r"bounds\[1\]: expected a number or None"),
    ],
)
def test_bounds_that_are_none(bounds: Any, error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        fo.SGD(np.ones(2), bounds=bounds)


@each_backend
def test_bounds_beyond_the_number_format_are_rejected(backend: Backend) -> None:
    """They would be infinite: every element would be, or none bounded."""
    function = (fo.functional if backend == "native" else fo.reference).sgd
    for dtype in DTYPES:
        low = 7e4 if dtype == np.float16 else 1e39
        if dtype == np.float64:
            for _ in range(2):
                p = np.ones(3)
                function(p, p.copy(), step=1, bounds=(low, None))
                assert p.tolist() == [low] * 3
            continue
        shown = "70000.0" if dtype == np.float16 else r"1e\+39"
        message = rf"^bounds: expected numbers in the range of {dtype} for {{}}, got \({shown}, inf\)"
        with pytest.raises(ValueError, match=message.format(r"params\['w'\]")):
            fo.SGD({"w": np.ones(3, dtype)}, bounds=(low, None), backend=backend)
        opt = fo.SGD(np.ones(3, dtype), bounds=(None, 2.0), backend=backend)
        opt.step(np.ones(3, dtype))
        saved = opt.state_dict()
        opt.bounds = (low, None)
        with pytest.raises(ValueError, match=message.format("params")):
            opt.step(np.ones(3, dtype))
        opt.bounds = (-65504, 65504)
        opt.step(np.ones(3, dtype))
        saved["groups"][0]["bounds"] = (low, None)
        with pytest.raises(ValueError, match=message.format("params")):
            opt.load_state_dict(saved)
        for _ in range(2):
            with pytest.raises(ValueError, match=message.format("p")):
                function(np.ones(3, dtype), np.ones(3, dtype), step=1, bounds=(low, None))
    wide = np.ones(3, np.float16)
    fo.SGD(wide, bounds=(7e4, None), master_weight_bits=24, backend=backend).step(wide.copy())
    with pytest.raises(ValueError, match="expected numbers in the range of float32"):
        fo.SGD(wide, bounds=(1e39, None), master_weight_bits=24, backend=backend)
