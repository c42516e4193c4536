"""Averages of the parameters: `ema`, and `swa_start` with `swa_every`."""

from __future__ import annotations

import copy
import math
import pickle
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

import fastoptim as fo
from cases import FLOAT32, FLOAT64, Array, DType, assert_same_bits, ordinary_values
from fastoptim.reference_math import compute_dtype
from loops import loop
from models import Backend, each_backend, each_dtype, each_module, every_optimizer, leaves

STEPS = 12

Options = dict[str, Any]
Optimizers = type[fo.Optimizer]

AVERAGES: list[Options] = [
    {"ema": 0.9},
    {"ema": 0.0},
    {"ema": 0.999},
    {"ema": 0.9, "ema_start": 1},
    {"ema": 0.9, "ema_start": 7},
    {"ema": 0.9, "ema_debias": True},
    {"ema": 0.99, "ema_debias": True, "ema_start": 4},
    {"ema": 0.0, "ema_debias": True},
    {"ema": 0.9, "ema_start": STEPS + 1},
    {"swa_start": 1},
    {"swa_start": 5},
    {"swa_start": 5, "swa_every": 3},
    {"swa_start": STEPS, "swa_every": 2},
    {"swa_start": STEPS + 1},
]
some_average = loop("options", AVERAGES)
one_of_each = loop("options", [{"ema": 0.75}, {"swa_start": 2, "swa_every": 2}])


def numbers(seed: int, size: int = 6, dtype: DType = FLOAT64) -> Array:
    return ordinary_values(np.random.default_rng(seed), dtype, size)


def naive(options: Options, path: list[Array]) -> Array:
    """The average of a parameter that was path[0] at first and path[t] after step t."""
    if "ema" in options:
        debias = options.get("ema_debias", False)
        first = min(options.get("ema_start") or int(debias), len(path) - 1)
        counted = path[first:]
        weights = [options["ema"] ** (len(counted) - 1 - i) for i in range(len(counted))]
        if not debias:
            weights[1:] = [(1 - options["ema"]) * w for w in weights[1:]]
        return np.asarray(np.average(counted, axis=0, weights=weights))
    start, every = options["swa_start"], options.get("swa_every", 1)
    counted = [path[t] for t in range(start, len(path), every)]
    return np.asarray(np.mean(counted, axis=0)) if counted else path[-1]


# ---- what is kept


@every_optimizer
@each_backend
@some_average
def test_the_average_is_that_of_the_path(optimizer: Optimizers, backend: Backend, options: Options) -> None:
    params = {"w": numbers(0).reshape(2, 3), "b": [numbers(1, 5)], "n": np.array(1.5)}
    opt = optimizer(params, **options, backend=backend)
    paths = [[p.copy()] for p in leaves(params)]
    for t in range(STEPS):
        opt.step({"w": numbers(3 * t).reshape(2, 3), "b": [numbers(3 * t + 1, 5)], "n": np.array(0.5)})
        for p, path in zip(leaves(params), paths, strict=True):
            path.append(p.copy())
        found = np.concatenate([state["average"].reshape(-1) for state in leaves(opt.state)])
        expected = np.concatenate([naive(options, path).reshape(-1) for path in paths])
        np.testing.assert_allclose(found, expected, rtol=1e-12, atol=1e-15, err_msg=f"step {t + 1}")


@every_optimizer
@each_backend
@one_of_each
def test_averaging_leaves_the_parameters_alone(optimizer: Optimizers, backend: Backend, options: Options) -> None:
    p, q = numbers(0), numbers(0)
    opt, other = optimizer(p, **options, backend=backend), optimizer(q, backend=backend)
    for t in range(5):
        opt.step(numbers(t))
        other.step(numbers(t))
    assert_same_bits(p, q)


