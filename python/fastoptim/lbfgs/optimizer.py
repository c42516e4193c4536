"""L-BFGS: a quasi-Newton method with a line search, for losses that are deterministic functions."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from inspect import signature
from typing import Any, Literal, TypeAlias

from ..arrays.checks import check_gradient
from ..arrays.param_state import ParamState
from ..arrays.tree import Structure, describe
from ..optimizer.groups import is_groups
from ..optimizer.saving import SavedInFiles
from ..options.checks import Backend, NonNegative, Positive, PositiveCount, as_float, check_option, is_array
from ..options.suggestions import did_you_mean
from . import checkpoint
from .history import History
from .line_search import Trial, strong_wolfe
from .passes import Scale
from .vectors import Vector, VectorSpace

#: Evaluates the loss and the gradients at the present parameters.
Closure: TypeAlias = Callable[[], tuple[Any, Any]]

OPTIONS: Mapping[str, Any] = {
    "lr": Positive,
    "max_iter": PositiveCount,
    "history_size": PositiveCount,
    "line_search": Literal["strong_wolfe"] | None,
    "max_eval": PositiveCount | None,
    "tolerance_grad": NonNegative,
    "tolerance_change": NonNegative,
    "ftol": NonNegative | None,
}


class LBFGS(SavedInFiles):
    r"""L-BFGS: Newton's method with an inverse Hessian that the last steps and gradients imply, and a line search.

    .. math::
        d &= -H \nabla f(p), \qquad H = V_k^T \cdots V_1^T \, \gamma I \, V_1 \cdots V_k + \dots \\
        V_i &= I - \rho_i y_i s_i^T, \qquad \rho_i = 1 / y_i^T s_i, \qquad \gamma = s_k^T y_k / y_k^T y_k \\
        p &= p + t d, \qquad t \text{ from the line search}

    Here :math:`s_i` and :math:`y_i` are the changes of the parameters and of the gradient in one of the last
    `history_size` iterations.  It needs a loss that is the same function at every evaluation: all of the data, no
    dropout.  For such a loss of up to some millions of parameters it usually takes far fewer evaluations than Adam.  A
    line search chooses the step length, so `lr` rarely needs tuning.  For mini-batches take one of the other
    optimizers.

    A call of `step` is a minimization of its own of up to `max_iter` iterations.  Call it in a loop while `reason` is
    "max_iter" or "max_eval"; any other value means that further calls will not help.  The pairs persist between calls.
    Parameters of 16 bits are rounded at each evaluation; expect few digits.

    The path is that of ``torch.optim.LBFGS`` with the same options except for rounding.  Inner products have a fixed
    order, so that the bits do not depend on threads, instruction set or backend, as long as the closure's do not.

    Memory: ``2*history_size + 8`` vectors of all parameters in the compute type (float64 for float64 parameters,
    otherwise float32), and one more for parameters that are not in C order.

    Args:
        params: Arrays to update in place, in any nesting of dicts, lists and tuples; no groups.
        lr: The first step length that a line search tries; the step length without one.  Above 0, default 1.
        max_iter: The largest number of iterations in one call of `step`.  Default 20.
        history_size: The number of pairs that are kept.  Default 10.
        line_search: "strong_wolfe", or None for steps of length `lr`.
        max_eval: The number of evaluations in one call of `step` after which no iteration begins.  Default: 5/4 of
            `max_iter`.
        tolerance_grad: Converged if no element of the gradient exceeds this in absolute value.  Default 1e-7.
        tolerance_change: Converged if an iteration changes no parameter by more, or the loss by less.  Default 1e-9.
        ftol: Converged if an iteration lowers the loss by at most ``ftol * max(abs(loss), 1)``, as SciPy's `ftol`; the
            larger of the losses before and after counts.  Default None, no such rule.
        backend: "native", or "reference" for NumPy alone, with the same bits.

    Raises:
        TypeError: If `params` are groups, or an option has the wrong type.
        ValueError: If an option is out of range.

    Source: Liu & Nocedal, "On the limited memory BFGS method for large scale optimization", 1989,
    doi:10.1007/BF01589116; the line search: Nocedal & Wright, "Numerical Optimization", 2006, chapter 3.

    >>> import numpy as np, fastoptim as fo
    >>> p = np.array([-1.2, 1.0])
    >>> def closure():
    ...     x, y = p
    ...     loss = (1 - x) ** 2 + 100 * (y - x * x) ** 2
    ...     return loss, np.array([-2 * (1 - x) - 400 * x * (y - x * x), 200 * (y - x * x)])
    >>> opt = fo.LBFGS(p, max_iter=100)
    >>> loss = opt.step(closure)
    >>> p.round(4), opt.reason
    (array([1., 1.]), 'tolerance_change')
    """

    options = OPTIONS
    """The types and ranges of the options by name; they may be assigned between calls of `step`."""

    lr: float
    max_iter: int
    history_size: int
    line_search: Literal["strong_wolfe"] | None
    max_eval: int | None
    tolerance_grad: float
    tolerance_change: float
    ftol: float | None

    def __init__(
        self,
        params: Any,
        lr: float = 1.0,
        max_iter: int = 20,
        history_size: int = 10,
        line_search: Literal["strong_wolfe"] | None = "strong_wolfe",
        *,
        max_eval: int | None = None,
        tolerance_grad: float = 1e-7,
        tolerance_change: float = 1e-9,
        ftol: float | None = None,
        backend: Backend = "native",
    ) -> None:
        if is_groups(params):
            raise TypeError("params: expected arrays, as L-BFGS has one direction for all, got a list of groups")
        given = locals()
        for name in OPTIONS:
            setattr(self, name, given[name])
        self._base = Scale(params, backend=backend)  # for its structure and its checks of the parameters
        self.params = self._base.params
        self._space = VectorSpace(self._base.backend, self.param_states)
        self.zero_state()

    defaults: Mapping[str, Any] = {k: p.default for k, p in signature(__init__).parameters.items() if k in OPTIONS}
    """The defaults of the options."""

    def __setattr__(self, name: str, value: Any) -> None:
        """Assign; an option is checked, and a name that resembles one is rejected."""
        if name in OPTIONS:
            value = check_option(OPTIONS[name], value, name)
        elif name[0] != "_" and not hasattr(self, name) and (suggestion := did_you_mean(name, OPTIONS)):
            raise AttributeError(f"{name}: not an attribute of LBFGS{suggestion}")
        object.__setattr__(self, name, value)

    def zero_state(self) -> None:
        """Forget all iterations: the next one follows the gradient."""
        self._space.forget()
        self._history = History(self._space, self.history_size)
        self._direction = self._space.new()
        self._start = self._space.new()  # the parameters before a line search
        self._largest = 0.0  # absolute value in the direction
        self._gradients = [self._space.new() for _ in range(4)]  # the ends of a bracket, its start, and one to try
        self._last: tuple[Vector, float] | None = None  # the gradient before the last move, and the move's length
        self.step_count = 0
        self.iterations = 0
        self.evaluations = 0
        self.reason = ""

    @property
    def param_states(self) -> list[ParamState]:
        """The parameters with their paths; their state is that of the optimizer as a whole."""
        return self._base.param_states

    @property
    def backend(self) -> Backend:
        """The backend."""
        return self._base.backend

    @property
    def _structure(self) -> Structure:
        return self._base._structure

    def check_not_swapped(self) -> None:
        """Do nothing: the parameters are always in their place between calls."""

    @property
    def converged(self) -> bool:
        """True if the last call of `step` ended by a tolerance, not by the number of iterations or evaluations."""
        return self.reason in ("tolerance_grad", "tolerance_change", "ftol")

    def step(self, closure: Closure) -> float:
        """Minimize the loss by up to `max_iter` iterations, in place; return the loss before the first.

        Args:
            closure: Evaluates the loss and its gradients at the present parameters, and returns both.  The gradients
                have the structure and shapes of `params`; None instead of an array counts as zeros.

        `reason` is then the rule that ended it: "tolerance_grad", "tolerance_change", "ftol", "max_iter", "max_eval",
        "line_search" if it found no lower loss along the direction, or "nonfinite" if the loss or a gradient is not
        finite where an iteration begins or ends.  A line search treats a loss or a slope that is not finite as too
        high.  After an exception in the closure, the parameters are those before the iteration in which it was raised.
        """
        if not callable(closure):
            raise TypeError(
                f"closure: expected a function that returns the loss and the gradients, got {describe(closure)}"
            )
        self._base.check_arrays()
        if self._history.size != self.history_size:
            self._history = self._history.resized(self.history_size)
            self._space.forget()
        self.reason = ""
        used = () if self._last is None else (self._last[0],)
        first_loss, g = self._evaluate(closure, used)
        self.step_count += 1
        largest = self._space.norm(g, math.inf)
        if not (math.isfinite(first_loss) and math.isfinite(largest)):
            self.reason = "nonfinite"
        elif largest <= self.tolerance_grad:
            self.reason = "tolerance_grad"
        else:
            self._iterate(closure, first_loss, g)
        return first_loss

    def _iterate(self, closure: Closure, loss: float, g: Vector) -> None:
        evaluations = 1
        max_eval = self.max_iter * 5 // 4 if self.max_eval is None else self.max_eval
        for iteration in range(1, self.max_iter + 1):
            self._choose_direction(g)
            self._largest = self._space.norm(self._direction, math.inf)
            t = min(1.0, 1.0 / self._space.norm(g, 1)) * self.lr if self.iterations == 0 else self.lr
            self._last = g, 0.0
            slope = self._space.dot(g, self._direction)
            if not slope <= -self.tolerance_change:
                self.reason = "nonfinite" if math.isnan(slope) else "tolerance_change"
                return
            start = Trial(0.0, loss, slope, g)
            is_last = iteration == self.max_iter
            end, used = self._move(closure, start, t, max_eval - evaluations, is_last)
            evaluations += used
            self.iterations += 1
            self._last = g, end.t
            loss, g = end.loss, end.g
            self.reason = self._why_to_stop(start, end, is_last, evaluations >= max_eval)
            if self.reason:
                return

    def _why_to_stop(self, start: Trial, end: Trial, is_last: bool, is_spent: bool) -> str:
        """Return the reason to stop after an iteration, empty if there is none."""
        if is_last and self.line_search is None:
            return "max_iter"
        largest = self._space.norm(end.g, math.inf)
        if not (math.isfinite(end.loss) and math.isfinite(largest)):
            return "nonfinite"
        if end.t == 0:
            return "max_eval" if is_spent else "line_search"
        change = start.loss - end.loss
        magnitude = max(abs(start.loss), abs(end.loss), 1.0)
        moved = abs(end.t) * self._largest
        reasons = {
            "tolerance_grad": largest <= self.tolerance_grad,
            "tolerance_change": moved <= self.tolerance_change or abs(change) < self.tolerance_change,
            "ftol": self.ftol is not None and change <= self.ftol * magnitude,
            "max_iter": is_last,
            "max_eval": is_spent,
        }
        return next((name for name, stops in reasons.items() if stops), "")

    def _choose_direction(self, g: Vector) -> None:
        if self.iterations == 0 or self._last is None:
            self._space.scale(self._direction, -1.0, g)
            return
        g_before, t = self._last
        if t:
            self._history.remember(self._direction, t, g, g_before)
        self._history.direct(self._direction, g)

    def _move(self, closure: Closure, start: Trial, t: float, max_evals: int, is_last: bool) -> tuple[Trial, int]:
        """Move the parameters along the direction; return the point that is reached and the number of evaluations."""
        self._space.gather_params(self._start)
        at = 0.0  # the step at which the parameters are

        def evaluate(t: float, keep: tuple[Trial, ...]) -> Trial:
            nonlocal at
            at = t
            self._put(t)
            loss, g = self._evaluate(closure, (start.g, *(trial.g for trial in keep)))
            slope = self._space.dot(g, self._direction)
            return Trial(t, loss if math.isfinite(slope) else math.inf, slope, g)

        try:
            if self.line_search is None:
                self._put(t)
                return (Trial(t, start.loss, 0.0, start.g), 0) if is_last else (evaluate(t, ()), 1)
            end, used = strong_wolfe(
                evaluate,
                start,
                t,
                largest=self._largest,
                tolerance=self.tolerance_change,
                max_evals=max_evals,
            )
            if end.t != at:
                self._put(end.t)
            return end, used
        except BaseException:
            self._space.scatter_params(self._start)
            raise

    def _put(self, t: float) -> None:
        """Assign the parameters at a step of length t from the start."""
        if t == 0:
            self._space.scatter_params(self._start)
            return
        self._space.move_params(self._start, t, self._direction)

    def _evaluate(self, closure: Closure, used: tuple[Vector, ...]) -> tuple[float, Vector]:
        """Return the loss at the present parameters, and the gradient in a vector that is not one of those used."""
        result = closure()
        if not isinstance(result, (tuple, list)) or len(result) != 2:
            raise TypeError(f"closure: expected it to return the loss and the gradients, got {describe(result)}")
        loss, grads = result
        value = as_float(loss.item() if is_array(loss) and math.prod(loss.shape) == 1 else loss, "loss")
        flat = self._structure.match(grads, "grads")
        for param, grad in zip(self.param_states, flat, strict=True):
            if grad is not None:
                check_gradient(grad, param.g_place, param.metadata)
        g = next(vector for vector in self._gradients if vector not in used)
        self._space.gather(g, flat)
        self.evaluations += 1
        return value, g

    @property
    def state_nbytes(self) -> int:
        """The bytes of all vectors that it has allocated."""
        return self._space.nbytes * (6 + self._history.vectors)

    def __getstate__(self) -> dict[str, Any]:
        return {"params": self.params, "backend": self.backend, "state_dict": self.state_dict(), "reason": self.reason}

    def __setstate__(self, state: dict[str, Any]) -> None:
        LBFGS.__init__(self, state["params"], backend=state["backend"])
        self.load_state_dict(state["state_dict"])
        self.reason = state["reason"]

    def state_dict(self) -> dict[str, Any]:
        """Return everything needed to continue with identical bits: dicts, lists, numbers, strings and array copies."""
        return checkpoint.state_dict_of(self)

    def load_state_dict(self, state_dict: Mapping[str, Any], *, convert: bool = False) -> None:
        """Continue from a `state_dict`, with its options and pairs; a call that raises an error has changed nothing.

        Args:
            state_dict: The result of `state_dict` for parameters of the same paths and shapes.
            convert: Accept pairs of another dtype, and round them.

        Raises:
            TypeError: `state_dict` is not a dict.
            ValueError: It does not fit.
        """
        checkpoint.load(self, state_dict, convert)

    def __repr__(self) -> str:
        elements = sum(param.metadata.size for param in self.param_states)
        return f"<LBFGS of {len(self.param_states)} arrays, {elements:,} elements, {self.iterations} iterations>"
