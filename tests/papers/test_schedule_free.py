"""Both Schedule-Free optimizers: eval and train, and what they reject in between."""

from __future__ import annotations

import copy
import pickle
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

import fastoptim as fo
from cases import FLOAT16, FLOAT32, FLOAT64, MIN_SHARE, TILE, Array, DType, assert_same_bits, ordinary_values
from loops import each_isa, loop
from models import Backend, each_backend, each_dtype

BOTH = ["schedule_free_sgd", "schedule_free_adamw"]
each_schedule_free = loop("name", BOTH)


def trained(name: str, dtype: DType = FLOAT32, backend: Backend = "native", **options: Any) -> tuple[Any, list[Array]]:
    """After some steps; and its parameters."""
    rng = np.random.default_rng(0)
    params = [rng.standard_normal(5).astype(dtype), rng.standard_normal((2, 3)).astype(dtype)]
    opt = fo.OPTIMIZERS[name](params, **{"lr": 0.1, **options}, backend=backend)
    for _ in range(7):
        opt.step([rng.standard_normal(p.shape).astype(dtype) for p in params])
    return opt, params


@each_backend
@each_schedule_free
@each_dtype
def test_eval_shows_the_average_and_train_goes_back_bit_for_bit(name: str, dtype: DType, backend: Backend) -> None:
    opt, params = trained(name, dtype, backend)
    before = [p.copy() for p in params]
    state = copy.deepcopy(opt.state)
    for _ in range(2):
        opt.eval()
        shown = [p.copy() for p in params]
        opt.eval()
        for p, x, y, s in zip(params, shown, before, state, strict=True):
            assert_same_bits(p, x)
            wide = y.astype(FLOAT64)
            mean = (wide - (1 - 0.9) * s["z"]) / 0.9
            np.testing.assert_allclose(
                x.astype(FLOAT64), mean, rtol=2e-2 if dtype not in (FLOAT32, FLOAT64) else 1e-4, atol=2e-2
            )
        opt.train()
        opt.train()
        for p, y in zip(params, before, strict=True):
            assert_same_bits(p, y)


@each_backend
@each_schedule_free
def test_the_average_is_that_of_the_iterates(name: str, backend: Backend) -> None:
    """All z have equal weights at a constant rate; for AdamW only if v is corrected in place of the rate."""
    rng = np.random.default_rng(0)
    options = {} if name == "schedule_free_sgd" else {"convention": "keras"}
    p = rng.standard_normal(6)
    opt: Any = fo.OPTIMIZERS[name](p, lr=0.1, **options, backend=backend)
    iterates = []
    for _ in range(30):
        opt.step(rng.standard_normal(6))
        iterates.append(opt.state["z"].copy())
    opt.eval()
    np.testing.assert_allclose(p, np.mean(iterates, axis=0), rtol=1e-10, atol=1e-13)


@each_schedule_free
def test_before_the_first_step_the_average_is_the_start(name: str) -> None:
    p = np.array([0.1, -3.0])
    opt: Any = fo.OPTIMIZERS[name](p)
    opt.eval()
    assert p.tolist() == [0.1, -3]


REFUSED: dict[str, Callable[[Any, list[Array]], Any]] = {
    "step": lambda opt, params: opt.step([np.zeros_like(p) for p in params]),
    "state_dict": lambda opt, params: opt.state_dict(),
    "load_state_dict": lambda opt, params: opt.load_state_dict(trained(opt.name)[0].state_dict()),
    "deepcopy": lambda opt, params: copy.deepcopy(opt),
    "pickle": lambda opt, params: pickle.dumps(opt),
    "averaged": lambda opt, params: opt.averaged().__enter__(),
}


@loop("refused", REFUSED.values())
@each_schedule_free
def test_between_eval_and_train_all_else_is_rejected(name: str, refused: Callable[[Any, list[Array]], Any]) -> None:
    opt, params = trained(name, ema=0.9)
    opt.eval()
    before, state = [p.copy() for p in params], copy.deepcopy(opt.state)
    with pytest.raises(RuntimeError, match=r"train\(\)"):
        refused(opt, params)
    for p, x in zip(params, before, strict=True):
        assert_same_bits(p, x)
    assert all(a[k].tobytes() == b[k].tobytes() for a, b in zip(opt.state, state, strict=True) for k in a)
    opt.train()
    if refused is not REFUSED["averaged"]:
        refused(opt, params)


