"""An optimizer on both backends: native code has the bits of the reference in the parameters and in all state."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from cases import Array, DType, assert_same_bits, ordinary_values

#: Options around the rule, of which an optimizer may lack some.
AROUND: tuple[dict[str, Any], ...] = (
    {},
    {"weight_decay": 0.1, "decoupled": True, "ema": 0.9},
    {"bounds": (-0.5, 0.25), "grad_scale": 2.0, "l1": 0.01, "swa_start": 1},
    {"cautious": True, "clip_norm": 0.5},
    {"weight_decay": 0.1, "decoupled": True, "cautious_decay": True, "skip_nonfinite": True},
)


def values(seed: int, dtype: DType, size: int) -> Array:
    return ordinary_values(np.random.default_rng(seed), dtype, size)


def pair(optimizer: Any, make: Any, **options: Any) -> tuple[Any, Any]:
    """Return the optimizer on both backends, each with parameters of its own."""
    native, reference = (optimizer(make(), backend=backend, **options) for backend in ("native", "reference"))
    return native, reference


def assert_equal(native: Any, reference: Any, place: str = "") -> None:
    for param, want in zip(native.param_states, reference.param_states, strict=True):
        assert_same_bits(param.p, want.p, f"{place}: {param.p_place}")
        assert param.state.keys() == want.state.keys()
        for name, array in param.state.items():
            assert_same_bits(array, want.state[name], f"{place}: {name} of {param.p_place}")


def check_steps(
    optimizer: Any,
    options: dict[str, Any],
    around: Sequence[dict[str, Any]],
    dtypes: Sequence[DType],
    sizes: Sequence[int],
    steps: int,
) -> None:
    """Compare the backends after each step, with the dtypes in turn among parameters, gradients and options."""

    def arrays(seed: int, first: int) -> list[Array]:
        return [values(seed + k, dtypes[(k + first) % len(dtypes)], size) for k, size in enumerate(sizes)]

    for i, each in enumerate(around):
        try:
            native, reference = pair(optimizer, lambda i=i: arrays(0, i), lr=0.01, **{**options, **each})
        except ValueError:  # options that the optimizer cannot have
            assert each
            continue
        for t in range(steps):
            grads: list[Array | None] = [*arrays(100 * t, t)]
            if t == 1 and not optimizer.reduces_all:
                grads[-1] = None
            native.step(grads)
            reference.step(grads)
            assert_equal(native, reference, f"{each}, step {t}")
