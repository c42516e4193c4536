"""One update on buffers that the caller owns: ``fo.functional.NAME(p, g, *state, step=t, **hyperparameters)``.

The functions work in place.  They return None, or with ``skip_nonfinite`` whether the step was taken.  ``step`` counts
from 1.  State arrays have the order of ``fo.OPTIMIZERS[NAME].state``, for other classes of that of their `state`,
followed by the average if one is kept; arrays that the options do not use may be omitted.  Hyper-parameters and
defaults are those of the class.  The functions are made from the classes;
``help(fo.functional.adam)`` prints the docstring.

A call costs about as much as a step of an optimizer, also with other rates and other numbers of the formula than
before.  A function keeps the options of its last calls, in checked form, but no array.  Different threads may call it
at the same time with different arrays.

>>> import numpy as np, fastoptim as fo
>>> p, m, v = np.ones(3), np.zeros(3), np.zeros(3)
>>> fo.functional.adam(p, np.array([1.0, -2.0, 0.0]), m, v, step=1, lr=0.1)
>>> p.round(6)
array([0.9, 1.1, 1. ])
"""

from __future__ import annotations

import inspect
from collections.abc import Callable
from functools import cache
from typing import Any

import numpy as np

from . import core
from .arrays.checks import check_state, check_target, raise_nonfinite
from .arrays.param_state import ParamState, check_takes_options, exceed
from .arrays.rows import values_of
from .engines.base import group_step_at
from .engines.native import option_set
from .engines.select import check_backend, engine_for
from .optimizer.base import Optimizer, known_optimizers
from .options.checks import rate_at
from .options.settings import Settings
from .options.suggestions import did_you_mean
from .reference_math import Array

#: The options of so many different calls of a function are kept in checked form.
MAX_OPTION_SETS = 8


def bind(name: str, backend: str, module: str) -> Callable[..., bool | None]:
    """Return the update of the optimizer of that name on that backend, as a function."""
    known = known_optimizers()
    if name not in known:
        hint = did_you_mean(name, known) or ";"
        raise AttributeError(f"module {module!r} has no attribute {name!r}{hint} the optimizers are {sorted(known)}")
    return _bind(known[name], backend, module)  # type: ignore[arg-type]  # mypy: a class has no hash


@cache
def _bind(optimizer: type[Optimizer], backend: str, module: str) -> Callable[..., bool | None]:
    if backend == "native" and not optimizer.stages:
        update = _native_update(optimizer)
    else:

        def update(p: Array, g: Array, *state: Array, step: int, **hyperparameters: Any) -> bool | None:
            return _update(backend, p, g, state, *_checked(optimizer, step, hyperparameters))

    update.__name__ = update.__qualname__ = optimizer.name
    update.__module__ = module
    update.__doc__ = optimizer.__doc__
    update.__signature__ = _signature(optimizer)  # type: ignore[attr-defined]
    return update


def _native_update(optimizer: type[Optimizer]) -> Callable[..., bool | None]:
    """Return the update in native code, which takes the slow path where native code does not recognize its arguments.

    Of earlier calls it keeps options, in an immutable tuple that threads replace as a whole, and never an array.
    """
    option_sets: tuple[core.OptionSet, ...] = ()  # the newest first
    try_update = core.try_update

    def update(p: Array, g: Array, *state: Array, step: int, **hyperparameters: Any) -> bool | None:
        nonlocal option_sets
        taken = try_update(option_sets, p, g, state, step, hyperparameters)
        if taken is not NotImplemented and taken is not ...:
            return taken
        t, settings, lr = _checked(optimizer, step, hyperparameters)
        if exceed(settings.options["bounds"] or (), np.dtype(np.float16)):  # which not every parameter may have
            return _update("native", p, g, state, t, settings, lr)
        given = {name: settings.options.get(name, value) for name, value in hyperparameters.items()} | {"lr": lr}
        if isinstance(g, np.generic):
            g = np.asarray(g)
        taken = try_update(option_sets, p, g, state, t, given)
        if taken is NotImplemented:
            made = option_set(settings, given, optimizer.checked_defaults(hyperparameters))
            option_sets = (made, *option_sets[: MAX_OPTION_SETS - 1])
            taken = try_update(option_sets, p, g, state, t, given)
        return taken if taken is not ... else _update("native", p, g, state, t, settings, lr)

    return update


