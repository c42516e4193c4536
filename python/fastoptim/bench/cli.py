"""The arguments of ``python -m fastoptim bench``, and the run that they describe.

`add_run_arguments` and `run_rows` also serve ``bench/peers.py``.
"""

from __future__ import annotations

import argparse
import ast
import os
import shutil
import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import ExitStack
from functools import partial
from itertools import product
from pathlib import Path
from typing import Any, TypeVar

from ..core import build_info, get_num_threads
from ..optimizer.base import OPTIMIZERS
from . import machine, plot, results
from .internals import check_workloads, default_isa
from .measure import measure
from .table import format_run, progress_bar
from .timing import Budget, OnRound
from .workload import MODELS, Shapes, Workload, name_size, shapes_of

DEFAULT_SIZES = (10**3, 10**5, 10**7)
DTYPES = ("float64", "float32", "float16", "bfloat16")
STATE_FORMATS = ("native", "bfloat16", "int8")
MASTER_BITS = {"none": None, "24": 24, "32": 32}

DESCRIPTION = """\
Time optimizer steps on this machine and compare them with a bandwidth probe: a native pass that reads and writes the
same bytes of the same arrays with almost no arithmetic.  Before a row is timed, its results are compared with the
NumPy reference, bit for bit."""

EXAMPLES = """\
examples:
  python -m fastoptim bench                               Adam over three sizes
  python -m fastoptim bench adam lion --size 1e6 1e8      two optimizers, one large array and one very large
  python -m fastoptim bench all --size 2^24 --json a.json --plot a.png
  python -m fastoptim bench adamw --model gpt2 resnet50   all arrays of two models
  python -m fastoptim bench adam --dtype float16 --grad-dtype float32
  python -m fastoptim bench adamw --size 2^24 --state-format native bfloat16 int8
  python -m fastoptim bench adamw --dtype bfloat16 --state-format int8 --master-weight-bits none 24
  python -m fastoptim bench adam --threads 1 2 4 --isa baseline avx2
  python -m fastoptim bench rmsprop --option centered=True --option momentum=0.9
  python -m fastoptim bench adam --size 1e6 --block 1     with cold caches, as after the rest of a training loop
  python -m fastoptim bench adam lamb --device cuda --size 1e6 1e8

Every combination is a row.  Threads and instruction sets apply to the CPU's rows alone.  --device cuda uses CuPy
arrays on its current GPU (CUDA_VISIBLE_DEVICES selects another).  Workloads that do not fit into memory are rejected
first.  Ctrl-C prints the rows so far.  docs/benchmark.md explains the table."""

#: What makes a row, with its name for the progress bar.
Job = tuple[str, Callable[[OnRound], results.Row]]

# ---- arguments

Number = TypeVar("Number", int, float)


def number(convert: Callable[[str], Number], least: Number, most: Number, expected: str) -> Callable[[str], Number]:
    """Return a type of argument: numbers from `least` to `most`."""

    def parse(text: str) -> Number:
        try:
            value: Number | None = convert(text)
        except (ArithmeticError, ValueError):
            value = None
        if value is None or not least <= value <= most:
            raise argparse.ArgumentTypeError(f"expected {expected}, got {text!r}")
        return value

    parse.__doc__ = f"Read {expected}."
    return parse


def _elements(text: str) -> int:
    base, power, exponent = text.partition("^")
    # Only 1 allows exponents above 63, and it equals all its powers: no huge number is computed.
    size = int(base) ** min(int(exponent), 63) if power else float(text)
    if size != int(size):
        raise ValueError
    return int(size)


parse_size = number(_elements, 1, 2**62, "a whole number of elements such as 4096, 1e6 or 2^20")
parse_count = number(int, 1, 2**62, "a whole number >= 1")
parse_threads = number(int, 1, 4096, "a whole number from 1 to 4096")
parse_seconds = number(float, 0, sys.float_info.max, "a number >= 0")


def parse_optimizer(text: str) -> str:
    """Return the name of an optimizer; class names and "all" are accepted."""
    known = {cls.__name__.lower(): name for name, cls in OPTIMIZERS.items()} | {name: name for name in OPTIMIZERS}
    if text.lower() not in {*known, "all"}:
        expected = f"expected an optimizer or all; the optimizers are {', '.join(OPTIMIZERS)}"
        raise argparse.ArgumentTypeError(f"{text}: {expected}")
    return known.get(text.lower(), "all")


