"""Rules with sums: missing gradients, groups, schedules, zeros, formats, and state that is one number for an array."""

from __future__ import annotations

import copy
from itertools import product
from types import ModuleType
from typing import Any, get_args

import numpy as np
import pytest

import fastoptim as fo
from cases import FLOAT16, FLOAT32, FLOAT64, Array, DType, assert_same_bits
from group_oracles import assert_group_follows, floats, gradients, initial_params, oracle_for
from loops import loop
from models import Backend, each_backend, each_dtype, each_module, leaves
from oracles import STEPS, Options
from papers import test_lamb, test_lars, test_novograd, test_prodigy

MODULES: dict[type[fo.Optimizer], Any] = {
    fo.LARS: test_lars,
    fo.LAMB: test_lamb,
    fo.NovoGrad: test_novograd,
    fo.Prodigy: test_prodigy,
}
each_rule = pytest.mark.parametrize("optimizer", list(MODULES), ids=lambda cls: str(cls.name))


@each_rule
@each_backend
@loop("decoupled", [False, True])
def test_missing_gradients(optimizer: type[fo.Optimizer], backend: Backend, decoupled: bool) -> None:
    """At first, for a while, at random, and of all arrays at once."""
    at_random = np.random.default_rng(7).random(STEPS) < 0.7
    options: Options = {"weight_decay": 0.02, "decoupled": decoupled}

    def has_gradient(t: int, array: int) -> bool:
        return t != 30 and bool((t >= 5, at_random[t], not 40 <= t < 46)[array])

    assert_group_follows(optimizer, MODULES[optimizer].Oracle, options, backend, has_gradient)


@each_rule
@each_backend
def test_a_schedule(optimizer: type[fo.Optimizer], backend: Backend) -> None:
    """One whose first rate is 0."""
    assert_group_follows(optimizer, MODULES[optimizer].Oracle, {}, backend, rate=lambda step: 0.01 * (step % 5))


@pytest.mark.parametrize("optimizer", [cls for cls in MODULES if not cls.reduces_all], ids=lambda cls: str(cls.name))
@each_backend
def test_groups_have_sums_of_their_own(optimizer: type[fo.Optimizer], backend: Backend) -> None:
    own: list[Options] = [{"weight_decay": 0.1}, {"lr": 0.5 * optimizer.defaults["lr"]}]
    params = [initial_params(), [np.asarray(2 * p) for p in initial_params()]]
    opt = optimizer([{"params": p, **o} for p, o in zip(params, own, strict=True)], backend=backend)
    oracles = [oracle_for(optimizer, MODULES[optimizer].Oracle, p, o) for p, o in zip(params, own, strict=True)]
    for t in range(40):
        grads = [gradients(t), gradients(t + 1000)]
        opt.step(grads)
        for oracle, of_group in zip(oracles, grads, strict=True):
            oracle.step([floats(g) for g in of_group])
    for group, oracle in zip(params, oracles, strict=True):
        for array, expected in zip(group, oracle.params, strict=True):
            np.testing.assert_allclose(array.reshape(-1), expected, rtol=1e-10)


# ---- zeros and formats


@each_backend
@each_dtype
@each_rule
def test_zeros_make_no_nan(optimizer: type[fo.Optimizer], dtype: DType, backend: Backend) -> None:
    """Zero parameters, zero gradients and both; then an ordinary step."""
    for options, (p_at, g_at) in product(MODULES[optimizer].SETTINGS, ((0, 0), (0, 1), (1, 0))):
        params = [np.full((4, 3), p_at, dtype), np.full((), p_at, dtype), np.zeros((0,), dtype)]
        opt = optimizer(params, **options, backend=backend)
        for g in (g_at, 0, 0, 1):
            opt.step([np.full(p.shape, g, dtype) for p in params])
            numbers = [*params, *(array for state in opt.state for array in state.values())]
            assert all(np.isfinite(array).all() for array in numbers), (p_at, g_at, g)


@each_backend
@each_rule
@loop(("dtype", "rtol"), [(FLOAT32, 2e-4), (FLOAT16, 0.03)])
def test_lower_precision_goes_the_same_way(
    optimizer: type[fo.Optimizer], backend: Backend, dtype: DType, rtol: float
) -> None:
    for options in MODULES[optimizer].SETTINGS:
        if optimizer is fo.Prodigy:  # it measures how far p has come, which is nothing in steps of 1e-6
            options = options | {"d0": 0.05}
        wide, narrow = initial_params(), [p.astype(dtype) for p in initial_params()]
        opt, other = optimizer(wide, **options), optimizer(narrow, **options, backend=backend)
        for t in range(20):
            opt.step(gradients(t))
            other.step([g.astype(dtype) for g in gradients(t)])
        for p, expected in zip(narrow, wide, strict=True):
            np.testing.assert_allclose(p.astype(FLOAT64), expected, rtol=rtol, atol=rtol * max(1, abs(expected).max()))


# ---- state that is a number

SCALARS = [(cls, name) for cls in MODULES for name in cls.state if cls.state_schema[name].is_scalar]
each_scalar = loop(("optimizer", "name"), SCALARS)


def test_the_state_numbers_are_these() -> None:
    assert [(cls.name, name) for cls, name in SCALARS] == [
        ("novograd", "v"),
        *(("prodigy", name) for name in ("d", "d_max", "d_numerator")),
    ]


