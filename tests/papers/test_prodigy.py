"""Prodigy (Mishchenko & Defazio, 2023), with the loop of its authors' code."""

from __future__ import annotations

from collections.abc import Sequence
from math import fsum, inf, sqrt
from types import ModuleType
from typing import Any

import numpy as np
import pytest

import fastoptim as fo
from cases import assert_same_bits
from group_oracles import SHARED, Floats, Grads, GroupOracle, assert_group_follows, gradients, initial_params
from loops import loop
from models import Backend, each_backend, each_module
from oracles import Options


class Oracle(GroupOracle):
    """The authors' loop.  Its numbers are those of the optimizer, and each array has a copy."""

    def __init__(self, params: Sequence[Floats], options: Options) -> None:
        super().__init__(params, options)
        self.t, self.numbers = 0, {"d": options["d0"], "d_max": options["d0"], "d_numerator": 0.0}

    def first(self, p: Floats, options: Options) -> dict[str, Any]:
        zeros = [0.0] * len(p)
        numbers = {"d": options["d0"], "d_max": options["d0"], "d_numerator": 0.0}
        return {"m": zeros, "v": zeros, "s": zeros, "p0": list(p), **numbers}

    def step(self, grads: Grads) -> None:
        o, numbers = self.options, self.numbers
        beta1, beta2 = o["betas"]
        beta3 = sqrt(beta2) if o["beta3"] is None else o["beta3"]
        growth_rate = inf if o["growth_rate"] is None else o["growth_rate"]
        inner: Floats = []
        d_denom: Floats = []
        self.t += 1
        correction = sqrt(1 - beta2**self.t) / (1 - beta1**self.t) if o["bias_correction"] else 1.0
        d = numbers["d"]
        dlr = d * o["lr"] * correction
        present = [i for i, g in enumerate(grads) if g is not None]
        if not present:
            return
        for i in present:
            g, p, state = grads[i] or [], self.params[i], self.state[i]
            if not o["decoupled"]:
                g = [y + o["weight_decay"] * x for x, y in zip(p, g, strict=True)]
            inner += [y * (x0 - x) for x, x0, y in zip(p, state["p0"], g, strict=True)]
            state["m"] = [beta1 * m + d * (1 - beta1) * y for m, y in zip(state["m"], g, strict=True)]
            state["v"] = [beta2 * v + d * d * (1 - beta2) * y * y for v, y in zip(state["v"], g, strict=True)]
            weight = d / o["d0"] * (d if o["safeguard_warmup"] else dlr)
            state["s"] = [beta3 * s + weight * y for s, y in zip(state["s"], g, strict=True)]
            d_denom += [abs(s) for s in state["s"]]
        numbers["d_numerator"] = beta3 * numbers["d_numerator"] + d / o["d0"] * dlr * fsum(inner)
        is_enabled = fsum(d_denom) != 0
        if is_enabled and o["lr"] > 0:
            d_hat = o["d_coef"] * numbers["d_numerator"] / fsum(d_denom)
            if d == o["d0"]:
                d = max(d, d_hat)
            numbers["d_max"] = max(numbers["d_max"], d_hat)
            numbers["d"] = d = min(numbers["d_max"], d * growth_rate)
        decay = o["weight_decay"] * dlr if o["decoupled"] else 0.0
        for i, state in enumerate(self.state):
            state.update(numbers)
            if is_enabled and i in present:
                self.params[i] = [
                    x - decay * x - dlr * m / (sqrt(v) + d * o["eps"])
                    for x, m, v in zip(self.params[i], state["m"], state["v"], strict=True)
                ]


SETTINGS: list[Options] = [
    *SHARED,
    {"lr": 0.5, "betas": (0.8, 0.95)},
    {"beta3": 0.9},
    {"eps": 0.01, "d0": 0.01},
    {"d0": 1e-3, "d_coef": 0.5},
    {"growth_rate": 1.02, "d0": 1e-3},
    {"safeguard_warmup": True, "lr": 0.3},
    {"bias_correction": True},
    {"bias_correction": True, "safeguard_warmup": True, "weight_decay": 0.1, "decoupled": False},
]
ROWS = SETTINGS


@each_backend
@loop("options", SETTINGS)
def test_follows_the_formula(options: Options, backend: Backend) -> None:
    assert_group_follows(fo.Prodigy, Oracle, options, backend)
    assert_group_follows(fo.Prodigy, Oracle, options, backend, lambda t, array: (t + array) % 3 > 0 and t != 7)