def parse_option(text: str) -> tuple[str, Any]:
    """Return a name and its value: a number, True, False, a tuple, or else the text itself.

    >>> parse_option("betas=(0.9, 0.99)"), parse_option("convention=keras")
    (('betas', (0.9, 0.99)), ('convention', 'keras'))
    """
    name, equals, value = text.partition("=")
    if not equals or not name.isidentifier():
        raise argparse.ArgumentTypeError(f"expected NAME=VALUE, got {text!r}")
    try:
        return name, ast.literal_eval(value)
    except (MemoryError, RecursionError, SyntaxError, TypeError, ValueError):
        return name, value


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the benchmark's arguments."""
    parser.usage, parser.description, parser.epilog = "%(prog)s [OPTIMIZER ...] [options]", DESCRIPTION, EXAMPLES
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    kind: dict[str, Any] = {"type": parse_optimizer, "default": []}
    parser.add_argument("names", nargs="*", metavar="OPTIMIZER", help="names, or all; default: adam", **kind)
    work = parser.add_argument_group("workload")
    work.add_argument("--optimizer", nargs="+", metavar="NAME", help="the same as the names above", **kind)
    option: dict[str, Any] = {"action": "append", "default": [], "type": parse_option, "metavar": "NAME=VALUE"}
    work.add_argument("--option", help="of every optimizer, e.g. convention=keras", **option)
    work.add_argument("--size", nargs="+", type=parse_size, metavar="N", help="elements of one array: 1e6, 2^20, 4096")
    work.add_argument("--model", nargs="+", default=[], choices=sorted(MODELS), help="all arrays of a model")
    work.add_argument("--dtype", nargs="+", default=["float32"], choices=DTYPES, help="of the parameters")
    work.add_argument("--grad-dtype", nargs="+", choices=DTYPES, help="of the gradients; default: the parameters'")
    state: dict[str, Any] = {"nargs": "+", "default": [], "choices": STATE_FORMATS, "metavar": "NAME"}
    work.add_argument("--state-format", help=f"of the averages in the state: {', '.join(STATE_FORMATS)}", **state)
    bits: dict[str, Any] = {"nargs": "+", "default": [], "choices": list(MASTER_BITS), "metavar": "N"}
    work.add_argument("--master-weight-bits", help=f"of 16-bit parameters: {', '.join(MASTER_BITS)}", **bits)
    how = parser.add_argument_group("execution")
    how.add_argument("--threads", nargs="+", type=parse_threads, metavar="N", help="of the CPU; default: the step's")
    usable: list[str] = build_info()["isa_usable"]
    how.add_argument("--isa", nargs="+", choices=usable, metavar="NAME", help=f"of the CPU: {', '.join(usable)}")
    how.add_argument("--device", nargs="+", default=["cpu"], choices=("cpu", "cuda"), help="default: cpu")
    add_run_arguments(parser, seconds=1.0)
    parser.add_argument("--plot", type=Path, metavar="FILE", help="draw the share of the probe against the size")


def add_run_arguments(parser: argparse.ArgumentParser, seconds: float) -> None:
    """Add the arguments of `run_rows`."""
    count: dict[str, Any] = {"type": parse_count, "metavar": "N"}
    parser.add_argument("--seconds", type=parse_seconds, default=seconds, help="for each row; default: %(default)g")
    parser.add_argument("--rounds", help="exact number of rounds per row, however long they take", **count)
    parser.add_argument("--block", help="consecutive steps; default: a millisecond of them", **count)
    parser.add_argument("--json", type=Path, metavar="FILE", help="write everything, with the machine")


def workloads_of(arguments: argparse.Namespace) -> list[Workload]:
    """Return a workload for every combination, sizes outermost; ValueError or TypeError for invalid arguments."""
    sizes = arguments.size or (() if arguments.model else DEFAULT_SIZES)
    named: list[tuple[str, int | Shapes]] = [(name_size(size), size) for size in sizes]
    named += [(model, MODELS[model]) for model in arguments.model]
    chosen = [*arguments.names, *arguments.optimizer] or ["adam"]
    return [
        Workload(optimizer, name, shapes_of(work, optimizer), dtype, grad or dtype, threads, isa, device, options)
        for (name, work), dtype, grad, (threads, isa, device), options, optimizer in product(
            named,
            arguments.dtype,
            arguments.grad_dtype or [None],
            _devices_of(arguments),
            _options_of(arguments),
            OPTIMIZERS if "all" in chosen else dict.fromkeys(chosen),
        )
    ]


def _options_of(arguments: argparse.Namespace) -> list[dict[str, Any]]:
    """Return the options of each row: those given, in every combination of formats."""
    if arguments.master_weight_bits and not {"float16", "bfloat16"}.issuperset(arguments.dtype):
        got = f"got --dtype {' '.join(arguments.dtype)}"
        raise ValueError(f"--master-weight-bits: expected --dtype float16 or bfloat16, whose bits it adds to, {got}")
    for name in ("state_format", "master_weight_bits"):
        if getattr(arguments, name) and name in dict(arguments.option):
            argument, got = name.replace("_", "-"), dict(arguments.option)[name]
            raise ValueError(f"--option {name}: expected none together with --{argument}, got {got}")
    formats = [{"state_format": name} for name in arguments.state_format] or [{}]
    bits = [{"master_weight_bits": MASTER_BITS[name]} for name in arguments.master_weight_bits] or [{}]
    return [{**dict(arguments.option), **each, **more} for each, more in product(formats, bits)]


