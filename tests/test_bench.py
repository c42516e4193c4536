"""``python -m fastoptim bench``: what it times, what it says, and what it refuses.  No test asserts a time."""

from __future__ import annotations

import ast
import io
import json
import math
import os
import re
import subprocess
import sys
from collections.abc import Callable, Sequence
from functools import reduce
from itertools import pairwise, product
from pathlib import Path
from typing import Any, get_type_hints

import numpy as np
import pytest

import fastoptim as fo
from cases import (
    DTYPES,
    FLOAT32,
    ISAS,
    MIN_SHARE,
    PLAIN_CASES,
    Array,
    Case,
    DType,
    bits,
    case_id,
    ordinary_values,
    state_values,
)
from fastoptim import __main__, native
from fastoptim.bench import check, cli, machine, measure, models, plot, progress, results, table, task, timing
from fastoptim.bench.models import Work, model, one_array
from fastoptim.bench.task import Task

MATPLOTLIB = "needs matplotlib"


def bench(*arguments: str) -> int:
    """The command line in this process, with the smallest budget; its exit status."""
    try:
        parsed = __main__.make_parser().parse_args(["bench", "--seconds", "0", "--rounds", "1", *arguments])
    except SystemExit as refused:
        return int(refused.code or 0)
    return cli.run(parsed)


def a_row(**changed: Any) -> results.Row:
    times = results.Times(median=1e-3, low=0.9e-3, high=1.2e-3, rounds=7)
    tiny = results.Times(median=4e-6, low=3e-6, high=5e-6, rounds=7)
    row: results.Row = {
        "optimizer": "adam",
        "options": {},
        "work": "1e6",
        "elements": 10**6,
        "arrays": 1,
        "dtype": "float32",
        "grad_dtype": "float32",
        "threads": 2,
        "isa": "baseline",
        "device": "cpu",
        "bytes": 28 * 10**6,
        "seconds": times,
        "limit_seconds": times,
        "limit_isa": "baseline",
        "fixed_seconds": tiny,
        "limit_fixed_seconds": tiny,
        "share": 1.0,
        "share_beyond_fixed": 1.0,
        "ns_per_element": 1.0,
        "gb_per_s": 28.0,
        "noise": timing.QUIET,
        "checked_elements": 10**6,
    }
    row.update(changed)  # type: ignore[typeddict-item]
    return row


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


# ---- the limit


def words(array: Array) -> list[int]:
    return [int(word) for word in bits(array)]


def xor(numbers: Sequence[int]) -> int:
    return reduce(int.__xor__, numbers, 0)


def optimizer_on(case: Case, sizes: Sequence[int], p_dtype: DType, g_dtype: DType) -> tuple[fo.Optimizer, list[Array]]:
    rng = np.random.default_rng(0)
    opt = case.optimize([ordinary_values(rng, p_dtype, size) for size in sizes])
    for slot in opt.slots:
        for name, array in slot.state.items():
            if name not in case.optimizer.scalars:
                array[...] = state_values(rng, array.dtype, array.size).reshape(array.shape)
    return opt, [ordinary_values(rng, g_dtype, size) for size in sizes]


def arrays_of(slot: Any, g: Array, case: Case) -> list[Array]:
    return [slot.p, g, *(slot.state[name] for name in native.RULES[case.variant].state)]


def expected_limit(opt: fo.Optimizer, grads: list[Array], case: Case, mask: int) -> tuple[list[bytes], int]:
    """What the passes leave, and what they answer, in plain Python."""
    rule, left, answer = native.RULES[case.variant], [], 0
    for slot, g in zip(opt.slots, grads, strict=True):
        arrays = [array.copy() for array in arrays_of(slot, g, case)]
        for accesses in (rule.measured, rule.updated):
            for array, access in zip(arrays, accesses, strict=False):
                if access == "r":
                    answer ^= xor(words(array))
                elif access == "rw":
                    bits(array)[:] ^= mask & (2 ** (8 * array.itemsize) - 1)
        left += [array.tobytes() for array in arrays]
    return left, answer


MASK = 0x0123_4567_89AB_CDEF


