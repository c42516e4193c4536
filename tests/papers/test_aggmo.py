"""AggMo (Lucas et al., 2019)."""

from __future__ import annotations

from collections.abc import Sequence

import fastoptim as fo
from loops import loop
from models import Backend, each_backend
from oracles import OTHERS, Row, State, assert_follows, assert_same_path


def aggmo(p: float, g: float, s: State, t: int, *, lr: float, betas: Sequence[float]) -> float:
    for i, beta in enumerate(betas):
        s[f"v{i + 1}"] = beta * s[f"v{i + 1}"] + g
    return p - lr / len(betas) * sum(s.values())


ROWS = [
    Row(aggmo, lr=0.01, decay=(0.0, False), arguments={"betas": (0.0, 0.9, 0.99)}),
    Row(aggmo, {**OTHERS, "betas": (0.3, 0.5, 0.999)}),
]


@each_backend
@loop("row", ROWS)
def test_follows_the_formula(row: Row, backend: Backend) -> None:
    assert_follows("aggmo", row, backend)


def test_with_equal_rates_it_is_heavy_ball() -> None:
    assert_same_path(fo.AggMo, {"betas": (0.9, 0.9, 0.9)}, fo.Momentum, {"momentum": 0.9, "form": "heavy_ball"})