@each_backend
@each_dtype
@loop("rate", [0.9, 0.5, 1 - 1e-9])
def test_16_bit_parameters_are_averaged_before_they_are_rounded(backend: Backend, dtype: DType, rate: float) -> None:
    """In the compute type; the weight of the new value keeps its digits where float32 would round the rate to one."""
    p = numbers(0, 50, dtype)
    opt = fo.SGD(p, lr=0.1, ema=rate, backend=backend)
    kind = compute_dtype(dtype)
    number = kind.type
    q, average = p.copy(), p.astype(kind)
    for t in range(6):
        g = numbers(t + 1, 50, dtype)
        opt.step(g)
        unrounded = q.astype(kind) - number(0.1) * g.astype(kind)
        average = average + number(1 - rate) * (unrounded - average)
        q = unrounded.astype(dtype)
        assert_same_bits(p, q)
        assert_same_bits(opt.state["average"], average, f"step {t + 1}")


@each_module
def test_a_float16_average_moves_where_the_parameter_can_not(module: Any) -> None:
    p, average = np.ones(1, np.float16), np.ones(1, np.float32)
    for t in range(1, 5):
        module.sgd(p, np.full(1, -1e-5), average, step=t, lr=1.0, ema=0.5)
    assert p[0] == 1
    assert 1 < average[0] < 1.00002


@each_backend
def test_the_rate_of_each_step_is_its_own(backend: Backend) -> None:
    p = numbers(0)
    opt: Any = fo.SGD(p, lr=0.1, ema=0.5, backend=backend)
    average = p.copy()
    for t, rate in enumerate((0.5, 0.9, 0.0, 0.99)):
        opt.ema = rate
        opt.step(numbers(t))
        average = rate * average + (1 - rate) * p
        np.testing.assert_allclose(opt.state["average"], average, rtol=1e-14)


@loop("t", [2**24, 2**25 + 1, 2**30, 2**53 - 1, 2**53, 2**53 + 3, 2**54 + 2, 2**62])
@loop("dtype", [FLOAT32, FLOAT64])
@loop("options", [{"swa_start": 1}, {"ema": 1 - 1e-9, "ema_debias": True, "ema_start": 9}])
def test_late_means_have_the_same_bits(t: int, dtype: DType, options: Options) -> None:
    """Where float32 would round the weight of the mean so far to one, and where float64 would."""
    averages = []
    for module in (fo.functional, fo.reference):
        p, average = numbers(0, 40, dtype), np.zeros(40, dtype)
        module.sgd(p, numbers(1, 40, dtype), average, step=t, lr=0.5, **options)
        averages.append(average)
    assert_same_bits(averages[0], averages[1])
    assert averages[0].any()


@each_backend
@one_of_each
def test_an_array_without_gradient_keeps_its_average_and_its_clock(backend: Backend, options: Options) -> None:
    p, q = numbers(0), numbers(1)
    opt = fo.Adam([p, q], **options, backend=backend)
    path = [q.copy()]
    for t, there in enumerate([False, True, True, False, True, True, True]):
        before = opt.state[1]["average"].copy()
        opt.step([numbers(t), numbers(t + 9) if there else None])
        if there:
            path.append(q.copy())
        else:
            assert_same_bits(opt.state[1]["average"], before)
        np.testing.assert_allclose(opt.state[1]["average"], naive(options, path), rtol=1e-12)


@each_backend
@one_of_each
def test_one_group_of_several_may_average(backend: Backend, options: Options) -> None:
    p, q = numbers(0), numbers(1)
    opt = fo.SGD([{"params": p, "lr": 0.1}, {"params": {"x": q}, **options}], lr=0.01, backend=backend)
    path = [q.copy()]
    for t in range(7):
        opt.step([numbers(t), {"x": numbers(t + 9)}])
        path.append(q.copy())
    assert opt.state[0] == {}
    np.testing.assert_allclose(opt.state[1]["x"]["average"], naive(options, path), rtol=1e-12)
    own = p.copy()
    with opt.averaged():
        assert_same_bits(p, own)
        assert_same_bits(q, opt.state[1]["x"]["average"])
    assert_same_bits(q, path[-1])


