"""Arrays that the caller's containers no longer hold: the next step notices that it would train a detached array."""

from __future__ import annotations

import copy
import gc
import pickle
import weakref
from collections import OrderedDict
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

import fastoptim as fo
from cases import Array
from loops import loop
from models import each_backend, every_optimizer

Rebind = Callable[[Any], None]


def numbers() -> Array:
    return np.ones(3)


# A place, the parameters, and how they are rebound there
PLACES: dict[str, tuple[Callable[[], Any], Rebind]] = {
    "params['w']": (lambda: {"w": numbers(), "b": numbers()}, lambda tree: tree.update(w=tree["w"] - 0.1)),
    "params['b']": (lambda: OrderedDict(w=numbers(), b=numbers()), lambda tree: tree.update(b=np.zeros(3))),
    "params[1]": (lambda: [numbers(), numbers()], lambda tree: tree.__setitem__(1, tree[1] * 2)),
    "params['layers'][0]['w']": (
        lambda: {"layers": [{"w": numbers()}, {"w": numbers()}]},
        lambda tree: tree["layers"][0].update(w=np.ones(4)),
    ),
    "params['a']['w']": (lambda: {"a": {"w": numbers()}}, lambda tree: tree.update(a={"w": numbers()})),
    "params[0]['w']": (lambda: ({"w": numbers()}, numbers()), lambda tree: tree[0].update(w=3.0)),
    "params[1]['params']": (
        lambda: [{"params": {"w": numbers()}}, {"params": numbers(), "lr": 0.5}],
        lambda tree: tree[1].update(params=numbers()),
    ),
    "params[0]['params']['w']": (
        lambda: [{"params": {"w": numbers()}}, {"params": numbers(), "lr": 0.5}],
        lambda tree: tree[0]["params"].update(w=numbers()),
    ),
}


def grads_of(opt: fo.Optimizer) -> Any:
    return copy.deepcopy(opt.params)


@each_backend
@loop("place", PLACES)
@loop("steps", [0, 1, 3])
def test_a_rebound_array_is_noticed(backend: Any, place: str, steps: int) -> None:
    """At the next step, before anything is written, and at every later one until the array is back."""
    make, rebind = PLACES[place]
    tree = make()
    opt = fo.Adam(tree, backend=backend)
    grads = grads_of(opt)
    for _ in range(steps):
        opt.step(grads)
    before, kept = copy.deepcopy(opt.state_dict()), [p.copy() for p in leaves(opt.params)]
    rebind(tree)
    for _ in range(2):
        with pytest.raises(ValueError, match="expected the array that the optimizer updates") as caught:
            opt.step(grads)
        assert str(caught.value).startswith(f"{place}: ")
        assert f"{place}[...] = value" in str(caught.value)
    assert all(np.array_equal(p, q) for p, q in zip(leaves(opt.params), kept, strict=True))
    np.testing.assert_equal(opt.state_dict(), before)


def leaves(tree: Any) -> list[Any]:
    if isinstance(tree, (dict, list, tuple)):
        return [leaf for value in (tree.values() if isinstance(tree, dict) else tree) for leaf in leaves(value)]
    return [tree]


@each_backend
def test_an_array_that_is_put_back_trains_again(backend: Any) -> None:
    tree = {"w": numbers()}
    w = tree["w"]
    opt = fo.SGD(tree, lr=0.5, backend=backend)
    opt.step({"w": numbers()})
    tree["w"] = w - 1
    with pytest.raises(ValueError, match=r"params\['w'\]"):
        opt.step({"w": numbers()})
    tree["w"] = w
    opt.step({"w": numbers()})
    assert w.tolist() == [0.0] * 3


@every_optimizer
def test_every_optimizer_notices_it(optimizer: type[fo.Optimizer]) -> None:
    tree = {"w": numbers()}
    opt = optimizer(tree)
    for _ in range(3):
        opt.step({"w": numbers()})
    tree["w"] = tree["w"] - 1
    with pytest.raises(ValueError, match=r"params\['w'\]"):
        opt.step({"w": numbers()})


def test_it_is_noticed_with_a_schedule_and_with_absent_gradients() -> None:
    for options, grad in (({"lr": lambda step: 0.1}, numbers()), ({"skip_nonfinite": True}, numbers()), ({}, None)):
        tree = {"w": numbers(), "b": numbers()}
        opt = fo.Adam(tree, **options)
        for _ in range(3):
            opt.step({"w": numbers(), "b": grad})
        tree["w"] = numbers()
        with pytest.raises(ValueError, match=r"params\['w'\]"):
            opt.step({"w": numbers(), "b": grad})


def test_the_optimizer_s_own_containers_are_watched_too() -> None:
    made: Any = fo.SGD({"w": numbers(), "b": [numbers()]})
    for opt in (made, copy.deepcopy(made), pickle.loads(pickle.dumps(made))):
        for _ in range(2):
            opt.step({"w": numbers(), "b": [numbers()]})
        opt.params["b"][0] = numbers()
        with pytest.raises(ValueError, match=r"opt.params\['b'\]\[0\]: expected the array"):
            opt.step({"w": numbers(), "b": [numbers()]})


HARMLESS: dict[str, Rebind] = {
    "cleared": lambda tree: tree.clear(),
    "emptied": lambda tree: tree.update(w=None, layers=None),
    "another entry": lambda tree: tree.update(other=numbers()),
    "another order": lambda tree: tree.update(w=tree.pop("w")),
    "a view": lambda tree: tree.update(w=tree["w"].reshape(3, 1)),
    "exchanged": lambda tree: tree.update(w=tree["layers"][0], layers=[tree["w"]]),
    "removed from a list": lambda tree: tree["layers"].pop(),
    "a list shortened from its beginning": lambda tree: tree["layers"].pop(0),
    "a container replaced": lambda tree: tree.update(layers=tuple(tree["layers"])),
    "assigned in place": lambda tree: tree["w"].__setitem__(..., 5.0),
    "a copy of the dict changed": lambda tree: dict(tree).update(w=numbers()),
}


@each_backend
@loop("change", HARMLESS)
def test_what_is_no_rebinding(backend: Any, change: str) -> None:
    tree = {"w": numbers(), "layers": [numbers(), numbers()]}
    opt = fo.SGD(tree, backend=backend)
    grads = grads_of(opt)
    opt.step(grads)
    HARMLESS[change](tree)
    for _ in range(3):
        opt.step(grads)
    assert opt.step_count == 4


def test_a_cycle_through_the_caller_s_dict_is_collected() -> None:
    tree: dict[str, Any] = {"w": numbers()}
    opt = fo.Adam(tree)
    for _ in range(2):
        opt.step({"w": numbers()})
    tree["opt"] = opt
    alive = weakref.ref(tree["w"])
    del tree, opt
    gc.collect()
    assert alive() is None
