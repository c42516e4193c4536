"""The call shape of autograd.misc.optimizers: autograd's own numbers, and every other optimizer."""

from __future__ import annotations

import inspect
from typing import Any

import numpy as np
import pytest

import fastoptim as fo
import fastoptim.autograd
from cases import Array
from loops import loop
from models import OPTIMIZERS
from optional import optional

SCALES: dict[str, Any] = {"a": np.linspace(0.2, 3, 4), "b": (np.array([[0.5, 1.0]]), [0.3])}
START: dict[str, Any] = {"a": np.linspace(-1, 1, 4), "b": (np.array([[0.25, -0.5]]), [2.0])}


def gradient(x: Any, i: int) -> Any:
    """The gradient of a bowl that moves."""
    first, (second, [third]) = SCALES["a"], SCALES["b"]
    shift = np.sin(i)
    return {"a": first * (x["a"] - shift), "b": (second * x["b"][0], [third * x["b"][1][0] + 0.1])}


def leaves(x: Any) -> list[Array]:
    return [np.asarray(leaf) for leaf in (x["a"], x["b"][0], x["b"][1][0])]


@loop(
    ("name", "options"),
    [
        ("sgd", {}),
        ("sgd", {"step_size": 0.05, "mass": 0.5, "num_iters": 30}),
        ("rmsprop", {}),
        ("rmsprop", {"step_size": 0.02, "gamma": 0.8, "eps": 1e-4, "num_iters": 30}),
        ("adam", {}),
        ("adam", {"step_size": 0.1, "b1": 0.8, "b2": 0.95, "eps": 1e-3, "num_iters": 30}),
    ],
)
def test_autograd_has_the_same_numbers(name: str, options: dict[str, Any]) -> None:
    theirs = getattr(optional("autograd.misc.optimizers"), name)
    paths: list[list[Any]] = [[], []]
    for path, run in zip(paths, (theirs, getattr(fastoptim.autograd, name)), strict=True):

        def keep(x: Any, i: int, g: Any, path: list[Any] = path) -> None:
            path.append((leaves(x), i, leaves(g)))

        path.append((leaves(run(gradient, START, keep, **options)), 0, []))
    assert len(paths[0]) == len(paths[1])
    for (x, i, g), (own_x, own_i, own_g) in zip(*paths, strict=True):
        assert i == own_i
        for array, own in zip(x + g, own_x + own_g, strict=True):
            np.testing.assert_allclose(own, array, rtol=1e-12, atol=1e-12)


def test_positional_arguments_are_autograd_s() -> None:
    module = optional("autograd.misc.optimizers")
    for name, values in [("sgd", (0.2, 0.7)), ("rmsprop", (0.2, 0.7, 1e-3)), ("adam", (0.2, 0.7, 0.9, 1e-3))]:
        ours = getattr(fastoptim.autograd, name)(gradient, START, None, 9, *values)
        theirs = getattr(module, name)(gradient, START, None, 9, *values)
        for own, array in zip(leaves(ours), leaves(theirs), strict=True):
            np.testing.assert_allclose(own, array, rtol=1e-12)


@pytest.mark.parametrize("optimizer", [cls for cls in OPTIMIZERS if cls.name not in ("sgd", "rmsprop", "adam")])
def test_every_optimizer_takes_the_steps_of_a_plain_loop(optimizer: type[fo.Optimizer]) -> None:
    params = {"a": START["a"].copy(), "b": (START["b"][0].copy(), [np.array(2.0)])}
    opt = optimizer(params, lr=0.02)
    seen: list[Any] = []
    for i in range(4):
        with opt.lookahead():
            grads = gradient(params, i)
        opt.step({"a": grads["a"], "b": (grads["b"][0], [np.asarray(grads["b"][1][0])])})
    if isinstance(opt, (fo.ScheduleFreeSGD, fo.ScheduleFreeAdamW)):
        opt.eval()
    run = getattr(fastoptim.autograd, optimizer.name)
    result = run(gradient, START, lambda *args: seen.append(args), 4, lr=0.02)
    assert isinstance(result["b"], tuple)
    assert all(np.array_equal(own, array) for own, array in zip(leaves(result), leaves(params), strict=True))
    assert [i for _, i, _ in seen] == [0, 1, 2, 3]
    if optimizer is not fo.NAG:
        assert all(np.array_equal(own, array) for own, array in zip(leaves(seen[0][0]), leaves(START), strict=True))


def test_the_start_is_not_changed_and_numbers_become_arrays() -> None:
    start: dict[str, Any] = {"x": np.array([1, 2]), "y": 3, "z": [np.float32(0.5)]}
    result = fastoptim.autograd.adam(lambda x, i: x, start, num_iters=2, step_size=0.5)
    assert (start["x"].tolist(), start["y"], start["z"]) == ([1, 2], 3, [0.5])
    assert [a.dtype.name for a in (result["x"], result["y"], result["z"][0])] == ["float64", "float64", "float32"]
    assert result["y"] < 3
    result["x"][:] = 7
    assert start["x"].tolist() == [1, 2]


def test_options_of_the_class_have_precedence() -> None:
    ours = fastoptim.autograd.adam(lambda x, i: x, np.ones(2), lr=0.5, betas=(0.5, 0.9), weight_decay=0.1, num_iters=2)
    p = np.ones(2)
    opt = fo.Adam(p, lr=0.5, betas=(0.5, 0.9), weight_decay=0.1)
    for _ in range(2):
        opt.step(p.copy())
    assert np.array_equal(ours, p)


def test_errors() -> None:
    with pytest.raises(AttributeError, match="no attribute 'adm'; did you mean 'adam'"):
        fastoptim.autograd.adm  # noqa: B018
    with pytest.raises(TypeError, match=r"grad\(x, i\): expected the keys"):
        fastoptim.autograd.adam(lambda x, i: {"b": 1.0}, {"a": np.ones(1)})
    with pytest.raises(TypeError, match="params: expected"):
        fastoptim.autograd.adam(lambda x, i: x, "start")
    for wrong in (None, 1j, "1", [None, None]):
        with pytest.raises(TypeError, match=r"^grad\(x, i\)\['b'\]: expected real numbers, got "):
            fastoptim.autograd.lion(lambda x, i, wrong=wrong: {**x, "b": wrong}, {"a": np.ones(1), "b": 2.0})
    assert set(fo.OPTIMIZERS) <= set(dir(fastoptim.autograd))


@pytest.mark.parametrize("name", fo.OPTIMIZERS)
def test_help_describes_each_function(name: str) -> None:
    function = getattr(fastoptim.autograd, name)
    parameters = inspect.signature(function).parameters
    assert list(parameters)[:4] == ["grad", "x0", "callback", "num_iters"]
    assert (function.__name__, getattr(fastoptim.autograd, name)) == (name, function)
    assert "fastoptim.autograd" in function.__doc__
    assert "Returns:" in (fastoptim.autograd.__doc__ or "")
    if name not in ("sgd", "rmsprop", "adam"):
        options = {**inspect.signature(fo.OPTIMIZERS[name]).parameters}
        options.pop("copies")  # arrays of the optimizer's caller
        assert {key: parameters[key].default for key in list(options)[1:]} == {
            key: p.default for key, p in list(options.items())[1:]
        }
