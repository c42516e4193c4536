"""The bits do not depend on threads, the caller's floating-point mode or the instruction set."""

from __future__ import annotations

import ctypes
import ctypes.util
import hashlib
import os
import platform
import re
import struct
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from functools import lru_cache
from pathlib import Path

import numpy as np
import pytest

import fastoptim as fo
import large_problem
from cases import (
    DTYPES,
    FLOAT32,
    MIN_SHARE,
    PREPARED_CASES,
    TILE,
    VARIANT_CASES,
    Array,
    Case,
    DType,
    assert_same_bits,
    ordinary_values,
)
from large_problem import PATIENCE, Problem, adam_on, steps
from loops import each_case, loop

LAYERS = [*large_problem.LAYERS, "serial"]


@pytest.fixture(scope="module")
def problem() -> Problem:
    return large_problem.make_problem()


# ---- the number of threads


@lru_cache(maxsize=1)
def random_model() -> tuple[list[Array], list[list[Array | None]]]:
    """Many arrays of any size and format with three steps' gradients, some of them None."""
    rng = np.random.default_rng(0)
    sizes = [*rng.integers(0, 3 * TILE, 60), *rng.integers(0, 2 * MIN_SHARE, 8), 0, 64, 1]
    params = [ordinary_values(rng, DTYPES[rng.integers(4)], size) for size in rng.permutation(sizes)]
    grads = [
        [ordinary_values(rng, DTYPES[rng.integers(4)], p.size) if rng.random() < 0.8 else None for p in params]
        for _ in range(3)
    ]
    return params, grads


def stepped_model(threads: int, layer: str = "auto") -> list[Array]:
    params, grads = random_model()
    fo.set_num_threads(threads)
    fo.set_threading(layer)
    opt = adam_on([p.copy() for p in params])
    steps(opt, grads)
    return [*opt.params, *(s for state in opt.state for s in state.values())]


@loop("layer", LAYERS)
def test_threads_do_not_change_bits(layer: str) -> None:
    one = stepped_model(1)
    for threads in (2, 3, 4, 5, 7, 16):
        for i, (array, wanted) in enumerate(zip(stepped_model(threads, layer), one, strict=True)):
            assert_same_bits(array, wanted, f"array {i} on {threads} threads")


@loop("layer", LAYERS)
def test_many_steps_of_changing_sizes(layer: str) -> None:
    """Workers that are late by a step or two find other arrays, other shares and other numbers of threads."""
    fo.set_threading(layer)
    rng = np.random.default_rng(0)
    sizes = [2 * MIN_SHARE, 5 * MIN_SHARE + 1, 3 * MIN_SHARE + 77]
    params = [ordinary_values(rng, FLOAT32, size) for size in sizes]
    wanted = [p.copy() for p in params]
    grads = [ordinary_values(rng, FLOAT32, size) for size in sizes]
    found, one = [adam_on(p) for p in params], [adam_on(p) for p in wanted]
    for t in range(60):
        fo.set_num_threads(2 + t % 4)
        for opt, g in zip(found, grads, strict=True):
            opt.step(g)
        fo.set_num_threads(1)
        for opt, g in zip(one, grads, strict=True):
            opt.step(g)
    for array, right in zip(params, wanted, strict=True):
        assert_same_bits(array, right, "p")


# ---- Python threads


@loop("layer", LAYERS)
@loop("count", [2, 5])
def test_optimizers_in_python_threads(problem: Problem, count: int, layer: str) -> None:
    fo.set_num_threads(3)
    fo.set_threading(layer)
    params = [problem.p.copy() for _ in range(count)]
    opts = [adam_on(p) for p in params]
    barrier = threading.Barrier(count)

    def work(opt: fo.Optimizer) -> None:
        barrier.wait()
        steps(opt, problem.grads)

    workers = [threading.Thread(target=work, args=[opt]) for opt in opts]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    for p in params:
        assert_same_bits(p, problem.wanted, "p")


