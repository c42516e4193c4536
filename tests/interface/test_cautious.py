"""The options `cautious` and `cautious_decay`, compared with implementations written from their sources.

C-Optim and timm: ``mask = (update * grad > 0); mask /= mask.mean().clamp(min=1e-3)``; dion and burn: ``p -= lr * wd * p
* (update * p >= 0)`` in place of decoupled decay.  Here signs are compared, as such products underflow.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

import fastoptim as fo
from cases import DTYPES, FLOAT32, TILE, Array, assert_same_bits, ordinary_values
from loops import loop
from models import OPTIMIZERS, Backend, each_backend

NEVER = {"asgd", "schedule_free_sgd", "schedule_free_adamw", "sgld"}
CAUTIOUS = [cls for cls in OPTIMIZERS if cls.name not in NEVER | {"ftrl", "madgrad"}]
DECAYING = [cls for cls in OPTIMIZERS if cls.name not in NEVER and not cls.decays_itself]
SIZE = 3 * TILE + 7
LR, WEIGHT_DECAY, STEPS = 0.05, 0.3, 6


def values(seed: int, size: int = SIZE) -> Array:
    return np.random.default_rng(seed).standard_normal(size)


def mask(update: Array, g: Array) -> Any:
    agrees = update * g > 0
    share = agrees.mean()
    return agrees / max(share, 1e-3)


def steps(optimizer: Any, p: Array, **options: Any) -> Any:
    opt = optimizer(p, **{"lr": LR, **options})
    for t in range(STEPS):
        opt.step(values(1 + t, p.size))
    return opt


# ---- formulas written from the papers


def adam_updates(p: Array) -> Callable[[Array, int], Array]:
    m, v = np.zeros_like(p), np.zeros_like(p)

    def update(g: Array, t: int) -> Array:
        m[...] = 0.9 * m + 0.1 * g
        v[...] = 0.999 * v + 0.001 * g * g
        return LR * (m / (1 - 0.9**t)) / (np.sqrt(v / (1 - 0.999**t)) + 1e-8)

    return update


def lion_updates(p: Array) -> Callable[[Array, int], Array]:
    m = np.zeros_like(p)

    def update(g: Array, t: int) -> Array:
        change = LR * np.sign(0.9 * m + 0.1 * g)
        m[...] = 0.99 * m + 0.01 * g
        return change

    return update


def momentum_updates(p: Array) -> Callable[[Array, int], Array]:
    v = np.zeros_like(p)

    def update(g: Array, t: int) -> Array:
        v[...] = 0.9 * v + g
        return LR * v

    return update


FORMULAS: list[tuple[Any, dict[str, Any], Callable[[Array], Callable[[Array, int], Array]]]] = [
    (fo.AdamW, {}, adam_updates),
    (fo.Lion, {}, lion_updates),
    (fo.SGDW, {"momentum": 0.9}, momentum_updates),
]


@each_backend
@loop("is_cautious", [False, True])
@loop("decays", [False, True])
@loop(("optimizer", "options", "updates_of"), FORMULAS)
def test_the_formulas(
    optimizer: Any, options: Any, updates_of: Any, is_cautious: bool, decays: bool, backend: Backend
) -> None:
    p, expected = values(0), values(0)
    update_of = updates_of(expected)
    for t in range(1, STEPS + 1):
        g = values(t)
        update = update_of(g, t)
        decay = LR * WEIGHT_DECAY * expected
        masked = update * mask(update, g) if is_cautious else update
        expected -= masked + np.where((update * expected >= 0) | (not decays), decay, 0)
    own = {"weight_decay": WEIGHT_DECAY, "cautious": is_cautious, "cautious_decay": decays, "backend": backend}
    steps(optimizer, p, **own, **options)
    np.testing.assert_allclose(p, expected, rtol=1e-9, atol=1e-12)


# ---- every rule


@pytest.mark.parametrize("optimizer", CAUTIOUS, ids=lambda cls: cls.name)
def test_cautious_masks_the_step_and_leaves_the_state_alone(optimizer: Any) -> None:
    """The step is the difference of parameters in float64, with its rounding; the state is that without the option."""
    base = {"weight_decay": 0.0, "lr": LR}
    for backend in ("native", "reference"):
        p, free_p = values(0), values(0)
        opt, free = optimizer(p, cautious=True, backend=backend, **base), optimizer(free_p, backend=backend, **base)
        for t in range(STEPS):
            before, g = p.copy(), values(1 + t)
            free_p[...] = p
            opt.step(g)
            free.step(g)
            update = before - free_p
            np.testing.assert_allclose(p, before - update * mask(update, g), rtol=1e-9, atol=1e-12)
            for name in free.state:
                assert_same_bits(opt.state[name], free.state[name], name)


@pytest.mark.parametrize("optimizer", DECAYING, ids=lambda cls: cls.name)
def test_cautious_decay_follows_the_rule_s_step(optimizer: Any) -> None:
    base = {"decoupled": True, "lr": LR}
    for backend in ("native", "reference"):
        p, free_p = values(0), values(0)
        opt = optimizer(p, weight_decay=WEIGHT_DECAY, cautious_decay=True, backend=backend, **base)
        free = optimizer(free_p, weight_decay=0.0, backend=backend, **base)
        for t in range(STEPS):
            before = p.copy()
            free_p[...] = p
            opt.step(values(1 + t))
            free.step(values(1 + t))
            agrees = (before - free_p) * before >= 0
            np.testing.assert_allclose(p, free_p - LR * WEIGHT_DECAY * before * agrees, rtol=1e-9, atol=1e-12)


@each_backend
def test_the_mean_is_that_of_each_array(backend: Backend) -> None:
    """However an array is divided for threads, and at least 0.001."""
    sizes, shares = (8, 3 * TILE, 200_000), (0.5, 1.0, 1e-5)
    params = [np.zeros(size) for size in sizes]
    opt = fo.SGD(params, lr=1.0, momentum=1.0, cautious=True, backend=backend)
    opt.step([np.where(np.arange(size) < share * size, 1.0, -1.0) for size, share in zip(sizes, shares, strict=True)])
    for p in params:
        p[...] = 0
    opt.step([np.full(size, 0.25) for size in sizes])  # momentum and gradient agree where the first were positive
    for p, size, share in zip(params, sizes, shares, strict=True):
        expected = np.where(np.arange(size) < share * size, -1.25 / max(share, 1e-3), 0)
        np.testing.assert_allclose(p, expected, rtol=1e-12)


@each_backend
def test_signs_are_compared_where_products_would_underflow(backend: Backend) -> None:
    p = np.zeros(4, FLOAT32)
    fo.SGD(p, lr=1e-3, cautious=True, backend=backend).step(np.full(4, 1e-30, FLOAT32))
    assert (p < 0).all()


@each_backend
def test_a_step_smaller_than_the_parameter_s_rounding_has_a_sign(backend: Backend) -> None:
    """The difference of parameters would be 0, which would decay all; the rule's step is known without it."""
    p = np.array([1, -1], FLOAT32)
    fo.SGDW(p, lr=0.5, weight_decay=0.5, cautious_decay=True, backend=backend).step(np.full(2, 1e-12, FLOAT32))
    assert p.tolist() == [0.75, -1]


