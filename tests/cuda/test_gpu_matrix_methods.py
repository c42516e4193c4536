"""Optimizers of whole matrices on CUDA arrays: the steps of the CPU, up to the rounding of products."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

import fastoptim as fo
from cases import Array
from devices import get, put, with_device
from fastoptim.optimizer.base import FACTORED_OPTIMIZERS, MATRIX_OPTIMIZERS

SHAPES = ((6, 9), (9, 4), (2, 3, 5))
# The eigenvectors of factors without full rank are the library's choice.
FULL_RANK = ((6, 6), (1, 4), (2, 3, 5))

every_matrix_optimizer = pytest.mark.parametrize("optimizer", MATRIX_OPTIMIZERS.values(), ids=lambda cls: cls.name)


def arrays(seed: int, dtype: Any, optimizer: Any = None) -> list[Array]:
    rng, shapes = np.random.default_rng(seed), FULL_RANK if optimizer is fo.SOAP else SHAPES
    return [rng.standard_normal(shape).astype(dtype) for shape in shapes]


@with_device
@every_matrix_optimizer
@pytest.mark.parametrize(("dtype", "tolerance"), [(np.float64, 1e-12), (np.float32, 1e-5)])
def test_steps_as_on_the_cpu(xp: Any, optimizer: type[fo.Optimizer], dtype: Any, tolerance: float) -> None:
    host = arrays(0, dtype, optimizer)
    device = [put(xp, p) for p in host]
    options: dict[str, Any] = {"lr": 0.05, "clip_global_norm": 1.0, "skip_nonfinite": True}
    opts = [optimizer(host, **options), optimizer(device, **options)]
    for t in range(4):
        grads: list[Any] = arrays(t + 1, dtype, optimizer)
        if t == 2:
            grads[1][0, 0] = np.nan
        results = [opts[0].step(grads), opts[1].step([put(xp, g) for g in grads])]
        assert results == [t != 2] * 2
    opts[1].load_state_dict(opts[1].state_dict())
    for p, q in zip(host, device, strict=True):
        np.testing.assert_allclose(get(xp, q), p, rtol=0, atol=tolerance)


@with_device
@pytest.mark.parametrize("optimizer", [fo.Muon, fo.NorMuon], ids=lambda cls: cls.name)
def test_options_of_shapes_and_magnitudes(xp: Any, optimizer: type[fo.Optimizer]) -> None:
    for options in (
        {"heads": 3},
        {"flatten": True},
        {"heads": 3, "input_first": True},
        {"eps_floor": True},
        {"eps": 0},
    ):
        if not options.keys() <= optimizer.defaults.keys():
            continue
        try:
            optimizer.check_options(options)
        except ValueError:
            continue
        for scale in (1e-30, 0.0, 1e30):
            g = arrays(1, np.float32)[0] * np.float32(scale)
            p, q = np.zeros_like(g), put(xp, np.zeros_like(g))
            optimizer(p, lr=1.0, **options).step(g)
            optimizer(q, lr=1.0, **options).step(put(xp, g))
            np.testing.assert_allclose(get(xp, q), p, rtol=0, atol=1e-4)


@with_device
@pytest.mark.parametrize(
    ("optimizer", "options"),
    [
        (fo.SOAP, {"precondition_frequency": 1, "merge_dims": True, "max_precond_dim": 6, "precondition_1d": True}),
        (fo.SOAP, {"precondition_frequency": 2, "normalize_grads": True, "max_precond_dim": 5}),
        (fo.Shampoo, {"grafting": "adam", "betas": (0.9, 0.95), "precondition_frequency": 2}),
        (fo.Shampoo, {"grafting": "sgd", "max_precond_dim": 5}),
    ],
)
def test_options_of_preconditioners(xp: Any, optimizer: type[fo.Optimizer], options: dict[str, Any]) -> None:
    host = [*arrays(0, np.float64, fo.SOAP), np.ones(1)]
    device = [put(xp, p) for p in host]
    opts = [optimizer(host, **options), optimizer(device, **options)]
    for t in range(5):
        grads = [*arrays(t + 1, np.float64, fo.SOAP), np.full(1, t - 2.0)]
        opts[0].step(grads)
        opts[1].step([put(xp, g) for g in grads])
    for p, q in zip(host, device, strict=True):
        np.testing.assert_allclose(get(xp, q), p, rtol=0, atol=1e-9)


@with_device
@pytest.mark.parametrize(
    "optimizer", [*MATRIX_OPTIMIZERS.values(), *FACTORED_OPTIMIZERS.values()], ids=lambda cls: cls.name
)
def test_a_graph_cannot_capture_stages(xp: Any, optimizer: type[fo.Optimizer]) -> None:
    p, g = (put(xp, arrays(seed, np.float32)[0]) for seed in range(2))
    opt = optimizer(p)
    with xp.cuda.Stream(non_blocking=True) as stream:
        opt.step(g)
        before = get(xp, p).copy()
        stream.begin_capture()
        with pytest.raises(RuntimeError, match=f"^step: expected no step of {optimizer.__name__} while a CUDA"):
            opt.step(g)
        stream.end_capture()
    assert (get(xp, p) == before).all()
