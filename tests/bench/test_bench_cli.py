"""``python -m fastoptim bench``: end to end, and what it rejects.  No test asserts a time."""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Callable
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from bench_helpers import read_rows, run_bench

import fastoptim as fo
from cases import ISAS, Array
from fastoptim import __main__
from fastoptim.bench import cli, internals, measure, results, timing
from fastoptim.bench.workload import Workload
from fastoptim.engines import native
from optional import optional


def workloads(*arguments: str) -> list[Workload]:
    return cli.workloads_of(__main__.make_parser().parse_args(["bench", *arguments]))


def test_without_arguments_adam_over_some_sizes() -> None:
    found = [(w.optimizer, w.elements, w.dtype, w.threads, w.isa, w.device) for w in workloads()]
    rest = ("float32", fo.get_num_threads(), fo.build_info()["isa"], "cpu")
    assert found == [("adam", size, *rest) for size in (10**3, 10**5, 10**7)]


def test_every_combination_is_a_workload_once() -> None:
    found = workloads(
        *("lion", "--optimizer", "Adam", "lion", "--size", "10", "2^4", "--model", "tiny", "--threads", "1", "2"),
        *("--dtype", "float32", "float16", "--isa", *ISAS, "--option", "lr=0.5"),
    )
    expected = product(["10", "16", "tiny"], ["float32", "float16"], [1, 2], ISAS, ["lion", "adam"])
    assert [(w.name, w.dtype, w.threads, w.isa, w.optimizer) for w in found] == list(expected)
    assert all(w.grad_dtype == w.dtype and w.options == {"lr": 0.5} for w in found)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["addam"], ["addam", "expected an optimizer", "adam, adamax, adamw"]),
        (["--size", "1.5"], ["--size", "whole number", "'1.5'"]),
        (["--size", "nan"], ["--size", "'nan'"]),
        (["--size", "10^999999999"], ["--size", "'10^999999999'"]),
        (["--size", "1e14"], ["adam on 1e14 float32", "needs 1,600,000.0 GB", "are free"]),
        (["--model", "bert"], ["--model", "gpt2"]),
        (["--threads", "0"], ["--threads", "from 1 to 4096", "got 0"]),
        (["--isa", "avx1024"], ["--isa", "baseline", "'avx1024'"]),
        (["--rounds", "0"], ["--rounds", ">= 1", "got 0"]),
        (["--seconds", "inf"], ["--seconds", "got inf"]),
        (["--option", "lr"], ["--option", "NAME=VALUE", "'lr'"]),
        (["--option", "lr=-1"], ["adam: lr", ">= 0", "-1"]),
        (["--option", "clip_norm=0"], ["clip_norm", "pass of their own"]),
        (["--json", "no/such/directory/a.json"], ["--json", "directory that exists"]),
        (["--plot", "x.xyz"], ["--plot: expected a name that ends with one of", ".png"]),
    ],
    ids=lambda value: "-".join(value) if isinstance(value, list) else "",
)
def test_invalid_arguments_are_rejected_before_timing(
    arguments: list[str], words: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    if "--plot" in arguments:
        optional("matplotlib")
    assert run_bench(*arguments) == 2
    printed = capsys.readouterr()
    assert printed.out == ""
    assert [word for word in words if word not in printed.err] == [], printed.err


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


def test_a_run_of_every_optimizer(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    optional("matplotlib")
    outputs = ("--json", str(tmp_path / "run.json"), "--plot", str(tmp_path / "run.png"))
    assert run_bench("all", "--model", "tiny", "--size", "10", "--block", "1", *outputs) == 0
    rows = read_rows(tmp_path / "run.json")
    assert [row["optimizer"] for row in rows] == [*fo.OPTIMIZERS] * 2
    shown = capsys.readouterr()
    assert [name for name in fo.OPTIMIZERS if not re.search(rf"^{name} +tiny ", shown.out, re.M)] == []
    assert shown.err == ""
    assert (tmp_path / "run.png").read_bytes().startswith(b"\x89PNG")


@pytest.mark.parametrize("dtype", ["float64", "float16", "bfloat16"])
def test_a_run_writes_what_the_table_shows(dtype: str, tmp_path: Path) -> None:
    before = fo.get_num_threads(), native.Engine.isa
    file = tmp_path / "run.json"
    arguments = ("--size", "10", "--dtype", dtype, "--grad-dtype", "float32", "--option", "lr=0.1")
    assert run_bench("adam", *arguments, "--threads", "1", "--isa", ISAS[0], "--json", str(file)) == 0
    assert (fo.get_num_threads(), native.Engine.isa) == before
    run = json.loads(file.read_text(encoding="utf-8"))
    assert (list(run), run["schema"]) == (["schema", "machine", "settings", "noise", "rows"], results.SCHEMA)
    assert run["settings"]["size"] == ["10"]
    (row,) = run["rows"]
    assert row.keys() <= results.Row.__annotations__.keys()
    seconds = row["seconds"]["median"]
    assert (row["dtype"], row["grad_dtype"], row["options"], row["threads"]) == (dtype, "float32", {"lr": 0.1}, 1)
    assert row["share"] == pytest.approx(row["probe_seconds"]["median"] / seconds)
    assert row["gb_per_s"] == pytest.approx(row["bytes"] / seconds / 1e9)
    assert row["ns_per_element"] == pytest.approx(seconds / 10 * 1e9)
    assert row["noise"].startswith("noisy: 1 rounds")


def test_the_step_and_each_probe_are_timed(monkeypatch: pytest.MonkeyPatch) -> None:
    timed: dict[str, timing.Step] = {}

    def interleave(steps: dict[str, timing.Step], **budget: Any) -> dict[str, list[float]]:
        timed.update(steps)
        return {name: [2.0 if name == f"probe {ISAS[0]}" else 4.0] * 5 for name in steps}

    made: list[fo.Optimizer] = []

    def make_optimizer(workload: Workload) -> tuple[fo.Optimizer, list[Any]]:
        opt, grads = internals.make_optimizer(workload)
        made.append(opt)
        return opt, grads

    monkeypatch.setattr(measure, "interleave", interleave)
    monkeypatch.setattr(measure, "make_optimizer", make_optimizer)
    row = measure.measure(Workload("adam", "", ((50,),), isa=ISAS[-1]), seconds=0)
    assert (row["probe_isa"], row["share"]) == (ISAS[0], 0.5)
    counts = {}
    for name, step in timed.items():
        before = [opt.step_count for opt in made]
        step()
        counts[name] = [opt.step_count - count for opt, count in zip(made, before, strict=True)]
    probes = {f"{kind} {isa}": [0, 0] for kind in ("probe", "fixed probe") for isa in ISAS}
    assert counts == {"step": [1, 0], "fixed": [0, 1]} | probes


@pytest.mark.parametrize(
    ("error", "status", "message"),
    [
        (KeyboardInterrupt(), 130, "interrupted after 1 of 3 rows"),
        (RuntimeError("two\nlines"), 1, "RuntimeError: two lines, after 1 of 3 rows"),
    ],
)
def test_a_stopped_run_prints_and_writes_its_rows(
    error: BaseException,
    status: int,
    message: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    def fail_second(workload: Workload, **budget: Any) -> results.Row:
        if workload.optimizer == "lion":
            raise error
        return measure.measure(workload, **budget)

    monkeypatch.setattr(cli, "measure", fail_second)
    file = tmp_path / "run.json"
    assert run_bench("adam", "lion", "sgd", "--size", "10", "--json", str(file)) == status
    printed = capsys.readouterr()
    assert re.search("^adam ", printed.out, re.M)
    assert [row["optimizer"] for row in read_rows(file)] == ["adam"]
    assert printed.err == f"python -m fastoptim bench: error: {message}\n"


def test_a_failed_output_does_not_prevent_the_others(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    def fail(path: Path, run: object) -> None:
        raise OSError("No space left on device")

    monkeypatch.setattr(results, "write_json", fail)
    assert run_bench("adam", "--size", "10", "--json", str(tmp_path / "run.json")) == 1
    printed = capsys.readouterr()
    assert printed.err.endswith("error: OSError: No space left on device\n")
    assert re.search("^adam ", printed.out, re.M)


def test_a_terminal_shows_a_progress_bar(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True, raising=False)
    assert run_bench("sgd", "lion", "--size", "10") == 0
    shown = capsys.readouterr().err
    assert "] 1/2 lion 10" in shown
    assert "\n" not in shown
