"""Decorators that run a test once for each value within a single pytest item.

Collecting and reporting a parametrised test costs more than most of these tests take, so that only the optimizers are
parametrised.  On a failure pytest shows, in the captured output, the values of the loops at that moment.
"""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import pytest

import fastoptim.engines.native
from cases import ISAS, Case

Test = Callable[..., None]
Decorator = Callable[[Test], Test]


def label(value: Any) -> str:
    """Return a short name for a value of a loop."""
    for name in ("id", "name", "__name__"):
        found = getattr(value, name, None)
        if isinstance(found, str):
            return found
    return str(value)


@contextmanager
def iteration(argument: str, value: Any) -> Iterator[None]:
    """Print which value a loop had reached when the body failed."""
    try:
        yield
    except pytest.skip.Exception:
        raise
    except BaseException:
        print(f"failed with {argument} = {label(value)}")
        raise


def without_arguments(test: Test, run: Test, arguments: Sequence[str]) -> Test:
    """Give `run` the name, the marks and the signature of `test`, except for these arguments."""
    signature = inspect.signature(test)
    functools.update_wrapper(run, test)
    del run.__wrapped__  # type: ignore[attr-defined]
    left = [parameter for name, parameter in signature.parameters.items() if name not in arguments]
    run.__signature__ = signature.replace(parameters=left)  # type: ignore[attr-defined]
    return run


def loop(arguments: str | tuple[str, ...], values: Iterable[Any]) -> Decorator:
    """Run the test for each value of an argument, or for each tuple of values of several arguments."""
    names = (arguments,) if isinstance(arguments, str) else arguments
    rows = [(value,) if isinstance(arguments, str) else tuple(value) for value in values]

    def decorate(test: Test) -> Test:
        def run(**given: Any) -> None:
            for row in rows:
                with iteration(", ".join(names), row[0] if len(row) == 1 else [label(value) for value in row]):
                    test(**given, **dict(zip(names, row, strict=True)))

        return without_arguments(test, run, names)

    return decorate


def each_case(cases: Iterable[Case]) -> Decorator:
    """Parametrise the test over optimizers, and run it for each of these cases of the optimizer."""
    by_optimizer: dict[str, list[Case]] = {}
    for case in cases:
        by_optimizer.setdefault(case.optimizer.name, []).append(case)

    def decorate(test: Test) -> Test:
        def run(optimizer_name: str, **given: Any) -> None:
            for case in by_optimizer[optimizer_name]:
                with iteration("case", case):
                    test(**given, case=case)

        run = without_arguments(test, run, ["case"])
        signature = inspect.signature(run)
        own = inspect.Parameter("optimizer_name", inspect.Parameter.POSITIONAL_OR_KEYWORD)
        run.__signature__ = signature.replace(parameters=[own, *signature.parameters.values()])  # type: ignore[attr-defined]
        mark: Decorator = pytest.mark.parametrize("optimizer_name", list(by_optimizer))
        return mark(run)

    return decorate


@contextmanager
def using_isa(name: str) -> Iterator[None]:
    """Let native steps run this instruction set's code."""
    before = fastoptim.engines.native.Engine.isa
    fastoptim.engines.native.Engine.isa = name
    try:
        yield
    finally:
        fastoptim.engines.native.Engine.isa = before


def each_isa(test: Test) -> Test:
    """Run the test with the code of each usable instruction set, and pass its name as `isa`."""

    def run(**given: Any) -> None:
        for name in ISAS:
            with iteration("isa", name), using_isa(name):
                test(**given, **({"isa": name} if takes_isa else {}))

    takes_isa = "isa" in inspect.signature(test).parameters
    return without_arguments(test, run, ["isa"])
