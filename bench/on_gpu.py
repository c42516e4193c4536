"""A run on a machine with a GPU: parts with a time limit each, and a report that is complete whenever it ends.

Needs nothing but Python until fastoptim is built.  The order of the parts is that of information per second.
"""

from __future__ import annotations

import argparse
import os
import re
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

from gpu_smoke import GROUPS

ROOT = Path(__file__).resolve().parent.parent
PYTHON = sys.executable
REHEARSED = os.environ.get("FASTOPTIM_CUDA") == "EMULATED"

DESCRIPTION = """\
Build fastoptim for this machine's GPU without a network, then run one stage.  Everything that it writes is in $OUT
(build/on_gpu if that is unset): report.md, log.txt, and a file of measurements for each part that measures."""

EPILOG = """\
stages:
  quick     8.5 minutes: the bits of each kind of kernel, then measurements, then tests
  sanitize  the same time: compute-sanitizer's memcheck and initcheck over each kind of kernel

environment:
  OUT             where files are written
  SITE            an existing build of fastoptim, or the directory to build it in; by default a temporary one
  FASTOPTIM_CUDA  EMULATED rehearses the stage with the emulated GPU and short sizes; docs/cuda.md

python3 must have CuPy, NumPy, ml_dtypes, pytest and the build's requirements, in a virtual environment or not.
Each part is a process of its own, since an illegal address ends a CUDA context.  A part may take the time that those
before it have left.  The exit status is 0 if every part passed."""


@dataclass(frozen=True)
class Part:
    """A command with its planned seconds."""

    name: str
    seconds: int
    command: tuple[str, ...]
    needed: bool = False  # else the parts after it run even if it fails


def python(*arguments: str) -> tuple[str, ...]:
    """Return a command of this interpreter."""
    return (PYTHON, *arguments)


def bench(file: str, *arguments: str) -> tuple[str, ...]:
    """Return a benchmark on the GPU that writes a file."""
    return python("-m", "fastoptim", "bench", *arguments, "--device", "cuda", "--seconds", SECONDS, "--json", file)


def tests(file: str) -> tuple[str, ...]:
    """Return the tests of a file; in a rehearsal the first ones."""
    chosen = (
        ("-k", "flush or streams or repr or norms or rejects or refused") if REHEARSED else ("-m", "gpu and not large")
    )
    ignored = [f"-Wdefault::{kind}Warning" for kind in ("Future", "Deprecation", "User")]
    return python("-m", "pytest", "-q", "-p", "no:cacheprovider", "--maxfail=3", *ignored, *chosen, file)


MACHINE = "nvidia-smi", "--query-gpu=name,driver_version,memory.total,clocks.sm,clocks.mem,power.draw", "--format=csv"
LARGE, SECONDS = (2**14, "0") if REHEARSED else (2**27, "0.5")
MODELS = ("tiny", "mlp") if REHEARSED else ("tiny", "resnet50", "gpt2")
SANITIZER = "compute-sanitizer", "--error-exitcode", "1", "--target-processes", "all", "--tool"

BEGIN = [
    Part("machine", 5, MACHINE),
    Part(
        "build",
        150,
        python(
            "-m", "pip", "install", "-q", "--no-build-isolation", "--no-deps", "--no-index", "--target", "{site}", "."
        ),
        needed=True,
    ),
    Part("info", 10, python("-m", "fastoptim", "info"), needed=True),
]
STAGES = {
    "quick": [
        *BEGIN,
        *(Part(f"bits: {group}", 7, python("bench/gpu_smoke.py", group)) for group in GROUPS),
        Part("launch cost", 25, bench("launch.json", "adam", "lamb", "--size", "1", "1000")),
        Part("many arrays", 40, bench("models.json", "adam", "--model", *MODELS)),
        Part("large float32", 45, bench("float32.json", "adam", "lamb", "--size", str(LARGE))),
        Part("large bfloat16", 30, bench("bfloat16.json", "adam", "--size", str(LARGE), "--dtype", "bfloat16")),
        Part("norms", 25, python("bench/gpu_norms.py", str(LARGE), "norms.json", SECONDS)),
        Part("tests: bits", 40, tests("tests/cuda/test_gpu_bits.py")),
        Part("tests: graphs", 15, tests("tests/cuda/test_gpu_graphs.py")),
        Part("tests: interface", 25, tests("tests/cuda/test_gpu_interface.py")),
        Part("tests: refusals", 10, tests("tests/cuda/test_gpu_refusals.py")),
        Part("tests: sharded", 10, tests("tests/cuda/test_gpu_sharded.py")),
        Part("tests: benchmark", 10, tests("tests/bench/test_bench_gpu.py")),
    ],
    "sanitize": [
        *BEGIN,
        Part("memcheck", 170, (*SANITIZER, "memcheck", *python("bench/gpu_smoke.py", *GROUPS))),
        Part("initcheck", 170, (*SANITIZER, "initcheck", *python("bench/gpu_smoke.py", *GROUPS))),
    ],
}

NOT_RUN = "not run"


