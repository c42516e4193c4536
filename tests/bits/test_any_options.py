"""Check that native code equals the NumPy reference bit for bit whatever the options and the step number."""

from __future__ import annotations

from math import inf, nan, nextafter
from typing import Any

import numpy as np
import pytest

import fastoptim as fo
from cases import DTYPES, Case, DType, assert_same_bits
from fastoptim.options.checks import range_of
from fastoptim.reference_math import compute_dtype
from loops import each_isa, loop
from random_cases import outcome, random_array, random_case, random_option

STEPS = 4


def check_steps(case: Case, rng: np.random.Generator, dtype: DType) -> None:
    """Take some steps with each backend, and compare after each."""
    p = [random_array(rng, dtype), random_array(rng, dtype)[:7]]
    native, reference = (case.optimize([a.copy() for a in p], backend) for backend in ("native", "reference"))
    for t in range(1, STEPS + 1):
        grads = [random_array(rng, dtype), None if rng.random() < 0.2 else random_array(rng, dtype)[:7]]
        assert outcome(native.step, grads) == outcome(reference.step, grads)
        for i in range(2):
            place = f"array {i} after step {t} in {dtype}"
            assert_same_bits(native.params[i], reference.params[i], f"{place}: p")
            own, other = native.param_states[i].state, reference.param_states[i].state
            assert own.keys() == other.keys()
            for name in own:
                assert_same_bits(own[name], other[name], f"{place}: {name}")


def is_for_functions(case: Case) -> bool:
    """Return whether the case has no option of storage."""
    settings = case.optimizer.check_options(case.options)
    return not settings.extra_bits and settings.options["state_format"] == "native"


def check_late_step(case: Case, rng: np.random.Generator, dtype: DType) -> None:
    """Take one step with any number from any state."""
    if not is_for_functions(case):
        return
    t = int(2 ** rng.uniform(0, 62.9))
    arrays = [random_array(rng, dtype), random_array(rng, dtype)]
    arrays += case.make_state(lambda: np.abs(random_array(rng, compute_dtype(dtype))))  # a negative one has no root
    wanted = [array.copy() for array in arrays]
    found = outcome(case.update, fo.functional, arrays[0], arrays[1], arrays[2:], t)
    assert found == outcome(case.update, fo.reference, wanted[0], wanted[1], wanted[2:], t)
    for name, array, want in zip(("p", "g", *case.state), arrays, wanted, strict=True):
        assert_same_bits(array, want, f"{name} at step {t} in {dtype}")


def check_many(name: str, seed: int, count: int) -> None:
    rng = np.random.default_rng([seed, *name.encode()])
    for i in range(count):
        case = random_case(rng, fo.OPTIMIZERS[name])
        try:
            check_steps(case, rng, DTYPES[i % 4])
            check_late_step(case, rng, DTYPES[i % 4])
        except BaseException:
            print(f"failed with case = {case.id}")
            raise


@pytest.mark.parametrize("name", fo.OPTIMIZERS)
def test_a_function_reads_numbers_at_each_call(name: str) -> None:
    """The options of earlier calls are kept, but not their numbers: those of each call count, or are refused."""
    rng, optimizer = np.random.default_rng([3, *name.encode()]), fo.OPTIMIZERS[name]
    first, dtype = random_case(rng, optimizer), np.dtype(np.float32)
    while not is_for_functions(first):
        first = random_case(rng, optimizer)
    start = [random_array(rng, dtype), random_array(rng, dtype)]
    start += first.make_state(lambda: np.abs(random_array(rng, dtype)))
    options = first.options
    for t in range(1, 60):
        changed = str(rng.choice(list(optimizer.defaults)))
        value = default = optimizer.defaults[changed]
        if rng.random() < 0.7:
            value = random_option(rng, optimizer.annotations[changed], default)
        case = Case(optimizer, {**options, changed: value}, "")
        arrays, wanted = ([array.copy() for array in start] for _ in range(2))
        try:
            if case.state != first.state or not is_for_functions(case):
                continue
        except ValueError:  # options that exclude each other
            with pytest.raises(ValueError, match="expected"):
                case.update(fo.functional, arrays[0], arrays[1], arrays[2:], t)
            continue
        options = case.options
        found = outcome(case.update, fo.functional, arrays[0], arrays[1], arrays[2:], t)
        assert found == outcome(case.update, fo.reference, wanted[0], wanted[1], wanted[2:], t)
        for array, want in zip(arrays, wanted, strict=True):
            assert_same_bits(array, want, f"{changed} = {value} at step {t}")


@pytest.mark.parametrize("name", fo.OPTIMIZERS)
def test_a_function_refuses_wrong_numbers(name: str) -> None:
    """An earlier call with a right value of the same option makes no difference."""
    optimizer = fo.OPTIMIZERS[name]
    p = np.ones(3)
    arrays = [p, np.ones(3), *optimizer(p).state.values()]
    update = getattr(fo.functional, name)
    for option, default in optimizer.defaults.items():
        allowed = range_of(optimizer.annotations[option])
        if allowed is None:
            continue
        update(*arrays, step=1, **{option: default})
        before = [array.copy() for array in arrays]
        low, high = allowed.closed
        wrong: list[Any] = [nextafter(low, -inf), nextafter(high, inf), nan, -inf, inf, None, True, "1", ()]
        if isinstance(default, tuple):
            wrong = [*((*default[:-1], value) for value in wrong), default[0], default[:1], (), (*default, 0.5)]
        else:
            wrong.append((default,))
        for bad in wrong:
            with pytest.raises((TypeError, ValueError), match=rf"^{option}(\[\d\])?: expected "):
                update(*arrays, step=2, **{option: bad})
        for array, old in zip(arrays, before, strict=True):
            assert_same_bits(array, old, option)


@pytest.mark.parametrize("name", fo.OPTIMIZERS)
def test_any_options(name: str) -> None:
    check_many(name, 2, 12)


@pytest.mark.exhaustive
@pytest.mark.parametrize("name", fo.OPTIMIZERS)
@loop("seed", range(5))
@each_isa
def test_any_options_at_length(name: str, seed: int) -> None:
    check_many(name, seed, 100)