@each_schedule_free
def test_inside_averaged_there_is_no_eval(name: str) -> None:
    opt, params = trained(name, ema=0.9)
    with opt.averaged():
        shown = params[0].copy()
        with pytest.raises(RuntimeError, match="averaged"):
            opt.eval()
        opt.train()
        assert_same_bits(params[0], shown)


@each_schedule_free
def test_a_locked_parameter_can_be_put_back_later(name: str) -> None:
    opt, params = trained(name)
    before = [p.copy() for p in params]
    opt.eval()
    params[0].flags.writeable = False
    with pytest.raises(ValueError, match=r"params\[0\]"):
        opt.train()
    with pytest.raises(RuntimeError, match=r"train\(\)"):
        opt.state_dict()
    params[0].flags.writeable = True
    opt.train()
    for p, y in zip(params, before, strict=True):
        assert_same_bits(p, y)


@each_backend
@each_schedule_free
def test_a_checkpoint_and_a_copy_continue_after_eval_and_train(name: str, backend: Backend) -> None:
    opt, params = trained(name, backend=backend, warmup_steps=10)
    opt.eval()
    opt.train()
    fresh = [p.copy() for p in params]
    loaded: Any = fo.OPTIMIZERS[name](fresh, lr=0.3, backend=backend)
    loaded.load_state_dict(opt.state_dict())
    twin = pickle.loads(pickle.dumps(opt))
    rng = np.random.default_rng(9)
    for _ in range(5):
        grads = [rng.standard_normal(p.shape).astype(FLOAT32) for p in params]
        for each in (opt, loaded, twin):
            each.step(grads)
    for each in (opt, loaded, twin):
        each.eval()
    for p, a, b in zip(params, loaded.params, twin.params, strict=True):
        assert_same_bits(a, p)
        assert_same_bits(b, p)


@each_backend
@each_schedule_free
def test_groups_are_averaged_with_their_own_option(name: str, backend: Backend) -> None:
    option: Callable[[float], dict[str, Any]] = (
        (lambda b: {"momentum": b}) if name == "schedule_free_sgd" else (lambda b: {"betas": (b, 0.999)})
    )
    p, q, alone = np.ones(3), np.ones(3), np.ones(3)
    groups = [{"params": p, **option(0.9)}, {"params": q, **option(0.5)}]
    both: Any = fo.OPTIMIZERS[name](groups, lr=0.1, backend=backend)
    single: Any = fo.OPTIMIZERS[name](alone, lr=0.1, **option(0.5), backend=backend)
    for g in np.random.default_rng(0).standard_normal((5, 3)):
        both.step([g, g])
        single.step(g)
    both.eval()
    single.eval()
    assert_same_bits(q, alone)
    assert p.tobytes() != q.tobytes()


@each_dtype
@each_schedule_free
@each_isa
def test_numbers_of_the_state_have_the_references_bits(name: str, dtype: DType) -> None:
    """Arrays of many sizes in one optimizer, on several threads, some of them late."""
    fo.set_num_threads(3)
    rng = np.random.default_rng(0)
    sizes = [*range(0, 70, 3), TILE - 1, TILE, TILE + 1, 3 * MIN_SHARE + 1]
    options = {"lr": 0.1, "warmup_steps": 3, "r": 1, "weight_decay": 0.1, "maximize": True}
    params = [ordinary_values(rng, dtype, size) for size in sizes]
    ours = fo.OPTIMIZERS[name]([p.copy() for p in params], **options)
    theirs = fo.OPTIMIZERS[name]([p.copy() for p in params], **options, backend="reference")
    for step in range(5):
        grads = [None if (step + i) % 4 == 0 else ordinary_values(rng, FLOAT16, size) for i, size in enumerate(sizes)]
        ours.step(grads)
        theirs.step(grads)
    for i, size in enumerate(sizes):
        assert_same_bits(ours.params[i], theirs.params[i], f"p of {size}")
        for key, array in ours.state[i].items():
            assert_same_bits(array, theirs.state[i][key], f"{key} of {size}")
