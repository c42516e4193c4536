"""Methods for `scipy.optimize.minimize`: any optimizer, with bounds, callbacks, rules that stop it, and a history."""

from __future__ import annotations

import inspect
import warnings
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import numpy as np

from ..arrays.tree import describe
from ..early_stopping import EarlyStopping
from ..optimizer.base import OPTIMIZERS, Optimizer
from ..options.checks import NonNegative, PositiveCount, check_option
from ..options.suggestions import did_you_mean
from ..reference_math import Array
from ..texts import brief
from .real_arrays import as_real

try:
    from scipy.optimize import OptimizeResult
except ImportError as error:
    raise ImportError("fastoptim.scipy: expected SciPy, got none; pip install 'fastoptim[scipy]'") from error

# By the rule that ended the minimization: SciPy's status and the message.
_ENDS = {
    "grad_tol": (0, "The gradient is zero within gtol."),
    "threshold": (0, "The function is at most threshold."),
    "patience": (0, "The function has not decreased by more than ftol in the last iterations, as many as patience."),
    "max_steps": (1, "The number of iterations has reached maxiter."),
    "nonfinite": (3, "The function or its gradient is not finite."),
    "callback": (99, "The callback raised StopIteration."),
}


def minimizer(optimizer: str | type[Optimizer] = "adam", **options: Any) -> Minimizer:
    r"""Return a method for `scipy.optimize.minimize` that takes the steps of an optimizer.

    .. math::
        x \leftarrow \min(\max(x + \Delta x, \text{low}), \text{high})

    where :math:`\Delta x` is the optimizer's step.  Its result is the point of the lowest function value that it met,
    which matters for methods that do not decrease the function in every iteration.

    `minimize` accepts with it:

    - `jac`: a callable or True; otherwise forward differences within the bounds, one evaluation per element, as
      `minimize` passes None to custom methods in place of "2-point", "3-point" and "cs";
    - `bounds`: a `scipy.optimize.Bounds` or pairs with None for no bound; `x0` is moved into them;
    - `callback`: ``callback(xk)`` or ``callback(intermediate_result)``, after each iteration; StopIteration ends the
      minimization with status 99;
    - `tol`: `gtol` and `ftol` at once;
    - `options`: "maxiter" (default 1000); "gtol" (1e-5), for the largest element of the gradient, of which the part
      that points out of the bounds is disregarded; "ftol" (0) and "patience" (100), see `EarlyStopping`; "threshold"
      (None), a function value that is low enough; "history" (False), which adds `history`, the function values "fun"
      and the norms "gradient" at `x0` and after each iteration; "return_all" (False), which adds the points, `allvecs`;
      "disp" (False), which prints the message.  Without progress, "patience" of None continues.

    The numbers are float64, whatever `x0` is.  Hessians are not used, and constraints are rejected.  `NAG` needs a
    second gradient per iteration, at its look-ahead point, which is moved into the bounds, too.

    Args:
        optimizer: A name in `fastoptim.OPTIMIZERS` or a class.
        **options: The optimizer's.

    Raises:
        TypeError: An unknown option.
        ValueError: An unknown name, or an option out of range.

    Source: the protocol of custom methods in the documentation of `scipy.optimize.minimize`.

    >>> from scipy.optimize import minimize, rosen, rosen_der
    >>> import fastoptim.scipy
    >>> method = fastoptim.scipy.minimizer("adam", lr=0.02)
    >>> result = minimize(rosen, [-1.2, 1.0], jac=rosen_der, method=method, options={"maxiter": 5000})
    >>> result.status, result.x.round(3)
    (0, array([1., 1.]))
    """
    if isinstance(optimizer, str):
        if optimizer not in OPTIMIZERS:
            raise ValueError(
                f"optimizer: expected a name in fastoptim.OPTIMIZERS, got {optimizer!r}"
                f"{did_you_mean(optimizer, OPTIMIZERS)}"
            )
        optimizer = OPTIMIZERS[optimizer]
    if not (isinstance(optimizer, type) and issubclass(optimizer, Optimizer)):
        raise TypeError(f"optimizer: expected a name or a class of optimizers, got {describe(optimizer)}")
    optimizer(np.zeros(1), **options)  # checks the options
    return Minimizer(optimizer, options)