@loop("threads", [1, 2])
def test_the_gil_is_released(threads: int) -> None:
    """With a switch interval without end, another thread runs only while this one has let go of the lock by itself."""
    fo.set_num_threads(threads)
    p, g = np.zeros(2**22, np.float32), np.ones(2**22, np.float32)
    opt = fo.Adam(p)
    opt.step(g)
    with no_forced_switches():
        assert any(runs_during(lambda: opt.step(g)) for _ in range(100))


def test_the_proof_of_the_gil_proves_something() -> None:
    with no_forced_switches():
        assert not any(runs_during(lambda: sum(range(10**5))) for _ in range(20)) or not gil_is_enabled()


def gil_is_enabled() -> bool:
    return bool(getattr(sys, "_is_gil_enabled", lambda: True)())


@contextmanager
def no_forced_switches() -> Iterator[None]:
    before = sys.getswitchinterval()
    sys.setswitchinterval(1000)
    try:
        yield
    finally:
        sys.setswitchinterval(before)


def runs_during(work: Callable[[], object]) -> bool:
    """Return True if another thread, woken just before, had run when the work was done."""
    ready, go = threading.Event(), threading.Event()
    ran: list[bool] = []

    def run() -> None:
        ready.set()
        go.wait()
        ran.append(True)

    other = threading.Thread(target=run)
    other.start()
    ready.wait()
    go.set()
    work()
    during = bool(ran)
    other.join()
    return during


# ---- the floating-point mode of the calling thread

FE_UPWARD, FE_TOWARDZERO = 0x800, 0xC00
FLUSH_TO_ZERO, DENORMALS_ARE_ZERO = 0x8000, 0x0040
FENV_BYTES, MXCSR_AT = 32, 28  # glibc's fenv_t

needs_x86_glibc = pytest.mark.skipif(
    platform.machine() not in ("x86_64", "AMD64") or platform.libc_ver()[0] != "glibc",
    reason="sets the floating-point mode as x86-64's glibc does",
)


@contextmanager
def floating_point_mode(mode: int) -> Iterator[None]:
    """A rounding direction, or bits of the processor's control word, as another library may leave them behind."""
    libm = ctypes.CDLL(ctypes.util.find_library("m"))
    before, changed = (ctypes.create_string_buffer(FENV_BYTES) for _ in range(2))
    libm.fegetenv(before)
    try:
        if mode in (FE_UPWARD, FE_TOWARDZERO):
            libm.fesetround(mode)
        else:
            libm.fegetenv(changed)
            (word,) = struct.unpack_from("I", changed, MXCSR_AT)
            struct.pack_into("I", changed, MXCSR_AT, word | mode)
            libm.fesetenv(changed)
        yield
    finally:
        libm.fesetenv(before)


MODES = {"upward": FE_UPWARD, "towards_zero": FE_TOWARDZERO, "flush_to_zero": FLUSH_TO_ZERO | DENORMALS_ARE_ZERO}


@lru_cache(maxsize=2)
def tiny_update(case: Case, dtype: DType) -> tuple[list[Array], list[Array]]:
    """Buffers before and after an update by the reference: some become subnormal, all are rounded."""
    rng = np.random.default_rng(0)

    def numbers() -> Array:
        values = ordinary_values(rng, dtype, 999)
        values[::3] *= np.finfo(dtype).tiny
        return values

    before = [numbers(), numbers(), *case.make_state(lambda: np.abs(numbers()))]
    after = [array.copy() for array in before]
    case.update(fo.reference, after[0], after[1], after[2:], 7)
    return before, after


@needs_x86_glibc
@loop("mode", MODES)
@loop("dtype", [np.float32, np.float64])
@each_case([case for case in VARIANT_CASES if not case.optimizer.host_constants])
def test_the_callers_floating_point_mode(case: Case, dtype: type, mode: str) -> None:
    """Optimizers with host constants are left out: Python computes those in the caller's mode."""
    before, after = tiny_update(case, np.dtype(dtype))
    arrays = [array.copy() for array in before]
    with floating_point_mode(MODES[mode]):
        case.update(fo.functional, arrays[0], arrays[1], arrays[2:], 7)
    for name, array, wanted in zip(("p", "g", *case.state), arrays, after, strict=True):
        assert_same_bits(array, wanted, name)


