"""How many threads a step may use and on which layer, and how `thread_info` reports it."""

from __future__ import annotations

import ctypes
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import fastoptim as fo
from fastoptim import _core
from optional import optional

needs_openmp = pytest.mark.skipif(not fo.build_info()["openmp"], reason="built without OpenMP")
needs_linux = pytest.mark.skipif(sys.platform != "linux", reason="reads the limits as Linux has them")
needs_two_cpus = pytest.mark.skipif((os.cpu_count() or 1) < 2, reason="one processor")


@pytest.mark.parametrize("n", [1, 2, 64, np.int64(5)])
def test_set_num_threads(n: int) -> None:
    fo.set_num_threads(n)
    assert fo.get_num_threads() == n


def test_set_num_threads_is_undone_by_none() -> None:
    fo.set_num_threads(None)
    before = fo.thread_info()
    assert before["limits"]["call"] is None
    fo.set_num_threads(fo.get_num_threads() + 1)
    fo.set_num_threads(None)
    assert fo.thread_info() == before


@pytest.mark.parametrize("n", [0, -1, 2**31, 2**70])
def test_set_num_threads_rejects_a_number_out_of_range(n: int) -> None:
    before = fo.get_num_threads()
    with pytest.raises(ValueError, match=rf"n: expected an integer from 1 to \d+, got {n}"):
        fo.set_num_threads(n)
    assert fo.get_num_threads() == before


@pytest.mark.parametrize("n", [1.0, "2", True, [1]])
def test_set_num_threads_rejects_what_is_no_integer(n: Any) -> None:
    before = fo.get_num_threads()
    with pytest.raises(TypeError, match="n: expected an integer"):
        fo.set_num_threads(n)
    assert fo.get_num_threads() == before


# ---- affinity

TICKS = os.sysconf("SC_CLK_TCK") if hasattr(os, "sysconf") else 100


def busy_threads(size: int = 1 << 21) -> int:
    """How many threads of this process worked during some large steps."""

    def ticks() -> dict[str, int]:
        found = {}
        for task in Path("/proc/self/task").iterdir():
            fields = (task / "stat").read_text().rsplit(")", 1)[1].split()
            found[task.name] = int(fields[11]) + int(fields[12])
        return found

    opt, g = fo.Adam(np.ones(size, np.float32)), np.ones(size, np.float32)
    opt.step(g)
    before = ticks()
    end = time.monotonic() + 0.4
    while time.monotonic() < end:
        opt.step(g)
    return sum(now - before.get(task, 0) > 0.05 * TICKS for task, now in ticks().items())


@pytest.fixture
def one_cpu() -> Iterator[None]:
    before = os.sched_getaffinity(0)
    os.sched_setaffinity(0, {min(before)})
    yield
    os.sched_setaffinity(0, before)


@needs_linux
@needs_two_cpus
def test_the_affinity_mask_as_it_is_now(one_cpu: None) -> None:
    info = fo.thread_info()
    assert (info["threads"], info["layer"], info["reason"]) == (1, "serial", "affinity")
    assert info["limits"]["affinity"] == fo.get_num_threads() == 1
    fo.set_threading("pool")
    time.sleep(0.002)  # a step may use a mask that is a millisecond old
    assert busy_threads() == 1


@needs_linux
@needs_two_cpus
def test_a_mask_that_grows_again() -> None:
    before = os.sched_getaffinity(0)
    os.sched_setaffinity(0, {min(before)})
    try:
        busy_threads()
    finally:
        os.sched_setaffinity(0, before)
    assert fo.get_num_threads() == len(before)
    fo.set_threading("pool")
    assert any(busy_threads() >= 2 for _ in range(100))  # on a busy machine a worker may come too late


# ---- the cgroup quota


def fake_system(root: Path, cgroup: str, files: dict[str, str]) -> str:
    for name, text in {"proc/self/cgroup": cgroup, **files}.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return str(root)