@dataclass(frozen=True)
class Minimizer:
    """A method for `scipy.optimize.minimize`; see `minimizer`."""

    optimizer: type[Optimizer]
    options: Mapping[str, Any]

    def __call__(
        self,
        fun: Callable[..., Any],
        x0: Any,
        args: tuple[Any, ...] = (),
        jac: Callable[..., Any] | None = None,
        hess: Any = None,
        hessp: Any = None,
        bounds: Any = None,
        constraints: Any = (),
        callback: Callable[..., Any] | None = None,
        *,
        tol: float | None = None,
        maxiter: int = 1000,
        gtol: float | None = None,
        ftol: float | None = None,
        patience: int | None = 100,
        threshold: float | None = None,
        history: bool = False,
        return_all: bool = False,
        disp: bool = False,
        **unknown: Any,
    ) -> OptimizeResult:
        """Minimize, with the arguments that `scipy.optimize.minimize` passes."""
        for name in unknown:
            parameters = inspect.signature(Minimizer.__call__).parameters.values()
            known = [each.name for each in parameters if each.kind is each.KEYWORD_ONLY and each.name != "tol"]
            expected = f"expected one of {', '.join(known)}"
            raise TypeError(f"options: {expected}, got {name!r}{did_you_mean(name, known)}")
        if not (jac is None or callable(jac)):
            raise TypeError(f"jac: expected a callable, or None for forward differences, got {brief(jac)}")
        if np.any(constraints):
            raise ValueError(f"constraints: expected none, got {brief(constraints)}; bounds are supported")
        if hess is not None or hessp is not None:
            message = f"{self.optimizer.__name__} does not use second derivatives (hess, hessp)."
            warnings.warn(message, RuntimeWarning, stacklevel=3)
        x = np.array(as_real(x0, np.float64, "x0"), ndmin=1)
        if x.ndim != 1:
            raise ValueError(f"x0: expected at most one dimension, got shape {x.shape}")
        box = _box_of(bounds, x.size)
        box.project(x)
        opt = self.optimizer(x, **self.options)
        rules = {
            "min_delta": check_option(NonNegative, _first(ftol, tol, 0.0), "ftol"),
            "max_steps": check_option(PositiveCount, maxiter, "maxiter"),
            "grad_tol": check_option(NonNegative, _first(gtol, tol, 1e-5), "gtol"),
        }
        stopping = EarlyStopping(opt, patience, threshold=threshold, **rules)
        objective = _Objective(fun, jac, args, box)
        points = _Trace(history, return_all)
        end, best, point = "", objective.at(x), None
        while not end:
            point = best if point is None else self._step(opt, x, point, objective)
            points.append(x, point)
            halts = opt.step_count > 0 and callback is not None and _halts(callback, x, point.fun)
            if not point.is_finite:
                end = "nonfinite"
                stopping.restore()
            elif stopping.update(point.fun, box.free_part(x, point.grad)):
                end = stopping.reason
            elif halts:
                end = "callback"
                stopping.restore()
            best = point if stopping.best_step == opt.step_count else best
        status, message = _ENDS[end]
        if disp:
            print(f"{message}\n  function value {best.fun:g}, {opt.step_count} iterations")
        return OptimizeResult(
            x=x,
            fun=best.fun,
            jac=best.grad,
            nit=opt.step_count,
            nfev=objective.nfev,
            njev=objective.njev,
            success=status == 0,
            status=status,
            message=message,
            **points.result(),
        )

    def _step(self, opt: Optimizer, x: Array, point: _Point, objective: _Objective) -> _Point:
        """Take a step, and return the function at the new point."""
        grad = point.grad
        if self.optimizer.lookahead is not Optimizer.lookahead:
            with opt.lookahead():
                ahead = x.copy()
            objective.box.project(ahead)
            grad = objective.at(ahead).grad
        opt.step(grad)
        objective.box.project(x)
        return objective.at(x)


def _first(*values: float | None) -> float | None:
    return next((value for value in values if value is not None), None)


class _Box(NamedTuple):
    """The bounds of each element, infinite where there is none."""

    low: Array
    high: Array

    def project(self, x: Array) -> None:
        """Move a point into the bounds, in place."""
        np.clip(x, self.low, self.high, out=x)

    def free_part(self, x: Array, grad: Array) -> Array:
        """Return the gradient without its part that points out of the bounds."""
        return x - np.clip(x - grad, self.low, self.high) if np.isfinite(self).any() else grad


