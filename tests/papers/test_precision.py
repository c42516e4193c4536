"""Check the constants of a step, and small rates in float32, against arithmetic with 50 digits.

The formulas of the papers are evaluated for decimal numbers, and compared with one step in float64 at any step number.
So a constant in which digits cancel, such as 1 - beta**t near 0, shows in the step.
"""

from __future__ import annotations

import inspect
import sys
from collections import defaultdict
from collections.abc import Callable
from decimal import MAX_EMAX, MIN_EMIN, Context, Decimal, localcontext
from importlib import import_module
from importlib.util import find_spec
from math import nextafter
from typing import Any

import numpy as np
import pytest

import fastoptim as fo
from cases import FLOAT32
from fastoptim.reference_math import bias_correction_of
from fastoptim.rules.radam import _moving_average_length
from loops import loop
from models import Backend, each_backend, each_module
from oracles import Row, arguments_of

DIGITS = Context(prec=50, Emax=MAX_EMAX, Emin=MIN_EMIN)
TIMES = (2, 3, 5, 6, 7, 10, 31, 100, 1000, 12345, 10**6, 10**9, 2**62 - 1)
U = 2.0**-53  # the relative error of one rounding


def decimal(x: Any) -> Decimal:
    return x.value if isinstance(x, Exact) else Decimal(x)


def _power(base: Decimal, exponent: Decimal) -> Decimal:
    return DIGITS.power(base, exponent) if base else Decimal(not exponent)


class Exact:
    """A number with 50 digits, for formulas that are written for floats; `_define` adds its operators."""

    def __init__(self, value: Any) -> None:
        self.value = decimal(value)

    def __float__(self) -> float:
        return float(self.value)

    def __neg__(self) -> Exact:
        return Exact(self.value.copy_negate())

    def __abs__(self) -> Exact:
        return Exact(self.value.copy_abs())

    def __bool__(self) -> bool:
        return bool(self.value)


def _define(name: str, operation: Callable[[Decimal, Decimal], Any], wrap: Callable[[Any], Any] = Exact) -> None:
    setattr(Exact, f"__{name}__", lambda self, other: wrap(operation(self.value, decimal(other))))
    setattr(Exact, f"__r{name}__", lambda self, other: wrap(operation(decimal(other), self.value)))


_define("add", DIGITS.add)
_define("sub", DIGITS.subtract)
_define("mul", DIGITS.multiply)
_define("truediv", DIGITS.divide)
_define("pow", _power)
for _name in ("lt", "le", "gt", "ge", "eq"):
    _define(_name, getattr(Decimal, f"__{_name}__"), bool)


def exact(value: Any) -> Any:
    """Return the value with every float in it as an exact number."""
    if isinstance(value, tuple):
        return tuple(map(exact, value))
    return Exact(value) if isinstance(value, float) else value


def root(x: Any) -> Exact:
    return Exact(DIGITS.sqrt(decimal(x)))


# Formulas in other terms than the rule's: their state after one step does not give the parameter.  schedule_free_*
# follow below.
IN_OTHER_TERMS = {
    "lamb",
    "lars",
    "mars",
    "novograd",
    "prodigy",
    "schedule_free_adamw",
    "schedule_free_sgd",
    "stable_adamw",
}


