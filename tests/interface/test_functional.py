"""The functions on the caller's buffers, against the classes; and that each backend computes by itself."""

from __future__ import annotations

import inspect
import math
import pickle
import pydoc
import weakref
from concurrent.futures import ThreadPoolExecutor
from types import ModuleType
from typing import Annotated, Any, NoReturn

import numpy as np
import pytest

import fastoptim as fo
from cases import (
    BFLOAT16,
    CASES,
    FLOAT32,
    FLOAT64,
    Array,
    Case,
    DType,
    assert_same_bits,
    ordinary_values,
)
from fastoptim import core, functional
from fastoptim.engines import native, reference
from fastoptim.optimizer.base import FACTORED_OPTIMIZERS, MATRIX_OPTIMIZERS
from fastoptim.options.checks import Range
from loops import each_case, loop
from models import each_dtype, each_module, every_variant

OPTIMIZERS = list(fo.OPTIMIZERS.values())

every_optimizer = pytest.mark.parametrize("optimizer", OPTIMIZERS, ids=lambda cls: str(cls.name))


def numbers(seed: int, dtype: DType = FLOAT32) -> Array:
    return ordinary_values(np.random.default_rng(seed), dtype, 7)


def initial_state(case: Case, p: Array) -> dict[str, Array]:
    return {name: array.copy() for name, array in case.optimize(p.copy()).state.items()}


def check_follows(case: Case, module: ModuleType, dtype: DType) -> None:
    """Several steps by the function and by the class: parameter and state have the same bits after each."""
    p, q = numbers(0, dtype), numbers(0, dtype)
    opt, state = case.optimize(q), initial_state(case, p)
    for t in range(1, 5):
        g = numbers(t, dtype)
        taken = case.update(module, p, g, list(state.values()), t)
        assert taken is opt.step(g)
        assert taken is (True if case.skips else None)
        assert_same_bits(p, q, f"step {t}")
        for name, array in state.items():
            assert_same_bits(array, opt.state[name], f"step {t}: {name}")


@each_case(CASES)
def test_a_function_does_what_the_class_does(case: Case) -> None:
    check_follows(case, fo.functional, FLOAT32)


@every_variant
@each_module
@each_dtype
def test_in_every_dtype(case: Case, module: ModuleType, dtype: DType) -> None:
    check_follows(case, module, dtype)


@every_optimizer
@each_module
def test_the_defaults_are_the_class_s(optimizer: type[fo.Optimizer], module: ModuleType) -> None:
    p, q = numbers(0), numbers(0)
    opt = optimizer(q)
    opt.step(numbers(1))
    state = [array.copy() for array in optimizer(p.copy()).state.values()]
    assert getattr(module, optimizer.name)(p, numbers(1), *state, step=1) is None
    assert_same_bits(p, q)


def unused_state(case: Case, name: str) -> Array:
    return case.as_state(name, numbers(9))


@every_variant
@each_module
def test_state_that_the_options_do_not_use_may_be_left_out(case: Case, module: ModuleType) -> None:
    """Or passed, in its place among the others: it is not touched."""
    p, q = numbers(0), numbers(0)
    used = initial_state(case, p)
    every = {name: unused_state(case, name) for name in case.every_state} | {k: v.copy() for k, v in used.items()}
    unused = {name: array.copy() for name, array in every.items() if name not in used}
    for t in (1, 2, 3):
        case.update(module, p, numbers(t), list(used.values()), t)
        case.update(module, q, numbers(t), [every[name] for name in case.every_state], t)
    assert_same_bits(q, p)
    for name, array in every.items():
        assert_same_bits(array, used[name] if name in used else unused[name], name)


@every_variant
@each_module
def test_the_caller_s_buffers_are_written_and_no_others(case: Case, module: ModuleType) -> None:
    p, g = numbers(0), numbers(1)
    state = initial_state(case, p)
    before = [g.tobytes(), p.tobytes(), *(array.tobytes() for array in state.values())]
    g.flags.writeable = False
    case.update(module, p, g, list(state.values()), 3)
    after = [g.tobytes(), p.tobytes(), *(array.tobytes() for array in state.values())]
    assert after[0] == before[0]
    changed = [name for name, old, new in zip(state, before[2:], after[2:], strict=True) if old != new]
    assert set(case.written) <= set(changed)


@every_optimizer
@each_module
def test_a_rate_may_be_a_function_of_the_step_from_zero(optimizer: type[fo.Optimizer], module: ModuleType) -> None:
    asked: list[int] = []

    def rate(step: int) -> float:
        asked.append(step)
        return 0.5 / (1 + step)

    update = getattr(module, optimizer.name)
    results = []
    for lr in (rate, 0.125):
        p = numbers(0)
        update(p, numbers(1), *initial_state(Case(optimizer, dict(optimizer.defaults), ""), p).values(), step=4, lr=lr)
        results.append(p)
    assert asked == [3]
    assert_same_bits(results[0], results[1])