@each_backend
@loop(("switch", "options"), [(1, {"ema": 0.8}), (4, {"ema": 0.8}), (3, {"swa_start": 5, "swa_every": 2})])
def test_an_average_may_be_switched_on_later(backend: Backend, switch: int, options: Options) -> None:
    """It begins there, or where it starts."""
    p = numbers(0)
    opt = fo.Adam(p, backend=backend)
    path = [p.copy()]
    for t in range(9):
        if t == switch:
            opt.param_groups[0].update(options)
            path = [p.copy()] if "ema" in options else path
        opt.step(numbers(t))
        path.append(p.copy())
    np.testing.assert_allclose(opt.state["average"], naive(options, path), rtol=1e-13)


@each_backend
@loop("between", [{"ema": None}, {"ema": None, "swa_start": 9}])
def test_an_average_of_another_phase_starts_again(backend: Backend, between: Options) -> None:
    """A checkpoint of the phase without it has the average of the first phase, and changes nothing."""
    p = numbers(0)
    opt: Any = fo.Adam(p, ema=0.8, backend=backend)
    for t in range(2):
        opt.step(numbers(t))
    opt.param_groups[0].update(between)
    for t in range(2, 4):
        opt.step(numbers(t))
    opt.load_state_dict(opt.state_dict())
    path = [p.copy()]
    opt.param_groups[0].update(ema=0.8, swa_start=None)
    for t in range(4, 7):
        opt.step(numbers(t))
        path.append(p.copy())
    np.testing.assert_allclose(opt.state["average"], naive({"ema": 0.8}, path), rtol=1e-13)


@each_backend
@loop("late", [{"swa_start": 3}, {"swa_start": 5}, {"swa_every": 3}])
def test_a_mean_of_steps_that_are_past_is_rejected(backend: Backend, late: Options) -> None:
    p = numbers(0)
    first: Options = {"swa_start": 2} if "swa_every" in late else {}
    opt = fo.SGD(p, backend=backend, **first)
    for t in range(5):
        opt.step(numbers(t))
    before = p.copy()
    opt.param_groups[0].update(late)
    with pytest.raises(ValueError, match=r"^param_groups\[0\]: swa_start: expected a step after the 5 taken"):
        opt.step(numbers(5))
    assert_same_bits(p, before)
    opt.param_groups[0]["swa_start"] = 6
    opt.step(numbers(5))
    assert_same_bits(opt.state["average"], p)


# ---- refusals


@each_backend
@every_optimizer
def test_both_averages_are_rejected(optimizer: Optimizers, backend: Backend) -> None:
    with pytest.raises(ValueError, match="ema: expected None"):
        optimizer(np.ones(2), ema=0.5, swa_start=1, backend=backend)
    opt: Any = optimizer(np.ones(2), ema=0.5, backend=backend)
    opt.param_groups[0]["swa_start"] = 3
    with pytest.raises(ValueError, match=r"param_groups\[0\]: ema: expected None"):
        opt.step(np.ones(2))
    assert opt.step_count == 0


@loop(
    ("options", "error"),
    [
        *(({"ema": wrong}, ValueError) for wrong in (1.0, -0.1, math.nan)),
        ({"ema": "0.9"}, TypeError),
        ({"swa_start": 0}, ValueError),
        *(({"swa_start": wrong}, TypeError) for wrong in (1.0, True)),
        ({"swa_start": 1, "swa_every": 0}, ValueError),
        ({"swa_every": None}, TypeError),
    ],
)
def test_options_out_of_range(options: Options, error: type[Exception]) -> None:
    with pytest.raises(error, match=next(reversed(options))):
        fo.SGD(np.ones(2), **options)


@each_backend
def test_without_an_average_none_is_shown(backend: Backend) -> None:
    opt = fo.SGD(np.ones(2), backend=backend)
    with pytest.raises(ValueError, match="averaged: expected an optimizer with ema or swa_start"), opt.averaged():
        pytest.fail("the block was entered")
    opt.step(np.ones(2))


# ---- checkpoints


