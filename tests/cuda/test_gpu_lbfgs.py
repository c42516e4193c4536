"""L-BFGS on CUDA arrays: the bits of the CPU."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

import fastoptim as fo
from cases import Array
from devices import get, put, with_device


@with_device
@pytest.mark.parametrize("dtype", [np.float64, np.float32, np.float16])
@pytest.mark.parametrize("order", ["C", "F"])
def test_bits_are_those_of_the_cpu(xp: Any, dtype: Any, order: Any) -> None:
    rng = np.random.default_rng(0)
    starts = [np.asarray(rng.normal(size=shape), dtype=dtype, order=order) for shape in ((40, 900), (7,))]
    factors = [rng.uniform(0.1, 10, start.shape) for start in starts]

    def loss_of(params: list[Array]) -> tuple[float, list[Array]]:
        wide = [p.astype(np.float64) for p in params]
        loss = sum(float((a * p * p).sum()) for a, p in zip(factors, wide, strict=True)) / 2
        return loss, [(a * p).astype(dtype) for a, p in zip(factors, wide, strict=True)]

    host = [start.copy(order="K") for start in starts]
    on_gpu = [put(xp, start) for start in starts]
    ends = []
    for params, closure in (
        (host, lambda: loss_of(host)),
        (on_gpu, lambda: _on_device(xp, loss_of([get(xp, p) for p in on_gpu]))),
    ):
        opt = fo.LBFGS(params, history_size=5)
        for _ in range(2):
            opt.step(closure)
        again = fo.LBFGS(params)
        again.load_state_dict(opt.state_dict())
        again.step(closure)
        ends.append((again.evaluations, again.reason))
    assert ends[0] == ends[1]
    for p, q in zip(host, on_gpu, strict=True):
        assert p.tobytes("K") == get(xp, q).tobytes("K")


def _on_device(xp: Any, result: tuple[float, list[Array]]) -> tuple[float, list[Any]]:
    return result[0], [put(xp, g) for g in result[1]]
