"""``python -m fastoptim bench``: what it times, what it says, and what it refuses.  No test asserts a time."""

from __future__ import annotations

import ast
import json
import os
import re
import subprocess
import sys
from collections.abc import Callable
from itertools import product
from pathlib import Path
from typing import Any, get_type_hints

import numpy as np
import pytest

import fastoptim as fo
from benching import bench
from cases import ISAS, Array
from fastoptim import __main__
from fastoptim.bench import check, cli, machine, measure, models, results, task, timing
from fastoptim.bench.models import Work, model, one_array
from fastoptim.bench.task import Task
from fastoptim.engines import native

MATPLOTLIB = "needs matplotlib"


# ---- models


@pytest.mark.parametrize(
    ("name", "arrays", "elements"),
    [("gpt2", 148, 124_439_808), ("resnet50", 161, 25_557_032), ("mlp", 4, 203_530), ("tiny", 4, 26)],
)
def test_a_model_has_the_true_number_of_arrays_and_elements(name: str, arrays: int, elements: int) -> None:
    assert len(model(name).shapes) == arrays
    assert model(name).elements == elements


def test_every_model_is_tested() -> None:
    assert set(models.MODELS) == {"gpt2", "resnet50", "mlp", "tiny"}


def test_models_have_the_shapes_that_are_published() -> None:
    gpt2, resnet = model("gpt2").shapes, model("resnet50").shapes
    assert gpt2[:4] == ((50257, 768), (1024, 768), (768,), (768,))
    assert gpt2.count((768, 2304)) == gpt2.count((768, 3072)) == gpt2.count((3072, 768)) == 12
    assert resnet[0] == (64, 3, 7, 7)
    assert resnet[-2:] == ((1000, 2048), (1000,))
    assert sum(len(shape) == 4 for shape in resnet) == 53


def test_work_is_capped_to_whole_arrays_or_else_a_beginning() -> None:
    work = Work("w", ((10, 10), (3,), (5,), (4,)))
    assert work.capped(200) == work
    assert work.capped(10).shapes == ((3,), (5,))
    assert one_array(1000).capped(10).shapes == ((10,),)
    assert all(model(name).capped(check.MOST_ELEMENTS).elements <= check.MOST_ELEMENTS for name in models.MODELS)


# ---- arguments


def tasks(*arguments: str) -> list[Task]:
    return cli.tasks_of(__main__.make_parser().parse_args(["bench", *arguments]))


def test_without_arguments_adam_over_some_sizes() -> None:
    found = tasks()
    assert [(t.optimizer, t.work.elements) for t in found] == [("adam", 10**3), ("adam", 10**5), ("adam", 10**7)]
    assert {(t.dtype, t.grad_dtype, t.threads, t.device) for t in found} == {
        ("float32", "float32", fo.get_num_threads(), "cpu")
    }
    assert {t.isa for t in found} == {fo.build_info()["isa"]}


def test_every_combination_is_a_task_once() -> None:
    found = tasks(
        *("lion", "--optimizer", "Adam", "lion", "--size", "10", "2^4", "--model", "tiny", "--threads", "1", "2"),
        *("--dtype", "float32", "float16", "--grad-dtype", "float32", "--isa", *ISAS),
    )
    expected = product(["10", "16", "tiny"], ["float32", "float16"], [1, 2], ISAS, ["lion", "adam"])
    assert [(t.work.name, t.dtype, t.threads, t.isa, t.optimizer) for t in found] == list(expected)
    assert {t.grad_dtype for t in found} == {"float32"}


def test_gradients_have_the_parameters_dtype_by_default() -> None:
    assert [(t.dtype, t.grad_dtype) for t in tasks("--size", "1", "--dtype", "float16", "float64")] == [
        ("float16", "float16"),
        ("float64", "float64"),
    ]


def test_all_is_every_registered_optimizer() -> None:
    assert [t.optimizer for t in tasks("all", "adam", "--size", "1")] == list(fo.OPTIMIZERS)


