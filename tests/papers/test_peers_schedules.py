"""Live frameworks: learning rates by their schedules and by ours, also past the end."""

from __future__ import annotations

from collections.abc import Callable
from math import exp
from typing import Any

import numpy as np
import pytest

from cases import Array
from fastoptim import schedules as fs
from frameworks import FRAMEWORKS, import_keras, import_optax, jax_in_float64, keras_warning

pytestmark = keras_warning

STEPS, RTOL = 100, 1e-9

# The framework, our schedule, theirs by its name there, and how it is made.  Keras' pieces go on through the boundary,
# ours and optax's end before it.
Build = Callable[[Any], Any]
STEP, MULTI, EXPONENTIAL = fs.Step(0.1, 10, 0.5), fs.MultiStep(0.1, [9, 50]), fs.Exponential(0.1, 0.97)
PIECES, NATURAL = fs.PiecewiseConstant(0.1, [9, 50], [0.5, 3.0]), fs.NaturalExponential(0.1, 0.3, 7)
POWER, COSINE = fs.Polynomial(0.1, 60, 2.5, 0.01), fs.Cosine(0.1, 60, 0.01)
PARTS = fs.Sequence([0.1, fs.Linear(0.1, 1, 0, 30), 0.05], [20, 60])
RESTARTS = [{"init_value": 0.1, "peak_value": 0.1, "warmup_steps": 0, "decay_steps": n} for n in (20, 40, 80)]
WARM = {"warmup_target": 0.1, "warmup_steps": 15}
OPTAX: list[tuple[fs.Schedule, str, Build]] = [
    (fs.Constant(0.1), "constant_schedule", lambda make: make(0.1)),
    (STEP, "exponential_decay", lambda make: make(0.1, 10, 0.5, staircase=True)),
    (MULTI, "piecewise_constant_schedule", lambda make: make(0.1, {9: 0.1, 50: 0.1})),
    (PIECES, "piecewise_constant_schedule", lambda make: make(0.1, {9: 0.5, 50: 3.0})),
    (EXPONENTIAL, "exponential_decay", lambda make: make(0.1, 1, 0.97)),
    (fs.Exponential(0.1, 0.97, 0.05), "exponential_decay", lambda make: make(0.1, 1, 0.97, end_value=0.05)),
    (NATURAL, "exponential_decay", lambda make: make(0.1, 7, exp(-0.3))),
    (POWER, "polynomial_schedule", lambda make: make(0.1, 0.01, 2.5, 60)),
    (fs.Linear(0.1, 0.2, 1.5, 60), "linear_schedule", lambda make: make(0.02, 0.15, 60)),
    (COSINE, "cosine_decay_schedule", lambda make: make(0.1, 60, 0.1)),
    (fs.Cosine(0.1, 60, 0.01, 1.5), "cosine_decay_schedule", lambda make: make(0.1, 60, 0.1, 1.5)),
    (fs.CosineWarmRestarts(0.1, 20, 2), "sgdr_schedule", lambda make: make(RESTARTS)),
    (fs.Warmup(COSINE, 15, 0.02), "warmup_cosine_decay_schedule", lambda make: make(0.02, 0.1, 15, 75, 0.01)),
    (fs.Warmup(0.1, 15), "warmup_constant_schedule", lambda make: make(0.0, 0.1, 15)),
    (
        fs.Warmup(STEP, 15),
        "warmup_exponential_decay_schedule",
        lambda make: make(0.0, 0.1, 15, 10, 0.5, staircase=True),
    ),
    (
        PARTS,
        "join_schedules",
        lambda make: make([lambda _: 0.1, lambda step: 0.1 * max(0, 1 - step / 30), lambda _: 0.05], [20, 60]),
    ),
]
KERAS: list[tuple[fs.Schedule, str, Build]] = [
    (STEP, "ExponentialDecay", lambda make: make(0.1, 10, 0.5, staircase=True)),
    (MULTI, "PiecewiseConstantDecay", lambda make: make([8, 49], [0.1, 0.01, 0.001])),
    (PIECES, "PiecewiseConstantDecay", lambda make: make([8, 49], [0.1, 0.05, 0.15])),
    (EXPONENTIAL, "ExponentialDecay", lambda make: make(0.1, 1, 0.97)),
    (NATURAL, "ExponentialDecay", lambda make: make(0.1, 7, exp(-0.3))),
    (fs.InverseTime(0.1, 0.3, 7), "InverseTimeDecay", lambda make: make(0.1, 7, 0.3)),
    (POWER, "PolynomialDecay", lambda make: make(0.1, 60, 0.01, 2.5)),
    (fs.Linear(0.1, 1, 0.1, 60), "PolynomialDecay", lambda make: make(0.1, 60, 0.01)),
    (fs.Polynomial(0.1, 30, 2, 0.01, True), "PolynomialDecay", lambda make: make(0.1, 30, 0.01, 2, cycle=True)),
    (COSINE, "CosineDecay", lambda make: make(0.1, 60, 0.1)),
    (fs.Warmup(COSINE, 15, 0.02), "CosineDecay", lambda make: make(0.02, 60, 0.1, **WARM)),
    (fs.CosineWarmRestarts(0.1, 20, 1, 0.01), "CosineDecayRestarts", lambda make: make(0.1, 20, 1.0, alpha=0.1)),
    (
        fs.CosineWarmRestarts(0.1, 20, 2, 0.01, 0.7),
        "CosineDecayRestarts",
        lambda make: make(0.1, 20, m_mul=0.7, alpha=0.1),
    ),
]
SCHEDULES = [(name, *row) for name, rows in (("optax", OPTAX), ("keras", KERAS)) for row in rows]
NO_PEER = {"InverseSqrt", "Cyclic", "OneMinusPower", "REX", "Product"}
NEAR = {"OneCycle"}  # optax's phases end a step later


