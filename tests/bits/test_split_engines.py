"""Engines that each step a part of a model, and exchange norms and sums: the bits of one engine."""

from __future__ import annotations

from functools import reduce
from operator import add
from typing import Any

import numpy as np
import pytest

import fastoptim as fo
from cases import FLOAT16, FLOAT32, PLAIN_CASES, Array, Case, assert_same_bits, ordinary_values
from fastoptim.engines.base import Counts, Elsewhere, GroupStep
from fastoptim.engines.select import engine_for
from fastoptim.optimizer.stepping import group_steps_of
from fastoptim.reference_math import norm_in_order
from loops import each_case, loop
from models import BACKENDS, Backend

PARTS = ([0, 3], [1, 2])


def arrays(seed: int) -> list[Array]:
    rng = np.random.default_rng(seed)
    kinds = (((3, 5), FLOAT32), ((2500,), FLOAT16), ((7,), FLOAT32), ((40, 50), FLOAT16))
    return [ordinary_values(rng, dtype, int(np.prod(shape))).reshape(shape) for shape, dtype in kinds]


def step_in_parts(opt: fo.Optimizer, grads: list[Any]) -> bool:
    """Take a step with one engine for each part; return whether it was taken."""
    group_steps: list[GroupStep] = group_steps_of(opt)
    parts = [([opt.param_states[i] for i in part], [grads[i] for i in part]) for part in PARTS]
    engines = [engine_for(opt.backend, params) for params, _ in parts]
    norms: list[float] = [0.0] * len(grads)
    for part, engine, (_, own) in zip(PARTS, engines, parts, strict=True):
        found = engine.clipped_norms(list(own), group_steps)
        if found is None:
            return False
        for i, norm in zip(part, found, strict=True):
            norms[i] = norm
    elsewhere = Elsewhere(norm_in_order(norms, group_steps[0].settings.options["norm_type"]))
    if opt.reduces_all:
        sums: list[Any] = [()] * len(grads)
        for part, engine, (_, own) in zip(PARTS, engines, parts, strict=True):
            found_sums = engine.rule_sums(list(own), group_steps, None, elsewhere.global_norm)
            for i, each in zip(part, found_sums, strict=True):
                sums[i] = each
        totals = tuple(reduce(add, column, 0.0) for column in zip(*sums, strict=True))
        elsewhere = Elsewhere(elsewhere.global_norm, totals)
    for engine, (_, own) in zip(engines, parts, strict=True):
        counts = Counts(opt._counts, (opt.step_count + 1, {})) if engine is engines[-1] else Counts([], ())
        assert engine.step(list(own), group_steps, None, counts, elsewhere) == sum(grad is not None for grad in own)
    return True


@each_case(PLAIN_CASES)
@loop("backend", BACKENDS)
def test_parts_that_exchange_norms_and_sums_are_one_model(case: Case, backend: Backend) -> None:
    bounds = {"clip_global_norm": 3.0, "clip_norm": 20.0, "skip_nonfinite": True, "on_nonfinite": None}
    options = case.options | bounds
    params, others = arrays(0), arrays(0)
    one = case.optimizer(params, **options, backend=backend)
    split = case.optimizer(others, **options, backend=backend)
    for seed in range(1, 4):
        grads: list[Any] = arrays(seed)
        if seed == 2 and case.optimizer.reduces_all:  # whose arrays do not count their own steps
            grads[0] = grads[3] = None  # a part without gradients
        assert one.step(grads) is True
        assert step_in_parts(split, grads)
    for a, b in zip(others, params, strict=True):
        assert_same_bits(a, b, case.id)
    for a, b in zip(split.state, one.state, strict=True):
        for name in b:
            assert_same_bits(a[name], b[name], f"{case.id} {name}")
    grads[1] = np.full((2500,), np.nan, np.float32)
    assert one.step(grads) is False
    assert not step_in_parts(split, grads)


def test_a_norm_that_is_passed_counts_instead_of_the_own_one() -> None:
    for backend in BACKENDS:
        p = np.zeros(2)
        opt: fo.Optimizer = fo.SGD(p, lr=1.0, clip_global_norm=1.0, clip_eps=0.0, backend=backend)
        engine = engine_for(backend, opt.param_states)
        engine.step([np.array([3.0, 4.0])], group_steps_of(opt), elsewhere=Elsewhere(10.0))
        assert p.tolist() == pytest.approx([-0.3, -0.4])
