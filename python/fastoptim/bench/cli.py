"""The arguments of ``python -m fastoptim bench``, and the run that they describe."""

from __future__ import annotations

import argparse
import ast
import shutil
import sys
from collections.abc import Callable, Sequence
from functools import partial
from itertools import product
from pathlib import Path
from typing import Any

from ..core import build_info, get_num_threads
from ..optimizer.base import OPTIMIZERS
from . import machine, plot, results
from .internals import WrongAnswerError, check_workloads, default_isa
from .measure import measure
from .table import format_run, progress_bar
from .workload import MODELS, Shapes, Workload, name_size, parse_size

DEFAULT_SIZES = ("1e3", "1e5", "1e7")
DTYPES = ("float64", "float32", "float16", "bfloat16")

DESCRIPTION = """\
Time optimizer steps on this machine and compare them with a bandwidth probe: a native pass that reads and writes the
same bytes of the same arrays with almost no arithmetic.  First every answer is compared with the reference, bit for
bit."""

EXAMPLES = """\
examples:
  python -m fastoptim bench                               Adam over three sizes
  python -m fastoptim bench adam lion --size 1e6 1e8      two optimizers, one large array and one very large
  python -m fastoptim bench all --size 2^24 --json a.json --plot a.png
  python -m fastoptim bench adamw --model gpt2 resnet50   all arrays of two models
  python -m fastoptim bench adam --dtype float16 --grad-dtype float32
  python -m fastoptim bench adam --threads 1 2 4 --isa baseline avx2
  python -m fastoptim bench rmsprop --option centered=True --option momentum=0.9
  python -m fastoptim bench adam --size 1e6 --block 1     with cold caches, as after the rest of a training loop
  python -m fastoptim bench adam lamb --device cuda --size 1e6 1e8

Every combination is a row.  Threads and instruction sets apply to the CPU's rows alone.  --device cuda uses CuPy
arrays on its current GPU (CUDA_VISIBLE_DEVICES selects another).  Workloads that do not fit into memory are rejected
first.  Ctrl-C prints the rows so far.  docs/benchmark.md explains the table."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the benchmark's arguments."""
    parser.description, parser.epilog = DESCRIPTION, EXAMPLES
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.add_argument("names", nargs="*", metavar="OPTIMIZER", help="names of optimizers, or all; default: adam")
    work = parser.add_argument_group("workload")
    work.add_argument("--optimizer", nargs="+", default=[], metavar="NAME", help="the same as the names above")
    work.add_argument(
        "--option", action="append", default=[], metavar="NAME=VALUE", help="of every optimizer, e.g. convention=keras"
    )
    work.add_argument("--size", nargs="+", default=[], metavar="N", help="elements of one array: 1e6, 2^20, 4096")
    work.add_argument("--model", nargs="+", default=[], choices=sorted(MODELS), help="all arrays of a model")
    work.add_argument("--dtype", nargs="+", default=["float32"], choices=DTYPES, help="of the parameters")
    work.add_argument("--grad-dtype", nargs="+", choices=DTYPES, help="of the gradients; default: the parameters'")
    how = parser.add_argument_group("execution")
    how.add_argument("--threads", nargs="+", type=int, metavar="N", help="of the CPU; default: as many as a step uses")
    how.add_argument("--isa", nargs="+", metavar="NAME", help="of the CPU: baseline, avx2, avx512")
    how.add_argument("--device", nargs="+", default=["cpu"], choices=("cpu", "cuda"), help="default: cpu")
    how.add_argument("--seconds", type=float, default=1.0, help="time for each row; default: 1")
    how.add_argument("--rounds", type=int, metavar="N", help="exact number of rounds per row, however long they take")
    how.add_argument("--block", type=int, metavar="N", help="consecutive steps; default: as many as last a millisecond")
    output = parser.add_argument_group("output")
    output.add_argument("--json", type=Path, metavar="FILE", help="write everything, with the machine")
    output.add_argument("--plot", type=Path, metavar="FILE", help="draw the share of the probe against the size")


def run(arguments: argparse.Namespace) -> int:
    """Run the benchmark and return the exit status."""
    try:
        workloads = workloads_of(arguments)
        check_workloads(workloads)
        _check_files(arguments)
        described = machine.describe(with_gpu="cuda" in arguments.device)  # a GPU that fails later cannot be described
    except (ImportError, MemoryError, OSError, RuntimeError, TypeError, ValueError) as error:
        return _complain(str(error), 2)
    rows: list[results.Row] = []
    watch = machine.Watch()
    status, failure = 0, ""
    try:
        _measure_all(workloads, rows, arguments)
    except KeyboardInterrupt:
        status, failure = 130, f"interrupted after {len(rows)} of {len(workloads)} rows"
    except WrongAnswerError as error:
        status, failure = 1, str(error)
    except Exception as error:
        status, failure = 1, f"{type(error).__name__}: {error}, after {len(rows)} of {len(workloads)} rows"
    settings = {name: value for name, value in vars(arguments).items() if name not in ("command", "json", "plot")}
    written = _write_outputs(arguments, results.make_run(described, settings, watch.report(), rows))
    return _complain(failure, status) if failure else written


def _measure_all(workloads: Sequence[Workload], rows: list[results.Row], arguments: argparse.Namespace) -> None:
    for workload in workloads:

        def show(part: float, label: str = f"{workload.optimizer} {workload.name}") -> None:
            bar = progress_bar(len(rows) + part, len(workloads), label, shutil.get_terminal_size().columns)
            print(f"\r{bar}", end="", file=sys.stderr, flush=True)

        on_round = show if sys.stderr.isatty() else lambda part: None
        on_round(0)
        limits = {name: getattr(arguments, name) for name in ("seconds", "rounds", "block")}
        rows.append(measure(workload, on_round=on_round, **limits))
    if sys.stderr.isatty():
        print(end="\r\033[K", file=sys.stderr)


