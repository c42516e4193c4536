"""Steps that are skipped because of an inf or NaN: what counts as one, and that nothing changes."""

from __future__ import annotations

import copy
import math
from typing import Any

import numpy as np

import fastoptim as fo
from cases import FLOAT16, FLOAT32, FLOAT64, MIN_SHARE, TILE, Array, Case, DType
from loops import each_isa, loop
from models import Backend, each_backend, each_dtype, each_module, every_variant
from step_histories import SHAPES, arrays, assert_same_model

BAD = loop("bad", [math.inf, -math.inf, math.nan])


@every_variant
@each_backend
def test_a_skipped_step_changes_nothing(case: Case, backend: Backend) -> None:
    """The next step is the same as without it."""
    own = {"skip_nonfinite": True, "swa_start": None, "ema": 0.5}
    params, others = arrays(0, FLOAT32), arrays(0, FLOAT32)
    opt, other = (case.optimizer(p, **case.options | own, backend=backend) for p in (params, others))
    for t, bad in enumerate((math.inf, -math.inf, math.nan), 1):
        spoilt = arrays(t + 10, FLOAT32)
        spoilt[4][t] = bad
        before = copy.deepcopy((params, opt.state))
        assert opt.step(spoilt) is False
        assert_same_model((params, opt.state), before)
        assert opt.step_count == t - 1
        assert opt.step(arrays(t, FLOAT32)) is True
        other.step(arrays(t, FLOAT32))
    assert opt.step_count == 3
    assert_same_model((params, opt.state), (others, other.state))


@each_module
@BAD
@each_dtype
def test_one_odd_element_anywhere_is_seen(module: Any, bad: float, dtype: DType) -> None:
    for size in (1, 31, 33, TILE - 1, 2 * TILE + 7):
        p, g = np.ones(size, FLOAT32), np.ones(size, dtype)
        for i in {0, size // 2, size - 1, *range(0, size, 97)}:
            g[i] = bad
            assert module.sgd(p, g, step=1, skip_nonfinite=True) is False, f"{i} of {size}"
            g[i] = 1
        assert (p == 1).all()
        assert module.sgd(p, g, step=1, skip_nonfinite=True) is True


@BAD
@loop("threads", [1, 2, 3, 7])
@each_isa
def test_one_odd_element_is_seen_by_every_thread(threads: int, bad: float) -> None:
    fo.set_num_threads(threads)
    size = 7 * MIN_SHARE + 1
    p, g = np.ones(size, FLOAT32), np.ones(size, FLOAT32)
    for i in (0, *(k * MIN_SHARE + d for k in range(1, 7) for d in (-1, 0)), size - 1):
        g[i] = bad
        assert fo.functional.sgd(p, g, step=1, skip_nonfinite=True) is False, f"element {i}"
        g[i] = 1
    assert (p == 1).all()


@each_backend
@BAD
@loop("where", range(len(SHAPES)))
def test_one_odd_array_of_many_is_enough(backend: Backend, bad: float, where: int) -> None:
    params = arrays(0)
    opt = fo.SGD(params, skip_nonfinite=True, backend=backend)
    grads = arrays(1)
    if grads[where].size:
        grads[where].reshape(-1)[-1:] = bad
    assert opt.step(grads) is (grads[where].size == 0)


OVERFLOWS = [
    (FLOAT32, np.array([3e38], np.float32), 0.5, False),
    (FLOAT32, np.array([3e38], np.float32), 1.0, True),
    (FLOAT16, np.array([60000], np.float16), 0.25, True),  # float32 is computed in
    (FLOAT16, np.array([1e39]), 1.0, False),
    (FLOAT32, np.array([1e39]), 2.0**20, False),
    (FLOAT64, np.array([1e39]), 1.0, True),
    (FLOAT64, np.array([1e200]), 1.0, True),  # whose square is infinite
    (FLOAT64, np.array([1e308]), 2.0**-10, False),
    (FLOAT16, np.array([70000]).astype(np.float32), 1.0, True),
    (FLOAT32, np.array([np.inf], np.float16), 2.0**16, False),
]


@each_backend
@loop(("dtype", "g", "scale", "taken"), OVERFLOWS)
def test_overflow_counts_where_it_is_computed(
    backend: Backend, dtype: DType, g: Array, scale: float, taken: bool
) -> None:
    """After the scale is divided out, before any bound."""
    p = np.zeros(1, dtype)
    opt = fo.SGD(p, lr=0.0, grad_scale=scale, clip_value=1.0, skip_nonfinite=True, backend=backend)
    assert opt.step(g) is taken


@each_backend
@loop("where", [0, 1])
def test_one_group_that_skips_skips_for_all(backend: Backend, where: int) -> None:
    params = [np.ones(3), np.ones(4)]
    opt = fo.SGD([{"params": params[0], "skip_nonfinite": True}, {"params": params[1]}], backend=backend)
    grads = [np.ones(3), np.ones(4)]
    grads[where][1] = math.nan
    assert opt.step(grads) is False
    assert [p.tolist() for p in params] == [[1] * 3, [1] * 4]
    assert opt.step_count == 0
    opt.param_groups[0]["skip_nonfinite"] = False
    assert opt.step(grads) is None
    assert math.isnan(params[where][1])
    assert opt.step_count == 1


@each_backend
def test_without_any_gradient_a_step_is_taken(backend: Backend) -> None:
    opt = fo.SGD([np.ones(2)], skip_nonfinite=True, backend=backend)
    assert opt.step([None]) is True
    assert opt.step_count == 1


@each_backend
def test_a_schedule_waits_for_a_skipped_step(backend: Backend) -> None:
    asked: list[int] = []

    def rate(step: int) -> float:
        asked.append(step)
        return 0.5

    opt = fo.SGD(np.ones(2), lr=rate, skip_nonfinite=True, backend=backend)
    taken = [opt.step(np.array([1.0, bad])) for bad in (1.0, math.inf, math.inf, 1.0)]
    assert taken == [True, False, False, True]
    assert asked == [0, 1, 1, 1]
