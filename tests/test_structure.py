"""Nestings of parameters, missing gradients, learning rates, copies, and the point that NAG shows."""

from __future__ import annotations

import copy
import gc
import pickle
import weakref
from collections import OrderedDict
from collections.abc import Callable, Iterator
from typing import Any, Literal, NamedTuple

import numpy as np
import pytest

import fastoptim as fo
from cases import (
    DTYPES,
    FLOAT32,
    PLAIN_CASES,
    VARIANT_CASES,
    Array,
    Case,
    DType,
    assert_same_bits,
    case_id,
    ordinary_values,
    random_values,
)

Backend = Literal["native", "reference"]

OPTIMIZERS = list(fo.OPTIMIZERS.values())

every_optimizer = pytest.mark.parametrize("optimizer", OPTIMIZERS, ids=lambda cls: str(cls.name))
every_variant = pytest.mark.parametrize("case", VARIANT_CASES, ids=case_id)
each_backend = pytest.mark.parametrize("backend", ["native", "reference"])
each_dtype = pytest.mark.parametrize("dtype", DTYPES, ids=str)


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

each_tree = pytest.mark.parametrize("build", TREES.values(), ids=TREES)

SHAPES = [(3, 4), (5,), (), (2, 0, 3)]


def arrays_of(seed: int, dtype: DType = FLOAT32) -> list[Array]:
    rng = np.random.default_rng(seed)
    return [ordinary_values(rng, dtype, int(np.prod(shape))).reshape(shape) for shape in SHAPES]


def leaves(tree: Any) -> Iterator[Any]:
    """What stands in the places of arrays; a state's dicts of arrays are such leaves too."""
    if is_state(tree) or not isinstance(tree, (dict, list, tuple)):
        yield tree
        return
    for value in tree.values() if isinstance(tree, dict) else tree:
        yield from leaves(value)


def is_state(tree: Any) -> bool:
    names = {name for cls in OPTIMIZERS for name in cls.state}
    return isinstance(tree, dict) and bool(tree) and set(tree) <= names


def shape_of(tree: Any) -> Any:
    """The nesting with its kinds of container, and a word for each leaf."""
    if is_state(tree) or not isinstance(tree, (dict, list, tuple)):
        return "leaf"
    if isinstance(tree, dict):
        return {key: shape_of(value) for key, value in tree.items()}
    return (type(tree), [shape_of(value) for value in tree])


# ---- nestings


@every_optimizer
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
            assert {array.shape for array in arrays.values()} == {p.shape}


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
    assert {array.dtype for array in after.values()} <= {np.dtype(np.float64 if dtype == np.float64 else np.float32)}
    twin = copy.deepcopy(opt)
    for array in after.values():
        array[...] = 0.5
    for array in twin.state["w"].values():
        array[...] = 0.5
    opt.step({"w": np.ones(6, dtype)})
    twin.step({"w": np.ones(6, dtype)})
    assert_same_bits(params["w"], twin.params["w"])
    assert not [name for name, array in opt.state["w"].items() if (array == 0.5).all()]


@every_optimizer
@each_tree
def test_params_are_the_caller_s_arrays(optimizer: type[fo.Optimizer], build: Build) -> None:
    params = build(arrays_of(0))
    opt = optimizer(params)
    assert shape_of(opt.params) == shape_of(params)
    assert all(own is given for own, given in zip(leaves(opt.params), leaves(params), strict=True))
    assert all(own is given for own, given in zip(leaves(opt.param_groups[0]["params"]), leaves(params), strict=True))


@every_optimizer
@each_backend
def test_containers_may_change_after_construction(optimizer: type[fo.Optimizer], backend: Backend) -> None:
    """The optimizer holds the arrays, not the caller's containers."""
    params: dict[str, Any] = {"a": np.ones(3), "b": [np.ones(2)]}
    a, b = params["a"], params["b"][0]
    opt = optimizer(params, backend=backend)
    params.clear()
    opt.step({"a": np.ones(3), "b": [np.ones(2)]})
    assert (a < 1).all()
    assert (b < 1).all()


