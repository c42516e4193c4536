"""State dicts: what is in them, that storage keeps it, and that an optimizer continues from one with identical bits."""

from __future__ import annotations

import copy
import io
import json
import pickle
import tempfile
from collections.abc import Callable, Iterator
from itertools import cycle, permutations, product
from pathlib import Path
from typing import Any

import numpy as np

import fastoptim as fo
from cases import (
    CASES,
    DTYPES,
    FLOAT32,
    PLAIN_CASES,
    VARIANT_CASES,
    Array,
    Case,
    DType,
    assert_same_bits,
    ordinary_values,
)
from fastoptim.files import document
from loops import each_case, loop
from models import BACKENDS, Backend, Make, each_backend, each_kind, each_make, every_variant

Params = dict[str, Any]

OPTIMIZERS = list(fo.OPTIMIZERS.values())


def numbers(seed: int, dtype: DType = FLOAT32) -> Params:
    """Parameters or gradients of a small model: a matrix, a vector, a number and an empty array."""
    rng = np.random.default_rng(seed)
    values = {shape: ordinary_values(rng, dtype, int(np.prod(shape))).reshape(shape) for shape in ((3, 4), (5,), ())}
    return {"w": values[3, 4], "layers": [(values[5,], values[()]), {"none": np.zeros((0, 2), dtype)}]}


def leaves(tree: Any) -> Iterator[Any]:
    if isinstance(tree, (dict, list, tuple)):
        for value in tree.values() if isinstance(tree, dict) else tree:
            yield from leaves(value)
    else:
        yield tree


def assert_same_trees(actual: Any, expected: Any, place: str = "") -> None:
    for a, b in zip(leaves(actual), leaves(expected), strict=True):
        assert_same_bits(a, b, place)


def reordered(params: Params) -> Params:
    return {"layers": params["layers"], "w": params["w"]}


def plainest(case: Case) -> Case:
    """The first case of that variant: what else the options say has to come out of the state dict."""
    return next(c for c in PLAIN_CASES if c.optimizer is case.optimizer and c.variant == case.variant)


Through = Callable[[dict[str, Any]], Any]


def check_continues(
    case: Case,
    first: Backend = "native",
    then: Backend = "native",
    dtype: DType = FLOAT32,
    through: Through = lambda state_dict: state_dict,
) -> None:
    """Saves after two steps, loads into a fresh optimizer over copies in another order, and compares two steps more."""
    params = numbers(0, dtype)
    opt = case.optimize(params, first)
    opt.step(numbers(1, dtype))
    opt.step(numbers(2, dtype))

    others = reordered(copy.deepcopy(params))
    fresh = plainest(case).optimize(others, then)
    assert fresh.load_state_dict(through(opt.state_dict())) is None  # type: ignore[func-returns-value]
    assert fresh.step_count == 2
    for seed in (3, 4):
        opt.step(numbers(seed, dtype))
        fresh.step(numbers(seed, dtype))
        assert_same_trees(reordered(others), reordered(params), f"step {seed}")
    assert_same_trees(reordered(fresh.state), reordered(opt.state))
    assert [_options(fresh), fresh.step_count] == [_options(opt), 4]


def _options(opt: fo.Optimizer) -> list[dict[str, Any]]:
    return [{k: v for k, v in group.items() if k != "params"} for group in opt.param_groups]


# ---- going on


@each_case(CASES)
def test_every_kind_of_option_continues(case: Case) -> None:
    check_continues(case)


@every_variant
@loop(("dtype", "first", "then"), [(d, *b) for d, b in zip(DTYPES, product(BACKENDS, BACKENDS), strict=True)])
def test_either_backend_continues_from_either(case: Case, dtype: DType, first: Backend, then: Backend) -> None:
    check_continues(case, first, then, dtype)


@every_variant
@each_backend
def test_an_optimizer_restores_its_own_state(case: Case, backend: Backend) -> None:
    """The steps after it have the same bits again."""
    params = numbers(0)
    opt = case.optimize(params, backend)
    opt.step(numbers(1))
    saved, at = opt.state_dict(), copy.deepcopy(params)
    ends = []
    for _ in range(2):
        opt.load_state_dict(saved)
        for array, before in zip(leaves(params), leaves(at), strict=True):
            array[...] = before
        for seed in (2, 3):
            opt.step(numbers(seed))
        ends.append(copy.deepcopy((params, opt.state)))
        assert opt.step_count == 3
    assert_same_trees(ends[1], ends[0])


