"""Learning-rate schedules: their values compared with PyTorch and with formulas, checkpoints, rejected options."""

from __future__ import annotations

import copy
import inspect
import itertools
import json
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
    PiecewiseConstant,
    Polynomial,
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
PURE = [cls for cls in SCHEDULES if cls is not ReduceOnPlateau]

Formula = Callable[[int], float]


@pytest.fixture(scope="module")
def torch() -> Any:
    return pytest.importorskip("torch")


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


def restarts(lr: float, length: int, times: int, low: float) -> Iterator[float]:
    while True:
        for t in range(length):
            yield low + (lr - low) * math.cos(math.pi / 2 * t / length) ** 2
        length *= times


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
    Case(NaturalExponential(0.1, 0.03), listed(staircase(0.1, math.exp(-0.03), 1))),
    Case(NaturalExponential(0.1, decay_rate=2, transition_steps=100), lambda step: 0.1 / math.exp(2) ** (step / 100)),
    Case(InverseTime(0.1, 0.5), lambda step: 0.2 / (2 + step)),
    Case(InverseTime(0.1, decay_rate=3, transition_steps=10), lambda step: 1 / (10 + 3 * step)),
    Case(InverseSqrt(0.1), lambda step: 0.1 * (1 + step) ** -0.5),
    Case(InverseSqrt(0.1, transition_steps=40), lambda step: 0.1 * (40 / (40 + step)) ** 0.5),
    Case(Polynomial(0.1), joined((0, 0.1), (5, 0))),
    Case(Polynomial(0.1, 200, 2.5), lambda step: 0.1 * max(0, 200 - step) ** 2.5 / 200**2.5),
    Case(Polynomial(0.1, 100, 2, end_value=0.04), lambda step: 0.04 + 6e-6 * max(0, 100 - step) ** 2, torch=False),
    Case(Linear(0.1), joined((0, 0.1 / 3), (5, 0.1))),
    Case(Linear(0.1, 0.9, 0.0, 150), joined((0, 0.09), (150, 0))),
    Case(Linear(0.1, start_factor=0, end_factor=2, total_iters=10), joined((0, 0), (10, 0.2)), torch=False),
    Case(Cosine(0.1, 200), eased((0, 0.1), (200, 0))),
    Case(Cosine(0.1, T_max=90, eta_min=0.02), eased((0, 0.1), (90, 0.02))),
    Case(CosineWarmRestarts(0.1, 50), listed(restarts(0.1, 50, 1, 0))),
    Case(CosineWarmRestarts(0.1, T_0=7, T_mult=3, eta_min=0.01), listed(restarts(0.1, 7, 3, 0.01))),
    Case(CosineWarmRestarts(0.1, 1, 2), listed(restarts(0.1, 1, 2, 0))),
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
    Case(ReduceOnPlateau(0.1), lambda step: 0.1),
]


def case_id(case: Case) -> str:
    return repr(case.schedule)


every_case = loop("case", CASES)
every_schedule = pytest.mark.parametrize("cls", SCHEDULES, ids=lambda cls: cls.__name__)
PURE_CASES = [case for case in CASES if type(case.schedule) is not ReduceOnPlateau]
LITERAL_CASES = [case for case in CASES if "lambda" not in repr(case.schedule)]


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
TORCH_CASES = [case for case in CASES if case.torch and type(case.schedule) in TORCH_NAMES]
TORCH_CASES = [case for case in TORCH_CASES if type(case.schedule) is not ReduceOnPlateau]


def assert_close(actual: Iterable[float], expected: Iterable[float], scale: float) -> None:
    np.testing.assert_allclose(list(actual), list(expected), rtol=1e-10, atol=1e-15 * scale)


def test_every_schedule_has_a_case() -> None:
    assert {type(case.schedule) for case in CASES} == set(SCHEDULES)
    names = """Constant Step MultiStep PiecewiseConstant Exponential NaturalExponential InverseTime InverseSqrt
        Polynomial Linear Cosine CosineWarmRestarts Warmup OneCycle Cyclic Sequence ReduceOnPlateau"""
    assert {cls.__name__ for cls in SCHEDULES} == set(names.split())


@every_case
def test_values_are_the_formula_s(case: Case) -> None:
    expected = [case.formula(step) for step in range(STEPS)]
    assert_close(map(case.schedule, range(STEPS)), expected, max(expected))


