"""Forks, start methods, the end of the interpreter, subinterpreters, threads that cannot be created."""

from __future__ import annotations

import multiprocessing
import os
import shutil
import signal
import subprocess
import sys
import textwrap
import threading
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

import fastoptim as fo
from large_problem import LAYERS, PATIENCE, SIZE, Problem, adam_on, make_problem, steps
from optional import optional


@pytest.fixture(scope="module")
def problem() -> Problem:
    return make_problem()


def run_program(text: str, *arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-c", textwrap.dedent(text), *arguments],
        env={**os.environ, **environment},
        capture_output=True,
        text=True,
        timeout=2 * PATIENCE,
        check=False,
    )


# ---- forks

needs_fork = pytest.mark.skipif(not hasattr(os, "fork"), reason="this system has no fork")
# What Python 3.12 says of every fork in a process with threads, which is the case under test.
ignores_fork_warning = pytest.mark.filterwarnings("ignore:.*multi-threaded, use of fork:DeprecationWarning")


def worker_threads() -> int:
    """Threads of this process other than the main one; 2 where the system does not say."""
    return len(list(Path("/proc/self/task").iterdir())) - 1 if sys.platform == "linux" else 2


def stepped_right(problem: Problem) -> bool:
    p = problem.p.copy()
    steps(adam_on(p), problem.grads)
    return bool(p.tobytes() == problem.wanted.tobytes())


def exit_status_of_fork(work: Callable[[], bool]) -> int | None:
    """0 where the work in a child was True, else not; None where the child had to be killed."""
    child = os.fork()
    if child == 0:
        status = 2
        try:
            status = 0 if work() else 1
        finally:
            os._exit(status)
    deadline = time.monotonic() + PATIENCE
    while time.monotonic() < deadline:
        pid, status = os.waitpid(child, os.WNOHANG)
        if pid:
            return os.waitstatus_to_exitcode(status)
        time.sleep(0.01)
    os.kill(child, signal.SIGKILL)
    os.waitpid(child, 0)
    return None


@needs_fork
@ignores_fork_warning
def test_a_forked_child_steps(problem: Problem) -> None:
    fo.set_num_threads(3)
    assert stepped_right(problem)
    assert exit_status_of_fork(lambda: stepped_right(problem)) == 0
    assert stepped_right(problem)


@needs_fork
@ignores_fork_warning
@pytest.mark.parametrize("layer", LAYERS)
def test_a_forked_child_has_threads_of_its_own(problem: Problem, layer: str) -> None:
    """OpenMP's do not survive a fork, so the pool takes its place."""
    fo.set_num_threads(3)
    fo.set_threading(layer)
    assert stepped_right(problem)

    def work() -> bool:
        right = stepped_right(problem)
        fo.set_threading("openmp" if layer == "openmp" else "pool")
        info = fo.thread_info()
        right &= stepped_right(problem)
        return right and info["threads"] == 3 and info["layer"] == "pool" and worker_threads() >= 2

    assert exit_status_of_fork(work) == 0


@needs_fork
@ignores_fork_warning
def test_a_fork_at_any_step() -> None:
    """The default layer begins with a trial of OpenMP, in the middle of which a child must not use it."""
    fo.set_num_threads(2)
    g = np.ones(3 * SIZE, np.float32)
    opt = fo.Adam(np.ones(3 * SIZE, np.float32))

    def step() -> bool:
        opt.step(g)
        return True

    for _ in range(30):
        step()
        assert exit_status_of_fork(step) == 0


@needs_fork
@ignores_fork_warning
def test_a_forked_child_continues_with_its_parents_optimizer(problem: Problem) -> None:
    fo.set_num_threads(3)
    p = problem.p.copy()
    opt = adam_on(p)
    steps(opt, problem.grads[:2])

    def go_on() -> bool:
        steps(opt, problem.grads[2:])
        return bool(p.tobytes() == problem.wanted.tobytes())

    assert exit_status_of_fork(go_on) == 0
    assert go_on()


@needs_fork
@ignores_fork_warning
def test_a_grandchild_steps(problem: Problem) -> None:
    fo.set_num_threads(3)
    assert stepped_right(problem)
    assert exit_status_of_fork(lambda: exit_status_of_fork(lambda: stepped_right(problem)) == 0) == 0


