"""The statistics of the benchmark: alternating steps, the verdict on noise, the table.  No test asserts a time."""

from __future__ import annotations

import json
from types import SimpleNamespace

import numpy as np
import pytest

import fastoptim as fo
from cases import DTYPES, DType
from fastoptim.bench import machine, measure, results, table, timing
from fastoptim.bench.workload import MODELS, Workload


def test_steps_alternate_in_blocks() -> None:
    calls: list[str] = []
    steps: dict[str, timing.Step] = {name: lambda name=name: calls.append(name) for name in "ab"}  # type: ignore[misc]
    times = timing.interleave(steps, seconds=0, block=3, rounds=2, between=lambda: calls.append("-"))
    assert "".join(calls) == "-aaaabbbb" * 2  # the first of four is not timed
    assert {name: len(found) for name, found in times.items()} == {"a": 2, "b": 2}


@pytest.mark.parametrize(("block", "order"), [(2, "awaaw"), (1, "waw")])
def test_submitted_work_is_waited_for_before_and_after_a_block(block: int, order: str) -> None:
    calls: list[str] = []
    steps = {"a": lambda: calls.append("a")}
    timing.interleave(steps, seconds=0, block=block, rounds=2, wait=lambda: calls.append("w"))
    assert "".join(calls) == order * 2


