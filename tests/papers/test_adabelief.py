"""AdaBelief (Zhuang et al., 2020)."""

from __future__ import annotations

from math import sqrt

import numpy as np

import fastoptim as fo
from loops import loop
from models import Backend, each_backend
from oracles import ORDINARY, OTHERS, START, Pair, Row, State, assert_follows, ema


def adabelief(
    p: float,
    g: float,
    s: State,
    t: int,
    *,
    lr: float,
    betas: Pair = (0.9, 0.999),
    eps: float = 1e-16,
    eps_root: float = 1e-16,
    previous_mean: bool = False,
    amsgrad: bool = False,
) -> float:
    old = s["m"]
    m = ema(s, "m", betas[0], g)
    s["s"] = betas[1] * s["s"] + (1 - betas[1]) * (g - (old if previous_mean else m)) ** 2 + eps_root
    s["s_max"] = max(s["s_max"], s["s"])
    kept = s["s_max"] if amsgrad else s["s"]
    return p - lr * (m / (1 - betas[0] ** t)) / (sqrt(kept / (1 - betas[1] ** t)) + eps)


ROWS = [
    Row(adabelief, lr=1e-3, decay=(0.0, False)),
    Row(adabelief, {**OTHERS, "betas": (0.8, 0.95), "eps": 1e-3, "eps_root": 1e-4}),
    Row(adabelief, {"convention": "optax"}, lr=1e-3),
    Row(adabelief, {"previous_mean": True}),
    Row(adabelief, {"amsgrad": True, "betas": (0.8, 0.9)}),  # as the authors' code
]


@each_backend
@loop("row", ROWS)
def test_follows_the_formula(row: Row, backend: Backend) -> None:
    assert_follows("adabelief", row, backend)


def test_adabelief_before_and_after_differ_by_beta1() -> None:
    after, before = (fo.AdaBelief(START[:5].copy(), eps_root=0.0, previous_mean=previous) for previous in (False, True))
    for g in ORDINARY:
        after.step(g)
        before.step(g)
    np.testing.assert_allclose(before.state["s"] * 0.9**2, after.state["s"], rtol=1e-12)


def test_adabelief_keeps_its_eps_root_in_float32() -> None:
    opt = fo.AdaBelief(np.zeros(3, np.float32))
    for _ in range(3):
        opt.step(np.zeros(3, np.float32))
    np.testing.assert_allclose(opt.state["s"], 3e-16, rtol=2e-3)
