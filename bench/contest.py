"""A work, an optimizer and its peers: the arrays, the comparison of answers, the times, a row for each peer."""

from __future__ import annotations

import gc
import os
from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple, TypedDict

import numpy as np

from fastoptim.bench.results import Times, times_of
from fastoptim.bench.timing import QUIET, interleave, summary, verdict
from rivals import Array, Contender, Options, Ours, Peer
from works import OPTIONS, Work

OURS, THEIRS = "ours", "theirs"
#: Answers are compared after a step with each of these multiples of the gradients: signs turn, and RAdam reaches its
#: second form.
MULTIPLES = (1.0, 2.0, -0.5, 4.0, -1.0, 0.25, 0.5, 3.0)
#: Elements of all arrays that are compared, spread evenly.
COMPARED = 2**18
#: How far a peer's parameter may be from ours, which is rounded in another order: as a part of the largest move of its
#: array, and in units of the parameter's last place for each step.
PART_OF_MOVE = 1e-4
LAST_PLACES = 2.0
#: Bytes that no cache holds beside anything else.
DRIVING_OUT = 128 * 2**20

#: Where numbers of threads are read from; the last is XLA's.
THREADS_VARIABLES = (
    *(f"{library}_NUM_THREADS" for library in ("OMP", "MKL", "OPENBLAS", "BLIS", "NUMBA", "NUMEXPR", "VECLIB")),
    "NUMEXPR_MAX_THREADS",
    "NPROC",
)


class Row(TypedDict):
    """One peer beside fastoptim; times in seconds a step, of both in the same rounds.  Without times: `problem`."""

    work: str
    title: str
    optimizer: str
    elements: int
    arrays: int
    dtype: str
    peer: str
    version: str
    seconds: Times | None
    ours_seconds: Times | None
    times_as_fast: float | None
    checked_elements: int
    noise: str
    problem: str | None


def bind(threads: int) -> None:
    """Tells those who read it from the environment, when they are imported, how many threads to use."""
    os.environ.update(dict.fromkeys(THREADS_VARIABLES, str(threads)))


def made(work: Work) -> tuple[list[Array], list[Array]]:
    """Parameters as a network has them, and gradients of many magnitudes, so that it shows where an eps stands."""
    rng = np.random.default_rng(0)
    params = [rng.standard_normal(shape, np.float32) for shape in work.shapes]
    grads = [rng.standard_normal(shape, np.float32) for shape in work.shapes]
    for p, g in zip(params, grads, strict=True):
        p *= np.float32(0.02)
        g *= g * g
    return params, grads


