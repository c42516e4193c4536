"""The machine that runs the benchmark, its GPU and versions, and how much other processes used it."""

from __future__ import annotations

import os
import platform
import sys
import time
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np

from ..core import build_info, get_num_threads

#: The system counts processor time in hundredths of a second: less than this is not judged.
LEAST_SECONDS = 0.5


def describe(*, with_gpu: bool = False) -> dict[str, Any]:
    """Return the machine and the versions as plain data.  Unknown values are None, as is the GPU unless asked for."""
    info = build_info()
    return {
        "processor": _entry("/proc/cpuinfo", "model name") or platform.processor() or None,
        "processors": os.cpu_count(),
        "processors_usable": len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1,
        "caches": _caches(),
        "memory_bytes": _memory("MemTotal"),
        "huge_pages": _read("/sys/kernel/mm/transparent_hugepage/enabled"),
        "system": f"{platform.system()} {platform.release()} {platform.machine()}",
        "python": platform.python_version(),
        "numpy": np.__version__,
        "fastoptim": info["version"],
        **{name: info[name] for name in ("compiler", "isa", "isa_usable", "openmp", "cuda", "cuda_devices")},
        "threads": get_num_threads(),
        "gpu": _describe_gpu() if with_gpu else None,
    }


def free_bytes(device: str = "cpu") -> int | None:
    """Return the memory of a device that can be allocated without swapping, if the system reports it."""
    if device == "cuda":
        cp = import_cupy()
        return int(cp.cuda.runtime.memGetInfo()[0]) + int(cp.get_default_memory_pool().free_bytes())
    most, used = _read("/sys/fs/cgroup/memory.max"), _read("/sys/fs/cgroup/memory.current")  # of a container
    left = int(most) - int(used) if most and used and most != "max" else None
    return min((size for size in (_memory("MemAvailable"), left) if size is not None), default=None)


class Watch:
    """The use of the processors by others from its construction on."""

    def __init__(self) -> None:
        self._load, self._start, self._busy, self._own = _usage()

    def report(self) -> dict[str, float | None]:
        """Return the load averages before and now, and the part of the processors that others took meanwhile."""
        load, now, busy, own = _usage()
        others = None
        if busy is not None and self._busy is not None and now - self._start >= LEAST_SECONDS:
            by_others = (busy - self._busy) - (own - self._own)
            others = min(1.0, max(0.0, by_others / ((now - self._start) * (os.cpu_count() or 1))))
        return {"load_before": self._load, "load_after": load, "others": others}


def _usage() -> tuple[float | None, float, float | None, float]:
    """Return the load average, the clock, and the processor time of all processes since boot and of this one.

    The first includes the time that a hypervisor gave to other guests, the last that of children that were waited for.
    """
    text, busy = _read("/proc/stat"), None
    if text and text.startswith("cpu "):
        user, nice, system, _idle, _wait, irq, softirq, steal = map(int, text.splitlines()[0].split()[1:9])
        busy = (user + nice + system + irq + softirq + steal) / os.sysconf("SC_CLK_TCK")
    return os.getloadavg()[0] if hasattr(os, "getloadavg") else None, time.perf_counter(), busy, sum(os.times()[:4])


def _caches() -> dict[str, str]:
    """Return the size of each cache of the first processor, by level, with the processors that share it."""
    found: dict[str, str] = {}
    for directory in sorted(Path("/sys/devices/system/cpu/cpu0/cache").glob("index*")):
        level, kind, size, shared = (_read(directory / name) for name in ("level", "type", "size", "shared_cpu_list"))
        if level and kind and size and kind != "Instruction":
            found[f"L{level}"] = size + (f" (processors {shared})" if shared and shared != "0" else "")
    return found


def _memory(name: str) -> int | None:
    if entry := _entry("/proc/meminfo", name):
        return int(entry.split()[0]) * 1024
    if name == "MemTotal" and sys.platform == "darwin":
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    return None


def _entry(path: str, name: str) -> str | None:
    """Return the first value of this name in a file of names and values."""
    lines = (line.partition(":") for line in (_read(path) or "").splitlines())
    return next((value.strip() for found, _, value in lines if found.strip() == name), None)


def _read(path: str | Path) -> str | None:
    try:
        return Path(path).read_text(encoding="utf-8").strip()
    except OSError:
        return None


# ---- the GPU: CuPy's current one


def import_cupy() -> Any:
    """Return CuPy; ImportError naming the extra if it is missing."""
    try:
        return import_module("cupy")
    except ImportError:
        raise ImportError(
            "--device cuda: needs CuPy; pip install 'fastoptim[cuda13]', or 'fastoptim[cuda12]' for CUDA 12"
        ) from None


def _describe_gpu() -> dict[str, Any]:
    cp = import_cupy()
    properties = cp.cuda.runtime.getDeviceProperties(cp.cuda.Device().id)
    driver = cp.cuda.runtime.driverGetVersion()
    return {
        "name": properties["name"].decode(),
        "compute_capability": f"{properties['major']}.{properties['minor']}",
        "memory_bytes": int(properties["totalGlobalMem"]),
        "processors": int(properties["multiProcessorCount"]),
        "driver": f"{driver // 1000}.{driver % 1000 // 10}",
        "cupy": cp.__version__,
    }
