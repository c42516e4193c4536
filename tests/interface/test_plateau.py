"""ReduceOnPlateau: the rates that metrics lead to, compared with PyTorch's; its checkpoints and copies."""

from __future__ import annotations

import copy
import json
import math
import pickle
from collections.abc import Callable, Iterable, Iterator
from typing import Any

import numpy as np
import pytest

import fastoptim as fo
from fastoptim.schedules import ReduceOnPlateau
from loops import loop

STEPS = 300
STATE = ["rate", "best", "num_bad_epochs", "cooldown_counter"]


def state(schedule: ReduceOnPlateau) -> list[float]:
    return [getattr(schedule, name) for name in STATE]


def fed(schedule: ReduceOnPlateau, metrics: Iterable[float]) -> Iterator[float]:
    for metric in metrics:
        schedule.update(metric)
        yield schedule(0)


@loop(("options", "metrics", "rates"), [
        ({"patience": 0}, [5, 4, 4, 3, 3], [1, 1, 0.5, 0.5, 0.25]),
        ({"patience": 1}, [5, 5, 5, 5, 5], [1, 1, 0.5, 0.5, 0.25]),
        ({"patience": 2}, [5, 5, 5, 4, 5, 5, 5], [1, 1, 1, 1, 1, 1, 0.5]),
        ({"patience": 0, "mode": "max"}, [5, 6, 6, 7, 5], [1, 1, 0.5, 0.5, 0.25]),
        ({"patience": 0, "cooldown": 2}, [5, 5, 5, 5, 5], [1, 0.5, 0.5, 0.5, 0.25]),
        ({"patience": 0, "threshold": 0.5}, [8, 4, 1.9, 0.94], [1, 0.5, 0.5, 0.5]),
        ({"patience": 0, "threshold": 0.5, "mode": "max"}, [2, 3, 3.1, 5], [1, 0.5, 0.5, 0.5]),
        ({"patience": 0, "threshold": 1, "threshold_mode": "abs"}, [8, 7, 6.5, 5.5, 5], [1, 0.5, 0.5, 0.25, 0.25]),
        ({"patience": 0, "threshold": 1, "threshold_mode": "abs", "mode": "max"}, [1, 2, 2.5], [1, 0.5, 0.5]),
        ({"patience": 0, "min_lr": 0.4}, [1, 1, 1, 1], [1, 0.5, 0.4, 0.4]),
        ({"patience": 0, "eps": 0.25}, [1, 1, 1, 1], [1, 0.5, 0.5, 0.5]),
        ({"patience": 0, "min_lr": 2}, [1, 1], [1, 1]),
        ({"patience": 0, "factor": 0}, [1, 1], [1, 0]),
        ({"patience": 0}, [math.nan, 1, math.nan, 0.5], [0.5, 0.5, 0.25, 0.25]),
    ])  # fmt: skip
def test_a_plateau_reduces_the_rate(options: dict[str, Any], metrics: list[float], rates: list[float]) -> None:
    assert list(fed(ReduceOnPlateau(1, **{"factor": 0.5, **options}), metrics)) == rates


PLATEAUS: list[dict[str, Any]] = [
    {},
    {"patience": 2},
    {"mode": "max", "patience": 0, "factor": 0.7},
    {"patience": 3, "threshold": 0.05, "cooldown": 4, "factor": 0.9},
    {"patience": 1, "threshold": 0.05, "threshold_mode": "abs", "min_lr": 1e-3, "factor": 0.5},
    {"mode": "max", "patience": 2, "threshold": 0.1, "threshold_mode": "abs", "cooldown": 1, "eps": 1e-3},
    {"mode": "max", "patience": 2, "threshold": 0.01, "factor": 0.9, "min_lr": 0.05},
    {"threshold": 1.5, "patience": 4, "factor": 0},
]


