"""Adam-mini follows its paper, and is AdamW where every element is a block."""

from __future__ import annotations

import copy
import math
from typing import Any

import numpy as np
import pytest

import fastoptim as fo
from cases import Array
from loops import loop
from models import Backend, each_backend

SHAPES = ((4, 7), (8, 4), (3, 2, 5), (6,), (2, 6), ())
STEPS = 30


def values(seed: int) -> list[Array]:
    rng = np.random.default_rng(seed)
    return [np.asarray(rng.standard_normal(shape)) for shape in SHAPES]


GRADS = [values(100 + t) for t in range(STEPS)]


def blocks_of(p: Array, partition: str, heads: int) -> list[Array]:
    """The indices of each block, in the order of memory."""
    places = np.arange(p.size).reshape(p.shape)
    if p.ndim < 2 or partition == "array":
        return [places.reshape(-1)]
    count = p.shape[-2] if partition == "rows" else heads
    return list(places.reshape(math.prod(p.shape[:-2]) * count, -1))


def adam_mini(
    p: Array,
    grads: list[Array],
    *,
    lr: float = 1e-3,
    betas: tuple[float, float] = (0.9, 0.999),
    eps: float = 1e-8,
    weight_decay: float = 0.0,
    partition: str = "rows",
    heads: int = 1,
) -> Array:
    q, blocks = p.reshape(-1).copy(), blocks_of(p, partition, heads)
    m, v = np.zeros(p.size), [0.0] * len(blocks)
    for t, gradient in enumerate(grads, 1):
        g = gradient.reshape(-1)
        m = betas[0] * m + (1 - betas[0]) * g
        q *= 1 - lr * weight_decay
        for k, block in enumerate(blocks):
            v[k] = betas[1] * v[k] + (1 - betas[1]) * (g[block] ** 2).mean()
            denominator = math.sqrt(v[k] / (1 - betas[1] ** t)) + eps
            q[block] -= lr * m[block] / (1 - betas[0] ** t) / denominator
    return np.asarray(q.reshape(p.shape))


@each_backend
@loop(
    "options",
    [
        {},
        {"partition": "array"},
        {"partition": "heads", "heads": 2},
        {"lr": 0.1, "weight_decay": 0.5, "eps": 0.1, "betas": (0.5, 0.7)},
    ],
)
def test_follows_the_paper(backend: Backend, options: dict[str, Any]) -> None:
    params = values(0)
    opt = fo.AdamMini(params, backend=backend, **options)
    for grads in GRADS:
        opt.step(grads)
    for i, p in enumerate(params):
        wanted = adam_mini(values(0)[i], [grads[i] for grads in GRADS], **options)
        np.testing.assert_allclose(p, wanted, rtol=1e-12, atol=1e-13, err_msg=f"{SHAPES[i]}")
        blocks = blocks_of(p, options.get("partition", "rows"), options.get("heads", 1))
        assert opt.state[i]["v"].size == len(blocks)


def test_is_adamw_with_blocks_of_one_element() -> None:
    p, q = np.ones((5, 1)), np.ones((5, 1))
    opt, other = fo.AdamMini(p, lr=0.1, weight_decay=0.1), fo.AdamW(q, lr=0.1, weight_decay=0.1)
    for t in range(STEPS):
        g = np.random.default_rng(t).standard_normal((5, 1))
        opt.step(g)
        other.step(g)
    np.testing.assert_allclose(p, q, rtol=1e-12)


@each_backend
def test_heads_divide_the_rows(backend: Backend) -> None:
    with pytest.raises(ValueError, match="expected rows that heads=3 divides, got 4"):
        fo.AdamMini(np.ones((4, 6)), partition="heads", heads=3, backend=backend)
    opt = fo.AdamMini({"w": np.ones((6, 4))}, partition="heads", heads=3, backend=backend)
    before = opt.state_dict()
    for change, message in (
        ({"heads": 2}, r"param_groups\[0\]: heads: expected 3 as the optimizer was made, as the shape of 'v' depends"),
        ({"heads": 2**62}, r"params\['w'\]: expected rows that heads=4611686018427387904 divides, got 6"),
        ({"partition": "rows"}, r"param_groups\[0\]: partition: expected 'heads' as the optimizer was made"),
    ):
        opt.param_groups[0].update(change)
        with pytest.raises(ValueError, match=message):
            opt.step({"w": np.ones((6, 4))})
        opt.param_groups[0].update(partition="heads", heads=3)
        saved = copy.deepcopy(before)
        saved["groups"][0].update(change)
        with pytest.raises(ValueError, match=message.replace("param_groups", r"state_dict\['groups'\]")):
            opt.load_state_dict(saved)
    opt.step({"w": np.ones((6, 4))})


@each_backend
def test_arrays_without_rows_have_any_number_of_heads(backend: Backend) -> None:
    opt = fo.AdamMini(np.ones((0, 4)), partition="heads", heads=2**62, backend=backend)
    opt.step(np.ones((0, 4)))
    assert opt.state["v"].shape == (0, 1)