def _box_of(bounds: Any, size: int) -> _Box:
    """Return the bounds that `minimize` received: an object with `lb` and `ub`, or pairs with None for no bound."""
    if bounds is None:
        return _Box(np.full(size, -np.inf), np.full(size, np.inf))
    if hasattr(bounds, "lb"):
        low, high = bounds.lb, bounds.ub
    else:
        wrong = f"bounds: expected {size} pairs, as many as x0 has elements, got {brief(bounds)}"
        try:
            pairs = [tuple(pair) for pair in bounds]
        except TypeError:
            raise TypeError(wrong) from None
        if len(pairs) != size or any(len(pair) != 2 for pair in pairs):
            raise ValueError(wrong)
        low = [-np.inf if pair[0] is None else pair[0] for pair in pairs]
        high = [np.inf if pair[1] is None else pair[1] for pair in pairs]
    box = _Box(*(_limits(end, size) for end in (low, high)))
    if not (box.low <= box.high).all():
        at = int(np.argmin(box.low <= box.high))
        raise ValueError(f"bounds[{at}]: expected low <= high, got {(float(box.low[at]), float(box.high[at]))}")
    return box


def _limits(values: Any, size: int) -> Array:
    limits = as_real(values, np.float64, "bounds")
    if limits.shape not in ((), (1,), (size,)):
        raise ValueError(f"bounds: expected {size} limits, as many as x0 has elements, got shape {limits.shape}")
    return np.array(np.broadcast_to(limits, size))


class _Point(NamedTuple):
    """The function and its gradient at a point."""

    fun: float
    grad: Array

    @property
    def is_finite(self) -> bool:
        return bool(np.isfinite(self.fun) and np.isfinite(self.grad).all())


@dataclass
class _Objective:
    """The function to minimize, its gradient, and the numbers of their evaluations."""

    fun: Callable[..., Any]
    jac: Callable[..., Any] | None
    args: tuple[Any, ...]
    box: _Box
    nfev: int = 0
    njev: int = 0

    def at(self, x: Array) -> _Point:
        """Evaluate both; the caller's functions receive copies of the point, which they may change."""
        value = self._value(x)
        if self.jac is None:
            return _Point(value, self._differences(x, value))
        self.njev += 1
        grad = np.array(as_real(self.jac(x.copy(), *self.args), np.float64, "jac"), ndmin=1)
        if grad.shape != x.shape:
            raise ValueError(f"jac: expected shape {x.shape} as that of x0, got {grad.shape}")
        return _Point(value, grad)

    def _value(self, x: Array) -> float:
        self.nfev += 1
        value = as_real(self.fun(x.copy(), *self.args), np.float64, "fun")
        if value.size != 1:
            raise ValueError(f"fun: expected one number, got shape {value.shape}")
        return float(value.item())

    def _differences(self, x: Array, value: float) -> Array:
        """Return forward differences, backward ones at an upper bound; the step is the square root of the precision."""
        steps = np.sqrt(np.finfo(np.float64).eps) * np.maximum(1.0, np.abs(x))
        up, down = self.box.high - x, x - self.box.low
        steps = np.where(up >= steps, steps, np.where(down > up, -np.minimum(steps, down), up))
        grad = np.zeros_like(x)
        for i in np.flatnonzero(steps):
            shifted = x.copy()
            shifted[i] += steps[i]
            grad[i] = (self._value(shifted) - value) / (shifted[i] - x[i])
        return grad


def _halts(callback: Callable[..., Any], x: Array, value: float) -> bool:
    """Call the callback in the way that its signature shows, and return whether it raised StopIteration."""
    try:
        if set(inspect.signature(callback).parameters) == {"intermediate_result"}:
            callback(intermediate_result=OptimizeResult(x=x.copy(), fun=value))
        else:
            callback(x.copy())
    except StopIteration:
        return True
    return False


@dataclass
class _Trace:
    """The history of a minimization, as far as it is wanted."""

    history: bool
    points: bool
    values: list[float] = field(default_factory=list)
    norms: list[float] = field(default_factory=list)
    allvecs: list[Array] = field(default_factory=list)

    def append(self, x: Array, point: _Point) -> None:
        if self.history:
            self.values.append(point.fun)
            self.norms.append(float(np.linalg.norm(point.grad)))
        if self.points:
            self.allvecs.append(x.copy())

    def result(self) -> dict[str, Any]:
        series = {"history": {"fun": np.array(self.values), "gradient": np.array(self.norms)}}
        return {**(series if self.history else {}), **({"allvecs": self.allvecs} if self.points else {})}