def _write_outputs(arguments: argparse.Namespace, run: dict[str, Any]) -> int:
    """Print, write and draw, each even if another fails; return the exit status."""
    outputs: list[Callable[[], None]] = [partial(print, format_run(run), flush=True)]
    if arguments.json:
        outputs.append(partial(results.write_json, arguments.json, run))
    if arguments.plot and run["rows"]:
        outputs.append(partial(plot.draw, run["rows"], arguments.plot, run["machine"]))
    status = 0
    for output in outputs:
        try:
            output()
        except Exception as error:
            status = _complain(f"{type(error).__name__}: {error}", 1)
    return status


def _complain(message: str, status: int) -> int:
    print(f"python -m fastoptim bench: error: {' '.join(message.split())}", file=sys.stderr)
    return status


# ---- arguments


def workloads_of(arguments: argparse.Namespace) -> list[Workload]:
    """Return a workload for every combination, sizes outermost; ValueError or TypeError for invalid arguments."""
    check_numbers(arguments.seconds, arguments.threads or (), rounds=arguments.rounds, block=arguments.block)
    options = dict(map(parse_option, arguments.option))
    sizes = arguments.size or ([] if arguments.model else DEFAULT_SIZES)
    named: list[tuple[str, Shapes]] = [(name_size(size), ((size,),)) for size in map(parse_size, sizes)]
    named += [(model, MODELS[model]()) for model in arguments.model]
    gradients = arguments.grad_dtype or [None]
    optimizers = parse_optimizers([*arguments.names, *arguments.optimizer])
    return [
        Workload(optimizer, name, shapes, dtype, grad_dtype or dtype, threads, isa, device, options)
        for (name, shapes), dtype, grad_dtype, (threads, isa, device), optimizer in product(
            named, arguments.dtype, gradients, _devices_of(arguments), optimizers
        )
    ]


def _devices_of(arguments: argparse.Namespace) -> list[tuple[int | None, str | None, str]]:
    """Return the threads, instruction set and device of the rows; a GPU has neither of the first two."""
    usable: list[str] = build_info()["isa_usable"]
    for isa in arguments.isa or []:
        if isa not in usable:
            raise ValueError(f"--isa: expected one of {', '.join(usable)} on this processor, got {isa!r}")
    for name in ("threads", "isa"):
        if getattr(arguments, name) and "cpu" not in arguments.device:
            raise ValueError(f"--{name}: expected none with --device cuda alone, as it applies to the CPU")
    on_cpu = product(arguments.threads or [get_num_threads()], arguments.isa or [default_isa()], ["cpu"])
    return [*(on_cpu if "cpu" in arguments.device else ()), *([(None, None, "cuda")] * ("cuda" in arguments.device))]


def parse_optimizers(names: Sequence[str]) -> list[str]:
    """Return registered names in the order of the arguments, each once.  Class names and "all" are accepted.

    >>> parse_optimizers(["Lion", "adam", "lion"])
    ['lion', 'adam']
    """
    known = {cls.__name__.lower(): [name] for name, cls in OPTIMIZERS.items()}
    known |= {name: [name] for name in OPTIMIZERS} | {"all": list(OPTIMIZERS)}
    for name in names:
        if name.lower() not in known:
            raise ValueError(f"{name}: expected an optimizer or all; the optimizers are {', '.join(OPTIMIZERS)}")
    return list(dict.fromkeys(found for name in names or ["adam"] for found in known[name.lower()]))


def parse_option(text: str) -> tuple[str, Any]:
    """Return a name and its value: a number, True, False, a tuple, or else the text itself.

    >>> parse_option("betas=(0.9, 0.99)"), parse_option("convention=keras")
    (('betas', (0.9, 0.99)), ('convention', 'keras'))
    """
    name, equals, value = text.partition("=")
    if not equals or not name.isidentifier():
        raise ValueError(f"--option: expected NAME=VALUE, got {text!r}")
    try:
        return name, ast.literal_eval(value)
    except (MemoryError, RecursionError, SyntaxError, TypeError, ValueError):
        return name, value


def check_numbers(seconds: float, threads: Sequence[int], **counts: int | None) -> None:
    """Raise ValueError for numbers out of range."""
    for name, value in counts.items():
        if value is not None and value < 1:
            raise ValueError(f"--{name}: expected a whole number >= 1, got {value}")
    if not 0 <= seconds < float("inf"):
        raise ValueError(f"--seconds: expected a number >= 0, got {seconds}")
    for count in threads:
        if not 1 <= count <= 4096:
            raise ValueError(f"--threads: expected whole numbers from 1 to 4096, got {count}")


def _check_files(arguments: argparse.Namespace) -> None:
    """Raise an error before an hour of measuring, not after it."""
    if arguments.plot:
        plot.check_file(arguments.plot)
    for name in ("json", "plot"):
        if path := getattr(arguments, name):
            check_writable(path, name)


def check_writable(path: Path, name: str) -> None:
    """Raise ValueError if the file cannot be written; do not change it."""
    try:
        is_new = not path.exists()
        path.open("ab").close()
        if is_new:
            path.resolve().unlink()
    except OSError as error:
        expected = "expected a file that can be written in a directory that exists"
        raise ValueError(f"--{name}: {expected}, got {str(path)!r}: {error.strerror}") from error
