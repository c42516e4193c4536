"""What ran the benchmark, and who else did: processor, caches, memory, GPU, versions, and how busy the machine was."""

from __future__ import annotations

import os
import platform
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np

from ..core import build_info, get_num_threads
from . import gpu

#: Others' part of the processors while something is measured, above which nothing follows from it.
BUSIEST = 0.1
#: The system counts processor time in hundredths of a second: less than this is not judged.
LEAST_SECONDS = 0.5


def describe(*, with_gpu: bool = False) -> dict[str, Any]:
    """The machine and the versions, for a reader and for a JSON file; what cannot be found out is None.

    So is the GPU, unless it is asked for: that imports CuPy.
    """
    info = build_info()
    return {
        "processor": _processor(),
        "processors": os.cpu_count(),
        "processors_usable": usable_processors(),
        "caches": _caches(),
        "memory_bytes": _memory("MemTotal"),
        "huge_pages": _read("/sys/kernel/mm/transparent_hugepage/enabled"),
        "system": f"{platform.system()} {platform.release()} {platform.machine()}",
        "python": platform.python_version(),
        "numpy": np.__version__,
        "fastoptim": info["version"],
        "compiler": info["compiler"],
        "isa": info["isa"],
        "isa_usable": info["isa_usable"],
        "openmp": info["openmp"],
        "threads": get_num_threads(),
        "cuda": info["cuda"],
        "cuda_devices": info["cuda_devices"],
        "gpu": gpu.describe() if with_gpu else None,
    }


def usable_processors() -> int:
    """How many this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def load() -> float | None:
    """The load average of the last minute."""
    return os.getloadavg()[0] if hasattr(os, "getloadavg") else None


def free_bytes() -> int | None:
    """How much memory can still be had without pushing anything out, as far as this system says."""
    limits = [_memory("MemAvailable"), _left_in_control_group()]
    known = [limit for limit in limits if limit is not None]
    return min(known) if known else None


class Watch:
    """Who used the processors while something was measured; starts when it is made."""

    def __init__(self) -> None:
        self.load_before = load()
        self._start = time.perf_counter()
        self._busy, self._own = _busy_seconds(), _own_seconds()

    def report(self) -> dict[str, float | None]:
        """The load average before and now, and the part of the processors that others took meanwhile."""
        busy = _busy_seconds()
        others = None
        elapsed = time.perf_counter() - self._start
        if busy is not None and self._busy is not None and elapsed >= LEAST_SECONDS:
            by_others = (busy - self._busy) - (_own_seconds() - self._own)
            others = min(1.0, max(0.0, by_others / (elapsed * (os.cpu_count() or 1))))
        return {"load_before": self.load_before, "load_after": load(), "others": others}


def _own_seconds() -> float:
    """Processor time of this process so far."""
    return time.process_time()


def _busy_seconds() -> float | None:
    """Processor time of everybody so far, and what a hypervisor gave to other machines."""
    text = _read("/proc/stat")
    if text is None or not text.startswith("cpu "):
        return None
    user, nice, system, _idle, _wait, irq, softirq, steal = map(int, text.splitlines()[0].split()[1:9])
    return (user + nice + system + irq + softirq + steal) / os.sysconf("SC_CLK_TCK")


def _processor() -> str | None:
    for line in (_read("/proc/cpuinfo") or "").splitlines():
        if line.startswith("model name"):
            return line.partition(":")[2].strip()
    return platform.processor() or None


def _caches() -> dict[str, str]:
    """Size of each cache that the first processor sees, by level and kind, and whose it is."""
    found: dict[str, str] = {}
    for directory in sorted(Path("/sys/devices/system/cpu/cpu0/cache").glob("index*")):
        level, kind, size, shared = (_read(directory / name) for name in ("level", "type", "size", "shared_cpu_list"))
        if level and kind and size and kind != "Instruction":
            found[f"L{level}"] = size + (f" (processors {shared})" if shared and shared != "0" else "")
    return found


def _memory(entry: str) -> int | None:
    for line in (_read("/proc/meminfo") or "").splitlines():
        if line.startswith(f"{entry}:"):
            return int(line.split()[1]) * 1024
    if entry == "MemTotal" and sys.platform == "darwin":
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    return None


def _left_in_control_group() -> int | None:
    """What a container's bound leaves, where it has one (version 2)."""
    most, used = _read("/sys/fs/cgroup/memory.max"), _read("/sys/fs/cgroup/memory.current")
    return int(most) - int(used) if most and used and most != "max" else None


def _read(path: str | Path) -> str | None:
    try:
        return Path(path).read_text(encoding="utf-8").strip()
    except OSError:
        return None