@every_variant
@each_backend
def test_missed_gradients_are_remembered(case: Case, backend: Backend) -> None:
    masks = [(1, 0), (1, 1), (0, 1), (0, 1), (1, 0), (1, 1)]
    rng = np.random.default_rng(0)
    steps = [[ordinary_values(rng, FLOAT32, 5) if there else None for there in mask] for mask in masks]
    params = [ordinary_values(rng, FLOAT32, 5) for _ in range(2)]
    others = [p.copy() for p in params]
    opt, other = case.optimize(params, backend), case.optimize(others, backend)
    for grads in steps:
        other.step(grads)
        opt.step(grads)
        fresh = plainest(case).optimize([p.copy() for p in others], backend)
        fresh.load_state_dict(other.state_dict())
        others, other = fresh.params, fresh
        assert_same_trees(others, params)
    assert_same_trees(other.state, opt.state)


@each_kind
@each_backend
def test_groups_continue(optimizer: type[fo.Optimizer], backend: Backend) -> None:
    cases = [case for case in VARIANT_CASES if case.optimizer is optimizer]
    params = [numbers(i) for i in range(len(cases))]
    opt = optimizer([{"params": p, **case.options} for p, case in zip(params, cases, strict=True)], backend=backend)
    opt.step([numbers(i + 100) for i in range(len(cases))])
    opt.param_groups[0]["lr"] = 0.0625
    others = copy.deepcopy(params)
    groups = [{"params": reordered(p), **plainest(case).options} for p, case in zip(others, cases, strict=True)]
    fresh = optimizer(groups, backend=backend)
    fresh.load_state_dict(opt.state_dict())
    grads = [numbers(i + 200) for i in range(len(cases))]
    opt.step(grads)
    fresh.step(grads)
    assert_same_trees(others, params)
    assert _options(fresh) == _options(opt)


def rate(step: int) -> float:
    return 0.1 / (1 + step)


@each_make
def test_a_function_for_a_rate_is_the_loader_s_own(make: Make) -> None:
    params = numbers(0)
    opt: Any = make(params, lr=rate)
    opt.step(numbers(1))
    saved = opt.state_dict()
    json.dumps(saved["groups"])
    others = copy.deepcopy(params)
    fresh: Any = make(others, lr=rate)
    fresh.load_state_dict(saved)
    for seed in (2, 3):
        opt.step(numbers(seed))
        fresh.step(numbers(seed))
    assert_same_trees(others, params)
    assert fresh.lr is rate


@each_kind
def test_a_number_replaces_the_loader_s_function(optimizer: type[fo.Optimizer]) -> None:
    """The saved rate replaces the present one, as in PyTorch."""
    opt = optimizer(numbers(0), lr=0.5)
    fresh: Any = optimizer(numbers(0), lr=rate)
    fresh.load_state_dict(opt.state_dict())
    assert fresh.lr == 0.5


@every_variant
@each_backend
def test_a_late_step_continues(case: Case, backend: Backend) -> None:
    params = numbers(0)
    opt = case.optimize(params, backend)
    saved = opt.state_dict()
    late = 2**40
    saved["step_count"] = late
    for entry in saved["arrays"]:
        entry["steps"] = late
    opt.load_state_dict(saved)
    opt.step(numbers(1))
    assert opt.step_count == late + 1
    p = numbers(0)["w"]
    state = [array.copy() for array in case.optimize(p.copy()).state.values()]
    case.update(fo.reference, p, numbers(1)["w"], state, late + 1)
    assert_same_bits(params["w"], p)


@every_variant
@each_backend
def test_memory_order_does_not_matter(case: Case, backend: Backend) -> None:
    """A checkpoint holds numbers, not strides."""
    rng = np.random.default_rng(0)
    p, g, h = (ordinary_values(rng, FLOAT32, 24).reshape(2, 3, 4) for _ in range(3))
    opt = case.optimize(p, backend)
    opt.step(g)
    saved = opt.state_dict()
    orders = [np.asfortranarray(p), np.ascontiguousarray(p.transpose(2, 0, 1)).transpose(1, 2, 0)]
    opt.step(h)
    for ordered in orders:
        fresh = plainest(case).optimize(ordered, backend)
        fresh.load_state_dict(saved)
        fresh.step(h)
        assert_same_bits(ordered, p)