@every_optimizer
@each_backend
def test_gradients_are_matched_by_key(optimizer: type[fo.Optimizer], backend: Backend) -> None:
    grads = dict(zip("abcd", arrays_of(1), strict=True))
    nested = [{"x": g, "y": h} for g, h in zip(arrays_of(2), arrays_of(3), strict=True)]
    results = []
    for backwards in (False, True):
        params: dict[str, Any] = dict(zip("abcd", arrays_of(0), strict=True))
        params["n"] = [{"x": g, "y": h} for g, h in zip(arrays_of(4), arrays_of(5), strict=True)]
        opt = optimizer(params, backend=backend)
        given: dict[str, Any] = {**grads, "n": nested}
        if backwards:
            given = dict(reversed([*grads.items(), ("n", [dict(reversed(entry.items())) for entry in nested])]))
        opt.step(given)
        results.append(list(leaves(params)))
    for forward, backward in zip(*results, strict=True):
        assert_same_bits(backward, forward)


@every_optimizer
@each_backend
def test_lists_and_tuples_stand_for_each_other(optimizer: type[fo.Optimizer], backend: Backend) -> None:
    shapes: list[Build] = [list, tuple, lambda a: Layer([a[0], a[1]], (a[2], a[3])), lambda a: [(a[0], a[1]), [*a[2:]]]]
    pairs = [(shapes[0], shapes[1]), (shapes[1], shapes[0]), (shapes[2], shapes[3]), (shapes[3], shapes[2])]
    for build_params, build_grads in pairs:
        params, same = build_params(arrays_of(0)), build_params(arrays_of(0))
        optimizer(params, backend=backend).step(build_grads(arrays_of(1)))
        optimizer(same, backend=backend).step(build_params(arrays_of(1)))
        for p, expected in zip(leaves(params), leaves(same), strict=True):
            assert_same_bits(p, expected)


@every_optimizer
@each_backend
def test_deep_nesting(optimizer: type[fo.Optimizer], backend: Backend) -> None:
    p, g = np.ones(2), np.ones(2)
    params: Any = p
    grads: Any = g
    for depth in range(100):
        params, grads = ({"k": params}, {"k": grads}) if depth % 2 else ([params], (grads,))
    opt = optimizer(params, backend=backend)
    opt.step(grads)
    assert (p < 1).all()
    with pytest.raises(TypeError, match=r"^grads(\['k'\]\[0\]){50}: expected a NumPy array"):
        opt.step(_replaced(grads))


def _replaced(tree: Any) -> Any:
    if isinstance(tree, dict):
        return {key: _replaced(value) for key, value in tree.items()}
    return [_replaced(tree[0])] if isinstance(tree, tuple) else "no array"


@every_optimizer
@each_backend
def test_many_arrays_step_as_one(optimizer: type[fo.Optimizer], backend: Backend) -> None:
    rng = np.random.default_rng(0)
    whole = ordinary_values(rng, FLOAT32, 1500)
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


@every_optimizer
@each_backend
def test_a_numpy_number_is_a_gradient_without_dimensions(optimizer: type[fo.Optimizer], backend: Backend) -> None:
    """NumPy's reductions return numbers in the place of such arrays."""
    p, expected = np.array(1.5), np.array(1.5)
    optimizer(p, backend=backend).step(np.float64(0.25))
    optimizer(expected, backend=backend).step(np.array(0.25))
    assert_same_bits(p, expected)


@every_optimizer
@each_backend
@each_dtype
def test_dtypes_need_only_be_equal(optimizer: type[fo.Optimizer], backend: Backend, dtype: DType) -> None:
    """Arrays that come out of a pickle, or whose dtype has metadata, have dtype objects of their own."""
    marked = np.dtype(dtype, metadata={"from": "elsewhere"})
    unpickled = pickle.loads(pickle.dumps(np.ones(3, dtype)))
    params = [np.ones(3, dtype), unpickled, np.ones(3, marked)]
    opt = optimizer(params, backend=backend)
    for grads in (params, params[1:] + params[:1], params[2:] + params[:2]):
        opt.step([g.copy() for g in grads])
        assert_same_bits(params[1], params[0])
        assert_same_bits(params[2], params[0])


@every_optimizer
@each_backend
def test_mapped_files_are_arrays(optimizer: type[fo.Optimizer], backend: Backend, tmp_path: Any) -> None:
    p = np.memmap(tmp_path / "p", np.float32, "w+", shape=(4,))
    p[...] = 1
    optimizer(p, backend=backend).step(np.ones(4, np.float32))
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
        assert opt.step(grads) is None  # type: ignore[func-returns-value]
    assert whole.tobytes() == before


@every_optimizer
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

MASKS = [(1, 0, 1), (0, 0, 1), (1, 1, 1), (1, 0, 0), (0, 1, 1), (1, 1, 1)]  # by step: which arrays have a gradient


