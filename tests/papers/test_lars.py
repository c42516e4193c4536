"""LARS (You, Gitman & Ginsburg, 2017), as the paper and optax compute it."""

from __future__ import annotations

from typing import Any

import fastoptim as fo
from group_oracles import SHARED, Floats, GroupOracle, assert_group_follows, l2_norm
from loops import loop
from models import Backend, each_backend
from oracles import Options


class Oracle(GroupOracle):
    def one(  # type: ignore[override]
        self,
        p: Floats,
        g: Floats,
        state: dict[str, Any],
        t: int,
        *,
        lr: float,
        momentum: float,
        trust_coefficient: float,
        eps: float,
        decayed_norm: bool,
        nesterov: bool,
        trust_clip: bool,
        decays_ratio_only: bool,
        weight_decay: float,
        decoupled: bool,
    ) -> Floats:
        if decoupled:
            p = [x * (1 - lr * weight_decay) for x in p]
            weight_decay = 0.0
        d = [y + weight_decay * x for x, y in zip(p, g, strict=True)]
        local = 1.0
        measured = l2_norm(d) if decayed_norm else l2_norm(g)
        if l2_norm(p) > 0 and measured > 0:
            local = trust_coefficient * l2_norm(p)
            local /= measured + eps if decayed_norm else measured + weight_decay * l2_norm(p) + eps
            if trust_clip:  # apex's LARC
                local = min(local / lr, 1.0)
        if decays_ratio_only:  # Chainer's GradientLARS
            d = g
        state["v"] = [momentum * v + lr * local * y for v, y in zip(state["v"], d, strict=True)]
        if nesterov:
            return [x - (momentum * v + lr * local * y) for x, v, y in zip(p, state["v"], d, strict=True)]
        return [x - v for x, v in zip(p, state["v"], strict=True)]


SETTINGS: list[Options] = [
    *SHARED,
    {"lr": 0.3, "trust_coefficient": 0.1, "weight_decay": 0.02},
    {"momentum": 0.0, "trust_coefficient": 0.05},
    {"eps": 0.5, "trust_coefficient": 0.1},
    {"nesterov": True, "trust_coefficient": 0.02},
    {"decayed_norm": True, "weight_decay": 0.3, "trust_coefficient": 0.02},
    {"decayed_norm": True, "weight_decay": 0.1, "decoupled": True, "eps": 0.1, "nesterov": True},
    {"convention": "optax", "weight_decay": 0.3, "trust_coefficient": 0.02},
    {"trust_clip": True, "lr": 0.02, "weight_decay": 0.1, "trust_coefficient": 0.02},
    {"decays_ratio_only": True, "weight_decay": 0.3, "trust_coefficient": 0.1},
    {"decays_ratio_only": True, "decayed_norm": True, "weight_decay": 0.3, "trust_coefficient": 0.1},
]
ROWS = SETTINGS


@each_backend
@loop("options", SETTINGS)
def test_follows_the_formula(options: Options, backend: Backend) -> None:
    assert_group_follows(fo.LARS, Oracle, options, backend)
