"""The point that NAG shows for the gradient to be taken at, and that others show none."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

import fastoptim as fo
from cases import DType, assert_same_bits, ordinary_values, random_values
from loops import loop
from models import OPTIMIZERS, Backend, each_backend, each_dtype, leaves


@pytest.mark.parametrize("optimizer", [cls for cls in OPTIMIZERS if cls is not fo.NAG], ids=lambda cls: cls.name)
@each_backend
def test_others_show_the_parameters_where_they_are(optimizer: type[fo.Optimizer], backend: Backend) -> None:
    """So that one loop serves every optimizer."""
    p, q = np.ones(3), np.ones(3)
    opt, other = optimizer(p, backend=backend), optimizer(q, backend=backend)
    for _ in range(2):
        with opt.lookahead():
            assert_same_bits(p, q)
        opt.step(np.ones(3))
        other.step(np.ones(3))
    assert_same_bits(p, q)


Momenta = loop("momentum", [0.0, 0.9, 1.0])


def nag(params: Any, **options: Any) -> fo.NAG:
    """One in the middle of its work."""
    opt = fo.NAG(params, **options)
    rng = np.random.default_rng(7)
    for state in leaves(opt.state):
        state["v"][...] = ordinary_values(rng, state["v"].dtype, state["v"].size).reshape(state["v"].shape)
    return opt


@each_backend
@each_dtype
@Momenta
def test_lookahead_shows_where_the_momentum_leads(backend: Backend, dtype: DType, momentum: float) -> None:
    p = ordinary_values(np.random.default_rng(0), dtype, 64)
    opt = nag({"w": p}, momentum=momentum, backend=backend)
    v = opt.state["w"]["v"]
    number = v.dtype.type
    expected = (p.astype(v.dtype) + number(momentum) * v).astype(dtype)
    before = p.copy(), v.copy()
    with opt.lookahead() as nothing:
        assert nothing is None
        assert_same_bits(p, expected)
        assert_same_bits(v, before[1])
    assert_same_bits(p, before[0])
    assert_same_bits(v, before[1])
    assert opt.step_count == 0


@each_backend
@each_dtype
def test_lookahead_puts_back_every_bit(backend: Backend, dtype: DType) -> None:
    """Include the bits of NaN, which arithmetic may change."""
    p = random_values(np.random.default_rng(0), dtype, 4096)
    fortran = np.asfortranarray(random_values(np.random.default_rng(1), dtype, 120).reshape(4, 30))
    before = p.tobytes(), fortran.tobytes(order="A")
    opt = nag([p, {"f": fortran}], backend=backend)
    with opt.lookahead():
        assert p.tobytes() != before[0]
        assert fortran.tobytes(order="A") != before[1]
        p[...] = 0
    assert (p.tobytes(), fortran.tobytes(order="A")) == before


@each_backend
@loop("error", [ValueError, KeyboardInterrupt, GeneratorExit])
def test_lookahead_puts_back_after_an_exception(backend: Backend, error: type[BaseException]) -> None:
    p = np.ones(5)
    opt = nag(p, backend=backend)
    with pytest.raises(error), opt.lookahead():
        raise error
    assert p.tolist() == [1] * 5
    with opt.lookahead():
        assert p.tolist() != [1] * 5
    opt.step(np.ones(5))
    assert opt.step_count == 1


@each_backend
def test_lookahead_rejects_steps_and_itself_inside(backend: Backend) -> None:
    p = np.ones(5)
    opt = nag(p, backend=backend)
    v = opt.state["v"].tobytes()
    with opt.lookahead():
        shown = p.copy()
        with pytest.raises(RuntimeError, match="lookahead"):
            opt.step(np.ones(5))
        with pytest.raises(RuntimeError, match="lookahead"), opt.lookahead():
            pass
        assert_same_bits(p, shown)
    assert p.tolist() == [1] * 5
    assert opt.state["v"].tobytes() == v
    assert opt.step_count == 0
    opt.step(np.ones(5))


@each_backend
def test_lookahead_takes_each_group_s_momentum_of_now(backend: Backend) -> None:
    params = [np.ones(3), np.ones(3), np.ones(3)]
    groups = [{"params": [params[0]], "momentum": 0.5}, {"params": {"x": params[1]}}, {"params": params[2]}]
    opt = nag(groups, momentum=0.25, backend=backend)
    opt.param_groups[2]["momentum"] = 0.75
    v = [opt.state[0][0]["v"], opt.state[1]["x"]["v"], opt.state[2]["v"]]
    with opt.lookahead():
        for p, momentum, velocity in zip(params, (0.5, 0.25, 0.75), v, strict=True):
            assert_same_bits(p, 1 + momentum * velocity)


@each_backend
def test_lookahead_rejects_what_a_step_would(backend: Backend) -> None:
    """The optimizer stays usable: no block is left open."""
    first, p = np.ones(3), np.ones(4)
    opt = nag([first, p], backend=backend)
    p.flags.writeable = False
    with pytest.raises(ValueError, match=r"params\[1\]: expected a writeable array"), opt.lookahead():
        pytest.fail("the block was entered")
    assert first.tolist() == [1] * 3
    p.flags.writeable = True
    opt.param_groups[0]["momentum"] = 2.0
    with pytest.raises(ValueError, match=r"param_groups\[0\]: momentum"), opt.lookahead():
        pytest.fail("the block was entered")
    assert first.tolist() == [1] * 3
    opt.param_groups[0]["momentum"] = 0.9
    opt.step([np.ones(3), np.ones(4)])
    assert opt.step_count == 1


@each_backend
@each_dtype
def test_nag_steps_by_the_gradient_at_that_point(backend: Backend, dtype: DType) -> None:
    """On f(p) = p^2/2, whose gradient is the point itself."""
    p = ordinary_values(np.random.default_rng(0), dtype, 32)
    v = np.zeros(32, np.float64 if dtype == np.float64 else np.float32)
    number = v.dtype.type
    expected = p.copy()
    opt = fo.NAG(p, lr=0.25, momentum=0.75, backend=backend)
    for _ in range(5):
        with opt.lookahead():
            g = p.copy()
        opt.step(g)
        x = expected.astype(v.dtype)
        v = number(0.75) * v - number(0.25) * (x + number(0.75) * v).astype(dtype).astype(v.dtype)
        expected = (x + v).astype(dtype)
        assert_same_bits(p, expected)
