"""Lookahead, SAM and GrokFast, each against its definition and after interruptions."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import pytest

import fastoptim as fo
from cases import DType, assert_same_bits, random_values
from loops import loop
from models import OPTIMIZERS, WIDEST, each_dtype, each_kind, name_of
from wrapped import bytes_of, compute, made, numbers

# ---- Lookahead


@pytest.mark.parametrize("optimizer", OPTIMIZERS, ids=name_of)
@each_dtype
def test_lookahead_over_every_optimizer(optimizer: type[fo.Optimizer], dtype: DType) -> None:
    """Against the same optimizer whose parameters are assigned by hand."""
    options = {**WIDEST[optimizer].options, "ema": 0.5, "lr": lambda t: 0.1 / (1 + t)}
    p, q = numbers(0, dtype), numbers(0, dtype)
    ours, other = fo.Lookahead(optimizer(p, **options), k=2, alpha=0.75), optimizer(q, **options)
    slow = q.astype(compute(dtype))
    for t in range(5):
        g = numbers(t, dtype)
        ours.step(g)
        other.step(g)
        if t % 2:
            fast = q.astype(slow.dtype)
            slow = fast + slow.dtype.type(0.25) * (slow - fast)  # the smaller weight, as averages have it
            q[...] = slow
        assert_same_bits(p, q)
    for name, array in other.state.items():
        assert_same_bits(ours.state[name], array)


def test_lookahead_counts_steps_that_are_taken() -> None:
    p = np.zeros(2)
    opt = fo.Lookahead(fo.SGD(p, lr=1.0, skip_nonfinite=True), k=2)
    for g in (1.0, np.inf, np.nan):
        opt.step(np.full(2, g))
    assert p.tolist() == [-1, -1]
    opt.step(np.ones(2))
    assert p.tolist() == [-1, -1]
    opt.accumulate(np.ones(2))
    opt.step()
    assert p.tolist() == [-2, -2]


def test_lookahead_synchronizes_later_after_an_interruption(monkeypatch: pytest.MonkeyPatch) -> None:
    """An exception between a step and its synchronization leaves a step that is counted."""
    p = np.zeros(2)
    opt = fo.Lookahead(fo.SGD(p, lr=1.0), k=1)
    with monkeypatch.context() as patch:
        patch.setattr(fo.Lookahead, "_synchronize", lambda self: None)
        opt.step(np.ones(2))
    opt.step(np.ones(2))
    assert p.tolist() == [-1, -1]


def test_lookahead_is_not_captured() -> None:
    with pytest.raises(RuntimeError, match="graph_step: expected an optimizer without Lookahead"):
        fo.Lookahead(fo.SGD(np.ones(2))).graph_step()


# ---- SAM


@each_kind
@each_dtype
def test_ascent_moves_to_the_worst_point_and_back(optimizer: type[fo.Optimizer], dtype: DType) -> None:
    for adaptive, maximize, scale in ((False, False, 1.0), (True, True, 4.0)):
        params = {"w": numbers(0, dtype), "b": random_values(np.random.default_rng(1), dtype, 9)}
        grads: dict[str, Any] = {"w": numbers(2, dtype), "b": None}
        opt = fo.SAM(
            optimizer(params, **{**WIDEST[optimizer].options, "maximize": maximize, "grad_scale": scale}),
            rho=0.3,
            adaptive=adaptive,
        )
        number = compute(dtype)
        p, g = params["w"].astype(number), number((-1 if maximize else 1) / scale) * grads["w"].astype(number)
        norm = fo.global_norm(abs(p) * g if adaptive else g)
        e = number(0.3 / (norm + 1e-12)) * (p * p * g if adaptive else g)
        before = {name: array.tobytes() for name, array in params.items()}
        with opt.ascent(grads):
            assert_same_bits(params["w"], (p + e).astype(dtype))
            assert params["b"].tobytes() == before["b"]
            with pytest.raises(RuntimeError, match="ascent"):
                opt.step(grads)
            with pytest.raises(RuntimeError, match="ascent"), opt.ascent(grads):
                pass
        assert {name: array.tobytes() for name, array in params.items()} == before
        assert opt.step_count == 0


@contextmanager
def ended_by(error: type[BaseException]) -> Iterator[None]:
    with pytest.raises(error):
        yield


def test_ascent_ends_with_every_bit_after_an_exception() -> None:
    opt = made(fo.SAM)
    before = bytes_of(opt)
    with ended_by(KeyboardInterrupt), opt.ascent({"w": numbers(3), "b": None}):
        raise KeyboardInterrupt
    assert bytes_of(opt) == before


@loop("adaptive", [False, True])
def test_sam_follows_its_authors_code(adaptive: bool) -> None:
    """The formulas of github.com/davda54/sam, on a quadratic."""
    rng = np.random.default_rng(0)
    a = rng.standard_normal((6, 6))
    p = rng.standard_normal(6)
    q = p.copy()
    opt = fo.SAM(fo.SGD(p, lr=0.01, momentum=0.9), rho=0.05, adaptive=adaptive)
    buffer = np.zeros(6)
    for _ in range(30):
        with opt.ascent(a @ a.T @ p):
            g = a @ a.T @ p
        opt.step(g)
        grad = a @ a.T @ q
        norm = np.linalg.norm((np.abs(q) if adaptive else 1.0) * grad)
        e = (q**2 if adaptive else 1.0) * grad * (0.05 / (norm + 1e-12))
        buffer = 0.9 * buffer + a @ a.T @ (q + e)
        q -= 0.01 * buffer
    np.testing.assert_allclose(p, q, rtol=1e-11)


def test_a_gradient_that_is_not_finite_makes_the_point_so() -> None:
    opt = made(fo.SAM)
    with opt.ascent({"w": np.full((5, 8), np.inf, np.float32), "b": numbers(1, shape=(3,))}):
        assert np.isnan(opt.params["w"]).all()
    assert np.isfinite(opt.params["w"]).all()


# ---- GrokFast


@each_kind
@each_dtype
def test_grokfast_amplifies_the_average(optimizer: type[fo.Optimizer], dtype: DType) -> None:
    """Against the formula of its authors, whose average starts as the first gradient of each array."""
    options = {**WIDEST[optimizer].options, "lr": 0.1}
    p, q = [numbers(0, dtype), numbers(1, dtype)], [numbers(0, dtype), numbers(1, dtype)]
    ours, other = fo.GrokFast(optimizer(p, **options), alpha=0.9, lamb=3.0), optimizer(q, **options)
    number = compute(dtype)
    averages: list[Any] = [None, None]
    for t in range(5):
        grads: list[Any] = [numbers(10 + t, dtype), None if t in (0, 3) else numbers(20 + t, dtype)]
        ours.step(grads)
        amplified: list[Any] = [None, None]
        for i, grad in enumerate(grads):
            if grad is not None:
                g, alpha = grad.astype(number), number(0.9)
                h = g if averages[i] is None else alpha * averages[i] + (number(1) - alpha) * g
                averages[i], amplified[i] = h, g + number(3.0) * h
        other.step(amplified)
        for mine, expected in zip(p, q, strict=True):
            assert_same_bits(mine, expected)
    assert [entry["state"]["h"].tobytes() for entry in ours.state_dict()["arrays"]] == [h.tobytes() for h in averages]


def test_grokfast_takes_the_average_later_after_an_interruption(monkeypatch: pytest.MonkeyPatch) -> None:
    p, q = np.zeros(2), np.zeros(2)
    opt, other = (fo.GrokFast(fo.SGD(each, lr=1.0), alpha=0.5, lamb=1.0) for each in (p, q))
    taken = fo.GrokFast._take_averages

    def interrupted(self: Any) -> None:
        if self.step_count:
            raise KeyboardInterrupt
        taken(self)

    with monkeypatch.context() as patch:
        patch.setattr(fo.GrokFast, "_take_averages", interrupted)
        with pytest.raises(KeyboardInterrupt):
            opt.step(np.ones(2))
    other.step(np.ones(2))
    for each in (opt, other):
        each.step(np.zeros(2))
    assert p.tolist() == q.tolist() == [-2.5, -2.5]
