"""`on_nonfinite="raise"`: a step whose gradients are not finite is an error that names the first of them."""

from __future__ import annotations

import math
from types import ModuleType
from typing import Any

import numpy as np
import pytest

import fastoptim as fo
from cases import DTYPES, FLOAT32, Array, DType
from loops import loop
from models import Backend, Buffers, each_backend, each_kind, each_module, every_optimizer

BAD = loop("bad", [math.nan, math.inf, -math.inf])


@every_optimizer
@each_backend
@BAD
def test_nothing_changes_and_the_gradient_is_named(optimizer: type[fo.Optimizer], backend: Backend, bad: float) -> None:
    """On every path of a step: at the first one, later, and after options were assigned."""
    params = {"a": np.ones(3, np.float32), "w": np.ones((2, 3), np.float32), "z": np.ones(3, np.float32)}
    opt: Any = optimizer(params, on_nonfinite="raise", backend=backend)
    good = {name: np.full_like(p, 0.5) for name, p in params.items()}
    wrong = {name: g.copy() for name, g in good.items()}
    wrong["w"][1, 2] = wrong["z"][0] = bad
    for step in range(4):
        before = [x.tobytes() for x in (*params.values(), *arrays_of(opt))]
        with pytest.raises(FloatingPointError) as caught:
            opt.step(wrong)
        assert str(caught.value).startswith(
            f"grads['w']: expected finite numbers, got {np.float32(bad)} at index (1, 2)"
        )
        assert [x.tobytes() for x in (*params.values(), *arrays_of(opt))] == before
        assert opt.step_count == step
        assert opt.step(good) is None
        if step == 2:
            opt.lr = 0.25


def arrays_of(opt: fo.Optimizer) -> list[Array]:
    return [array for entry in opt.state.values() for array in entry.values()]


@each_kind
@each_module
def test_functions_raise_it_as_well(optimizer: type[fo.Optimizer], module: ModuleType) -> None:
    buffers = Buffers(optimizer, module)
    for _ in range(2):
        buffers.update(on_nonfinite="raise")
        kept = buffers.g[0, 1]
        buffers.g[0, 1] = math.nan
        with buffers.refuses(FloatingPointError, "g: expected finite numbers, got nan at index (0, 1)"):
            buffers.update(on_nonfinite="raise")
        buffers.g[0, 1] = kept


@each_backend
def test_it_counts_for_every_group_and_goes_before_skipping(backend: Backend) -> None:
    params = [np.ones(3), np.ones(4)]
    groups = [{"params": params[0], "on_nonfinite": "raise"}, {"params": params[1], "skip_nonfinite": True}]
    opt = fo.SGD(groups, backend=backend)
    with pytest.raises(FloatingPointError, match=r"grads\[1\]: expected finite numbers, got nan at index \(0,\)"):
        opt.step([np.ones(3), np.full(4, math.nan)])
    opt.param_groups[0]["on_nonfinite"] = None
    assert opt.step([np.ones(3), np.full(4, math.nan)]) is False


@each_backend
def test_an_overflow_in_the_compute_type_counts(backend: Backend) -> None:
    opt = fo.SGD(np.ones(2, np.float32), on_nonfinite="raise", backend=backend)
    with pytest.raises(
        FloatingPointError, match="grads: expected finite numbers, got an inf in the parameter's precision"
    ):
        opt.step(np.array([1.0, 1e39]))


@each_backend
@loop("dtype", DTYPES)
def test_the_value_is_shown_in_every_dtype(backend: Backend, dtype: DType) -> None:
    opt = fo.SGD(np.ones(2, FLOAT32), on_nonfinite="raise", backend=backend)
    with pytest.raises(FloatingPointError, match="got nan at index"):
        opt.step(np.array([1.0, math.nan], dtype))


def test_a_0_d_gradient_may_be_a_number() -> None:
    opt = fo.SGD(np.ones(()), on_nonfinite="raise")
    with pytest.raises(FloatingPointError, match=r"got inf at index \(\)"):
        opt.step(np.float64(math.inf))


def test_hessians_of_sophia() -> None:
    opt = fo.Sophia({"w": np.ones(2)}, on_nonfinite="raise")
    with pytest.raises(FloatingPointError, match=r"hessians\['w'\]: expected finite"):
        opt.update_hessian({"w": np.array([1.0, math.nan])})
    assert opt.update_hessian({"w": np.ones(2)}) is None


def test_skipping_and_raising_exclude_each_other() -> None:
    with pytest.raises(ValueError, match="skip_nonfinite: expected False together with on_nonfinite='raise'"):
        fo.SGD(np.ones(2), skip_nonfinite=True, on_nonfinite="raise")
    assert fo.SGD(np.ones(2), skip_nonfinite=True, on_nonfinite="skip").step(np.full(2, math.inf)) is False


@each_backend
def test_an_old_state_dict_has_no_such_option(backend: Backend) -> None:
    opt = fo.SGD(np.ones(2), on_nonfinite="raise", backend=backend)
    saved = opt.state_dict()
    assert saved["groups"][0].pop("on_nonfinite") == "raise"
    opt.load_state_dict(saved)
    assert opt.on_nonfinite is None
