"""Wrappers, sums of gradients and mixed groups have the same bits on a GPU, or on the emulated one."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

import fastoptim as fo
from cases import DTYPES, assert_same_bits, ordinary_values
from devices import get, put, with_device

SHAPES = ((4, 3), (5,))

MADE: dict[str, Any] = {
    "lookahead": lambda p: fo.Lookahead(fo.Adam(p, lr=0.1), k=2, alpha=0.3),
    "sam": lambda p: fo.SAM(fo.SGD(p, lr=0.1, momentum=0.9), rho=0.5, adaptive=True),
    "grokfast": lambda p: fo.GrokFast(fo.Adam(p, lr=0.1)),
    "accumulated": lambda p: fo.Adam(p, lr=0.1, clip_global_norm=0.5),
    "sgld": lambda p: fo.SGLD(p, lr=0.1, seed=5),
    "mixed": lambda p: fo.Mixed(
        [{"params": p[0], "optimizer": fo.Lion}, {"params": p[1], "optimizer": fo.AdamW}], clip_global_norm=0.5
    ),
}


@with_device
@pytest.mark.parametrize("name", MADE)
def test_bits_of_the_cpu(xp: Any, name: str) -> None:
    rng = np.random.default_rng(0)
    for dtype in DTYPES[:3]:
        host = [ordinary_values(rng, dtype, int(np.prod(shape))).reshape(shape) for shape in SHAPES]
        device = [put(xp, p) for p in host]
        ours, other = MADE[name](device), MADE[name](host)
        for t in range(5):
            g = [ordinary_values(rng, DTYPES[t % 3], p.size).reshape(p.shape) for p in host]
            for opt, grads in ((ours, [put(xp, each) for each in g]), (other, g)):
                if name == "sam":
                    with opt.ascent(grads):
                        pass
                if name == "accumulated":
                    opt.accumulate(grads)
                    opt.accumulate([None, grads[1]])
                    opt.step()
                else:
                    opt.step(grads)
        for p, expected in zip(device, host, strict=True):
            assert_same_bits(get(xp, p), expected)
