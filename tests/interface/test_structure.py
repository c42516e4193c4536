"""Nestings of parameters, what a step leaves alone, missing gradients, steps and learning rates."""

from __future__ import annotations

import copy
import gc
import pickle
import weakref
from collections import OrderedDict
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
import pytest

import fastoptim as fo
from cases import FLOAT32, FLOAT64, VARIANT_CASES, Array, Case, DType, assert_same_bits, ordinary_values
from loops import each_case, loop
from models import (
    INDEPENDENT,
    OPTIMIZERS,
    Backend,
    Make,
    each_backend,
    each_dtype,
    each_kind,
    each_make,
    every_variant,
    is_state,
    leaves,
    name_of,
    rate,
)


class Layer(NamedTuple):
    weight: Any
    bias: Any


class Kernel(dict[str, Any]):
    """A dict of a user's own."""


Build = Callable[[list[Array]], Any]

TREES: dict[str, Build] = {
    "array": lambda a: a[0],
    "list": lambda a: a,
    "tuple": lambda a: tuple(a),
    "dict": lambda a: {"w0": a[0], "w1": a[1], "w2": a[2], "w3": a[3]},
    "namedtuple": lambda a: Layer(a[0], a[1]),
    "nested": lambda a: {"layers": [Layer(a[0], a[1]), {"k": (a[2],)}], "head": a[3]},
    "keys": lambda a: {1: a[0], (2, "x"): [a[1]], None: a[2], 2.5: {b"b": a[3]}},
    "dicts": lambda a: OrderedDict(z=a[0], a=Kernel(y=a[1], b=a[2])),
    "one_inside": lambda a: [[({"x": [a[0]]},)]],
    "empty_inside": lambda a: {"none": {}, "some": [(), a[0], []], "more": (a[1], {"deep": ()})},
}

each_tree = loop("build", TREES.values())

SHAPES = [(3, 4), (5,), (), (2, 0, 3)]


def arrays_of(seed: int, dtype: DType = FLOAT32) -> list[Array]:
    rng = np.random.default_rng(seed)
    return [ordinary_values(rng, dtype, int(np.prod(shape))).reshape(shape) for shape in SHAPES]


def shape_of(tree: Any) -> Any:
    """The nesting with its kinds of container, and a word for each leaf."""
    if is_state(tree) or not isinstance(tree, (dict, list, tuple)):
        return "leaf"
    if isinstance(tree, dict):
        return {key: shape_of(value) for key, value in tree.items()}
    return (type(tree), [shape_of(value) for value in tree])


# ---- nestings


@pytest.mark.parametrize("optimizer", INDEPENDENT, ids=name_of)
@each_backend
@each_tree
def test_a_nesting_steps_as_its_arrays_do(optimizer: type[fo.Optimizer], backend: Backend, build: Build) -> None:
    params = build(arrays_of(0))
    alone = [p.copy() for p in leaves(params)]
    opt = optimizer(params, backend=backend)
    single = [optimizer(p, backend=backend) for p in alone]
    for t in range(3):
        grads = build(arrays_of(t + 1))
        opt.step(grads)
        for each, g in zip(single, leaves(grads), strict=True):
            each.step(g)
    for p, expected in zip(leaves(params), alone, strict=True):
        assert_same_bits(p, expected)
    for state, each in zip(leaves(opt.state) if single[0].state else [], single, strict=False):
        for name, array in each.state.items():
            assert_same_bits(state[name], array, name)


@every_variant
@each_tree
def test_state_has_the_structure_of_the_parameters(case: Case, build: Build) -> None:
    params = build(arrays_of(0))
    state = case.optimize(params).state
    if case.state:
        assert shape_of(state) == shape_of(params)
        for p, arrays in zip(leaves(params), leaves(state), strict=True):
            assert list(arrays) == list(case.state)
            assert all(s.shape == case.optimizer.state_schema[k].shape_for(p.shape) for k, s in arrays.items())


@every_variant
def test_without_state_its_places_are_empty(case: Case) -> None:
    opt = case.optimize({"a": np.ones(3), "b": [np.ones(2)]})
    if not case.state:
        assert opt.state == {"a": {}, "b": [{}]}
    assert case.optimize(np.ones(3)).state.keys() == set(case.state)


