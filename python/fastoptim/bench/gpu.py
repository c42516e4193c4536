"""The GPU that ``--device cuda`` names, CuPy's current one, as the benchmark needs it.

CuPy is imported by whoever asks for it here, and by nothing else.
"""

from __future__ import annotations

from importlib import import_module
from typing import Any

from .. import core
from .timing import Step


def cupy() -> Any:
    """CuPy; ImportError, naming the extra, where it is missing."""
    try:
        return import_module("cupy")
    except ImportError:
        raise ImportError(
            "--device cuda: needs CuPy; pip install 'fastoptim[cuda13]', or 'fastoptim[cuda12]' for CUDA 12"
        ) from None


def require() -> None:
    """RuntimeError where there is no GPU to use, ImportError where there is nothing to make its arrays with."""
    if status := core.cuda_status():
        raise RuntimeError(f"--device cuda: {status}")
    cupy()


def waiting() -> Step:
    """What waits until all that was handed over to the stream, current now, is done."""
    return cupy().cuda.get_current_stream().synchronize  # type: ignore[no-any-return]


def free_bytes() -> int:
    """How much of its memory can still be had, what CuPy keeps for new arrays included."""
    cp = cupy()
    free, _ = cp.cuda.runtime.memGetInfo()
    return int(free) + int(cp.get_default_memory_pool().free_bytes())


def describe() -> dict[str, Any]:
    """The GPU, its driver and CuPy, for a reader and for a JSON file."""
    cp = cupy()
    runtime = cp.cuda.runtime
    properties = runtime.getDeviceProperties(cp.cuda.Device().id)
    driver = runtime.driverGetVersion()
    return {
        "name": properties["name"].decode(),
        "compute_capability": f"{properties['major']}.{properties['minor']}",
        "memory_bytes": int(properties["totalGlobalMem"]),
        "processors": int(properties["multiProcessorCount"]),
        "driver": f"{driver // 1000}.{driver % 1000 // 10}",
        "cupy": cp.__version__,
    }