@pytest.mark.parametrize("case", PLAIN_CASES, ids=case_id)
@pytest.mark.parametrize(("p_dtype", "g_dtype"), list(product(DTYPES, DTYPES)), ids=str)
def test_the_limit_reads_and_writes_what_it_says(case: Case, p_dtype: DType, g_dtype: DType, isa: str) -> None:
    opt, grads = optimizer_on(case, [1, 67, 0, 130], p_dtype, g_dtype)
    expected, answer = expected_limit(opt, grads, case, MASK)
    limit = native.limit_of(opt.slots, grads, case.optimizer.check_options(case.options), isa)
    assert limit(MASK) == answer
    assert [a.tobytes() for s, g in zip(opt.slots, grads, strict=True) for a in arrays_of(s, g, case)] == expected


@pytest.mark.parametrize("threads", [1, 3])
@pytest.mark.parametrize("case", [case for case in PLAIN_CASES if case.id in ("adam", "lamb", "madgrad")], ids=case_id)
def test_the_limit_takes_every_element_once_on_any_number_of_threads(case: Case, threads: int) -> None:
    fo.set_num_threads(threads)
    opt, grads = optimizer_on(case, [2 * MIN_SHARE + 5, 1001, 3 * MIN_SHARE], FLOAT32, FLOAT32)
    expected, answer = expected_limit(opt, grads, case, MASK)
    assert native.limit_of(opt.slots, grads, case.optimizer.check_options(case.options))(MASK) == answer
    assert [a.tobytes() for s, g in zip(opt.slots, grads, strict=True) for a in arrays_of(s, g, case)] == expected


def test_the_limit_writes_an_average_too() -> None:
    p, g = np.ones(100, np.float32), np.ones(100, np.float32)
    opt = fo.SGD(p, ema=0.9)
    average = opt.slots[0].state["average"]
    before = bits(average).copy()
    native.limit_of(opt.slots, [g], fo.SGD.check_options({"ema": 0.9}))(MASK)
    assert (bits(average) == before ^ np.uint32(MASK & 0xFFFFFFFF)).all()


@pytest.mark.parametrize("case", PLAIN_CASES, ids=case_id)
def test_a_mask_of_zero_changes_nothing(case: Case) -> None:
    """So that the limit can run on the optimizer's own arrays."""
    opt, grads = optimizer_on(case, [1000, 3], FLOAT32, FLOAT32)
    before = [a.tobytes() for s, g in zip(opt.slots, grads, strict=True) for a in arrays_of(s, g, case)]
    native.limit_of(opt.slots, grads, case.optimizer.check_options(case.options))(0)
    assert [a.tobytes() for s, g in zip(opt.slots, grads, strict=True) for a in arrays_of(s, g, case)] == before


@pytest.mark.parametrize("case", PLAIN_CASES, ids=case_id)
def test_a_step_writes_what_its_rule_says_and_depends_on_what_it_only_reads(case: Case) -> None:
    rule = native.RULES[case.variant]
    names = ("p", "g", *rule.state)
    passes = [dict(zip(names, accesses, strict=True)) for accesses in (rule.measured, rule.updated) if accesses]
    reads = {name for accesses in passes for name, access in accesses.items() if access}
    writes = {name for accesses in passes for name, access in accesses.items() if access == "rw"}

    def stepped(spoilt: str = "") -> tuple[dict[str, bytes], dict[str, bytes]]:
        opt, grads = optimizer_on(case, [50], FLOAT32, FLOAT32)
        opt.step(grads)
        slot = opt.slots[0]
        arrays = {"p": slot.p, "g": grads[0], **slot.state}
        grads[0] *= 0.7
        if spoilt:
            arrays[spoilt] *= -3
        before = {name: array.tobytes() for name, array in arrays.items()}
        opt.step(grads)
        return before, {name: array.tobytes() for name, array in arrays.items()}

    before, after = stepped()
    changed = {name for name in names if before[name] != after[name]}
    assert changed <= writes
    assert writes - changed <= {"p", *case.every_state} - {"p", *case.written}
    for name in set(names) - writes:
        other = stepped(name)[1]
        moved = {n for n in after if n != name and other[n] != after[n]}
        assert bool(moved) == (name in reads), f"{name} is {'' if name in reads else 'not '}read, but moves {moved}"


# What an element of float32 costs by hand: p and g, and what the papers' formulas keep.
BYTES = {"sgd": 12, "lion": 20, "adam": 28, "adagrad": 20, "adan": 44, "lars": 28, "lamb": 40, "novograd": 24}
BYTES |= {"madgrad": 32, "sophia": 24, "prodigy": 52, "signsgd": 12}


