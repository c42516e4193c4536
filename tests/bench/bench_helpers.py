"""The benchmark's command line, and the expected effect of a bandwidth probe in plain Python."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from cases import Array, Case, DType, ordinary_values, state_values
from fastoptim import __main__
from fastoptim.bench import cli, internals
from fastoptim.bench.workload import Workload
from fastoptim.options.schema import AVERAGE

MASK = 0x0123_4567_89AB_CDEF


def run_bench(*arguments: str) -> int:
    """Run the command line in this process with the smallest budget; return its exit status."""
    try:
        parsed = __main__.make_parser().parse_args(["bench", "--seconds", "0", "--rounds", "1", *arguments])
    except SystemExit as rejected:
        return int(rejected.code or 0)
    return cli.run(parsed)


def read_rows(file: Path) -> list[dict[str, Any]]:
    rows: list[dict[str, Any]] = json.loads(file.read_text(encoding="utf-8"))["rows"]
    return rows


def check_probes(case: Case, p_dtype: DType, g_dtype: DType, sizes: Sequence[int]) -> None:
    """Call every probe with a mask of 0 and, for arrays of one format, another; compare all bytes with the accesses."""
    rng = np.random.default_rng(0)
    opt = case.optimize([ordinary_values(rng, p_dtype, size) for size in sizes])
    grads = [ordinary_values(rng, g_dtype, size) for size in sizes]
    opt.step(grads)
    models: list[dict[str, Array]] = []
    for param, g in zip(opt.param_states, grads, strict=True):
        models.append({"p": param.p, "g": g} | {k: a for k, a in param.state.items() if a.shape == param.p.shape})
        for array in list(models[-1].values())[2:]:
            array[...] = state_values(rng, array.dtype, array.size).reshape(array.shape)
    workload = Workload(case.optimizer.name, "", tuple((size,) for size in sizes), options=case.options)
    same_format = p_dtype == g_dtype and p_dtype.itemsize >= 4
    for probe in internals.make_probes(opt, grads, workload).values():
        for mask in (0, MASK) if same_format else (0,):
            expected = [after_probe(model, case, mask) for model in models]
            probe(mask)
            assert [{k: a.tobytes() for k, a in model.items()} for model in models] == expected


def after_probe(model: dict[str, Array], case: Case, mask: int) -> dict[str, bytes]:
    """Return the bytes after a probe: each written word is XORed with the masked XOR of those that are only read."""
    words = {name: array.reshape(-1).view(f"u{array.itemsize}").copy() for name, array in model.items()}
    masked = words["p"].dtype.type(mask & (2 ** (8 * model["p"].itemsize) - 1))
    for accesses in internals.passes_of(case.optimizer.check_options(case.options)):
        change = np.zeros_like(words["p"])
        for name, access in accesses.items():
            if mask and access == "r":
                change ^= words[name]
        for name, access in accesses.items():
            if mask and access == "rw":
                words[name] ^= masked if name == AVERAGE else change & masked
    return {name: array.tobytes() for name, array in words.items()}
