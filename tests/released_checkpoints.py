"""A checkpoint of every optimizer as a released version writes it, for the test that later versions continue from it.

    python tests/released_checkpoints.py      writes tests/interface/checkpoints/VERSION.safetensors, on a release

The file has a short run of each optimizer with its defaults, and one with groups, options, an average and a schedule
that has state.  `digest` is that of parameters and state one step later.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

import digests
import fastoptim as fo
from cases import Array

DIRECTORY = Path(__file__).parent / "interface" / "checkpoints"
STEPS = 3


def make_params() -> dict[str, Array]:
    return {"w": digests.numbers(0, 6, np.dtype("f4")).reshape(2, 3), "b": digests.numbers(1, 2, np.dtype("f8"))}


def grads_of_step(t: int) -> dict[str, Any]:
    """The second array has no gradient in the second step."""
    grads = {
        key: digests.numbers(10 * t + p.size, p.size, p.dtype).reshape(p.shape) for key, p in make_params().items()
    }
    return grads if t != 2 else grads | {"b": None}


def make_rich(params: dict[str, Array]) -> fo.Optimizer:
    """Make an optimizer with most of what a checkpoint may contain."""
    groups: list[dict[str, Any]] = [
        {"params": params["w"], "lr": fo.schedules.ReduceOnPlateau(0.1, factor=0.5, patience=2)},
        {"params": params["b"], "lr": 0.01, "weight_decay": 0.1, "betas": (0.8, 0.9)},
    ]
    return fo.AdamW(groups, amsgrad=True, ema=0.9, clip_norm=1.0, skip_nonfinite=True)


def step_rich(opt: fo.Optimizer, t: int) -> None:
    opt.step(list(grads_of_step(t).values()))
    opt.param_groups[0]["lr"].update(1.0 + t)


def runs() -> Iterator[tuple[str, dict[str, Any]]]:
    """Yield each optimizer's name with its parameters and state dict, and the digest after another step."""
    for name, cls in fo.OPTIMIZERS.items():
        params = make_params()
        opt = cls(params)
        for t in range(1, STEPS + 1):
            opt.step(grads_of_step(t))
        record = {"params": {key: p.copy() for key, p in params.items()}, "state": opt.state_dict()}
        opt.step(grads_of_step(STEPS + 1))
        yield name, record | {"digest": digests.digest_of(opt)}


def main() -> None:
    params = make_params()
    opt = make_rich(params)
    opt.param_groups[1]["initial_lr"] = 0.01  # as PyTorch's schedulers keep it
    for t in range(1, STEPS + 1):
        step_rich(opt, t)
    _, later = copy.deepcopy((params, opt))
    step_rich(later, STEPS + 1)
    path, scaler = DIRECTORY / f"{fo.__version__}.safetensors", fo.LossScaler(512.0).state_dict()
    fo.save(path, params=params, optimizer=opt, scaler=scaler, runs=dict(runs()), digest=digests.digest_of(later))
    print(f"wrote {path}, {path.stat().st_size} bytes")


if __name__ == "__main__":
    main()
