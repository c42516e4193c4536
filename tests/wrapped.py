"""Wrappers of an optimizer of two arrays, which tests make, step and compare."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

import fastoptim as fo
from cases import FLOAT32, FLOAT64, Array, DType, ordinary_values
from models import Backend, leaves, name_of

WRAPPERS: dict[Any, dict[str, Any]] = {
    fo.Lookahead: {"k": 2, "alpha": 0.3},
    fo.SAM: {"rho": 0.5, "adaptive": True},
    fo.GrokFast: {"alpha": 0.9, "lamb": 1.5},
}
each_wrapper = pytest.mark.parametrize("wrapper", WRAPPERS, ids=name_of)


def numbers(seed: int, dtype: DType = FLOAT32, shape: tuple[int, ...] = (5, 8)) -> Array:
    return ordinary_values(np.random.default_rng(seed), dtype, int(np.prod(shape))).reshape(shape)


def compute(dtype: DType) -> Any:
    return np.float64 if dtype == FLOAT64 else np.float32


def made(wrapper: Any, dtype: DType = FLOAT32, backend: Backend = "native", **options: Any) -> Any:
    params = {"w": numbers(0, dtype), "b": numbers(1, dtype, (3,))}
    return wrapper(fo.Adam(params, lr=0.05, backend=backend, **options), **WRAPPERS[wrapper])


def step(opt: Any, t: int, dtype: DType = FLOAT32) -> Any:
    grads = {"w": numbers(10 + t, dtype), "b": None if t % 3 == 1 else numbers(50 + t, dtype, (3,))}
    if hasattr(opt, "ascent"):
        with opt.ascent(grads):
            grads = {"w": numbers(100 + t, dtype) + opt.params["w"].astype(dtype), "b": grads["b"]}
    return opt.step(grads)


def bytes_of(opt: Any) -> Any:
    saved = opt.state_dict()
    return (
        [p.tobytes() for p in leaves(opt.params)],
        repr(saved["inner"]),
        [{name: array.tobytes() for name, array in entry["state"].items()} for entry in saved["arrays"]],
    )
