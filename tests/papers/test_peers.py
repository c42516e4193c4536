"""Live frameworks: with ``pip install '.[peers]'``, every optimizer that is also theirs goes their way for 100 steps.

The tables know frameworks by name alone, so that this module is importable without them.  All three compute in float64
here (jax and Keras have to be told), so one tolerance serves.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any, NamedTuple

import numpy as np
import pytest

import fastoptim as fo
from cases import Array
from frameworks import FRAMEWORKS, Framework, follow_keras, import_keras, import_optax, import_torch, keras_warning

pytestmark = keras_warning

STEPS = 100

# Frameworks round in another order, and a hundred steps add that up; what a convention changes is far larger.  The
# absolute part is for parameters that cross zero, where rounding of the values before stays: some 100 times 2^-53.
RTOL, ATOL = 1e-9, 1e-13

# jax takes the square root of an int32 step count in float32, a relative error of up to 2^-24 in each of MADGRAD's
# weights and so at most twice that in the way that its parameters have come, of about 1.
LOOSE = {("optax", "madgrad"): (2**-23, 2**-23)}

# ---- tables


class Row(NamedTuple):
    """An optimizer here and there: options of both under our names, and what only one of them is told."""

    name: str
    theirs: str
    options: dict[str, Any] = {}
    ours: dict[str, Any] = {}
    only_theirs: dict[str, Any] = {}


PUSH = {"momentum": 0.9}
NESTEROV = {"momentum": 0.9, "nesterov": True}
OTHER = {"betas": (0.8, 0.95), "eps": 1e-3}
DECAY = {"weight_decay": 0.1}
UPHILL = {**DECAY, "maximize": True}
CENTERED = {"momentum": 0.8, "centered": True}
MAX = {"amsgrad": True}
SHRINK = {"decoupled": True}

TORCH = [
    Row("sgd", "SGD"),
    Row("sgd", "SGD", {**PUSH, "dampening": 0.3, **UPHILL}),
    Row("sgd", "SGD", {**NESTEROV, **DECAY}),
    Row("sgdw", "SGD", {**PUSH, "weight_decay": 0}),  # its own has no decay of that kind
    Row("adagrad", "Adagrad"),
    Row("adagrad", "Adagrad", {"lr_decay": 0.05, "initial_accumulator_value": 0.2, "eps": 1e-6, **UPHILL}),
    Row("rmsprop", "RMSprop"),
    Row("rmsprop", "RMSprop", {"alpha": 0.9, "eps": 1e-4, **CENTERED, **UPHILL}),
    Row("adam", "Adam"),
    Row("adam", "Adam", {**OTHER, **MAX, **UPHILL}),
    Row("adamw", "AdamW"),
    Row("adamw", "AdamW", {**OTHER, **MAX, **UPHILL}),
    Row("adamax", "Adamax"),
    Row("adamax", "Adamax", {**OTHER, **UPHILL}),
    Row("nadam", "NAdam"),
    Row("nadam", "NAdam", {**OTHER, **UPHILL, "momentum_decay": 0.3}),
    Row("nadam", "NAdam", DECAY, SHRINK, {"decoupled_weight_decay": True}),
    Row("radam", "RAdam"),
    Row("radam", "RAdam", {**OTHER, **UPHILL}),
    Row("radam", "RAdam", DECAY, SHRINK, {"decoupled_weight_decay": True}),
    Row("adadelta", "Adadelta"),
    Row("adadelta", "Adadelta", {"rho": 0.7, "eps": 1e-3, **UPHILL}),
    Row("rprop", "Rprop"),
    Row("rprop", "Rprop", {"etas": (0.3, 1.7), "step_sizes": (0.02, 0.4), "maximize": True}),
    Row("asgd", "ASGD"),
    Row("asgd", "ASGD", {"lambd": 0.05, "alpha": 0.6, "t0": 20.0, **UPHILL}),
]
FUSED = {"SGD", "Adagrad", "Adam", "AdamW"}  # on CPU
TORCH = [
    row._replace(only_theirs=row.only_theirs | how)
    for row in TORCH
    for how in ({}, {"foreach": True}, {"fused": True})
    if not how or (row.options and ("foreach" in how or row.theirs in FUSED))
]

KERAS = [
    Row("sgd", "SGD"),
    Row("sgd", "SGD", PUSH),
    Row("sgd", "SGD", {**NESTEROV, **DECAY}, SHRINK),
    Row("sgdw", "SGD", {**PUSH, **DECAY}),
    Row("adagrad", "Adagrad"),
    Row(
        "adagrad",
        "Adagrad",
        {"initial_accumulator_value": 0.7, **DECAY},
        {"eps_root": 1e-3, **SHRINK},
        {"epsilon": 1e-3},
    ),
    Row("rmsprop", "RMSprop"),
    Row("rmsprop", "RMSprop", PUSH),
    Row("rmsprop", "RMSprop", {"alpha": 0.8, **CENTERED, **DECAY}, SHRINK),
    Row("adam", "Adam"),
    Row("adam", "Adam", {**OTHER, **MAX, **DECAY}, SHRINK),
    Row("adamw", "AdamW"),
    Row("adamw", "AdamW", {**OTHER, **MAX, **DECAY}),
    Row("adamax", "Adamax"),
    Row("adamax", "Adamax", {**OTHER, **DECAY}, SHRINK),
    Row("nadam", "Nadam"),
    Row("nadam", "Nadam", {**OTHER, **DECAY}, SHRINK),
    Row("adadelta", "Adadelta"),
    Row("adadelta", "Adadelta", {"rho": 0.7, "eps": 1e-3, **DECAY}, SHRINK),
    Row("lion", "Lion"),
    Row("lion", "Lion", {"betas": (0.8, 0.95), **DECAY}),
    Row("lamb", "Lamb"),
    Row("lamb", "Lamb", {**OTHER, **DECAY}),
    Row("ftrl", "Ftrl"),
    Row("ftrl", "Ftrl", {"beta": 0.5, "l1_regularization": 0.3, "l2_regularization": 0.2, "l2_shrinkage": 0.1}),
    Row("schedule_free_adamw", "ScheduleFreeAdamW"),
    Row("schedule_free_adamw", "ScheduleFreeAdamW", {**OTHER, "warmup_steps": 20}),
]

OPTAX = [
    Row("sgd", "sgd"),
    Row("sgd", "sgd", PUSH),
    Row("sgd", "sgd", NESTEROV),
    Row("sgd", "add_decayed_weights before sgd", {**PUSH, **DECAY}),
    Row("sgdw", "trace before add_decayed_weights", {**PUSH, **DECAY}),
    Row("adagrad", "adagrad"),
    Row("adagrad", "adagrad", {"initial_accumulator_value": 0.0}, {"eps_root": 1e-3}, {"eps": 1e-3}),
    Row("rmsprop", "rmsprop"),
    Row("rmsprop", "rmsprop", PUSH),
    Row("rmsprop", "rmsprop", {"alpha": 0.8, **CENTERED}),
    Row("rmsprop", "rmsprop", {"alpha": 0.8, **CENTERED, "bias_correction": True, "initial_accumulator_value": 0.4}),
    Row("rmsprop", "rmsprop", {**PUSH, "bias_correction": True}),
    Row("rmsprop", "rmsprop", {"eps": 1e-4}, {"eps_root": 0.0}, {"eps_in_sqrt": False}),
    Row("adam", "adam"),
    Row("adam", "adam", {**OTHER, "eps_root": 1e-4}),
    Row("adam", "amsgrad", {}, MAX),
    Row("adam", "amsgrad", {**OTHER, "eps_root": 1e-4}, MAX),
    Row(
        "adam",
        "amsgrad",
        OTHER,
        {**MAX, "bias_correction": False},
        {"bias_correction_mu": False, "bias_correction_nu": False},
    ),
    Row("adamw", "adamw"),
    Row("adamw", "adamw", {**OTHER, **DECAY, "eps_root": 1e-4}),
    Row("adamax", "adamax"),
    Row("adamax", "adamax", OTHER),
    Row("adamax", "adamaxw", DECAY, SHRINK),
    Row("nadam", "nadam"),
    Row("nadam", "nadam", OTHER),
    Row("nadam", "nadamw", DECAY, SHRINK),
    Row("radam", "radam"),
    Row("radam", "radam", {**OTHER, "threshold": 7.0}),
    Row("adadelta", "adadelta"),
    Row("adadelta", "adadelta", {"rho": 0.7, "eps": 1e-3, **DECAY}),
    Row("adabelief", "adabelief"),
    Row("adabelief", "adabelief", {"betas": (0.8, 0.95), "eps": 1e-3, "eps_root": 1e-8}),
    Row("yogi", "yogi"),
    Row("yogi", "yogi", {"betas": (0.8, 0.95), "eps": 0.1}),
    Row("lion", "lion"),
    Row("lion", "lion", {"betas": (0.8, 0.95), **DECAY}),
    Row("lamb", "lamb"),
    Row("lamb", "lamb", {**OTHER, **DECAY, "eps_root": 1e-4}),
    Row("lars", "lars"),
    Row("lars", "lars", {**DECAY, "momentum": 0.8, "nesterov": True, "trust_coefficient": 0.1, "eps": 0.5}),
    Row("novograd", "novograd"),
    Row("novograd", "novograd", {"betas": (0.8, 0.95), "eps": 0.1, **DECAY}),
    Row("madgrad", "madgrad"),
    Row("madgrad", "madgrad", {"momentum": 0.5, "eps": 1e-3, **DECAY}),
    Row("schedule_free_adamw", "schedule_free_adamw"),
    Row("schedule_free_adamw", "schedule_free_adamw", {**OTHER, **DECAY, "weight_lr_power": 1}),
    Row("schedule_free_sgd", "schedule_free_sgd"),
    Row("schedule_free_sgd", "schedule_free_sgd", {"momentum": 0.7, **DECAY, "weight_lr_power": 1}),
    Row("signsgd", "sign_sgd"),
    Row("signum", "signum"),
    Row("signum", "signum", {"beta": 0.5}),
    Row("ademamix", "ademamix"),
    Row("ademamix", "ademamix", {"betas": (0.8, 0.95, 0.99), "alpha": 2.0, "eps": 1e-3, **DECAY}),
    Row("adopt", "adopt"),
    Row("adopt", "adopt", {**OTHER, "clipped": False}),
    Row("prodigy", "prodigy", {}, {"bias_correction": True}),
    Row(
        "prodigy",
        "prodigy",
        {**OTHER, **DECAY, "beta3": 0.9, "d0": 1e-3, "d_coef": 2.0, "safeguard_warmup": True},
        {"bias_correction": True},
    ),
    # It has 1 - b2 where the authors' code has b2, which with one half is the same.
    Row("adan", "adan", {"betas": (0.98, 0.5, 0.99)}, {}, {"eps_root": 0.0}),
]

ROWS = [(name, row) for name, rows in (("torch", TORCH), ("keras", KERAS), ("optax", OPTAX)) for row in rows]

# What computes something else under the same name, so that we have no convention of that name; the rest is compared.
WRONG = [
    ("optax", Row("rprop", "rprop")),  # gives the update of the step before, and looks at its sign in place of g's
    ("optax", Row("adan", "adan", {}, {}, {"eps_root": 0.0})),  # (1 - b2) in the place of b2
]
NOT_COMPARED = {("optax", "sophia"): "corrects the mean for its start at zero; neither the paper nor its code does"}

# The rate of the step before counts in torch's, ours takes that of the step; it is a matter of the schedule alone.
CONSTANT_RATE = {("torch", "asgd")}


def row_id(value: Any) -> str:
    if not isinstance(value, Row):
        return str(value)
    told = value.options | value.ours | value.only_theirs
    return "-".join([value.name, value.theirs.replace(" ", "_"), *(f"{k}={v}" for k, v in told.items())])


# ---- the comparison

# From large to about every epsilon, where their places show; one that is zero for a while; one that is always.
SCALES = np.array([3.0, 0.1, 1e-3, 1e-5, 1e-7, 1e-8, 1.0, 0.0])


def start() -> list[Array]:
    """Return parameters of several shapes; one is zero, as is its norm."""
    rng = np.random.default_rng(0)
    return [rng.standard_normal((3, 8)) * np.geomspace(1, 1e-4, 8), np.zeros(2), np.asarray(0.5)]


def gradients() -> list[list[Array]]:
    rng = np.random.default_rng(1)
    steps = []
    for i in range(STEPS):
        matrix, pair, scalar = (rng.standard_normal(p.shape) + 0.3 for p in start())
        matrix[:, -2] *= i >= 4
        steps.append([matrix * SCALES, pair * (i % 3 > 0), np.asarray(scalar * (i > 2))])
    return steps


def translated(framework: Framework, factory: Any, options: dict[str, Any]) -> dict[str, Any]:
    known = inspect.signature(factory).parameters
    theirs: dict[str, Any] = {}
    for name, value in options.items():
        other = name if name in known else framework.options.get(name, name)
        theirs |= {other: value} if isinstance(other, str) else dict(zip(other, value, strict=False))
    return theirs


def own_rate(factory: Any) -> float | None:
    """The framework's default, where it has one."""
    known = inspect.signature(factory).parameters
    default = (known.get("lr") or known["learning_rate"]).default
    return None if default is inspect.Parameter.empty or default is None else float(default)


