"""Time steps with norms against the same step without: `gpu_norms.py ELEMENTS FILE`; see bench/on_gpu.sh.

`python -m fastoptim bench` rejects these options, because its probe moves the bytes of the update alone.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np

import fastoptim as fo
from fastoptim.bench.machine import import_cupy
from fastoptim.bench.timing import Budget, interleave, summarize

OPTIONS: dict[str, dict[str, Any]] = {
    "plain": {},
    "clip_global_norm": {"clip_global_norm": 1.0},
    "skip_nonfinite": {"skip_nonfinite": True},
}


def measure(dtype: Any, elements: int, seconds: float) -> dict[str, Any]:
    """Return the seconds of each step of Adam, timed alternately over arrays of their own."""
    cp = import_cupy()
    with cp.cuda.Stream(non_blocking=True) as stream:
        g = cp.asarray(np.full(elements, 1e-3, dtype))
        optimizers = {name: fo.Adam(cp.asarray(np.ones(elements, dtype)), **each) for name, each in OPTIONS.items()}
        steps = {name: lambda opt=opt: opt.step(g) for name, opt in optimizers.items()}
        times = interleave(steps, Budget(seconds), wait=stream.synchronize)
    return {name: summarize(each) for name, each in times.items()}


def main(elements: int, file: Path, seconds: float) -> None:
    """Measure float32 and bfloat16, and print a table."""
    found = {}
    for dtype in (np.float32, ml_dtypes.bfloat16):
        name = np.dtype(dtype).name
        found[name] = measure(dtype, elements, seconds)
        file.write_text(json.dumps({"elements": elements, "seconds": found}, indent=1), encoding="utf-8")
        for option, times in found[name].items():
            ratio = times["median"] / found[name]["plain"]["median"]
            print(f"{name:10}{option:18}{times['median'] * 1e6:12.1f} us{ratio:8.3f} of the plain step", flush=True)


if __name__ == "__main__":
    main(int(sys.argv[1]), Path(sys.argv[2]), float(sys.argv[3]))
