"""Unit-wise adaptive clipping follows its paper, changes nothing else, and has the same bits for any threads."""

from __future__ import annotations

from typing import Any

import ml_dtypes
import numpy as np
import pytest

import fastoptim as fo
from cases import Array, assert_same_bits
from devices import get, put, with_device
from frameworks import import_optax
from loops import loop

SHAPES = ((4, 7), (3, 5, 2), (8, 3, 3, 2), (6,), (1, 6), (), (70, 1100), (0, 3))


def values(seed: int, dtype: Any = np.float64) -> list[Array]:
    rng = np.random.default_rng(seed)
    return [
        np.asarray(rng.standard_normal(shape) * 10.0 ** rng.integers(-3, 3, shape)).astype(dtype) for shape in SHAPES
    ]


def clipped(p: Array, g: Array, clipping: float, eps: float, axis: int) -> Array:
    """Equation 3, one unit after another."""
    if p.ndim < 2:
        factor = min(1.0, clipping * max(float(np.linalg.norm(p)), eps) / np.linalg.norm(g)) if g.size else 1.0
        return np.asarray(g * factor)
    new: Any = g.copy()
    for i in range(p.shape[axis]):
        unit = (i,) if axis == 0 else (..., i)
        if norm := np.linalg.norm(g[unit]):
            new[unit] = g[unit] * min(1.0, clipping * max(float(np.linalg.norm(p[unit])), eps) / norm)
    return np.asarray(new)


@loop("axis", [0, -1])
@loop(("clipping", "eps"), [(0.01, 1e-3), (0.5, 10.0), (2.0, 0.0)])
def test_follows_the_paper(axis: Any, clipping: float, eps: float) -> None:
    params, grads = values(0), values(1)
    for p, g, found in zip(
        params, grads, fo.adaptive_clip(params, grads, clipping, eps, output_axis=axis), strict=True
    ):
        np.testing.assert_allclose(found, clipped(p, g, clipping, eps, axis), rtol=1e-14, atol=0)


def test_units_within_the_bound_keep_their_bits() -> None:
    params, grads = values(0), values(1)
    before = [g.copy() for g in grads]
    for g, found, old in zip(grads, fo.adaptive_clip(params, grads, 1e9), before, strict=True):
        assert_same_bits(found, g)
        assert_same_bits(g, old)
        assert not np.shares_memory(found, g)


@loop("dtype", [np.float64, np.float32, np.float16, ml_dtypes.bfloat16])
def test_dtypes_orders_and_threads(dtype: Any) -> None:
    params, grads = values(0, dtype), values(1, dtype)
    wanted = fo.adaptive_clip(params, grads)
    assert [found.dtype for found in wanted] == [dtype] * len(SHAPES)
    try:
        for threads in (1, 3):
            fo.set_num_threads(threads)
            for found, same in zip(
                fo.adaptive_clip(params, [np.array(g, order="F") for g in grads]), wanted, strict=True
            ):
                assert_same_bits(np.ascontiguousarray(found), np.ascontiguousarray(same))
    finally:
        fo.set_num_threads(None)


def test_structures_and_missing_gradients() -> None:
    params = {"a": np.ones((2, 2)), "b": [np.ones(3), np.ones(2)]}
    grads: dict[str, Any] = {"b": [None, np.ones(2)], "a": np.full((2, 2), 1e-6)}
    found = fo.adaptive_clip(params, grads)
    assert found["b"][0] is None
    np.testing.assert_allclose(found["b"][1], 0.01)
    assert_same_bits(found["a"], grads["a"])
    assert fo.adaptive_clip(params, {"a": None, "b": None}) == {"a": None, "b": [None, None]}


@loop("scale", [1e-300, 1e-170, 1e200, 1e300])
def test_squares_that_overflow_or_vanish(scale: float) -> None:
    p, g = np.full((2, 3), scale), np.array([[scale, 0, 0], [0, 0, scale / 1e3]])
    found = fo.adaptive_clip(p, g, 0.1, 0.0)
    np.testing.assert_allclose(found[0], [0.1 * np.sqrt(3) * scale, 0, 0], rtol=1e-14)
    assert_same_bits(found[1], g[1])


@loop("axis", [0, -1])
def test_norms_beyond_the_largest_number(axis: Any) -> None:
    largest = float(np.finfo(np.float64).max)
    ones = np.ones((4, 100) if axis == 0 else (100, 4))

    def clip(p: Array, g: Array, clipping: float, eps: float = 0.0) -> Array:
        found: Array = fo.adaptive_clip(p, g, clipping, eps, output_axis=axis)
        return found

    np.testing.assert_allclose(clip(ones, largest * ones, 0.5), 0.5 * ones, rtol=1e-14)  # a gradient of norm 10 * max
    np.testing.assert_allclose(clip(largest * ones, largest * ones, 0.5), 0.5 * largest * ones, rtol=1e-14)
    assert_same_bits(clip(largest * ones, largest * ones, 1.0), largest * ones)
    assert_same_bits(clip(largest * ones, ones, largest), ones)
    np.testing.assert_allclose(clip(0 * ones, largest * ones, 1e-3, 1e-297), 1e-301 * ones, rtol=1e-14)
    np.testing.assert_allclose(clip(1e-300 * ones, largest * ones, 0.5), 5e-301 * ones, rtol=1e-14)


