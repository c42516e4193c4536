"""Sophia (Liu et al., 2023), and its estimates of the Hessian's diagonal."""

from __future__ import annotations

from math import inf
from typing import Any

import numpy as np
import pytest

import fastoptim as fo
from cases import DTYPES, Array, DType, assert_same_bits, ordinary_values, random_values, special_values
from loops import each_isa, loop
from models import Backend, Memory, each_backend, each_dtype
from oracles import OTHERS, Pair, Row, State, assert_follows, clip, ema


def sophia(
    p: float,
    g: float,
    s: State,
    t: int,
    *,
    lr: float,
    betas: Pair = (0.965, 0.99),
    gamma: float = 0.04,
    eps: float = 1e-12,
) -> float:
    if t % 10 == 1:
        ema(s, "h", betas[1], curvature(t))
    m = ema(s, "m", betas[0], g)
    return p - lr * clip(m / max(gamma * s["h"], eps), -1, 1)


def curvature(t: int) -> float:
    """The estimate that is handed over before step t; negative now and then."""
    return 40.0 - 30 * (t // 10 % 3)


def hand_over(opt: Any, t: int) -> None:
    if t % 10 == 1:
        opt.update_hessian(np.full(opt.params.shape, curvature(t)))


ROWS = [
    Row(sophia, lr=1e-4, decay=(0.1, True)),
    Row(sophia, {**OTHERS, "betas": (0.8, 0.95), "gamma": 0.1, "eps": 0.5}),
]


@each_backend
@loop("row", ROWS)
def test_follows_the_formula(row: Row, backend: Backend) -> None:
    assert_follows("sophia", row, backend, before_step=hand_over)


BACKENDS: tuple[Backend, Backend] = ("native", "reference")
SIZE = 7
GRADIENTS = np.random.default_rng(1).normal(0.3, 1, (20, SIZE))
PARAMS = np.random.default_rng(0).normal(0, 3, SIZE)


def hessians_of(dtype: DType, size: int) -> list[Array]:
    rng = np.random.default_rng(3)
    return [random_values(rng, dtype, size) for _ in range(3)] + [np.resize(special_values(dtype), size)]


@loop("g_dtype", DTYPES)
@each_dtype
@each_isa
def test_hessians_by_the_kernel_and_by_the_reference(dtype: DType, g_dtype: DType) -> None:
    """Bit for bit, special values included; only h changes."""
    size = 2 * 1024 + 7
    p = ordinary_values(np.random.default_rng(0), dtype, size)
    before = p.copy()
    native, plain = (fo.Sophia(p if backend == "native" else p.copy(), backend=backend) for backend in BACKENDS)
    for hessian in hessians_of(g_dtype, size):
        given = hessian.copy()
        native.update_hessian(hessian)
        plain.update_hessian(hessian)
        assert_same_bits(native.state["h"], plain.state["h"])
        assert hessian.tobytes() == given.tobytes()
    assert_same_bits(native.params, before)
    assert_same_bits(plain.params, before)
    assert (native.state["m"] == 0).all()


AROUND: dict[str, Any] = {
    "weight_decay": 0.5,
    "l1": 0.5,
    "clip_value": 0.01,
    "clip_norm": 0.01,
    "clip_global_norm": 0.01,
    "grad_scale": 1024.0,
    "maximize": True,
    "ema": 0.5,
}


@each_backend
@loop("decoupled", [False, True])
def test_a_hessian_is_taken_as_it_is(decoupled: bool, backend: Backend) -> None:
    """Whatever happens to gradients; and neither parameters, their average nor the clock notice."""
    p = PARAMS.copy()
    opt = fo.Sophia(p, betas=(0.5, 0.75), **AROUND, decoupled=decoupled, backend=backend)
    average = opt.state["average"].copy()
    assert opt.update_hessian(np.full(SIZE, 8.0)) is None
    assert (opt.state["h"] == 2.0).all()
    assert_same_bits(p, PARAMS)
    assert_same_bits(opt.state["average"], average)
    assert opt.step_count == 0


@each_backend
def test_groups_keep_their_hessians_by_their_own_rates(backend: Backend) -> None:
    groups = [{"params": np.zeros(2), "betas": (0.9, 0.5)}, {"params": [np.zeros(2), np.zeros(3)]}]
    opt = fo.Sophia(groups, betas=(0.9, 0.75), backend=backend)
    opt.update_hessian([np.ones(2), [np.ones(2), None]])
    opt.step([np.ones(2), [None, np.ones(3)]])
    opt.param_groups[0]["betas"] = (0.9, 0.0)
    opt.update_hessian([np.ones(2), [np.ones(2), np.ones(3)]])
    assert opt.state[0]["h"].tolist() == [1.0] * 2
    assert opt.state[1][0]["h"].tolist() == [0.4375] * 2
    assert opt.state[1][1]["h"].tolist() == [0.25] * 3


@each_backend
def test_a_step_after_a_hessian_and_a_checkpoint(backend: Backend) -> None:
    """The state that a checkpoint replaced is the one that the next Hessian goes into."""
    p, q = PARAMS.copy(), PARAMS.copy()
    opt, other = fo.Sophia(p, backend=backend), fo.Sophia(q, backend=backend)
    for i, g in enumerate(GRADIENTS[:20]):
        if i == 10:
            q[...] = p
            other.load_state_dict(opt.state_dict())
        for each in (opt, other) if i >= 10 else (opt,):
            each.update_hessian(g * g)
            each.step(g)
    assert_same_bits(q, p)
    assert_same_bits(other.state["h"], opt.state["h"])


@each_backend
def test_hessians_that_are_not_finite_are_skipped(backend: Backend) -> None:
    opt = fo.Sophia([np.zeros(2), np.zeros(2)], skip_nonfinite=True, backend=backend)
    assert opt.update_hessian([np.ones(2), np.array([1.0, inf])]) is False
    assert all((state["h"] == 0).all() for state in opt.state)
    assert opt.update_hessian([np.ones(2), np.ones(2)]) is True
    assert all((state["h"] > 0).all() for state in opt.state)


REFUSED: dict[str, tuple[Any, type[Exception], str]] = {
    "structure": ([1], TypeError, "hessians"),
    "keys": ({"a": np.ones(3)}, TypeError, "hessians"),
    "shape": ({"a": np.ones(3), "b": np.ones(3)}, ValueError, "hessians['b']"),
    "dtype": ({"a": np.ones(3), "b": np.ones(2, int)}, TypeError, "hessians['b']"),
    "no array": ({"a": np.ones(3), "b": 1.0}, TypeError, "hessians['b']"),
}


@each_backend
@loop("why", REFUSED)
def test_hessians_are_rejected_as_gradients_are(why: str, backend: Backend) -> None:
    """With the place, and before the first write."""
    hessians, error, place = REFUSED[why]
    memory = Memory()
    opt = fo.Sophia({"a": memory.array((3,)), "b": memory.array((2,))}, backend=backend)
    with memory.refuses(error, place):
        opt.update_hessian(hessians)
    assert all((state["h"] == 0).all() for state in opt.state.values())


def test_hessians_in_the_memory_of_the_parameters_are_rejected() -> None:
    p = np.zeros(3)
    opt = fo.Sophia(p)
    with pytest.raises(ValueError, match="hessians"):
        opt.update_hessian(p)


def test_no_hessians_while_averages_are_shown() -> None:
    opt = fo.Sophia(np.zeros(3), ema=0.5)
    with opt.averaged(), pytest.raises(RuntimeError, match="averaged"):
        opt.update_hessian(np.ones(3))


def test_no_hessians_for_groups_that_are_not_there() -> None:
    opt = fo.Sophia([{"params": np.zeros(3)}])
    opt.param_groups.append({"params": np.zeros(3)})
    with pytest.raises(ValueError, match="param_groups: expected 1 groups, got 2"):
        opt.update_hessian([np.ones(3)])


def test_sophia_never_moves_further_than_its_rate() -> None:
    """Where curvature is unknown or negative it moves by the rate, against the sign of the mean."""
    opt = fo.Sophia(np.zeros(3), lr=0.25, gamma=1.0, betas=(0.0, 0.0), weight_decay=0.0)
    opt.update_hessian(np.array([4.0, -4.0, 0.5]))
    opt.step(np.array([1.0, 1.0, -1.0]))
    assert opt.params.tolist() == [-0.0625, -0.25, 0.25]