def v1(folder: str, quota: int, period: int) -> dict[str, str]:
    at = f"sys/fs/cgroup/cpuacct,cpu{folder}/cpu.cfs_"
    return {f"{at}quota_us": f"{quota}\n", f"{at}period_us": f"{period}\n"}


def v2(folder: str, text: str) -> dict[str, str]:
    return {f"sys/fs/cgroup{folder}/cpu.max": f"{text}\n"}


V1 = "4:memory:/\n2:cpuacct,cpu:/a/b\n1:cpuset:/other\n"


@pytest.mark.parametrize(
    ("cgroup", "files", "wanted"),
    [
        ("0::/\n", {}, 0),
        ("0::/\n", v2("", "max 100000"), 0),
        ("0::/\n", v2("", "200000 100000"), 2),
        ("0::/\n", v2("", "390000 100000"), 3),
        ("0::/\n", v2("", "50000 100000"), 1),
        ("0::/a/b\n", v2("/a", "300000 100000") | v2("/a/b", "max 100000"), 3),
        ("0::/a/b\n", v2("/a", "300000 100000") | v2("/a/b", "200000 100000"), 2),
        ("0::/docker/0123\n", v2("", "200000 100000"), 2),
        (V1, v1("/a/b", -1, 100000), 0),
        (V1, v1("/a", 250000, 100000), 2),
        (V1, v1("", 10000, 10000), 1),
        ("nonsense\n:\n0::relative\n", v2("", "nonsense"), 0),
    ],
)
def test_the_quota(cgroup: str, files: dict[str, str], wanted: int, tmp_path: Path) -> None:
    assert _core.quota_processors(fake_system(tmp_path, cgroup, files)) == wanted


def test_a_system_without_cgroups(tmp_path: Path) -> None:
    assert _core.quota_processors(str(tmp_path)) == 0


# ---- limits of OpenMP


@pytest.fixture
def omp_set_num_threads() -> Iterator[Any]:
    """The function of the runtime that fastoptim uses."""
    maps = Path("/proc/self/maps").read_text()
    loaded = {line.split()[-1] for line in maps.splitlines() if "libgomp" in line}
    runtimes = {path for path in loaded if "fastoptim.libs" in path}  # of a repaired wheel, which has its own
    runtimes = runtimes or {path for path in loaded if "libgomp.so" in path}
    if len(runtimes) != 1:
        pytest.skip("no GNU OpenMP of the system's name")
    runtime = ctypes.CDLL(runtimes.pop())
    before = runtime.omp_get_max_threads()
    yield runtime.omp_set_num_threads
    runtime.omp_set_num_threads(before)


@needs_linux
@needs_openmp
@pytest.mark.parametrize("layer", ["auto", "pool", "openmp"])
def test_a_limit_that_is_set_at_run_time(omp_set_num_threads: Any, layer: str) -> None:
    fo.set_num_threads(4)
    fo.set_threading(layer)
    omp_set_num_threads(1)
    info = fo.thread_info()
    assert (info["threads"], info["layer"], info["reason"], info["limits"]["limit"]) == (1, "serial", "limit", 1)
    assert busy_threads() == 1
    omp_set_num_threads(3)
    assert fo.get_num_threads() == 3


@needs_linux
@needs_openmp
def test_threadpoolctl() -> None:
    threadpoolctl = optional("threadpoolctl")
    fo.set_num_threads(4)
    with threadpoolctl.threadpool_limits(1):
        assert fo.get_num_threads() == 1
    assert fo.get_num_threads() == 4


# ---- layers


def printed(code: str, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-c", code], env={**os.environ, **environment}, capture_output=True, text=True, check=False
    )


def test_by_default_the_layer_is_chosen() -> None:
    done = printed("import fastoptim as fo; print(fo.thread_info()['threading'])", FASTOPTIM_THREADING="")
    assert done.stdout == "auto\n", done.stderr


