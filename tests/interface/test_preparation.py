"""Passes around a rule, compared with loops written from the text of `Optimizer`, and with PyTorch."""

from __future__ import annotations

import copy
import math
import re
from collections.abc import Callable, Iterator
from itertools import product
from typing import Any

import numpy as np
import pytest

import fastoptim as fo
from cases import (
    DTYPES,
    FLOAT32,
    Array,
    DType,
    assert_same_bits,
)
from loops import each_isa, loop
from models import OPTIMIZERS, Backend, each_backend, each_dtype, every_optimizer, leaves
from step_histories import arrays, assert_same_model

Options = dict[str, Any]
Grads = list[list[Array | None]]

DEFAULTS: Options = {k: v for k, v in fo.SGD.defaults.items() if k not in ("dampening", "nesterov")}


# ---- the oracle


def norm(norm_type: float, *gradients: Array) -> float:
    sizes = [abs(float(x)) for g in gradients for x in g.reshape(-1)]
    if norm_type == math.inf:
        return max(sizes, default=0.0)
    return float(math.fsum(x**norm_type for x in sizes) ** (1 / norm_type))


def clip_factor(own: Options, bound: float, size: float) -> float:
    return min(1, bound / (size + own["clip_eps"])) if size + own["clip_eps"] else 1


class Naive:
    """SGD with momentum over groups of float64 arrays, each line of the docstring a line here."""

    def __init__(self, groups: list[list[Array]], options: list[Options]) -> None:
        self.groups = [[p.copy() for p in group] for group in groups]
        self.options = [DEFAULTS | own for own in options]
        self.momenta: dict[tuple[int, int], Array] = {}

    def step(self, grads: Grads) -> bool | None:
        skips = any(own["skip_nonfinite"] or own["on_nonfinite"] for own in self.options)
        prepared: dict[tuple[int, int], Array] = {}
        for i, k in self._places():
            own, g = self.options[i], grads[i][k]
            if g is not None:
                g = g / np.asarray(own["grad_scale"]).item()
                prepared[i, k] = -g if own["maximize"] else g
        if skips and not all(np.isfinite(g).all() for g in prepared.values()):
            return False
        for (i, k), g in prepared.items():
            own = self.options[i]
            if own["clip_value"] is not None:
                g = np.clip(g, -own["clip_value"], own["clip_value"])
            if own["clip_norm"] is not None:
                g = g * clip_factor(own, own["clip_norm"], norm(own["norm_type"], g))
            prepared[i, k] = g
        whole = norm(self.options[0]["norm_type"], *prepared.values())
        for (i, k), g in prepared.items():
            own, p = self.options[i], self.groups[i][k]
            if own["clip_global_norm"] is not None:
                g = g * clip_factor(own, own["clip_global_norm"], whole)
            g = g + own["l1"] * np.sign(p)
            if own["decoupled"]:
                p[...] = (1 - own["lr"] * own["weight_decay"]) * p
            else:
                g = g + own["weight_decay"] * p
            before = self.momenta.get((i, k))
            self.momenta[i, k] = g if before is None else own["momentum"] * before + g
            p -= own["lr"] * self.momenta[i, k]
        return True if skips else None

    def _places(self) -> Iterator[tuple[int, int]]:
        return ((i, k) for i, group in enumerate(self.groups) for k in range(len(group)))


def follow(backend: Backend, options: list[Options], steps: list[Grads], changes: dict[int, Options]) -> None:
    """Steps both; `changes` are assigned to the first group before the step of that number."""
    groups = [arrays(i) for i in range(len(options))]
    naive = Naive(groups, options)
    opt = fo.SGD([{"params": g, **own} for g, own in zip(groups, options, strict=True)], backend=backend)
    for t, grads in enumerate(steps):
        opt.param_groups[0].update(changes.get(t, {}))
        naive.options[0].update(changes.get(t, {}))
        assert opt.step(grads) is naive.step(grads), f"step {t}"
        for found, expected in zip(leaves(groups), leaves(naive.groups), strict=True):
            np.testing.assert_allclose(found, expected, rtol=1e-12, atol=1e-15, err_msg=f"step {t}")