@every_optimizer
@each_module
@loop("step", [np.int32(3), np.uint8(3)])
def test_a_step_may_be_any_integer(optimizer: type[fo.Optimizer], module: ModuleType, step: Any) -> None:
    update = getattr(module, optimizer.name)
    results = []
    for t in (step, 3):
        p = numbers(0)
        update(p, numbers(1), *initial_state(Case(optimizer, dict(optimizer.defaults), ""), p).values(), step=t)
        results.append(p)
    assert_same_bits(results[0], results[1])


@every_variant
@loop("step", [10**6, 2**31, 2**32 + 1, 2**53 + 1, 2**62])
def test_late_steps(case: Case, step: int) -> None:
    p, q = numbers(0, FLOAT64), numbers(0, FLOAT64)
    state, same = initial_state(case, p), initial_state(case, q)
    case.update(fo.functional, p, numbers(1, FLOAT64), list(state.values()), step)
    case.update(fo.reference, q, numbers(1, FLOAT64), list(same.values()), step)
    assert_same_bits(p, q)
    assert np.isfinite(p).all()


@every_variant
@each_module
@loop("shape", [(), (0,), (3, 0), (2, 3)])
def test_shapes(case: Case, module: ModuleType, shape: tuple[int, ...]) -> None:
    p, q = np.full(shape, 1.5), np.full(1, 1.5)
    state, same = initial_state(case, p), initial_state(case, q)
    case.update(module, p, np.full(shape, 0.25), list(state.values()), 2)
    case.update(module, q, np.full(1, 0.25), list(same.values()), 2)
    assert p.shape == shape
    if case.elementwise:
        assert_same_bits(p.reshape(-1), np.repeat(q, p.size))


@every_optimizer
@each_module
def test_a_gradient_in_another_order_is_copied(optimizer: type[fo.Optimizer], module: ModuleType) -> None:
    g = np.arange(24.0).reshape(4, 6)[:, ::2] - 10
    results = []
    for grad in (g, g.copy(), np.asfortranarray(g)):
        p = np.ones((4, 3))
        state = initial_state(Case(optimizer, dict(optimizer.defaults), ""), p)
        getattr(module, optimizer.name)(p, grad, *state.values(), step=1)
        results.append(p)
    assert_same_bits(results[0], results[1])
    assert_same_bits(results[2], results[1])


# ---- the fast path


@pytest.fixture
def fast_path_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    native.register_dtypes()
    monkeypatch.setattr(functional, "_update", refuse)


@every_variant
@loop("dtype", [BFLOAT16, FLOAT64])
def test_ordinary_arrays_take_the_fast_path(case: Case, dtype: DType, fast_path_alone: None) -> None:
    """With new options or known ones, other rates, arrays and shapes, and also state that the options do not use."""
    update = getattr(fo.functional, case.optimizer.name)
    for t, shape in enumerate([(7,), (2, 3), (), (0,)], 1):
        p, g = np.full(shape, 1.5, dtype), np.full(shape, 0.5, dtype)
        state = case.optimize(p.copy()).state
        unused = {name: case.optimizer.first_state(name, p, case.options) for name in case.every_state}
        for arrays in (state, unused | state):
            for lr in (case.options["lr"], 0.25, np.float64(0.5), 1, lambda step: 0.1 / (1 + step)):
                update(p, g, *arrays.values(), step=t, **(case.options | {"lr": lr}))


GRADIENTS_IN_ANY_ORDER = [
    np.arange(12.0).reshape(3, 4).T,
    np.arange(24.0).reshape(4, 6)[:, ::2],
    np.arange(12.0, dtype=np.float32).reshape(4, 3)[::-1, ::-1],
    np.broadcast_to(np.arange(3.0), (4, 3)),
]


@loop("g", GRADIENTS_IN_ANY_ORDER)
def test_gradients_in_any_order_take_the_fast_path(g: Array, fast_path_alone: None) -> None:
    for p in (np.zeros((4, 3)), np.zeros((3, 4)).T):
        fo.functional.sgd(p, g, step=1, lr=1.0)
        assert_same_bits(p, 0 - g.astype(np.float64))


@each_module
def test_a_strided_gradient_within_the_parameter_is_refused(module: ModuleType) -> None:
    square = np.arange(9.0).reshape(3, 3)
    before = square.copy()
    for g in (square.T, square[::-1], np.broadcast_to(square[1, 1:2], (3, 3))):
        with pytest.raises(ValueError, match=r"^g: overlaps p"):
            module.sgd(square, g, step=1, lr=1.0)
    assert_same_bits(square, before)