class Report:
    """The state of every part, written after each of them."""

    def __init__(self, out: Path, stage: str, parts: list[Part]) -> None:
        self._file, self._log = out / "report.md", out / "log.txt"
        self._log.write_text("", encoding="utf-8")
        self._stage, self._parts = stage, parts
        self._rows = {part.name: ("", NOT_RUN) for part in parts}  # seconds, status
        self._outputs: dict[str, str] = {}
        self._begin = time.monotonic()

    def add(self, part: Part, seconds: float, status: str, output: str) -> None:
        """Add the result of a part."""
        self._rows[part.name] = f"{seconds:.1f}", status
        self._outputs[part.name] = output
        with self._log.open("a", encoding="utf-8") as log:
            log.write(f"== {part.name}: {status} after {seconds:.1f} s\n$ {' '.join(part.command)}\n{output}\n")
        self.write("running")

    def write(self, status: str) -> None:
        """Write the report."""
        rows = [("part", "planned s", "took s", "status")]
        rows += [(part.name, str(part.seconds), *self._rows[part.name]) for part in self._parts]
        took = time.monotonic() - self._begin
        lines = [f"# fastoptim on {'the emulated' if REHEARSED else 'a'} GPU: {self._stage}", ""]
        lines += [f"Status: {status}, after {took:.0f} s of {sum(part.seconds for part in self._parts)} s planned.", ""]
        lines += [*table(rows), ""]
        for name, output in self._outputs.items():
            lines += [f"## {name}", "", "```text", *output.splitlines()[-60:], "```", ""]
        self._file.write_text("\n".join(lines), encoding="utf-8")

    def finish(self) -> int:
        """Write the last report, and return the exit status."""
        failed = [name for name, (_, status) in self._rows.items() if status not in ("passed", "skipped")]
        self.write(f"failed ({', '.join(failed)})" if failed else "passed")
        return bool(failed)


def table(rows: Sequence[tuple[str, ...]]) -> Iterator[str]:
    """Yield the lines of a Markdown table with aligned columns; the first row is the heading."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    for i, row in enumerate(rows):
        yield "| " + " | ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)) + " |"
        if i == 0:
            yield "|" + "|".join("-" * (width + 2) for width in widths) + "|"


def run(part: Part, limit: float, out: Path, site: Path, environment: Mapping[str, str]) -> tuple[str, str]:
    """Return the status and the output of a part."""
    command = [str(site) if word == "{site}" else word for word in part.command]
    command = [str(out / word) if word.endswith(".json") else word for word in command]
    if part.name == "build" and (site / "fastoptim").exists():
        return "skipped", f"{site} has a build"
    if shutil.which(command[0]) is None:
        return "skipped" if REHEARSED else "failed", f"{command[0]}: not found on PATH"
    with tempfile.TemporaryFile("w+", encoding="utf-8", errors="replace") as output:
        try:
            process = subprocess.run(command, stdout=output, stderr=output, cwd=ROOT, env=environment, timeout=limit)
            status = "passed" if process.returncode == 0 else f"failed (exit status {process.returncode})"
        except subprocess.TimeoutExpired:
            status = f"failed (limit of {limit:.0f} s)"
        output.seek(0)
        return status, re.sub(r"\x1b\[[0-9;]*m", "", output.read())


@contextmanager
def recorded_clocks(out: Path) -> Iterator[None]:
    """Record the GPU's clocks and power twice a second, since both change during a run."""
    query = "--query-gpu=timestamp,clocks.sm,clocks.mem,power.draw,temperature.gpu,memory.used"
    if shutil.which("nvidia-smi") is None:
        yield
        return
    with (out / "clocks.csv").open("w") as file:
        process = subprocess.Popen(["nvidia-smi", query, "--format=csv", "-lms", "500"], stdout=file, stderr=file)
        try:
            yield
        finally:
            process.terminate()
            process.wait()


def environment_of(site: Path, doubles: Path) -> dict[str, str]:
    """Return the environment of the parts.  The build has one instruction set: only the GPU is measured."""
    path = [site]
    if REHEARSED:  # the tests' double of CuPy takes its name
        (doubles / "cupy.py").write_text(
            "import sys, cupy_on_host\nsys.modules['cupy'] = cupy_on_host\n", encoding="utf-8"
        )
        path += [ROOT / "tests", doubles]
    return {
        "CMAKE_BUILD_PARALLEL_LEVEL": str(os.cpu_count()),
        "FASTOPTIM_CUDA": "ON",
        "FASTOPTIM_ISAS": "baseline",
        "PIP_DISABLE_PIP_VERSION_CHECK": "1",
        "PYTHONDONTWRITEBYTECODE": "1",
        **os.environ,
        "PYTHONPATH": os.pathsep.join(map(str, path)),
    }


def main() -> int:
    """Run a stage."""
    parser = argparse.ArgumentParser(
        prog="bash bench/on_gpu.sh",
        description=DESCRIPTION,
        epilog=EPILOG,
        formatter_class=argparse.RawTextHelpFormatter,
    )
    parser.add_argument("stage", nargs="?", default="quick", choices=STAGES, help="default: quick")
    parts = STAGES[(stage := parser.parse_args().stage)]
    out = Path(os.environ.get("OUT") or ROOT / "build" / "on_gpu").resolve()
    out.mkdir(parents=True, exist_ok=True)
    report = Report(out, stage, parts)
    with ExitStack() as stack:
        temporary = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        site = Path(os.environ.get("SITE") or temporary / "site").resolve()
        environment = environment_of(site, temporary)
        stack.enter_context(recorded_clocks(out))
        end = time.monotonic()
        for part in parts:
            end += part.seconds
            begin = time.monotonic()
            print(f"== {part.name}", flush=True)
            # A rehearsal's processors are not those of a machine with a GPU.
            limit = 1800 if REHEARSED and part.name == "build" else max(1.0, end - begin)
            status, output = run(part, limit, out, site, environment)
            took = time.monotonic() - begin
            if REHEARSED and part.name == "build":
                end += took
            print(f"{output.rstrip()}\n-- {status} after {took:.1f} s", flush=True)
            report.add(part, took, status, output)
            if part.needed and status.startswith("failed"):
                break
    print(f"-- see {out}/report.md")
    return report.finish()


if __name__ == "__main__":
    raise SystemExit(main())