@needs_fork
@ignores_fork_warning
def test_multiprocessing_fork(problem: Problem) -> None:
    fo.set_num_threads(3)
    assert stepped_right(problem)
    context = multiprocessing.get_context("fork")
    receiver, sender = context.Pipe(duplex=False)
    child = context.Process(target=lambda: sender.send(stepped_right(problem)), daemon=True)
    child.start()
    try:
        assert receiver.poll(PATIENCE), "the child hangs"
        assert receiver.recv() is True
    finally:
        child.kill()
        child.join()


@needs_fork
@ignores_fork_warning
def test_a_fork_while_another_thread_steps(problem: Problem) -> None:
    """The child must not find the pool locked by a thread that it does not have."""
    fo.set_num_threads(3)
    fo.set_threading("pool")
    stop = threading.Event()
    opt = adam_on(problem.p.copy())

    def keep_stepping() -> None:
        while not stop.is_set():
            opt.step(problem.grads[0])

    thread = threading.Thread(target=keep_stepping)
    thread.start()
    try:
        for _ in range(20):
            assert exit_status_of_fork(lambda: stepped_right(problem)) == 0
    finally:
        stop.set()
        thread.join()


OTHER_LIBRARY = """
#include <omp.h>
int count(void) {
    int n = 0;
#pragma omp parallel num_threads(3) reduction(+ : n)
    n += 1;
    return n;
}
"""


@needs_fork
@pytest.mark.skipif(not fo.build_info()["openmp"] or shutil.which("cc") is None, reason="no OpenMP, or no C compiler")
@pytest.mark.parametrize("layer", ["auto", "openmp"])
def test_a_fork_of_a_process_in_which_another_library_used_openmp(layer: str, tmp_path: Path) -> None:
    """The child imports fastoptim after the fork; the other library loaded the same runtime before."""
    other = tmp_path / "other.so"
    compile_it = ["cc", "-fopenmp", "-shared", "-fPIC", "-xc", "-", "-o", str(other)]
    subprocess.run(compile_it, input=OTHER_LIBRARY, text=True, check=True)
    done = run_program(
        """
        import ctypes, os, sys
        assert ctypes.CDLL(sys.argv[2]).count() == 3
        child = os.fork()
        if child:
            sys.exit(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
        import numpy as np, fastoptim as fo
        fo.set_num_threads(3)
        fo.set_threading(sys.argv[1])
        p = np.ones(1 << 18, np.float32)
        opt = fo.SGD(p, lr=1.0)
        for _ in range(30):
            opt.step(np.ones_like(p))
        os._exit(0 if (p == -29).all() else 1)
        """,
        layer,
        str(other),
    )
    assert done.returncode == 0, done.stderr


# ---- every way of starting a process


def steps_right_here(threads: int) -> bool:
    fo.set_num_threads(threads)
    return stepped_right(make_problem())


@pytest.mark.parametrize("method", multiprocessing.get_all_start_methods())
@ignores_fork_warning
def test_start_methods(method: str) -> None:
    with multiprocessing.get_context(method).Pool(2) as pool:
        assert pool.map_async(steps_right_here, [1, 3, 3]).get(PATIENCE) == [True] * 3


@pytest.mark.parametrize("backend", ["loky", "multiprocessing", "threading"])
@ignores_fork_warning
def test_joblib(backend: str) -> None:
    joblib = optional("joblib")
    tasks = [joblib.delayed(steps_right_here)(threads) for threads in (1, 3, 3)]
    assert joblib.Parallel(2, backend=backend)(tasks) == [True] * 3


# ---- the end of the interpreter

DAEMON = """
import sys, threading, time
import numpy as np, fastoptim as fo
def train():
    p = np.zeros(int(sys.argv[2]), np.float32)
    opt, g = fo.Adam(p), np.ones_like(p)
    while True:
        opt.step(g)
for _ in range(int(sys.argv[3])):
    threading.Thread(target=train, daemon=True).start()
log = open(sys.argv[1], "w")
log.write("the result")
time.sleep(0.2)
"""


@pytest.mark.parametrize(
    ("size", "threads", "layer"), [(10, 1, "auto"), *((1_000_000, 1, layer) for layer in LAYERS), (200_000, 3, "pool")]
)
def test_the_program_ends_while_daemon_threads_step(size: int, threads: int, layer: str, tmp_path: Path) -> None:
    """With status 0, and what the threads' frames refer to is released: the file is flushed."""
    log = tmp_path / "log"
    done = run_program(DAEMON, str(log), str(size), str(threads), FASTOPTIM_THREADING=layer)
    assert (done.returncode, done.stderr, log.read_text()) == (0, "", "the result")