NORM_TYPES = (2.0, 1.0, math.inf)
BASE = {"lr": 0.1, "momentum": 0.9}
SINGLE: list[Options] = [
    {},
    {"weight_decay": 0.3},
    {"weight_decay": 0.3, "decoupled": True},
    {"decoupled": True},
    {"l1": 0.2},
    {"clip_value": 0.5},
    {"clip_value": 0.0},
    {"clip_norm": 1.5},
    {"clip_norm": 1e6},
    {"clip_norm": 0.0},
    {"clip_global_norm": 2.5},
    {"clip_global_norm": 1e6},
    {"clip_norm": 0.8, "clip_global_norm": 0.9},
    {"clip_norm": 0.8, "norm_type": 1},
    {"clip_norm": 0.8, "norm_type": math.inf, "clip_eps": 0.3},
    {"clip_norm": 1.5, "clip_eps": 0},
    {"norm_type": 1, "clip_eps": 0.1},
    {"grad_scale": 3.0},
    {"grad_scale": np.array([0.7])},
    {"skip_nonfinite": True},
    {"on_nonfinite": "skip"},
    {"maximize": True},
]


def label(options: Options) -> str:
    return "-".join(f"{k}={np.asarray(v).item():g}" for k, v in options.items()) or "none"


def gradients(seed: int, count: int) -> list[Grads]:
    return [[[*arrays(seed + 10 * t + 100 * i)] for i in range(count)] for t in range(1, 5)]


@each_backend
@loop("options", SINGLE)
def test_each_option(options: Options, backend: Backend) -> None:
    follow(backend, [BASE | options], gradients(0, 1), {})


@each_backend
@loop("options", SINGLE[1:])
def test_each_option_in_one_of_two_groups_and_assigned_later(options: Options, backend: Backend) -> None:
    follow(backend, [BASE, BASE | options], gradients(0, 2), {2: options})


def some_options(rng: np.random.Generator) -> Options:
    number = {name: float(rng.uniform(0.05, 3)) for name in ("clip_value", "clip_norm", "clip_global_norm", "l1")}
    every: Options = {
        **number,
        "weight_decay": float(rng.uniform(0, 0.5)),
        "decoupled": bool(rng.integers(2)),
        "grad_scale": rng.choice([0.3, 1.7, 5.0]) if rng.integers(2) else rng.uniform(0.5, 4, (1, 1)),
        "skip_nonfinite": bool(rng.integers(2)),
        "maximize": bool(rng.integers(2)),
        "lr": float(rng.uniform(0.01, 0.2)),
        "clip_eps": float(rng.choice([0, 0.1])),
    }
    return BASE | {name: value for name, value in every.items() if rng.random() < 0.6}


def some_steps(rng: np.random.Generator, count: int, seed: int) -> list[Grads]:
    """With gradients missing, and here and there one that is no number or zero."""
    steps = gradients(seed, count)
    for grads, i in product(steps, range(count)):
        for k, g in enumerate(grads[i]):
            what = rng.integers(8)
            if what < 2:
                grads[i][k] = None
            elif what == 2 and g is not None:
                g[...] = 0
    return steps