@pytest.mark.parametrize("name", fo.OPTIMIZERS)
def test_steps_at_any_time_are_exact_to_some_roundings(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    if find_spec(f"papers.test_{name}") is None:
        pytest.skip("an optimizer whose formula has no test in tests/papers/ yet")
    rows = [row for row in import_module(f"papers.test_{name}").ROWS if isinstance(row, Row)]
    for module in list(sys.modules.values()):
        if getattr(module, "__name__", "").startswith("papers.") and hasattr(module, "sqrt"):
            monkeypatch.setattr(module, "sqrt", root)
    checked = [error for row in rows for t in TIMES if (error := error_of_step(name, row, t)) is not None]
    assert checked or name in IN_OTHER_TERMS
    assert max(checked, default=0) < 12 * U


def error_of_step(name: str, row: Row, t: int) -> float | None:
    """Return the relative error of a step from a parameter of 0; None if the formula has state of its own."""
    optimizer, arguments = fo.OPTIMIZERS[name], arguments_of(fo.OPTIMIZERS[name], row)
    decay = {} if optimizer.decays_itself else {"weight_decay": 0.0}
    settings = optimizer.check_options({**row.options, **decay, "lr": arguments["lr"], "maximize": False})
    rng = np.random.default_rng(t)
    arrays = [rng.uniform(0.02, 0.03, () if optimizer.state_schema[key].is_scalar else (1,)) for key in settings.state]
    if name == "rmsprop_graves":
        arrays[2] *= -1  # the last step along p, not along g: digits would cancel in the next
    state = defaultdict(lambda: Exact(0), {k: Exact(a.item()) for k, a in zip(settings.state, arrays, strict=True)})
    if name == "nadam":
        state["product"] = product_of_momentum(settings.options, t - 1)
    known = set(state)
    g, p = 0.05, np.zeros(1)
    own = {k.name: k.default for k in inspect.signature(row.formula).parameters.values() if k.kind is k.KEYWORD_ONLY}
    arguments = {k: exact(v) for k, v in {**own, **arguments}.items()}
    wanted = decimal(row.formula(Exact(0), Exact(g), state, t, **arguments))
    if set(state) != known:
        return None
    getattr(fo.functional, name)(p, np.array([g]), *arrays, step=t, **settings.options)
    return float(abs(Decimal(p.item()) - wanted) / (abs(wanted) or 1))


def product_of_momentum(options: Any, t: int) -> Any:
    decay, product = options["momentum_decay"], exact(options["betas"][0]) ** t
    for step in range(1, min(t, 1000) + 1) if decay is not None else ():
        product *= 1 - exact(0.96) ** (step * exact(decay)) / 2
    return product


BETAS = (0.0, 1e-9, 0.1, 0.5, 0.9, 0.99, 0.999, 0.9999, 1 - 1e-7, nextafter(1, 0), *np.random.default_rng(0).random(20))


@loop("beta", [*BETAS, *(float(np.float32(beta)) for beta in BETAS if beta < 1 - 1e-8)])
@loop("t", [1, *TIMES, *(int(2**x) for x in np.random.default_rng(1).uniform(0, 63, 20))])
def test_bias_corrections_have_all_their_digits(beta: float, t: int) -> None:
    with localcontext(Context(prec=100, Emax=MAX_EMAX, Emin=MIN_EMIN)):
        base = Decimal(beta)
        power = base**t if base else base
        assert abs(Decimal(bias_correction_of(beta, t)) / (1 - power) - 1) <= 1.2 * U
        length = (1 + base) / (1 - base) - 2 * t * power / (1 - power)
        assert abs(Decimal(_moving_average_length(beta, t)) / length - 1) <= 40 * U


@each_backend
@loop("options", [{"r": 2, "weight_lr_power": 3, "momentum": 0.999999}, {"warmup_steps": 7, "momentum": 1.0}])
def test_schedule_free_weights_are_exact(options: dict[str, Any], backend: Backend) -> None:
    """With a gradient that moves y alone: z and the parameter are 0, and the step is (1 - beta) + beta*c."""
    r, power, warmup = options.get("r", 0), options.get("weight_lr_power", 2), options.get("warmup_steps", 0)
    total: Any = exact(0.0)
    for t in range(1, 20):
        p, state = np.zeros(1), [np.zeros(1), np.array(float(total)), np.array(0.3 if t > 1 else 0.0)]
        lr = exact(0.3) * exact(min(t / warmup, 1.0) if warmup else 1.0)
        weight = t**r * (exact(0.3) if t > 1 else lr) ** power
        total = exact(float(total)) + weight
        module = fo.functional if backend == "native" else fo.reference
        module.schedule_free_sgd(p, np.ones(1), *state, step=t, lr=0.3, **options)
        beta = exact(options["momentum"])
        wanted = -lr * ((1 - beta) + beta * weight / total)
        assert abs(Decimal(p.item()) - wanted.value) <= abs(wanted.value) * Decimal(8 * U)


# ---- small rates in float32

# Gradients of zero move these: their formulas do not start from the parameter, or decay it themselves.
MOVED = {"ftrl", "madgrad", "prodigy", "schedule_free_sgd", "schedule_free_adamw", "asgd"}


@pytest.mark.parametrize("name", sorted(fo.OPTIMIZERS.keys() - MOVED))
@each_backend
@loop("rate", [1e-7, 3e-7, 1e-5])
def test_a_small_decay_keeps_its_digits(name: str, rate: float, backend: Backend) -> None:
    """Each parameter is the one next to the exact result, where a factor 1 - 1e-7 would be 1 - 1.19e-7."""
    p = np.random.default_rng(0).uniform(1, 2, 2000).astype(FLOAT32)
    wanted = p.astype(float) * (1 - rate)
    opt = fo.OPTIMIZERS[name](p, lr=1.0, weight_decay=rate, decoupled=True, backend=backend)
    opt.step(np.zeros_like(p))
    assert (abs(p - wanted) <= 0.501 * np.spacing(p)).all()


@each_module
@loop("options", [{"ema": 1 - 1e-7}, {"swa_start": 1}])
def test_the_weight_of_a_late_average_keeps_its_digits(module: Any, options: dict[str, Any]) -> None:
    p, average = np.full(5, 1000, FLOAT32), np.zeros(5, FLOAT32)
    module.sgd(p, np.zeros(5, FLOAT32), average, step=10**7, lr=0.0, **options)
    np.testing.assert_allclose(average, 1e-4, rtol=1e-7)
