"""``python -m fastoptim bench --device cuda``: the pass that steps are measured against, a run, and what is refused.

No test asserts a time.
"""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Iterator
from itertools import product
from pathlib import Path
from typing import Any, get_type_hints

import numpy as np
import pytest

import fastoptim as fo
from benching import bench
from cases import DTYPES, FLOAT32, FLOAT64, PLAIN_CASES, Array, Case, DType, bits, case_id, ordinary_values
from devices import IS_EMULATED, Placed, get, put, with_device
from fastoptim.arrays.param_state import ParamState
from fastoptim.bench import check, cli, gpu, measure, results, table, task, timing
from fastoptim.bench.models import one_array
from fastoptim.bench.task import Task
from fastoptim.engines import cuda
from limits import MASK, arrays_of, expected_limit, optimizer_on

# Around what a thread and a block work on at a time; and so many arrays that their table does not fit into an emulated
# launch's arguments, with one that does.
SIZES = [1, 67, 0, 1030, 4099]
MANY = [*SIZES, *[3] * 40]


@pytest.fixture(autouse=IS_EMULATED)
def _blocks_in_any_order(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FASTOPTIM_EMULATED_ORDER", "random")


@pytest.fixture
def cupy(xp: Any, monkeypatch: pytest.MonkeyPatch) -> Any:
    """What the benchmark imports as CuPy."""
    monkeypatch.setitem(sys.modules, "cupy", xp)
    return xp


# ---- the limit


class Twin:
    """An optimizer's slots and gradients once more on the device, each array somewhere else in a line."""

    def __init__(self, xp: Any, opt: fo.Optimizer, grads: list[Array], offsets: Iterator[int]) -> None:
        self.placed: dict[str, Placed] = {}

        def place(name: str, array: Array) -> Any:
            self.placed[name] = Placed(xp, array, next(offsets) * array.itemsize)
            return self.placed[name].array

        self.param_states, self.grads = [], []
        for i, (slot, g) in enumerate(zip(opt.param_states, grads, strict=True)):
            p = place(f"p[{i}]", slot.p)
            self.grads.append(place(f"g[{i}]", g))
            state = {
                k: put(xp, array) if slot.schema_of(k).is_scalar else place(f"{k}[{i}]", array)
                for k, array in slot.state.items()
            }
            self.param_states.append(ParamState(p, state, place=f"[{i}]", schema=slot.schema))

    def arrays_of(self, i: int, case: Case) -> list[Array]:
        """As `limits.arrays_of`, copied to the CPU."""
        names = [f"{name}[{i}]" for name in ("p", "g", *fo.core.RULES[case.variant].state)]
        return [self.placed[name].values for name in names]

    def assert_intact(self) -> None:
        for name, array in self.placed.items():
            array.assert_intact(name)


def some_offsets() -> Iterator[int]:
    """In elements: aligned, alike but not aligned, and all different; again and again."""
    rng = np.random.default_rng(5)
    while True:
        yield from [0] * 7 + [3] * 7 + rng.integers(0, 8, 7).tolist()


def assert_limit(twin: Twin, opt: fo.Optimizer, grads: list[Array], case: Case) -> None:
    models = [arrays_of(slot, g, case) for slot, g in zip(opt.param_states, grads, strict=True)]
    expected, answer = expected_limit(models, case, MASK)
    limit = cuda.BandwidthProbe(twin.param_states, twin.grads, case.optimizer.check_options(case.options))
    limit(MASK)
    assert limit.answer() == answer
    left = [array.tobytes() for i in range(len(models)) for array in twin.arrays_of(i, case)]
    assert [i for i, (got, wanted) in enumerate(zip(left, expected, strict=True)) if got != wanted] == []
    twin.assert_intact()
    limit(MASK)
    limit.answer()
    for i, model in enumerate(models):
        assert [a.tobytes() for a in twin.arrays_of(i, case)] == [a.tobytes() for a in model], "twice is not never"


@with_device
@pytest.mark.parametrize("case", PLAIN_CASES, ids=case_id)
@pytest.mark.parametrize(("p_dtype", "g_dtype"), list(product(DTYPES, DTYPES)), ids=str)
def test_the_limit_reads_and_writes_what_a_step_does(xp: Any, case: Case, p_dtype: DType, g_dtype: DType) -> None:
    opt, grads = optimizer_on(case, SIZES, p_dtype, g_dtype)
    assert_limit(Twin(xp, opt, grads, some_offsets()), opt, grads, case)


SOME = [case for case in PLAIN_CASES if case.id in ("sgd", "adam", "lamb", "prodigy", "novograd", "aggmo")]


@with_device
@pytest.mark.parametrize("case", SOME, ids=case_id)
@pytest.mark.parametrize("offset", range(8))
def test_the_limit_takes_arrays_from_any_element_on(xp: Any, case: Case, offset: int) -> None:
    opt, grads = optimizer_on(case, SIZES, FLOAT32, FLOAT32)
    assert_limit(Twin(xp, opt, grads, iter(lambda: offset, None)), opt, grads, case)


@with_device
@pytest.mark.parametrize("case", SOME, ids=case_id)
def test_the_limit_takes_many_arrays_of_both_compute_types(xp: Any, case: Case) -> None:
    """In two launches a pass, whose tables are on the device where there are enough arrays."""
    rng = np.random.default_rng(1)
    dtypes = [FLOAT64 if i % 3 else FLOAT32 for i in range(len(MANY))]
    opt = case.optimize([ordinary_values(rng, dtype, size) for dtype, size in zip(dtypes, MANY, strict=True)])
    grads = [ordinary_values(rng, FLOAT32 if i % 2 else FLOAT64, size) for i, size in enumerate(MANY)]
    assert_limit(Twin(xp, opt, grads, some_offsets()), opt, grads, case)


@with_device
@pytest.mark.parametrize("p_dtype", DTYPES, ids=str)
def test_the_limit_writes_an_average_too(xp: Any, p_dtype: DType) -> None:
    host = np.ones(5000, p_dtype)
    opt = fo.Adam(put(xp, host), ema=0.9)
    average = opt.param_states[0].state["average"]
    before = bits(get(xp, average))
    limit = cuda.BandwidthProbe(opt.param_states, [put(xp, host)], fo.Adam.check_options({"ema": 0.9}))
    limit(MASK)
    limit.answer()
    assert (bits(get(xp, average)) == before ^ before.dtype.type(MASK & (2 ** (8 * before.itemsize) - 1))).all()


@with_device
def test_the_limit_takes_gradients_in_another_memory_order(xp: Any) -> None:
    p, g = np.ones((60, 70), np.float32), np.random.default_rng(0).standard_normal((70, 60), np.float32).T
    opt = fo.SGD(put(xp, p))
    limit = cuda.BandwidthProbe(opt.param_states, [put(xp, g)], fo.SGD.check_options({}))
    limit(0)
    assert limit.answer() == np.bitwise_xor.reduce(bits(g))


@with_device
def test_the_limit_refuses_what_a_step_would(xp: Any) -> None:
    opt = fo.SGD(put(xp, np.ones(5, np.float32)))
    with pytest.raises(ValueError, match=r"grads: expected shape \(5,\)"):
        cuda.BandwidthProbe(opt.param_states, [put(xp, np.ones(6, np.float32))], fo.SGD.check_options({}))


# ---- a run


def rows_of(file: Path) -> list[dict[str, Any]]:
    rows: list[dict[str, Any]] = json.loads(file.read_text(encoding="utf-8"))["rows"]
    return rows


@with_device
def test_a_run_on_the_device(cupy: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = tmp_path / "run.json"
    arguments = ("--device", "cuda", "--size", "1000", "--rounds", "5", "--json", str(file))
    assert bench("adam", "sgd", "lamb", *arguments) == 0
    run = json.loads(file.read_text(encoding="utf-8"))
    assert [row["optimizer"] for row in run["rows"]] == ["adam", "sgd", "lamb"]
    for row in run["rows"]:
        assert list(row) == list(get_type_hints(results.Row))
        assert (row["device"], row["threads"], row["isa"], row["limit_isa"]) == ("cuda", None, None, None)
        assert (row["checked_elements"], row["seconds"]["rounds"]) == (1000, 5)
        assert row["share"] == pytest.approx(row["limit_seconds"]["median"] / row["seconds"]["median"])
    found = gpu.describe()
    assert run["machine"]["gpu"] == found
    shown = capsys.readouterr()
    assert [name for name in ("adam", "sgd", "lamb") if not re.search(rf"^{name} +1e3 ", shown.out, re.MULTILINE)] == []
    assert found["name"] in shown.out.splitlines()[2]
    assert "dtype float32, grad dtype float32, device cuda; answers equal" in shown.out
    assert shown.err == ""


@with_device
@pytest.mark.parametrize("dtype", ["float64", "float16", "bfloat16"])
def test_a_run_in_other_formats_with_a_model_s_arrays(cupy: Any, dtype: str, tmp_path: Path) -> None:
    file = tmp_path / "run.json"
    arguments = ("--device", "cuda", "--model", "tiny", "--dtype", dtype, "--option", "ema=0.9", "--block", "2")
    assert bench("adam", "prodigy", "nag", *arguments, "--json", str(file)) == 0
    assert [(row["dtype"], row["arrays"]) for row in rows_of(file)] == [(dtype, 4)] * 3


@with_device
def test_both_devices_in_one_table(cupy: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """What is the CPU's alone varies its rows alone."""
    file = tmp_path / "run.json"
    arguments = ("--device", "cuda", "cpu", "--threads", "1", "2", "--size", "100", "--json", str(file))
    assert bench("sgd", *arguments) == 0
    assert [(row["device"], row["threads"]) for row in rows_of(file)] == [("cpu", 1), ("cpu", 2), ("cuda", None)]
    lines = capsys.readouterr().out.splitlines()
    header = next(line for line in lines if line.startswith("optimizer"))
    on_gpu = next(line for line in lines if line.startswith("sgd") and " cuda " in line)
    assert on_gpu[header.index("threads") :].startswith("        ")


@with_device
def test_what_is_timed_is_the_step_and_the_limit(cupy: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    timed: dict[str, timing.Step] = {}
    waits: list[Any] = []

    def noted(steps: dict[str, timing.Step], *, wait: timing.Step, **budget: Any) -> dict[str, list[float]]:
        timed.update(steps)
        waits.append(wait)
        return {name: [2.0 if "limit" in name else 4.0] * 5 for name in steps}

    setups: list[task.Setup] = []

    def kept(about: Task) -> task.Setup:
        setups.append(task.set_up(about))
        return setups[-1]

    wait = gpu.waiting()
    monkeypatch.setattr(gpu, "waiting", lambda: wait)
    monkeypatch.setattr(measure, "interleave", noted)
    monkeypatch.setattr(measure, "set_up", kept)
    row = measure.measure(Task("adam", one_array(50), threads=None, isa=None, device="cuda"), seconds=0)
    assert row["share"] == 0.5
    assert waits == [wait]
    whole, empty = (setup.opt.param_states[0] for setup in setups)
    changes = {}
    for name, step in timed.items():
        before = [get(cupy, slot.p) for slot in (whole, empty)]
        step()
        changes[name] = [bool((get(cupy, s.p) != p).any()) for s, p in zip((whole, empty), before, strict=True)]
    still = [False, False]
    expected = {"step": [True, False], "fixed": [False, True], "limit cuda": still, "fixed limit cuda": still}
    assert changes == expected


@with_device
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_gradients_are_turned_around(xp: Any, dtype: DType) -> None:
    host = np.array([[1.5, -2.0], [0.0, -np.inf]], dtype)
    g = put(xp, host)
    measure.turn_around([g, put(xp, np.empty(0, dtype))])
    assert (bits(get(xp, g)) == bits(np.array([[-1.5, 2.0], [-0.0, np.inf]], dtype))).all()


@with_device
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_the_numbers_are_those_of_the_cpu(cupy: Any, dtype: DType, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(task, "_NUMBERS", 300)
    about = Task("sgd", one_array(1000), dtype.name, dtype.name, device="cuda")
    there, grads = task.optimizer_of(about, "native")
    here, same = task.optimizer_of(about, "reference")
    for got, wanted in zip([there.param_states[0].p, *grads], [here.param_states[0].p, *same], strict=True):
        assert isinstance(got, cupy.ndarray)
        assert get(cupy, got).tobytes() == wanted.tobytes()


@with_device
def test_a_wrong_answer_is_not_timed(
    cupy: Any, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    right = fo.Adam.reference

    def wrong(p: Array, g: Array, m: Array, v: Array, **rest: Any) -> None:
        right(p, g, m, v, **rest)
        v.reshape(-1)[-1:] += np.spacing(v.reshape(-1)[-1:])

    monkeypatch.setattr(fo.Adam, "reference", staticmethod(wrong))
    assert bench("sgd", "adam", "--size", "100", "--device", "cuda") == 1
    printed = capsys.readouterr()
    assert re.search(r"adam: \S+ differs from the reference in 1 of 100 elements", printed.err)
    assert "nothing was timed" in printed.err
    assert "sgd" in printed.out


@with_device
def test_what_is_too_large_is_checked_at_its_beginning(cupy: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(check, "MOST_ELEMENTS", 100)
    assert check.check(Task("adam", one_array(1000), device="cuda")) == 100


@with_device
def test_a_picture_names_the_gpu(cupy: Any, tmp_path: Path) -> None:
    pytest.importorskip("matplotlib", reason="needs matplotlib")
    file = tmp_path / "run.svg"
    assert bench("adam", "--size", "10", "30", "--device", "cpu", "cuda", "--plot", str(file)) == 0
    assert file.stat().st_size > 10_000


# ---- refusals


@with_device
@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--threads", "2"], ["--threads: expected none with --device cuda alone"]),
        (["--isa", "baseline"], ["--isa: expected none with --device cuda alone"]),
        (["--size", "1e13"], ["adam on 1e13 float32", "needs 160,000.0 GB", "are free on the GPU"]),
        (["--option", "clip_norm=1.0"], ["clip_norm", "pass of their own"]),
    ],
    ids=lambda value: "-".join(value) if isinstance(value, list) else "",
)
def test_what_cannot_be_is_refused(
    cupy: Any, arguments: list[str], words: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    assert bench("--device", "cuda", *arguments) == 2
    printed = capsys.readouterr()
    assert printed.out == ""
    assert [word for word in words if word not in printed.err] == [], printed.err


@with_device
def test_the_gpu_s_memory_counts_and_not_the_machine_s(
    cupy: Any, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(gpu, "free_bytes", lambda: 1000)
    assert bench("sgd", "--device", "cuda", "--size", "1e3") == 2
    assert "are free on the GPU" in capsys.readouterr().err
    assert bench("sgd", "--device", "cpu", "--size", "1e3") == 0


@pytest.mark.skipif(bool(fo.core.cuda_status()), reason="needs a device, or an emulated one")
def test_a_missing_cupy_is_named(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setitem(sys.modules, "cupy", None)
    assert bench("--device", "cuda") == 2
    printed = capsys.readouterr()
    assert "--device cuda: needs CuPy; pip install 'fastoptim[cuda13]'" in printed.err
    assert printed.out == ""


@pytest.mark.skipif(not IS_EMULATED, reason="needs a build with FASTOPTIM_CUDA=EMULATED")
def test_a_missing_device_is_refused(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setenv("FASTOPTIM_EMULATED_DEVICES", "0")
    assert bench("--device", "cuda") == 2
    assert "--device cuda: no CUDA device was found" in capsys.readouterr().err


def test_a_gpu_s_row_has_neither_threads_nor_an_instruction_set() -> None:
    parsed = fo.__main__.make_parser().parse_args(["bench", "--device", "cuda", "cuda"])
    assert {(t.device, t.threads, t.isa) for t in cli.tasks_of(parsed)} == {("cuda", None, None)}


def test_a_gpu_is_shown_in_a_line() -> None:
    found = {"name": "NVIDIA X", "compute_capability": "9.0", "memory_bytes": 80 * 2**30, "processors": 132}
    found |= {"driver": "13.0", "cupy": "14.2"}
    shown = ", ".join(table.gpu_of(found, "13.0"))
    assert shown == "NVIDIA X (9.0), 132 multiprocessors, 80 GiB, driver for CUDA 13.0, built with CUDA 13.0, CuPy 14.2"