@every_optimizer
@one_of_each
@loop("first", ["native", "reference"])
@loop("made", [{}, {"ema": 0.25}, {"swa_start": 9}])
def test_a_checkpoint_continues(optimizer: Optimizers, options: Options, first: Backend, made: Options) -> None:
    """With identical bits, into an optimizer that was made to average in another way or not at all."""
    other: Backend = "reference" if first == "native" else "native"
    params = [numbers(0, 7, FLOAT32), numbers(1, 3, np.dtype(np.float16))]
    opt = optimizer(params, **options, backend=first)
    for t in range(3):
        opt.step([numbers(t, 7), None if t == 1 else numbers(t + 5, 3)])
    others = copy.deepcopy(params)
    fresh = optimizer(others, **made, backend=other)
    fresh.load_state_dict(pickle.loads(pickle.dumps(opt.state_dict())))
    for t in range(3, 7):
        for each in (opt, fresh):
            each.step([numbers(t, 7), numbers(t + 5, 3)])
    for p, q, a, b in zip(params, others, opt.state, fresh.state, strict=True):
        assert_same_bits(p, q)
        assert a.keys() == b.keys()
        assert_same_bits(a["average"], b["average"])
    with opt.averaged(), fresh.averaged():
        assert_same_bits(params[0], others[0])


@each_backend
def test_a_checkpoint_without_an_average_ends_it(backend: Backend) -> None:
    plain = fo.SGD(numbers(0), backend=backend)
    opt: Any = fo.SGD(numbers(0), ema=0.5, backend=backend)
    opt.load_state_dict(plain.state_dict())
    assert opt.ema is None
    assert opt.state == {}
    opt.step(numbers(1))


@each_backend
@loop(
    "spoil",
    [
        lambda state: state.pop("average"),
        lambda state: state.update(average=state["average"].astype(np.float32)),
        lambda state: state.update(average=state["average"][:2]),
        lambda state: state.update(average=state["average"].tolist()),
    ],
)
def test_a_wrong_average_is_rejected(backend: Backend, spoil: Callable[[dict[str, Any]], Any]) -> None:
    opt = fo.SGD(numbers(0), ema=0.5, backend=backend)
    opt.step(numbers(1))
    saved = opt.state_dict()
    before = opt.state["average"].copy()
    spoil(saved["arrays"][0]["state"])
    with pytest.raises(ValueError, match="state of params"):
        opt.load_state_dict(saved)
    assert_same_bits(opt.state["average"], before)


# ---- PyTorch


@each_backend
@loop("options", [options for options in AVERAGES if "ema_debias" not in options])
def test_the_averages_are_pytorch_s(backend: Backend, options: Options, torch: Any) -> None:
    swa_utils = torch.optim.swa_utils
    shapes = [(3, 4), (5,)]
    params = [numbers(i, math.prod(shape)).reshape(shape) for i, shape in enumerate(shapes)]
    model = torch.nn.ParameterList([torch.nn.Parameter(torch.tensor(p)) for p in params])
    rule = {"multi_avg_fn": swa_utils.get_ema_multi_avg_fn(options["ema"])} if "ema" in options else {}
    averaged = swa_utils.AveragedModel(model, **rule)
    if "ema" in options and "ema_start" not in options:
        averaged.update_parameters(model)  # the first update only copies
    ours = fo.SGD(params, lr=0.1, momentum=0.9, **options, backend=backend)
    theirs = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
    start = int(options.get("swa_start", 0) or options.get("ema_start", 1))
    every: int = options.get("swa_every", 1)
    for t in range(1, STEPS + 1):
        grads = [numbers(10 * t + i, math.prod(shape)).reshape(shape) for i, shape in enumerate(shapes)]
        for tensor, g in zip(model, grads, strict=True):
            tensor.grad = torch.from_numpy(g.copy())
        theirs.step()
        ours.step(grads)
        if t >= start and (t - start) % every == 0:
            averaged.update_parameters(model)
        if t >= start:
            with ours.averaged():
                for p, tensor in zip(params, averaged.parameters(), strict=True):
                    np.testing.assert_allclose(p, tensor.detach().numpy(), rtol=1e-11, err_msg=f"step {t}")
