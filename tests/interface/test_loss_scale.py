"""The loss scale of mixed precision: its rule, a loop that needs it, and its checkpoints."""

from __future__ import annotations

import json
import math
import pickle
from typing import Any

import numpy as np
import pytest

import fastoptim as fo
from cases import Array
from loops import loop
from models import Backend, each_backend

Options = dict[str, Any]

OPTIONS: list[Options] = [
    {},
    {"growth_interval": 1},
    {"init_scale": 8.0, "growth_interval": 3},
    {"init_scale": 3.0, "growth_factor": 1.5, "backoff_factor": 0.3, "growth_interval": 2},
    {"init_scale": 1.0, "growth_factor": 1.0, "backoff_factor": 1.0, "growth_interval": 2},
    {"init_scale": 2.0**120, "growth_factor": 16.0, "backoff_factor": 0.5, "growth_interval": 1},
    {"init_scale": 2.0**-120, "growth_factor": 2.0, "backoff_factor": 2.0**-5, "growth_interval": 4},
]
some_options = loop("options", OPTIONS)

LEAST, LARGEST = 2.0**-126, 2.0**126


def outcomes(seed: int, count: int = 200) -> list[bool]:
    rng = np.random.default_rng(seed)
    return [bool(taken) for taken in rng.random(count) < (0.95, 0.7, 0.3)[seed % 3]]


class Naive:
    """GradScaler.update as its documentation has it."""

    def __init__(self, options: Options) -> None:
        given = {"init_scale": 65536.0, "growth_factor": 2.0, "backoff_factor": 0.5, "growth_interval": 2000} | options
        self.scale, self.growth, self.backoff, self.interval = given.values()
        self.unskipped = 0

    def update(self, found_inf: bool) -> None:
        if found_inf:
            self.scale *= self.backoff
            self.unskipped = 0
            return
        self.unskipped += 1
        if self.unskipped == self.interval:
            self.scale *= self.growth
            self.unskipped = 0


@some_options
@loop("seed", range(6))
def test_the_rule(options: Options, seed: int) -> None:
    scaler, naive = fo.LossScaler(**options), Naive(options)
    for i, taken in enumerate(outcomes(seed)):
        assert scaler.update(taken) is None  # type: ignore[func-returns-value]
        naive.update(not taken)
        naive.scale = min(max(naive.scale, LEAST), LARGEST)
        assert float(scaler.scale) == naive.scale, f"update {i}"


@loop("options", [own for own in OPTIONS if own.get("growth_factor") != 1])
@loop("seed", range(3))
def test_the_rule_is_pytorch_s(options: Options, seed: int, torch: Any) -> None:
    theirs = torch.amp.GradScaler("cpu", **options)
    tensor = torch.nn.Parameter(torch.ones(2))
    opt = torch.optim.SGD([tensor], lr=0.0)
    ours = fo.LossScaler(**options)
    for i, taken in enumerate(outcomes(seed, 25 if 1e-9 < float(ours.scale) < 1e9 else 1)):  # theirs has other ends
        theirs.scale(torch.ones(()))
        tensor.grad = torch.tensor([1.0, 1.0 if taken else math.inf])
        theirs.step(opt)
        theirs.update()
        ours.update(taken)
        assert float(ours.scale) == pytest.approx(theirs.get_scale(), rel=1e-5), f"update {i}"


def test_the_defaults_are_pytorch_s(torch: Any) -> None:
    theirs = torch.amp.GradScaler("cpu").state_dict()
    ours = fo.LossScaler().state_dict()
    assert {name: theirs[name] for name in ours if name in theirs} == {k: v for k, v in ours.items() if k in theirs}
    assert {"scale", "growth_factor", "backoff_factor", "growth_interval"} <= theirs.keys()


@loop(("factor", "end"), [("growth_factor", LARGEST), ("backoff_factor", LEAST)])
def test_the_scale_stays_in_its_range(factor: str, end: float) -> None:
    """So that every optimizer takes it, and float32 its reciprocal."""
    scaler = fo.LossScaler(growth_interval=1)
    for _ in range(300):
        scaler.update(factor == "growth_factor")
    assert float(scaler.scale) == end
    assert np.isfinite(np.float32(end))
    assert 0 < np.float32(1 / end) < math.inf
    fo.SGD(np.ones(2, np.float32), grad_scale=scaler.scale).step(np.ones(2))
    scaler.update(factor != "growth_factor")
    assert float(scaler.scale) == end * (0.5 if end > 1 else 2)


def test_the_array_stays_the_same() -> None:
    scaler = fo.LossScaler(8.0, growth_interval=1)
    scale = scaler.scale
    assert scale.shape == ()
    assert scale.dtype == np.float64
    scaler.update(True)
    scaler.load_state_dict({**scaler.state_dict(), "scale": 3.0})
    assert scaler.scale is scale
    assert float(scale) == 3
    assert repr(scaler) == "<LossScaler at 3>"


# ---- refusals


@loop(
    ("options", "error"),
    [
        ({"init_scale": 0.0}, ValueError),
        ({"init_scale": -1.0}, ValueError),
        ({"init_scale": math.inf}, ValueError),
        ({"init_scale": math.nan}, ValueError),
        ({"init_scale": LARGEST * 1.01}, ValueError),
        ({"init_scale": LEAST * 0.99}, ValueError),
        ({"init_scale": "1"}, TypeError),
        ({"init_scale": np.ones(1)}, TypeError),
        ({"growth_factor": 0.99}, ValueError),
        ({"growth_factor": math.inf}, ValueError),
        ({"backoff_factor": 0.0}, ValueError),
        ({"backoff_factor": 1.01}, ValueError),
        ({"backoff_factor": math.nan}, ValueError),
        ({"growth_interval": 0}, ValueError),
        ({"growth_interval": 2.0}, TypeError),
        ({"growth_interval": True}, TypeError),
    ],
)
def test_options_out_of_range(options: Options, error: type[Exception]) -> None:
    with pytest.raises(error, match=f"{next(iter(options))}: expected") as caught:
        fo.LossScaler(**options)
    assert caught.type is error


