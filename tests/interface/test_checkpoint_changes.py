"""Checkpoints of something else: of another version, other keys, another schedule, another dtype."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable
from enum import Enum, IntEnum
from typing import Any, NamedTuple

import ml_dtypes
import numpy as np
import pytest

import fastoptim as fo
from cases import DTYPES, PLAIN_CASES, Array, assert_same_bits
from fastoptim.arrays.numpy_family import NumPy
from fastoptim.arrays.tree import key_text
from fastoptim.options.checks import may_be_none
from fastoptim.options.schema import StateArray
from fastoptim.schedules import ReduceOnPlateau, Sequence, Warmup
from fastoptim.schedules.base import stateful_parts
from loops import loop
from models import OPTIMIZERS, WIDEST, Model, every_optimizer, rate

ONES = {"w": np.ones((2, 3), np.float32)}


def stepped(optimizer: type[fo.Optimizer], params: Any = None, **options: Any) -> fo.Optimizer:
    """An optimizer after one step."""
    params = ONES if params is None else params
    opt = optimizer(copy.deepcopy(params), **options)
    opt.step(params)
    return opt


def options_of(opt: fo.Optimizer) -> dict[str, Any]:
    return {k: v for k, v in opt.param_groups[0].items() if k != "params"}


# ---- versions


@every_optimizer
def test_options_that_were_not_saved_have_their_defaults(optimizer: type[fo.Optimizer]) -> None:
    """A checkpoint from before these options has none of them, whatever they are in the optimizer that loads it."""
    opt = stepped(optimizer, lr=0.0625)
    saved = opt.state_dict()
    saved["groups"][0] = {"lr": 0.0625}
    del saved["schedules"]
    fresh = WIDEST[optimizer].optimize(copy.deepcopy(opt.params))
    fresh.load_state_dict(saved)
    assert options_of(fresh) == options_of(opt)
    for each in (opt, fresh):
        each.step(ONES)
    assert_same_bits(fresh.params["w"], opt.params["w"])


@every_optimizer
def test_none_is_saved(optimizer: type[fo.Optimizer]) -> None:
    """The saved value need not be the default."""
    names = [name for name in optimizer.defaults if may_be_none(optimizer.annotations[name])]
    opt: Any = stepped(optimizer, **dict.fromkeys(names))
    saved = opt.state_dict()
    assert {name: saved["groups"][0][name] for name in names} == dict.fromkeys(names, "none")
    fresh = stepped(optimizer)
    fresh.load_state_dict(saved)
    assert options_of(fresh) == options_of(opt)


# ---- keys


class Colour(Enum):
    RED = 1

    def __repr__(self) -> str:
        return f"<{id(self)}>"


class Size(IntEnum):
    SMALL = 3


class Name(str, Enum):
    W = "w"


class Pair(NamedTuple):
    first: Any
    second: Any


class Text(str):
    __slots__ = ()

    def __repr__(self) -> str:
        return "text"


EQUAL_KEYS: list[tuple[Any, ...]] = [
    ("w", np.str_("w"), Name.W, Text("w")),
    (3, np.int64(3), np.uint8(3), 3.0, np.float32(3), np.longdouble(3), Size.SMALL, 3 + 0j),
    (True, np.True_, 1),
    (0.1, np.float64(0.1)),
    (np.float32(0.1), float(np.float32(0.1))),
    (math.inf, np.float32(math.inf)),
    (1j, np.complex64(1j)),
    (b"w", np.bytes_(b"w")),
    ((1, "w"), (np.int64(1), np.str_("w")), Pair(1, "w"), (True, Name.W)),
    ((2,), (np.int8(2),)),
    ((), ()),
    (frozenset({"a", "b", 2}), frozenset({np.int64(2), np.str_("b"), "a"})),
    (None, None),
    (Colour.RED, Colour.RED),
]


@loop("keys", EQUAL_KEYS)
def test_equal_keys_are_one_in_checkpoints(keys: tuple[Any, ...]) -> None:
    saved = stepped(fo.Adam, {keys[0]: np.ones(2), "other": np.zeros(3)}).state_dict()
    for key in keys:
        assert key == keys[0]
        fresh = fo.Adam({"other": np.zeros(3), key: np.ones(2)})
        fresh.load_state_dict(saved)
        assert_same_bits(fresh.state[keys[0]]["m"], saved["arrays"][0]["state"]["m"])


def test_paths_are_as_python_spells_them() -> None:
    keys = ["w", 'a"b', 3, -0.5, (1, "w"), (1,), (), None, b"x"]
    assert [key_text(key) for key in keys] == [repr(key) for key in keys]
    assert len({key_text(keys[0]) for keys in EQUAL_KEYS}) == len(EQUAL_KEYS)
    with pytest.raises(TypeError, match=r"^grads\['w'\]: expected a dict"):
        fo.SGD({np.str_("w"): {"b": np.ones(2)}}).step({"w": np.ones(2)})


# ---- schedules


class Counts:
    """A schedule of a user, whose state is the number of calls; a negative one is refused."""

    def __init__(self) -> None:
        self.calls = [0]

    def __call__(self, step: int) -> float:
        self.calls[0] += 1
        return 0.5 ** self.calls[0]

    def state_dict(self) -> dict[str, Any]:
        return {"calls": self.calls}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self.calls[:] = state_dict["calls"]
        if self.calls[0] < 0:
            raise OverflowError


def plateau() -> ReduceOnPlateau:
    return ReduceOnPlateau(0.5, patience=0)


STATEFUL: list[Callable[[], Any]] = [
    Counts,
    plateau,
    lambda: Warmup(plateau(), 2),
    lambda: Sequence([0.1, Counts(), rate, Warmup(plateau(), 1)], [1, 2, 3]),
]


@loop("make", STATEFUL)
def test_the_state_of_a_schedule_is_saved(make: Callable[[], Any]) -> None:
    lr = make()
    opt = fo.Adam(np.ones(3), lr=lr)
    for metric in (1.0, 2.0):
        opt.step(np.ones(3))
        for part in stateful_parts(lr):
            if isinstance(part, ReduceOnPlateau):
                part.update(metric)
    saved = opt.state_dict()
    kept = copy.deepcopy(saved)
    fresh = fo.Adam(opt.params.copy(), lr=make())
    opt.step(np.ones(3))
    assert saved["schedules"] == kept["schedules"]
    fresh.load_state_dict(saved)
    fresh.step(np.ones(3))
    for each in (opt, fresh):
        for _ in range(2):
            each.step(np.ones(3))
    assert_same_bits(fresh.params, opt.params)
    assert fresh.state_dict()["schedules"] == opt.state_dict()["schedules"]


def test_a_schedule_without_state_stays_as_it_is() -> None:
    """Whatever the schedule of the saved optimizer was."""
    kept = plateau()
    for saved_lr, lr in ((plateau(), rate), (plateau(), 0.25), (rate, kept), (rate, Warmup(rate, 2))):
        fresh: Any = fo.SGD(np.ones(3), lr=lr)
        fresh.load_state_dict(fo.SGD(np.ones(3), lr=saved_lr).state_dict())
        assert fresh.lr == lr
    assert kept.rate == 0.5


@loop("states", [[{"calls": [-1]}], [{}], [], None, {}, [{"calls": [1]}] * 2])
def test_a_state_that_a_schedule_refuses(states: Any) -> None:
    """The schedules before it have their state back, and the optimizer has not changed."""
    schedules = [Counts(), Counts()]
    params = [np.ones(3), np.ones(3)]
    opt = fo.Adam([{"params": p, "lr": lr} for p, lr in zip(params, schedules, strict=True)])
    opt.step(copy.deepcopy(params))
    before = opt.state_dict()
    saved = copy.deepcopy(before)
    saved.update(step_count=9, schedules=[[{"calls": [7]}], states])
    if states == []:  # none was saved
        opt.load_state_dict(saved)
        assert [schedule.calls for schedule in schedules] == [[7], [1]]
        return
    with pytest.raises((OverflowError, KeyError, ValueError)):
        opt.load_state_dict(saved)
    assert [schedule.calls for schedule in schedules] == [[1], [1]]
    assert opt.step_count == 1


# ---- dtypes


@every_optimizer
def test_another_dtype_is_converted_where_it_is_asked_for(optimizer: type[fo.Optimizer]) -> None:
    case = WIDEST[optimizer]
    for saved_dtype in DTYPES:
        opt = case.optimize({"w": np.full((2, 3), 0.3, saved_dtype)})
        opt.step({"w": np.full((2, 3), 0.7, np.float32)})
        saved = opt.state_dict()
        for dtype in DTYPES:
            fresh = case.optimize({"w": np.full((2, 3), 0.3, dtype)})
            if dtype != saved_dtype:
                with pytest.raises(ValueError, match=r"'w'.*expected .*got .*; load_state_dict with convert=True"):
                    fresh.load_state_dict(saved)
            fresh.load_state_dict(saved, convert=True)
            for name, array in saved["arrays"][0]["state"].items():
                own = fresh.state["w"][name]
                assert_same_bits(own, array.astype(own.dtype))
            fresh.step({"w": np.ones((2, 3), dtype)})


class AdamInBfloat16(fo.Adam):
    """Adam with its first moment in bfloat16; without a name of its own it is not registered."""

    state_schema = {"m": StateArray(format="bfloat16")}


def test_a_state_format_is_converted_where_it_is_asked_for() -> None:
    p = np.ones(3)
    value = 1 + 2.0**-8 + 2.0**-40  # rounded to float32 first, it would be a tie
    saved = stepped(fo.Adam, p).state_dict()
    saved["arrays"][0]["state"]["m"][...] = [value, math.nan, -math.inf]
    narrow = AdamInBfloat16(p)
    with pytest.raises(
        ValueError, match=r"expected 'm' as bfloat16 .*got float64 .*; load_state_dict with convert=True"
    ):
        narrow.load_state_dict(saved)
    narrow.load_state_dict(saved, convert=True)
    expected = np.array([1 + 2.0**-7, math.nan, -math.inf], ml_dtypes.bfloat16)
    assert_same_bits(narrow.state["m"], expected)
    back = fo.Adam(p)
    with pytest.raises(ValueError, match=r"expected 'm' in state_format 'native', got 'bfloat16'; load"):
        back.load_state_dict(narrow.state_dict())
    back.load_state_dict(narrow.state_dict(), convert=True)
    assert_same_bits(back.state["m"], expected.astype(np.float64))


@loop(
    ("spoil", "word"),
    [
        (lambda a: a * 1e300 * 1e9, "range of float32"),
        (lambda a: a.astype(np.int64), "int64"),
        (lambda a: a.astype(">f8"), ">f8"),
        (lambda a: a[:2], "(2,)"),
        (lambda a: None, "NoneType"),
    ],
)
def test_what_cannot_be_converted(spoil: Callable[[Array], Any], word: str) -> None:
    saved = stepped(fo.Adam, np.ones(3)).state_dict()
    state = saved["arrays"][0]["state"]
    state["v"] = spoil(state["v"])
    fresh = fo.Adam(np.ones(3, np.float32))
    with pytest.raises(ValueError, match="expected 'v'") as caught:
        fresh.load_state_dict(saved, convert=True)
    assert word in str(caught.value)
    assert "convert=True" not in str(caught.value)
    assert not fresh.state["m"].any()
    with pytest.raises(TypeError, match=r"^convert: expected True or False"):
        fresh.load_state_dict(saved, convert=1)  # type: ignore[arg-type]


# ---- nothing is half done


@pytest.mark.parametrize("optimizer", [cls for cls in OPTIMIZERS if len(cls.variants) > 1])
def test_memory_that_runs_out_while_loading(optimizer: type[fo.Optimizer], monkeypatch: pytest.MonkeyPatch) -> None:
    """At each of the allocations; nothing has changed."""
    narrowest = min((c for c in PLAIN_CASES if c.optimizer is optimizer), key=lambda case: len(case.state))
    model = Model(optimizer, "native")
    saved = copy.deepcopy(model.opt.state_dict())
    saved["groups"][0]["lr"] = 0.125
    for array in (array for entry in saved["arrays"] for array in entry["state"].values()):
        array[...] = 0.75
    model.opt = narrowest.optimize(model.params)
    model.step()
    zeros, left = NumPy.zeros, 0

    def scarce(self: NumPy, *args: Any) -> Any:
        nonlocal left
        left -= 1
        if left < 0:
            raise MemoryError
        return zeros(self, *args)

    monkeypatch.setattr(NumPy, "zeros", scarce)
    news = sum(not optimizer.state_schema[name].is_scalar for name in set(WIDEST[optimizer].state) - {*narrowest.state})
    for first in range(3 * news):
        left = 10**9
        with model.refuses(MemoryError):
            left = first
            model.opt.load_state_dict(saved)
    left = 3 * news
    model.opt.load_state_dict(saved)
    assert model.opt.lr == 0.125


def test_state_that_cannot_be_written() -> None:
    """A read-only memory map has such arrays."""
    model = Model(fo.Adam, "native")
    saved = stepped(fo.Adam, model.params, lr=0.125).state_dict()
    model.opt.param_states[-1].state["v"].flags.writeable = False
    with model.refuses(ValueError, "state['w2']['v']: expected a writeable array, got a read-only one"):
        model.opt.load_state_dict(saved)