def _keras_rates(theirs: str, build: Callable[[Any], Any]) -> Array:
    keras = import_keras()
    rates = keras.ops.map(build(getattr(keras.optimizers.schedules, theirs)), keras.ops.arange(STEPS))
    return np.asarray(keras.ops.convert_to_numpy(rates))


def _optax_rates(theirs: str, build: Callable[[Any], Any]) -> Array:
    schedule = build(getattr(import_optax(), theirs))
    return np.array([float(schedule(step)) for step in range(STEPS)])


@pytest.mark.parametrize(
    ("name", "schedule", "theirs", "build"), SCHEDULES, ids=[f"{row[0]}-{row[2]}-{row[1]}" for row in SCHEDULES]
)
def test_rates_are_theirs(name: str, schedule: fs.Schedule, theirs: str, build: Callable[[Any], Any]) -> None:
    """Include steps past the end.  Keras takes cosines of up to pi in float32: 2^-22 of the largest rate."""
    with FRAMEWORKS[name].in_float64():
        rates = {"keras": _keras_rates, "optax": _optax_rates}[name](theirs, build)
    atol = 0.1 * 2**-22 if theirs.startswith("CosineDecay") else 1e-16
    np.testing.assert_allclose([schedule(step) for step in range(STEPS)], rates, rtol=RTOL, atol=atol)


def test_every_schedule_is_compared() -> None:
    compared = {type(schedule).__name__ for _, schedule, *_ in SCHEDULES} | {"ReduceOnPlateau"}
    every = {name for name, cls in vars(fs).items() if isinstance(cls, type) and issubclass(cls, fs.Schedule)}
    assert every - {"Schedule"} == compared | NO_PEER | NEAR


def test_a_plateau_is_optaxs() -> None:
    """Which counts the metric at which it reduces into its patience."""
    optax = import_optax()
    import jax

    with jax_in_float64():
        plateau = optax.contrib.reduce_on_plateau
        theirs = plateau(patience=4, rtol=0.01, min_scale=0.02, factor=0.5, cooldown=2)
        ours = fs.ReduceOnPlateau(0.1, patience=3, threshold=0.01, min_lr=0.002, factor=0.5, cooldown=2)
        rate = np.asarray(0.1)
        state, update = theirs.init(rate), jax.jit(theirs.update)
        for metric in 5 + np.random.default_rng(3).standard_normal(STEPS):
            ours.update(metric)
            given, state = update(rate, state, value=metric)
            np.testing.assert_allclose(ours.rate, float(given), rtol=RTOL)
    assert ours.rate == 0.002
