"""Make allocations fail, one moment after another: ``python tests/memory_sweep.py ALLOCATOR MOST FAILURES``.

ALLOCATOR is the library of `tests/interface/test_exhausted_memory.py`, which is preloaded.  Of each kind of call, at
most MOST moments are tried, and at each so many successive allocations fail.  Allocations below LEAST bytes succeed,
because pybind11 and NumPy use the result of some of those without a check.
"""

from __future__ import annotations

import ctypes
import os
import random
import sys
from collections.abc import Callable
from functools import partial
from typing import Any

from all_or_nothing import KINDS, READING, trained

LEAST = 100
NEVER = 1 << 40


def run_exhausted(allocator: Any, work: Callable[[], Any], first: int, failures: int) -> tuple[int, Exception | None]:
    """Call `work` with these allocations failing; return how many there were, and the exception."""
    allocator.fail_allocations(first, failures, LEAST)
    try:
        work()
    except Exception as error:
        return allocator.end_failures(), error
    return allocator.end_failures(), None


def is_of_memory(error: Exception) -> bool:
    """SystemError: NumPy has returned without a result or without an exception, in some of its own functions."""
    return isinstance(error, (MemoryError, SystemError))


def sweep(allocator: Any, kind: str, most: int, failures: int) -> str:
    """Return what was wrong first; an empty string if nothing was."""
    work, options = (KINDS | READING)[kind]
    case = trained(**options)
    before = case.seen()
    total, _ = run_exhausted(allocator, partial(work, case), NEVER, 0)
    after = case.seen()
    for first in sorted(random.Random(kind).sample(range(1, total + 1), min(most, total))):
        case = trained(**options)
        _, error = run_exhausted(allocator, partial(work, case), first, failures)
        where = f"{kind}, allocation {first} of {total}: "
        if error and not is_of_memory(error):
            return where + repr(error)
        if case.seen() != (before if error else after):
            return where + ("changed" if error else "not done")
        if error:
            work(case)
            if case.seen() != after:
                return where + "not done when called again"
    return "" if total or os.environ["PYTHONMALLOC"] != "malloc" else f"{kind}: no allocation"


if __name__ == "__main__":
    library = ctypes.PyDLL(sys.argv[1])
    library.fail_allocations.argtypes = [ctypes.c_long] * 3
    wrong = [sweep(library, kind, *map(int, sys.argv[2:])) for kind in KINDS | READING]
    print("\n".join(filter(None, wrong)))  # not on stderr, where Python reports errors that it ignores
