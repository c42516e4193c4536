"""NovoGrad (Ginsburg et al., 2019), as the paper and optax compute it."""

from __future__ import annotations

from math import sqrt
from typing import Any

import fastoptim as fo
from group_oracles import SHARED, Floats, GroupOracle, assert_group_follows, l2_norm
from loops import loop
from models import Backend, each_backend
from oracles import Options


class Oracle(GroupOracle):
    def first(self, p: Floats, options: Options) -> dict[str, Any]:
        return {"m": [0.0] * len(p), "v": 0.0}

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
        grad_averaging: bool,
        dampen_first: bool,
        weight_decay: float,
        decoupled: bool,
    ) -> Floats:
        beta1, beta2 = betas
        state["v"] = l2_norm(g) ** 2 if t == 1 else beta2 * state["v"] + (1 - beta2) * l2_norm(g) ** 2
        if decoupled:
            p = [x - lr * weight_decay * x for x in p]
        d = [y / (sqrt(state["v"]) + eps) for y in g]
        if not decoupled:
            d = [y + weight_decay * x for x, y in zip(p, d, strict=True)]
        new = 1 - beta1 if grad_averaging else 1.0
        if t == 1 and not dampen_first:  # the paper's initial value
            state["m"] = d
        else:
            state["m"] = [beta1 * m + new * y for m, y in zip(state["m"], d, strict=True)]
        return [x - lr * m for x, m in zip(p, state["m"], strict=True)]


SETTINGS: list[Options] = [
    *SHARED,
    {"lr": 0.05, "betas": (0.5, 0.9)},
    {"eps": 0.5, "weight_decay": 0.02},
    {"grad_averaging": True, "weight_decay": 0.1},
    {"grad_averaging": True, "decoupled": True, "weight_decay": 0.1},
    {"convention": "optax", "weight_decay": 0.01},
    {"dampen_first": False},
    {"grad_averaging": True, "dampen_first": False, "weight_decay": 0.1},
]
ROWS = SETTINGS


@each_backend
@loop("options", SETTINGS)
def test_follows_the_formula(options: Options, backend: Backend) -> None:
    assert_group_follows(fo.NovoGrad, Oracle, options, backend)
