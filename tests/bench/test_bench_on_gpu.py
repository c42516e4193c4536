"""bench/on_gpu.sh: its plan fits into the time of a machine with a GPU, and its report is complete however it ends.

.ci/run rehearses the whole stage with the emulated GPU.
"""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from conftest import pytest_exception_interact

CHECKOUT = Path(__file__).parents[2]
if not (CHECKOUT / "bench").exists():
    pytest.skip("needs bench/: this test runs in a checkout", allow_module_level=True)
sys.path.append(str(CHECKOUT / "bench"))

import gpu_smoke  # noqa: E402
import on_gpu  # noqa: E402
from on_gpu import Part, python  # noqa: E402

MOST_SECONDS, MOST_FILES = 510, 8


@pytest.mark.parametrize("stage", on_gpu.STAGES)
def test_a_stage_fits(stage: str) -> None:
    parts = on_gpu.STAGES[stage]
    assert sum(part.seconds for part in parts) <= MOST_SECONDS
    names = [part.name for part in parts]
    assert len(set(names)) == len(names)
    files = {word for part in parts for word in part.command if word.endswith(".json")}
    assert len(files | {"report.md", "log.txt", "clocks.csv"}) <= MOST_FILES
    for part in parts:
        for word in part.command:
            assert not word.endswith(".py") or (CHECKOUT / word).exists(), part


def run_parts(parts: list[Part], out: Path, monkeypatch: pytest.MonkeyPatch) -> tuple[int, str]:
    monkeypatch.setitem(on_gpu.STAGES, "quick", parts)
    monkeypatch.setattr(sys, "argv", ["on_gpu.py", "quick"])
    monkeypatch.setenv("OUT", str(out))
    status = on_gpu.main()
    return status, (out / "report.md").read_text(encoding="utf-8")


def test_the_report_of_parts_that_fail(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    sleeps = python("-c", "import time; print('begun', flush=True); time.sleep(60)")
    parts = [
        Part("long", 5, sleeps),  # the first, since later parts may take the time that is left
        Part("good", 60, python("-c", "print('\\x1b[1mfine\\x1b[0m')")),
        Part("bad", 60, python("-c", "raise SystemExit(3)")),
        Part("missing", 1, ("no-such-program",)),
        Part("needed", 60, python("-c", "raise SystemExit(1)"), needed=True),
        Part("last", 1, python("-c", "print('never')")),
    ]
    status, report = run_parts(parts, tmp_path / "out", monkeypatch)
    assert status == 1
    rows = [[cell.strip() for cell in line.split("|")[1:-1]] for line in report.splitlines() if line.startswith("| ")]
    missing = "skipped" if on_gpu.REHEARSED else "failed"
    expected = ["failed (limit", "passed", "failed (exit status 3)", missing, "failed (exit status 1)", "not run"]
    for row, part, wanted in zip(rows[1:], parts, expected, strict=True):
        assert row[0] == part.name
        assert row[3].startswith(wanted), row
    assert len({len(line) for line in report.splitlines() if line.startswith("|")}) == 1  # aligned columns
    assert "```text\nfine\n```" in report
    assert "begun" in report
    assert "never" not in report
    assert "Status: failed (long, bad" in report


def test_the_report_of_a_run_that_was_killed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What is known before each part is in the file."""
    seen = tmp_path / "seen.txt"
    copy = f"import shutil; shutil.copy({str(tmp_path / 'report.md')!r}, {str(seen)!r})"
    parts = [Part("first", 20, python("-c", "print('one')")), Part("second", 20, python("-c", copy))]
    assert run_parts(parts, tmp_path, monkeypatch)[0] == 0
    report = seen.read_text(encoding="utf-8")
    assert "Status: running" in report
    assert [line.split("|")[4].strip() for line in report.splitlines() if line.startswith("| ")][1:] == [
        "passed",
        "not run",
    ]


def test_time_that_is_left_goes_to_later_parts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    parts = [Part("short", 60, python("-c", "")), Part("long", 1, python("-c", "import time; time.sleep(3)"))]
    assert run_parts(parts, tmp_path, monkeypatch)[0] == 0


def test_help() -> None:
    script = CHECKOUT / "bench" / "on_gpu.sh"
    done = subprocess.run(["bash", script, "--help"], capture_output=True, text=True, check=True)
    assert all(f"\n  {stage}" in done.stdout for stage in on_gpu.STAGES)


def test_other_bits_are_an_error() -> None:
    same = np.array([1.0, np.nan], np.float32)
    gpu_smoke.compare("p", same, same.copy())
    with pytest.raises(AssertionError, match=r"p: expected the reference's bits, got 1 of 2 .* at \(0,\)"):
        gpu_smoke.compare("p", np.array([0.0, 1.0]), np.array([-0.0, 1.0]))


@pytest.mark.parametrize("ends", [True, False])
def test_an_error_that_ends_the_context_ends_the_tests(ends: bool) -> None:
    node: Any = SimpleNamespace(session=SimpleNamespace(shouldfail=False))
    message = "CUDA: the kernel 'update' of adam failed: ...; this process can no longer use the GPU" if ends else ""
    call: Any = SimpleNamespace(excinfo=SimpleNamespace(value=RuntimeError(message)))
    pytest_exception_interact(node, call)
    assert bool(node.session.shouldfail) is ends