def ways(name: str, row: Row) -> Iterator[tuple[list[Array], list[Array]]]:
    """The parameters after each step, ours and theirs: with the defaults, or with options and a rate that changes."""
    framework = FRAMEWORKS[name]
    cls = fo.OPTIMIZERS[row.name]
    known = {"convention": name} if name in cls.conventions else {}
    base = float(cls.check_options(known).options["lr"])

    def lr(step: int) -> float:
        return base * (1 + step % 5) / 3

    changing = bool(row.options) and (name, row.name) not in CONSTANT_RATE
    factory = framework.factory(row.theirs)
    rates = [lr(i) if changing else (own_rate(factory) or base) for i in range(STEPS)]
    told = translated(framework, factory, row.options) | row.only_theirs
    theirs = framework.follow(partial(factory, **told), rates, start(), gradients())
    params = start()
    opt = cls(params, **known, **row.options, **row.ours, **({"lr": lr} if changing else {}))
    for g, wanted in zip(gradients(), theirs, strict=True):
        opt.step(g)
        yield params, wanted


@pytest.mark.parametrize(("name", "row"), ROWS, ids=row_id)
def test_follows_the_framework(name: str, row: Row) -> None:
    if row.theirs == "ScheduleFreeAdamW" and import_keras().config.backend() == "torch":
        pytest.skip("Keras on PyTorch has the new z in the place of the old one, which it keeps by reference")
    rtol, atol = LOOSE.get((name, row.name), (RTOL, ATOL))
    with FRAMEWORKS[name].in_float64():
        for t, (params, wanted) in enumerate(ways(name, row), 1):
            for p, q in zip(params, wanted, strict=True):
                assert q.dtype == np.float64
                np.testing.assert_allclose(p, q, rtol=rtol, atol=atol, err_msg=f"step {t}")