def test_the_main_thread_steps_in_exit_functions() -> None:
    done = run_program(
        """
        import atexit, threading, numpy as np
        p = np.zeros(300_000, np.float32)
        def last_step():
            opt.step(np.ones_like(p))
            print("stepped" if p[0] != before else "not")
        atexit.register(last_step)  # before fastoptim's own function, so it runs after it
        import fastoptim as fo
        opt = fo.Adam(p)
        def train():
            q = np.zeros(300_000, np.float32)
            other = fo.Adam(q)
            while True:
                other.step(np.ones_like(q))
        threading.Thread(target=train, daemon=True).start()
        opt.step(np.ones_like(p))
        before = p[0]
        """
    )
    assert (done.returncode, done.stdout, done.stderr) == (0, "stepped\n", "")


def test_a_thread_number_that_is_used_again_at_exit() -> None:
    """A thread of a later exit function may get the number of a daemon thread that was ended."""
    done = run_program(
        """
        import atexit, threading, numpy as np
        def last_steps():
            for _ in range(5):
                thread = threading.Thread(target=lambda: (opt.step(np.ones(10)), print("stepped")))
                thread.start()
                thread.join()
        def start(run):
            try:
                threading.Thread(target=run, daemon=True).start()
            except RuntimeError:
                pass
        import fastoptim as fo
        fo.set_num_threads(1)
        opt = fo.SGD(np.ones(10))
        def train():
            other = fo.SGD(np.ones(10))
            while True:
                other.step(np.ones(10))
        start(train)
        from fastoptim import threads
        atexit.unregister(threads._end_daemon_threads)
        threads._end_daemon_threads()
        last_steps()
        """
    )
    assert (done.returncode, done.stdout, done.stderr) == (0, "stepped\n" * 5, "")


@pytest.mark.skipif(sys.platform != "linux", reason="the signal for a file that became shorter")
@pytest.mark.parametrize("layer", LAYERS)
def test_a_fault_in_a_worker_is_reported(layer: str, tmp_path: Path) -> None:
    done = run_program(
        """
        import faulthandler, os, sys
        import numpy as np, fastoptim as fo
        faulthandler.enable()
        size = 1 << 20
        np.ones(size, np.float32).tofile(sys.argv[1])
        g = np.memmap(sys.argv[1], np.float32, mode="r+")
        fo.set_num_threads(4)
        opt = fo.SGD(np.ones(size, np.float32))
        os.truncate(sys.argv[1], 4 * size - 8192)  # so that one chunk faults, on one thread
        opt.step(g.view(np.ndarray))
        """,
        str(tmp_path / "gradient"),
        FASTOPTIM_THREADING=layer,
    )
    assert "Bus error" in done.stderr


# ---- subinterpreters

IMPORT = """
try:
    import fastoptim
except ImportError as error:
    print(error, flush=True)
"""


@pytest.mark.parametrize("first", ["import sys", "import fastoptim"])
def test_a_subinterpreter_is_rejected(first: str) -> None:
    done = run_program(
        f"""
        {first}
        try:
            import _interpreters as interpreters
        except ImportError:
            import _xxsubinterpreters as interpreters
        interpreters.run_string(interpreters.create(), {IMPORT!r})
        """
    )
    assert done.stdout == "fastoptim: expected the main interpreter, got a subinterpreter\n", done.stderr


# ---- no more threads


@pytest.mark.skipif(sys.platform != "linux", reason="limits the number of threads as Linux does")
@pytest.mark.parametrize("layer", LAYERS)
def test_threads_that_cannot_be_created(layer: str) -> None:
    """A container's limit of processes: the step is taken on the threads that there are."""
    done = run_program(
        """
        import os, resource, sys
        import numpy as np, numpy.ma
        import fastoptim as fo
        fo.SGD(np.ones(3)).step(np.ones(3))
        if os.getuid() == 0:  # whom the limit does not bind
            os.setgid(65534)
            os.setuid(65534)
        resource.setrlimit(resource.RLIMIT_NPROC, (1, 1))
        fo.set_num_threads(4)
        fo.set_threading(sys.argv[1])
        p = np.ones(1 << 18, np.float32)
        opt = fo.SGD(p, lr=1.0)
        for _ in range(30):
            opt.step(np.ones_like(p))
        print(len(os.listdir("/proc/self/task")), (p == -29).all())
        """,
        layer,
        OPENBLAS_NUM_THREADS="1",
    )
    assert (done.returncode, done.stdout) == (0, "1 True\n"), done.stderr
