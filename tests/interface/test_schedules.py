"""Learning-rate schedules: their values compared with PyTorch and with formulas, checkpoints, rejected options."""

from __future__ import annotations

import copy
import inspect
import itertools
import math
import pickle
import random
from collections.abc import Callable, Iterable, Iterator
from dataclasses import FrozenInstanceError, replace
from typing import Any, NamedTuple

import numpy as np
import pytest

import fastoptim as fo
from fastoptim.schedules import (
    REX,
    Constant,
    Cosine,
    CosineWarmRestarts,
    Cyclic,
    Exponential,
    InverseSqrt,
    InverseTime,
    Linear,
    MultiStep,
    NaturalExponential,
    OneCycle,
    OneMinusPower,
    PiecewiseConstant,
    Polynomial,
    Product,
    ReduceOnPlateau,
    Schedule,
    Sequence,
    Step,
    Warmup,
)
from loops import loop

STEPS = 300
LAST = 2**63 - 1  # the last step that a schedule takes

SCHEDULES: list[Any] = [
    cls for cls in vars(fo.schedules).values() if isinstance(cls, type) and issubclass(cls, Schedule)
]
SCHEDULES.remove(Schedule)

Formula = Callable[[int], float]


# ---- every schedule with its values, written down in another way than in the package


class Case(NamedTuple):
    """A schedule, its formula, and whether torch's scheduler of that kind takes these options."""

    schedule: Any
    formula: Formula
    torch: bool = True


def listed(rates: Iterable[float]) -> Formula:
    """Rates in their order, as a function of the step."""
    return list(itertools.islice(rates, STEPS)).__getitem__


def joined(*points: tuple[float, float]) -> Formula:
    """Straight lines between points, level outside."""
    x, y = zip(*points, strict=True)
    return lambda step: float(np.interp(step, x, y))


def staircase(lr: float, factor: float, length: int) -> Iterator[float]:
    while True:
        yield from [lr] * length
        lr *= factor


def restarts(lr: float, length: int, times: int, low: float, shrink: float = 1) -> Iterator[float]:
    height = lr - low
    while True:
        for t in range(length):
            yield low + height * math.cos(math.pi / 2 * t / length) ** 2
        length *= times
        height *= shrink


def cycles(up: int, down: int, amplitude: Callable[[int, int], float]) -> Iterator[float]:
    """From 0.01 to at most 0.1 and back; the amplitude depends on the cycle and the step."""
    steps = itertools.count()
    for cycle in itertools.count():
        for height in [t / up for t in range(up)] + [1 - t / down for t in range(down)]:
            yield 0.01 + 0.09 * height * amplitude(cycle, next(steps))


def eased(*points: tuple[float, float]) -> Formula:
    """Half periods of the cosine between points, level outside."""
    x, y = zip(*points, strict=True)

    def rate(step: int) -> float:
        place = float(np.interp(step, x, np.arange(len(x))))
        i = min(int(place), len(x) - 2)
        return float(y[i] + (y[i + 1] - y[i]) * math.sin(math.pi / 2 * (place - i)) ** 2)

    return rate


WARM = 40
TRANSFORMER = Warmup(InverseSqrt(512**-0.5 * WARM**-0.5, WARM), WARM)

