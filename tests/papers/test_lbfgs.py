"""L-BFGS: the direction beside the two-loop recursion of the book, minima, bits, and what it does with odd losses."""

from __future__ import annotations

import copy
import math
import pickle
from typing import Any

import numpy as np
import pytest

import fastoptim as fo
from cases import ISAS, Array
from closures import rosenbrock, start_of
from fastoptim.lbfgs.history import History
from fastoptim.lbfgs.vectors import Vector, VectorSpace
from loops import using_isa


class Quadratic:
    """``sum(a*(x - c)^2)/2`` over several arrays."""

    def __init__(self, shapes: list[tuple[int, ...]], dtypes: list[Any], seed: int = 3) -> None:
        self._rng = np.random.default_rng(seed)
        self.params = [self._rng.normal(size=shape).astype(dtype) for shape, dtype in zip(shapes, dtypes, strict=True)]
        self.a = [self._rng.uniform(0.1, 10, shape) for shape in shapes]
        self.c = [self._rng.normal(size=shape) for shape in shapes]

    def __call__(self) -> tuple[float, list[Array]]:
        off = [p.astype(np.float64) - c for p, c in zip(self.params, self.c, strict=True)]
        loss = sum(float((a * x * x).sum()) for a, x in zip(self.a, off, strict=True)) / 2
        return loss, [(a * x).astype(p.dtype) for a, x, p in zip(self.a, off, self.params, strict=True)]


def direction_of_the_book(s: list[Array], y: list[Array], g: Array) -> Array:
    """Nocedal & Wright, algorithm 7.4."""
    q, alphas = g.copy(), []
    for s_i, y_i in zip(reversed(s), reversed(y), strict=True):
        alphas.append(s_i @ q / (y_i @ s_i))
        q -= alphas[-1] * y_i
    r = q * (s[-1] @ y[-1]) / (y[-1] @ y[-1])
    for s_i, y_i, alpha in zip(s, y, reversed(alphas), strict=True):
        r += s_i * (alpha - y_i @ r / (y_i @ s_i))
    return np.asarray(-r)


@pytest.mark.parametrize("pairs", [1, 4, 5, 13])
def test_direction_is_that_of_the_two_loop_recursion(pairs: int) -> None:
    size, kept, rng = 3000, 5, np.random.default_rng(pairs)
    p = np.zeros(size)
    space = VectorSpace("native", fo.SGD(p).param_states)

    def vector(values: Array) -> Vector:
        made = space.new()
        space.assign(made, [values])
        return made

    history = History(space, kept)
    s: list[Array] = []
    y: list[Array] = []
    curvature = rng.uniform(0.5, 20, size)
    g = rng.normal(size=size)
    for _ in range(pairs):
        step, t = rng.normal(size=size), rng.uniform(0.1, 1)
        g_after = g + curvature * step * t
        history.remember(vector(step), t, vector(g_after), vector(g))
        direction = space.new()
        history.direct(direction, vector(g_after))  # enters the products with the newest pair
        s, y, g = [*s, step * t][-kept:], [*y, g_after - g][-kept:], g_after
    expected = direction_of_the_book(s, y, g)
    assert np.abs(direction.blocks[0] - expected).max() < 1e-13 * np.abs(expected).max()
    assert len(history) == min(pairs, kept)


@pytest.mark.parametrize("size", [2, 100, 1000])
def test_finds_the_minimum_of_rosenbrock(size: int) -> None:
    p = start_of(size)
    opt = fo.LBFGS(p, max_iter=2000, tolerance_grad=1e-6, tolerance_change=0)
    opt.step(rosenbrock(p))
    assert opt.reason == "tolerance_grad"
    assert opt.converged
    gradient = rosenbrock(p)()[1]
    assert np.abs(gradient).max() <= 1e-6


DTYPES = {
    "float64": [np.float64] * 3,
    "float32": [np.float32] * 3,
    "mixed": [np.float64, np.float32, np.float16],
}


