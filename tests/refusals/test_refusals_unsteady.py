"""Arrays that change or misstate their memory, keys that run code, and messages about models of many arrays."""

from __future__ import annotations

import re
import signal
from collections.abc import Iterator
from contextlib import suppress
from typing import Any

import numpy as np
import pytest

import fastoptim as fo
from cases import Array
from loops import loop
from models import Backend, each_backend


@pytest.fixture(autouse=True)
def _ends() -> Iterator[None]:
    """End a step that never returns."""
    if hasattr(signal, "alarm"):
        signal.alarm(60)
    yield
    if hasattr(signal, "alarm"):
        signal.alarm(0)


# ---- gradients whose strides are unusual

RECORDS = [
    ([("row", "i4"), ("g", "f8")], 9),
    ([("flag", "u1"), ("g", "f4")], (4, 3)),
    ([("k", "u1"), ("g", "f2")], 5),
    ([("k", "u1"), ("g", "f8")], (2, 1, 3)),
]


@each_backend
@loop("case", RECORDS)
def test_a_field_of_packed_records_is_a_gradient(backend: Backend, case: Any) -> None:
    fields, shape = case
    records = np.zeros(shape, fields)
    records["g"] = np.arange(records.size).reshape(shape)
    p, wanted = np.ones((2, *records.shape), fields[1][1])
    fo.SGD(p, lr=0.5, backend=backend).step(records["g"])
    fo.SGD(wanted, lr=0.5, backend=backend).step(np.ascontiguousarray(records["g"]))
    assert p.tobytes() == wanted.tobytes()


#: An array class that misstates all that a subclass can.
LIES = {"shape": (7, 7), "strides": (8, 1), "dtype": np.dtype(np.int8), "size": 1000, "ndim": 2, "flags": None}
Liar: Any = type("Liar", (np.ndarray,), LIES)


@each_backend
def test_what_a_subclass_says_of_its_memory_does_not_count(backend: Backend) -> None:
    p, wanted = np.ones((2, 6))
    g = np.arange(12.0)[::2]
    opt = fo.Adam({"p": p.view(Liar)}, backend=backend)
    reference = fo.Adam({"p": wanted}, backend=backend)
    for _ in range(3):
        opt.step({"p": g.view(Liar)})
        reference.step({"p": g})
    assert p.tobytes() == wanted.tobytes()


@pytest.mark.parametrize("grad", [None, np.ones(3)])
@pytest.mark.parametrize("steps", [0, 2])
@each_backend
def test_a_locked_parameter_is_rejected_with_and_without_a_gradient(
    backend: Backend, steps: int, grad: Array | None
) -> None:
    a, b = np.ones((2, 3))
    opt = fo.Adam([a, b], backend=backend)
    for _ in range(steps):
        opt.step([np.ones(3), np.ones(3)])
    b.flags.writeable = False
    with pytest.raises(ValueError, match=re.escape("params[1]: expected a writeable array")):
        opt.step([np.ones(3), grad])
    assert opt.step_count == steps


@pytest.mark.filterwarnings("ignore:Setting the dtype:DeprecationWarning")  # NumPy 2.5
def test_a_dtype_assigned_in_place_is_noticed() -> None:
    """Whatever address the new dtype object has."""
    p: Any = np.ones(8, np.float32)
    opt = fo.SGD(p)
    for _ in range(3):
        opt.step(np.ones(8, np.float32))
    for _ in range(20):
        p.dtype = np.dtype({"names": ["x"], "formats": ["f4"]})
        with pytest.raises(TypeError, match="dtype"):
            opt.step(np.ones(8, np.float32))
        p.dtype = np.dtype(np.float32, metadata={"a": 1})
        opt.step(np.ones(8, np.float32))


# ---- state that is shown


@each_backend
def test_nobody_reaches_the_state_that_a_view_shows(backend: Backend) -> None:
    for size in (3, 100_000):
        opt = fo.Adam(np.ones(size), backend=backend)
        opt.step(np.ones(size))
        shown: Any = opt.state["m"]
        while isinstance(shown, np.ndarray):
            with pytest.raises(ValueError, match="resize"):
                shown.resize(1, refcheck=False)
            shown = shown.base
        assert shown is not None
        opt.step(np.ones(size))


# ---- keys that run code


class Key(str):
    """A key whose comparison clears the gradients once."""

    victims: list[Any] = []

    def __hash__(self) -> int:
        return 5

    def __eq__(self, other: object) -> bool:
        while Key.victims:
            Key.victims.pop().clear()
        return str.__eq__(self, other)


@pytest.mark.parametrize("clears", ["list", "dict"])
@pytest.mark.parametrize("lr", [0.1, lambda t: 0.1])
def test_a_key_that_empties_the_gradients(clears: str, lr: Any) -> None:
    def tree(number: float) -> list[Any]:
        return [{Key("a"): np.full(3, number), Key("b"): [np.full(3, number)]}, *np.full((50, 3), number)]

    opt = fo.Adam(tree(0.0), lr=lr)
    for _ in range(3):
        opt.step(tree(1.0))
    for _ in range(20):
        grads = tree(1.0)
        Key.victims = [grads if clears == "list" else grads[0]]
        with suppress(TypeError, KeyError, RuntimeError):
            opt.step(grads)
        Key.victims = []
    opt.step(tree(1.0))


# ---- many arrays


@each_backend
def test_a_message_about_many_arrays_is_short(backend: Backend) -> None:
    count = 3000
    params = {f"w{i}": np.zeros(1, np.float32) for i in range(count)}
    opt = fo.SGD(params, backend=backend)
    wrong = {f"layer.{name}": p.copy() for name, p in params.items()}
    for grads in (wrong, [*wrong.values()], {}):
        with pytest.raises(TypeError, match="grads: expected") as caught:
            opt.step(grads)
        assert len(str(caught.value)) < 2000
    lr: Any
    for lr in ([0.1] * 100_000, 10**5000):
        with pytest.raises((TypeError, ValueError), match="lr: expected") as refused:
            fo.SGD(np.zeros(3), lr=lr)
        assert len(str(refused.value)) < 2000


def test_unusual_gradients_take_time_that_grows_with_their_number() -> None:
    """Each is checked once, against the written ranges at its own addresses alone."""
    count = 500
    grads, params = np.split(np.zeros(count * 12), [count * 8])  # below the parameters
    opt = fo.SGD([*params.reshape(count, 4)])
    looked_at = 0

    class Counted(list[Any]):
        def __getitem__(self, index: Any) -> Any:
            nonlocal looked_at
            found = list.__getitem__(self, index)
            looked_at += len(found) if isinstance(index, slice) else 1
            return found

    opt.step([*np.zeros((count, 4))])
    engine: Any = opt._engine
    engine._written._owned = Counted(engine._written._owned)
    opt.step([*grads.reshape(count, 8)[:, ::2]])
    assert looked_at <= 3 * count
