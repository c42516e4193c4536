"""Groups that are added to an optimizer in mid-run, and state that is set back to its first values."""

from __future__ import annotations

import copy
import pickle
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

import fastoptim as fo
from cases import Array, assert_same_bits
from models import KINDS, WIDEST, Backend, each_backend, each_dtype, each_kind, leaves, name_of

GRADS = [np.array([0.5, -1.0, 2.0]), np.array([1.0, -0.25]), np.array([3.0, 1.0, -1.0, 0.125])]


def arrays() -> list[Array]:
    return [np.linspace(-1, 1, g.size) for g in GRADS]


def options_of(optimizer: type[fo.Optimizer]) -> dict[str, Any]:
    return {**WIDEST[optimizer].options, "ema": 0.5, "lr": 0.1}


def bytes_of(*trees: Any) -> list[bytes]:
    found = []
    for leaf in leaves(trees):
        found += [array.tobytes() for array in (leaf.values() if isinstance(leaf, dict) else [leaf])]
    return found


@pytest.mark.parametrize("optimizer", [cls for cls in KINDS if not cls.reduces_all], ids=name_of)
@each_backend
def test_an_added_group_steps_as_an_optimizer_of_its_own(optimizer: type[fo.Optimizer], backend: Backend) -> None:
    """And the old groups as if nothing had been added."""
    options = options_of(optimizer)
    p, q = arrays(), arrays()
    opt = optimizer([{"params": p[:1]}, {"params": {"x": p[1]}, "lr": 0.05}], **options, backend=backend)
    alone = [optimizer(q[0], **options), optimizer(q[1], **options | {"lr": 0.05})]
    grads: list[Any] = [[GRADS[0]], {"x": GRADS[1]}]
    for t in range(4):
        if t == 2:
            before = bytes_of(opt.state)
            opt.add_param_group({"params": p[2], "lr": 0.02, "name": "late"})
            assert bytes_of(opt.state)[: len(before)] == before
            alone.append(optimizer(q[2], **options | {"lr": 0.02}))
            grads.append(GRADS[2])
        opt.step(grads)
        for each, g in zip(alone, GRADS, strict=False):
            each.step(g)
    for ours, expected in zip(p, q, strict=True):
        assert_same_bits(ours, expected)
    assert [group.get("name") for group in opt.param_groups] == [None, None, "late"]
    assert bytes_of(opt.state) == bytes_of([each.state for each in alone])


@each_kind
@each_backend
def test_an_optimizer_without_groups_gets_them(optimizer: type[fo.Optimizer], backend: Backend) -> None:
    """It then is the optimizer that was made with groups, whose arrays had no gradient before."""
    options = options_of(optimizer)
    p, q = arrays(), arrays()
    grown = optimizer({"a": p[0], "b": p[1]}, **options, backend=backend)
    for _ in range(9):  # Prodigy's numbers need some to leave their first values
        grown.step({"a": GRADS[0], "b": GRADS[1]})
    grown.add_param_group({"params": [p[2]], "lr": 0.02})
    whole = optimizer([{"params": {"a": q[0], "b": q[1]}}, {"params": [q[2]], "lr": 0.02}], **options, backend=backend)
    for _ in range(9):
        whole.step([{"a": GRADS[0], "b": GRADS[1]}, [None]])
    for _ in range(2):
        for opt in (grown, whole):
            opt.step([{"a": GRADS[0], "b": GRADS[1]}, [GRADS[2]]])
        for ours, expected in zip(p, q, strict=True):
            assert_same_bits(ours, expected)
    saved = grown.state_dict()
    assert [entry["place"] for entry in saved["arrays"]] == ["[0]['a']", "[0]['b']", "[1][0]"]
    whole.load_state_dict(saved)
    for twin in (copy.copy(grown), pickle.loads(pickle.dumps(grown)), whole):
        assert bytes_of(twin.state) == bytes_of(grown.state)
        assert twin.state_dict()["arrays"][2]["steps"] == saved["arrays"][2]["steps"]


def test_options_that_a_new_group_lacks_are_the_constructor_s() -> None:
    p = arrays()
    opt = fo.Adam([{"params": p[0], "lr": 0.5}], lr=0.25, betas=(0.5, 0.5))
    opt.lr = 0.125
    opt.add_param_group({"params": p[1]})
    assert (opt.param_groups[1]["lr"], opt.param_groups[1]["betas"]) == (0.25, (0.5, 0.5))


