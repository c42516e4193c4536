"""Optimizers as methods of scipy.optimize.minimize: SciPy's own test functions, and every argument of its protocol."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

import fastoptim as fo
from cases import Array
from models import OPTIMIZERS
from optional import optional

scipy_optimize = optional("scipy.optimize")

from fastoptim.scipy import minimizer  # noqa: E402

minimize, rosen = scipy_optimize.minimize, scipy_optimize.rosen
inf = np.inf


def beale(x: Array) -> float:
    return float(sum((c - x[0] * (1 - x[1] ** k)) ** 2 for k, c in enumerate((1.5, 2.25, 2.625), 1)))


def styblinski_tang(x: Array) -> float:
    return float((x**4 - 16 * x**2 + 5 * x).sum() / 2)


def zakharov(x: Array) -> float:
    weighted = float((np.arange(1, len(x) + 1) * x).sum() / 2)
    return float((x**2).sum()) + weighted**2 + weighted**4


def trid(x: Array) -> float:
    return float(((x - 1) ** 2).sum() - (x[1:] * x[:-1]).sum())


def ackley(x: Array) -> float:
    waves = np.exp(np.cos(2 * np.pi * x).mean())
    return float(20 + np.e - 20 * np.exp(-0.2 * np.sqrt((x**2).mean())) - waves)


def mccormick(x: Array) -> float:
    return float(np.sin(x[0] + x[1]) + (x[0] - x[1]) ** 2 - 1.5 * x[0] + 2.5 * x[1] + 1)


# The functions of SciPy's global benchmarks (and of Surjanovic and Bingham's collection), with a start in the basin of
# the global minimum: name, function, start, lowest value, bounds.
FUNCTIONS: dict[str, tuple[Callable[[Array], float], list[float], float, Any]] = {
    "rosenbrock": (rosen, [-1.2, 1.0], 0.0, None),
    "beale": (beale, [1.0, 1.0], 0.0, None),
    "booth": (lambda x: (x[0] + 2 * x[1] - 7) ** 2 + (2 * x[0] + x[1] - 5) ** 2, [0.0, 0.0], 0.0, None),
    "himmelblau": (lambda x: (x[0] ** 2 + x[1] - 11) ** 2 + (x[0] + x[1] ** 2 - 7) ** 2, [1.0, 1.0], 0.0, None),
    "styblinski-tang": (styblinski_tang, [-1.0, -2.0, -3.5], -39.16616570377142 * 3, None),
    "zakharov": (zakharov, [1.0, -1.0, 0.5], 0.0, None),
    "trid": (trid, [0.0] * 4, -4 * 8 * 3 / 6, None),
    "ackley": (ackley, [0.3, -0.2], 0.0, [(-32, 32)] * 2),
    "mccormick": (mccormick, [0.0, 0.0], -1.9132229549810367, [(-1.5, 4), (-3, 4)]),
}


@pytest.mark.parametrize("name", FUNCTIONS)
def test_the_test_functions_are_minimized_without_a_gradient(name: str) -> None:
    fun, start, lowest, bounds = FUNCTIONS[name]
    method = minimizer("adam", lr=fo.schedules.Exponential(0.1, gamma=0.9985))
    result = minimize(fun, start, bounds=bounds, method=method, options={"maxiter": 5000, "patience": None})
    assert result.fun == pytest.approx(lowest, abs=1e-3)
    assert result.fun == fun(result.x)
    assert result.nfev == (result.nit + 1) * (len(start) + 1)


@pytest.mark.parametrize("optimizer", OPTIMIZERS)
def test_the_points_are_those_of_a_plain_loop(optimizer: type[fo.Optimizer]) -> None:
    def fun(x: Array) -> tuple[float, Array]:
        return float((scales * x**2).sum()), 2 * scales * x

    start, scales = np.array([-1.2, 1.0, 0.7]), np.array([0.3, 0.1, 0.2])
    x = start.copy()
    opt = optimizer(x)
    points = [start]
    for _ in range(5):
        with opt.lookahead():
            _, grad = fun(x)
        opt.step(grad)
        points.append(x.copy())
    values = [fun(point)[0] for point in points]
    options = {"maxiter": 5, "return_all": True, "history": True}
    result = minimize(fun, start, jac=True, method=minimizer(optimizer.name), options=options)
    assert np.array_equal(result.allvecs, points)
    assert np.array_equal(result.history["fun"], values)
    assert np.array_equal(result.history["gradient"], [np.linalg.norm(fun(point)[1]) for point in points])
    assert (result.nit, result.status, result.success) == (5, 1, False)
    assert (result.fun, list(result.x)) == (min(values), list(points[int(np.argmin(values))]))
    assert np.array_equal(result.jac, fun(result.x)[1])
    assert (result.nfev, result.njev) == ((11, 11) if optimizer is fo.NAG else (6, 6))
    assert np.array_equal(start, points[0])


def both(x: Array, scale: float = 1.0, shift: float = 0.0) -> tuple[float, Array]:
    return scale * float(((x - shift) ** 2).sum()), 2 * scale * (x - shift)


def test_jac_may_be_true_a_callable_or_missing() -> None:
    method, args = minimizer("sgd", lr=0.1), (2.0, 3.0)
    results = [
        minimize(both, [0.0, 1.0], args, jac=True, method=method),
        minimize(lambda *a: both(*a)[0], [0.0, 1.0], args, jac=lambda *a: both(*a)[1], method=method),
        minimize(lambda *a: both(*a)[0], [0.0, 1.0], args, method=method),
    ]
    for result in results:
        assert result.success
        assert result.x == pytest.approx([3, 3], abs=1e-5)
    assert np.array_equal(results[0].x, results[1].x)
    assert [result.njev > 0 for result in results] == [True, True, False]


def rising(x: Array) -> float:
    """Lowest where all elements are as low as possible; rejects points outside of the bounds."""
    assert (x >= [1, -2, 3, 0]).all()
    assert (x <= [2, -1, 3, 1e-9]).all()
    return float(x.sum())


@pytest.mark.parametrize("name", ["adam", "nag"])
@pytest.mark.parametrize(
    "bounds",
    [
        [(1, 2), (-2, -1), (3, 3), (0, 1e-9)],
        scipy_optimize.Bounds([1, -2, 3, 0], [2, -1, 3, 1e-9]),
    ],
    ids=["pairs", "Bounds"],
)
def test_no_point_is_outside_of_the_bounds(bounds: Any, name: str) -> None:
    result = minimize(rising, [9.0, -1.0, 0.0, 5.0], bounds=bounds, method=minimizer(name, lr=0.3))
    assert list(result.x) == [1, -2, 3, 0]
    assert result.success
    assert "gtol" in result.message
    assert result.nit < 10


def test_a_bound_may_be_absent() -> None:
    result = minimize(both, [5.0, 5.0], jac=True, bounds=[(None, 9), (2, None)], method=minimizer("sgd", lr=0.1))
    assert result.x == pytest.approx([0, 2], abs=1e-5)


@pytest.mark.parametrize(
    ("options", "status", "words", "nit"),
    [
        ({"gtol": 5.0}, 0, "gtol", 1),
        ({"threshold": 9.0}, 0, "threshold", 1),
        ({"maxiter": 3}, 1, "maxiter", 3),
        ({"ftol": 100.0, "patience": 4}, 0, "ftol", 4),
    ],
)
def test_the_rules_stop_it(options: dict[str, Any], status: int, words: str, nit: int) -> None:
    result = minimize(both, [4.0], jac=True, method=minimizer("sgd", lr=0.25), options={"gtol": 0.0, **options})
    assert (result.status, result.success, result.nit) == (status, status == 0, nit)
    assert words in result.message


def test_tol_sets_gtol_and_ftol() -> None:
    method = minimizer("sgd", lr=0.25)
    by_tol = minimize(both, [4.0], jac=True, tol=1.0, method=method)
    by_options = minimize(both, [4.0], jac=True, method=method, options={"gtol": 1.0, "ftol": 1.0})
    assert by_tol == by_options
    assert by_tol.nit == 3


def test_both_kinds_of_callback_see_each_iteration() -> None:
    seen: list[Any] = []
    method, options = minimizer("sgd", lr=0.25), {"maxiter": 3}

    def changing(xk: Array) -> None:
        seen.append(xk.copy())
        xk[:] = 99

    first = minimize(both, [4.0], jac=True, method=method, callback=changing, options=options)

    def with_result(intermediate_result: Any) -> None:
        seen.append((intermediate_result.x[0], intermediate_result.fun))

    second = minimize(both, [4.0], jac=True, method=method, callback=with_result, options=options)
    assert seen == [2, 1, 0.5, (2, 4), (1, 1), (0.5, 0.25)]
    assert first.x == second.x == [0.5]


def test_a_callback_stops_it() -> None:
    def halt(x: Array) -> None:
        if x[0] < 2:
            raise StopIteration

    result = minimize(both, [4.0], jac=True, method=minimizer("sgd", lr=0.25), callback=halt)
    assert (result.status, result.success, result.nit, list(result.x)) == (99, False, 2, [1.0])


@pytest.mark.parametrize("bad", [np.nan, inf])
def test_a_function_that_is_not_finite_stops_it_at_the_best_point(bad: float) -> None:
    def fun(x: Array) -> tuple[float, Array]:
        return (float(x[0]), np.ones(1)) if x[0] > 0 else (bad, np.ones(1))

    result = minimize(fun, [2.5], jac=True, method=minimizer("sgd", lr=1.0))
    assert (result.status, result.success, result.fun, list(result.x)) == (3, False, 0.5, [0.5])


def test_the_gradient_of_the_result_is_a_copy() -> None:
    memory = np.zeros(1)

    def jac(x: Array) -> Array:
        memory[:] = 2 * x
        return memory

    result = minimize(lambda x: float((x**2).sum()), [1.0], jac=jac, method=minimizer("sgd", lr=2.0))
    assert (list(result.x), list(result.jac)) == ([1.0], [2.0])


def test_wrong_arguments() -> None:
    method = minimizer("sgd")
    attempts: list[tuple[Callable[[], Any], type[Exception], str]] = [
        (lambda: minimizer("adm"), ValueError, "optimizer: expected a name .*did you mean 'adam'"),
        (lambda: minimizer(np), TypeError, "optimizer: expected a name or a class"),  # type: ignore[arg-type]
        (lambda: minimizer("adam", lr=-1), ValueError, "lr: expected"),
        (lambda: minimizer("adam", momentum=1), TypeError, "momentum: not an option of Adam"),
        (
            lambda: minimize(both, [1.0], method=method, bounds=[(2, 1)]),
            ValueError,
            "bounds.*expected low <= high",
        ),
        (lambda: minimize(both, [1.0], method=method, bounds=[(1, 2)] * 2), ValueError, "bounds: expected 1 pairs"),
        *(
            (lambda bounds=bounds: minimize(both, [1.0, 2.0], method=method, bounds=bounds), error, "^bounds: expected")
            for bounds, error in (
                ((0, 1), TypeError),
                (3, TypeError),
                ([("a", 1), (0, 1)], TypeError),
                (scipy_optimize.Bounds([0] * 3, [1] * 3), ValueError),
            )
        ),
        *(
            (lambda g=g: minimize(lambda x: (1.0, g), [1.0, 2.0], jac=True, method=method), error, "^jac: expected")
            for g, error in (
                (None, TypeError),
                ([None] * 2, TypeError),
                (np.ones(2) * 1j, TypeError),
                ("12", TypeError),
                (np.ones(1), ValueError),
            )
        ),
        *(
            (lambda value=value: minimize(lambda x: value, [1.0], method=method), TypeError, "^fun: expected real")
            for value in (None, 1j, "1")
        ),
        (lambda: minimize(both, [1j], method=method), TypeError, "^x0: expected real numbers, got an array of complex"),
        (lambda: method(both, [1.0], jac="3-point"), TypeError, "^jac: .*'3-point'"),  # type: ignore[arg-type]
        (
            lambda: minimize(both, [1.0], jac=True, method=method, options={"max_iter": 3}),
            TypeError,
            "^options: expected one of maxiter, gtol, .*, got 'max_iter'; did you mean 'maxiter'",
        ),
        (lambda: minimize(both, [1.0], method=method, constraints={"type": "eq"}), ValueError, "constraints: expected"),
        (lambda: minimize(np.copy, [1.0, 2.0], method=method), ValueError, "fun: expected one number"),
        (lambda: minimize(both, [1.0], jac=True, method=method, options={"gtol": -1}), ValueError, "gtol: expected"),
        (lambda: minimize(both, [1.0], method=method, options={"maxiter": 0}), ValueError, "maxiter: expected"),
        (lambda: minimize(both, [1.0], method=method, tol=-1), ValueError, "ftol: expected"),
    ]
    for attempt, error, message in attempts:
        with pytest.raises(error, match=message):
            attempt()
    with pytest.warns(RuntimeWarning, match="SGD does not use second derivatives"):
        minimize(both, [1.0], jac=True, hess=np.diag, method=method)