@pytest.mark.parametrize("layer", ["pool", "serial", *(["openmp"] if fo.build_info()["openmp"] else [])])
def test_a_layer_by_call_and_by_environment(layer: str) -> None:
    fo.set_num_threads(2)
    fo.set_threading(layer)
    info = fo.thread_info()
    assert (info["threading"], info["layer"]) == (layer, layer)
    assert info["threads"] == (1 if layer == "serial" else 2)
    assert info["reason"] == "call"
    show = "import fastoptim as fo; info = fo.thread_info(); print(info['threading'], info['layer'], info['reason'])"
    done = printed(show, FASTOPTIM_THREADING=layer, OMP_NUM_THREADS="2")
    assert done.stdout.split() == [layer, layer, "environment"], done.stderr


def test_an_unknown_layer_is_rejected() -> None:
    fo.set_threading("pool")
    with pytest.raises(ValueError, match=r"layer: expected 'auto', 'pool', .*'serial', got 'tbb'"):
        fo.set_threading("tbb")
    with pytest.raises(TypeError, match="layer: expected a string, got 2"):
        fo.set_threading(2)  # type: ignore[arg-type]
    assert fo.thread_info()["threading"] == "pool"
    done = printed("import fastoptim", FASTOPTIM_THREADING="tbb")
    assert done.returncode == 1
    assert "ImportError: FASTOPTIM_THREADING: expected 'auto', 'pool'" in done.stderr
    assert "got 'tbb'" in done.stderr


@needs_openmp
@pytest.mark.parametrize(("text", "wanted"), [("3", 3), ("5,2", 5), (" 4 ", 4), ("3\t", 3)])
def test_omp_num_threads(text: str, wanted: int) -> None:
    show = "import fastoptim as fo; print(fo.get_num_threads(), fo.thread_info()['reason'])"
    assert printed(show, OMP_NUM_THREADS=text).stdout.split() == [str(wanted), "environment"]


@needs_openmp
@pytest.mark.parametrize("text", ["", "x", "3 x", "0", "-2", "99999999999999999999"])
def test_omp_num_threads_that_is_no_number(text: str) -> None:
    show = "import fastoptim as fo; print(fo.thread_info()['limits']['environment'], fo.get_num_threads() >= 1)"
    assert printed(show, OMP_NUM_THREADS=text).stdout.split() == ["None", "True"]


def test_a_small_model_of_many_arrays_stays_on_the_calling_thread() -> None:
    """Tiles of small arrays are mostly empty and do not count as full ones in the passes for norms."""
    show = """
import os, numpy as np, fastoptim as fo
fo.set_num_threads(3)
fo.set_threading("pool")
opt = fo.Adam([np.ones(4, np.float32) for _ in range(200)], clip_global_norm=1.0)
before = len(os.listdir("/proc/self/task"))
opt.step([np.ones(4, np.float32) for _ in range(200)])
print(len(os.listdir("/proc/self/task")) - before)
"""
    if sys.platform != "linux":
        pytest.skip("counts threads as Linux does")
    assert printed(show).stdout == "0\n"


@needs_linux
@needs_two_cpus
@pytest.mark.parametrize("layer", ["pool", *(["openmp"] if fo.build_info()["openmp"] else [])])
def test_a_layer_uses_its_threads(layer: str) -> None:
    fo.set_num_threads(2)
    fo.set_threading(layer)
    assert any(busy_threads() == 2 for _ in range(100))  # on a busy machine a worker may come too late
    fo.set_threading("serial")
    time.sleep(0.05)  # OpenMP's threads spin for some milliseconds
    assert busy_threads() == 1


@needs_linux
@needs_two_cpus
def test_idle_threads_of_the_pool_take_no_time() -> None:
    fo.set_num_threads(2)
    fo.set_threading("pool")
    busy_threads()
    before = time.process_time()
    time.sleep(0.3)
    assert time.process_time() - before < 0.05
