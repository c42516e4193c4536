"""Steps timed alternately, statistics of their times, and a verdict on the noise.

>>> times = interleave({"one": lambda: sum(range(10)), "other": lambda: sum(range(99))}, Budget(0, rounds=7))
>>> summarize(times["one"])["rounds"]
7
"""

from __future__ import annotations

import gc
import math
import time
from collections.abc import Callable, Mapping, Sequence
from statistics import median, quantiles
from typing import NamedTuple, TypedDict

#: Fewer rounds than this allow no conclusion.
FEWEST_ROUNDS = 5
#: A block of steps lasts at least this long, so that the clock's resolution and cost are negligible.
BLOCK_SECONDS = 1e-3
#: The same for steps that are only submitted: a block starts on an idle device, whose first step overlaps with nothing.
SUBMITTED_BLOCK_SECONDS = 2e-2
#: The length of the 95 % interval of the ratio of two steps, as a part of the ratio.
WIDEST_INTERVAL = 0.1
#: The ratio of two medians in the first half of the rounds, compared with that in the second half.
WIDEST_DRIFT = 0.1

QUIET = "quiet"

Step = Callable[[], object]
OnRound = Callable[[float], object]  # receives the part of the work that is done, from 0 to 1


class Times(TypedDict):
    """Seconds per step: the median, the 10th and the 90th percentile, and the number of rounds."""

    median: float
    low: float
    high: float
    rounds: int


class Budget(NamedTuple):
    """The time for a row."""

    seconds: float  # how long to continue; at least `FEWEST_ROUNDS` rounds are made
    rounds: int | None = None  # the exact number of rounds, however long they take
    block: int | None = None  # steps per block; by default as many as last `BLOCK_SECONDS`


def interleave(
    steps: Mapping[str, Step],
    budget: Budget,
    *,
    between: Step = lambda: None,
    on_round: OnRound = lambda share: None,
    wait: Step | None = None,
) -> dict[str, list[float]]:
    """Time the steps alternately, round after round, so that a disturbance of the machine hits all of them.

    In each round every step runs a block of times in a row.  A block of several begins with a step that is not timed,
    because it finds the caches as the other steps left them.  In blocks of 1 every step finds its arrays evicted from
    the caches by the other steps', if those are large enough.

    Args:
        steps: The steps by name.  Each is called at least once before any is timed.
        budget: How long to continue.
        between: Called before each round; not timed.
        on_round: Called after each round.
        wait: Called before and after each block, and timed after it: for steps that are only submitted, as to a GPU.

    Returns:
        Seconds per step by name, one value per round.
    """
    blocks = {name: budget.block or _block_size(step, wait) for name, step in steps.items()}
    times: dict[str, list[float]] = {name: [] for name in steps}
    was_enabled = gc.isenabled()
    gc.disable()  # as `timeit` does: a collection would count for the step during which it happens
    try:
        start = time.perf_counter()
        count, done = 0, 0.0
        while done < 1:
            between()
            for name, step in steps.items():
                times[name].append(_time_block(step, blocks[name], wait))
            count += 1
            used = time.perf_counter() - start
            by_clock = 1.0 if budget.rounds or budget.seconds <= used else used / budget.seconds
            done = min(by_clock, count / (budget.rounds or FEWEST_ROUNDS))
            on_round(done)
    finally:
        if was_enabled:
            gc.enable()
    return times


def _time_block(step: Step, block: int, wait: Step | None) -> float:
    """Return the seconds per step of one block."""
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


def _block_size(step: Step, wait: Step | None) -> int:
    """Find the number of steps that lasts long enough to be timed."""
    least = BLOCK_SECONDS if wait is None else SUBMITTED_BLOCK_SECONDS
    step()
    block = 1
    while (took := _time_block(step, block, wait) * block) < least:
        block = max(2 * block, min(100 * block, int(block * least / max(took, 1e-9)) + 1))
    return block


def summarize(times: Sequence[float]) -> Times:
    """Return the median and the range of most of the times.

    >>> summarize([3.0, 1.0, 2.0])
    {'median': 2.0, 'low': 1.2, 'high': 2.8, 'rounds': 3}
    """
    tenths = quantiles(times, n=10, method="inclusive") if len(times) > 1 else times
    return Times(median=median(times), low=tenths[0], high=tenths[-1], rounds=len(times))


def verdict(times: Sequence[float], others: Sequence[float]) -> str:
    """Judge whether the ratio of two steps' medians, timed alternately, is reliable: `QUIET`, or the reasons why not.

    It is not after fewer than `FEWEST_ROUNDS` rounds, if the 95 % interval of the median of the rounds' ratios is
    longer than `WIDEST_INTERVAL`, or if the ratio differs by more than `WIDEST_DRIFT` between the halves of the rounds.
    Times that vary are no reason, if those of both steps vary alike.

    >>> verdict([1.0, 1.01, 1.0, 1.02, 1.0], [2.0, 2.01, 2.0, 2.0, 2.02])
    'quiet'
    >>> verdict([1.0, 1.01, 1.0, 1.5, 1.5, 1.6], [2.0, 2.01, 2.0, 2.0, 2.02, 2.0])
    'noisy: ratio uncertain by 60 %, halves differ by 50 %'
    """
    if len(times) < FEWEST_ROUNDS:
        return f"noisy: {len(times)} rounds"
    reasons = []
    pairs = sorted(a / b for a, b in zip(times, others, strict=True))
    first = max(0, int(len(pairs) / 2 - math.sqrt(len(pairs))))  # of the interval, by the binomial distribution
    interval = pairs[-1 - first] / pairs[first] - 1
    if interval > WIDEST_INTERVAL:
        reasons.append(f"ratio uncertain by {100 * interval:.0f} %")
    half = len(times) // 2
    ratios = [median(times[part]) / median(others[part]) for part in (slice(half), slice(half, None))]
    drift = max(ratios) / min(ratios) - 1
    if drift > WIDEST_DRIFT:
        reasons.append(f"halves differ by {100 * drift:.0f} %")
    return f"noisy: {', '.join(reasons)}" if reasons else QUIET
