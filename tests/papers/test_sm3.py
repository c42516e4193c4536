"""SM3 follows its paper: the sets of the cover are the rows and the columns of each matrix."""

from __future__ import annotations

from typing import Any

import numpy as np

import fastoptim as fo
from cases import Array, assert_same_bits
from loops import loop
from models import Backend, each_backend

SHAPES = ((4, 7), (7, 4), (3, 2, 5), (6,), (1, 6), (6, 1), ())
STEPS = 30


def values(seed: int) -> list[Array]:
    rng = np.random.default_rng(seed)
    return [np.asarray(rng.standard_normal(shape) * (rng.random(shape) < 0.7)) for shape in SHAPES]


GRADS = [values(100 + t) for t in range(STEPS)]


def sm3(p: Array, grads: list[Array], *, lr: float = 0.1, momentum: float = 0.9, weight_decay: float = 0.0) -> Array:
    """Algorithm SM3-II element by element, over a list of sets of indices."""
    matrix = p.shape if p.ndim > 1 else (p.size, 1)
    indices = list(np.ndindex(matrix))
    sets = {("row", *i[:-1]): 0.0 for i in indices} | {("column", *i[:-2], i[-1]): 0.0 for i in indices}
    q, m = p.reshape(matrix).copy(), np.zeros(matrix)
    for g in grads:
        gradient = g.reshape(matrix) + weight_decay * q
        following = dict.fromkeys(sets, 0.0)
        for i in indices:
            mine = ("row", *i[:-1]), ("column", *i[:-2], i[-1])
            nu = min(sets[each] for each in mine) + gradient[i] ** 2
            for each in mine:
                following[each] = max(following[each], nu)
            m[i] = momentum * m[i] + (1 - momentum) * (gradient[i] / np.sqrt(nu) if nu > 0 else 0.0)
        sets = following
        q -= lr * m
    return np.asarray(q.reshape(p.shape))


@each_backend
@loop("options", [{}, {"momentum": 0.0}, {"lr": 0.5, "momentum": 0.5, "weight_decay": 0.1}])
def test_follows_the_paper(backend: Backend, options: dict[str, Any]) -> None:
    params = values(0)
    opt = fo.SM3(params, backend=backend, **options)
    for grads in GRADS:
        opt.step(grads)
    for i, p in enumerate(params):
        wanted = sm3(values(0)[i], [grads[i] for grads in GRADS], **options)
        np.testing.assert_allclose(p, wanted, rtol=1e-12, atol=1e-13, err_msg=f"{SHAPES[i]}")


@each_backend
def test_bounds_are_at_least_the_sums_of_adagrad(backend: Backend) -> None:
    params = values(0)
    opt = fo.SM3(params, momentum=0.0, backend=backend)
    for grads in GRADS:
        opt.step(grads)
    assert all(set(state) == {"r", "c"} for state in opt.state)
    for i, state in enumerate(opt.state):
        sums = sum(grads[i] ** 2 for grads in GRADS)
        assert (np.minimum(state["r"], state["c"]) >= sums * (1 - 1e-12)).all()
        if params[i].ndim < 2:
            np.testing.assert_allclose(state["r"], sums, rtol=1e-12)


@each_backend
def test_an_element_without_a_gradient_stays(backend: Backend) -> None:
    p, g = np.full((3, 3), -0.0, np.float32), np.zeros((3, 3), np.float32)
    opt = fo.SM3(p, backend=backend)
    opt.step(g)
    assert_same_bits(p, np.full((3, 3), -0.0, np.float32))
    g[1, 1] = 1e-30  # whose square is 0
    opt.step(g)
    assert np.isfinite(p).all()
