"""Digests of every case's parameters and state after ten steps: what must not change when code is moved.

    python tests/digests.py            # compare with digests.txt, and list what differs
    python tests/digests.py --record   # write digests.txt, when arithmetic was changed on purpose

A line is a case and one digest for each format.  Every instruction set must give the same ones.
"""

from __future__ import annotations

import argparse
import hashlib
import re
import sys
from collections.abc import Iterator
from itertools import groupby
from pathlib import Path
from typing import Any

import numpy as np

import fastoptim as fo
import fastoptim.engines.native
from cases import CASES, DTYPES, ISAS, Array, Case, DType, bits

FILE = Path(__file__).with_name("digests.txt")
SIZES = (1, 70, 2500)
STEPS = 10

# In addition to what CASES contains: what needs a pass over all gradients before the update.
NORMS = {"clip_norm": 2.0, "clip_global_norm": 3.0, "skip_nonfinite": True}


def all_cases() -> list[Case]:
    norms = [
        Case(optimizer, dict(optimizer.check_options(NORMS).options), f"{name}-norms")
        for name, optimizer in fo.OPTIMIZERS.items()
    ]
    return [*CASES, *norms]


def numbers(seed: int, size: int, dtype: DType) -> Array:
    """Numbers from 2^-9 to 2, of both signs.  The bit generator's raw output is the same in every version of NumPy."""
    raw = np.random.PCG64(seed).random_raw(size)
    mantissa = (raw >> np.uint64(40)).astype(np.float64) / 2**23 - 1
    values: Array = np.ldexp(mantissa, (raw % np.uint64(10)).astype(np.int32) - 8).astype(dtype)
    return values


def grads_of_step(t: int, dtype: DType) -> list[Array | None]:
    """The second array has no gradient in every third step, the fifth step's is not finite."""
    grads: list[Array | None] = [numbers(100 * t + i, size, dtype) for i, size in enumerate(SIZES)]
    if t % 3 == 0:
        grads[1] = None
    if t == 5 and grads[2] is not None:
        grads[2][7] = np.inf
    return grads


def digest(case: Case, dtype: DType) -> str:
    opt = case.optimize([numbers(i, size, dtype) for i, size in enumerate(SIZES)])
    with np.errstate(all="ignore"):
        for t in range(1, STEPS + 1):
            opt.step(grads_of_step(t, dtype))
    return digest_of(opt)


def digest_of(opt: fo.Optimizer) -> str:
    """The digest of an optimizer's parameters and state."""
    found = hashlib.sha256()
    for param in opt.param_states:
        for array in (param.p, *(param.state[name] for name in sorted(param.state))):
            plain = bits(array).copy()
            plain[np.isnan(array).reshape(-1)] = 0  # a NaN is a NaN
            found.update(plain.tobytes())
    return found.hexdigest()[:16]


def line_of(case: Case) -> str:
    return " ".join([case.id, *(digest(case, dtype) for dtype in DTYPES)])


def recorded() -> dict[str, list[str]]:
    """The lines of each optimizer."""
    lines = FILE.read_text(encoding="utf-8").splitlines()
    return {name: list(group) for name, group in groupby(sorted(lines), key=lambda line: re.split("[- ]", line)[0])}


def found() -> Iterator[str]:
    for case in all_cases():
        lines = set()
        for isa in ISAS:
            fastoptim.engines.native.Engine.isa = isa
            lines.add(line_of(case))
        if len(lines) > 1:
            raise AssertionError(f"{case.id}: the instruction sets differ: {lines}")
        yield lines.pop()


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--record", action="store_true", help="write the file in place of comparing with it")
    arguments = parser.parse_args()
    lines = sorted(found())
    if arguments.record:
        FILE.write_text("\n".join(lines) + "\n", encoding="utf-8")
        print(f"{len(lines)} cases recorded in {FILE.name}")
        return 0
    before: Any = set(FILE.read_text(encoding="utf-8").splitlines())
    for line in sorted(before ^ set(lines)):
        print("recorded" if line in before else "found   ", line)
    print(f"{len(lines)} cases, {len(set(lines) - before)} differ")
    return int(set(lines) != before)


if __name__ == "__main__":
    sys.exit(main())