@pytest.mark.parametrize(("name", "row"), WRONG, ids=row_id)
def test_differs_from_the_framework(name: str, row: Row) -> None:
    """Or what is said of them here, and in the class, is no longer true."""
    with FRAMEWORKS[name].in_float64():
        assert any(abs(p - q).max() > 1e-4 for pair in ways(name, row) for p, q in zip(*pair, strict=True))


# ---- nothing is left out

COMPARED = {(name, row.name) for name, row in ROWS}
DISMISSED = NOT_COMPARED.keys() | {(name, row.name) for name, row in WRONG}


def test_every_convention_is_compared() -> None:
    known = {(c, name) for name, cls in fo.OPTIMIZERS.items() for c in cls.conventions if c in FRAMEWORKS}
    assert known <= COMPARED


@pytest.mark.parametrize("name", FRAMEWORKS)
def test_every_optimizer_that_is_also_theirs_is_compared(name: str) -> None:
    """By its name, however that is written."""
    ours = {own.replace("_", ""): own for own in fo.OPTIMIZERS}
    theirs = {other.replace("_", "").lower() for other in FRAMEWORKS[name].names()}
    assert {(name, ours[own]) for own in theirs & ours.keys()} <= COMPARED | DISMISSED


def test_each_is_compared_with_defaults_and_with_options() -> None:
    plain, told = ({(name, row.name) for name, row in ROWS if bool(row.options) is which} for which in (False, True))
    without_own_options = {("optax", "signsgd")}
    other_defaults = {("optax", "adan"), ("torch", "sgdw"), ("keras", "sgdw"), ("optax", "sgdw")}
    assert plain | other_defaults == told | without_own_options == COMPARED