def _devices_of(arguments: argparse.Namespace) -> Iterable[tuple[int | None, str | None, str]]:
    """Return the threads, instruction set and device of the rows; a GPU has neither of the first two."""
    for name in ("threads", "isa"):
        if getattr(arguments, name) and "cpu" not in arguments.device:
            raise ValueError(f"--{name}: expected none with --device cuda alone, as it applies to the CPU")
    on_cpu = product(arguments.threads or [get_num_threads()], arguments.isa or [default_isa()], ["cpu"])
    return [*(on_cpu if "cpu" in arguments.device else ()), *([(None, None, "cuda")] * ("cuda" in arguments.device))]


# ---- the run


def run(arguments: argparse.Namespace) -> int:
    """Run the benchmark and return the exit status."""

    def prepare() -> list[Job]:
        workloads = workloads_of(arguments)
        check_workloads(workloads)
        if arguments.plot:
            plot.check_file(arguments.plot)
        budget = Budget(arguments.seconds, arguments.rounds, arguments.block)
        return [(f"{w.optimizer} {w.name}", partial(measure, w, budget)) for w in workloads]

    return run_rows(prepare, arguments, format_run)


def run_rows(
    prepare: Callable[[], Sequence[Job]],
    arguments: argparse.Namespace,
    show: Callable[[dict[str, Any]], str],
) -> int:
    """Make the rows, then write, draw and print them, and return the exit status.

    Args:
        prepare: Returns the jobs; what it raises is an error of the arguments.
        arguments: As the parser returned them; they are recorded.
        show: Returns the text for a run.
    """
    files = {name: path for name in ("json", "plot") if (path := getattr(arguments, name, None))}
    try:
        jobs = prepare()
        check_files(files)
        # A GPU that fails later cannot be described.
        described = machine.describe(with_gpu="cuda" in getattr(arguments, "device", ()))
    except (ImportError, MemoryError, OSError, RuntimeError, TypeError, ValueError) as error:
        return _complain(str(error), 2)
    rows: list[results.Row] = []
    watch = machine.Watch()
    status, failure = 0, ""
    try:
        for name, job in jobs:
            rows.append(job(_progress(len(rows), len(jobs), name)))
    except (KeyboardInterrupt, Exception) as error:
        interrupted = isinstance(error, KeyboardInterrupt)
        status = 130 if interrupted else 1
        what = "interrupted" if interrupted else f"{type(error).__name__}: {error},"
        failure = f"{what} after {len(rows)} of {len(jobs)} rows"
    print(end="\r\033[K" if sys.stderr.isatty() else "", file=sys.stderr)
    settings = {name: value for name, value in vars(arguments).items() if name not in ("command", "json", "plot")}
    found = results.make_run(described, settings, watch.report(), rows)
    outputs: list[Callable[[], None]] = []
    if "json" in files:
        outputs.append(partial(results.write_json, files["json"], found))
    if "plot" in files and rows:
        outputs.append(partial(plot.draw, rows, files["plot"], described))
    outputs.append(partial(print, show(found), flush=True))  # the last, since its reader may have gone
    for output in outputs:
        try:
            output()
        except Exception as error:
            status = _complain(f"{type(error).__name__}: {error}", 1)
    return _complain(failure, status) if failure else status


def _progress(done: int, total: int, name: str) -> OnRound:
    """Return a function that shows the part of the row and of the run that is done, on a terminal."""
    if not sys.stderr.isatty():
        return lambda share: None

    def show(share: float) -> None:
        bar = progress_bar(done + share, total, name, shutil.get_terminal_size().columns)
        print(f"\r{bar}", end="", file=sys.stderr, flush=True)

    show(0)
    return show


def _complain(message: str, status: int) -> int:
    print(f"error: {' '.join(message.split())}", file=sys.stderr)
    return status


def check_files(files: Mapping[str, Path]) -> None:
    """Raise ValueError unless each file can be written and none is another; leave them as they are."""
    seen: dict[tuple[int, int], str] = {}
    new = []
    try:
        with ExitStack() as stack:
            for name, path in files.items():
                is_new = not path.exists()
                status = os.fstat(stack.enter_context(path.open("ab")).fileno())
                new += [path.resolve()] * is_new
                if (other := seen.setdefault((status.st_dev, status.st_ino), name)) != name:
                    raise ValueError(f"--{name}: expected another file than that of --{other}, got {str(path)!r}")
    except OSError as error:
        expected = "expected a file that can be written in a directory that exists"
        raise ValueError(f"--{name}: {expected}, got {str(path)!r}: {error.strerror}") from error
    finally:
        for path in new:
            path.unlink()
