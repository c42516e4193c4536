"""Random optimizers, options and arrays, for tests that compare native code with the reference.

Options are drawn from the whole range that their annotations allow: ordinary and extreme rates, decay rates from 0 to
one rounding below 1, both values of every flag, and every shared option.  A rule of a new optimizer is included.
"""

from __future__ import annotations

from collections.abc import Callable
from math import inf, isfinite, nextafter
from typing import Annotated, Any, Literal, get_args, get_origin

import numpy as np

import fastoptim as fo
from cases import Array, Case, DType, random_values, special_values
from fastoptim.matrix.newton_schulz import COEFFICIENTS, Coefficients
from fastoptim.options.checks import Bounds, OneOf, Range, may_be_none

SIZE = 70  # a vector of each width, and a tail
MOST = {"max_precond_dim": 64, "heads": 12}  # of options that decide how much memory a step takes
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
    if annotation is Bounds:
        return tuple(sorted(float(rng.choice([-1, 1]) * 10.0 ** rng.uniform(-3, 3)) for _ in range(2)))
    if annotation is Coefficients:
        return (*COEFFICIENTS, ((1.5, -0.5, 0.0),), ((2.0, -1.5, 0.5), (1.875, -1.25, 0.375)))[rng.integers(5)]
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
        options |= {name: min(options[name], most) for name, most in MOST.items() if name in options}
        try:
            checked = optimizer.check_options(options).options
        except ValueError:
            continue
        if checked["row_steps"] and checked["state_format"] == "int8":
            continue  # whose rows are whole blocks; those of random arrays are not
        return Case(optimizer, dict(checked), f"{optimizer.name} with {options}")


def random_array(rng: np.random.Generator, dtype: DType, size: int = SIZE) -> Array:
    """Draw ordinary numbers, numbers of every size, or special values."""
    kinds: list[Callable[[], Array]] = [
        lambda: rng.standard_normal(size),
        lambda: rng.standard_normal(size) * 10.0 ** rng.uniform(-25, 15),
        lambda: random_values(rng, dtype, size),
        lambda: rng.choice(special_values(dtype), size),
    ]
    with np.errstate(all="ignore"):
        return kinds[rng.choice(4, p=(0.5, 0.3, 0.1, 0.1))]().astype(dtype)


def outcome(step: Callable[..., Any], *args: Any) -> Any:
    """Return the result of a step, or that it raised because a gradient is not finite."""
    try:
        return step(*args)
    except FloatingPointError:
        return FloatingPointError