# ---- clipping

BOUND = 1.5


def _clip_torch(kind: str, grads: list[Array]) -> list[Array]:
    torch = import_torch()
    tensors = [torch.zeros(g.shape) for g in grads]
    for tensor, g in zip(tensors, grads, strict=True):
        tensor.grad = torch.tensor(g)
    utils = torch.nn.utils
    clip = utils.clip_grad_value_ if kind == "clip_value" else utils.clip_grad_norm_
    for together in [tensors] if kind == "clip_global_norm" else tensors:
        clip(together, BOUND)
    return [tensor.grad.numpy() for tensor in tensors]


def _clip_keras(kind: str, grads: list[Array]) -> list[Array]:
    option = {"clip_value": "clipvalue", "clip_norm": "clipnorm", "clip_global_norm": "global_clipnorm"}[kind]
    make = partial(import_keras().optimizers.SGD, **{option: BOUND})
    return [-p for p in next(follow_keras(make, [1.0], [np.zeros(g.shape) for g in grads], [grads]))]


def _clip_optax(kind: str, grads: list[Array]) -> list[Array]:
    optax = import_optax()
    clip = {"clip_value": optax.clip, "clip_global_norm": optax.clip_by_global_norm}[kind](BOUND)
    return [np.asarray(g) for g in clip.update(grads, clip.init(grads))[0]]


