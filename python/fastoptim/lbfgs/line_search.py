"""A line search for the strong Wolfe conditions, by bracketing and cubic interpolation.

Its decisions are those of `torch.optim.LBFGS`, which has them from Mark Schmidt's minFunc.
Source: Nocedal & Wright, "Numerical Optimization", 2006, algorithms 3.5 and 3.6.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, NamedTuple

#: The decrease that a step must bring, and the share of the slope that may remain: c1 and c2 of the book.
DECREASE, CURVATURE = 1e-4, 0.9


class Trial(NamedTuple):
    """A point on the line: the step from its start, the loss, its derivative along the line, and the gradient."""

    t: float
    loss: float
    slope: float
    g: Any


def strong_wolfe(
    evaluate: Callable[[float, tuple[Trial, ...]], Trial],
    start: Trial,
    t: float,
    *,
    largest: float,
    tolerance: float,
    max_evals: int,
) -> tuple[Trial, int]:
    """Return the point at which to stop, and the number of evaluations.

    Args:
        evaluate: Return the point of a step; the gradients of the points given besides must remain.
        start: The point with step 0.
        t: The first step to try.
        largest: The largest absolute value of the direction.
        tolerance: The change of a parameter that is too small to go on.
        max_evals: The number of evaluations after which to stop; at least one takes place.
    """
    bracket, evals = _bracket(evaluate, start, t, max_evals)
    if len(bracket) == 1:
        return bracket[0], evals
    return _zoom(evaluate, start, bracket, evals, largest=largest, tolerance=tolerance, max_evals=max_evals)


def _is_lower(start: Trial, trial: Trial) -> bool:
    """Return whether the loss has fallen enough; a loss that is not finite has not."""
    return trial.loss <= start.loss + DECREASE * trial.t * start.slope


def _is_flat(start: Trial, trial: Trial) -> bool:
    return abs(trial.slope) <= -CURVATURE * start.slope


def _bracket(
    evaluate: Callable[[float, tuple[Trial, ...]], Trial], start: Trial, t: float, max_evals: int
) -> tuple[list[Trial], int]:
    """Return a point that satisfies both conditions, or two that enclose one."""
    previous, trial = start, evaluate(t, (start,))
    for further in range(max_evals):
        if not _is_lower(start, trial) or (further > 1 and trial.loss >= previous.loss):
            return [previous, trial], further + 1
        if _is_flat(start, trial):
            return [trial], further + 1
        if trial.slope >= 0:
            return [previous, trial], further + 1
        t = _minimum(previous, trial, trial.t + 0.01 * (trial.t - previous.t), 10 * trial.t)
        previous, trial = trial, evaluate(t, (start, trial))
    return [start, trial], max(max_evals, 0) + 1


def _zoom(
    evaluate: Callable[[float, tuple[Trial, ...]], Trial],
    start: Trial,
    bracket: list[Trial],
    evals: int,
    *,
    largest: float,
    tolerance: float,
    max_evals: int,
) -> tuple[Trial, int]:
    """Narrow the bracket down to a point that satisfies both conditions."""
    near_end = False  # whether the last step was close to an end of the bracket
    low, high = _by_loss(bracket)
    while evals <= max_evals:
        ends = sorted(point.t for point in bracket)
        if (ends[1] - ends[0]) * largest < tolerance:
            break
        t = _minimum(bracket[0], bracket[1], ends[0], ends[1])
        margin = 0.1 * (ends[1] - ends[0])
        if min(ends[1] - t, t - ends[0]) >= margin:
            near_end = False
        elif near_end or not ends[0] < t < ends[1]:
            t = ends[1] - margin if abs(t - ends[1]) < abs(t - ends[0]) else ends[0] + margin
            near_end = False
        else:
            near_end = True
        trial = evaluate(t, (start, *bracket))
        evals += 1
        if not _is_lower(start, trial) or trial.loss >= bracket[low].loss:
            bracket[high] = trial
            low, high = _by_loss(bracket)
            continue
        if _is_flat(start, trial):
            return trial, evals
        if trial.slope * (bracket[high].t - bracket[low].t) >= 0:
            bracket[high] = bracket[low]
        bracket[low] = trial
    return bracket[low], evals


def _by_loss(bracket: list[Trial]) -> tuple[int, int]:
    return (0, 1) if bracket[0].loss <= bracket[1].loss or math.isnan(bracket[1].loss) else (1, 0)


def _minimum(a: Trial, b: Trial, low: float, high: float) -> float:
    """Return the minimum of the cubic through two points with their slopes, bounded; the middle if there is none."""
    if a.t > b.t:
        a, b = b, a
    try:
        d1 = a.slope + b.slope - 3 * (a.loss - b.loss) / (a.t - b.t)
        d2 = math.sqrt(d1 * d1 - a.slope * b.slope)
        at = b.t - (b.t - a.t) * ((b.slope + d2 - d1) / (b.slope - a.slope + 2 * d2))
    except (ValueError, ZeroDivisionError, OverflowError):  # of the root of a negative number among them
        at = math.nan
    return min(max(at, low), high) if math.isfinite(at) else (low + high) / 2
