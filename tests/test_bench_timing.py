"""How steps are timed in turn, what is noise, and what the machine says of itself.  No test asserts a time."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

import fastoptim as fo
from cases import DTYPES, DType, bits
from fastoptim.bench import machine, measure, results, table, timing

# ---- timing


def test_steps_are_taken_in_turn_in_blocks() -> None:
    calls: list[str] = []
    times = timing.interleave(
        {name: lambda name=name: calls.append(name) for name in "ab"},  # type: ignore[misc]
        seconds=0,
        block=3,
        rounds=2,
    )
    assert calls == list("aaaa" + "bbbb") * 2  # the first of four is not timed
    assert {name: len(took) for name, took in times.items()} == {"a": 2, "b": 2}


def test_what_comes_between_rounds_is_called_before_each() -> None:
    calls: list[str] = []
    steps = {"a": lambda: calls.append("a")}
    timing.interleave(steps, seconds=0, block=1, rounds=3, between=lambda: calls.append("-"))
    assert calls == list("-a-a-a")


@pytest.mark.parametrize(("block", "made"), [(2, "awaaw"), (1, "waw")])
def test_what_only_hands_work_over_is_waited_for_before_and_after_a_block(block: int, made: str) -> None:
    calls: list[str] = []
    steps = {"a": lambda: calls.append("a")}
    timing.interleave(steps, seconds=0, block=block, rounds=2, wait=lambda: calls.append("w"))
    assert calls == list(made * 2)


def test_the_wait_after_a_block_is_timed(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = iter(range(1000))
    monkeypatch.setattr(timing, "time", SimpleNamespace(perf_counter=lambda: float(next(clock))))
    waits: list[float] = []
    times = timing.interleave({"a": int}, seconds=0, block=1, rounds=1, wait=lambda: waits.append(next(clock)))
    assert times == {"a": [2.0]}  # from one look at the clock to the next, with a wait between them
    assert len(waits) == 2


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_gradients_are_turned_around(dtype: DType) -> None:
    g = np.array([[1.5, -2.0], [0.0, -np.inf]], dtype)
    measure.turn_around([g, np.empty(0, dtype)])
    assert (bits(g) == bits(np.array([[-1.5, 2.0], [-0.0, np.inf]], dtype))).all()


def test_without_a_block_cold_steps_are_all_timed() -> None:
    calls: list[str] = []
    timing.interleave({"a": lambda: calls.append("a")}, seconds=0, block=1, rounds=4)
    assert len(calls) == 4


@pytest.mark.parametrize(("rounds", "made"), [(None, timing.FEWEST_ROUNDS), (2, 2), (9, 9)])
def test_so_many_rounds_are_made(rounds: int | None, made: int) -> None:
    shares: list[float] = []
    times = timing.interleave({"a": int, "b": int}, seconds=0, rounds=rounds, block=2, on_round=shares.append)
    assert [len(took) for took in times.values()] == [made, made]
    assert shares == [pytest.approx((i + 1) / made) for i in range(made)]


def test_a_short_step_is_timed_in_blocks_that_last() -> None:
    calls = 0

    def step() -> None:
        nonlocal calls
        calls += 1

    timing.interleave({"a": step}, seconds=0, rounds=1)
    assert calls > 1000


def test_a_summary_is_of_percentiles() -> None:
    assert timing.summary([5.0]) == (5.0, 5.0, 5.0, 1)
    assert timing.summary([float(n) for n in range(101)]) == (50.0, 10.0, 90.0, 101)
    assert timing.summary([float(n) for n in range(101)]).width == pytest.approx(1.6)


STEADY = [1.0, 1.02, 0.99, 1.01, 1.0, 1.01, 0.98, 1.0]


@pytest.mark.parametrize(
    ("times", "others", "expected"),
    [
        (STEADY, STEADY, "quiet"),
        (STEADY, [10 * t for t in STEADY], "quiet"),
        ([t * (1 if i < 4 else 3) for i, t in enumerate(STEADY)], STEADY, "noisy: spread"),
        (STEADY, [t * (1 if i < 4 else 3) for i, t in enumerate(STEADY)], "halves differ by"),
        ([t * (1 if i < 4 else 1.2) for i, t in enumerate(STEADY)], STEADY, "noisy: halves differ by 2"),
        ([t * (1 + i // 4 / 5) for i, t in enumerate(STEADY)],) * 2 + ("quiet",),  # alike: the ratio holds
        ([t * (i % 2 + 1) for i, t in enumerate(STEADY)], STEADY, "noisy: spread"),
        (STEADY, [t * (i % 2 + 1) for i, t in enumerate(STEADY)], "noisy: spread"),
        (STEADY[:4], STEADY[:4], "noisy: 4 rounds"),
    ],
)
def test_noise_is_noticed(times: list[float], others: list[float], expected: str) -> None:
    assert expected in timing.verdict(times, others)
    assert (timing.verdict(times, others) == timing.QUIET) == (expected == "quiet")


@pytest.mark.parametrize(
    ("noises", "others", "expected"),
    [
        (["quiet"] * 3, 0.01, "quiet"),
        (["quiet"] * 3, None, "quiet"),
        (["quiet"] * 3, 0.5, "noisy: others took 50 %"),
        (["quiet", "noisy: spread 90 %"], 0.0, "noisy: 1 of 2 rows"),
    ],
)
def test_a_run_is_judged_by_its_rows_and_by_others(noises: list[str], others: float | None, expected: str) -> None:
    watched = {"load_before": 0.5, "load_after": 1.0, "others": others}
    noise = results.judge([{"noise": noise} for noise in noises], watched)
    assert noise["verdict"] == expected
    assert table.conclusion(noise).startswith("The machine was " + ("quiet" if expected == "quiet" else "too noisy"))


def test_what_a_step_costs_without_elements_is_taken_off_both() -> None:
    def spread(median: float) -> timing.Spread:
        return timing.Spread(median, median * 0.9, median * 1.1, 9)

    assert measure.share_beyond(spread(11), spread(5), spread(1), spread(1)) == pytest.approx(0.4)
    assert measure.share_beyond(spread(1.1), spread(1.1), spread(1), spread(1)) is None
    assert measure.share_beyond(spread(0.5), spread(5), spread(1), spread(1)) is None


# ---- the machine


def test_the_machine_is_described_in_plain_data() -> None:
    described = machine.describe()
    assert json.loads(json.dumps(described)) == described
    assert described["fastoptim"] == fo.__version__
    assert described["isa"] in described["isa_usable"]
    assert 1 <= described["processors_usable"] <= described["processors"]
    assert table.heading(described).count("\n") == 1


@pytest.mark.skipif(not Path("/proc/meminfo").exists(), reason="reads Linux's /proc")
def test_linux_says_what_there_is() -> None:
    described, free = machine.describe(), machine.free_bytes()
    assert described["processor"]
    assert free is not None
    assert 0 < free <= described["memory_bytes"]


def test_others_are_a_part_of_the_processors(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(machine, "LEAST_SECONDS", 0)
    report = machine.Watch().report()
    assert set(report) == {"load_before", "load_after", "others"}
    assert report["others"] is None or 0 <= report["others"] <= 1
