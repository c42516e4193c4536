"""The answer before the time: native steps beside the reference's, bit for bit."""

from __future__ import annotations

import numpy as np

from ..optimizer.base import Optimizer
from ..reference_math import Array
from .task import Task, configured, optimizer_of

#: The reference takes a fraction of a second for so many elements; of larger work it is given the beginning.
MOST_ELEMENTS = 1 << 20
STEPS = 3


class WrongAnswerError(Exception):
    """Native code and the reference disagree, so that no time would mean anything."""


def check(task: Task) -> int:
    """Takes a few steps with both backends on copies and compares every bit; returns how many elements that were."""
    small = task.on(task.work.capped(MOST_ELEMENTS))
    with configured(small), np.errstate(all="ignore"):
        native, grads = optimizer_of(small, "native")
        reference, same = optimizer_of(small, "reference")
        for _ in range(STEPS):
            native.step(grads)
            reference.step(same)
    compare(native, reference, task.optimizer)
    return small.work.elements


def compare(one: Optimizer, other: Optimizer, name: str) -> None:
    """WrongAnswerError where two optimizers over arrays of the same shapes, the other's NumPy's, differ in a bit."""
    for slot, expected in zip(one.param_states, other.param_states, strict=True):
        pairs = [(slot.p_place, slot.p, expected.p)]
        pairs += [(slot.state_place(k), array, expected.state[k]) for k, array in slot.state.items()]
        for place, got, wanted in pairs:
            differ = count_different(slot.family.to_numpy(got), wanted)
            if differ:
                raise WrongAnswerError(
                    f"{name}: {place} differs from the reference in {differ:,} of {got.size:,} elements after "
                    f"{STEPS} steps; nothing was timed"
                )


def count_different(a: Array, b: Array) -> int:
    """How many elements differ in a bit; a NaN is a NaN."""
    if a.tobytes() == b.tobytes():
        return 0
    words = f"u{a.itemsize}"
    different = a.reshape(-1).view(words) != b.reshape(-1).view(words)
    both_nan = (np.isnan(a) & np.isnan(b)).reshape(-1)
    return int((different & ~both_nan).sum())
