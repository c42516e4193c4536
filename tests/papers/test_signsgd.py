"""signSGD (Bernstein et al., 2018)."""

from __future__ import annotations

from loops import loop
from models import Backend, each_backend
from oracles import OTHERS, Row, State, assert_follows, sign


def signsgd(p: float, g: float, s: State, t: int, *, lr: float) -> float:
    return p - lr * sign(g)


ROWS = [
    Row(signsgd, lr=1e-3, decay=(0.0, False)),
    Row(signsgd, OTHERS),
]


@each_backend
@loop("row", ROWS)
def test_follows_the_formula(row: Row, backend: Backend) -> None:
    assert_follows("signsgd", row, backend)