def test_a_number_as_gradient_takes_the_fast_path(fast_path_alone: None) -> None:
    p = np.ones(())
    fo.functional.sgd(p, np.float64(0.5), step=1, lr=1.0)
    assert p == 0.5


def test_a_rate_or_scale_of_one_call_does_not_outlive_it() -> None:
    """The second call has the defaults again, whatever the call before has passed."""
    for given in ({"lr": 0.5}, {"grad_scale": 4.0}, {"grad_scale": np.array(4.0)}, {"lr": lambda step: 0.5}):
        results = []
        for options in (given, {}):
            fo.functional.sgd(np.ones(3), np.ones(3), step=1, dampening=0.25, **options)
            results.append(np.ones(3))
            fo.functional.sgd(results[-1], np.ones(3), step=1, dampening=0.25)
        assert_same_bits(results[0], results[1])
        assert_same_bits(results[0], np.full(3, 1 - fo.SGD.defaults["lr"]))


class Converted(float):
    """A number whose conversion is its own."""

    def __float__(self) -> float:
        return 0.75


@each_module
def test_numbers_of_other_kinds_mean_what_they_convert_to(module: ModuleType) -> None:
    """In every call alike."""
    results = []
    for value in (0.75, Converted(0.25), np.float64(0.75), np.float32(0.75), np.array(0.75)):
        p = np.ones(3)
        for t in (1, 2):
            module.sgd(p, np.ones(3), step=t, lr=value)
        results.append(p)
        if not isinstance(value, np.ndarray):
            module.adam(p, np.ones(3), np.zeros(3), np.zeros(3), step=1, eps=value, betas=(value, 0.5))
            module.adam(p, np.ones(3), np.zeros(3), np.zeros(3), step=1, eps=value, betas=(value, 0.5))
    for p in results[1:-1]:
        assert_same_bits(p, results[0])
    assert_same_bits(results[-1], np.full(3, -0.5))


@each_module
def test_an_integer_too_large_for_a_float_is_refused(module: ModuleType) -> None:
    """A range that contains -1 makes no difference."""

    class Shifted(fo.LaProp):
        name = "shifted"
        eps: Annotated[float, Range(-1, 1)] = 0.5

    update = getattr(module, Shifted.name)
    del fo.OPTIMIZERS[Shifted.name]
    arrays = [np.ones(1), np.ones(1), np.zeros(1), np.zeros(1)]
    update(*arrays, step=1, eps=0.5)
    before = [array.copy() for array in arrays]
    for value in (10**400, -(10**400)):
        with pytest.raises(ValueError, match=r"^eps: expected a number"):
            update(*arrays, step=2, eps=value)
    for array, old in zip(arrays, before, strict=True):
        assert_same_bits(array, old)


@every_optimizer
def test_a_subclass_may_have_a_name_of_its_own(optimizer: type[fo.Optimizer]) -> None:
    own: Any = type("Own", (optimizer,), {"__module__": __name__})
    p, q = numbers(0), numbers(0)
    own.name = "own"
    own(p).step(numbers(1))
    optimizer(q).step(numbers(1))
    assert_same_bits(p, q)


@every_optimizer
def test_no_array_is_kept(optimizer: type[fo.Optimizer]) -> None:
    p, g = numbers(0), numbers(1)
    scale = np.array(2.0)
    arrays = [p, g, scale, *initial_state(Case(optimizer, dict(optimizer.defaults), ""), p).values()]
    for _ in range(2):
        getattr(fo.functional, optimizer.name)(p, g, *arrays[3:], step=1, grad_scale=scale)
    alive = [weakref.ref(array) for array in arrays]
    del p, g, scale, arrays
    assert [ref for ref in alive if ref() is not None] == []


WRONG_AFTER: dict[str, tuple[Any, list[Any]]] = {
    "maximize": (True, [1, "True", None]),
    "swa_every": (1, [1.0, True, 0]),
    "weight_decay": (0.0, [False, -1.0, math.nan]),
    "lr": (0.5, [True, -1.0, -1, math.nan, math.inf, "0.5", None]),
    "grad_scale": (1.0, [True, -1.0, 0.0, math.nan, math.inf, np.array(0.0), np.ones(2)]),
}


@every_optimizer
@loop("option", WRONG_AFTER)
def test_a_call_like_the_one_before_is_checked(optimizer: type[fo.Optimizer], option: str) -> None:
    """Values are compared by type and not by == alone, as 1 == 1.0 == True."""
    right, wrong = WRONG_AFTER[option]
    p, update = numbers(0), getattr(fo.functional, optimizer.name)
    state = initial_state(Case(optimizer, dict(optimizer.defaults), ""), p).values()
    update(p, numbers(1), *state, step=1, **{option: right})
    before = p.copy()
    for value in wrong:
        with pytest.raises((TypeError, ValueError), match=f"{option}: expected"):
            update(p, numbers(1), *state, step=1, **{option: value})
    assert_same_bits(p, before)


