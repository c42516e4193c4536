"""The benchmark on a GPU or the emulated device: the probe, a run, and what is rejected.  No test asserts a time."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import pytest
from bench_helpers import read_rows, run_bench

from devices import with_device
from fastoptim.bench import internals, machine
from fastoptim.bench.workload import Workload


@pytest.fixture
def cupy(xp: Any, monkeypatch: pytest.MonkeyPatch) -> Any:
    """The module that the benchmark imports as CuPy."""
    monkeypatch.setitem(sys.modules, "cupy", xp)
    return xp


@with_device
def test_the_probe_of_a_gpu_copies_half_of_the_bytes(cupy: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    workload = Workload("adam", "", ((1000,),), device="cuda")
    opt, grads = internals.make_optimizer(workload)
    copied: list[int] = []
    monkeypatch.setattr(cupy.ndarray, "__setitem__", lambda target, *_: copied.append(target.size))
    internals.make_probes(opt, grads, workload)["copy"](0)
    assert copied == [internals.count_bytes(workload)[0] // 2]


@with_device
def test_a_run_on_both_devices(cupy: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = tmp_path / "run.json"
    arguments = ("--device", "cuda", "cpu", "--threads", "1", "2", "--size", "100", "--dtype", "bfloat16")
    assert run_bench("adam", *arguments, "--json", str(file), "--plot", str(tmp_path / "run.svg")) == 0
    names = ("device", "threads", "checked_elements")
    found = [(*(row[name] for name in names), row["probe_isa"] is None) for row in read_rows(file)]
    assert found == [("cpu", 1, 100, False), ("cpu", 2, 100, False), ("cuda", None, 100, True)]
    assert ["graph_seconds" in row for row in read_rows(file)] == [False, False, True]
    assert machine.describe(with_gpu=True)["gpu"]["name"] in capsys.readouterr().out


@with_device
@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--threads", "2"], "--threads: expected none with --device cuda alone"),
        (["--size", "1e13"], "are free on the GPU"),
    ],
)
def test_a_gpu_run_rejects(cupy: Any, arguments: list[str], message: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert run_bench("--device", "cuda", *arguments) == 2
    assert message in capsys.readouterr().err
