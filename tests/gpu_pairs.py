"""An optimizer on the device and its twin by the reference on the CPU, led through the same calls."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from cases import DTYPES, Array, Case, assert_same_bits
from cases import ordinary_values as ordinary
from devices import get, put
from models import leaves

SHAPES = ((3,), (), (0,), (4, 5), (2, 3, 4), (129,))


def tree_of(arrays: Sequence[Any]) -> dict[str, Any]:
    """Dicts, lists and tuples with arrays in them."""
    first, second, third, *rest = arrays
    return {"a": [first, (second, third)], "b": {"c": rest}}


def model(seed: int, dtypes: Sequence[np.dtype[Any]] = DTYPES) -> list[Array]:
    rng = np.random.default_rng(seed)
    arrays = []
    for i, shape in enumerate(SHAPES):
        values = ordinary(rng, dtypes[(i + seed) % len(dtypes)], int(np.prod(shape))).reshape(shape)
        arrays.append(np.asfortranarray(values) if i % 2 else values)
    return arrays


def assert_same_leaves(xp: Any, there: Any, here: Any) -> None:
    for array, wanted in zip(leaves(there), leaves(here), strict=True):
        assert_same_bits(get(xp, array), wanted)


class Pair:
    """An optimizer on the device, and its twin by the reference."""

    def __init__(self, xp: Any, make: Callable[..., Any], params: Sequence[Array]) -> None:
        self.xp = xp
        self.there: Any = make(self.onto([p.copy(order="K") for p in params]), "native")
        self.here: Any = make(tree_of([p.copy(order="K") for p in params]), "reference")

    def onto(self, arrays: Sequence[Array | None]) -> Any:
        return tree_of([None if array is None else put(self.xp, array) for array in arrays])

    def both(self) -> tuple[Any, Any]:
        return self.there, self.here

    def step(self, grads: Sequence[Array | None]) -> bool | None:
        taken: bool | None = self.there.step(self.onto(grads))
        wanted: bool | None = self.here.step(tree_of(grads))
        assert taken is wanted
        self.assert_same()
        return taken

    def assert_same(self) -> None:
        assert self.there.step_count == self.here.step_count
        for i, (p, wanted) in enumerate(zip(leaves(self.there.params), leaves(self.here.params), strict=True)):
            assert type(p) is self.xp.ndarray
            assert_same_bits(get(self.xp, p), wanted, f"p {i}")
        for i, (there, here) in enumerate(zip(self.there.param_states, self.here.param_states, strict=True)):
            assert there.state.keys() == here.state.keys()
            for name, array in there.state.items():
                assert type(array) is self.xp.ndarray
                assert_same_bits(get(self.xp, array), here.state[name], f"{name} of p {i}")


def pair_of(xp: Any, case: Case, seed: int = 0) -> Pair:
    return Pair(xp, lambda params, backend: case.optimize(params, backend), model(seed))