def torch_rates(torch: Any, build: Callable[[Any], Any], lr: float, steps: int) -> list[float]:
    opt = torch.optim.SGD([torch.zeros(1, requires_grad=True)], lr=lr)
    scheduler = build(opt)
    rates = []
    for step in range(steps):
        if step:
            opt.step()
            scheduler.step()
        rates.append(opt.param_groups[0]["lr"])
    return rates


@loop("case", TORCH_CASES)
def test_values_are_torchs(case: Case, torch: Any) -> None:
    """Up to where torch would rise again, or refuse."""
    schedule, name = case.schedule, TORCH_NAMES[type(case.schedule)]
    cls = getattr(torch.optim.lr_scheduler, name)
    known = inspect.signature(cls).parameters
    options = {k: getattr(schedule, k) for k in inspect.signature(type(schedule)).parameters if k in known}
    if "cycle_momentum" in known:
        options["cycle_momentum"] = False
    steps = schedule.T_max + 1 if name == "CosineAnnealingLR" else getattr(schedule, "total_steps", STEPS)
    expected = torch_rates(torch, lambda opt: cls(opt, **options), getattr(schedule, "lr", 0.1), steps)
    assert_close(map(schedule, range(steps)), expected, max(expected))


@loop(
    ("schedule", "torch_name", "options"),
    [
        (Constant(0.1), "ConstantLR", {"factor": 1.0}),
        (PiecewiseConstant(0.02, [50], [5]), "ConstantLR", {"factor": 0.2, "total_iters": 50}),
        (PiecewiseConstant(0.1, [5, 70], [0.1, 0.1]), "MultiStepLR", {"milestones": [5, 70]}),
        (NaturalExponential(0.1, 3, 100), "ExponentialLR", {"gamma": math.exp(-0.03)}),
        (InverseTime(0.1, 0.2), "LambdaLR", {"lr_lambda": lambda step: 1 / (1 + 0.2 * step)}),
    ],
)
def test_values_are_those_of_torchs_other_names(
    schedule: Schedule, torch_name: str, options: dict[str, Any], torch: Any
) -> None:
    cls = getattr(torch.optim.lr_scheduler, torch_name)
    expected = torch_rates(torch, lambda opt: cls(opt, **options), 0.1, STEPS)
    assert_close(map(schedule, range(STEPS)), expected, 0.1)


def test_a_warm_up_is_torchs_sequence(torch: Any) -> None:
    def build(opt: Any) -> Any:
        known = torch.optim.lr_scheduler
        parts = [known.LinearLR(opt, 0.25, total_iters=40), known.CosineAnnealingLR(opt, 260, 0.01)]
        return known.SequentialLR(opt, parts, milestones=[40])

    schedule = Warmup(Cosine(0.1, 260, 0.01), warmup_steps=40, init_value=0.025)
    assert_close(map(schedule, range(STEPS)), torch_rates(torch, build, 0.1, STEPS), 0.1)


def test_a_sequence_is_torchs(torch: Any) -> None:
    def build(opt: Any) -> Any:
        known = torch.optim.lr_scheduler
        parts = [
            known.LinearLR(opt, 0.1, total_iters=20),
            known.StepLR(opt, 15, 0.5),
            known.PolynomialLR(opt, 100, 2.0),
        ]
        return known.SequentialLR(opt, parts, milestones=[20, 80])

    parts = [Linear(0.1, 0.1, total_iters=20), Step(0.1, 15, 0.5), Polynomial(0.1, 100, 2.0)]
    schedule = Sequence(parts, boundaries=[20, 80])
    assert_close(map(schedule, range(STEPS)), torch_rates(torch, build, 0.1, STEPS), 0.1)


@pytest.mark.parametrize(("cls", "torch_name"), TORCH_NAMES.items(), ids=TORCH_NAMES.values())
def test_options_have_torchs_names_order_and_defaults(cls: Any, torch_name: str, torch: Any) -> None:
    """Options that PyTorch reads from the optimizer are left out, and a number of steps that it may derive."""
    theirs = inspect.signature(getattr(torch.optim.lr_scheduler, torch_name)).parameters
    taken = {name: option.default for name, option in theirs.items() if name not in NOT_TAKEN}
    if cls is OneCycle:
        taken["total_steps"] = inspect.Parameter.empty
    ours = {name: option.default for name, option in inspect.signature(cls).parameters.items()}
    assert list({name: value for name, value in ours.items() if name in taken}.items()) == list(taken.items())
    assert ours.keys() - taken.keys() <= {"lr", "end_value"}


