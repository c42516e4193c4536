"""The benchmark's command line, and the expected effect of a bandwidth probe in plain Python."""

from __future__ import annotations

import json
from collections.abc import Sequence
from functools import reduce
from pathlib import Path
from typing import Any

import numpy as np

from cases import Array, Case, DType, bits, ordinary_values, state_values
from fastoptim import __main__
from fastoptim.bench import cli, internals

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


def xor_of(array: Array) -> int:
    return reduce(int.__xor__, map(int, bits(array)), 0)


def check_probes(
    case: Case, p_dtype: DType, g_dtype: DType, sizes: Sequence[int], xp: Any = np, device: str = "cpu", offset: int = 0
) -> None:
    """Call every probe with a mask; compare all bytes and the answer with the accesses that the rule declares."""
    rng = np.random.default_rng(0)

    def place(array: Array) -> Any:
        return xp.asarray(np.concatenate([np.ones(offset, array.dtype), array]))[offset:]

    opt = case.optimize([place(ordinary_values(rng, p_dtype, size)) for size in sizes])
    grads = [place(ordinary_values(rng, g_dtype, size)) for size in sizes]
    models: list[dict[str, Any]] = []
    for slot, g in zip(opt.slots, grads, strict=True):
        models.append({"p": slot.p, "g": g} | {k: a for k, a in slot.state.items() if k not in case.optimizer.scalars})
        for array in list(models[-1].values())[2:]:
            array[...] = xp.asarray(state_values(rng, array.dtype, array.size).reshape(array.shape))

    def read() -> list[dict[str, Array]]:
        return [{k: np.array(opt.slots[0].library.to_numpy(a)) for k, a in model.items()} for model in models]

    def expect(before: list[dict[str, Array]], mask: int) -> tuple[list[list[bytes]], int]:
        answer = 0
        for accesses in internals.passes_of(settings):
            for name, access in accesses.items():
                for array in (model[name] for model in before):
                    if access == "r":
                        answer ^= xor_of(array)
                    elif access == "rw":
                        array.reshape(-1).view(f"u{array.itemsize}")[:] ^= mask & (2 ** (8 * array.itemsize) - 1)
        return [[array.tobytes() for array in model.values()] for model in before], answer

    settings = case.optimizer.check_options(case.options)
    for probe in internals.make_probes(opt, grads, settings, device).values():
        for mask in (MASK, 0):  # 0 changes nothing: the probe runs on the optimizer's own arrays
            expected, answer = expect(read(), mask)
            result = probe(mask)
            assert (result if device == "cpu" else probe.answer()) == answer  # type: ignore[attr-defined]
            assert [[array.tobytes() for array in model.values()] for model in read()] == expected
