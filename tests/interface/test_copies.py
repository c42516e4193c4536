"""The repr of an optimizer, its copies and its pickles."""

from __future__ import annotations

import copy
import io
import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

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


def test_repr_shows_what_all_groups_have() -> None:
    groups: list[dict[str, Any]] = [{"params": np.ones(2), "lr": 0.25}, {"params": np.ones(3)}]
    assert repr(fo.Adam(groups, eps=0.5)) == "<Adam of 2 arrays, 5 elements, eps=0.5>"
    mixed = fo.Mixed([group | {"optimizer": rule} for group, rule in zip(groups, (fo.Lion, fo.SGD), strict=True)])
    assert repr(mixed) == "<Mixed of 2 arrays, 5 elements>"


Copy = Callable[[Any], Any]


def through_pickle(protocol: int) -> Copy:
    return lambda thing: pickle.loads(pickle.dumps(thing, protocol))


def through_joblib(thing: Any) -> Any:
    """Write an array once for each reference to it."""
    joblib = pytest.importorskip("joblib")
    file = io.BytesIO()
    joblib.dump(thing, file)
    file.seek(0)
    return joblib.load(file)


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


# ---- each array once


class Labelled(fo.AdamW):
    """A user's subclass with an attribute of its own."""

    label = ""


def new_structures() -> dict[str, Any]:
    w, b = np.ones((2, 3)), np.zeros(3, np.float32)
    return {
        "array": w,
        "number": np.array(0.5),
        "dict": {"w": w, "b": b, "none": np.zeros((0, 2))},
        "nested": ({"w": [w]}, b),
        "groups": [{"params": w, "lr": rate, "ema": 0.5}, {"params": {"b": b}, "swa_start": 1}],
    }


def arrays_in(tree: Any) -> list[Array]:
    """Return the arrays of nested parameters, or of groups."""
    if isinstance(tree, dict):
        tree = list(tree.values())
    return [array for entry in tree for array in arrays_in(entry)] if isinstance(tree, (list, tuple)) else [tree]


def gradients(opt: fo.Optimizer, value: float) -> Any:
    return opt._structure.build(iter([np.full(p.shape, value, p.dtype) for p in arrays_in(opt.params)]))


@each_kind
@loop("kind", new_structures())
@loop("make", [*COPIES.values(), through_joblib])
def test_a_copy_s_parameters_are_those_that_it_steps(optimizer: type[fo.Optimizer], kind: str, make: Copy) -> None:
    """The arrays of `params` and of `param_groups` are the same; a tuple with `params` holds them, too."""
    opt: Any = optimizer(new_structures()[kind])
    opt.step(gradients(opt, 0.25))
    opt.param_groups[0]["weight_decay"] = 0.5  # not checked yet
    their_params, twin = make((opt.params, opt))
    for each in (opt, twin):
        each.step(gradients(each, 0.5))
    if make is through_joblib and kind in ("array", "number"):  # no container that both share
        their_params = twin.params
    shown = [twin.params, their_params, [group["params"] for group in twin.param_groups]]
    assert len({tuple(map(id, arrays_in(tree))) for tree in shown}) == 1
    for a, b in zip(arrays_in(twin.params), arrays_in(opt.params), strict=True):
        assert_same_bits(a, b)
    assert [group["weight_decay"] for group in twin.param_groups] == [g["weight_decay"] for g in opt.param_groups]


def test_containers_that_the_user_has_changed_are_made_again() -> None:
    opt: Any = fo.SGD({"w": np.ones(2)}, lr=0.5)
    opt.params["w"] = np.zeros(2)
    for make in COPIES.values():
        twin = make(opt)
        twin.step({"w": np.ones(2)})
        assert twin.params["w"].tolist() == [0.5, 0.5]
    opt.param_groups.append({})
    with pytest.raises(ValueError, match="param_groups: expected 1 groups, got 2"):
        copy.copy(opt)


@each_kind
@each_backend
def test_a_shallow_copy_steps_the_same_parameters(optimizer: type[fo.Optimizer], backend: Backend) -> None:
    """With state and options of its own, and the same schedule."""
    params, schedule = {"w": np.ones(3)}, fo.schedules.ReduceOnPlateau(0.5)
    opt: Any = optimizer(params, lr=schedule, backend=backend)
    opt.step({"w": np.ones(3)})
    deep, twin = copy.deepcopy(opt), copy.copy(opt)
    before = copy.deepcopy((opt.state, opt.step_count))
    twin.step({"w": np.full(3, 0.5)})
    deep.step({"w": np.full(3, 0.5)})
    assert twin.params["w"] is params["w"]
    assert twin.lr is schedule
    assert_same_bits(params["w"], deep.params["w"])
    assert str((opt.state, opt.step_count)) == str(before)
    twin.lr = 0.25
    assert opt.lr is schedule


def test_a_subclass_keeps_its_attributes() -> None:
    opt = Labelled(np.ones(2))
    opt.label = "mine"
    for make in (*COPIES.values(), copy.copy):
        twin = make(opt)
        assert type(twin) is Labelled
        assert twin.label == "mine"


@each_kind
@loop("mode", ["r+", "c", "r"])
def test_memory_mapped_copies(optimizer: type[fo.Optimizer], mode: str, tmp_path: Path) -> None:
    """A step writes into the maps, or is rejected where they are read-only; a state dict loads from any."""
    joblib = pytest.importorskip("joblib")
    opt: Any = optimizer({"w": np.ones((2, 3)), "b": np.zeros(3, np.float32)})
    opt.step(gradients(opt, 0.25))
    joblib.dump(opt, tmp_path / "opt")
    twin = joblib.load(tmp_path / "opt", mmap_mode=mode)
    w = twin.params["w"]
    assert isinstance(w, np.memmap)
    fresh = optimizer({"w": np.ones((2, 3)), "b": np.zeros(3, np.float32)})
    fresh.load_state_dict(twin.state_dict())
    assert str(fresh.state) == str(opt.state)
    if mode == "r":
        before = str((twin.params, twin.state, twin.step_count))
        with pytest.raises(ValueError, match=r"^params\['w'\]: expected a writeable array, got a read-only one"):
            twin.step(gradients(twin, 0.5))
        assert str((twin.params, twin.state, twin.step_count)) == before
        return
    for each in (opt, twin):
        each.step(gradients(each, 0.5))
    assert twin.params["w"] is w
    assert_same_bits(np.asarray(w), opt.params["w"])
    w.flush()
    written = joblib.load(tmp_path / "opt").params["w"]
    assert (written.tobytes() == w.tobytes()) == (mode == "r+")
