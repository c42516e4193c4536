"""L-BFGS takes the path of PyTorch's, evaluation by evaluation, until rounding separates them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

import fastoptim as fo
from cases import Array
from closures import Closure, rosenbrock, start_of
from optional import optional


class TorchPath:
    """The points of torch.optim.LBFGS, evaluation by evaluation."""

    def __init__(self, start: Array, closure_of: Callable[[Array], Closure], **options: Any) -> None:
        torch = optional("torch")
        x = torch.tensor(start.copy(), requires_grad=True)
        self.points: list[Array] = []
        opt = torch.optim.LBFGS([x], line_search_fn="strong_wolfe", **options)

        def closure() -> Any:
            self.points.append(x.detach().numpy().copy())
            loss, g = closure_of(self.points[-1])()
            x.grad = torch.tensor(g)
            return torch.tensor(loss, dtype=torch.float64)

        opt.step(closure)
        self.end = x.detach().numpy().copy()


def own_path(start: Array, closure_of: Callable[[Array], Closure], **options: Any) -> tuple[list[Array], Array]:
    p = start.copy()
    points = []

    def closure() -> tuple[float, Array]:
        points.append(p.copy())
        return closure_of(p)()

    fo.LBFGS(p, **options).step(closure)
    return points, p


OPTIONS = {"max_iter": 200, "max_eval": 250, "history_size": 10, "tolerance_grad": 1e-6, "tolerance_change": 0.0}


def apart(a: list[Array], b: list[Array]) -> Array:
    """The largest difference at each evaluation."""
    return np.array([np.abs(x - y).max() for x, y in zip(a, b, strict=False)])


def test_path_is_that_of_torch_until_rounding_separates_them() -> None:
    """In 1,000 dimensions the paths are within 1e-9 for 40 evaluations.

    A difference grows about as that of two paths of PyTorch whose starts differ in the last bit.  Both reach the
    minimum.
    """
    start = start_of(1000)
    theirs = TorchPath(start, rosenbrock, **OPTIONS)
    moved = TorchPath(start * (1 + 2.0**-52), rosenbrock, **OPTIONS)
    ours, end = own_path(start, rosenbrock, **OPTIONS)
    assert apart(theirs.points, ours)[:40].max() < 1e-9
    assert (
        apart(theirs.points, ours)[:60] < 100 * np.maximum.accumulate(apart(theirs.points, moved.points))[:60] + 1e-14
    ).all()
    for reached in (theirs.end, end):
        assert rosenbrock(reached)()[0] < 1e-7


def digits(p: Array) -> Closure:
    """Softmax regression on scikit-learn's digits with a little weight decay."""
    data = optional("sklearn.datasets").load_digits()
    x, labels = data.data[:300] / 16, np.eye(10)[data.target[:300]]

    def closure() -> tuple[float, Array]:
        w = p.reshape(64, 10)
        z = x @ w
        z -= z.max(axis=1, keepdims=True)
        log_p = z - np.log(np.exp(z).sum(axis=1, keepdims=True))
        g = x.T @ (np.exp(log_p) - labels) / len(x) + 0.01 * w
        return float(-(labels * log_p).sum() / len(x) + 0.005 * (w * w).sum()), g.ravel()

    return closure


def test_path_is_that_of_torch_on_digits() -> None:
    start = 0.01 * start_of(640)
    theirs = TorchPath(start, digits, **OPTIONS)
    ours, end = own_path(start, digits, **OPTIONS)
    assert apart(theirs.points, ours)[:40].max() < 1e-9
    assert abs(digits(theirs.end)()[0] - digits(end)()[0]) < 1e-8