@pytest.mark.parametrize(("name", "count"), BYTES.items())
def test_bytes_are_those_counted_by_hand(name: str, count: int) -> None:
    assert Task(name, one_array(10)).bytes_moved == 10 * count


def test_bytes_follow_the_formats_and_the_average() -> None:
    ten = one_array(10)
    assert Task("adam", ten, "float16", "float16").bytes_moved == 10 * (2 * 2 + 2 + 4 * 4)
    assert Task("adam", ten, "bfloat16", "float32").bytes_moved == 10 * (2 * 2 + 4 + 4 * 4)
    assert Task("adam", ten, "float64", "float64").bytes_moved == 10 * (2 * 8 + 8 + 4 * 8)
    assert Task("adam", ten, options=(("ema", 0.9),)).bytes_moved == 10 * 36
    assert Task("adam", ten, options=(("amsgrad", True),)).bytes_moved == 10 * 36


@pytest.mark.parametrize("case", PLAIN_CASES, ids=case_id)
@pytest.mark.parametrize("p_dtype", DTYPES, ids=str)
def test_memory_is_that_of_the_arrays(case: Case, p_dtype: DType) -> None:
    given = tuple((k, v) for k, v in case.options.items() if v != case.optimizer.defaults[k])
    about = Task(case.optimizer.name, Work("w", ((30,), (2, 5))), p_dtype.name, p_dtype.name, options=given)
    opt, grads = task.optimizer_of(about, "native")
    arrays = [a for slot in opt.slots for a in (slot.p, *slot.state.values()) if a.shape == slot.p.shape]
    assert about.bytes_kept == sum(array.nbytes for array in [*arrays, *grads])


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
    whole, empty = (setup.opt.slots[0] for setup in setups)
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


