"""Fuzzing: random histories of optimizers, and spoiled checkpoints, for a number of seconds.

    python tests/fuzz.py histories                   # each history equals the reference's after every operation
    python tests/fuzz.py files --seconds 20          # each file is rejected by a documented error, or works
    python tests/fuzz.py histories --seed 5 --first 1234 --count 1 --verbose      # repeat one

The seed is printed at the start, and the number of what has failed at the end.
"""

from __future__ import annotations

import argparse
import shutil
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np

from fastoptim.bench.table import progress_bar
from fuzz_files import check_file
from fuzz_histories import History

Run = Callable[[int, int, Path, Callable[[str], object]], int]


def check_history(seed: int, index: int, work: Path, write: Callable[[str], object]) -> int:
    return History((seed, index), work, write).run()


def check_bytes(seed: int, index: int, work: Path, _: Callable[[str], object]) -> int:
    return check_file(np.random.default_rng((seed, index)).bytes(40), work / "checkpoint")


TARGETS: dict[str, tuple[Run, str]] = {
    "histories": (check_history, "operations"),
    "files": (check_bytes, "of them accepted"),
}


def show_progress(arguments: argparse.Namespace, elapsed: float, done: int) -> None:
    if sys.stderr.isatty() and not arguments.verbose:
        share = min(elapsed / arguments.seconds, 1.0)
        bar = progress_bar(share * 100, 100, f"% {done} {arguments.target}", shutil.get_terminal_size().columns)
        print(end=f"\r{bar}" if share < 1 else "\r\033[K", file=sys.stderr, flush=True)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("target", choices=TARGETS)
    parser.add_argument("--seed", type=int, default=time.time_ns() % 10**9, help="default: from the clock")
    parser.add_argument("--seconds", type=float, default=60.0, help="when no other begins (default: %(default)g)")
    parser.add_argument("--first", type=int, default=0, metavar="N", help="number of the first (default: 0)")
    parser.add_argument("--count", type=int, default=sys.maxsize, metavar="N", help="at most so many")
    parser.add_argument("--verbose", action="store_true", help="print each operation before it begins")
    parser.add_argument("--current", type=Path, metavar="FILE", help="write here the number of each before it begins")
    arguments = parser.parse_args()
    print(f"{arguments.target}: --seed {arguments.seed}", flush=True)
    run, noun = TARGETS[arguments.target]
    begin, index, total = time.monotonic(), arguments.first, 0
    with tempfile.TemporaryDirectory() as work:
        while (elapsed := time.monotonic() - begin) < arguments.seconds and index < arguments.first + arguments.count:
            show_progress(arguments, elapsed, index - arguments.first)
            if arguments.current:
                arguments.current.write_text(f"--seed {arguments.seed} --first {index} --count 1\n", encoding="utf-8")
            lines: list[str] = []
            try:
                total += run(arguments.seed, index, Path(work), print if arguments.verbose else lines.append)
            except BaseException:
                print("\n".join(lines))
                print(f"failed: {arguments.target} --seed {arguments.seed} --first {index} --count 1")
                raise
            index += 1
    show_progress(arguments, arguments.seconds, 0)
    print(f"{index - arguments.first} {arguments.target}, {total} {noun}, in {time.monotonic() - begin:.0f} s")
    return 0


if __name__ == "__main__":
    sys.exit(main())