@pytest.mark.parametrize("line_search", ["strong_wolfe", None])
@pytest.mark.parametrize("dtypes", DTYPES.values(), ids=DTYPES)
def test_backends_and_threads_give_the_same_bits(dtypes: list[Any], line_search: Any) -> None:
    ends = []
    for i, isa in enumerate(("", *ISAS)):
        fo.set_num_threads(1 + i % 2)
        problem = Quadratic([(70, 300), (11,), (2, 0, 3)], dtypes)
        problem.params[0] = np.asfortranarray(problem.params[0])
        opt = fo.LBFGS(
            problem.params,
            lr=1 if line_search else 0.01,
            history_size=3,
            line_search=line_search,
            backend="native" if isa else "reference",
        )
        with using_isa(isa):
            losses = [opt.step(problem) for _ in range(2)]
        ends.append(([p.tobytes() for p in problem.params], losses, opt.evaluations, opt.reason))
    assert all(end == ends[0] for end in ends)
    assert problem()[0] < losses[0] / 2


def test_a_state_dict_continues_with_the_same_bits(tmp_path: Any) -> None:
    def run(p: Array, opt: fo.LBFGS, steps: int) -> None:
        for _ in range(steps):
            opt.step(rosenbrock(p))

    p = start_of(50)
    opt = fo.LBFGS(p, max_iter=5, history_size=4)
    run(p, opt, 3)
    saved, at = opt.state_dict(), p.copy()
    opt.save(tmp_path / "lbfgs.safetensors")
    run(p, opt, 3)
    for way in ("dict", "file"):
        q = at.copy()
        other = fo.LBFGS(q)
        other.step(rosenbrock(q))  # its own pairs are replaced
        q[...] = at
        if way == "dict":
            other.load_state_dict(saved)
        else:
            other.load(tmp_path / "lbfgs.safetensors")
        assert (other.step_count, other.max_iter, other.history_size) == (3, 5, 4)
        run(q, other, 3)
        assert q.tobytes() == p.tobytes()
        assert other.evaluations == opt.evaluations


def test_a_state_dict_that_does_not_fit_changes_nothing() -> None:
    p = start_of(20)
    opt = fo.LBFGS(p, max_iter=6)
    opt.step(rosenbrock(p))
    good = opt.state_dict()
    other = fo.LBFGS(start_of(20), lr=0.5)
    for wrong in (
        good | {"version": 2},
        good | {"optimizer": "adam"},
        good | {"arrays": [["", [21], "float64"]]},
        good | {"arrays": [["", [20], "float32"]]},
        good | {"direction": [np.zeros(19)]},
        good | {"direction": [np.zeros(20, np.float32)]},
        good | {"step_count": -1},
        good | {"options": good["options"] | {"lr": -1.0}},
        good | {"options": good["options"] | {"history_size": 1}},
        good | {"options": good["options"] | {"unknown": 1}},
        good | {"history": good["history"] | {"sy": np.zeros((1, 1))}},
        good | {"history": good["history"] | {"y": []}},
        good | {"last": [1.0]},
        {},
    ):
        with pytest.raises(ValueError, match="state_dict"):
            other.load_state_dict(wrong)
        assert (other.lr, other.step_count, len(other._history)) == (0.5, 0, 0)
    with pytest.raises(TypeError, match="state_dict"):
        other.load_state_dict(3)  # type: ignore[arg-type]


class FailsAt:
    """Rosenbrock's function that raises an exception at one evaluation."""

    def __init__(self, p: Array, call: int) -> None:
        self.p, self.call = p, call
        self.losses: list[float] = []

    def __call__(self) -> tuple[float, Array]:
        if len(self.losses) == self.call:
            raise KeyboardInterrupt
        loss, g = rosenbrock(self.p)()
        self.losses.append(loss)
        return loss, g


