"""One launch or a few of each kind of kernel, compared with the reference in every bit: `gpu_smoke.py GROUP ...`.

Imports nothing of the tests, so that it needs only CuPy and fastoptim.
"""

from __future__ import annotations

import os
import sys
from typing import Any

SHAPES = ((3,), (), (0,), (257,), (64, 65), (16385,))
SINGLE, DOUBLE, HALF, BRAIN = "float32", "float64", "float16", "bfloat16"

# A group's optimizers with their options, and the formats of its arrays; each group is run in a process of its own.
Cases = list[tuple[str, dict[str, Any]]]
PLAIN: Cases = [
    ("SGD", {}),
    ("Adam", {"ema": 0.9, "clip_value": 0.5}),
    ("AdamW", {"amsgrad": True}),
    ("Lion", {}),
    ("SGLD", {"seed": 1}),
]
NORMS: Cases = [
    ("SGD", {"clip_norm": 0.5, "clip_global_norm": 0.7, "norm_type": norm_type})
    for norm_type in (1.0, 2.0, float("inf"))
]
SUMS: Cases = [
    ("LAMB", {}),
    ("StableAdamW", {}),
    ("LARS", {"momentum": 0.9}),
    ("NovoGrad", {}),
    ("Prodigy", {"clip_norm": 0.5}),
]
GROUPS: dict[str, tuple[Cases, tuple[str, ...]]] = {
    "float32": (PLAIN, (SINGLE,)),
    "float64": (PLAIN, (DOUBLE,)),
    "float16 and mixed": (PLAIN, (HALF, SINGLE, DOUBLE)),
    "bfloat16": (PLAIN, (BRAIN, SINGLE)),
    "norms": (NORMS, (SINGLE, DOUBLE, HALF)),
    "sums": (SUMS, (SINGLE, DOUBLE)),
    "skipped step": ([("Adam", {"skip_nonfinite": True})], (SINGLE, DOUBLE)),
    "1,500 arrays": ([("Adam", {"clip_global_norm": 1.0})], (SINGLE,)),
    "graph": ([("Adam", {}), ("LAMB", {"clip_norm": 0.5})], (SINGLE, DOUBLE)),
}


def check(group: str) -> None:
    """Raise AssertionError unless the steps of a group give the reference's bits."""
    import numpy as np  # GROUPS is read without it

    import fastoptim as fo
    from fastoptim.bench.machine import import_cupy

    cp = import_cupy()

    if os.environ.get("FASTOPTIM_CUPY_POOL") == "OFF":  # each array in memory of its own: a sanitizer sees its ends
        cp.cuda.set_allocator(None)
    cases, formats = GROUPS[group]
    if BRAIN in formats:
        import ml_dtypes  # noqa: F401  # registers the name
    random = np.random.default_rng(1)
    shapes = SHAPES if group != "1,500 arrays" else ((7,),) * 1500

    def arrays(scale: float, shift: int = 0) -> list[Any]:
        found = []
        for i, shape in enumerate(shapes):
            dtype = np.dtype(formats[(i + shift) % len(formats)])
            wide = 1e200 if group == "norms" and dtype == DOUBLE and i % 2 else 1.0  # whose squares overflow
            found.append(np.asarray(random.standard_normal(shape) * scale * wide).astype(dtype))
        return found

    for name, options in cases:
        initial = arrays(1)
        here = getattr(fo, name)([p.copy() for p in initial], backend="reference", **options)
        stream = cp.cuda.Stream(non_blocking=True)
        with stream:
            there = getattr(fo, name)([cp.asarray(p) for p in initial], **options)
            for t in range(3):
                grads = arrays(0.1, shift=t)
                if "skip_nonfinite" in options and t == 1:
                    grads[-1][-1] = np.inf
                assert there.step([cp.asarray(g) for g in grads]) == here.step(grads), f"{name}: result of step {t + 1}"
            if group == "graph":
                replay(cp, stream, there, here, arrays(0.1))
            stream.synchronize()
            for i, (p, q) in enumerate(zip(there.params, here.params, strict=True)):
                compare(f"{name} {options} p[{i}] {q.dtype}", cp.asnumpy(p), q)
            for i, (own, other) in enumerate(zip(there.state, here.state, strict=True)):
                for key, q in other.items():
                    compare(f"{name} {options} state[{i}][{key!r}] {q.dtype}", cp.asnumpy(own[key]), q)


def replay(cp: Any, stream: Any, there: Any, here: Any, grads: list[Any]) -> None:
    """Capture a step and replay it twice."""
    given = [cp.asarray(g) for g in grads]
    stream.begin_capture()
    try:
        there.step(given)
    finally:
        graph = stream.end_capture()
    for _ in range(2):
        there.graph_step()
        graph.launch(stream)
        here.step(grads)


def compare(place: str, got: Any, expected: Any) -> None:
    """Raise AssertionError unless both have the same bits; a NaN is a NaN."""
    import numpy as np

    same = (got.view(f"u{got.itemsize}") == expected.view(f"u{got.itemsize}")) | (np.isnan(got) & np.isnan(expected))
    if not same.all():
        at = tuple(int(i[0]) for i in np.nonzero(~same))
        raise AssertionError(
            f"{place}: expected the reference's bits, got {int((~same).sum())} of {same.size} elements that differ, "
            f"first at {at}: {got[at]!r} instead of {expected[at]!r}"
        )


def main(names: list[str]) -> int:
    """Check the groups, and return the exit status."""
    for name in names:
        try:
            check(name)
        except Exception as error:
            print(f"{name}: {type(error).__name__}: {error}", flush=True)
            return 1
        print(f"{name}: same bits", flush=True)
    return 0


if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1:]))
