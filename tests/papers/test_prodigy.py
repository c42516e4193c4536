"""Prodigy (Mishchenko & Defazio, 2023), with the loop of its authors' code."""

from __future__ import annotations

from math import fsum, inf, sqrt
from types import ModuleType
from typing import Any

import numpy as np

import fastoptim as fo
from cases import assert_same_bits
from group_oracles import SHARED, Floats, Grads, GroupOracle, assert_group_follows, gradients, initial_params
from loops import loop
from models import Backend, each_backend, each_module
from oracles import Options


class Oracle(GroupOracle):
    """The authors' loop over a group; its numbers are kept with each array, which has those of its own last step."""

    def first(self, p: Floats, options: Options) -> dict[str, Any]:
        zeros = [0.0] * len(p)
        numbers = {"d": options["d0"], "d_max": options["d0"], "d_numerator": 0.0}
        return {"m": zeros, "v": zeros, "s": zeros, "p0": list(p), **numbers}

    def step(self, grads: Grads) -> None:
        o = self.options
        beta1, beta2 = o["betas"]
        beta3 = sqrt(beta2) if o["beta3"] is None else o["beta3"]
        growth_rate = inf if o["growth_rate"] is None else o["growth_rate"]
        inner: Floats = []
        d_denom: Floats = []
        rates = {}
        for i, g in enumerate(grads):
            if g is None:
                continue
            self.times[i] += 1
            t, p, state = self.times[i], self.params[i], self.state[i]
            correction = sqrt(1 - beta2**t) / (1 - beta1**t) if o["bias_correction"] else 1.0
            d = state["d"]
            rates[i] = dlr = d * o["lr"] * correction
            if not o["decoupled"]:
                g = [y + o["weight_decay"] * x for x, y in zip(p, g, strict=True)]
            inner += [y * (x0 - x) for x, x0, y in zip(p, state["p0"], g, strict=True)]
            state["m"] = [beta1 * m + d * (1 - beta1) * y for m, y in zip(state["m"], g, strict=True)]
            state["v"] = [beta2 * v + d * d * (1 - beta2) * y * y for v, y in zip(state["v"], g, strict=True)]
            weight = d / o["d0"] * (d if o["safeguard_warmup"] else dlr)
            state["s"] = [beta3 * s + weight * y for s, y in zip(state["s"], g, strict=True)]
            d_denom += [abs(s) for s in state["s"]]
        for i, dlr in rates.items():
            state, d = self.state[i], self.state[i]["d"]
            state["d_numerator"] = beta3 * state["d_numerator"] + d / o["d0"] * dlr * fsum(inner)
            if fsum(d_denom) == 0:
                continue
            if o["lr"] > 0:
                d_hat = o["d_coef"] * state["d_numerator"] / fsum(d_denom)
                if d == o["d0"]:
                    d = max(d, d_hat)
                state["d_max"] = max(state["d_max"], d_hat)
                state["d"] = d = min(state["d_max"], d * growth_rate)
            decay = o["weight_decay"] * dlr if o["decoupled"] else 0.0
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


@each_backend
def test_prodigy_has_one_estimate_for_a_group(backend: Backend) -> None:
    opt = fo.Prodigy(initial_params(), backend=backend)
    for t in range(20):
        opt.step(gradients(t))
        for name in ("d", "d_max", "d_numerator"):
            assert len({float(state[name]) for state in opt.state}) == 1, name
    assert float(opt.state[0]["d"]) > 1e-6


@each_module
def test_prodigy_without_a_rate_leaves_the_sign_of_a_zero(module: ModuleType) -> None:
    """The means move, the estimate has nothing to go by."""
    p = np.array([-0.0, 0.0, 1.0])
    state = [array.copy() for array in fo.Prodigy(p.copy()).state.values()]
    module.prodigy(p, np.array([-1.0, 1.0, 1.0]), *state, step=1, lr=0.0)
    assert_same_bits(p, np.array([-0.0, 0.0, 1.0]))