@every_variant
@each_backend
@each_dtype
def test_state_is_live_and_of_the_compute_type(case: Case, backend: Backend, dtype: DType) -> None:
    params = {"w": ordinary_values(np.random.default_rng(0), dtype, 6)}
    opt = case.optimize(params, backend)
    before = opt.state["w"]
    opt.step({"w": ordinary_values(np.random.default_rng(1), dtype, 6)})
    after = opt.state["w"]
    for name in case.state:
        assert after[name].ctypes.data == before[name].ctypes.data
        assert_same_bits(before[name], after[name], name)
    kept = FLOAT64 if dtype == FLOAT64 else FLOAT32
    assert all(s.dtype == (FLOAT64 if case.optimizer.state_schema[k].is_scalar else kept) for k, s in after.items())
    twin = copy.deepcopy(opt)
    for array in after.values():
        array[...] = 0.5
    for array in twin.state["w"].values():
        array[...] = 0.5
    opt.step({"w": np.full(6, 3, dtype)})
    twin.step({"w": np.full(6, 3, dtype)})
    assert_same_bits(params["w"], twin.params["w"])
    assert not [name for name in case.written if (opt.state["w"][name] == 0.5).all()]


@each_kind
@each_tree
def test_params_are_the_caller_s_arrays(optimizer: type[fo.Optimizer], build: Build) -> None:
    params = build(arrays_of(0))
    opt = optimizer(params)
    assert shape_of(opt.params) == shape_of(params)
    assert all(own is given for own, given in zip(leaves(opt.params), leaves(params), strict=True))
    assert all(own is given for own, given in zip(leaves(opt.param_groups[0]["params"]), leaves(params), strict=True))


@each_kind
@each_backend
def test_containers_may_change_after_construction(optimizer: type[fo.Optimizer], backend: Backend) -> None:
    """The optimizer holds the arrays, not the caller's containers."""
    params: dict[str, Any] = {"a": np.ones(3), "b": [np.ones(2)]}
    a, b = params["a"], params["b"][0]
    opt = optimizer(params, backend=backend)
    params.clear()
    for _ in range(2):  # ADOPT's first step moves nothing
        opt.step({"a": np.ones(3), "b": [np.ones(2)]})
    assert (a < 1).all()
    assert (b < 1).all()


@each_make
def test_gradients_are_matched_by_key(make: Make) -> None:
    grads = dict(zip("abcd", arrays_of(1), strict=True))
    nested = [{"x": g, "y": h} for g, h in zip(arrays_of(2), arrays_of(3), strict=True)]
    results = []
    for backwards in (False, True):
        params: dict[str, Any] = dict(zip("abcd", arrays_of(0), strict=True))
        params["n"] = [{"x": g, "y": h} for g, h in zip(arrays_of(4), arrays_of(5), strict=True)]
        opt = make(params)
        given: dict[str, Any] = {**grads, "n": nested}
        if backwards:
            given = dict(reversed([*grads.items(), ("n", [dict(reversed(entry.items())) for entry in nested])]))
        opt.step(given)
        results.append(list(leaves(params)))
    for forward, backward in zip(*results, strict=True):
        assert_same_bits(backward, forward)


@each_make
def test_lists_and_tuples_replace_each_other(make: Make) -> None:
    shapes: list[Build] = [list, tuple, lambda a: Layer([a[0], a[1]], (a[2], a[3])), lambda a: [(a[0], a[1]), [*a[2:]]]]
    pairs = [(shapes[0], shapes[1]), (shapes[1], shapes[0]), (shapes[2], shapes[3]), (shapes[3], shapes[2])]
    for build_params, build_grads in pairs:
        params, same = build_params(arrays_of(0)), build_params(arrays_of(0))
        make(params).step(build_grads(arrays_of(1)))
        make(same).step(build_params(arrays_of(1)))
        for p, expected in zip(leaves(params), leaves(same), strict=True):
            assert_same_bits(p, expected)


@each_make
def test_deep_nesting(make: Make) -> None:
    p, g = np.ones(2), np.ones(2)
    params: Any = p
    grads: Any = g
    for depth in range(100):
        params, grads = ({"k": params}, {"k": grads}) if depth % 2 else ([params], (grads,))
    opt = make(params)
    for _ in range(2):
        opt.step(grads)
    assert (p < 1).all()
    with pytest.raises(TypeError, match=r"^grads(\['k'\]\[0\]){50}: expected a NumPy array"):
        opt.step(_replaced(grads))


def _replaced(tree: Any) -> Any:
    if isinstance(tree, dict):
        return {key: _replaced(value) for key, value in tree.items()}
    return [_replaced(tree[0])] if isinstance(tree, tuple) else "no array"


