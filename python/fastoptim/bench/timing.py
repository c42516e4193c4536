"""Steps timed in turn, what their times say, and whether that can be relied on.

>>> times = interleave({"one": lambda: sum(range(10)), "other": lambda: sum(range(99))}, seconds=0, rounds=7)
>>> summary(times["one"]).rounds
7
"""

from __future__ import annotations

import gc
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from statistics import median, quantiles
from typing import NamedTuple

#: Fewer rounds than this say nothing.
FEWEST_ROUNDS = 5
#: A block of steps lasts at least this long, so that the clock's resolution and its calls do not count.
BLOCK_SECONDS = 1e-3
#: From the 10th to the 90th percentile, as a part of the median: a machine at rest stays far below.
WIDEST_SPREAD = 0.5
#: The ratio of two medians in the first half of the rounds beside that in the second.
WIDEST_DRIFT = 0.1

QUIET = "quiet"

Step = Callable[[], object]


class Spread(NamedTuple):
    """Times of a step in seconds: the median, the 10th and the 90th percentile, and of how many rounds."""

    median: float
    low: float
    high: float
    rounds: int

    @property
    def width(self) -> float:
        """From the 10th to the 90th percentile, as a part of the median."""
        return (self.high - self.low) / self.median if self.median > 0 else 0.0


def interleave(
    steps: Mapping[str, Step],
    *,
    seconds: float,
    block: int | None = None,
    rounds: int | None = None,
    between: Step = lambda: None,
    on_round: Callable[[float], object] = lambda share: None,
    wait: Step | None = None,
) -> dict[str, list[float]]:
    """Times the steps in turn, round after round, so that what disturbs the machine disturbs all of them.

    In a round each takes a block of steps in a row and then gives way to the next.  A block of several begins with a
    step that is not timed, which finds the caches as the others left them.

    Args:
        steps: What to time, by name.  Each is called at least once before any is timed.
        seconds: How long to go on; at least `FEWEST_ROUNDS` rounds are made.
        block: Steps a block; by default each takes as many as last `BLOCK_SECONDS`.  With 1 every step finds its arrays
            driven out of the caches by the others', where those are large enough.
        rounds: Exactly so many rounds, however long they take.
        between: Called before each round; not timed.
        on_round: Called after each round with how much of the work is done, from 0 to 1.
        wait: Called before and after each block, and timed after it: for steps that only hand work over, as to a GPU.

    Returns:
        Seconds a step by name, one of each round.
    """
    blocks = {name: block or _block_of(step, wait) for name, step in steps.items()}
    times: dict[str, list[float]] = {name: [] for name in steps}
    with _no_garbage_collection():
        start = time.perf_counter()
        count, done = 0, 0.0
        while done < 1:
            between()
            for name, step in steps.items():
                times[name].append(_time(step, blocks[name], wait))
            count += 1
            by_clock = 1.0 if rounds or seconds <= 0 else (time.perf_counter() - start) / seconds
            done = min(1.0, by_clock, count / (rounds or FEWEST_ROUNDS))
            on_round(done)
    return times


def _time(step: Step, block: int, wait: Step | None) -> float:
    """Seconds a step in a block of them."""
    if block > 1:
        step()
    if wait is not None:
        wait()
    start = time.perf_counter()
    for _ in range(block):
        step()
    if wait is not None:
        wait()
    return (time.perf_counter() - start) / block


def _block_of(step: Step, wait: Step | None) -> int:
    """How many of these steps last long enough to be timed."""
    step()
    block = 1
    while (took := _time(step, block, wait) * block) < BLOCK_SECONDS:
        block = max(2 * block, min(100 * block, int(block * BLOCK_SECONDS / max(took, 1e-9)) + 1))
    return block


@contextmanager
def _no_garbage_collection() -> Iterator[None]:
    """As in `timeit`: a collection would be counted to whichever step it falls into."""
    was = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was:
            gc.enable()


def summary(times: Sequence[float]) -> Spread:
    """The median and where most of the times lie.

    >>> summary([3.0, 1.0, 2.0])
    Spread(median=2.0, low=1.2, high=2.8, rounds=3)
    """
    if len(times) < 2:
        return Spread(times[0], times[0], times[0], len(times))
    tenths = quantiles(times, n=10, method="inclusive")
    return Spread(median(times), tenths[0], tenths[-1], len(times))


def verdict(times: Sequence[float], others: Sequence[float]) -> str:
    """Whether the ratio of two steps' medians, timed in turn, can be relied on: `QUIET`, or why not.

    Not if there are fewer than `FEWEST_ROUNDS`, if the times of either spread by more than `WIDEST_SPREAD` of their
    median, or if the ratio is another by more than `WIDEST_DRIFT` in the second half of the rounds.

    >>> verdict([1.0, 1.01, 1.0, 1.02, 1.0], [2.0, 2.01, 2.0, 2.0, 2.02])
    'quiet'
    >>> verdict([1.0, 1.01, 1.0, 1.5, 1.5, 1.6], [2.0, 2.01, 2.0, 2.0, 2.02, 2.0])
    'noisy: halves differ by 50 %'
    """
    rounds = min(len(times), len(others))
    if rounds < FEWEST_ROUNDS:
        return f"noisy: {rounds} rounds"
    reasons = []
    spread = max(summary(times).width, summary(others).width)
    if spread > WIDEST_SPREAD:
        reasons.append(f"spread {spread:.0%}")
    half = rounds // 2
    first = median(times[:half]) / median(others[:half])
    second = median(times[half:rounds]) / median(others[half:rounds])
    drift = max(first, second) / min(first, second) - 1
    if drift > WIDEST_DRIFT:
        reasons.append(f"halves differ by {drift:.0%}")
    return f"noisy: {', '.join(reasons)}".replace("%", " %") if reasons else QUIET