def test_options_are_given_to_the_optimizer() -> None:
    (found,) = tasks("rmsprop", "--size", "1", "--option", "centered=True", "--option", "momentum=0.5")
    assert found.settings.variant == "rmsprop_centered_momentum"


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["addam"], ["addam", "expected an optimizer", "adam, adamax, adamw"]),
        (["--size", "1.5"], ["--size", "whole number", "'1.5'"]),
        (["--size", "0"], ["--size", "'0'"]),
        (["--size", "1e99"], ["--size", "'1e99'"]),
        (["--size", "nan"], ["--size", "'nan'"]),
        (["--size", "2^"], ["--size", "'2^'"]),
        (["--size", "0^-1"], ["--size", "'0^-1'"]),
        (["--size", "10^999999999"], ["--size", "'10^999999999'"]),
        (["--size", "1e14"], ["adam on 1e14 float32", "needs 1,600,000.0 GB", "are free"]),
        (["--model", "bert"], ["--model", "gpt2"]),
        (["--dtype", "int8"], ["--dtype", "float32"]),
        (["--threads", "0"], ["--threads", "from 1 to 4096", "got 0"]),
        (["--isa", "avx1024"], ["--isa", "baseline", "'avx1024'"]),
        (["--rounds", "0"], ["--rounds", ">= 1", "got 0"]),
        (["--block", "-1"], ["--block", ">= 1", "got -1"]),
        (["--seconds", "-1"], ["--seconds", "got -1"]),
        (["--seconds", "inf"], ["--seconds", "got inf"]),
        (["--option", "lr"], ["--option", "NAME=VALUE", "'lr'"]),
        (["--option", "lr=-1"], ["adam: lr", ">= 0", "-1"]),
        (["--option", "speed=2"], ["adam: speed", "not an option of Adam"]),
        (["--option", "clip_norm=1.0"], ["clip_norm", "pass of their own"]),
        (["--option", "clip_norm=0"], ["clip_norm", "pass of their own"]),
        (["--option", "clip_global_norm=0"], ["clip_global_norm", "pass of their own"]),
        (["--option", "skip_nonfinite=True"], ["skip_nonfinite", "pass of their own"]),
        (["--option", "lr={[]: 1}"], ["--option lr: expected a number", "{[]: 1}"]),
        (["--json", "no/such/directory/a.json"], ["--json", "directory that exists"]),
        (["--json", ""], ["--json", "can be written", "Is a directory"]),
        (["--json", os.sep], ["--json", "can be written", f"'{os.sep}'"]),
    ],
    ids=lambda value: "-".join(value) if isinstance(value, list) else "",
)
def test_what_cannot_be_is_refused_before_anything_is_timed(
    arguments: list[str], words: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    assert bench(*arguments) == 2
    printed = capsys.readouterr()
    assert printed.out == ""
    assert [word for word in words if word not in printed.err] == [], printed.err


@pytest.mark.skipif(not Path("/proc").exists(), reason="Linux's /proc takes no new files")
def test_a_file_that_cannot_be_written_is_refused(capsys: pytest.CaptureFixture[str]) -> None:
    assert bench("--json", "/proc/x") == 2
    assert "--json: expected a file that can be written" in capsys.readouterr().err


@pytest.mark.parametrize("name", ["x.xyz", "x"])
def test_a_picture_of_an_unknown_format_is_refused(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    pytest.importorskip("matplotlib", reason=MATPLOTLIB)
    assert bench("--plot", name) == 2
    printed = capsys.readouterr()
    assert "--plot: expected a name that ends with one of " in printed.err
    assert ".png" in printed.err
    assert printed.out == ""


def test_trying_a_file_changes_nothing(tmp_path: Path) -> None:
    there, new = tmp_path / "there.json", tmp_path / "new.json"
    there.write_text("before")
    for file in (there, new):
        assert bench("--json", str(file), "--plot", str(tmp_path / "no" / "a.png")) == 2
    assert there.read_text() == "before"
    assert not new.exists()


@pytest.mark.parametrize("value", ["-" * 10_000 + "1", "9" * 5000, "a" * 5000], ids=["deep", "digits", "text"])
def test_a_long_option_is_refused_in_one_short_line(value: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert bench("--option", f"lr={value}") == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert "lr: expected " in line
    assert len(line) < 600


@pytest.mark.parametrize("error", [RecursionError, MemoryError, TypeError])
def test_an_option_that_cannot_be_read_is_named(error: type[Exception], monkeypatch: pytest.MonkeyPatch) -> None:
    def fails(value: str) -> None:
        raise error

    monkeypatch.setattr(ast, "literal_eval", fails)
    with pytest.raises(ValueError, match=r"--option lr: expected a number, .* got 1"):
        cli.option_of("lr=1")


@pytest.mark.skipif(bool(fo.build_info()["cuda_devices"]), reason="has a CUDA device")
def test_a_missing_device_is_refused(capsys: pytest.CaptureFixture[str]) -> None:
    assert bench("--device", "cuda") == 2
    assert "--device cuda: " in capsys.readouterr().err


@pytest.mark.parametrize(
    ("module", "arguments", "extra"),
    [
        ("matplotlib", ["--plot", "a.png"], "fastoptim[bench]"),
        ("matplotlib.figure", ["--plot", "a.png"], "fastoptim[bench]"),
        ("ml_dtypes", ["--dtype", "bfloat16"], "fastoptim[bfloat16]"),
    ],
)
def test_a_missing_extra_is_named(
    module: str, arguments: list[str], extra: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setitem(sys.modules, module, None)
    assert bench(*arguments) == 2
    assert f"needs {module.partition('.')[0]}; pip install '{extra}'" in capsys.readouterr().err


def test_help_shows_examples_that_can_be_parsed() -> None:
    environment = {**os.environ, "PYTHONPATH": str(Path(fo.__file__).parents[1])}
    command = [sys.executable, "-m", "fastoptim", "bench", "--help"]
    shown = subprocess.run(command, env=environment, capture_output=True, text=True, check=True, timeout=60).stdout
    assert "--size" in shown
    examples: list[str] = re.findall(r"^  python -m fastoptim bench(?: (\S.*?))?(?:  .*)?$", shown, flags=re.MULTILINE)
    assert len(examples) >= 5
    for example in examples:
        assert tasks(*(word for word in example.split() if word not in ("--isa", "baseline", "avx2")))


# ---- the answer before the time


def test_a_wrong_answer_is_not_timed(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    right: Callable[..., None] = fo.Adam.reference

    def wrong(p: Array, g: Array, **rest: Any) -> None:
        right(p, g, **rest)
        p.reshape(-1)[-1:] += np.spacing(p.reshape(-1)[-1:])

    monkeypatch.setattr(fo.Adam, "reference", staticmethod(wrong))
    assert bench("sgd", "adam", "--size", "100") == 1
    printed = capsys.readouterr()
    assert "adam: params[0] differs from the reference in 1 of 100 elements" in printed.err
    assert "nothing was timed" in printed.err
    assert "sgd" in printed.out


def test_a_difference_in_one_bit_is_found_and_a_nan_is_a_nan() -> None:
    a = np.array([1, np.nan, 0.0], np.float32)
    b = np.array([1, -np.nan, 0.0], np.float32)
    assert check.count_different(a, b) == 0
    assert check.count_different(a, np.array([1, np.nan, -0.0], np.float32)) == 1
    assert check.count_different(a, np.nextafter(a, np.float32(2))) == 2


def test_what_is_too_large_is_checked_at_its_beginning(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(check, "MOST_ELEMENTS", 100)
    assert check.check(Task("adam", one_array(1000))) == 100
    assert check.check(Task("adam", one_array(99))) == 99


# ---- a run


def test_a_tiny_run_of_every_registered_optimizer(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = tmp_path / "run.json"
    assert bench("all", "--model", "tiny", "--block", "1", "--json", str(file)) == 0
    run = json.loads(file.read_text(encoding="utf-8"))
    assert [row["optimizer"] for row in run["rows"]] == list(fo.OPTIMIZERS)
    shown = capsys.readouterr()
    assert [name for name in fo.OPTIMIZERS if not re.search(rf"^{name} +tiny ", shown.out, re.MULTILINE)] == []
    assert shown.err == ""


@pytest.mark.parametrize("dtype", ["float64", "float16", "bfloat16"])
@pytest.mark.parametrize("grad_dtype", ["float32", "float16"])
def test_a_run_in_other_formats(dtype: str, grad_dtype: str, tmp_path: Path) -> None:
    file = tmp_path / "run.json"
    formats = ("--dtype", dtype, "--grad-dtype", grad_dtype)
    assert bench("adam", "lamb", "--size", "500", *formats, "--json", str(file)) == 0
    rows = json.loads(file.read_text(encoding="utf-8"))["rows"]
    assert {(row["dtype"], row["grad_dtype"], row["checked_elements"]) for row in rows} == {(dtype, grad_dtype, 500)}


def test_the_file_has_the_shape_that_is_promised(tmp_path: Path) -> None:
    file = tmp_path / "run.json"
    assert bench("adam", "--size", "10", "100", "--option", "lr=0.1", "--threads", "1", "--json", str(file)) == 0
    run = json.loads(file.read_text(encoding="utf-8"))
    assert list(run) == list(get_type_hints(results.Results))
    assert run["schema"] == 1
    assert run["machine"] == {**machine.describe(), "threads": run["machine"]["threads"]}
    assert run["settings"]["size"] == ["10", "100"]
    assert run["settings"]["rounds"] == 1
    assert list(run["noise"]) == list(get_type_hints(results.Noise))
    first, second = run["rows"]
    assert list(first) == list(get_type_hints(results.Row))
    for name in ("seconds", "limit_seconds", "fixed_seconds", "limit_fixed_seconds"):
        assert list(first[name]) == list(get_type_hints(results.Times))
    assert (first["elements"], second["elements"]) == (10, 100)
    assert first["options"] == {"lr": 0.1}
    assert first["share"] == pytest.approx(first["limit_seconds"]["median"] / first["seconds"]["median"])
    assert first["gb_per_s"] == pytest.approx(280 / first["seconds"]["median"] / 1e9)
    assert first["ns_per_element"] == pytest.approx(first["seconds"]["median"] / 10 * 1e9)
    assert first["noise"] == "noisy: 1 rounds"


def test_what_is_timed_is_the_step_and_each_instruction_set_s_limit(monkeypatch: pytest.MonkeyPatch) -> None:
    timed: dict[str, timing.Step] = {}

    def noted(steps: dict[str, timing.Step], **budget: Any) -> dict[str, list[float]]:
        timed.update(steps)
        slower = {f"limit {isa}": [2.0 + (isa != ISAS[0])] * 5 for isa in ISAS}
        return {name: slower.get(name, [4.0] * 5) for name in steps}

    setups: list[task.Setup] = []

    def kept(about: Task) -> task.Setup:
        setups.append(task.set_up(about))
        return setups[-1]

    monkeypatch.setattr(measure, "interleave", noted)
    monkeypatch.setattr(measure, "set_up", kept)
    row = measure.measure(Task("adam", one_array(50), isa=ISAS[-1]), seconds=0)
    assert (row["limit_isa"], row["share"]) == (ISAS[0], 0.5)
    whole, empty = (setup.opt.param_states[0] for setup in setups)
    changes = {}
    for name, step in timed.items():
        before = [slot.p.tobytes() for slot in (whole, empty)]
        step()
        changes[name] = [slot.p.tobytes() != p for slot, p in zip((whole, empty), before, strict=True)]
    limits = [f"{kind} {isa}" for kind in ("limit", "fixed limit") for isa in ISAS]
    assert changes == {"step": [True, False], "fixed": [False, True]} | {name: [False, False] for name in limits}


def test_settings_are_put_back() -> None:
    before = (fo.get_num_threads(), native.Engine.isa)
    bench("sgd", "--size", "10", "--threads", str(before[0] + 1), "--isa", ISAS[0])
    assert (fo.get_num_threads(), native.Engine.isa) == before


@pytest.fixture
def stopped_by(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> Callable[[BaseException], tuple[int, str]]:
    """Of a run that is stopped by an error at its second of three rows: the status, and what it complains of.

    The first row is printed and written.
    """

    def run(error: BaseException) -> tuple[int, str]:
        def failing(about: Task, **budget: Any) -> results.Row:
            if about.optimizer == "lion":
                raise error
            return measure.measure(about, **budget)

        monkeypatch.setattr(cli, "measure", failing)
        file = tmp_path / "run.json"
        status = bench("adam", "lion", "sgd", "--size", "10", "--json", str(file))
        printed = capsys.readouterr()
        assert re.search(r"^adam ", printed.out, re.MULTILINE)
        assert [row["optimizer"] for row in json.loads(file.read_text(encoding="utf-8"))["rows"]] == ["adam"]
        return status, printed.err

    return run


def test_an_interrupted_run_prints_what_it_has(stopped_by: Callable[[BaseException], tuple[int, str]]) -> None:
    status, complaint = stopped_by(KeyboardInterrupt())
    assert status == 130
    assert "interrupted after 1 of 3 rows" in complaint


@pytest.mark.parametrize(
    ("error", "shown"), [(MemoryError(), "MemoryError"), (RuntimeError("two\nlines"), "RuntimeError: two lines")]
)
def test_a_run_that_fails_prints_what_it_has(
    error: Exception, shown: str, stopped_by: Callable[[BaseException], tuple[int, str]]
) -> None:
    status, complaint = stopped_by(error)
    assert status == 1
    (line,) = complaint.splitlines()
    assert line.endswith(f": error: {shown}, after 1 of 3 rows")


def test_a_file_that_fails_in_the_end_is_one_line(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    def full(path: Path, run: object) -> None:
        raise OSError("No space left on device")

    monkeypatch.setattr(results, "write", full)
    assert bench("adam", "--size", "10", "--json", str(tmp_path / "run.json")) == 1
    printed = capsys.readouterr()
    assert printed.err.count("\n") == 1
    assert "No space left on device" in printed.err
    assert re.search(r"^adam ", printed.out, re.MULTILINE)


@pytest.mark.skipif(os.name == "nt", reason="a closed pipe is another error there")
def test_a_reader_that_goes_away_is_no_error(tmp_path: Path) -> None:
    file = tmp_path / "run.json"
    command = [sys.executable, "-m", "fastoptim", "bench", "sgd", "--size", "10", "--rounds", "1", "--json", str(file)]
    environment = {**os.environ, "PYTHONPATH": str(Path(fo.__file__).parents[1])}
    reading, writing = os.pipe()
    os.close(reading)
    try:
        ended = subprocess.run(command, env=environment, stdout=writing, stderr=subprocess.PIPE, timeout=60)
    finally:
        os.close(writing)
    assert (ended.returncode, ended.stderr) == (0, b"")
    assert len(json.loads(file.read_text(encoding="utf-8"))["rows"]) == 1


def test_a_run_interrupted_at_once_says_so(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    def interrupted(about: Task, **budget: Any) -> results.Row:
        raise KeyboardInterrupt

    monkeypatch.setattr(cli, "measure", interrupted)
    assert bench("adam", "--size", "10") == 130
    assert "nothing was measured" in capsys.readouterr().out