@pytest.mark.parametrize("optimizer", [cls for cls in OPTIMIZERS if cls.reduce_terms is None], ids=name_of)
@each_backend
def test_many_arrays_step_as_one(optimizer: type[fo.Optimizer], backend: Backend) -> None:
    rng = np.random.default_rng(0)
    whole = ordinary_values(rng, FLOAT32, 300)
    parts = [whole[i : i + 3].copy() for i in range(0, whole.size, 3)]
    one, many = optimizer(whole, backend=backend), optimizer(parts, backend=backend)
    for _ in range(2):
        g = ordinary_values(rng, FLOAT32, whole.size)
        one.step(g)
        many.step([g[i : i + 3] for i in range(0, g.size, 3)])
    assert_same_bits(np.concatenate(parts), whole)


@every_variant
@each_backend
@each_dtype
def test_arrays_without_dimensions_or_elements(case: Case, backend: Backend, dtype: DType) -> None:
    params = [np.full(shape, 1.5, dtype) for shape in ((), (1,), (0,), (3, 0, 2), (1, 1, 1))]
    opt = case.optimize(params, backend)
    for value in (0.25, -3, 1):
        opt.step([np.full(p.shape, value, dtype) for p in params])
    assert [p.shape for p in params] == [(), (1,), (0,), (3, 0, 2), (1, 1, 1)]
    assert_same_bits(params[0].reshape(1), params[1])
    assert_same_bits(params[4].reshape(1), params[1])


@each_make
def test_a_numpy_number_is_a_gradient_without_dimensions(make: Make) -> None:
    """NumPy's reductions return numbers in the place of such arrays."""
    p, expected = np.array(1.5), np.array(1.5)
    make(p).step(np.float64(0.25))
    make(expected).step(np.array(0.25))
    assert_same_bits(p, expected)


@each_make
@each_dtype
def test_dtypes_need_only_be_equal(make: Make, dtype: DType) -> None:
    """Arrays that come out of a pickle, or whose dtype has metadata, have dtype objects of their own."""
    marked = np.dtype(dtype, metadata={"from": "elsewhere"})
    unpickled = pickle.loads(pickle.dumps(np.ones(3, dtype)))
    params = [np.ones(3, dtype), unpickled, np.ones(3, marked)]
    opt = make(params)
    for grads in (params, params[1:] + params[:1], params[2:] + params[:2]):
        opt.step([g.copy() for g in grads])
        assert_same_bits(params[1], params[0])
        assert_same_bits(params[2], params[0])


@each_make
def test_mapped_files_are_arrays(make: Make, tmp_path: Any) -> None:
    p = np.memmap(tmp_path / "p", np.float32, "w+", shape=(4,))
    p[...] = 1
    opt = make(p)
    for _ in range(2):
        opt.step(np.ones(4, np.float32))
    p.flush()
    assert (np.fromfile(tmp_path / "p", np.float32) < 1).all()


# ---- what a step leaves alone


@every_variant
@each_backend
@each_dtype
def test_gradients_are_only_read(case: Case, backend: Backend, dtype: DType) -> None:
    rng = np.random.default_rng(0)
    whole = ordinary_values(rng, dtype, 60).reshape(6, 10)
    grads = [whole[:3], whole[3:, ::2], whole[:, 0], np.broadcast_to(whole[0, :1], (4,))]
    before = whole.tobytes()
    whole.flags.writeable = False
    grads = [g.view() for g in grads]
    for g in grads:
        g.flags.writeable = False
    opt = case.optimize([np.ones(g.shape, FLOAT32) for g in grads], backend)
    for _ in range(2):
        assert opt.step(grads) is None
    assert whole.tobytes() == before


@each_kind
def test_an_optimizer_holds_no_gradients(optimizer: type[fo.Optimizer]) -> None:
    """They are most of the memory that a step needs."""
    opt = optimizer([np.ones(3), np.ones(4)])
    grads = [np.ones(3), np.ones((4, 2))[:, 0]]
    opt.step(grads)
    alive = [weakref.ref(g) for g in grads]
    del grads
    gc.collect()
    assert [ref() for ref in alive] == [None, None]


# ---- gradients that are missing


# By step, which arrays have a gradient; the last could take the fast path.
MASKS = [(1, 0, 1), (0, 0, 1), (1, 1, 1), (1, 0, 0), (0, 1, 1), (1, 1, 1), (1, 1, 1)]