CLIPS = [
    (clip, kind)
    for clip, kinds in (
        (_clip_torch, ("clip_value", "clip_norm", "clip_global_norm")),
        (_clip_keras, ("clip_value", "clip_norm", "clip_global_norm")),
        (_clip_optax, ("clip_value", "clip_global_norm")),
    )
    for kind in kinds
]


@pytest.mark.parametrize("size", [1.0, 1e-2], ids=["clipped", "small"])
@pytest.mark.parametrize(("clip", "kind"), CLIPS)
def test_clips_as_they_do(clip: Callable[..., list[Array]], kind: str, size: float) -> None:
    """PyTorch adds 1e-6 to the norm, the others do not."""
    rng = np.random.default_rng(2)
    grads = [size * np.asarray(rng.standard_normal(shape)) for shape in ((4, 3), (2,), ())]
    params = [np.zeros(g.shape) for g in grads]
    options: dict[str, Any] = {kind: BOUND, "clip_eps": 1e-6 if clip is _clip_torch else 0.0}
    fo.SGD(params, lr=1.0, **options).step(grads)
    with FRAMEWORKS[clip.__name__.removeprefix("_clip_")].in_float64():
        wanted = clip(kind, grads)
    in_float32 = clip is _clip_keras and import_keras().config.backend() == "torch"  # takes norms so
    for p, q in zip(params, wanted, strict=True):
        np.testing.assert_allclose(-p, q, rtol=2**-22 if in_float32 else 1e-14)