# ---- options that changed on the way


@each_kind
@each_backend
def test_options_that_changed_continue(optimizer: type[fo.Optimizer], backend: Backend) -> None:
    """Another variant than the optimizer was made with, and state left over from the old one."""
    for before, after in permutations([case for case in PLAIN_CASES if case.optimizer is optimizer], 2):
        p = numbers(0)["w"]
        opt = before.optimize(p, backend)
        opt.step(numbers(1)["w"])
        opt.param_groups[0].update(after.options)
        opt.step(numbers(2)["w"])
        other = p.copy()
        fresh = after.optimize(other, backend)
        fresh.load_state_dict(opt.state_dict())
        for case, seed in ((after, 3), (before, 4)):
            for each in (opt, fresh):
                each.param_groups[0].update(case.options)
                each.step(numbers(seed)["w"])
            assert_same_bits(other, p, f"{before.id} to {after.id}, step {seed}")


@each_kind
@each_backend
@loop("assigned", [True, False])
def test_the_saved_options_hold(optimizer: type[fo.Optimizer], backend: Backend, assigned: bool) -> None:
    """Options assigned since the last step are, and those of another variant than the loader's, as in PyTorch."""
    for before, after in permutations([case for case in PLAIN_CASES if case.optimizer is optimizer], 2):
        p = numbers(0)["w"]
        opt = before.optimize(p, backend)
        opt.step(numbers(1)["w"])
        if assigned:
            opt.param_groups[0].update(after.options)
        other = p.copy()
        fresh = after.optimize(other, backend)
        fresh.load_state_dict(opt.state_dict())
        opt.step(numbers(2)["w"])
        fresh.step(numbers(2)["w"])
        assert_same_bits(other, p, f"{before.id} to {after.id}")


# ---- what is inside


def check_plain(thing: Any, place: str = "state_dict") -> None:
    """Dicts with strings for keys, lists, numbers, strings and arrays, of exactly these types."""
    if type(thing) is dict:
        for key, value in thing.items():
            assert type(key) is str, f"{place}: {key!r}"
            check_plain(value, f"{place}[{key!r}]")
    elif type(thing) is list:
        for i, value in enumerate(thing):
            check_plain(value, f"{place}[{i}]")
    elif type(thing) is not np.ndarray:
        assert type(thing) in (int, float, bool, str), f"{place}: {type(thing)}"


@every_variant
def test_only_plain_things_are_inside(case: Case) -> None:
    opt = case.optimize({"params": numbers(0), (1, None): [np.ones(2, np.float16)]})
    check_plain(opt.state_dict())
    opt.step({"params": numbers(1), (1, None): [None]})
    check_plain(opt.state_dict())


@each_kind
def test_numpy_s_numbers_become_plain(optimizer: type[fo.Optimizer]) -> None:
    """Include those assigned since the last step."""
    opt: Any = optimizer(np.ones(3), lr=np.float32(0.5), weight_decay=np.int64(0), maximize=np.True_)
    check_plain(opt.state_dict())
    opt.lr = np.float32(0.25)
    check_plain(opt.state_dict())
    opt.param_groups[0].update(lr=np.float32(0.125), maximize=np.False_)
    opt.step(np.ones(3))
    check_plain(opt.state_dict())
    opt.param_groups[0].update(lr=np.float32(0.5), maximize=np.True_, weight_decay=np.float64(0.1))
    check_plain(opt.state_dict())


@each_kind
def test_it_says_what_it_is_of(optimizer: type[fo.Optimizer]) -> None:
    opt = optimizer({"w": np.ones((2, 3), np.float16)})
    opt.step({"w": np.ones((2, 3))})
    saved = opt.state_dict()
    assert saved["optimizer"] == optimizer.name
    assert type(saved["version"]) is int
    assert saved["step_count"] == 1