def numbers_of(opt: Any) -> list[list[float]]:
    """The copies of each array."""
    return [[float(state[name]) for name in ("d", "d_max", "d_numerator")] for state in opt.state]


@each_backend
def test_groups_have_one_estimate(backend: Backend) -> None:
    params = [initial_params(), initial_params()]
    opt = fo.Prodigy(params[0], backend=backend)
    grouped: Any = fo.Prodigy([{"params": p} for p in params[1]], backend=backend)
    for t in range(20):
        opt.step(gradients(t))
        grouped.step(gradients(t))
        first, *others = [*numbers_of(opt), *numbers_of(grouped)]
        assert others == [first] * len(others)
    assert first[0] > 1e-6
    for p, q in zip(*params, strict=True):
        assert_same_bits(p, q)


@each_backend
def test_a_group_without_a_rate_has_the_estimate_of_the_others(backend: Backend) -> None:
    """It contributes nothing to it, whether its array is the first or the last."""
    alone = initial_params()[0]
    expected = fo.Prodigy(alone, backend=backend)
    params = [initial_params()[0] for _ in range(3)]
    groups = [{"params": p, "lr": lr} for p, lr in zip(params, (0.0, 1.0, 0.0), strict=True)]
    opt: Any = fo.Prodigy(groups, backend=backend)
    for t in range(20):
        g = gradients(t)[0]
        expected.step(g)
        opt.step([g, g, g])
        assert numbers_of(opt) == [[float(array) for name, array in expected.state.items() if name[0] == "d"]] * 3
    assert_same_bits(params[1], alone)
    for frozen in (params[0], params[2]):
        assert_same_bits(frozen, initial_params()[0])


@each_backend
@loop("seen", [True, False])
def test_a_late_array_uses_the_estimate_of_the_others(backend: Backend, seen: bool) -> None:
    """A checkpoint between makes no difference, and a step that is refused, skipped or empty changes nothing."""
    target = np.random.default_rng(0).standard_normal(10) * 5
    first, late = np.zeros(10), np.zeros(10)
    opt = fo.Prodigy([first, late], backend=backend, skip_nonfinite=True)
    for step in range(200):
        opt.step([first - target, late - target if step == 0 and seen else None])
        assert numbers_of(opt)[0] == numbers_of(opt)[1]
    before = numbers_of(opt)
    loaded = fo.Prodigy([first, late], backend=backend, skip_nonfinite=True)
    loaded.load_state_dict(opt.state_dict())
    with pytest.raises(ValueError, match="shape"):
        loaded.step([first - target, np.ones(3)])
    assert not loaded.step([first - target, late * np.nan])
    assert not loaded.step([first * np.nan, None])
    assert loaded.step([None, None])
    assert numbers_of(loaded) == before
    for _ in range(200):
        loaded.step([first - target, late - target])
    assert np.linalg.norm(late - target) < 0.2 * np.linalg.norm(target)


@each_backend
def test_a_late_array_of_an_old_checkpoint_takes_the_numbers_of_the_others(backend: Backend) -> None:
    """There each array had numbers of its own."""
    params = [np.zeros(4) for _ in range(4)]
    opt = fo.Prodigy(params, backend=backend)
    for _ in range(9):
        opt.step([p - 1 for p in params])
    saved = opt.state_dict()
    for entry, steps in zip(saved["arrays"], (3, 7, 7, 0), strict=True):
        entry["steps"] = steps
        entry["state"] |= {name: np.array(0.125 * (steps + 1)) for name in ("d", "d_max", "d_numerator")}
    opt.load_state_dict(saved)
    assert numbers_of(opt) == [[1.0] * 3] * 4
    assert [entry["steps"] for entry in opt.state_dict()["arrays"]] == [9] * 4


@each_module
def test_prodigy_without_a_rate_leaves_the_sign_of_a_zero(module: ModuleType) -> None:
    """The means move, the estimate has nothing to go by."""
    p = np.array([-0.0, 0.0, 1.0])
    state = [array.copy() for array in fo.Prodigy(p.copy()).state.values()]
    module.prodigy(p, np.array([-1.0, 1.0, 1.0]), *state, step=1, lr=0.0)
    assert_same_bits(p, np.array([-0.0, 0.0, 1.0]))
