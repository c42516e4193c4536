"""Decoupled weight decay whose factor is not the learning rate: `decay_schedule` and `lr_max`."""

from __future__ import annotations

import pickle
from typing import Any

import numpy as np
import pytest

import fastoptim as fo
from cases import assert_same_bits
from loops import loop
from models import Backend, each_backend, every_optimizer

WEIGHT_DECAY = 0.3
RATES = (0.1, 0.025, 0.2, 0.05)
LARGEST = (0.1, 0.1, 0.2, 0.2)  # of those up to each step
FACTORS = {"independent": lambda lr, largest: 1 / largest, "corrected": lambda lr, largest: lr / largest}
each_schedule = loop("schedule", FACTORS)


def gradient(step: int) -> Any:
    return np.array([0.5, -0.25, 0.0]) * (1 + step)


@every_optimizer
@each_backend
@each_schedule
def test_it_is_the_decay_of_a_group_whose_weight_decay_is_assigned(
    optimizer: Any, schedule: Any, backend: Backend
) -> None:
    p, expected = np.array([1.0, -2.0, 3.0]), np.array([1.0, -2.0, 3.0])
    options = {"lr": RATES[0], "decoupled": True, "backend": backend}
    opt = optimizer(p, weight_decay=WEIGHT_DECAY, decay_schedule=schedule, **options)
    by_hand = optimizer(expected, **options)
    for step, (lr, largest) in enumerate(zip(RATES, LARGEST, strict=True)):
        factor = WEIGHT_DECAY / largest if schedule == "independent" else lr * WEIGHT_DECAY / largest
        opt.lr, by_hand.lr, by_hand.weight_decay = lr, lr, factor
        opt.step(gradient(step))
        by_hand.step(gradient(step))
        assert_same_bits(p, expected, f"step {step}")
        assert opt.lr_max == largest


@each_schedule
def test_the_formula(schedule: Any) -> None:
    for steps in (list, lambda rates: rates.__getitem__):  # assigned, and a callable
        p, expected = np.array([1.0]), 1.0
        rates: Any = steps(RATES)
        opt = fo.SGDW(p, RATES[0] if isinstance(rates, list) else rates, weight_decay=0.1, decay_schedule=schedule)
        for lr, largest in zip(RATES, LARGEST, strict=True):
            if isinstance(rates, list):
                opt.lr = lr
            opt.step(np.zeros(1))
            expected -= 0.1 * lr * FACTORS[schedule](lr, largest) * expected
            np.testing.assert_allclose(p[0], expected, rtol=1e-14)


def test_a_group_may_have_its_own() -> None:
    p = [np.ones(1), np.ones(1), np.ones(1)]
    groups = [{"params": p[0]}, {"params": p[1], "decay_schedule": "independent"}, {"params": p[2], "lr_max": 0.5}]
    opt = fo.AdamW(groups, lr=0.1, weight_decay=0.2, decay_schedule="corrected")
    assert [group["lr_max"] for group in opt.param_groups] == [0.1, 0.1, 0.5]
    opt.step([np.zeros(1)] * 3)
    np.testing.assert_allclose(np.concatenate(p), [1 - 0.1 * 0.2, 1 - 0.2, 1 - 0.1**2 / 0.5 * 0.2], rtol=1e-14)


def test_no_learning_rate_is_no_decay() -> None:
    p = np.ones(2)
    fo.SGDW(p, lr=0.0, weight_decay=0.5, decay_schedule="independent").step(np.ones(2))
    assert p.tolist() == [1, 1]


@pytest.mark.parametrize("given", [None, 0.15])
def test_zero_state_forgets_the_rates_of_steps(given: float | None) -> None:
    opt = fo.SGDW(np.ones(1), lr=0.1, weight_decay=0.1, decay_schedule="corrected", lr_max=given)
    for lr in (0.2, 0.3):
        opt.lr = lr
        opt.step(np.ones(1))
    twin = pickle.loads(pickle.dumps(opt))
    for one in (opt, twin):
        assert one.lr_max == 0.3
        one.zero_state()
        assert one.lr_max == (given or 0.1)
    opt.lr, opt.lr_max = 0.2, 0.4  # what is assigned is an option
    opt.step(np.ones(1))
    opt.zero_state()
    assert opt.lr_max == 0.4
    by_step = fo.SGDW(np.ones(1), lr=lambda t: 0.5, weight_decay=0.1, decay_schedule="corrected", lr_max=given)
    by_step.step(np.ones(1))
    by_step.zero_state()
    assert by_step.lr_max == given


def test_a_checkpoint_has_the_largest_rate() -> None:
    p = np.ones(1)
    opt = fo.SGDW(p, lr=0.2, weight_decay=0.1, decay_schedule="corrected")
    opt.lr = 0.1
    saved = opt.state_dict()
    other = fo.SGDW(np.ones(1), lr=0.01)
    other.load_state_dict(saved)
    assert other.lr_max == 0.2
    for each in (opt, other):
        each.step(np.zeros(1))
    assert_same_bits(opt.params, other.params)


def test_a_rejected_step_does_not_change_it() -> None:
    opt = fo.SGDW(np.ones(2), lr=[0.1, 0.4].__getitem__, weight_decay=0.1, decay_schedule="corrected")
    opt.step(np.zeros(2))
    with pytest.raises(ValueError, match="expected shape"):
        opt.step(np.zeros(3))
    assert opt.lr_max == 0.1


@each_backend
def test_a_function_has_no_memory(backend: Backend) -> None:
    module = fo.functional if backend == "native" else fo.reference
    for lr in (0.1, 0.2, 0.05):  # whose options are kept, the learning rate excepted
        p = [np.ones(1), np.ones(1)]
        for each, most in zip(p, (None, 0.4), strict=True):
            own = {"weight_decay": 0.1, "decoupled": True, "decay_schedule": "corrected", "lr_max": most}
            module.sgd(each, np.zeros(1), step=1, lr=lr, **own)
        np.testing.assert_allclose(np.concatenate(p), [1 - 0.1 * lr, 1 - 0.1 * lr**2 / 0.4], rtol=1e-14)


def test_coupled_decay_has_no_schedule() -> None:
    schedules: list[Any] = [*FACTORS]
    for schedule in schedules:
        with pytest.raises(ValueError, match="decay_schedule: expected 'lr' without decoupled"):
            fo.Adam(np.ones(2), weight_decay=0.1, decay_schedule=schedule)
    unknown: Any = "constant"
    with pytest.raises(ValueError, match="decay_schedule: expected one of"):
        fo.AdamW(np.ones(2), decay_schedule=unknown)
