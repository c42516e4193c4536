"""A parameter that consists of several segments steps as one array does."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from math import inf
from typing import Any

import numpy as np
import pytest

from cases import FLOAT32, TILE, Array, assert_same_bits, ordinary_values, state_values
from fastoptim import core

SIZE = 8 * TILE  # a power of two of tiles: the sums of its halves are the last but one level of the tree
SHARE = 1 << 17  # elements of a batch on one thread, kBatchShare in csrc/cpu/shares.h
RULES = [name for name, rule in core.RULES.items() if rule.sums or not rule.scalar_state]


def config_of(rule: core.Rule, swa_every: int = 1, norm_type: float = 2.0, cautious: bool = False) -> core.UpdateConfig:
    values = {name: 0.9 if name.startswith("beta") else 0.1 for name in rule.hyper} | {"growth_rate": inf}
    return core.UpdateConfig(
        rule=rule.number,
        values=[values[name] for name in rule.hyper],
        lr_at=-1,
        host_constants_at=[],
        maximize=False,
        skip_nonfinite=False,
        clip_value=inf,
        clip_norm=0.7,
        clip_global_norm=0.6,
        norm_type=norm_type,
        clip_eps=1e-6,
        l1=0.0,
        weight_decay=0.01,
        decoupled=False,
        ema=None,
        ema_start=0,
        ema_debias=False,
        swa_start=None,
        swa_every=swa_every,
        cautious=cautious,
    )


def step_in_segments(rule: core.Rule, cuts: Sequence[int], size: int = SIZE, cautious: bool = False) -> list[Array]:
    """Step a parameter that is cut there, and another one after it; return all arrays whole."""
    rng = np.random.default_rng(0)
    whole = [ordinary_values(rng, FLOAT32, size) for _ in range(2)]
    state = [state_values(rng, FLOAT32, size) for _ in rule.state]
    scalars = [np.array(0.01) for _ in rule.scalar_state]
    borders = [0, *cuts, size]
    parts = [slice(a, b) for a, b in pairwise(borders)]
    other = [ordinary_values(rng, FLOAT32, 100), *(state_values(rng, FLOAT32, 100) for _ in rule.state)]
    other_scalars = [np.array(0.01) for _ in rule.scalar_state]
    model = core.Model(
        params=[*(whole[0][part] for part in parts), other[0]],
        states=[*(([s[part] for s in state], scalars, []) for part in parts), (other[1:], other_scalars, [])],
        groups=[0] * (len(parts) + 1),
        where="",
        array_type=np.ndarray,
        param_of=[0] * len(parts) + [1],
    )
    steps: list[Any] = [(config_of(rule, cautious=cautious), 0.1, 2, 1.0, ())]
    grads = [*(whole[1][part] for part in parts), other[0].copy()]
    assert model.step(grads, None, steps) == ("stepped", len(grads))
    return [*whole, *state, *scalars, *other, *other_scalars]


@pytest.mark.parametrize("name", RULES)
def test_sums_run_over_all_segments_of_a_parameter(name: str) -> None:
    rule = core.RULES[name]
    for cautious in (False, True):
        divided, whole = (step_in_segments(rule, cuts, cautious=cautious) for cuts in ([SIZE // 2], []))
        for actual, expected in zip(divided, whole, strict=True):
            assert_same_bits(actual, expected)


@pytest.mark.parametrize("name", [name for name in RULES if core.RULES[name].sums])
def test_a_batch_does_not_end_within_a_parameter(name: str) -> None:
    core.set_num_threads(1)
    rule, size = core.RULES[name], 2 * SHARE
    for actual, expected in zip(step_in_segments(rule, [SHARE], size), step_in_segments(rule, [], size), strict=True):
        assert_same_bits(actual, expected)


@pytest.mark.parametrize("param_of", [[1, 1, 2], [0, 2, 2], [0, 1], [0, 1, 0]])
def test_parameters_that_do_not_count_up_are_rejected(param_of: list[int]) -> None:
    arrays = [np.zeros(3, np.float32) for _ in range(3)]
    with pytest.raises(ValueError, match="expected"):
        core.Model(arrays, [([], [], [])] * 3, [0, 0, 0], "", np.ndarray, param_of=param_of)


@pytest.mark.parametrize(
    "array",
    [np.zeros(9, np.float32)[::-1], np.zeros(9, np.float32)[::2], np.broadcast_to(np.float32(1), 9), np.zeros(3, int)],
    ids=["reversed", "strided", "broadcast", "integers"],
)
def test_arrays_that_loops_could_not_write_are_rejected(array: Array) -> None:
    with pytest.raises(ValueError, match="expected"):
        core.Model([array], [([], [], [])], [0], "", np.ndarray)


def test_options_that_would_divide_by_zero_are_rejected() -> None:
    with pytest.raises(ValueError, match="swa_every"):
        config_of(core.RULES["sgd"], swa_every=0)
    with pytest.raises(ValueError, match="a model"):
        core.FastPath(None, None, [], None, None, [])  # type: ignore[arg-type]