def test_an_interrupted_run_prints_what_it_has(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    def interrupted(about: Task, **budget: Any) -> results.Row:
        if about.optimizer == "lion":
            raise KeyboardInterrupt
        return measure.measure(about, **budget)

    monkeypatch.setattr(cli, "measure", interrupted)
    file = tmp_path / "run.json"
    assert bench("adam", "lion", "sgd", "--size", "10", "--json", str(file)) == 130
    printed = capsys.readouterr()
    assert "interrupted after 1 of 3 rows" in printed.err
    assert re.search(r"^adam ", printed.out, re.MULTILINE)
    assert [row["optimizer"] for row in json.loads(file.read_text(encoding="utf-8"))["rows"]] == ["adam"]


@pytest.mark.parametrize(
    ("error", "shown"), [(MemoryError(), "MemoryError"), (RuntimeError("two\nlines"), "RuntimeError: two lines")]
)
def test_a_run_that_fails_prints_what_it_has(
    error: Exception, shown: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    def failing(about: Task, **budget: Any) -> results.Row:
        if about.optimizer == "lion":
            raise error
        return measure.measure(about, **budget)

    monkeypatch.setattr(cli, "measure", failing)
    file = tmp_path / "run.json"
    assert bench("adam", "lion", "sgd", "--size", "10", "--json", str(file)) == 1
    printed = capsys.readouterr()
    (line,) = printed.err.splitlines()
    assert line.endswith(f": error: {shown}, after 1 of 3 rows")
    assert re.search(r"^adam ", printed.out, re.MULTILINE)
    assert [row["optimizer"] for row in json.loads(file.read_text(encoding="utf-8"))["rows"]] == ["adam"]


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


# ---- the table


def test_columns_are_aligned_with_every_optimizer() -> None:
    times = [1e-7, 3.4e-6, 5.6e-3, 7.0, 123.4]
    rows = []
    for i, name in enumerate(fo.OPTIMIZERS):
        median = times[i % len(times)]
        seconds = results.Times(median=median, low=median / 3, high=median * 3, rounds=5)
        rows.append(a_row(optimizer=name, seconds=seconds, noise="quiet" if i % 3 else "noisy: spread 90 %", threads=i))
    header, *lines = table.table(rows).splitlines()
    assert len(lines) == len(fo.OPTIMIZERS)
    for column in ("optimizer", "work", "threads", "noise"):
        at = header.index(column)
        assert {line[at - 1 : at] for line in lines if len(line) > at} <= {"", " "}
    for column in ("a step", "10-90 %", "ns/element", "GB/s", "limit", "share", "fixed", "beyond"):
        end = header.index(column) + len(column)
        assert all(line[end - 1] != " " and line[end : end + 1] in ("", " ") for line in lines), column


def test_what_all_rows_share_stands_above_the_table() -> None:
    rows = [a_row(), a_row(threads=1)]
    assert "threads" in table.table(rows).splitlines()[0]
    assert "dtype" not in table.table(rows).splitlines()[0]
    assert "dtype float32" in table.in_common(rows)
    assert "threads" not in table.in_common(rows)


def test_options_stand_beside_the_name() -> None:
    assert table.name_of(a_row(options={"amsgrad": True, "lr": 0.1})) == "adam(amsgrad=True, lr=0.1)"


@pytest.mark.parametrize(
    ("seconds", "shown"), [(3.2e-7, "0.320 us"), (1.5e-4, "150 us"), (2.5e-2, "25.0 ms"), (12.0, "12.0 s")]
)
def test_durations_are_short(seconds: float, shown: str) -> None:
    assert table.duration(seconds) == shown


# ---- progress


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


@pytest.mark.parametrize("installed", [True, False], ids=["tqdm", "own"])
def test_a_terminal_is_shown_how_far_it_is(installed: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    if installed:
        pytest.importorskip("tqdm")
    else:
        monkeypatch.setitem(sys.modules, "tqdm", None)
    stream = Terminal()
    with progress.Progress(4, stream) as shown:
        for name in ("adam 10", "lion 10"):
            shown.begin(name)
            shown.part(0.5)
            shown.end()
    assert "adam 10" in stream.getvalue()
    assert "lion 10" in stream.getvalue()
    assert "\r" in stream.getvalue()
    assert "\n" not in stream.getvalue().rstrip()


def test_nothing_is_shown_elsewhere() -> None:
    stream = io.StringIO()
    with progress.Progress(4, stream) as shown:
        shown.begin("adam")
        shown.part(0.5)
        shown.end()
    assert stream.getvalue() == ""


def test_a_line_fits_its_terminal() -> None:
    for columns, done in product((20, 80, 200), (0, 1.5, 4)):
        shown = progress.line(done, 4, "adam 1e6", columns)
        assert len(shown) == columns - 1
    assert progress.line(2, 4, "", 80).count("#") == 20


# ---- the picture


def test_a_picture_is_drawn(tmp_path: Path) -> None:
    pytest.importorskip("matplotlib", reason=MATPLOTLIB)
    file = tmp_path / "run.png"
    assert bench("all", "--size", "10", "30", "--model", "tiny", "--block", "1", "--plot", str(file)) == 0
    assert file.read_bytes().startswith(b"\x89PNG")
    assert file.stat().st_size > 20_000


def test_no_window_is_opened_and_the_format_is_the_name_s(tmp_path: Path) -> None:
    matplotlib = pytest.importorskip("matplotlib", reason=MATPLOTLIB)
    before = matplotlib.get_backend(auto_select=False)
    plot.draw([a_row(), a_row(threads=1, share=0.5)], tmp_path / "run.svg", machine.describe())
    assert "<svg" in (tmp_path / "run.svg").read_text(encoding="utf-8")
    assert matplotlib.get_backend(auto_select=False) == before


def test_a_panel_for_each_setting() -> None:
    rows = [a_row(), a_row(threads=1), a_row(dtype="float16"), a_row(work="2e6")]
    panels = plot.panels_of(rows)
    assert [len(members) for members in panels.values()] == [2, 1, 1]
    assert list(panels)[:2] == ["float32, 2 threads, baseline, cpu", "float32, 1 thread, baseline, cpu"]
    assert list(panels)[2].startswith("float16 with float32 gradients")


@pytest.mark.parametrize("places", [[0.1] * 5, [0.0, 0.01, 0.5, 1.0], [1.0] * 40, [0.97, 0.99, 1.0], []])
def test_names_keep_clear_of_each_other(places: list[float]) -> None:
    found = plot.spaced(places, 0.05, 1.0)
    assert len(found) == len(places)
    assert all(b - a >= 0.05 - 1e-6 for a, b in pairwise(found))
    assert all(math.isfinite(place) for place in found)
    if 0.05 * (len(places) - 1) <= 1:
        assert all(0 <= place <= 1 for place in found)