@needs_x86_glibc
@loop("layer", LAYERS)
@loop("mode", MODES)
def test_the_callers_floating_point_mode_with_several_threads(mode: str, layer: str, problem: Problem) -> None:
    fo.set_num_threads(3)
    fo.set_threading(layer)
    p = problem.p.copy()
    opt = adam_on(p)
    with floating_point_mode(MODES[mode]):
        steps(opt, problem.grads)
    assert_same_bits(p, problem.wanted, "p")


@needs_x86_glibc
@loop("mode", MODES)
def test_a_steps_own_numbers_in_the_callers_floating_point_mode(mode: str) -> None:
    """The smallest numbers of float32 as options."""
    g = np.array([1e-38, 3e-39, 1e-45], np.float32)
    found = np.ones(3, np.float32), np.ones(3, np.float32)
    for p, backend in zip(found, ("native", "reference"), strict=True):
        opt = fo.Adam(p, lr=0.1, eps=3e-40, eps_root=1e-41, backend=backend)  # type: ignore[arg-type]
        with floating_point_mode(MODES[mode]) if backend == "native" else nullcontext():
            opt.step(g)
    assert_same_bits(*found, "p")


@needs_x86_glibc
@loop("mode", MODES)
def test_the_callers_floating_point_mode_is_left_as_it_was(mode: str, problem: Problem) -> None:
    p = problem.p.copy()
    opt = adam_on(p)
    fo.set_num_threads(3)
    libm = ctypes.CDLL(ctypes.util.find_library("m"))
    before, after = (ctypes.create_string_buffer(FENV_BYTES) for _ in range(2))
    with floating_point_mode(MODES[mode]):
        libm.fegetenv(before)
        opt.step(problem.grads[0])
        libm.fegetenv(after)
    control = [struct.unpack_from("I", env, MXCSR_AT)[0] & ~0x3F for env in (before, after)]  # without sticky flags
    assert control[0] == control[1]


# ---- instruction sets chosen by the environment

SCRIPT = f"""
import sys
sys.path.insert(0, {str(Path(__file__).parent)!r})
import test_threads
print(test_threads.fo.build_info()["isa"], test_threads.digest())
"""


def digest() -> str:
    """Hash parameters and state after some steps of some optimizers, in every format."""
    rng = np.random.default_rng(0)
    found = hashlib.sha256()
    for case in PREPARED_CASES[::4]:
        opt = case.optimize([ordinary_values(rng, dtype, 1000) for dtype in DTYPES])
        for _ in range(3):
            opt.step([ordinary_values(rng, dtype, 1000) for dtype in DTYPES])
        for array in [*opt.params, *(s for state in opt.state for s in state.values())]:
            found.update(array.tobytes())
    return found.hexdigest()


def run_with_isa(name: str) -> subprocess.CompletedProcess[str]:
    here = Path(__file__).parent
    path = os.pathsep.join([str(here), str(here.parent), os.environ.get("PYTHONPATH", "")])
    environment = {**os.environ, "FASTOPTIM_ISA": name, "PYTHONPATH": path}
    return subprocess.run(
        [sys.executable, "-c", SCRIPT], env=environment, capture_output=True, text=True, timeout=PATIENCE, check=False
    )


@loop("name", fo.build_info()["isa_compiled"])
def test_the_environment_chooses_the_instruction_set(name: str) -> None:
    done = run_with_isa(name)
    if name in fo.build_info()["isa_usable"]:
        assert done.stdout.split() == [name, digest()], done.stderr
    else:
        assert_refused(done, name)


@loop("name", ["sse9", "AVX2"])
def test_an_unknown_instruction_set_is_rejected(name: str) -> None:
    assert_refused(run_with_isa(name), name)


def assert_refused(done: subprocess.CompletedProcess[str], name: str) -> None:
    assert done.returncode != 0
    message = done.stderr.splitlines()[-1]
    assert re.match(rf"ImportError: .*FASTOPTIM_ISA: expected one of .*baseline.*, got '{name}'", message)
