"""Nesterov's accelerated gradient: momentum whose gradient is that of the point ahead."""

from __future__ import annotations

import numpy as np

import fastoptim as fo
from cases import assert_same_bits
from loops import loop
from models import Backend, each_backend
from oracles import OTHERS, Row, State, assert_follows


def nag(p: float, g: float, s: State, t: int, *, lr: float, momentum: float = 0.9) -> float:
    s["v"] = momentum * s["v"] - lr * g
    return p + s["v"]


ROWS = [
    Row(nag, lr=0.01, decay=(0.0, False)),
    Row(nag, {**OTHERS, "momentum": 0.6}),
]


@each_backend
@loop("row", ROWS)
def test_follows_the_formula(row: Row, backend: Backend) -> None:
    assert_follows("nag", row, backend)


@each_backend
def test_the_gradient_is_taken_ahead(backend: Backend) -> None:
    """Minimize p*p.  At 1, ahead 1: g = 2, v = -0.5, p = 0.5.  Ahead 0.5 - 0.25: g = 0.5, v = -0.375, p = 0.125."""
    p = np.ones(1)
    opt = fo.NAG(p, lr=0.25, momentum=0.5, backend=backend)
    for ahead, after in ((1, 0.5), (0.25, 0.125)):
        before = p.copy()
        with opt.lookahead():
            assert p[0] == ahead
            g = 2 * p
        assert_same_bits(p, before, "p")
        opt.step(g)
        assert p[0] == after