@each_backend
@each_dtype
@each_scalar
def test_a_number_is_a_live_float64_array(
    optimizer: type[fo.Optimizer], name: str, backend: Backend, dtype: DType
) -> None:
    options: Options = {"d0": 0.25} if optimizer is fo.Prodigy else {}
    opt = optimizer({"w": np.ones((2, 3), dtype)}, **options, backend=backend)
    number = opt.state["w"][name]
    assert (number.shape, number.dtype) == ((), np.float64)
    before = float(number)
    for _ in range(3):
        opt.step({"w": np.full((2, 3), 0.5, dtype)})
    assert float(number) != before
    assert_same_bits(opt.state_dict()["arrays"][0]["state"][name], number)
    number[...] = 0.125
    assert float(opt.state_dict()["arrays"][0]["state"][name]) == 0.125


@each_backend
@each_scalar
@loop("wrong", [np.zeros(1), np.zeros((), np.float32), 0.5, np.float64(0.5), None, np.zeros((2, 3))])
def test_a_wrong_number_is_not_loaded(optimizer: type[fo.Optimizer], name: str, backend: Backend, wrong: Any) -> None:
    opt = optimizer(np.ones((2, 3)), backend=backend)
    opt.step(np.ones((2, 3)))
    saved = opt.state_dict()
    before = copy.deepcopy(opt.state)
    saved["arrays"][0]["state"][name] = wrong
    with pytest.raises(ValueError, match=f"expected '{name}' as float64 of shape"):
        opt.load_state_dict(saved)
    for key, array in opt.state.items():
        assert_same_bits(array, before[key])


WRONG_NUMBERS: list[tuple[Any, type[Exception], str]] = [
    (np.zeros(1), ValueError, r"expected shape \(\), one number for the whole array, got \(1,\)"),
    (np.zeros((), np.float32), TypeError, "expected float64, got float32"),
    (np.zeros((), np.int64), TypeError, "expected dtype"),
    (0.5, TypeError, "expected a NumPy array, got float"),
    (np.float64(0.5), TypeError, "expected a NumPy array, got numpy.float64"),
    (np.zeros((2, 3)), ValueError, "expected shape"),
    (np.broadcast_to(np.float64(1), ()), ValueError, "expected a writeable array"),
]


@each_module
@each_scalar
@loop("wrong", WRONG_NUMBERS)
def test_a_function_rejects_a_wrong_number(
    optimizer: type[fo.Optimizer], name: str, module: ModuleType, wrong: tuple[Any, type[Exception], str]
) -> None:
    p = np.ones((2, 3), np.float32)
    state = {key: array.copy() for key, array in optimizer(p.copy()).state.items()}
    before = [array.tobytes() for array in (p, *state.values())]
    thing, error, message = wrong
    with pytest.raises(error, match=f"{name}.*{message}"):
        getattr(module, optimizer.name)(p, np.ones((2, 3)), *(state | {name: thing}).values(), step=1)
    assert [array.tobytes() for array in (p, *state.values())] == before
    assert getattr(module, optimizer.name)(p, np.ones((2, 3)), *state.values(), step=1) is None


@each_module
@each_scalar
def test_a_number_has_memory_of_its_own(optimizer: type[fo.Optimizer], name: str, module: ModuleType) -> None:
    p = np.ones((2, 3))
    state = {key: array.copy() for key, array in optimizer(p.copy()).state.items()}
    own: Array = p[1:, 1:2].reshape(())
    with pytest.raises(ValueError, match=r"overlaps|is the same memory"):
        getattr(module, optimizer.name)(p, np.ones((2, 3)), *(state | {name: own}).values(), step=1)
    assert (p == 1).all()


@each_module
@each_rule
def test_functions_keep_the_numbers_bits(optimizer: type[fo.Optimizer], module: ModuleType) -> None:
    """Whole runs by the caller's buffers and by the class."""
    p, q = initial_params()[0], initial_params()[0]
    opt = optimizer(q)
    state = [array.copy() for array in opt.state.values()]
    for t in range(1, 30):
        getattr(module, optimizer.name)(p, gradients(t)[0], *state, step=t)
        opt.step(gradients(t)[0])
    for found, expected in zip([p, *state], [q, *leaves(list(opt.state.values()))], strict=True):
        assert_same_bits(found, expected)


@loop("threads", [1, 2])
@loop("options", [{}, {"betas": (0.15, 0.4)}, {"cautious": True}])
@each_rule
def test_batches_of_arrays_have_the_references_bits(
    optimizer: type[fo.Optimizer], options: Options, threads: int
) -> None:
    """Arrays of a batch and more, small ones between them, and some without a gradient; rates below 0.5 round."""
    fo.set_num_threads(threads)
    options = {name: value for name, value in options.items() if name in optimizer.defaults}
    sizes = [140_000, 3, 70_000, 70_000, 0, 11, 300_000, 1]
    found: dict[Backend, fo.Optimizer] = {}
    for backend in get_args(Backend):
        rng = np.random.default_rng(0)
        params = [rng.standard_normal(size, np.float32) for size in sizes]
        opt = found[backend] = optimizer(params, **options, backend=backend)
        for step in range(3):
            grads = [rng.standard_normal(size, np.float32) for size in sizes]
            opt.step([None if i == step else g for i, g in enumerate(grads)])
    native, reference = found.values()
    for ours, theirs in zip(native.param_states, reference.param_states, strict=True):
        assert_same_bits(ours.p, theirs.p, ours.place)
        for name in ours.state:
            assert_same_bits(ours.state[name], theirs.state[name], f"{ours.place} {name}")
