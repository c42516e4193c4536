"""Runs of several steps: their gradients, what they return or raise, and their comparison with the reference."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import ml_dtypes
import numpy as np
import pytest

import fastoptim as fo
from cases import FLOAT32, FLOAT64, Array, assert_same_bits, ordinary_values
from models import Backend, leaves


def numbers(seed: int, size: int = 5) -> Array:
    return ordinary_values(np.random.default_rng(seed), FLOAT32, size)


def a_list(seed: int) -> list[Any]:
    return [numbers(seed), numbers(seed + 50)]


def a_rate(step: int) -> float:
    return 0.1 / (1 + step)


def load(opt: fo.Optimizer, grads: Any) -> None:
    saved = opt.state_dict()
    saved["step_count"] = 100
    for array in saved["arrays"]:
        array["steps"] = 100
    opt.load_state_dict(saved)


def count_slow_steps(monkeypatch: pytest.MonkeyPatch, opt: fo.Optimizer, grads: Callable[[int], Any]) -> int:
    """How many of ten more steps take the slow path."""
    taken = []
    in_full = opt._step_slow_path

    def counted(tree: Any, *rest: Any) -> bool | None:
        taken.append(tree)
        return in_full(tree, *rest)

    monkeypatch.setattr(opt, "_step_slow_path", counted)
    before = opt.step_count
    for t in range(10):
        opt.step(grads(t))
    assert opt.step_count == before + 10
    return len(taken)


def same_in_both(run: Callable[[Backend], tuple[fo.Optimizer, Any]]) -> None:
    """Check that results, errors and every bit of parameters and state are the reference's."""
    (native, said), (expected, expected_said) = run("native"), run("reference")
    assert said == expected_said
    for param, want in zip(native.param_states, expected.param_states, strict=True):
        assert param.state.keys() == want.state.keys()
        assert_same_bits(param.p, want.p, param.place)
        for name, array in param.state.items():
            assert_same_bits(array, want.state[name], name)


def said_of_steps(opt: fo.Optimizer, steps: int, grads: Callable[[int], Any]) -> list[Any]:
    said: list[Any] = []
    for t in range(steps):
        try:
            said.append(opt.step(grads(t)))
        except (TypeError, ValueError, RuntimeError) as error:
            said.append(f"{type(error).__name__}: {error}")
        said.append(opt.step_count)
    return said


SHAPES: tuple[tuple[int, ...], ...] = ((3, 4), (5,), (), (0, 2), (40,))


def arrays(seed: int, dtype: np.dtype[Any] = FLOAT64) -> list[Array]:
    rng = np.random.default_rng(seed)
    return [ordinary_values(rng, dtype, math.prod(shape)).reshape(shape) for shape in SHAPES]


def assert_same_model(found: Any, expected: Any) -> None:
    def flat(tree: Any) -> list[Array]:
        return [array for leaf in leaves(tree) for array in (leaf.values() if isinstance(leaf, dict) else [leaf])]

    for a, b in zip(flat(found), flat(expected), strict=True):
        assert_same_bits(a, b)


def assert_same(actual: Any, expected: Any, place: str = "") -> None:
    """Equal types, keys, order, bits."""
    if isinstance(expected, np.ndarray):
        assert_same_bits(actual, expected, place)
        return
    assert type(actual) is type(expected), place
    if isinstance(expected, dict):
        assert list(actual) == list(expected), place
        actual, expected = list(actual.values()), list(expected.values())
    if isinstance(expected, (list, tuple)):
        assert len(actual) == len(expected), place
        for i, (a, b) in enumerate(zip(actual, expected, strict=True)):
            assert_same(a, b, f"{place}[{i}]")
    else:
        assert actual == expected or (actual != actual and expected != expected), f"{place}: {actual} is not {expected}"


def model() -> dict[str, Any]:
    """Return parameters in a nesting, for checkpoint files."""
    return {"w": np.ones((2, 3), np.float32), "b": [np.zeros(3, ml_dtypes.bfloat16), (np.array(2.0), np.zeros((0, 2)))]}
