"""Number of threads of a step, and their threading layer."""

from __future__ import annotations

import atexit
import threading
import time
from typing import TYPE_CHECKING

from . import core
from .texts import brief

if TYPE_CHECKING:
    from typing import TypedDict

    class ThreadLimits(TypedDict):
        """Each limit separately; None if not set."""

        affinity: int
        quota: int | None
        environment: int | None
        limit: int | None
        call: int | None

    class ThreadInfo(TypedDict):
        """The result of `thread_info`."""

        threads: int
        layer: str
        reason: str
        threading: str
        limits: ThreadLimits


MAX_THREADS = 4096
EXIT_WAIT = 0.25  # seconds that an exit waits for daemon threads that take steps


def get_num_threads() -> int:
    """Return how many threads a large step may use now.

    That is the number passed to `set_num_threads`, else `OMP_NUM_THREADS` as it was at the import, else the number of
    processors in the affinity mask of the calling thread, at most as many as the cgroup's CPU quota allows (rounded
    down, at least 1).  An OpenMP limit that the calling thread has set (with `threadpoolctl`, `torch.set_num_threads`
    or `omp_set_num_threads`) lowers it.  Steps notice a changed mask within a millisecond, a changed quota within a
    second, a changed limit at once.

    >>> import fastoptim as fo
    >>> fo.get_num_threads() >= 1
    True
    """
    return core.get_num_threads()


def set_num_threads(n: int | None) -> None:
    """Set how many threads a step may use, in the whole process.

    A small step uses fewer; with `"auto"` so may a step on a busy machine (see `set_threading`).

    Args:
        n: From 1 to 4096, of which a step uses at most 1,024; or None, which restores the default (see
            `get_num_threads`).

    Raises:
        TypeError: `n` is neither an integer nor None.
        ValueError: `n` is out of range.

    >>> import fastoptim as fo
    >>> fo.set_num_threads(1)
    >>> fo.get_num_threads()
    1
    >>> fo.set_num_threads(None)
    >>> fo.thread_info()["limits"]["call"] is None
    True
    """
    if n is None:
        core.set_num_threads(0)
        return
    if isinstance(n, bool) or not hasattr(type(n), "__index__"):
        raise TypeError(f"n: expected an integer >= 1 or None, got {brief(n)}")
    count = n.__index__()
    if not 1 <= count <= MAX_THREADS:
        raise ValueError(f"n: expected an integer from 1 to {MAX_THREADS}, got {brief(n)}")
    core.set_num_threads(count)


def set_threading(layer: str) -> None:
    """Choose the threading layer, the implementation that runs the threads of a step, for the whole process.

    The results are the same bits with every layer.

    Args:
        layer: One of

            * `"auto"` (default): one of the other three, by continuous measurement for each calling thread and size;
            * `"pool"`: fastoptim's own thread pool.  The calling thread processes chunks that no worker has claimed;
            * `"openmp"`: the compiler's OpenMP runtime, fast if it is shared with PyTorch.  A forked process uses the
              pool instead;
            * `"serial"`: the calling thread.

    The environment variable `FASTOPTIM_THREADING` sets the layer at the import.

    Raises:
        TypeError: `layer` is not a string.
        ValueError: `layer` is none of these, or `"openmp"` in a build without OpenMP.

    >>> import fastoptim as fo
    >>> fo.set_threading("serial")
    >>> fo.thread_info()["threads"]
    1
    >>> fo.set_threading("auto")
    """
    if not isinstance(layer, str):
        raise TypeError(f"layer: expected a string, got {brief(layer)}")
    try:
        core.set_threading(layer)
    except ValueError as error:
        raise ValueError(f"layer: {error}") from None


def thread_info() -> ThreadInfo:
    """Return how a large step on this thread runs now, and why.

    With `"auto"` that is the choice for the size of the last large step on this thread.

    Returns:
        A dict with

        * `"threads"`: the number of threads;
        * `"layer"`: `"pool"`, `"openmp"` or `"serial"`;
        * `"reason"`: the source of the number: `"affinity"`, `"quota"`, `"environment"` (a variable), `"limit"` (an
          OpenMP limit set at run time), `"call"` (of `set_num_threads` or `set_threading`), or `"measured"`, if
          `"auto"` measured that one thread is faster;
        * `"threading"`: the requested layer, `"auto"` by default;
        * `"limits"`: each limit separately, None if not set.

    >>> import fastoptim as fo
    >>> sorted(fo.thread_info())
    ['layer', 'limits', 'reason', 'threading', 'threads']
    """
    info: ThreadInfo = core.thread_info()
    return info


@atexit.register
def _end_daemon_threads() -> None:
    """End daemon threads at their next step, so that their frames are freed and open files flushed."""
    stepping = set(core.stepping_threads())
    daemons = [thread for thread in threading.enumerate() if thread.daemon and thread.ident in stepping]
    if not daemons:
        return
    core.end_threads([thread.ident for thread in daemons if thread.ident is not None])
    deadline = time.monotonic() + EXIT_WAIT
    for thread in daemons:
        thread.join(max(0.0, deadline - time.monotonic()))