@each_backend
@pytest.mark.parametrize(
    ("group", "error", "words"),
    [
        ({"lr": 0.1}, TypeError, "param_group: expected a dict with 'params'"),
        ({"params": []}, ValueError, "param_group: expected at least one array, got none"),
        ([1], TypeError, "param_group: expected a dict with 'params', got a list"),
        ({"params": np.ones(2), "lr": -1}, ValueError, "params[1]: lr"),
        ({"params": np.ones(2), "momentun": 0.1}, TypeError, "params[1]: momentun: not an option"),
        ({"params": {"x": np.ones(2, int)}}, TypeError, "params[1]['params']['x']"),
        ({"params": np.ones(2), "norm_type": 1}, ValueError, "params[1]: norm_type"),
        ({"params": "ours"}, ValueError, "params[1]['params']"),
        ({"params": {1: np.ones(2), np.str_: np.ones(2), "ours": "view"}}, ValueError, "params[1]['params']['ours']"),
    ],
)
def test_a_refused_group_changes_nothing(backend: Backend, group: Any, error: type[Exception], words: str) -> None:
    p = arrays()[0]
    opt = fo.SGD({"w": p}, momentum=0.9, clip_global_norm=1.0, backend=backend)
    opt.step({"w": GRADS[0]})
    if isinstance(group, dict):
        params = group.get("params")
        replaced = p if isinstance(params, str) else params
        if isinstance(params, dict) and "ours" in params:
            replaced = params | {"ours": p[1:]}
        group = {**group, **({} if params is None else {"params": replaced})}
    before = bytes_of(p, opt.state)
    with pytest.raises(error) as raised:
        opt.add_param_group(group)
    assert words in str(raised.value)
    assert (len(opt.param_groups), opt.step_count, bytes_of(p, opt.state)) == (1, 1, before)
    opt.step({"w": GRADS[0]})


def test_groups_are_not_changed_while_the_parameters_are_swapped() -> None:
    p = arrays()
    opt = fo.SGD(p[0], ema=0.5)
    changes: list[Callable[[], None]] = [lambda: opt.add_param_group({"params": p[1]}), opt.zero_state]
    for change in changes:
        with opt.averaged(), pytest.raises(RuntimeError, match="averaged: expected its block to have ended"):
            change()


def test_an_array_of_a_new_group_that_is_replaced_is_noticed() -> None:
    p = arrays()
    opt = fo.SGD({"w": p[0]})
    added = {"x": p[1]}
    opt.add_param_group({"params": added})
    opt.step([{"w": GRADS[0]}, {"x": GRADS[1]}])
    added["x"] = added["x"] - 1
    with pytest.raises(ValueError, match=r"params\[1\]\['params'\]\['x'\]: expected the array that the optimizer"):
        opt.step([{"w": GRADS[0]}, {"x": GRADS[1]}])


def test_early_stopping_restores_the_arrays_of_its_time() -> None:
    p = arrays()
    opt = fo.SGD([{"params": p[0]}])
    stopping = fo.EarlyStopping(opt)
    stopping.update(1.0)
    best = p[0].copy()
    opt.add_param_group({"params": p[1]})
    opt.step(GRADS[:2])
    late = p[1].copy()
    stopping.restore()
    assert_same_bits(p[0], best)
    assert_same_bits(p[1], late)


@each_kind
@each_backend
@each_dtype
def test_zero_state_continues_as_a_new_optimizer(
    optimizer: type[fo.Optimizer], backend: Backend, dtype: np.dtype[Any]
) -> None:
    options = options_of(optimizer)
    p = [array.astype(dtype) for array in arrays()]
    opt = optimizer(p, **options, backend=backend)
    live = [array for leaf in leaves(opt.state) for array in leaf.values()]
    for t in range(3):
        opt.step([GRADS[0], None if t == 1 else GRADS[1], GRADS[2]])
    opt.zero_state()
    assert opt.step_count == 0
    q = [array.copy() for array in p]
    new = optimizer(q, **options, backend=backend)
    assert bytes_of(opt.state) == bytes_of(new.state) == [array.tobytes() for array in live]
    for _ in range(2):
        opt.step(GRADS)
        new.step(GRADS)
    assert bytes_of(p, opt.state) == bytes_of(q, new.state)