def rate(step: int) -> float:
    return 0.1 / (1 + step)


@every_variant
@each_backend
@pytest.mark.parametrize("lr", [0.1, rate], ids=["number", "function"])
def test_each_array_counts_its_own_steps(case: Case, backend: Backend, lr: Any) -> None:
    """As in PyTorch: a missing gradient leaves alone the parameter, its state and its clock, not the schedule."""
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
    params = {"a": np.ones(4, np.float32), "b": {"c": np.ones(3, np.float32)}}
    opt = case.optimize(params, backend)
    opt.step({"a": np.ones(4), "b": {"c": np.ones(3)}})
    before = [params["b"]["c"].tobytes(), *(array.tobytes() for array in opt.state["b"]["c"].values())]  # type: ignore[index]
    opt.step({"a": np.ones(4), "b": {"c": None}})
    assert [params["b"]["c"].tobytes(), *(array.tobytes() for array in opt.state["b"]["c"].values())] == before  # type: ignore[index]
    everything = [array.tobytes() for array in (*leaves(params), *(s for d in leaves(opt.state) for s in d.values()))]
    opt.step({"a": None, "b": {"c": None}})
    assert everything == [a.tobytes() for a in (*leaves(params), *(s for d in leaves(opt.state) for s in d.values()))]


@every_optimizer
@each_backend
def test_one_array_may_have_no_gradient(optimizer: type[fo.Optimizer], backend: Backend) -> None:
    p, expected = np.ones(3), np.ones(3)
    opt, other = optimizer(p, backend=backend), optimizer(expected, backend=backend)
    opt.step(None)
    assert p.tolist() == [1, 1, 1]
    opt.step(np.ones(3))
    other.step(np.ones(3))
    assert_same_bits(p, expected)


# ---- steps and rates


@every_optimizer
@each_backend
def test_steps_are_counted(optimizer: type[fo.Optimizer], backend: Backend) -> None:
    opt = optimizer(np.ones(3), backend=backend)
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
    other: Any = case.optimize(expected, backend)
    for t in range(4):
        g = np.full(5, 0.5 - t, np.float32)
        opt.step(g)
        other.lr = rate(t)
        other.step(g)
        assert_same_bits(p, expected, f"step {t}")
    assert asked == [0, 1, 2, 3]
    assert opt.lr is asking


@every_optimizer
@each_backend
@pytest.mark.parametrize("number", [np.float32(0.125), np.float64(0.125), 0, 1, np.int64(1)], ids=repr)
def test_a_rate_may_be_any_number(optimizer: type[fo.Optimizer], backend: Backend, number: Any) -> None:
    results = []
    rates: list[Any] = [number, float(number), lambda _: number]
    for lr in rates:
        p = np.ones(3)
        opt: Any = optimizer(p, lr=lr, backend=backend)
        opt.step(np.ones(3))
        results.append(p)
    assert_same_bits(results[0], results[1])
    assert_same_bits(results[2], results[1])


# ---- what is shown, copied and kept


@pytest.mark.parametrize("case", PLAIN_CASES, ids=case_id)
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
    """Of every dtype and several memory orders."""
    rng = np.random.default_rng(seed)
    arrays = [ordinary_values(rng, dtype, 24).reshape(2, 3, 4) for dtype in DTYPES]
    return [*arrays, np.asfortranarray(arrays[0]), arrays[1].transpose(1, 2, 0).copy(order="K"), np.array(0.5)]


@every_variant
@each_backend
@pytest.mark.parametrize("make", COPIES.values(), ids=COPIES)
def test_a_copy_goes_on_with_the_same_bits(case: Case, backend: Backend, make: Copy) -> None:
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


@every_optimizer
@each_backend
@pytest.mark.parametrize("make", COPIES.values(), ids=COPIES)
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


# ---- NAG's look-ahead


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


Momenta = pytest.mark.parametrize("momentum", [0.0, 0.9, 1.0])


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
    """Those of NaN too, which arithmetic may change."""
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
@pytest.mark.parametrize("error", [ValueError, KeyboardInterrupt, GeneratorExit])
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
def test_lookahead_refuses_steps_and_itself_inside(backend: Backend) -> None:
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
def test_lookahead_refuses_what_a_step_would(backend: Backend) -> None:
    """And leaves the optimizer as it was, not in a block that nobody can end."""
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