@pytest.mark.parametrize("call", range(1, 8))
def test_an_exception_in_the_closure_leaves_the_last_iteration(call: int) -> None:
    p = start_of(30)
    opt = fo.LBFGS(p)
    opt.step(rosenbrock(p))
    closure = FailsAt(p, call)
    with pytest.raises(KeyboardInterrupt):
        opt.step(closure)
    reached = rosenbrock(p)()[0]
    assert reached in closure.losses
    assert reached <= closure.losses[0]  # no trial that was not accepted
    opt.step(rosenbrock(p))
    assert rosenbrock(p)()[0] < reached


def test_a_loss_that_is_not_finite_is_too_high() -> None:
    p = np.array([3.0])
    opt = fo.LBFGS(p, lr=100.0)

    def closure() -> tuple[float, Array]:
        x = p[0]
        return (math.inf, np.array([math.nan])) if x <= 0 else (x - math.log(x), 1 - 1 / p)

    opt.step(closure)
    assert abs(p[0] - 1) < 1e-6
    p[...] = -1
    assert opt.step(closure) == math.inf
    assert opt.reason == "nonfinite"
    assert p[0] == -1


def test_nan_is_no_convergence() -> None:
    def closure(p: Array, loss_is_nan: bool) -> tuple[float, Array]:
        odd = math.nan if p[0] < 4.5 else 1.0
        return float(p[0] ** 2) * (odd if loss_is_nan else 1.0), 2 * p * odd

    for loss_is_nan in (True, False):
        p = np.array([5.0])
        opt = fo.LBFGS(p, lr=1.0, line_search=None)
        opt.step(lambda p=p, loss_is_nan=loss_is_nan: closure(p, loss_is_nan))  # type: ignore[misc]
        assert (opt.reason, opt.converged) == ("nonfinite", False)
        p = np.array([5.0])
        opt = fo.LBFGS(p, max_iter=30, max_eval=1000)
        opt.step(lambda p=p, loss_is_nan=loss_is_nan: closure(p, loss_is_nan))  # type: ignore[misc]
        assert p[0] >= 4.5


def test_changes_of_the_gradient_that_overflow_are_not_remembered() -> None:
    p = np.array([3.0, 2.0])
    opt = fo.LBFGS(p)
    with np.errstate(over="ignore"):
        for _ in range(3):
            opt.step(lambda: (1e160 * float(p @ p), 2e160 * p))
    assert np.isfinite(p).all()


def test_the_first_iteration_is_scaled_after_an_exception() -> None:
    ends = []
    for fails in (False, True):
        p = start_of(10)
        opt = fo.LBFGS(p, line_search=None, lr=1e-3, max_iter=2 if fails else 1)
        if fails:
            with pytest.raises(KeyboardInterrupt):
                opt.step(FailsAt(p, 1))
            opt.max_iter = 1
        opt.step(rosenbrock(p))
        ends.append(p)
    assert (ends[0] == ends[1]).all()


def test_options_may_be_assigned() -> None:
    p = start_of(30)
    opt = fo.LBFGS(p)
    opt.step(rosenbrock(p))
    for size in (3, 8):
        opt.history_size = size
        opt.step(rosenbrock(p))
        assert len(opt._history) == size
        fo.LBFGS(p.copy()).load_state_dict(opt.state_dict())
    with pytest.raises(ValueError, match="lr: expected a number"):
        opt.lr = -3
    with pytest.raises(AttributeError, match="did you mean 'max_iter'"):
        opt.max_itr = 3


@pytest.mark.parametrize("copied", [copy.deepcopy, lambda opt: pickle.loads(pickle.dumps(opt)), copy.copy])
def test_copies_continue_with_the_same_bits(copied: Any) -> None:
    p = start_of(30)
    opt = fo.LBFGS(p)
    opt.step(rosenbrock(p))
    at = p.copy()
    other = copied(opt)
    assert (other.params is p) == (copied is copy.copy)
    opt.step(rosenbrock(p))
    end = p.copy()
    other.params[...] = at
    other.step(rosenbrock(other.params))
    assert (other.params == end).all()
    assert (other.step_count, other.reason) == (opt.step_count, opt.reason)


