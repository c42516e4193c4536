"""What the pass that a step is measured against does to arrays, in plain Python."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from functools import reduce
from typing import Any

import numpy as np

import fastoptim as fo
from cases import Array, Case, DType, bits, ordinary_values, state_values
from fastoptim import core


def words(array: Array) -> list[int]:
    return [int(word) for word in bits(array)]


def xor(numbers: Sequence[int]) -> int:
    return reduce(int.__xor__, numbers, 0)


def optimizer_on(case: Case, sizes: Sequence[int], p_dtype: DType, g_dtype: DType) -> tuple[fo.Optimizer, list[Array]]:
    """With state as it may have become, and gradients."""
    rng = np.random.default_rng(0)
    opt = case.optimize([ordinary_values(rng, p_dtype, size) for size in sizes])
    for slot in opt.param_states:
        for name, array in slot.state.items():
            if not case.optimizer.state_schema[name].is_scalar:
                array[...] = state_values(rng, array.dtype, array.size).reshape(array.shape)
    return opt, [ordinary_values(rng, g_dtype, size) for size in sizes]


def arrays_of(slot: Any, g: Array, case: Case) -> list[Array]:
    """Those of one parameter that the rule knows, in its order."""
    return [slot.p, g, *(slot.state[name] for name in core.RULES[case.variant].state)]


def expected_limit(models: Iterable[list[Array]], case: Case, mask: int) -> tuple[list[bytes], int]:
    """What the passes leave of arrays as `arrays_of` gives them, and what they answer."""
    rule, left, answer = core.RULES[case.variant], [], 0
    for model in models:
        arrays = [array.copy() for array in model]
        for accesses in (rule.reduces, rule.updates):
            for array, access in zip(arrays, accesses, strict=False):
                if access == "r":
                    answer ^= xor(words(array))
                elif access == "rw":
                    bits(array)[:] ^= mask & (2 ** (8 * array.itemsize) - 1)
        left += [array.tobytes() for array in arrays]
    return left, answer


MASK = 0x0123_4567_89AB_CDEF
