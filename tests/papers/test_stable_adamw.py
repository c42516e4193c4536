"""StableAdamW (Wortsman et al., 2023), as the package optimi computes it."""

from __future__ import annotations

from math import fsum, sqrt
from typing import Any

import numpy as np

import fastoptim as fo
from group_oracles import SHARED, Floats, GroupOracle, assert_group_follows
from loops import loop
from models import Backend, each_backend
from oracles import Options


class Oracle(GroupOracle):
    def first(self, p: Floats, options: Options) -> dict[str, Any]:
        return {name: [0.0] * len(p) for name in ("m", "v", "m_hat", "v_hat")}

    def one(  # type: ignore[override]
        self,
        p: Floats,
        g: Floats,
        state: dict[str, Any],
        t: int,
        *,
        lr: float,
        betas: tuple[float, float],
        eps: float,
        weight_decay: float,
        decoupled: bool,
    ) -> Floats:
        """With the debiased decay rates of optimi, which keep averages that need no correction."""
        if not decoupled:
            g = [y + weight_decay * x for x, y in zip(p, g, strict=True)]
        debiased = [beta * (1 - beta ** (t - 1)) / (1 - beta**t) for beta in betas]
        for name, beta, power in (("m_hat", debiased[0], 1), ("v_hat", debiased[1], 2)):
            state[name] = [beta * s + (1 - beta) * y**power for s, y in zip(state[name], g, strict=True)]
        for name, beta, power in (("m", betas[0], 1), ("v", betas[1], 2)):
            state[name] = [beta * s + (1 - beta) * y**power for s, y in zip(state[name], g, strict=True)]
        ratio = sqrt(fsum(y * y / max(v, eps**2) for y, v in zip(g, state["v_hat"], strict=True)) / len(g))
        lr /= max(1.0, ratio)
        steps = [m / (sqrt(v) + eps) for m, v in zip(state["m_hat"], state["v_hat"], strict=True)]
        return [x - (lr * weight_decay * x if decoupled else 0.0) - lr * u for x, u in zip(p, steps, strict=True)]


SETTINGS: list[Options] = [
    *SHARED,
    {"lr": 0.05, "betas": (0.5, 0.9)},
    {"betas": (0.9, 0.0)},
    {"eps": 0.5, "weight_decay": 0.1},
    {"eps": 2.0, "decoupled": False, "weight_decay": 0.1},
]
ROWS = SETTINGS


@each_backend
@loop("options", SETTINGS)
def test_follows_the_formula(options: Options, backend: Backend) -> None:
    assert_group_follows(fo.StableAdamW, Oracle, options, backend)


def test_a_coupled_decay_that_rounds_to_zero_is_none() -> None:
    """Zero times an infinite parameter is NaN."""
    found = []
    for backend in ("native", "reference"):
        p = np.array([-np.inf, 1.0], np.float32)
        opt: Any = fo.StableAdamW(p, weight_decay=1e-93, decoupled=False, backend=backend)
        opt.step(np.ones(2, np.float32))
        found.append([p, *opt.state.values()])
    for native, reference in zip(*found, strict=True):
        assert native.tobytes() == reference.tobytes()
        assert not np.isnan(native).any()