@loop("dtype", [np.float32, ml_dtypes.bfloat16])
def test_factors_below_the_range_of_the_gradient(dtype: Any) -> None:
    p, g = np.zeros((2, 3), dtype), np.full((2, 3), 1e38, dtype)
    got = fo.adaptive_clip(p, g, clipping=1e-4)
    assert got.dtype == dtype
    np.testing.assert_allclose(got.astype(np.float64), 1e-7 / np.sqrt(3), rtol=1e-6 if dtype is np.float32 else 4e-3)


def test_what_is_not_finite_stays() -> None:
    p, g = np.ones((3, 2)), np.array([[np.nan, 1.0], [np.inf, 1.0], [1.0, 0.0]])
    found = fo.adaptive_clip(p, g)
    assert_same_bits(found[:2], g[:2])
    np.testing.assert_allclose(found[2], [0.01 * np.sqrt(2), 0])


@with_device
@loop("axis", [0, -1])
@loop("dtype", [np.float64, np.float32, np.float16, ml_dtypes.bfloat16])
@loop(("p_scale", "g_scale"), [(1.0, 1.0), (1e-170, 1e-160), (1e-300, 1e300), (1e-39, 1e38), (1e200, 1e220)])
def test_bits_on_a_gpu(axis: Any, dtype: Any, p_scale: float, g_scale: float, xp: Any) -> None:
    """In every memory order, with factors below the range of the gradient and norms beyond it."""
    with np.errstate(over="ignore", invalid="ignore"):
        params = [(p_scale * p).astype(np.float32 if i == 3 else dtype) for i, p in enumerate(values(0))]
        grads = [np.array((g_scale * g).astype(dtype), order="F" if i == 1 else "C") for i, g in enumerate(values(1))]
    grads[0].reshape(-1)[5] = 0
    for clipping, eps in ((0.01, 1e-3), (0.5, 0.0)):
        wanted = fo.adaptive_clip(params, grads, clipping, eps, output_axis=axis)
        there: Any = [[put(xp, array) for array in arrays] for arrays in (params, grads)]
        found = fo.adaptive_clip(there[0], there[1], clipping, eps, output_axis=axis)
        for own, other in zip(found, wanted, strict=True):
            assert_same_bits(np.ascontiguousarray(get(xp, own)), np.ascontiguousarray(other))


@with_device
def test_a_graph_cannot_capture_a_call(xp: Any) -> None:
    """Whose arrays CuPy would reuse, although each replay writes them."""
    p, g = (put(xp, np.ones((2, 3), np.float32)) for _ in range(2))
    with xp.cuda.Stream(non_blocking=True) as stream:
        stream.begin_capture()
        try:
            with pytest.raises(RuntimeError, match=r"^adaptive_clip: expected a call before a CUDA graph is captured"):
                fo.adaptive_clip(p, g)
        finally:
            stream.end_capture()
        assert (get(xp, fo.adaptive_clip(p, g)) < 0.02).all()


@with_device
def test_a_gradient_is_where_its_parameter_is(xp: Any) -> None:
    p = np.ones((2, 3))
    with pytest.raises(ValueError, match=r"^grads\['w'\]: expected an array on CUDA device 0 as the par"):
        fo.adaptive_clip({"w": put(xp, p)}, {"w": p})
    with pytest.raises(ValueError, match=r"^grads\['w'\]: expected an array on the CPU as the parameter"):
        fo.adaptive_clip({"w": p}, {"w": put(xp, p)})


@loop(
    ("change", "error", "message"),
    [
        ({"clipping": 0}, ValueError, "clipping: expected a number > 0"),
        ({"eps": -1}, ValueError, "eps: expected a number >= 0"),
        ({"output_axis": 1}, ValueError, "output_axis: expected"),
        ({"grads": {"w": np.ones((3, 2))}}, ValueError, r"grads\['w'\]: expected shape \(2, 3\) as the parameter's"),
        ({"grads": {"w": np.ones((2, 3), int)}}, TypeError, r"grads\['w'\]: expected dtype"),
        ({"grads": {"v": np.ones((2, 3))}}, TypeError, "grads: expected"),
        ({"grads": {"w": fo.Rows(np.array([0]), np.ones((1, 3)))}}, TypeError, r"grads\['w'\]: expected a whole array"),
        ({"params": {"w": "x"}}, TypeError, r"params\['w'\]: expected a NumPy array"),
    ],
)
def test_refusals(change: dict[str, Any], error: type[Exception], message: str) -> None:
    arguments: dict[str, Any] = {"params": {"w": np.ones((2, 3))}, "grads": {"w": np.ones((2, 3))}}
    with pytest.raises(error, match=f"^{message}"):
        fo.adaptive_clip(**{**arguments, **change})


def test_optax() -> None:
    """Its outputs are the last axis; arrays of three axes have other units there."""
    optax = import_optax()
    params, grads = ([each[i].astype(np.float32) for i in (0, 2, 3)] for each in (values(0), values(1)))
    theirs, _ = optax.adaptive_grad_clip(0.02, 1e-2).update(grads, optax.EmptyState(), params)
    for found, wanted in zip(fo.adaptive_clip(params, grads, 0.02, 1e-2, output_axis=-1), theirs, strict=True):
        np.testing.assert_allclose(found, np.asarray(wanted), rtol=1e-5)