@each_backend
def test_nan_reaches_the_parameter(backend: Backend) -> None:
    p = np.ones(3)
    fo.SGDW(p, cautious=True, cautious_decay=True, backend=backend).step(np.array([np.nan, 1, -1]))
    assert np.isnan(p).tolist() == [True, False, False]


@loop("dtype", DTYPES)
def test_threads_and_gradients_in_other_orders_change_no_bit(dtype: Any) -> None:
    rng = np.random.default_rng(0)
    start, g = (ordinary_values(rng, dtype, 300 * 400).reshape(300, 400) for _ in range(2))
    results = []
    for threads, grad in ((1, g), (2, g), (2, np.asfortranarray(g))):
        fo.set_num_threads(threads)
        p = start.copy()
        opt = fo.AdamW(p, lr=0.1, cautious=True, cautious_decay=True, clip_norm=1.0, ema=0.5, bounds=(None, 1))
        for _ in range(3):
            opt.step(grad)
        results.append((p, opt.state["average"]))
    fo.set_num_threads(None)
    for p, average in results[1:]:
        assert_same_bits(p, results[0][0])
        assert_same_bits(average, results[0][1])


# ---- rejected


def test_rules_that_cannot_be_masked_reject_it() -> None:
    for cls in OPTIMIZERS:
        any_cls: Any = cls
        if cls not in CAUTIOUS:
            with pytest.raises(ValueError, match=f"cautious: expected False for {cls.__name__}, as its "):
                any_cls(np.ones(2), cautious=True)
        if cls not in DECAYING:
            with pytest.raises(ValueError, match=f"cautious_decay: expected False for {cls.__name__}, as its "):
                any_cls(np.ones(2), cautious_decay=True, decoupled=True)
        if cls.decays_itself and cls in CAUTIOUS:
            with pytest.raises(ValueError, match=r"cautious: expected False .* contains the decay"):
                any_cls(np.ones(2), cautious=True, decoupled=True, weight_decay=0.1)
    with pytest.raises(ValueError, match="cautious_decay: expected False without decoupled"):
        fo.Adam(np.ones(2), cautious_decay=True)
