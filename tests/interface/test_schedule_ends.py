"""The first and the last value of a schedule, and restarts, are met exactly."""

from __future__ import annotations

from fastoptim.schedules import (
    REX,
    Cosine,
    CosineWarmRestarts,
    Cyclic,
    Exponential,
    Linear,
    MultiStep,
    OneCycle,
    OneMinusPower,
    PiecewiseConstant,
    Polynomial,
    Schedule,
    Warmup,
)
from loops import loop

LAST = 2**63 - 1  # the last step that a schedule takes


@loop(
    ("schedule", "end", "last"),
    [
        (MultiStep(0.8, [30, 80], 0.5), 80, 0.2),
        (PiecewiseConstant(0.8, [30, 80], [0.5, 0.25]), 80, 0.1),
        (Polynomial(0.3, 70, 0.9, end_value=0.07), 70, 0.07),
        (Linear(0.1, 0.3, 0.7, 70), 70, 0.1 * 0.7),
        (Cosine(0.3, 70, 0.07), 70, 0.07),
        (Cosine(0.3, 70, 0.07, power=3), 70, 0.07),
        (OneMinusPower(0.3, 70, 0.3, 0.07), 70, 0.07),
        (REX(0.3, 70), 70, 0.0),
        (Exponential(0.3, 0.5, end_value=0.3 / 2**70), 70, 0.3 / 2**70),
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
    [Polynomial(0.3, 70), Cosine(0.3, 70, 0.07), CosineWarmRestarts(0.3, 70), Warmup(0.7, 5, 0.3), Cyclic(0.3, 0.7)],
)
def test_the_first_value_is_met_exactly(schedule: Schedule) -> None:
    assert schedule(0) == 0.3
    assert OneCycle(0.3, 100, pct_start=0.5)(49) == 0.3


@loop("length", [1, 2, 7])
def test_restarts_are_exact_however_late(length: int) -> None:
    """A logarithm would miss some."""
    schedule = CosineWarmRestarts(0.1, T_0=length, T_mult=3)
    starts = [length * (3**i - 1) // 2 for i in range(38)]
    assert [schedule(start) for start in starts] == [0.1] * len(starts)
    assert max(schedule(start - 1) for start in starts[3:]) < 0.01