def test_the_wait_after_a_block_is_timed(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = iter(range(1000))
    monkeypatch.setattr(timing, "time", SimpleNamespace(perf_counter=lambda: float(next(clock))))
    times = timing.interleave({"a": int}, seconds=0, block=1, rounds=1, wait=lambda: next(clock))
    assert times == {"a": [2.0]}  # with one tick for the wait


@pytest.mark.parametrize(("rounds", "made"), [(None, timing.FEWEST_ROUNDS), (2, 2), (9, 9)])
def test_the_number_of_rounds(rounds: int | None, made: int) -> None:
    shares: list[float] = []
    times = timing.interleave({"a": int, "b": int}, seconds=0, rounds=rounds, block=2, on_round=shares.append)
    assert [len(found) for found in times.values()] == [made, made]
    assert shares == [pytest.approx((i + 1) / made) for i in range(made)]


STEADY = [1.0, 1.02, 0.99, 1.01, 1.0, 1.01, 0.98, 1.0]


@pytest.mark.parametrize(
    ("times", "others", "expected"),
    [
        (STEADY, [10 * t for t in STEADY], "quiet"),
        (STEADY, [t * (1 if i < 4 else 3) for i, t in enumerate(STEADY)], "halves differ by"),
        ([t * (1 if i < 4 else 1.2) for i, t in enumerate(STEADY)], STEADY, "noisy: halves differ by 2"),
        ([t * (1 + i // 4 / 5) for i, t in enumerate(STEADY)],) * 2 + ("quiet",),  # alike: the ratio is steady
        ([t * (i % 2 + 1) for i, t in enumerate(STEADY)], STEADY, "noisy: spread"),
        (STEADY, [t * (i % 2 + 1) for i, t in enumerate(STEADY)], "noisy: spread"),
        (STEADY[:4], STEADY[:4], "noisy: 4 rounds"),
    ],
)
def test_noise_is_noticed(times: list[float], others: list[float], expected: str) -> None:
    verdict = timing.verdict(times, others)
    assert expected in verdict
    assert (verdict == timing.QUIET) == (expected == "quiet")


@pytest.mark.parametrize(
    ("noises", "others", "expected"),
    [
        (["quiet"] * 3, None, "quiet"),
        (["quiet"] * 3, 0.5, "noisy: others took 50 %"),
        (["quiet", "noisy: spread 90 %"], 0.0, "noisy: 1 of 2 rows"),
    ],
)
def test_a_run_is_judged_by_its_rows_and_by_others(noises: list[str], others: float | None, expected: str) -> None:
    watched = {"load_before": 0.5, "load_after": 1.0, "others": others}
    noise = results.judge_run([results.Row(noise=noise) for noise in noises], watched)
    assert noise["verdict"] == expected
    assert table.conclude(noise).startswith("The machine was " + ("quiet" if expected == "quiet" else "too noisy"))


def times(median: float) -> timing.Times:
    return timing.Times(median=median, low=0.9 * median, high=1.1 * median, rounds=9)


@pytest.mark.parametrize(("step", "probe", "expected"), [(11, 5, 0.4), (1.1, 1.1, None), (0.5, 5, None)])
def test_the_share_beyond_the_fixed_costs(step: float, probe: float, expected: float | None) -> None:
    assert measure.share_beyond(times(step), times(probe), times(1), times(1)) == pytest.approx(expected)


def test_the_table_is_aligned() -> None:
    rows = []
    for i, name in enumerate(fo.OPTIMIZERS):
        row = results.row_of(Workload(name, "1e6", ((10**6,),), threads=i, options={"lr": 0.1} if i % 2 else {}), 5)
        row |= {"seconds": times(10.0 ** (i % 9 - 7)), "probe_seconds": times(1e-3), "fixed_seconds": times(4e-6)}
        row |= {
            "share": 0.5,
            "share_beyond_fixed": None,
            "ns_per_element": 10.0 ** (i % 5),
            "gb_per_s": 10.0 ** (i % 4),
        }
        rows.append(row | {"noise": "quiet" if i % 3 else "noisy: spread 90 %"})
    header, *lines = table.format_rows(rows).splitlines()
    assert len(lines) == len(rows)
    assert lines[1].startswith(f"{list(fo.OPTIMIZERS)[1]}(lr=0.1) ")
    for column in ("optimizer", "work", "threads", "noise"):
        at = header.index(column)
        assert {line[at - 1 : at] for line in lines if len(line) > at} <= {"", " "}
    for column in ("a step", "10-90 %", "ns/element", "GB/s", "probe", "share", "fixed", "beyond"):
        end = header.index(column) + len(column)
        assert all(line[end : end + 1] in ("", " ") for line in lines), column
    assert "dtype" not in header
    assert table.describe_settings(rows).startswith("dtype float32, grad dtype float32, device cpu; answers equal")


@pytest.mark.parametrize("markdown", [False, True])
def test_columns_are_padded_to_their_headings_side(markdown: bool) -> None:
    shown = table.format_table([["name", "x"], ["a", "10"]], {"name"}, markdown=markdown)
    assert shown == ("| name |  x |\n|------|---:|\n| a    | 10 |" if markdown else "name   x\na     10")


@pytest.mark.parametrize(
    ("name", "arrays", "elements"),
    [("gpt2", 148, 124_439_808), ("resnet50", 161, 25_557_032), ("mlp", 4, 203_530), ("tiny", 4, 26)],
)
def test_a_model_has_the_published_number_of_arrays_and_elements(name: str, arrays: int, elements: int) -> None:
    workload = Workload("sgd", name, MODELS[name]())
    assert (len(workload.shapes), workload.elements) == (arrays, elements)


def test_a_workload_is_capped_to_whole_arrays_or_to_the_beginning_of_one() -> None:
    workload = Workload("sgd", "", ((10, 10), (3,), (5,), (4,)))
    assert [workload.capped(most).shapes for most in (200, 10, 2)] == [workload.shapes, ((3,), (5,)), ((2,),)]


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_signs_are_flipped(dtype: DType) -> None:
    g = np.array([[1.5, -2.0], [0.0, -np.inf]], dtype)
    measure.flip_signs([g, np.empty(0, dtype)])
    assert g.tobytes() == np.array([[-1.5, 2.0], [-0.0, np.inf]], dtype).tobytes()


def test_the_machine_is_described_in_plain_data(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(machine, "LEAST_SECONDS", 0)
    described, others = machine.describe(), machine.Watch().report()["others"]
    assert json.loads(json.dumps(described)) == described
    assert table.describe_machine(described).count("\n") == 1
    assert others is None or 0 <= others <= 1
