"""The repr of an optimizer, its copies and its pickles."""

from __future__ import annotations

import copy
import pickle
from collections.abc import Callable
from typing import Any

import numpy as np

import fastoptim as fo
from cases import DTYPES, PLAIN_CASES, Array, Case, assert_same_bits, ordinary_values
from loops import each_case, loop
from models import Backend, each_backend, each_kind, every_variant, leaves, rate


@each_case(PLAIN_CASES)
def test_repr_says_what_it_is(case: Case) -> None:
    opt: Any = case.optimize({"a": np.ones((30, 50)), "b": [np.ones(7)]})
    opt.lr = 0.0625
    shown = repr(opt)
    changed = {k: v for k, v in case.options.items() if v != case.optimizer.defaults[k]}
    assert case.optimizer.__name__ in shown
    assert "2 arrays" in shown
    assert "1,507" in shown
    assert all(f"{name}={value!r}" in shown for name, value in (changed | {"lr": 0.0625}).items())
    assert len(shown.splitlines()) == 1


Copy = Callable[[Any], Any]


def through_pickle(protocol: int) -> Copy:
    return lambda thing: pickle.loads(pickle.dumps(thing, protocol))


COPIES: dict[str, Copy] = {
    "deepcopy": copy.deepcopy,
    "pickle2": through_pickle(2),
    "pickle": through_pickle(pickle.HIGHEST_PROTOCOL),
}


def mixed_arrays(seed: int) -> list[Array]:
    """Return arrays of every dtype and several memory orders."""
    rng = np.random.default_rng(seed)
    arrays = [ordinary_values(rng, dtype, 24).reshape(2, 3, 4) for dtype in DTYPES]
    return [*arrays, np.asfortranarray(arrays[0]), arrays[1].transpose(1, 2, 0).copy(order="K"), np.array(0.5)]


@every_variant
@each_backend
@loop("make", COPIES.values())
def test_a_copy_continues_with_the_same_bits(case: Case, backend: Backend, make: Copy) -> None:
    params = {"x": mixed_arrays(0)}
    opt = case.optimize(params, backend)
    opt.step({"x": mixed_arrays(1)})
    opt.step({"x": [None, *mixed_arrays(2)[1:]]})
    twin = make(opt)
    frozen = make(opt)
    assert twin.step_count == 2
    for seed in (3, 4):
        opt.step({"x": mixed_arrays(seed)})
        twin.step({"x": mixed_arrays(seed)})
    for own, other in zip(leaves((opt.params, opt.state)), leaves((twin.params, twin.state)), strict=True):
        pairs = [(own[name], other[name]) for name in own] if isinstance(own, dict) else [(own, other)]
        for a, b in pairs:
            assert_same_bits(b, a)
            assert not np.shares_memory(a, b)
    assert frozen.step_count == 2
    assert frozen.params["x"][1].tobytes() != twin.params["x"][1].tobytes()


@each_kind
@each_backend
@loop("make", COPIES.values())
def test_a_copy_with_its_parameters_steps_them(optimizer: type[fo.Optimizer], backend: Backend, make: Copy) -> None:
    params: dict[str, Array] = {"w": np.ones(3), "b": np.ones(2)}
    opt = optimizer(params, lr=rate, backend=backend)
    opt.step({"w": np.ones(3), "b": np.ones(2)})
    their_params, their_opt = make((params, opt))
    their_opt.step({"w": np.ones(3), "b": np.ones(2)})
    opt.step({"w": np.ones(3), "b": np.ones(2)})
    assert their_opt.lr is rate
    for key, p in params.items():
        assert_same_bits(their_params[key], p)
    their_opt.lr = 0.5
    assert opt.param_groups[0]["lr"] is rate