# ---- at its ends


@loop(
    ("schedule", "end", "last"),
    [
        (MultiStep(0.8, [30, 80], 0.5), 80, 0.2),
        (PiecewiseConstant(0.8, [30, 80], [0.5, 0.25]), 80, 0.1),
        (Polynomial(0.3, 70, 0.9, end_value=0.07), 70, 0.07),
        (Linear(0.1, 0.3, 0.7, 70), 70, 0.1 * 0.7),
        (Cosine(0.3, 70, 0.07), 70, 0.07),
        (OneCycle(0.3, 71), 70, 0.3 / 25 / 1e4),
        (OneCycle(0.3, 71, three_phase=True, anneal_strategy="linear"), 70, 0.3 / 25 / 1e4),
        (Warmup(Cosine(0.3, 70, 0.07), 30), 100, 0.07),
    ],
)
def test_the_last_value_is_met_exactly_and_held(schedule: Schedule, end: int, last: float) -> None:
    assert schedule(end - 1) != last
    assert {schedule(step) for step in [end, end + 1, 2 * end, 3 * end, 10**9, LAST]} == {last}


@loop(
    "schedule",
    [
        Polynomial(0.3, 70, 0.9, 0.07),
        Cosine(0.3, 70, 0.07),
        CosineWarmRestarts(0.3, 70, 2, 0.07),
        Warmup(Cosine(0.7, 70), 5, init_value=0.3),
        Cyclic(0.3, 0.7),
    ],
)
def test_the_first_value_is_met_exactly(schedule: Schedule) -> None:
    assert schedule(0) == 0.3


def test_a_one_cycle_meets_its_largest_rate_exactly() -> None:
    assert OneCycle(0.3, 100, pct_start=0.5)(49) == 0.3