@each_case([c for c in VARIANT_CASES if c.optimizer in INDEPENDENT])
@each_backend
@loop("lr", [0.1, rate])
def test_each_array_counts_its_own_steps(case: Case, backend: Backend, lr: Any) -> None:
    """A missing gradient leaves the parameter, its state and its clock alone, not the schedule, as in PyTorch."""
    rng = np.random.default_rng(0)
    params = [ordinary_values(rng, FLOAT32, 5) for _ in range(3)]
    alone = [p.copy() for p in params]
    opt: Any = case.optimize(params, backend)
    single: list[Any] = [case.optimize(p, backend) for p in alone]
    opt.lr = lr
    for t, mask in enumerate(MASKS):
        grads = [ordinary_values(rng, FLOAT32, 5) for _ in params]
        opt.step([g if there else None for g, there in zip(grads, mask, strict=True)])
        for each, g, there in zip(single, grads, mask, strict=True):
            if there:
                each.lr = lr(t) if callable(lr) else lr
                each.step(g)
        for p, expected in zip(params, alone, strict=True):
            assert_same_bits(p, expected, f"step {t}")
    for state, each in zip(opt.state, single, strict=True):
        for name, array in each.state.items():
            assert_same_bits(state[name], array, name)
    assert opt.step_count == len(MASKS)


@every_variant
@each_backend
def test_a_missing_gradient_leaves_everything_alone(case: Case, backend: Backend) -> None:
    params: Any = {"a": np.ones(4, np.float32), "b": {"c": np.ones(3, np.float32)}}
    opt = case.optimize(params, backend)
    opt.step({"a": np.ones(4), "b": {"c": np.ones(3)}})
    shared = opt.reduces_all  # then the numbers are those of all arrays
    own = [array for array in opt.state["b"]["c"].values() if array.shape or not shared]
    before = [array.tobytes() for array in (params["b"]["c"], *own)]
    opt.step({"a": np.ones(4), "b": {"c": None}})
    assert [array.tobytes() for array in (params["b"]["c"], *own)] == before
    everything = [array.tobytes() for array in (*leaves(params), *(s for d in leaves(opt.state) for s in d.values()))]
    opt.step({"a": None, "b": {"c": None}})
    assert everything == [a.tobytes() for a in (*leaves(params), *(s for d in leaves(opt.state) for s in d.values()))]


@each_make
def test_one_array_may_have_no_gradient(make: Make) -> None:
    p, expected = np.ones(3), np.ones(3)
    opt, other = make(p), make(expected)
    opt.step(None)
    assert p.tolist() == [1, 1, 1]
    opt.step(np.ones(3))
    other.step(np.ones(3))
    assert_same_bits(p, expected)


# ---- steps and rates


@each_make
def test_steps_are_counted(make: Make) -> None:
    opt = make(np.ones(3))
    counts = [opt.step_count]
    for _ in range(3):
        opt.step(np.ones(3))
        counts.append(opt.step_count)
    assert counts == [0, 1, 2, 3]
    assert type(opt.step_count) is int
    with pytest.raises(AttributeError):
        opt.step_count = 7  # type: ignore[misc]


@every_variant
@each_backend
def test_a_rate_may_be_a_function_of_the_step(case: Case, backend: Backend) -> None:
    asked: list[int] = []

    def asking(step: int) -> float:
        asked.append(step)
        return rate(step)

    p, expected = np.ones(5, np.float32), np.ones(5, np.float32)
    opt: Any = case.optimizer(p, backend=backend, **{**case.options, "lr": asking})
    other: Any = case.optimizer(expected, backend=backend, **{**case.options, "lr": rate(0)})
    asked.clear()  # the first rate may be where some state starts
    for t in range(4):
        g = np.full(5, 0.5 - t, np.float32)
        opt.step(g)
        other.lr = rate(t)
        other.step(g)
        assert_same_bits(p, expected, f"step {t}")
    assert asked == [0, 1, 2, 3]
    assert opt.lr is asking


@each_make
@loop("number", [np.float32(0.125), np.float64(0.125), 0, 1, np.int64(1)])
def test_a_rate_may_be_any_number(make: Make, number: Any) -> None:
    results = []
    rates: list[Any] = [number, float(number), lambda _: number]
    for lr in rates:
        p = np.ones(3)
        opt: Any = make(p, lr=lr)
        opt.step(np.ones(3))
        results.append(p)
    assert_same_bits(results[0], results[1])
    assert_same_bits(results[2], results[1])
