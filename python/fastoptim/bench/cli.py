"""The arguments of ``python -m fastoptim bench``, and the run they ask for."""

from __future__ import annotations

import argparse
import ast
import os
import sys
from collections.abc import Callable, Sequence
from functools import partial
from itertools import product
from pathlib import Path
from typing import Any

from .. import core
from ..engines import native
from ..optimizer.base import OPTIMIZERS
from . import machine, plot, results
from .check import WrongAnswerError
from .measure import measure
from .models import MODELS, Work, model, one_array
from .progress import Progress
from .table import report
from .task import DEVICES, DTYPES, Task, refuse

DEFAULT_SIZES = ("1e3", "1e5", "1e7")

#: Characters of an error; longer is only what was given and is repeated.
LONGEST_ERROR = 500

DESCRIPTION = """\
Times optimizer steps on this machine, beside its limit: a native pass that reads and writes the same bytes of the same
arrays with next to no arithmetic.  Before anything is timed, the answer is compared with the reference, bit for bit."""

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

Every combination is a row.  Threads and instruction sets are the CPU's: a GPU's rows have none.  With --device cuda
arrays are CuPy's, on its current GPU (CUDA_VISIBLE_DEVICES chooses another).  Memory is counted first: what does not
fit is refused.  Ctrl-C prints the rows so far.
docs/benchmark.md says how to read the table."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """What the benchmark may be told."""
    parser.description, parser.epilog = DESCRIPTION, EXAMPLES
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.add_argument("names", nargs="*", metavar="OPTIMIZER", help="names of optimizers, or all; default: adam")
    work = parser.add_argument_group("what is stepped")
    work.add_argument("--optimizer", nargs="+", default=[], metavar="NAME", help="the same as the names above")
    work.add_argument(
        "--option", action="append", default=[], metavar="NAME=VALUE", help="of every optimizer, e.g. convention=keras"
    )
    work.add_argument("--size", nargs="+", default=[], metavar="N", help="elements of one array: 1e6, 2^20, 4096")
    work.add_argument("--model", nargs="+", default=[], choices=sorted(MODELS), help="all arrays of a model")
    work.add_argument("--dtype", nargs="+", default=["float32"], choices=DTYPES, help="of the parameters")
    work.add_argument("--grad-dtype", nargs="+", choices=DTYPES, help="of the gradients; default: the parameters'")
    how = parser.add_argument_group("where and how")
    how.add_argument(
        "--threads", nargs="+", type=int, metavar="N", help="of the CPU; default: as many as a step would use"
    )
    how.add_argument("--isa", nargs="+", metavar="NAME", help="of the CPU: baseline, avx2, avx512")
    how.add_argument("--device", nargs="+", default=["cpu"], choices=DEVICES, help="default: cpu; cuda needs CuPy")
    how.add_argument("--seconds", type=float, default=1.0, help="how long a row is timed; default: 1")
    how.add_argument("--rounds", type=int, metavar="N", help="exactly so many rounds a row, however long they take")
    how.add_argument("--block", type=int, metavar="N", help="steps in a row; default: as many as last a millisecond")
    output = parser.add_argument_group("output")
    output.add_argument("--json", type=Path, metavar="FILE", help="write everything, with the machine")
    output.add_argument("--plot", type=Path, metavar="FILE", help="draw the share of the limit against the size")


def run(arguments: argparse.Namespace) -> int:
    """Does what the arguments say, and returns the exit status."""
    try:
        tasks = tasks_of(arguments)
        refuse(tasks)
        _refuse_files(arguments)
        described = machine.describe(with_gpu="cuda" in arguments.device)  # a GPU that fails later could not say it
    except (ImportError, MemoryError, OSError, RuntimeError, TypeError, ValueError) as error:
        return _complain(str(error), 2)
    rows: list[results.Row] = []
    watch = machine.Watch()
    interrupted, failure = False, ""
    try:
        _measure_all(tasks, rows, arguments)
    except KeyboardInterrupt:
        interrupted = True
    except WrongAnswerError as error:
        failure = str(error)
    except Exception as error:
        failure = f"{_with_type(error)}, after {len(rows)} of {len(tasks)} rows"
    status = _put_out(arguments, rows, described, watch.report())
    if interrupted:
        print(f"interrupted after {len(rows)} of {len(tasks)} rows", file=sys.stderr)
        return 130
    return _complain(failure, 1) if failure else status


def _complain(message: str, status: int) -> int:
    line = " ".join(message.split())
    if len(line) > LONGEST_ERROR:
        line = f"{line[:LONGEST_ERROR]}..."
    print(f"python -m fastoptim bench: error: {line}", file=sys.stderr)
    return status


def _with_type(error: Exception) -> str:
    """For errors that nobody foresaw, whose words alone may say little, or nothing."""
    return ": ".join(filter(None, (type(error).__name__, str(error))))


def _measure_all(tasks: Sequence[Task], rows: list[results.Row], arguments: argparse.Namespace) -> None:
    with Progress(len(tasks)) as progress:
        for task in tasks:
            progress.begin(f"{task.optimizer} {task.work.name}")
            rows.append(
                measure(
                    task,
                    seconds=arguments.seconds,
                    rounds=arguments.rounds,
                    block=arguments.block,
                    on_round=progress.part,
                )
            )
            progress.end()


def _put_out(
    arguments: argparse.Namespace, rows: list[results.Row], described: dict[str, Any], load: dict[str, float | None]
) -> int:
    """Prints, writes and draws, each even if another fails; returns the exit status."""
    run = results.Results(
        schema=results.SCHEMA,
        machine=described,
        settings={name: value for name, value in vars(arguments).items() if name not in ("command", "json", "plot")},
        noise=results.judge(rows, load),
        rows=rows,
    )
    outputs: list[Callable[[], None]] = [lambda: _show(report(run))]
    if arguments.json:
        outputs.append(partial(results.write, arguments.json, run))
    if arguments.plot and rows:
        outputs.append(partial(plot.draw, rows, arguments.plot, run["machine"]))
    status = 0
    for output in outputs:
        try:
            output()
        except Exception as error:
            status = _complain(_with_type(error), 1)
    return status


def _show(text: str) -> None:
    """Prints, unless nobody reads any more; then nothing complains at the end of Python either."""
    try:
        print(text, flush=True)
    except BrokenPipeError:
        nowhere = os.open(os.devnull, os.O_WRONLY)
        os.dup2(nowhere, sys.stdout.fileno())
        os.close(nowhere)


def tasks_of(arguments: argparse.Namespace) -> list[Task]:
    """A task for every combination, the work outermost; ValueError or TypeError for what cannot be."""
    _refuse_numbers(arguments)
    options = tuple(map(option_of, arguments.option))
    return [
        Task(name, work, dtype, gradient or dtype, threads, isa, device, options)
        for work, dtype, gradient, (threads, isa, device), name in product(
            works_of(arguments.size, arguments.model),
            arguments.dtype,
            arguments.grad_dtype or [None],
            _places(arguments),
            optimizers_of([*arguments.names, *arguments.optimizer]),
        )
    ]


def _places(arguments: argparse.Namespace) -> list[tuple[int | None, str | None, str]]:
    """Where each task is to run: on how many threads, with which instruction set, on which device.

    A GPU has neither of the first two, so that it is one place; ValueError for who asks for them without the CPU.
    """
    usable: list[str] = core.build_info()["isa_usable"]
    for isa in arguments.isa or []:
        if isa not in usable:
            raise ValueError(f"--isa: expected one of {', '.join(usable)} on this processor, got {isa!r}")
    for name in ("threads", "isa"):
        if getattr(arguments, name) and "cpu" not in arguments.device:
            raise ValueError(f"--{name}: expected none with --device cuda alone, as it is the CPU's")
    threads: list[int] = arguments.threads or [core.get_num_threads()]
    isas: list[str] = arguments.isa or [native.Engine.isa or core.build_info()["isa"]]
    on_cpu = product(threads, isas, ["cpu"])
    return [*(on_cpu if "cpu" in arguments.device else ()), *([(None, None, "cuda")] * ("cuda" in arguments.device))]


def optimizers_of(names: Sequence[str]) -> list[str]:
    """Names of the registry, in their order, each once; a class's name will do, and ``all`` is all of them.

    >>> optimizers_of(["Lion", "adam", "lion"])
    ['lion', 'adam']
    """
    classes = {cls.__name__.lower(): name for name, cls in OPTIMIZERS.items()}
    chosen: list[str] = []
    for name in names or ["adam"]:
        lower = name.lower()
        if lower == "all":
            chosen += OPTIMIZERS
        elif lower in OPTIMIZERS or lower in classes:
            chosen.append(lower if lower in OPTIMIZERS else classes[lower])
        else:
            raise ValueError(f"{name}: expected an optimizer or all; the optimizers are {', '.join(OPTIMIZERS)}")
    return list(dict.fromkeys(chosen))


def works_of(sizes: Sequence[str], models: Sequence[str]) -> list[Work]:
    """Arrays of these sizes, and these models; some sizes where there are neither."""
    chosen = sizes or ([] if models else DEFAULT_SIZES)
    return [*map(one_array, map(size_of, chosen)), *map(model, models)]


def size_of(text: str) -> int:
    """A size as one writes it.

    >>> [size_of(text) for text in ("4096", "1e6", "2.5e3", "2^20", "1_000")]
    [4096, 1000000, 2500, 1048576, 1000]
    """
    try:
        base, power, exponent = text.partition("^")
        # With a higher exponent than 63 only 1 is not too large, and is itself with any: nothing large is computed.
        size = int(base) ** min(int(exponent), 63) if power else float(text)
    except (ArithmeticError, ValueError):
        size = 0
    if not 1 <= size <= 2**62 or size != int(size):
        raise ValueError(f"--size: expected a whole number of elements such as 4096, 1e6 or 2^20, got {text!r}")
    return int(size)


def option_of(text: str) -> tuple[str, Any]:
    """A name and a value: a number, True, False, a tuple, or else the text itself.

    >>> option_of("betas=(0.9, 0.99)"), option_of("convention=keras")
    (('betas', (0.9, 0.99)), ('convention', 'keras'))
    """
    name, equals, value = text.partition("=")
    if not equals or not name.isidentifier():
        raise ValueError(f"--option: expected NAME=VALUE, got {text!r}")
    try:
        return name, ast.literal_eval(value)
    except (SyntaxError, ValueError):
        return name, value
    except (MemoryError, RecursionError, TypeError) as error:
        raise ValueError(f"--option {name}: expected a number, True, False, a tuple or a text, got {value}") from error


def _refuse_numbers(arguments: argparse.Namespace) -> None:
    for name in ("rounds", "block"):
        value = getattr(arguments, name)
        if value is not None and value < 1:
            raise ValueError(f"--{name}: expected a whole number >= 1, got {value}")
    if not 0 <= arguments.seconds < float("inf"):
        raise ValueError(f"--seconds: expected a number >= 0, got {arguments.seconds}")
    for threads in arguments.threads or []:
        if not 1 <= threads <= 4096:
            raise ValueError(f"--threads: expected whole numbers from 1 to 4096, got {threads}")


def _refuse_files(arguments: argparse.Namespace) -> None:
    """Before an hour of measuring, not after it."""
    if arguments.plot:
        plot.require()
        if arguments.plot.suffix.lower() not in plot.endings():
            endings = ", ".join(plot.endings())
            raise ValueError(f"--plot: expected a name that ends with one of {endings}, got {str(arguments.plot)!r}")
    for name in ("json", "plot"):
        path = getattr(arguments, name)
        if path:
            try:
                _try_to_write(path)
            except OSError as error:
                raise ValueError(
                    f"--{name}: expected a file that can be written in a directory that exists, got {str(path)!r}: "
                    f"{error.strerror}"
                ) from error


def _try_to_write(path: Path) -> None:
    """OSError if a file cannot be written; what is there stays as it is."""
    is_new = not path.exists()
    path.open("ab").close()
    if is_new:
        path.resolve().unlink()
