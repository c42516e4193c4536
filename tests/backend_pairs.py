"""An optimizer on both backends: native code has the bits of the reference in the parameters and in all state.

With a module `xp` the arrays of the native one are on its device.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

import fastoptim as fo
from cases import Array, DType, assert_same_bits, ordinary_values
from devices import get, put

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


def placed(xp: Any, thing: Any) -> Any:
    """Return an array, rows, or a list of these on the device, None for None."""
    if thing is None or xp is None:
        return thing
    if isinstance(thing, list):
        return [placed(xp, each) for each in thing]
    return fo.Rows(thing.index, put(xp, thing.values)) if isinstance(thing, fo.Rows) else put(xp, thing)


def pair(optimizer: Any, make: Any, xp: Any = None, **options: Any) -> tuple[Any, Any]:
    """Return the optimizer on both backends, each with parameters of its own."""
    native = optimizer(placed(xp, make()), backend="native", **options)
    return native, optimizer(make(), backend="reference", **options)


def assert_equal(native: Any, reference: Any, place: str = "", xp: Any = None) -> None:
    def host(array: Any) -> Any:
        return array if isinstance(array, np.ndarray) else get(xp, array)

    for param, want in zip(native.param_states, reference.param_states, strict=True):
        assert_same_bits(host(param.p), want.p, f"{place}: {param.p_place}")
        assert param.state.keys() == want.state.keys()
        for name, array in param.state.items():
            assert_same_bits(host(array), want.state[name], f"{place}: {name} of {param.p_place}")


def check_steps(
    optimizer: Any,
    options: dict[str, Any],
    around: Sequence[dict[str, Any]],
    dtypes: Sequence[DType],
    sizes: Sequence[int],
    steps: int,
    xp: Any = None,
) -> None:
    """Compare the backends after each step, with the dtypes in turn among parameters, gradients and options."""

    def arrays(seed: int, first: int) -> list[Array]:
        return [values(seed + k, dtypes[(k + first) % len(dtypes)], size) for k, size in enumerate(sizes)]

    for i, each in enumerate(around):
        try:
            native, reference = pair(optimizer, lambda i=i: arrays(0, i), xp, lr=0.01, **{**options, **each})
        except ValueError:  # options that the optimizer cannot have
            assert each
            continue
        for t in range(steps):
            grads: list[Array | None] = [*arrays(100 * t, t)]
            if t == 1 and not optimizer.reduces_all:
                grads[-1] = None
            native.step(placed(xp, grads))
            reference.step(grads)
            assert_equal(native, reference, f"{each}, step {t}", xp)
