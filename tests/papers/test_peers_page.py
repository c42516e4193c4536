"""Live frameworks: both sides of every row of the table in docs/coming_from.md."""

from __future__ import annotations

import re
from collections.abc import Callable
from contextlib import nullcontext
from typing import Any

import numpy as np
import pytest

import fastoptim as fo
from cases import CHECKOUT, Array
from frameworks import FRAMEWORKS, import_keras, import_optax, import_torch, keras_warning

pytestmark = keras_warning

RTOL, ATOL = 1e-9, 1e-13

PAGE = CHECKOUT / "docs" / "coming_from.md"
RENAMED = (
    re.findall(r"^\| (\w+) \| `(.+)` \| `(.+)` \|$", PAGE.read_text(encoding="utf-8"), flags=re.MULTILINE)
    if PAGE.exists()
    else []
)


def follow_torch(torch: Any, there: str, p: list[Array], grads: list[list[Array]]) -> Any:
    tensors = [torch.tensor(x, requires_grad=True) for x in p]
    made = eval(there, {"torch": torch, "p": tensors, "g": [torch.tensor(g) for g in grads[0]]})
    if not isinstance(made, torch.optim.Optimizer):
        return made
    for g in grads:
        for tensor, each in zip(tensors, g, strict=True):
            tensor.grad = torch.tensor(each)
        made.step()
    return [tensor.detach().numpy() for tensor in tensors]


def follow_keras(keras: Any, there: str, p: list[Array], grads: list[list[Array]]) -> Any:
    made = eval(there, {"keras": keras})
    if callable(made):
        return made
    variables = [keras.Variable(x, dtype="float64") for x in p]
    for g in grads:
        made.apply([keras.ops.convert_to_tensor(each) for each in g], variables)
    made.finalize_variable_values(variables)
    return [keras.ops.convert_to_numpy(variable.value) for variable in variables]


def follow_optax(optax: Any, there: str, p: list[Array], grads: list[list[Array]]) -> Any:
    made = eval(there, {"optax": optax, "g": grads[0]})
    if not hasattr(made, "update"):
        return made
    state = made.init(p)
    for g in grads:
        updates, state = made.update(g, state, p)
        p = optax.apply_updates(p, updates)
    return [np.asarray(x) for x in p]


LIBRARIES: dict[str, tuple[Callable[[], Any], Callable[..., Any]]] = {
    "torch": (import_torch, follow_torch),
    "keras": (import_keras, follow_keras),
    "optax": (import_optax, follow_optax),
}


def start() -> list[Array]:
    return [np.array([[0.5, -3.0], [1e-3, 5.0]]), np.array([-0.3, 0.7])]


def gradients() -> list[list[Array]]:
    rng = np.random.default_rng(0)
    return [[rng.standard_normal(p.shape) + 0.3 for p in start()] for _ in range(6)]


@pytest.mark.parametrize(("library", "there", "here"), RENAMED)
def test_each_row_of_the_page_is_the_same_twice(library: str, there: str, here: str) -> None:
    peer, follow = LIBRARIES[library]
    module = peer()
    p, grads = start(), gradients()
    with FRAMEWORKS[library].in_float64():
        theirs = follow(module, there, start(), grads)
        rates = np.array([float(theirs(step)) for step in range(30)] if callable(theirs) else [])
    ours: Any = eval(here, {"fo": fo, "np": np, "p": p, "g": grads[0]})
    if isinstance(ours, fo.schedules.Schedule):
        np.testing.assert_allclose(
            np.array([ours(step) for step in range(30)]), rates, rtol=1e-6
        )  # Keras's are float32
    elif isinstance(ours, fo.Optimizer):
        for first, second in zip(grads[::2], grads[1::2], strict=True):
            if "=2)" in here:
                ours.step([a + b for a, b in zip(first, second, strict=True)])
            else:
                ours.step(first)
                ours.step(second)
        with ours.averaged() if "ema" in here else nullcontext():
            for x, y in zip(p, theirs, strict=True):
                np.testing.assert_allclose(x, y, rtol=1e-6 if "MultiSteps" in there else RTOL, atol=ATOL)  # in float32
    else:
        np.testing.assert_allclose(ours, float(theirs), rtol=RTOL)


@pytest.mark.skipif(not PAGE.exists(), reason="needs docs/coming_from.md: this test runs in a checkout")
def test_the_page_has_rows_of_every_library() -> None:
    assert {library for library, *_ in RENAMED} == LIBRARIES.keys()