@loop("taken", [None, 1, 0.0, "True", np.array(True), [True]])
def test_an_outcome_is_true_or_false(taken: Any) -> None:
    """None is what a step returns that cannot be skipped: then a loop is wrong."""
    scaler = fo.LossScaler(growth_interval=1)
    with pytest.raises(TypeError, match="taken: expected True or False, as step returns with skip_nonfinite"):
        scaler.update(taken)
    assert float(scaler.scale) == 65536
    scaler.update(np.True_)  # type: ignore[arg-type]
    assert float(scaler.scale) == 2 * 65536


# ---- checkpoints


@some_options
def test_a_state_dict_continues(options: Options) -> None:
    """Through JSON, from any point between two growths."""
    taken = outcomes(1, 40)
    scaler = fo.LossScaler(**options)
    for at in range(len(taken)):
        fresh = fo.LossScaler(5.0, 3.0, 0.1, 7)
        assert fresh.load_state_dict(json.loads(json.dumps(scaler.state_dict()))) is None  # type: ignore[func-returns-value]
        assert fresh.state_dict() == scaler.state_dict()
        for outcome in taken[at : at + 8]:
            fresh.update(outcome)
        scaler.update(taken[at])
        twin = pickle.loads(pickle.dumps(scaler))
        for outcome in taken[at + 1 : at + 8]:
            twin.update(outcome)
        assert fresh.state_dict() == twin.state_dict()


SPOILT: list[Any] = [
    {"scale": 0.0},
    {"scale": math.nan},
    {"scale": 2.0**127},
    {"scale": "1"},
    {"scale": None},
    {"growth_factor": 0.5},
    {"backoff_factor": 0.0},
    {"growth_interval": 0},
    {"growth_interval": 2.5},
    {"taken": -1},
    {"taken": 4},
    {"taken": 1.0},
    {"taken": True},
    {"_taken": 1},
    {"unknown": 1},
]


@loop("changed", SPOILT)
def test_a_wrong_state_dict_changes_nothing(changed: Options) -> None:
    scaler = fo.LossScaler(8.0, growth_interval=3)
    scaler.update(True)
    before = scaler.state_dict()
    good = fo.LossScaler(32.0, growth_interval=4).state_dict()
    with pytest.raises(ValueError, match="state_dict: "):
        scaler.load_state_dict({**good, **changed})
    assert scaler.state_dict() == before
    scaler.load_state_dict(good)
    assert scaler.state_dict() == good


@loop("thing", [None, [], "scale", {}, {"scale": 1.0}, 1.0])
def test_what_is_no_state_dict_is_rejected(thing: Any) -> None:
    scaler = fo.LossScaler()
    before = scaler.state_dict()
    with pytest.raises(ValueError, match="state_dict: expected a dict with"):
        scaler.load_state_dict(thing)
    assert scaler.state_dict() == before


# ---- mixed precision


class Regression:
    """Logistic regression whose forward and backward pass are in float16, where its gradients are too small to be."""

    def __init__(self) -> None:
        rng = np.random.default_rng(0)
        self.inputs = rng.standard_normal((200, 5)).astype(np.float16)
        self.targets = (self.inputs.astype(np.float64) @ np.array([1, -2, 3, 0.5, -1]) > 0).astype(np.float16)
        self.faint = np.float32(1e-9)  # a factor of the loss

    def gradient(self, w: Array, scale: float) -> Array:
        with np.errstate(over="ignore", invalid="ignore"):
            z = self.inputs @ w.astype(np.float16)
            off = (np.float16(1) / (np.float16(1) + np.exp(-z)) - self.targets) * np.float16(self.faint * scale)
            return np.asarray(off @ self.inputs / np.float16(200), np.float16)

    def errors(self, w: Array) -> int:
        return int(((self.inputs.astype(np.float64) @ w > 0) != (self.targets > 0)).sum())


@each_backend
def test_a_loop_that_needs_a_scale(backend: Backend) -> None:
    """It overflows at first, backs off, learns, and grows again into an overflow and back."""
    task = Regression()
    w = np.zeros(5, np.float32)
    scaler = fo.LossScaler(init_scale=2.0**50, growth_interval=50)
    opt = fo.Adam(w, lr=0.05, eps=1e-12, grad_scale=scaler.scale, skip_nonfinite=True, backend=backend)
    taken = []
    while opt.step_count < 300:
        before = w.tobytes(), opt.step_count
        taken.append(opt.step(task.gradient(w, float(scaler.scale))))
        scaler.update(bool(taken[-1]))
        if not taken[-1]:
            assert (w.tobytes(), opt.step_count) == before
    assert taken[0] is False
    assert not all(taken[taken.index(True) :])  # it grew too far once more
    assert np.isfinite(w).all()
    assert task.errors(w) <= 6


def test_that_loop_learns_nothing_without_one() -> None:
    task = Regression()
    w = np.zeros(5, np.float32)
    opt = fo.Adam(w, lr=0.05, eps=1e-12)
    for _ in range(100):
        opt.step(task.gradient(w, 1.0))
    assert not w.any()
