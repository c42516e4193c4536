"""Check that native code equals the NumPy reference bit for bit whatever the options and the step number.

Options are drawn from the whole range that their annotations allow: ordinary and extreme rates, decay rates from 0 to
one rounding below 1, both values of every flag, and every shared option.  A rule of a new optimizer is included.
"""

from __future__ import annotations

from collections.abc import Callable
from math import inf, isfinite, nan, nextafter
from typing import Annotated, Any, Literal, get_args, get_origin

import numpy as np
import pytest

import fastoptim as fo
from cases import DTYPES, Array, Case, DType, assert_same_bits, random_values, special_values
from fastoptim.options.checks import OneOf, Range, may_be_none, range_of
from fastoptim.reference_math import compute_dtype
from loops import each_isa, loop

SIZE = 70  # a vector of each width, and a tail
STEPS = 4
DECADES = ((-323, 308), (-30, 10), (-6, 0), (-1, 0))  # of numbers without an upper bound


def random_number(rng: np.random.Generator, allowed: Range, default: Any) -> float:
    """Draw a number that is ordinary, extreme or close to an end of its range."""
    if not isfinite(allowed.high):
        drawn = [default or 0.0, allowed.low, *(10.0 ** rng.uniform(low, high) for low, high in DECADES)]
    else:
        low, width = allowed.low, allowed.high - allowed.low
        high = nextafter(allowed.high, low) if allowed.below else allowed.high
        near = min(float(10.0 ** rng.uniform(-17, 0)), 1.0)
        drawn = [low, high, low + width * float(rng.random()), low + width * near, allowed.high - width * near]
        drawn = [min(max(number, low), high) for number in drawn]
    number = float(drawn[rng.integers(len(drawn))])
    return number if allowed.low < number or not allowed.above else nextafter(allowed.low, inf)


def random_option(rng: np.random.Generator, annotation: Any, default: Any) -> Any:
    """Draw a value that the annotation of an option allows."""
    args = get_args(annotation)
    if may_be_none(annotation):
        return None if rng.random() < 0.5 else random_option(rng, args[0], default)
    if annotation is bool:
        return bool(rng.integers(2))
    if get_origin(annotation) is Literal:
        return args[rng.integers(len(args))]
    if get_origin(annotation) is tuple:
        return tuple(random_option(rng, part, own) for part, own in zip(args, default, strict=True))
    assert get_origin(annotation) is Annotated, f"no values are known for {annotation!r}"
    if isinstance(args[1], OneOf):
        return args[1].numbers[rng.integers(len(args[1].numbers))]
    if args[0] is int:
        low, high = args[1].low, args[1].high
        return int(min(low + int(2 ** rng.uniform(0, 62)), high)) if rng.random() < 0.3 else low + int(rng.integers(4))
    return random_number(rng, args[1], default)


def random_case(rng: np.random.Generator, optimizer: type[fo.Optimizer]) -> Case:
    """Draw options that are valid together; each shared one is more often at its default."""
    while True:
        options = {
            name: default
            if name in optimizer.shared and rng.random() < 0.6
            else random_option(rng, optimizer.annotations[name], default)
            for name, default in optimizer.defaults.items()
        }
        try:
            checked = optimizer.check_options(options).options
        except ValueError:
            continue
        return Case(optimizer, dict(checked), f"{optimizer.name} with {options}")


def random_array(rng: np.random.Generator, dtype: DType) -> Array:
    """Draw ordinary numbers, numbers of every size, or special values."""
    kinds: list[Callable[[], Array]] = [
        lambda: rng.standard_normal(SIZE),
        lambda: rng.standard_normal(SIZE) * 10.0 ** rng.uniform(-25, 15),
        lambda: random_values(rng, dtype, SIZE),
        lambda: rng.choice(special_values(dtype), SIZE),
    ]
    with np.errstate(all="ignore"):
        return kinds[rng.choice(4, p=(0.5, 0.3, 0.1, 0.1))]().astype(dtype)


def outcome(step: Callable[..., Any], *args: Any) -> Any:
    """Return the result of a step, or that it raised because a gradient is not finite."""
    try:
        return step(*args)
    except FloatingPointError:
        return FloatingPointError


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
            for name in native.state[i]:
                assert_same_bits(native.state[i][name], reference.state[i][name], f"{place}: {name}")


def check_late_step(case: Case, rng: np.random.Generator, dtype: DType) -> None:
    """Take one step with any number from any state."""
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
            if case.state != first.state:
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
@loop("seed", range(10))
@each_isa
def test_any_options_at_length(name: str, seed: int) -> None:
    check_many(name, seed, 100)