def _checked(optimizer: type[Optimizer], step: int, hyperparameters: dict[str, Any]) -> tuple[int, Settings, float]:
    """Return the step number, the options and the learning rate."""
    if isinstance(step, bool) or not hasattr(type(step), "__index__"):
        raise TypeError(f"step: expected an integer >= 1, got {step!r}")
    t = step.__index__()
    if not 1 <= t < 2**63:
        raise ValueError(f"step: expected an integer >= 1, got {step!r}" + " of more than 64 bits" * (t >= 2**63))
    settings = optimizer.check_options(hyperparameters)
    if settings.extra_bits is not None:
        name = "kahan" if settings.options["kahan"] else "master_weight_bits"
        expected = f"expected {optimizer.defaults[name]} in a function"
        raise ValueError(f"{name}: {expected}, whose state has no place for more bits, got {settings.options[name]}")
    if settings.options["state_format"] != "native":
        raise ValueError(
            f"state_format: expected 'native' in a function, got {settings.options['state_format']!r}; an optimizer "
            "takes the other formats"
        )
    return t, settings, rate_at(settings.options["lr"], t - 1, "lr")


def _signature(optimizer: type[Optimizer]) -> inspect.Signature:
    kinds = inspect.Parameter
    arrays = [kinds("p", kinds.POSITIONAL_ONLY), kinds("g", kinds.POSITIONAL_ONLY)]
    state = kinds("state", kinds.VAR_POSITIONAL)
    options = [kinds(k, kinds.KEYWORD_ONLY, default=v) for k, v in optimizer.defaults.items()]
    if optimizer.conventions:
        options.append(kinds("convention", kinds.KEYWORD_ONLY, default=next(iter(optimizer.conventions))))
    return inspect.Signature([*arrays, state, kinds("step", kinds.KEYWORD_ONLY), *options])


def _update(
    backend: str, p: Array, g: Array, state: tuple[Array, ...], t: int, settings: Settings, lr: float
) -> bool | None:
    optimizer = settings.optimizer
    group_step = group_step_at(settings, lr, t, optimizer.name)
    metadata = check_target(p, "p")
    check_backend(backend, metadata, "p")
    used, every = (
        [name for name in names if optimizer.state_schema[name].belongs_to(metadata.shape)]
        for names in (settings.state, settings.every_state)
    )
    if len(state) not in (len(used), len(every)):
        raise TypeError(f"{optimizer.name}: expected the state arrays {used}, got {len(state)} arrays")
    names = used if len(state) == len(used) else every
    optimizer.check_shape(metadata.shape, settings.options, "p")
    schema = optimizer.schema_for(settings.options)
    for name, array in zip(names, state, strict=True):
        check_state(array, name, metadata, schema[name])
    if g is None:
        raise TypeError("g: expected a NumPy array, got None")
    param = ParamState(p, dict(zip(names, state, strict=True)), g_name="g", schema=schema)
    check_takes_options(param, settings)
    stepped = engine_for(backend, [param], [optimizer]).step([g], [group_step])
    if stepped is None and settings.when_nonfinite == "raise":
        raise_nonfinite(values_of(iter([("g", g)])))
    return stepped is not None if settings.skips else None


def __getattr__(name: str) -> Any:
    if name == "__all__":
        return sorted(known_optimizers())
    return bind(name, "native", __name__)


def __dir__() -> list[str]:
    return sorted([*known_optimizers(), *(name for name in globals() if name.startswith("__"))])