def sample(arrays: Sequence[Array]) -> list[Array]:
    """Copies of some of the elements of each array, the same of all arrays of a shape."""
    stride = -(-sum(array.size for array in arrays) // COMPARED)
    return [array.reshape(-1)[::stride].copy() for array in arrays]


def drill(contender: Contender, grads: Sequence[Array]) -> None:
    """A step with each of the multiples; in the end the gradients are as they were."""
    for multiple in MULTIPLES:
        contender.feed(g * np.float32(multiple) for g in grads)
        contender.step()
    contender.feed(grads)


def difference(before: Sequence[Array], ours: Sequence[Array], theirs: Sequence[Array]) -> str | None:
    """What is wrong with their parameters after the drill; None if they are ours but for rounding."""
    for place, (start, own, other) in enumerate(zip(before, ours, theirs, strict=True)):
        rounding = LAST_PLACES * len(MULTIPLES) * np.spacing(np.maximum(np.abs(own), np.abs(start)))
        allowed = PART_OF_MOVE * np.abs(own - start).max(initial=0) + rounding
        off = np.abs(other - own)
        wrong = ~(off <= allowed)  # also where it is NaN
        if wrong.any():
            worst = int(np.argmax(np.where(wrong, np.nan_to_num(off, nan=np.inf), 0)))
            return f"answer differs: {other[worst]} for {own[worst]} in array {place}, from {start[worst]}"
    return None


class Pair(NamedTuple):
    """fastoptim and a peer, ready to be timed; or what is wrong with the peer."""

    steps: dict[str, Callable[[], object]]
    compared: int
    problem: str | None


class Judge:
    """What the answers are after the drill, for the elements that are compared."""

    def __init__(self, optimizer: str, params: Sequence[Array], grads: Sequence[Array]) -> None:
        self._optimizer = optimizer
        self._params, self._grads = sample(params), sample(grads)
        self.compared = sum(p.size for p in self._params)

    def _right(self, more: Options) -> list[Array]:
        """The reference's, with these options more."""
        options = {**OPTIONS[self._optimizer], **more}
        reference = Ours(self._optimizer, options, self._params, self._grads, "reference")
        drill(reference, self._grads)
        return reference.params()

    def refuse_ours(self, ours: Contender) -> None:
        """Raises AssertionError unless it has the reference's bits."""
        for own, right in zip(sample(ours.params()), self._right({}), strict=True):
            np.testing.assert_array_equal(own.view(np.uint32), right.view(np.uint32))

    def problem(self, peer: Peer, theirs: Contender) -> str | None:
        """What is wrong with a peer's answer."""
        return difference(self._params, self._right(peer.offers[self._optimizer].ours), sample(theirs.params()))


def line_up(work: Work, optimizer: str, peer: Peer) -> Pair:
    """Makes both, steps them, and compares what they answer."""
    params, grads = made(work)
    judge = Judge(optimizer, params, grads)
    ours = Ours(optimizer, OPTIONS[optimizer], params, grads)
    drill(ours, grads)
    judge.refuse_ours(ours)
    try:
        theirs = peer.make(optimizer, OPTIONS[optimizer], params, grads)
        drill(theirs, grads)
        problem = judge.problem(peer, theirs)
    except Exception as error:  # whatever a peer raises, the others go on
        problem = f"{type(error).__name__}: {error}".splitlines()[0]
    if problem:
        return Pair({OURS: ours.step}, judge.compared, problem)
    return Pair({OURS: ours.step, THEIRS: theirs.step}, judge.compared, None)


def contest(
    work: Work,
    optimizer: str,
    peer: Peer,
    *,
    seconds: float,
    block: int | None = None,
    on_round: Callable[[float], object] = lambda share: None,
) -> Row:
    """Compares the answers of a peer and fastoptim, and times them in turn if they agree.

    Args:
        work: The arrays.
        optimizer: By its name here; one that the peer offers.
        peer: An installed one.
        seconds: How long both are timed.
        block: Steps in a row; see `interleave`.  With 1 they find their arrays driven out of the caches.
        on_round: Called with how much of the timing is done.
    """
    pair = line_up(work, optimizer, peer)
    row = row_of(work, optimizer, peer, pair.compared, pair.problem)
    if pair.problem is None:
        steps = cold(pair.steps) if block == 1 else pair.steps
        times = interleave(steps, seconds=seconds, block=block, on_round=on_round)
        ours, theirs = summary(times[OURS]), summary(times[THEIRS])
        row["ours_seconds"], row["seconds"] = times_of(ours), times_of(theirs)
        row["times_as_fast"] = theirs.median / ours.median
        row["noise"] = verdict(times[OURS], times[THEIRS])
    del pair  # and its arrays, before the next one makes its own
    gc.collect()
    return row


def cold(steps: Mapping[str, Callable[[], object]]) -> dict[str, Callable[[], object]]:
    """The same, with something before each that fills the caches."""
    other = np.zeros(DRIVING_OUT, np.uint8)

    def drive_out() -> None:
        np.add(other, 1, out=other)

    return {key: value for name, step in steps.items() for key, value in ((f"before {name}", drive_out), (name, step))}


def row_of(work: Work, optimizer: str, peer: Peer, compared: int = 0, problem: str | None = None) -> Row:
    """A row without times."""
    return Row(
        work=work.name,
        title=work.title,
        optimizer=optimizer,
        elements=work.elements,
        arrays=len(work.shapes),
        dtype="float32",
        peer=peer.name,
        version=peer.version(),
        seconds=None,
        ours_seconds=None,
        times_as_fast=None,
        checked_elements=compared,
        noise=QUIET,
        problem=problem,
    )
