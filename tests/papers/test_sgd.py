"""SGD, in the formulas of PyTorch, Keras, optax, MLX and Sutskever et al. (2013)."""

from __future__ import annotations

from loops import loop
from models import Backend, each_backend
from oracles import OTHERS, Options, Row, State, assert_follows


def torch_sgd(
    p: float,
    g: float,
    s: State,
    t: int,
    *,
    lr: float,
    momentum: float = 0,
    dampening: float = 0,
    nesterov: bool = False,
) -> float:
    if momentum == 0:
        return p - lr * g
    s["b"] = g if t == 1 else momentum * s["b"] + (1 - dampening) * g
    return p - lr * (g + momentum * s["b"] if nesterov else s["b"])


def mlx_sgd(p: float, g: float, s: State, t: int, *, lr: float, momentum: float, dampening: float) -> float:
    return p - lr * velocity(s, momentum, (1 - dampening) * g)


def velocity(s: State, momentum: float, g: float) -> float:
    s["v"] = momentum * s["v"] + g
    return s["v"]


def keras_sgd(p: float, g: float, s: State, t: int, *, lr: float, momentum: float = 0, nesterov: bool = False) -> float:
    v = velocity(s, momentum, -lr * g)
    return p + (momentum * v - lr * g if nesterov else v)


def optax_sgd(p: float, g: float, s: State, t: int, *, lr: float, momentum: float = 0, nesterov: bool = False) -> float:
    trace = velocity(s, momentum, g)
    return p - lr * (g + momentum * trace if nesterov else trace)


def sutskever_sgd(
    p: float, g: float, s: State, t: int, *, lr: float, momentum: float = 0, dampening: float = 0
) -> float:
    """Equations 1 and 2, with dampening in every step."""
    return p + velocity(s, momentum, -lr * (1 - dampening) * g)


def sutskever_nesterov(p: float, g: float, s: State, t: int, *, lr: float, momentum: float) -> float:
    """Equations 3 and 4.  Their gradient is that of the point ahead, which is the point that others store."""
    start = p - momentum * s["v"]
    v = velocity(s, momentum, -lr * g)
    return start + v + momentum * v


PUSH: Options = {"momentum": 0.9}
DAMPED: Options = {"momentum": 0.9, "dampening": 0.3}
NESTEROV: Options = {"momentum": 0.9, "nesterov": True}
KERAS: Options = {"convention": "keras"}
OPTAX: Options = {"convention": "optax"}
PAPER: Options = {"convention": "paper"}

ROWS = [
    Row(torch_sgd, lr=1e-3, decay=(0.0, False)),
    Row(torch_sgd, OTHERS),
    Row(torch_sgd, {**OTHERS, **DAMPED}),
    Row(torch_sgd, {**OTHERS, **NESTEROV}),
    Row(mlx_sgd, {**DAMPED, "dampen_first": True}),
    Row(keras_sgd, KERAS, lr=0.01),
    Row(keras_sgd, {**KERAS, **PUSH}),
    Row(keras_sgd, {**KERAS, **NESTEROV}),
    Row(optax_sgd, OPTAX),
    Row(optax_sgd, {**OPTAX, **PUSH}),
    Row(optax_sgd, {**OPTAX, **NESTEROV}),
    Row(sutskever_sgd, {**PAPER, **PUSH}),
    Row(sutskever_sgd, {**PAPER, **DAMPED}),
    Row(sutskever_nesterov, {**PAPER, **NESTEROV}),
]


@each_backend
@loop("row", ROWS)
def test_follows_the_formula(row: Row, backend: Backend) -> None:
    assert_follows("sgd", row, backend)