def test_state_converts_to_other_dtypes_by_array() -> None:
    def problem(dtypes: str) -> tuple[list[Array], Any]:
        params = [np.ones(2, dtype) for dtype in dtypes]
        weights = (1.0, 2.0, 5.0, 50.0)

        def closure() -> Any:
            grads = [(2 * w * p).astype(p.dtype) for w, p in zip(weights, params, strict=True)]
            return float(sum(w * (p.astype(float) ** 2).sum() for w, p in zip(weights, params, strict=True))), grads

        return params, closure

    params, closure = problem("dfdf")
    opt = fo.LBFGS(params, max_iter=4)
    opt.step(closure)
    other = fo.LBFGS(problem("dffd")[0])
    with pytest.raises(ValueError, match="convert=True converts it"):
        other.load_state_dict(opt.state_dict())
    other.load_state_dict(opt.state_dict(), convert=True)
    for mine, theirs in zip(opt._direction.parts, other._direction.parts, strict=True):
        assert np.allclose(mine, theirs, rtol=1e-6)
    saved = opt.state_dict()
    saved["direction"][0][0] = 1e300
    with pytest.raises(ValueError, match="overflow"):
        fo.LBFGS(problem("ffff")[0]).load_state_dict(saved, convert=True)


def test_reasons() -> None:
    def reason(**options: Any) -> str:
        p = start_of(10)
        opt = fo.LBFGS(p, **options)
        opt.step(rosenbrock(p))
        return opt.reason

    assert reason(max_iter=1) == "max_iter"
    assert reason(max_iter=50, max_eval=3) == "max_eval"
    assert reason(max_eval=1) == "max_eval"
    assert reason(tolerance_grad=1e9) == "tolerance_grad"
    assert reason(max_iter=500, tolerance_change=1e-3) == "tolerance_change"
    assert reason(max_iter=500, ftol=0.5) == "ftol"


def test_refusals() -> None:
    p = np.zeros(3)
    with pytest.raises(TypeError, match="groups"):
        fo.LBFGS([{"params": p}])
    for wrong in ({"lr": 0}, {"max_iter": 0}, {"history_size": 0}, {"line_search": "armijo"}, {"tolerance_grad": -1}):
        with pytest.raises(ValueError, match=next(iter(wrong))):
            fo.LBFGS(p, **wrong)
    opt = fo.LBFGS({"w": p})
    for closure, message in (
        (3, "closure: expected a function"),
        (lambda: 1.0, "closure: expected it to return the loss and the gradients"),
        (lambda: ("a", {"w": p}), "loss: expected"),
        (lambda: (1.0, {"v": p}), "grads: expected the keys"),
    ):
        with pytest.raises(TypeError, match=message):
            opt.step(closure)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match=r"grads\['w'\]: expected shape"):
        opt.step(lambda: (1.0, {"w": np.ones(4)}))
    assert not p.any()


def test_a_gradient_of_none_is_zero() -> None:
    p, q = np.array([5.0]), np.array([7.0])
    opt = fo.LBFGS([p, q])
    opt.step(lambda: (float(p[0] ** 2), [2 * p, None]))
    assert abs(p[0]) < 1e-6
    assert q[0] == 7


def test_a_gradient_of_a_0d_parameter_may_be_a_numpy_scalar() -> None:
    p = np.array(5.0)
    fo.LBFGS(p).step(lambda: (float(p**2), np.float64(2 * p)))
    assert abs(p) < 1e-6


def test_bytes_are_those_of_the_vectors() -> None:
    p = start_of(1000, np.float32)
    opt = fo.LBFGS(p, max_iter=50, history_size=6)
    opt.step(rosenbrock(p))
    assert opt.state_nbytes == 4000 * (6 + 2 * 7)