@each_backend
@loop("seed", range(30))
def test_combinations(seed: int, backend: Backend) -> None:
    rng = np.random.default_rng(seed)
    norm_type = NORM_TYPES[seed % 3]
    options = [some_options(rng) | {"norm_type": norm_type} for _ in range(1 + seed // 3 % 3)]
    steps = some_steps(rng, len(options), seed)
    if seed % 4 == 0 and any(own.get("skip_nonfinite") for own in options):
        steps[1][0][1] = np.array([1, 2, math.inf, 3, 4.0])
    follow(backend, options, steps, {2: some_options(rng)})


@loop("seed", range(16))
@each_isa
def test_combinations_have_the_same_bits(seed: int) -> None:
    """In the four formats, with rules of all kinds, and with averages."""
    rng = np.random.default_rng(seed)
    optimizer = OPTIMIZERS[seed % len(OPTIMIZERS)]
    options = [{k: v for k, v in some_options(rng).items() if k != "momentum"} for _ in range(3)]
    for i, own in enumerate(options):  # of different types only where no norm is of all gradients
        own["norm_type"] = NORM_TYPES[(seed + i * (seed % 2)) % 3]
        if seed % 2:
            own.pop("clip_global_norm", None)
    options[seed % 3]["ema"] = 0.7
    results: list[Any] = []
    backends: tuple[Backend, ...] = ("native", "reference")
    for backend in backends:
        params = [arrays(i, DTYPES[(seed + i) % 4]) for i in range(3)]
        opt = optimizer(
            [{"params": p, **copy.deepcopy(own)} for p, own in zip(params, options, strict=True)], backend=backend
        )
        own_rng = np.random.default_rng(seed)
        for grads in some_steps(own_rng, 3, seed):
            dtypes = own_rng.integers(4, size=3)
            cast = [[g if g is None else g.astype(DTYPES[d]) for g in of] for of, d in zip(grads, dtypes, strict=True)]
            opt.step(cast)
        states = [array for entry in leaves(opt.state) for array in entry.values()]
        results.append([*leaves(params), *states])
    for found, expected in zip(*results, strict=True):
        assert_same_bits(found, expected)


# ---- gradients


EVERYTHING: Options = {
    "weight_decay": 0.1,
    "l1": 0.01,
    "clip_value": 2.0,
    "clip_norm": 1.0,
    "clip_global_norm": 1.5,
    "grad_scale": 3.0,
    "skip_nonfinite": True,
    "maximize": True,
    "ema": 0.5,
}


@every_optimizer
@each_backend
@each_dtype
def test_gradients_are_only_read(optimizer: type[fo.Optimizer], backend: Backend, dtype: DType) -> None:
    opt = optimizer(arrays(0, FLOAT32), **EVERYTHING, backend=backend)
    grads = arrays(1, dtype)
    before = [g.tobytes() for g in grads]
    for g in grads:
        g.flags.writeable = False
    for _ in range(2):
        assert opt.step(grads) is True
    assert [g.tobytes() for g in grads] == before


@each_backend
@loop("bound", [1.0, 0.0])
@loop("eps", [1e-6, 0.0])
@loop("norm_type", NORM_TYPES)
def test_a_zero_norm_is_not_divided_by(backend: Backend, bound: float, eps: float, norm_type: float) -> None:
    params = arrays(0)
    before = [p.copy() for p in params]
    options: Options = {"clip_norm": bound, "clip_global_norm": bound, "clip_eps": eps, "norm_type": norm_type}
    fo.SGD(params, lr=0.5, **options, backend=backend).step([0 * p for p in params])
    for p, expected in zip(params, before, strict=True):
        assert_same_bits(p, expected)


@each_backend
@loop("norm_type", NORM_TYPES)
def test_without_eps_the_factor_is_that_of_keras_and_optax(backend: Backend, norm_type: float) -> None:
    """min(1, bound/norm), of each array or of all."""
    grads = arrays(1)
    for option, bound in product(("clip_norm", "clip_global_norm"), (0.7, 1e3)):
        params = [np.zeros_like(g) for g in grads]
        options: Options = {option: bound, "clip_eps": 0, "norm_type": norm_type}
        fo.SGD(params, lr=1.0, **options, backend=backend).step(grads)
        for p, g in zip(params, grads, strict=True):
            size = fo.global_norm(g if option == "clip_norm" else grads, norm_type)
            assert_same_bits(p, -((min(1, bound / size) if size else 1) * g))


# ---- loss scales


@each_backend
@loop("shape", [(), (1,), (1, 1)])
@loop("kind", [np.float64, np.float32, np.float16, np.int64])
def test_a_scale_is_read_at_every_step(backend: Backend, shape: tuple[int, ...], kind: Any) -> None:
    scale = np.full(shape, 2, kind)
    p, expected = arrays(0)[0], arrays(0)[0]
    opt = fo.SGD(p, lr=0.5, grad_scale=scale, backend=backend)
    for t, value in enumerate((2, 8, 8, 1, 4), 1):
        scale[...] = value
        g = arrays(t)[0]
        opt.step(g)
        expected -= 0.5 * (g / value)
        assert_same_bits(p, expected, f"step {t}")
    opt.param_groups[0]["grad_scale"] = 16
    opt.step(g)
    assert_same_bits(p, expected - 0.5 * (g / 16))


@each_backend
def test_an_array_equal_to_what_it_replaces_is_read_from_then_on(backend: Backend) -> None:
    old, new = np.array(2.0), np.array(2.0)
    p = np.zeros(2)
    opt: Any = fo.SGD(p, lr=1.0, grad_scale=old, backend=backend)
    opt.step(np.ones(2))
    opt.grad_scale = new
    opt.step(np.ones(2))
    old[...] = 4
    opt.step(np.ones(2))
    assert p.tolist() == [-1.5, -1.5]
    new[...] = 0.5
    opt.step(np.ones(2))
    assert p.tolist() == [-3.5, -3.5]


def test_an_array_is_no_part_of_a_checkpoint_however_it_was_assigned() -> None:
    """Else what loads it would be cut off from its scaler."""
    opt: Any = fo.SGD(np.zeros(2), grad_scale=2.0)
    assert opt.state_dict()["groups"][0]["grad_scale"] == 2
    opt.grad_scale = np.array(2.0)
    assert "grad_scale" not in opt.state_dict()["groups"][0]
    opt.grad_scale = 2.0
    assert opt.state_dict()["groups"][0]["grad_scale"] == 2


@each_backend
def test_true_is_not_taken_for_the_one_it_equals(backend: Backend) -> None:
    opt = fo.SGD(np.zeros(2), grad_scale=1.0, backend=backend)
    opt.step(np.ones(2))
    opt.param_groups[0]["grad_scale"] = True
    with pytest.raises(TypeError, match=re.escape("param_groups[0]: grad_scale: expected a number in")):
        opt.step(np.ones(2))
    assert opt.step_count == 1


@each_backend
@loop("value", [0.0, -1.0, math.inf, math.nan, 2.0**-127, 2.0**127, 1e-300])
def test_a_scale_that_became_invalid_is_rejected_before_anything_is_written(backend: Backend, value: float) -> None:
    scale = np.array([2.0])
    params = [arrays(0), arrays(1)]
    opt = fo.Adam([{"params": params[0]}, {"params": params[1], "grad_scale": scale}], ema=0.5, backend=backend)
    opt.step([arrays(2), arrays(3)])
    before = copy.deepcopy((params, opt.state))
    scale[...] = value
    with pytest.raises(ValueError, match=re.escape("param_groups[1]['grad_scale']: expected a number in [")):
        opt.step([arrays(4), arrays(5)])
    assert opt.step_count == 1
    assert_same_model((params, opt.state), before)
    scale[...] = 4
    opt.step([arrays(4), arrays(5)])
    assert opt.step_count == 2


@each_backend
@each_dtype
@loop("scale", [2.0**-126, 2.0**126])
def test_the_ends_of_the_range_keep_numbers(backend: Backend, dtype: DType, scale: float) -> None:
    """Zero stays zero, and what a scaled gradient can hold comes out."""
    p = np.zeros(2, dtype)
    g = np.array([0.0, min(scale, float(2**15))])
    fo.SGD(p, lr=1.0, grad_scale=scale, backend=backend).step(g)
    assert p.astype(np.float64).tolist() == [0.0, float(np.float64(-g[1] / scale).astype(dtype))]


# ---- PyTorch


def clip_each(utils: Any, tensors: list[Any], bound: float, norm_type: float) -> None:
    for tensor in tensors:
        utils.clip_grad_norm_([tensor], bound, norm_type)


CLIPS: dict[str, Callable[[Any, list[Any], float, float], Any]] = {
    "clip_global_norm": lambda utils, tensors, bound, norm_type: utils.clip_grad_norm_(tensors, bound, norm_type),
    "clip_value": lambda utils, tensors, bound, _: utils.clip_grad_value_(tensors, bound),
    "clip_norm": clip_each,
}


def spoilt(name: str, t: int) -> list[Array]:
    grads = arrays(t)
    if name == "zero":
        return [0 * g for g in grads]
    if name != "ordinary" and t > 2:
        grads[1][2] = float(name)
    return grads


@each_backend
@loop("name", CLIPS)
@loop("bound", [0.0, 0.3, 1e6])
@loop("kind", ["ordinary", "zero", "-inf", "nan"])
@loop("norm_type", NORM_TYPES)
def test_clipping_is_pytorch_s(
    backend: Backend, name: str, bound: float, kind: str, norm_type: float, torch: Any
) -> None:
    """Followed by its SGD; an inf or NaN spoils the same elements."""
    params = arrays(0)
    tensors = [torch.tensor(p, requires_grad=True) for p in params]
    options: Options = {name: bound, "norm_type": norm_type}
    ours = fo.SGD(params, lr=0.1, momentum=0.9, weight_decay=0.1, **options, backend=backend)
    theirs = torch.optim.SGD(tensors, lr=0.1, momentum=0.9, weight_decay=0.1)
    for t in range(1, 5):
        grads = spoilt(kind, t)
        for tensor, g in zip(tensors, grads, strict=True):
            tensor.grad = torch.tensor(g)
        full = [tensor for tensor in tensors if tensor.numel()]  # it has no largest element of an empty one
        CLIPS[name](torch.nn.utils, full, bound, norm_type)
        theirs.step()
        ours.step(grads)
        for p, tensor in zip(params, tensors, strict=True):
            np.testing.assert_allclose(p, tensor.detach().numpy(), rtol=1e-12, atol=1e-15, err_msg=f"step {t}")
