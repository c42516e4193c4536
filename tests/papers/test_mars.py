"""MARS-AdamW (Yuan et al., 2024), as the authors' code and timm compute it."""

from __future__ import annotations

from math import sqrt
from typing import Any

import numpy as np

import fastoptim as fo
from group_oracles import SHARED, Floats, GroupOracle, assert_group_follows, l2_norm
from loops import loop
from models import Backend, each_backend
from oracles import Options


class Oracle(GroupOracle):
    def first(self, p: Floats, options: Options) -> dict[str, Any]:
        return {name: [0.0] * len(p) for name in ("m", "v", "g_last")}

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
        gamma: float,
        corrects_first: bool,
        weight_decay: float,
        decoupled: bool,
    ) -> Floats:
        beta1, beta2 = betas
        if not decoupled:
            g = [y + weight_decay * x for x, y in zip(p, g, strict=True)]
        weight = gamma * beta1 / (1 - beta1) if t > 1 or corrects_first else 0.0
        c = [y + weight * (y - last) for y, last in zip(g, state["g_last"], strict=True)]
        if l2_norm(c) > 1:
            c = [y / l2_norm(c) for y in c]
        state["g_last"] = g
        state["m"] = [beta1 * m + (1 - beta1) * y for m, y in zip(state["m"], c, strict=True)]
        state["v"] = [beta2 * v + (1 - beta2) * y * y for v, y in zip(state["v"], c, strict=True)]
        steps = [
            m / (1 - beta1**t) / (sqrt(v / (1 - beta2**t)) + eps) for m, v in zip(state["m"], state["v"], strict=True)
        ]
        return [x - lr * ((weight_decay * x if decoupled else 0.0) + u) for x, u in zip(p, steps, strict=True)]


SETTINGS: list[Options] = [
    *SHARED,
    {"lr": 0.05, "betas": (0.5, 0.9)},
    {"eps": 0.5, "weight_decay": 0.1},
    {"gamma": 1.0},
    {"gamma": 0.0},
    {"corrects_first": True, "gamma": 0.2},
]
ROWS = SETTINGS


@each_backend
@loop("options", SETTINGS)
def test_follows_the_formula(options: Options, backend: Backend) -> None:
    assert_group_follows(fo.MARS, Oracle, options, backend)


@each_backend
def test_without_correction_and_with_small_gradients_it_is_adamw(backend: Backend) -> None:
    p, q = np.ones(5), np.ones(5)
    ours = fo.MARS(p, lr=0.1, gamma=0.0, weight_decay=0.1, backend=backend)
    other = fo.AdamW(q, lr=0.1, betas=(0.95, 0.99), weight_decay=0.1)
    rng = np.random.default_rng(0)
    for _ in range(10):
        g = rng.uniform(-0.4, 0.4, 5)
        ours.step(g)
        other.step(g)
    assert p.tobytes() == q.tobytes()


def test_the_last_gradient_is_kept_by_value() -> None:
    """A caller may write the next gradient into the same array."""
    p, q, g = np.ones(3), np.ones(3), np.zeros(3)
    ours, other = fo.MARS(p, gamma=1.0), fo.MARS(q, gamma=1.0)
    for t in range(4):
        g[...] = 0.1 * t - 0.2
        ours.step(g)
        other.step(g.copy())
        g[...] = 0
    assert p.tobytes() == q.tobytes()
