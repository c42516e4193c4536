"""``python -m fastoptim bench``: end to end, what it rejects, and its statistics.  No test asserts a time."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from collections.abc import Callable
from itertools import product
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from bench_helpers import read_rows, run_bench

import fastoptim as fo
from cases import DTYPES, ISAS, Array, DType
from fastoptim import __main__
from fastoptim.bench import cli, internals, machine, measure, results, table, timing
from fastoptim.bench.timing import Budget
from fastoptim.bench.workload import MODELS, Workload
from fastoptim.engines import native
from optional import optional

# ---- arguments


def workloads(*arguments: str) -> list[Workload]:
    return cli.workloads_of(__main__.make_parser().parse_args(["bench", *arguments]))


def test_every_combination_is_a_workload_once() -> None:
    found = [(w.optimizer, w.elements, w.dtype, w.threads, w.isa, w.device) for w in workloads()]
    rest = ("float32", fo.get_num_threads(), fo.build_info()["isa"], "cpu")
    assert found == [("adam", size, *rest) for size in (10**3, 10**5, 10**7)]
    chosen = workloads(
        *(
            "lion",
            "--optimizer",
            "Adam",
            "lion",
            "--size",
            "1e1",
            "2^4",
            "2.5e3",
            "1_000",
            "--model",
            "tiny",
            "--threads",
            "1",
            "2",
        ),
        *("--dtype", "float32", "float16", "--isa", *ISAS, "--option", "lr=0.5"),
    )
    expected = product(["10", "16", "2500", "1e3", "tiny"], ["float32", "float16"], [1, 2], ISAS, ["lion", "adam"])
    assert [(w.name, w.dtype, w.threads, w.isa, w.optimizer) for w in chosen] == list(expected)
    assert all(w.grad_dtype == w.dtype and w.options == {"lr": 0.5} for w in chosen)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ("addam", "expected an optimizer"),
        ("--size 1.5", "--size: expected a whole number of elements such as"),
        ("--size 10^999999999", "got '10^999999999'"),
        ("--size 1e14", "adam on 1e14 float32: needs 1,600,000.0 GB"),
        ("--model bert", "gpt2"),
        ("--threads 0", "from 1 to 4096, got '0'"),
        ("--isa avx1024", "baseline"),
        ("--rounds 0", "--rounds: expected a whole number >= 1"),
        ("--seconds nan", "--seconds: expected a number >= 0, got 'nan'"),
        ("--seconds inf", "got 'inf'"),
        ("--option lr", "NAME=VALUE, got 'lr'"),
        ("--option lr=-1", "adam: lr"),
        ("--option clip_norm=0", "pass of their own"),
        ("--state-format int4", "--state-format: invalid choice: 'int4'"),
        ("--state-format int8 --option state_format=native", "--option state_format: expected none together with --st"),
        ("--master-weight-bits 24", "--master-weight-bits: expected --dtype float16 or bfloat16, whose bits"),
        ("--json no/such/directory/a.json", "--json: expected a file that can be written in a directory that exists"),
        ("--plot x.xyz", "--plot: expected a name that ends with one of"),
        ("--json a.png --plot a.png", "--plot: expected another file than that of --json, got 'a.png'"),
        ("--json old.png --plot ./link.png", "--plot: expected another file than that of --json, got 'link.png'"),
    ],
)
def test_invalid_arguments_are_rejected_before_timing(
    arguments: str, words: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    if "--plot" in arguments:
        optional("matplotlib")
    monkeypatch.chdir(tmp_path)
    Path("old.png").write_text("kept", encoding="utf-8")
    Path("link.png").hardlink_to("old.png")
    assert run_bench(*arguments.split()) == 2
    printed = capsys.readouterr()
    assert printed.out == ""
    assert words in printed.err
    assert {path.name: path.read_text("utf-8") for path in tmp_path.iterdir()} == {
        "old.png": "kept",
        "link.png": "kept",
    }


@pytest.mark.parametrize(
    ("module", "arguments", "message"),
    [
        ("matplotlib.figure", ["--plot", "a.png"], "needs matplotlib; pip install 'fastoptim[bench]'"),
        ("ml_dtypes", ["--dtype", "bfloat16"], "needs ml_dtypes; pip install 'fastoptim[bfloat16]'"),
        ("cupy", ["--device", "cuda"], "--device cuda: "),
    ],
)
def test_a_missing_package_is_named(
    module: str, arguments: list[str], message: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setitem(sys.modules, module, None)
    assert run_bench(*arguments) == 2
    assert message in capsys.readouterr().err


def test_the_examples_of_the_help_can_be_parsed(capsys: pytest.CaptureFixture[str]) -> None:
    assert run_bench("--help") == 0
    examples: list[str] = re.findall(
        r"^  python -m fastoptim bench(?: (\S.*?))?(?:  .*)?$", capsys.readouterr().out, re.M
    )
    assert len(examples) >= 5
    for example in examples:
        assert workloads(*(word for word in example.split() if word not in ("--isa", "baseline", "avx2")))


# ---- answers


def test_a_wrong_answer_is_not_timed(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    right: Callable[..., None] = fo.Adam.reference

    def wrong(p: Array, g: Array, **rest: Any) -> None:
        right(p, g, **rest)
        p.reshape(-1)[-1:] += np.spacing(p.reshape(-1)[-1:])

    monkeypatch.setattr(fo.Adam, "reference", staticmethod(wrong))
    assert run_bench("sgd", "adam", "--size", "100") == 1
    printed = capsys.readouterr()
    assert "adam: params[0] differs from the reference in 1 of 100 elements" in printed.err
    assert re.search("^sgd ", printed.out, re.M)


def test_a_difference_in_one_bit_is_found_and_all_nans_are_equal() -> None:
    a = np.array([1, np.nan, 0.0], np.float32)
    others = [[1, -np.nan, 0.0], [1, np.nan, -0.0], np.nextafter(a, np.float32(2))]
    assert [internals.count_different(a, np.array(b, np.float32)) for b in others] == [0, 1, 2]


def test_the_answer_of_a_large_workload_is_checked_in_part(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(internals, "MOST_CHECKED", 100)
    assert [internals.check_answers(Workload("adam", "", ((size,),))) for size in (99, 1000)] == [99, 100]
    workload = Workload("sgd", "", ((10, 10), (3,), (5,), (4,)))
    assert [workload.capped(most).shapes for most in (200, 10, 2)] == [workload.shapes, ((3,), (5,)), ((2,),)]
    rows = Workload("sgd", "", ((10, 10),))
    assert [rows.capped(most).shapes for most in (99, 25, 9)] == [((9, 10),), ((2, 10),), ((9,),)]


# ---- runs


def test_a_run_of_every_optimizer(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    optional("matplotlib")
    outputs = ("--json", str(tmp_path / "run.json"), "--plot", str(tmp_path / "run.png"))
    assert run_bench("all", "--model", "tiny", "--size", "10", "--block", "1", *outputs) == 0
    assert [row["optimizer"] for row in read_rows(tmp_path / "run.json")] == [*fo.OPTIMIZERS] * 2
    shown = capsys.readouterr()
    assert [name for name in fo.OPTIMIZERS if not re.search(rf"^{name} +tiny ", shown.out, re.M)] == []
    assert shown.err == ""
    assert (tmp_path / "run.png").read_bytes().startswith(b"\x89PNG")


def test_a_row_for_each_format(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = tmp_path / "run.json"
    formats = ("--state-format", "native", "bfloat16", "int8", "--master-weight-bits", "none", "24")
    arguments = ("--size", "4096", "--dtype", "bfloat16", *formats, "--rounds", "1", "--json", str(file))
    assert run_bench("adamw", *arguments) == 0
    rows = read_rows(file)
    assert [(row["options"]["state_format"], row["options"]["master_weight_bits"]) for row in rows] == [
        *product(("native", "bfloat16", "int8"), (None, 24))
    ]
    state = {"native": 8, "bfloat16": 4, "int8": 2.125}
    for row in rows:
        bits = row["options"]["master_weight_bits"] is not None
        assert row["memory_bytes"] == 4096 * (4 + state[row["options"]["state_format"]] + bits)
        assert ("float32_seconds" in row) == (bits or row["options"]["state_format"] != "native")
    shown = capsys.readouterr().out
    assert re.search(r"^adamw\(state_format=int8, master_weight_bits=24\) .* 7\.125 ", shown, re.M)
    assert "\nof float32  the time of a step" in shown
    assert run_bench("adamw", "--size", "10", "--rounds", "1") == 0
    assert "of float32" not in capsys.readouterr().out


@pytest.mark.parametrize("dtype", ["float64", "float16", "bfloat16"])
def test_a_run_writes_what_the_table_shows(dtype: str, tmp_path: Path) -> None:
    before = fo.get_num_threads(), native.Engine.isa
    file = tmp_path / "run.json"
    arguments = ("--size", "10", "--dtype", dtype, "--grad-dtype", "float32", "--option", "lr=0.1")
    assert run_bench("adam", *arguments, "--threads", "1", "--isa", ISAS[0], "--json", str(file)) == 0
    assert (fo.get_num_threads(), native.Engine.isa) == before
    run = json.loads(file.read_text(encoding="utf-8"))
    assert (list(run), run["schema"]) == (["schema", "machine", "settings", "noise", "rows"], results.SCHEMA)
    assert run["settings"]["size"] == [10]
    (row,) = run["rows"]
    assert row.keys() <= results.Row.__annotations__.keys()
    assert (row["dtype"], row["grad_dtype"], row["options"], row["threads"]) == (dtype, "float32", {"lr": 0.1}, 1)
    seconds = row["seconds"]["median"]
    assert row["share"] * seconds == pytest.approx(row["probe_seconds"]["median"])
    assert row["gb_per_s"] * seconds == pytest.approx(row["bytes"] / 1e9)
    assert row["noise"].startswith("noisy: 1 rounds")


def test_the_step_and_each_probe_are_timed_and_the_fastest_probe_counts(monkeypatch: pytest.MonkeyPatch) -> None:
    timed: dict[str, timing.Step] = {}

    def interleave(steps: dict[str, timing.Step], *budget: Any, **rest: Any) -> dict[str, list[float]]:
        timed.update(steps)
        return {name: [2.0 if name == f"probe {ISAS[0]}" else 4.0] * 5 for name in steps}

    monkeypatch.setattr(measure, "interleave", interleave)
    row = measure.measure(Workload("adam", "", ((50,),), isa=ISAS[-1]), Budget(0))
    assert (row["probe_isa"], row["share"], row["probe_seconds"]["median"]) == (ISAS[0], 0.5, 2.0)
    names = ["step", *(f"probe {isa}" for isa in ISAS)]
    assert list(timed) == [*names, *(f"fixed {name}" for name in names)]


@pytest.mark.parametrize(
    ("error", "status", "message"),
    [
        (KeyboardInterrupt(), 130, "interrupted after 1 of 3 rows"),
        (RuntimeError("two\nlines"), 1, "RuntimeError: two lines, after 1 of 3 rows"),
    ],
)
def test_a_stopped_run_prints_and_writes_its_rows(
    error: BaseException, status: int, message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any
) -> None:
    def fail_second(workload: Workload, *budget: Any) -> results.Row:
        if workload.optimizer == "lion":
            raise error
        return measure.measure(workload, *budget)

    monkeypatch.setattr(cli, "measure", fail_second)
    file = tmp_path / "run.json"
    assert run_bench("adam", "lion", "sgd", "--size", "10", "--json", str(file)) == status
    printed = capsys.readouterr()
    assert re.search("^adam ", printed.out, re.M)
    assert [row["optimizer"] for row in read_rows(file)] == ["adam"]
    assert printed.err == f"error: {message}\n"


def test_a_failed_output_does_not_prevent_the_others(capsys: pytest.CaptureFixture[str]) -> None:
    if not Path("/dev/full").exists():
        pytest.skip("needs /dev/full")
    assert run_bench("adam", "--size", "10", "--json", "/dev/full") == 1
    printed = capsys.readouterr()
    assert printed.err == "error: OSError: [Errno 28] No space left on device\n"
    assert re.search("^adam ", printed.out, re.M)


def test_a_terminal_shows_a_progress_bar(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True, raising=False)
    assert run_bench("sgd", "lion", "--size", "10") == 0
    shown = capsys.readouterr().err
    assert "] 1/2 lion 10" in shown
    assert "\n" not in shown


@pytest.mark.skipif(sys.platform == "win32", reason="has no SIGPIPE")
@pytest.mark.parametrize("arguments", [["info"], ["bench", "--size", "1", "--rounds", "1"]])
def test_a_reader_that_has_gone_ends_the_run_quietly(arguments: list[str], tmp_path: Path) -> None:
    file = tmp_path / "run.json"
    written = ["--json", str(file)] if "--size" in arguments else []
    command = [sys.executable, "-m", "fastoptim", *arguments, *written]
    read, write = os.pipe()
    os.close(read)
    assert subprocess.run(command, stdout=write, stderr=subprocess.PIPE, check=False).stderr == b""
    os.close(write)
    assert file.exists() == bool(written)


# ---- statistics


@pytest.mark.parametrize(
    ("block", "wait", "order"),
    [(3, False, "-aaaabbbb"), (1, False, "-ab"), (2, True, "-awaawbwbbw"), (1, True, "-wawwbw")],
)
def test_steps_alternate_in_blocks(block: int, wait: bool, order: str) -> None:
    """The first step of a block of several is not timed; submitted work is waited for before and after a block."""
    calls: list[str] = []
    a, b, w, between = (lambda name=name: calls.append(name) for name in "abw-")
    times = timing.interleave({"a": a, "b": b}, Budget(0, 2, block), between=between, wait=w if wait else None)
    assert "".join(calls) == order * 2
    assert {name: len(found) for name, found in times.items()} == {"a": 2, "b": 2}


def test_the_wait_after_a_block_is_timed(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = iter(range(1000))
    monkeypatch.setattr(timing, "time", SimpleNamespace(perf_counter=lambda: float(next(clock))))
    times = timing.interleave({"a": int}, Budget(0, 1, 1), wait=lambda: next(clock))
    assert times == {"a": [2.0]}  # with one tick for the wait


@pytest.mark.parametrize(("rounds", "made"), [(None, timing.FEWEST_ROUNDS), (2, 2), (9, 9)])
def test_the_number_of_rounds(rounds: int | None, made: int) -> None:
    shares: list[float] = []
    times = timing.interleave({"a": int, "b": int}, Budget(0, rounds, 2), on_round=shares.append)
    assert [len(found) for found in times.values()] == [made, made]
    assert shares == [pytest.approx((i + 1) / made) for i in range(made)]


STEADY = [1.0, 1.02, 0.99, 1.01, 1.0, 1.01, 0.98, 1.0]


@pytest.mark.parametrize(
    ("times", "others", "expected"),
    [
        (STEADY, [10 * t for t in STEADY], "quiet"),
        (STEADY, [t * (1 if i < 4 else 3) for i, t in enumerate(STEADY)], "halves differ by"),
        ([t * (1 if i < 4 else 1.2) for i, t in enumerate(STEADY)], STEADY, "halves differ by 2"),
        ([t * (1 + i // 4 / 5) for i, t in enumerate(STEADY)],) * 2 + ("quiet",),  # alike: the ratio is steady
        ([t * (1 + i % 3) for i, t in enumerate(STEADY)],) * 2 + ("quiet",),
        ([*STEADY[:7], 9.0], STEADY, "quiet"),  # one outlier
        ([t * (i % 2 + 1) for i, t in enumerate(STEADY)], STEADY, "noisy: ratio uncertain"),
        (STEADY, [t * (i % 2 + 1) for i, t in enumerate(STEADY)], "noisy: ratio uncertain"),
        (STEADY[:4], STEADY[:4], "noisy: 4 rounds"),
    ],
)
def test_noise_is_noticed(times: list[float], others: list[float], expected: str) -> None:
    verdict = timing.verdict(times, others)
    assert expected in verdict
    assert (verdict == timing.QUIET) == (expected == "quiet")


@pytest.mark.parametrize(
    ("noise", "others"), [("quiet", 0.05), ("quiet", 0.5), ("noisy: ratio uncertain by 90 %", 0.0)]
)
def test_a_run_is_judged_by_its_rows_and_by_others(noise: str, others: float) -> None:
    watched = {"load_before": 0.5, "load_after": 1.0, "others": others}
    judged = results.make_run({}, {}, watched, [results.Row(noise=noise)])["noise"]
    expected = {0.05: "quiet", 0.5: "noisy: others took 50 %", 0.0: "noisy: 1 of 1 rows"}[others]
    assert judged["verdict"] == expected
    assert table.conclude(judged).startswith("The machine was " + ("quiet" if expected == "quiet" else "noisy"))


@pytest.mark.parametrize(("step", "probe", "expected"), [(11, 5, 0.4), (1.1, 1.1, None), (0.5, 5, None)])
def test_the_share_beyond_the_fixed_costs(step: float, probe: float, expected: float | None) -> None:
    of = [timing.Times(median=t, low=0.9 * t, high=1.1 * t, rounds=9) for t in (step, probe, 1, 1)]
    assert measure.share_beyond(*of) == pytest.approx(expected)


@pytest.mark.parametrize(
    ("name", "arrays", "elements"),
    [("gpt2", 148, 124_439_808), ("resnet50", 161, 25_557_032), ("mlp", 4, 203_530), ("tiny", 4, 26)],
)
def test_a_model_has_the_published_number_of_arrays_and_elements(name: str, arrays: int, elements: int) -> None:
    assert (len(MODELS[name]), Workload("sgd", name, MODELS[name]).elements) == (arrays, elements)


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
