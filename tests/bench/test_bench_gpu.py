"""The benchmark on a GPU or the emulated device: the probe, a run, and what is rejected.  No test asserts a time."""

from __future__ import annotations

import sys
from itertools import product
from pathlib import Path
from typing import Any

import pytest
from bench_helpers import check_probes, read_rows, run_bench

from cases import DTYPES, FLOAT32, PLAIN_CASES, Case, DType, case_id
from devices import with_device
from fastoptim.bench import machine

SIZES = [1, 67, 0, 1030, 4099]  # around the elements of a thread and of a block


@pytest.fixture
def cupy(xp: Any, monkeypatch: pytest.MonkeyPatch) -> Any:
    """The module that the benchmark imports as CuPy."""
    monkeypatch.setitem(sys.modules, "cupy", xp)
    return xp


@with_device
@pytest.mark.parametrize("case", PLAIN_CASES, ids=case_id)
@pytest.mark.parametrize(("p_dtype", "g_dtype"), list(product(DTYPES, DTYPES)), ids=str)
def test_a_gpu_probe_accesses_what_the_rule_declares(xp: Any, case: Case, p_dtype: DType, g_dtype: DType) -> None:
    check_probes(case, p_dtype, g_dtype, SIZES, xp, "cuda")


@with_device
@pytest.mark.parametrize("case", [case for case in PLAIN_CASES if case.id in ("sgd", "lamb")], ids=case_id)
@pytest.mark.parametrize("offset", [1, 3])
def test_a_gpu_probe_takes_unaligned_and_many_arrays(xp: Any, case: Case, offset: int) -> None:
    check_probes(case, FLOAT32, FLOAT32, [*SIZES, *[3] * 40], xp, "cuda", offset)


@with_device
def test_a_run_on_both_devices(cupy: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = tmp_path / "run.json"
    arguments = ("--device", "cuda", "cpu", "--threads", "1", "2", "--size", "100", "--dtype", "bfloat16")
    assert run_bench("adam", *arguments, "--json", str(file), "--plot", str(tmp_path / "run.svg")) == 0
    found = [
        (row["device"], row["threads"], row["probe_isa"] is None, row["checked_elements"]) for row in read_rows(file)
    ]
    assert found == [("cpu", 1, False, 100), ("cpu", 2, False, 100), ("cuda", None, True, 100)]
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