@loop("length", [1, 2, 7])
def test_restarts_are_exact_however_late(length: int) -> None:
    """A logarithm would miss some."""
    schedule = CosineWarmRestarts(0.1, T_0=length, T_mult=3)
    starts = [length * (3**i - 1) // 2 for i in range(38)]
    assert [schedule(start) for start in starts] == [0.1] * len(starts)
    assert max(schedule(start - 1) for start in starts[3:]) < 0.01


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
def test_values_do_not_depend_on_what_was_asked_before(case: Case) -> None:
    steps = [*range(STEPS), 10**6]
    in_order = {step: case.schedule(step) for step in steps}
    random.Random(0).shuffle(steps)
    fresh = replace(case.schedule)
    for schedule in (case.schedule, fresh):
        assert {step: schedule(step) for step in steps} == in_order


@every_case
def test_any_integer_is_a_step_and_any_rate_a_float(case: Case) -> None:
    for number in (np.int64(7), np.uint8(7), np.int32(7)):
        assert case.schedule(number) == case.schedule(7)
        assert type(case.schedule(number)) is float
    assert type(case.schedule(0)) is float
    assert type(case.schedule(LAST)) is float


NO_STEPS: list[Any] = [1.0, np.float64(1), "1", None, True, np.True_, 1j, [1], np.array(1), np.array([1])]


@every_case
def test_what_is_no_integer_is_rejected(case: Case) -> None:
    for step in NO_STEPS:
        with pytest.raises(TypeError, match=r"^step: expected an integer >= 0, got "):
            case.schedule(step)


@every_case
def test_steps_out_of_range_are_rejected(case: Case) -> None:
    for step in [-1, np.int8(-1), -(10**30), 2**63]:
        with pytest.raises(ValueError, match=r"^step: expected an integer >= 0 of at most 63 bits, got "):
            case.schedule(step)


@loop("case", LITERAL_CASES)
@loop("through", [lambda s: pickle.loads(pickle.dumps(s)), copy.copy, copy.deepcopy])
def test_copies_give_the_same_rates(case: Case, through: Callable[[Any], Any]) -> None:
    case.schedule(3)
    copied = through(case.schedule)
    assert repr(copied) == repr(case.schedule)
    assert copied == case.schedule or type(copied) is ReduceOnPlateau
    assert [copied(step) for step in range(STEPS)] == [case.schedule(step) for step in range(STEPS)]


@loop("case", LITERAL_CASES)
def test_the_repr_makes_the_schedule_again(case: Case) -> None:
    again = eval(repr(case.schedule), vars(fo.schedules))
    assert repr(again) == repr(case.schedule)
    assert again == case.schedule or type(again) is ReduceOnPlateau


@loop("case", PURE_CASES)
def test_schedules_compare_by_their_options(case: Case) -> None:
    same = replace(case.schedule)
    assert same == case.schedule
    assert hash(same) == hash(case.schedule)
    others = [other.schedule for other in PURE_CASES if other is not case]
    assert case.schedule not in others


def test_options_compare_in_their_plain_form() -> None:
    assert MultiStep(np.float32(1), [np.int64(3), 5]) == MultiStep(1, (3, 5))
    assert repr(MultiStep(1, [np.int64(3), 5])) == "MultiStep(lr=1.0, milestones=(3, 5), gamma=0.1)"


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


def test_wrong_rates_of_a_callable_are_rejected_with_its_place() -> None:
    with pytest.raises(ValueError, match=r"^lr at step 3: expected a number >= 0, got nan"):
        Warmup(lambda step: math.nan, 2)(5)
    with pytest.raises(TypeError, match=r"^lr at step 0: expected a number >= 0, got 'x'"):
        Warmup(lambda step: "x", 2)(1)  # type: ignore[arg-type,return-value]
    with pytest.raises(ValueError, match=r"^schedules\[1\] at step 2: expected a number >= 0, got -1"):
        Sequence([0.1, lambda step: -1], [10])(12)


# ---- options that are refused

NO_NUMBERS: list[Any] = ["0.1", None, True, np.True_, 1j, [0.1], np.array([0.1]), object()]
NO_INTEGERS: list[Any] = ["1", 1.0, np.float32(1), True, [1], np.array([1]), math.nan, math.inf]


class Wrong(NamedTuple):
    """Values that an option must refuse with a TypeError and with a ValueError, and some that it must take."""

    types: list[Any]
    values: list[Any]
    right: list[Any]


def wrong_numbers(values: list[float], right: list[float]) -> Wrong:
    return Wrong(NO_NUMBERS, [math.nan, math.inf, -math.inf, -1, -5e-324, 10**400, *values], right)


def wrong_integers(low: int) -> Wrong:
    return Wrong([*NO_INTEGERS, None], [low - 1, -5, 2**63, np.int8(-1)], [low, low + 1, np.uint8(low + 1), 2**63 - 1])


NONNEGATIVE = wrong_numbers([], [0, 0.0, 1, 1.5, np.float32(0.5), np.int64(3)])
COUNT, POSITIVE_COUNT = wrong_integers(0), wrong_integers(1)
BOUNDARIES = Wrong(
    [5, None, "ab", {1, 2}, range(3), np.array([1, 2]), [1, 2.0], ["1", "2"], [True, 2], [[1, 2]]],
    [[0, 2], [-1, 2], [2, 2], [3, 2], (1, 5, 4), [1, 2**63]],
    [[1, 2], (1, 2), [np.int64(4), 9]],
)
KINDS = {
    **dict.fromkeys(["lr", "base_lr", "max_lr", "eta_min", "end_value", "start_factor", "end_factor"], NONNEGATIVE),
    **dict.fromkeys(["decay_rate", "power", "gamma", "init_value", "threshold", "min_lr", "eps"], NONNEGATIVE),
    **dict.fromkeys(["step_size", "transition_steps", "total_iters", "total_steps", "T_max", "T_0"], POSITIVE_COUNT),
    **dict.fromkeys(["T_mult", "step_size_up"], POSITIVE_COUNT),
    **dict.fromkeys(["warmup_steps", "patience", "cooldown"], COUNT),
    **dict.fromkeys(["milestones", "boundaries"], BOUNDARIES),
    "step_size_down": Wrong(NO_INTEGERS, POSITIVE_COUNT.values, [None, *POSITIVE_COUNT.right]),
    "scales": Wrong(
        [0.1, None, "ab", np.array([0.1, 0.1]), ["a", 0.1], [0.1, None]],
        [[-1, 0.1], [0.1, math.nan], [0.1], [], [0.1] * 3],
        [[0, 2], (0.5, np.float32(0.5))],
    ),
    "schedules": Wrong(
        [0.1, None, "abc", Constant(0.1), [0.1, 0.2, "x"], [0.1, 0.2, None]],
        [[0.1, -1, 0.1], [0.1, 0.1, math.nan], []],
        [(Constant(0.1), 1, 0.2), [abs, Cosine(0.1, 3), ReduceOnPlateau(1)]],
    ),
    "mode": Wrong([], ["", "MIN", "Triangular", None, 1], []),
    "anneal_strategy": Wrong([], ["", "COS", "cosine", None, 1], ["cos", "linear"]),
    "threshold_mode": Wrong([], ["", "REL", "relative", None, 1], ["rel", "abs"]),
    "three_phase": Wrong([0, 1, None, "True", 1.0, np.array(True)], [], [True, False, np.True_]),
    "pct_start": wrong_numbers([math.nextafter(1, 2), 30], [0, 1, 0.5]),
    "factor": wrong_numbers([1, 1.0, 2], [0, 0.5, math.nextafter(1, 0)]),
    "div_factor": wrong_numbers([0, 0.0, -0.0], [0.5, 1, 25]),
    "final_div_factor": wrong_numbers([0, 0.0, -0.0], [0.5, 1, 25]),
}
OWN_KINDS = {
    (Cyclic, "gamma"): wrong_numbers([math.nextafter(1, 2), 2], [0, 1, 0.5]),
    (Warmup, "lr"): Wrong(NO_NUMBERS, NONNEGATIVE.values, [0, 1.5, abs, Constant(0.1), ReduceOnPlateau(1)]),
}
REQUIRED: dict[str, Any] = {
    **dict.fromkeys(["lr", "base_lr", "max_lr", "gamma", "decay_rate"], 0.1),
    **dict.fromkeys(["step_size", "T_max", "T_0", "total_steps", "warmup_steps"], 10),
    "milestones": [3, 5],
    "boundaries": [3, 5],
    "scales": [0.5, 0.1],
    "schedules": [0.1, 0.2, 0.3],
}
EVERY_OPTION = [(cls, name) for cls in SCHEDULES for name in inspect.signature(cls).parameters]


def required(cls: Any) -> dict[str, Any]:
    parameters = inspect.signature(cls).parameters.values()
    return {p.name: REQUIRED[p.name] for p in parameters if p.default is p.empty}


@pytest.mark.parametrize(("cls", "name"), EVERY_OPTION, ids=[f"{cls.__name__}-{name}" for cls, name in EVERY_OPTION])
def test_every_option_is_checked(cls: Any, name: str) -> None:
    wrong = OWN_KINDS.get((cls, name), KINDS[name])
    for error, values in ((TypeError, wrong.types), (ValueError, wrong.values)):
        for value in values:
            with pytest.raises(error, match=rf"^{name}(\[\d\])?: expected .*, got ") as caught:
                cls(**{**required(cls), name: value})
            assert caught.type is error
    for value in wrong.right:
        assert cls(**{**required(cls), name: value})(0) >= 0


@pytest.mark.parametrize("cls", [PiecewiseConstant, Sequence])
def test_boundaries_of_another_number_are_rejected(cls: Any) -> None:
    for boundaries in ([], [3], [3, 5, 7]):
        with pytest.raises(ValueError, match=r"^(scales|boundaries): expected \d, one .*, got "):
            cls(**{**required(cls), "boundaries": boundaries})


@every_schedule
def test_unknown_and_missing_options_are_rejected(cls: Any) -> None:
    with pytest.raises(TypeError):
        cls(**required(cls), no_such_option=1)
    with pytest.raises(TypeError):
        cls()


def test_the_base_class_is_no_schedule() -> None:
    with pytest.raises(TypeError):
        Schedule()  # type: ignore[abstract]


# ---- the plateau

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
    {
        "mode": "max",
        "patience": 2,
        "threshold": 0.1,
        "threshold_mode": "abs",
        "cooldown": 1,
        "eps": 1e-3,
        "factor": 0.8,
    },
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
    saved = through(schedule.state_dict())
    expected = list(fed(schedule, values[151:]))
    assert fresh.load_state_dict(saved) is None  # type: ignore[func-returns-value]
    assert list(fed(fresh, values[151:])) == expected
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