CASES = [
    Case(Constant(0.1), lambda step: 0.1),
    Case(Step(0.1, 30), listed(staircase(0.1, 0.1, 30))),
    Case(Step(0.1, step_size=7, gamma=0.97), listed(staircase(0.1, 0.97, 7))),
    Case(MultiStep(0.1, [30, 80, 81]), joined((29, 0.1), (30, 0.01), (79, 0.01), (80, 1e-3), (81, 1e-4))),
    Case(MultiStep(0.1, milestones=(1, 200), gamma=2), joined((0, 0.1), (1, 0.2), (199, 0.2), (200, 0.4))),
    Case(MultiStep(0.1, []), lambda step: 0.1),
    Case(PiecewiseConstant(0.1, [5, 100], [0.5, 0.1]), joined((4, 0.1), (5, 0.05), (99, 0.05), (100, 0.005))),
    Case(PiecewiseConstant(0.02, boundaries=[50], scales=[5]), joined((49, 0.02), (50, 0.1))),
    Case(Exponential(0.1, gamma=0.95), listed(staircase(0.1, 0.95, 1))),
    Case(Exponential(1e-5, 1.02), lambda step: 1e-5 * math.exp(step * math.log(1.02))),
    Case(Exponential(0.1, 0.95, end_value=0.02), lambda step: max(0.1 * 0.95**step, 0.02), torch=False),
    Case(Exponential(0.1, 1.05, end_value=0.5), lambda step: min(0.1 * 1.05**step, 0.5), torch=False),
    Case(NaturalExponential(0.1, 0.03), listed(staircase(0.1, math.exp(-0.03), 1))),
    Case(NaturalExponential(0.1, decay_rate=2, transition_steps=100), lambda step: 0.1 / math.exp(2) ** (step / 100)),
    Case(InverseTime(0.1, 0.5), lambda step: 0.2 / (2 + step)),
    Case(InverseTime(0.1, decay_rate=3, transition_steps=10), lambda step: 1 / (10 + 3 * step)),
    Case(InverseSqrt(0.1), lambda step: 0.1 * (1 + step) ** -0.5),
    Case(InverseSqrt(0.1, transition_steps=40), lambda step: 0.1 * (40 / (40 + step)) ** 0.5),
    Case(Polynomial(0.1), joined((0, 0.1), (5, 0))),
    Case(Polynomial(0.1, 200, 2.5), lambda step: 0.1 * max(0, 200 - step) ** 2.5 / 200**2.5),
    Case(Polynomial(0.1, 100, 2, end_value=0.04), lambda step: 0.04 + 6e-6 * max(0, 100 - step) ** 2, torch=False),
    Case(
        Polynomial(0.1, 70, 2, 0.01, cycle=True),
        lambda step: 0.01 + 0.09 * (1 - step / (70 * max(1, math.ceil(step / 70)))) ** 2,
        torch=False,
    ),
    Case(OneMinusPower(0.1, 80), lambda step: 0.1 * (1 - math.sqrt(min(step / 80, 1)))),
    Case(OneMinusPower(0.1, 80, 2, end_value=0.02), lambda step: 0.1 - 0.08 * min(step / 80, 1) ** 2),
    Case(REX(0.1, 200), lambda step: 0.1 * (1 - min(step / 200, 1)) / (0.5 + 0.5 * (1 - min(step / 200, 1)))),
    Case(Linear(0.1), joined((0, 0.1 / 3), (5, 0.1))),
    Case(Linear(0.1, 0.9, 0.0, 150), joined((0, 0.09), (150, 0))),
    Case(Linear(0.1, start_factor=0, end_factor=2, total_iters=10), joined((0, 0), (10, 0.2)), torch=False),
    Case(Cosine(0.1, 200), eased((0, 0.1), (200, 0))),
    Case(Cosine(0.1, T_max=90, eta_min=0.02), eased((0, 0.1), (90, 0.02))),
    Case(
        Cosine(0.1, 90, 0.02, power=1.5),
        lambda step: 0.02 + 0.08 * math.cos(math.pi / 180 * min(step, 90)) ** 3,
        torch=False,
    ),
    Case(Cosine(0.1, 40, 0.02, cycle=True), lambda step: 0.06 + 0.04 * math.cos(math.pi * step / 40)),
    Case(CosineWarmRestarts(0.1, 50), listed(restarts(0.1, 50, 1, 0))),
    Case(CosineWarmRestarts(0.1, T_0=7, T_mult=3, eta_min=0.01), listed(restarts(0.1, 7, 3, 0.01))),
    Case(CosineWarmRestarts(0.1, 1, 2), listed(restarts(0.1, 1, 2, 0))),
    Case(CosineWarmRestarts(0.1, 7, 2, 0.01, 0.5), listed(restarts(0.1, 7, 2, 0.01, 0.5)), torch=False),
    Case(CosineWarmRestarts(0.1, 9, amplitude_mult=0.5), listed(restarts(0.1, 9, 1, 0, 0.5)), torch=False),
    Case(Cyclic(0.01, 0.1), joined((0, 0.01), (2000, 0.1))),
    Case(Cyclic(0.01, 0.1, 20, 30), listed(cycles(20, 30, lambda cycle, step: 1))),
    Case(Cyclic(0.01, 0.1, 25, mode="triangular2"), listed(cycles(25, 25, lambda cycle, step: 2.0**-cycle))),
    Case(Cyclic(0.01, 0.1, 40, 9, "exp_range", 0.99), listed(cycles(40, 9, lambda cycle, step: 0.99**step))),
    Case(OneCycle(1.0, 250), eased((0, 0.04), (74, 1), (249, 4e-6))),
    Case(OneCycle(1.0, 200, 0.25, "linear", 10, 100), joined((0, 0.1), (49, 1), (199, 1e-3))),
    Case(OneCycle(1.0, 101, three_phase=True), eased((0, 0.04), (29.3, 1), (58.6, 0.04), (100, 4e-6))),
    Case(
        OneCycle(1.0, 200, pct_start=0.4, anneal_strategy="linear", three_phase=True),
        joined((0, 0.04), (79, 1), (158, 0.04), (199, 4e-6)),
    ),
    Case(OneCycle(1.0, 100, pct_start=0.0), eased((-1, 1), (99, 4e-6))),
    Case(OneCycle(1.0, 100, pct_start=1), eased((0, 0.04), (99, 1))),
    Case(OneCycle(1.0, 100, pct_start=0.01), eased((0, 1), (99, 4e-6)), torch=False),  # which divides by zero
    Case(OneCycle(1.0, 1), lambda step: 4e-6),
    Case(Warmup(0.1, 10), joined((0, 0), (10, 0.1))),
    Case(Warmup(0.1, 0), lambda step: 0.1),
    Case(Warmup(Polynomial(0.1, 50), warmup_steps=20, init_value=0.05), joined((0, 0.05), (20, 0.1), (70, 0))),
    Case(TRANSFORMER, lambda step: 512**-0.5 * min((step or 1) ** -0.5, step * WARM**-1.5)),
    Case(Sequence([0.3], []), lambda step: 0.3),
    Case(
        Sequence([0.2, Polynomial(0.1, 10), lambda step: 1 / (2 + step)], boundaries=[4, 30]),
        lambda step: 0.2 if step < 4 else max(0, 0.1 - (step - 4) / 100) if step < 30 else 1 / (step - 28),
    ),
    Case(Product([0.1, Step(1, 30), lambda step: step / 7]), lambda step: 0.1 * 0.1 ** (step // 30) * step / 7),
    Case(ReduceOnPlateau(0.1), lambda step: 0.1),
]


every_case = loop("case", CASES)
PURE_CASES = [case for case in CASES if type(case.schedule) is not ReduceOnPlateau]


def from_repr(schedule: Any) -> Any:
    return eval(repr(schedule), vars(fo.schedules))


TORCH_NAMES: dict[Any, str] = {
    Step: "StepLR",
    MultiStep: "MultiStepLR",
    Exponential: "ExponentialLR",
    Polynomial: "PolynomialLR",
    Linear: "LinearLR",
    Cosine: "CosineAnnealingLR",
    CosineWarmRestarts: "CosineAnnealingWarmRestarts",
    Cyclic: "CyclicLR",
    OneCycle: "OneCycleLR",
    ReduceOnPlateau: "ReduceLROnPlateau",
}
NOT_TAKEN = {"optimizer", "last_epoch", "cycle_momentum", "base_momentum", "max_momentum"}
NOT_TAKEN |= {"scale_fn", "scale_mode", "epochs", "steps_per_epoch"}
TORCH_CASES = [case for case in PURE_CASES if case.torch and type(case.schedule) in TORCH_NAMES]


def assert_close(actual: Iterable[float], expected: Iterable[float], scale: float) -> None:
    np.testing.assert_allclose(list(actual), list(expected), rtol=1e-10, atol=1e-15 * scale)


def test_every_schedule_has_a_case() -> None:
    assert {type(case.schedule) for case in CASES} == set(SCHEDULES)
    names = """Constant Step MultiStep PiecewiseConstant Exponential NaturalExponential InverseTime InverseSqrt
        Polynomial Linear Cosine OneMinusPower REX CosineWarmRestarts Warmup OneCycle Cyclic Sequence Product
        ReduceOnPlateau"""
    assert {cls.__name__ for cls in SCHEDULES} == set(names.split())


@every_case
def test_values_are_the_formula_s(case: Case) -> None:
    expected = [case.formula(step) for step in range(STEPS)]
    assert_close(map(case.schedule, range(STEPS)), expected, max(expected))


def assert_torchs(torch: Any, schedule: Any, build: Callable[[Any, Any], Any], lr: float, steps: int = STEPS) -> None:
    opt = torch.optim.SGD([torch.zeros(1, requires_grad=True)], lr=lr)
    scheduler = build(torch.optim.lr_scheduler, opt)
    rates = []
    for step in range(steps):
        if step:
            opt.step()
            scheduler.step()
        rates.append(opt.param_groups[0]["lr"])
    assert_close(map(schedule, range(steps)), rates, max(rates))


@loop("case", TORCH_CASES)
def test_values_are_torchs(case: Case, torch: Any) -> None:
    """Up to where torch would rise again, or refuse."""
    schedule, name = case.schedule, TORCH_NAMES[type(case.schedule)]
    known = inspect.signature(getattr(torch.optim.lr_scheduler, name)).parameters
    options = {k: getattr(schedule, k) for k in inspect.signature(type(schedule)).parameters if k in known}
    if "cycle_momentum" in known:
        options["cycle_momentum"] = False
    rises = getattr(schedule, "cycle", False)
    steps = schedule.T_max + 1 if name == "CosineAnnealingLR" and not rises else getattr(schedule, "total_steps", STEPS)
    lr = getattr(schedule, "lr", 0.1)
    assert_torchs(torch, schedule, lambda known, opt: getattr(known, name)(opt, **options), lr, steps)


def swalr(*options: Any) -> Any:
    from torch.optim.swa_utils import SWALR

    return SWALR(*options)


@loop(
    ("schedule", "build"),
    [
        (Constant(0.1), lambda known, opt: known.ConstantLR(opt, 1.0)),
        (PiecewiseConstant(0.02, [50], [5]), lambda known, opt: known.ConstantLR(opt, 0.2, 50)),
        (PiecewiseConstant(0.1, [5, 70], [0.1, 0.1]), lambda known, opt: known.MultiStepLR(opt, [5, 70])),
        (NaturalExponential(0.1, 3, 100), lambda known, opt: known.ExponentialLR(opt, math.exp(-0.03))),
        (Cosine(0.1, 30, 0.02), lambda known, opt: swalr(opt, 0.02, 30, "cos")),
        (Polynomial(0.1, 30, 1, 0.02), lambda known, opt: swalr(opt, 0.02, 30, "linear")),
        (
            Product([Linear(0.1, 0.3, 1, 20), Exponential(1, 0.9)]),
            lambda known, opt: known.ChainedScheduler(
                [known.LinearLR(opt, 0.3, total_iters=20), known.ExponentialLR(opt, 0.9)]
            ),
        ),
        (InverseTime(0.1, 0.2), lambda known, opt: known.LambdaLR(opt, lambda step: 1 / (1 + 0.2 * step))),
        (
            Warmup(Cosine(0.1, 260, 0.01), warmup_steps=40, init_value=0.025),
            lambda known, opt: known.SequentialLR(
                opt, [known.LinearLR(opt, 0.25, total_iters=40), known.CosineAnnealingLR(opt, 260, 0.01)], [40]
            ),
        ),
        (
            Sequence([Linear(0.1, 0.1, total_iters=20), Step(0.1, 15, 0.5)], boundaries=[20]),
            lambda known, opt: known.SequentialLR(
                opt, [known.LinearLR(opt, 0.1, total_iters=20), known.StepLR(opt, 15, 0.5)], [20]
            ),
        ),
    ],
)
def test_values_are_those_of_torchs_other_names(
    schedule: Schedule, build: Callable[[Any, Any], Any], torch: Any
) -> None:
    assert_torchs(torch, schedule, build, 0.1)


@loop(("cls", "torch_name"), TORCH_NAMES.items())
def test_options_have_torchs_names_order_and_defaults(cls: Any, torch_name: str, torch: Any) -> None:
    """Options that PyTorch reads from the optimizer are left out, and a number of steps that it may derive."""
    theirs = inspect.signature(getattr(torch.optim.lr_scheduler, torch_name)).parameters
    taken = {name: option.default for name, option in theirs.items() if name not in NOT_TAKEN}
    if cls is OneCycle:
        taken["total_steps"] = inspect.Parameter.empty
    ours = {name: option.default for name, option in inspect.signature(cls).parameters.items()}
    assert list({name: value for name, value in ours.items() if name in taken}.items()) == list(taken.items())
    more = {Polynomial: {"end_value", "cycle"}, Exponential: {"end_value"}, Cosine: {"power", "cycle"}}
    assert ours.keys() - taken.keys() <= {"lr"} | more.get(cls, {"amplitude_mult"})


@every_case
def test_any_step_has_a_rate_at_once(case: Case) -> None:
    for step in (10**6, 10**12, LAST):
        rate = case.schedule(step)
        assert rate >= 0
        assert rate < 10 or case.schedule in (Exponential(1e-5, 1.02),)


@loop("schedule", [Exponential(0.1, 2), Step(0.1, 1, 10), MultiStep(0.1, [1, 2], 1e200)])
def test_a_rate_beyond_all_numbers_is_rejected_by_the_optimizer(schedule: Schedule) -> None:
    assert schedule(5000) == math.inf
    opt = fo.SGD(np.ones(3), lr=lambda step: schedule(5000 + step))
    with pytest.raises(ValueError, match=r"\['lr'\] at step 0: expected a number >= 0, got inf"):
        opt.step(np.ones(3))


# ---- a function of the step


@every_case
def test_a_rate_depends_on_the_step_alone(case: Case) -> None:
    """Not on what was asked before, nor on the type of the integer."""
    steps = [*range(STEPS), 10**6]
    in_order = {step: case.schedule(step) for step in steps}
    random.Random(0).shuffle(steps)
    for schedule in (case.schedule, replace(case.schedule)):
        assert {step: schedule(step) for step in steps} == in_order
    for number in (np.int64(7), np.uint8(7), np.int32(7)):
        assert case.schedule(number) == in_order[7]
    for step in (0, np.int64(7), LAST):
        assert type(case.schedule(step)) is float


@every_case
@loop(
    ("error", "steps", "expected"),
    [
        (TypeError, [1.0, np.float64(1), "1", None, True, np.True_, 1j, [1], np.array(1), np.array([1])], ""),
        (ValueError, [-1, np.int8(-1), -(10**30), 2**63], " of at most 63 bits"),
    ],
)
def test_wrong_steps_are_rejected(case: Case, error: type[Exception], steps: list[Any], expected: str) -> None:
    for step in steps:
        with pytest.raises(error, match=rf"^step: expected an integer >= 0{expected}, got "):
            case.schedule(step)


@loop("case", [case for case in CASES if "lambda" not in repr(case.schedule)])
@loop("through", [lambda s: pickle.loads(pickle.dumps(s)), copy.copy, copy.deepcopy, from_repr])
def test_copies_give_the_same_rates(case: Case, through: Callable[[Any], Any]) -> None:
    case.schedule(3)
    copied = through(case.schedule)
    assert repr(copied) == repr(case.schedule)
    assert copied == case.schedule or type(copied) is ReduceOnPlateau
    assert [copied(step) for step in range(STEPS)] == [case.schedule(step) for step in range(STEPS)]


@loop("case", PURE_CASES)
def test_schedules_compare_by_their_options(case: Case) -> None:
    same = replace(case.schedule)
    assert same == case.schedule
    assert hash(same) == hash(case.schedule)
    assert case.schedule not in [other.schedule for other in PURE_CASES if other is not case]


def test_options_compare_in_their_plain_form() -> None:
    assert MultiStep(np.float32(1), [np.int64(3), 5]) == MultiStep(1, (3, 5))
    assert repr(MultiStep(1, [np.int64(3), 5])) == "MultiStep(lr=1.0, milestones=(3, 5), gamma=0.1)"


@every_case
def test_options_cannot_be_assigned(case: Case) -> None:
    for name in inspect.signature(type(case.schedule)).parameters:
        with pytest.raises(FrozenInstanceError):
            setattr(case.schedule, name, getattr(case.schedule, name))


# ---- in an optimizer


@every_case
def test_an_optimizer_steps_with_it(case: Case) -> None:
    p, expected = np.zeros(3), 0.0
    opt = fo.SGD(p, lr=case.schedule)
    for step in range(100):
        opt.step(np.ones(3))
        expected -= case.schedule(step)
        assert p.tolist() == [expected] * 3


@loop("case", PURE_CASES)
def test_an_optimizer_continues_from_a_checkpoint_with_it(case: Case) -> None:
    p = np.ones(3)
    opt = fo.Adam(p, lr=case.schedule)
    for _ in range(20):
        opt.step(p.copy())
    q = p.copy()
    fresh = fo.Adam(q, lr=replace(case.schedule))
    fresh.load_state_dict(opt.state_dict())
    for _ in range(20):
        opt.step(p.copy())
        fresh.step(q.copy())
    assert q.tobytes() == p.tobytes()