def metrics(seed: int) -> list[float]:
    """A walk up and down, with some values that are no numbers and some that are infinite."""
    rng = np.random.default_rng(seed)
    walk = 3 + np.cumsum(rng.standard_normal(STEPS) / 20) + rng.standard_normal(STEPS) / 50
    walk[rng.random(STEPS) < 0.05] = math.nan
    walk[rng.integers(STEPS // 2, STEPS, 2)] = [math.inf, -math.inf]
    return [float(metric) for metric in walk]


each_plateau = loop("options", PLATEAUS)


@each_plateau
@loop("seed", range(4))
def test_a_plateau_is_torchs(options: dict[str, Any], seed: int, torch: Any) -> None:
    opt = torch.optim.SGD([torch.zeros(1, requires_grad=True)], lr=0.1)
    theirs = torch.optim.lr_scheduler.ReduceLROnPlateau(opt, **options)
    ours = ReduceOnPlateau(0.1, **options)
    for metric in metrics(seed):
        ours.update(metric)
        theirs.step(metric)
        assert state(ours) == [opt.param_groups[0]["lr"], theirs.best, theirs.num_bad_epochs, theirs.cooldown_counter]


@each_plateau
@loop("through", [dict, lambda saved: json.loads(json.dumps(saved)), copy.deepcopy])
def test_a_plateau_continues_from_a_checkpoint(options: dict[str, Any], through: Callable[[Any], Any]) -> None:
    schedule, values = ReduceOnPlateau(0.1, **options), metrics(7)
    list(fed(schedule, values[:151]))
    fresh = ReduceOnPlateau(0.9, mode="max")
    fresh.load_state_dict(through(schedule.state_dict()))
    assert list(fed(fresh, values[151:])) == list(fed(schedule, values[151:]))
    assert fresh.state_dict() == schedule.state_dict()
    assert repr(fresh) == repr(schedule)


@each_plateau
@loop("through", [lambda s: pickle.loads(pickle.dumps(s)), copy.copy, copy.deepcopy])
def test_copies_of_a_plateau_continue_by_themselves(options: dict[str, Any], through: Callable[[Any], Any]) -> None:
    schedule, values = ReduceOnPlateau(0.1, **options), metrics(8)
    list(fed(schedule, values[:150]))
    copied, before = through(schedule), state(schedule)
    rates = list(fed(copied, values[150:]))
    assert state(schedule) == before
    assert list(fed(schedule, values[150:])) == rates


def test_a_saved_state_is_a_copy() -> None:
    schedule = ReduceOnPlateau(0.1, patience=0)
    saved = schedule.state_dict()
    schedule.update(1)
    schedule.update(1)
    assert saved["rate"] == 0.1
    schedule.load_state_dict(saved)
    assert state(schedule) == [0.1, math.inf, 0, 0]


@loop("metric", ["1", None, True, 1j, [1.0], np.array(1.0), np.array([1.0])])
def test_what_is_no_number_is_no_metric(metric: Any) -> None:
    schedule = ReduceOnPlateau(0.1, patience=0)
    schedule.update(1)
    before = state(schedule)
    with pytest.raises(TypeError, match=r"^metric: expected a number, got "):
        schedule.update(metric)
    assert state(schedule) == before


@loop("metric", [np.float32(0.5), np.int64(0), 10**400, -(10**400)])
def test_any_number_is_a_metric(metric: Any) -> None:
    schedule = ReduceOnPlateau(0.1, patience=0)
    schedule.update(1)
    schedule.update(metric)
    assert schedule.rate == (0.1 if metric < 1 else 0.1 * 0.1)
    assert type(schedule.best) is float


NUMBERS = ["lr", "factor", "patience", "threshold", "cooldown", "min_lr", "eps"]
BAD_ENTRIES: list[tuple[str, Any, type[Exception]]] = [
    ("version", 2, ValueError),
    ("version", None, ValueError),
    ("schedule", "Cosine", ValueError),
    *((name, "x", TypeError) for name in (*NUMBERS, *STATE)),
    *((name, -1, ValueError) for name in NUMBERS),
    *((name, -1, ValueError) for name in ("rate", "num_bad_epochs", "cooldown_counter")),
    ("mode", "MIN", ValueError),
    ("threshold_mode", "none", ValueError),
    ("rate", 0.11, ValueError),
    ("rate", math.nan, ValueError),
    ("best", math.nan, ValueError),
    ("best", None, TypeError),
    ("num_bad_epochs", 4, ValueError),
    ("num_bad_epochs", 1.0, TypeError),
    ("cooldown_counter", 3, ValueError),
]


@loop(("name", "value", "error"), BAD_ENTRIES)
def test_a_wrong_state_is_rejected_whole(name: str, value: Any, error: type[Exception]) -> None:
    other = ReduceOnPlateau(0.1, mode="max", patience=3, cooldown=2)
    list(fed(other, [3, 2, 1]))
    schedule = ReduceOnPlateau(0.5)
    schedule.update(1)
    before = schedule.state_dict()
    with pytest.raises(error, match=rf"^state_dict\['{name}'\]: expected ") as caught:
        schedule.load_state_dict({**other.state_dict(), name: value})
    assert caught.type is error
    assert schedule.state_dict() == before


def test_states_of_another_make_are_rejected() -> None:
    schedule = ReduceOnPlateau(0.5)
    saved = schedule.state_dict()
    for name in saved:
        with pytest.raises(ValueError, match=r"^state_dict: expected the keys .*, got "):
            schedule.load_state_dict({k: v for k, v in saved.items() if k != name})
    with pytest.raises(ValueError, match=r"^state_dict: expected the keys .*, got "):
        schedule.load_state_dict({**saved, "more": 1})
    things: list[Any] = [None, 1, [], "state"]
    for thing in things:
        with pytest.raises(TypeError, match=r"^state_dict: expected a dict, got "):
            schedule.load_state_dict(thing)
    assert schedule.state_dict() == saved


def test_an_optimizer_rejects_a_wrong_state_of_its_schedule_as_a_wrong_state_dict() -> None:
    opt = fo.SGD(np.zeros(1), lr=ReduceOnPlateau(0.5))
    saved = opt.state_dict()
    saved["schedules"][0][0]["eps"] = [0, 2]
    with pytest.raises(ValueError, match=r"^state_dict\['schedules'\]: state_dict\['eps'\]: expected a number >= 0"):
        opt.load_state_dict(saved)


def test_plateaus_compare_by_identity() -> None:
    """So that an optimizer notices when one is put in the place of another."""
    first, second = ReduceOnPlateau(0.5), ReduceOnPlateau(0.5)
    assert first == first
    assert first != second
    p = np.zeros(1)
    opt = fo.SGD(p, lr=first)
    opt.step(np.ones(1))
    opt.lr = second
    vars(second).update(rate=0.25)
    opt.step(np.ones(1))
    assert p.tolist() == [-0.75]
