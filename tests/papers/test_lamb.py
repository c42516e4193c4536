"""LAMB (You et al., 2020), as the paper, Keras and optax compute it."""

from __future__ import annotations

from math import inf, sqrt
from typing import Any

import numpy as np
import pytest

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
        betas: tuple[float, float],
        eps: float,
        eps_root: float,
        bias_correction: bool,
        min_trust: float,
        max_trust: float | None,
        weight_decay: float,
        decoupled: bool,
    ) -> Floats:
        beta1, beta2 = betas
        state["m"] = [beta1 * m + (1 - beta1) * y for m, y in zip(state["m"], g, strict=True)]
        state["v"] = [beta2 * v + (1 - beta2) * y * y for v, y in zip(state["v"], g, strict=True)]
        if decoupled:
            p = [x - lr * weight_decay * x for x in p]
        r = []
        for x, m, v in zip(p, state["m"], state["v"], strict=True):
            m_hat = m / (1 - beta1**t) if bias_correction else m
            v_hat = v / (1 - beta2**t) if bias_correction else v
            r.append(m_hat / (sqrt(v_hat + eps_root) + eps) + (0.0 if decoupled else weight_decay * x))
        ratio = 1.0
        if l2_norm(p) > 0 and l2_norm(r) > 0:
            ratio = min(max(l2_norm(p) / l2_norm(r), min_trust), inf if max_trust is None else max_trust)
        return [x - lr * ratio * u for x, u in zip(p, r, strict=True)]


SETTINGS: list[Options] = [
    *SHARED,
    {"lr": 0.02, "betas": (0.8, 0.95)},
    {"eps": 0.1},
    {"eps_root": 0.1, "eps": 0.0},
    {"bias_correction": False, "weight_decay": 0.01},
    {"bias_correction": False, "eps_root": 0.01, "eps": 0.01, "decoupled": True, "weight_decay": 0.2},
    {"convention": "keras", "weight_decay": 0.2, "lr": 0.02},
    {"convention": "optax", "weight_decay": 0.2},
    {"min_trust": 1.0, "max_trust": 1.7, "lr": 0.02},
    {"min_trust": 2.0},
]
ROWS = SETTINGS


@each_backend
@loop("options", SETTINGS)
def test_follows_the_formula(options: Options, backend: Backend) -> None:
    assert_group_follows(fo.LAMB, Oracle, options, backend)


def test_bounds_that_exclude_every_ratio_are_rejected() -> None:
    with pytest.raises(ValueError, match=r"^max_trust: expected at least min_trust"):
        fo.LAMB(np.ones(2), min_trust=2, max_trust=1)
