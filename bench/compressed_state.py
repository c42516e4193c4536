"""Print the table of errors of docs/compressed_state.md.

The errors are normalized mean square errors of one conversion, also of the codes of flashoptim 0.1.4 (groups of 32,
scales of float16) and of bitsandbytes (256 numbers, blocks of 256), emulated here in NumPy.  For times there is
``python -m fastoptim bench --state-format native bfloat16 int8``.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from typing import Any

import ml_dtypes
import numpy as np
import numpy.typing as npt

from fastoptim import block_codes

Array = npt.NDArray[Any]


def in_groups(x: Array, size: int) -> tuple[Array, Array]:
    groups = x.reshape(-1, size)
    return groups, np.abs(groups).max(axis=1, keepdims=True)


def flashoptim_m(m: Array) -> Array:
    groups, scale = in_groups(m, 32)
    y = groups / scale
    z = np.floor(127 * (2 * y / (1 + np.abs(y))) + 0.5) / 127
    found: Array = z / (2 - np.abs(z)) * scale.astype(np.float16).astype(np.float32)
    return found.reshape(-1)


def flashoptim_v(v: Array) -> Array:
    groups, scale = in_groups(np.sqrt(v), 32)
    z = np.floor(255 * groups / scale + 0.5) / 255
    roots: Array = z * scale.astype(np.float16).astype(np.float32)
    return np.square(roots).reshape(-1)


def dynamic_map(signed: bool) -> Array:
    """The numbers of bitsandbytes: in each decade the midpoints of an even partition, and 0 and 1."""
    numbers = [0.0, 1.0]
    for i in range(7):
        ends = np.linspace(0.1, 1, 2 ** (i if signed else i + 1) + 1)
        middle = (ends[1:] + ends[:-1]) / 2 * 10.0 ** (i - 6)
        numbers += [*middle, *-middle] if signed else [*middle]
    return np.array(sorted(numbers), np.float32)


def bitsandbytes(x: Array, signed: bool) -> Array:
    table = dynamic_map(signed)
    groups, scale = in_groups(x, 256)
    place = np.searchsorted((table[1:] + table[:-1]) / 2, groups / scale)
    return (table[place] * scale).reshape(-1)


def in_bfloat16(x: Array) -> Array:
    return x.astype(ml_dtypes.bfloat16).astype(np.float32)


def in_codes(code: block_codes.Code, at_random: bool = False) -> Callable[[Array], Array]:
    def convert(x: Array) -> Array:
        halves = np.random.default_rng(1).integers(0, 2**16, x.size)
        random = block_codes.random_of(halves) if at_random else block_codes.NEAREST
        return block_codes.decode(*block_codes.encode(x, code, random), code)

    return convert


FORMS: dict[str, tuple[float, Callable[[Array], Array], Callable[[Array], Array]]] = {
    "`int8`, converted": (8.5, in_codes(block_codes.SIGNED), in_codes(block_codes.NON_NEGATIVE)),
    "`int8`, stored by a step": (8.5, in_codes(block_codes.SIGNED, True), in_codes(block_codes.NON_NEGATIVE, True)),
    "`bfloat16`, converted": (16, in_bfloat16, in_bfloat16),
    "flashoptim": (8.5, flashoptim_m, flashoptim_v),
    "bitsandbytes": (8.125, lambda m: bitsandbytes(m, True), lambda v: bitsandbytes(v, False)),
}


def samples() -> dict[str, Array]:
    rng = np.random.default_rng(0)
    normal = rng.standard_normal(2**19)
    return {
        "Gaussian, 1e-3": (1e-3 * normal).astype(np.float32),
        "Gaussian, 1e-6": (1e-6 * normal).astype(np.float32),
        "lognormal scales": (1e-3 * normal * np.exp(rng.standard_normal(2**19))).astype(np.float32),
    }


def error(found: Array, x: Array) -> float:
    wide = x.astype(np.float64)
    return float(np.square(found - wide).sum() / np.square(wide).sum())


def print_errors() -> None:
    print("| form | bits | " + " | ".join(f"{what}, {name}" for what in "mv" for name in samples()) + " |")
    print("|---|---|" + "---|" * 6)
    for name, (bits, of_m, of_v) in FORMS.items():
        cells = [f"{error(of_m(x), x):.1e}" for x in samples().values()]
        cells += [f"{error(of_v(x * x), x * x):.1e}" for x in samples().values()]
        print(f"| {name} | {bits:g} | {' | '.join(cells)} |")


def make_parser() -> argparse.ArgumentParser:
    """Return the parser of the command line."""
    return argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)


if __name__ == "__main__":
    make_parser().parse_args()
    print_errors()