def test_more_option_sets_than_are_kept() -> None:
    for i in [*range(functional.MAX_OPTION_SETS + 3), 0, 1]:
        p = np.ones(3)
        fo.functional.sgd(p, np.ones(3), step=1, lr=0.5, l1=float(i))
        assert_same_bits(p, np.full(3, 1 - 0.5 * (1 + i)))


def test_threads_may_call_one_function_with_different_options() -> None:
    def train(i: int) -> Array:
        p, m, v = np.ones(33), np.zeros(33), np.zeros(33)
        for t in range(1, 300):
            fo.functional.adam(p, np.sin(p + t), m, v, step=t, lr=0.01, weight_decay=0.001 * (i % 11), l1=0.1 * (t % 2))
        return p

    with ThreadPoolExecutor(4) as pool:
        for i, p in enumerate(pool.map(train, range(22))):
            assert_same_bits(p, train(i))


# ---- what one sees of a function


@every_optimizer
@each_module
def test_a_function_tells_what_it_is(optimizer: type[fo.Optimizer], module: ModuleType) -> None:
    update = getattr(module, optimizer.name)
    assert callable(update)
    assert update.__name__ == update.__qualname__ == optimizer.name
    assert update.__module__ == module.__name__
    assert update.__doc__ == optimizer.__doc__
    text = "".join(pydoc.plain(pydoc.render_doc(update)).split())  # Python 3.13 wraps long signatures
    assert f"{optimizer.name}(p,g,/,*state,step,lr=" in text


@every_optimizer
@each_module
def test_a_function_s_signature_has_every_option(optimizer: type[fo.Optimizer], module: ModuleType) -> None:
    p, g, state, step, *options = inspect.signature(getattr(module, optimizer.name)).parameters.values()
    assert (p.name, g.name, state.name, step.name) == ("p", "g", "state", "step")
    assert state.kind is inspect.Parameter.VAR_POSITIONAL
    assert step.default is inspect.Parameter.empty
    own = {option.name: option.default for option in options if option.name != "convention"}
    assert own == optimizer.defaults
    assert {option.kind for option in (step, *options)} == {inspect.Parameter.KEYWORD_ONLY}


@every_optimizer
@each_module
def test_a_function_is_always_the_same_object(optimizer: type[fo.Optimizer], module: ModuleType) -> None:
    """Functions are pickled by name, so that they can be sent to another process."""
    update = getattr(module, optimizer.name)
    assert getattr(module, optimizer.name) is update
    assert pickle.loads(pickle.dumps(update)) is update


@each_module
def test_the_modules_list_every_optimizer(module: ModuleType) -> None:
    assert [name for name in dir(module) if not name.startswith("__")] == module.__all__
    assert module.__all__ == sorted({**fo.OPTIMIZERS, **MATRIX_OPTIMIZERS, **FACTORED_OPTIMIZERS})


@each_module
@loop("name", ["adamax_", "Adam", "__path__", ""])
def test_an_unknown_name_is_no_attribute(module: ModuleType, name: str) -> None:
    assert not hasattr(module, name)
    with pytest.raises(AttributeError, match=f"{module.__name__}.*{name}"):
        getattr(module, name)


# ---- which code computes


def refuse(*_: Any, **__: Any) -> NoReturn:
    raise AssertionError("this backend was not asked for")


@every_variant
def test_the_reference_runs_no_compiled_code(case: Case, monkeypatch: pytest.MonkeyPatch) -> None:
    for owner, name in ((native.Engine, "__init__"), (native.Engine, "step"), (core, "Model"), (core, "UpdateConfig")):
        monkeypatch.setattr(owner, name, refuse)
    p = numbers(0)
    case.optimize(p, "reference").step(numbers(1))
    case.update(fo.reference, p, numbers(2), list(initial_state(case, p).values()), 1)
    with pytest.raises(AssertionError, match="not asked for"):
        case.optimize(p, "native").step(numbers(1))


@every_variant
def test_native_code_does_without_the_reference(case: Case, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(case.optimizer, "reference", refuse)
    monkeypatch.setattr(reference, "_step", refuse)
    p = numbers(0)
    case.optimize(p, "native").step(numbers(1))
    case.update(fo.functional, p, numbers(2), list(initial_state(case, p).values()), 1)
    with pytest.raises(AssertionError, match="not asked for"):
        case.optimize(p, "reference").step(numbers(1))