@every_variant
@each_backend
def test_the_arrays_are_copies(case: Case, backend: Backend) -> None:
    opt = case.optimize(numbers(0), backend)
    opt.step(numbers(1))
    saved = opt.state_dict()
    kept = copy.deepcopy(saved)
    for array in arrays_in(saved):
        assert not any(np.shares_memory(array, own) for own in leaves((opt.state, opt.params)))
    opt.step(numbers(2))
    assert_same_trees(list(arrays_in(saved)), list(arrays_in(kept)))
    state = copy.deepcopy(opt.state)
    for array in arrays_in(saved):
        array[...] = 99
    saved["groups"][0]["lr"] = 99.0
    assert_same_trees(opt.state, state)
    assert opt.param_groups[0]["lr"] == case.options["lr"]


@every_variant
@each_backend
def test_loading_copies_into_the_live_arrays(case: Case, backend: Backend) -> None:
    opt = case.optimize(numbers(0), backend)
    opt.step(numbers(1))
    live = list(leaves(opt.state))
    places = [array.ctypes.data for array in live]
    saved = opt.state_dict()
    given = copy.deepcopy(saved)
    opt.step(numbers(2))
    opt.load_state_dict(given)
    assert [array.ctypes.data for array in leaves(opt.state)] == places
    assert_same_trees(live, opt.state)
    for array in arrays_in(given):
        assert not any(np.shares_memory(array, own) for own in live)
        array[...] = 99
    given["groups"].clear()
    assert_same_trees(list(arrays_in(opt.state_dict())), list(arrays_in(saved)))


def arrays_in(thing: Any) -> Iterator[Array]:
    yield from (leaf for leaf in leaves(thing) if isinstance(leaf, np.ndarray))


@each_kind
def test_saving_changes_nothing(optimizer: type[fo.Optimizer]) -> None:
    results = []
    for saves in (False, True):
        params = numbers(0)
        opt = optimizer(params)
        for seed in (1, 2):
            opt.step(numbers(seed))
            if saves:
                opt.state_dict()
        results.append((params, opt.state))
    assert_same_trees(results[1], results[0])


# ---- storage


def take_out(thing: Any, arrays: list[Array]) -> Any:
    """The same without arrays: in the place of each its number."""
    if isinstance(thing, np.ndarray):
        arrays.append(thing)
        return {"array": len(arrays) - 1}
    if isinstance(thing, dict):
        return {key: take_out(value, arrays) for key, value in thing.items()}
    return [take_out(value, arrays) for value in thing] if isinstance(thing, list) else thing


def put_back(thing: Any, arrays: list[Array]) -> Any:
    if isinstance(thing, dict):
        if thing.keys() == {"array"}:
            return arrays[thing["array"]]
        return {key: put_back(value, arrays) for key, value in thing.items()}
    return [put_back(value, arrays) for value in thing] if isinstance(thing, list) else thing


def through_json(state_dict: dict[str, Any]) -> Any:
    arrays: list[Array] = []
    return put_back(json.loads(json.dumps(take_out(state_dict, arrays), allow_nan=False)), arrays)


def through_pickle(state_dict: dict[str, Any]) -> Any:
    return pickle.loads(pickle.dumps(state_dict))


def through_npz(state_dict: dict[str, Any]) -> Any:
    """One file, without pickle."""
    arrays: list[Array] = []
    named: dict[str, Any] = {"text": np.array(json.dumps(take_out(state_dict, arrays)))}
    named |= {str(i): array for i, array in enumerate(arrays)}
    file = io.BytesIO()
    np.savez(file, **named)
    file.seek(0)
    with np.load(file, allow_pickle=False) as loaded:
        return put_back(json.loads(str(loaded["text"])), [loaded[str(i)] for i in range(len(arrays))])


def through_file(state_dict: dict[str, Any]) -> Any:
    with tempfile.TemporaryDirectory() as directory:
        path = Path(directory) / "checkpoint"
        document.save(path, state_dict)
        return document.load(path)


def with_tuples(thing: Any) -> Any:
    """Return the same with tuples, as other libraries make of lists."""
    if isinstance(thing, dict):
        return {key: with_tuples(value) for key, value in thing.items()}
    return tuple(with_tuples(value) for value in thing) if isinstance(thing, list) else thing


@each_case(PLAIN_CASES)
@loop(
    ("through", "dtype"),
    zip([through_json, through_pickle, through_npz, with_tuples, through_file, copy.deepcopy], cycle(DTYPES)),
)
def test_it_survives_storage(case: Case, through: Through, dtype: DType) -> None:
    check_continues(case, dtype=dtype, through=through)
