"""Refusals of schedules: every option with values that are wrong, and rates of a callable."""

from __future__ import annotations

import inspect
import math
from typing import Any, NamedTuple

import numpy as np
import pytest

import fastoptim as fo
from fastoptim.schedules import (
    Constant,
    Cosine,
    Cyclic,
    Exponential,
    OneMinusPower,
    PiecewiseConstant,
    ReduceOnPlateau,
    Schedule,
    Sequence,
    Warmup,
)
from loops import loop

SCHEDULES: list[Any] = [c for c in vars(fo.schedules).values() if isinstance(c, type) and issubclass(c, Schedule)]
SCHEDULES.remove(Schedule)

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
    **dict.fromkeys(
        ["three_phase", "cycle"], Wrong([0, 1, None, "True", 1.0, np.array(True)], [], [True, False, np.True_])
    ),
    **dict.fromkeys(["pct_start", "amplitude_mult"], wrong_numbers([math.nextafter(1, 2), 30], [0, 1, 0.5])),
    "factor": wrong_numbers([1, 1.0, 2], [0, 0.5, math.nextafter(1, 0)]),
    "div_factor": wrong_numbers([0, 0.0, -0.0], [0.5, 1, 25]),
    "final_div_factor": wrong_numbers([0, 0.0, -0.0], [0.5, 1, 25]),
}
OWN_KINDS = {
    (Exponential, "end_value"): Wrong(
        [value for value in NO_NUMBERS if value is not None], NONNEGATIVE.values, [None, *NONNEGATIVE.right]
    ),
    (OneMinusPower, "power"): wrong_numbers([0, 0.0, -0.0], [0.5, 1, 3]),
    (Cyclic, "gamma"): wrong_numbers([math.nextafter(1, 2), 2], [0, 1, 0.5]),
    (Warmup, "lr"): Wrong(NO_NUMBERS, NONNEGATIVE.values, [0, 1.5, abs, Constant(0.1), ReduceOnPlateau(1)]),
}
REQUIRED: dict[str, Any] = {
    **dict.fromkeys(["lr", "base_lr", "max_lr", "gamma", "decay_rate"], 0.1),
    **dict.fromkeys(["step_size", "T_max", "T_0", "total_iters", "total_steps", "warmup_steps"], 10),
    "milestones": [3, 5],
    "boundaries": [3, 5],
    "scales": [0.5, 0.1],
    "schedules": [0.1, 0.2, 0.3],
}


def required(cls: Any) -> dict[str, Any]:
    parameters = inspect.signature(cls).parameters.values()
    return {p.name: REQUIRED[p.name] for p in parameters if p.default is p.empty}


@loop(("cls", "name"), [(cls, name) for cls in SCHEDULES for name in inspect.signature(cls).parameters])
def test_every_option_is_checked(cls: Any, name: str) -> None:
    wrong = OWN_KINDS.get((cls, name), KINDS[name])
    for error, values in ((TypeError, wrong.types), (ValueError, wrong.values)):
        for value in values:
            with pytest.raises(error, match=rf"^{name}(\[\d\])?: expected .*, got ") as caught:
                cls(**{**required(cls), name: value})
            assert caught.type is error
    for value in wrong.right:
        assert cls(**{**required(cls), name: value})(0) >= 0


@loop("cls", [PiecewiseConstant, Sequence])
def test_boundaries_of_another_number_are_rejected(cls: Any) -> None:
    for boundaries in ([], [3], [3, 5, 7]):
        with pytest.raises(ValueError, match=r"^(scales|boundaries): expected \d, one .*, got "):
            cls(**{**required(cls), "boundaries": boundaries})


@loop("cls", SCHEDULES)
def test_unknown_and_missing_options_are_rejected(cls: Any) -> None:
    with pytest.raises(TypeError, match="no_such_option"):
        cls(**required(cls), no_such_option=1)
    with pytest.raises(TypeError):
        cls()


def test_wrong_rates_of_a_callable_are_rejected_with_its_place() -> None:
    with pytest.raises(ValueError, match=r"^lr at step 3: expected a number >= 0, got nan"):
        Warmup(lambda step: math.nan, 2)(5)
    with pytest.raises(TypeError, match=r"^lr at step 0: expected a number >= 0, got 'x'"):
        Warmup(lambda step: "x", 2)(1)  # type: ignore[arg-type,return-value]
    with pytest.raises(ValueError, match=r"^schedules\[1\] at step 2: expected a number >= 0, got -1"):
        Sequence([0.1, lambda step: -1], [10])(12)
