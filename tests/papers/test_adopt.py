"""ADOPT (Taniguchi et al., 2024)."""

from __future__ import annotations

from math import inf, sqrt

import numpy as np

import fastoptim as fo
from cases import DType, assert_same_bits
from fastoptim.reference_math import compute_dtype
from loops import loop
from models import Backend, each_backend, each_dtype
from oracles import ORDINARY, OTHERS, START, Pair, Row, State, assert_follows, clip, ema, moves


def adopt(
    p: float,
    g: float,
    s: State,
    t: int,
    *,
    lr: float,
    betas: Pair = (0.9, 0.9999),
    eps: float = 1e-6,
    clipped: bool = True,
) -> float:
    if t == 1:
        s["v"] = g * g
        return p
    bound = (t - 1) ** 0.25 if clipped else inf
    m = ema(s, "m", betas[0], clip(g / max(sqrt(s["v"]), eps), -bound, bound))
    ema(s, "v", betas[1], g * g)
    return p - lr * m


ROWS = [
    Row(adopt, lr=1e-3, decay=(0.0, False)),
    Row(adopt, {**OTHERS, "betas": (0.8, 0.95), "eps": 0.3}),
    Row(adopt, {"clipped": False, "weight_decay": 0.1, "decoupled": True}),
]


@each_backend
@loop("row", ROWS)
def test_follows_the_formula(row: Row, backend: Backend) -> None:
    assert_follows("adopt", row, backend)


@each_backend
@each_dtype
def test_adopt_s_first_step_only_looks(dtype: DType, backend: Backend) -> None:
    p, g = START[:5].astype(dtype), ORDINARY[0].astype(dtype)
    before = p.copy()
    opt = fo.ADOPT(p, backend=backend)
    opt.step(g)
    assert_same_bits(p, before)
    wide = g.astype(compute_dtype(dtype))
    assert_same_bits(opt.state["v"], wide * wide)
    assert (opt.state["m"] == 0).all()


def test_adopt_s_ratios_are_bounded_unless_it_is_told_not_to() -> None:
    grads = np.array([[1e-9], [1.0]])
    for clipped, size in ((True, 0.1), (False, 1e5)):
        *_, last = moves(fo.ADOPT(np.zeros(1), lr=1.0, clipped=clipped), grads)
        np.testing.assert_allclose(last, -size, rtol=1e-12)
