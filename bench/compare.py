"""The comparison of fastoptim with one peer on one workload: first the answers, then the times."""

from __future__ import annotations

import gc
from collections.abc import Mapping, Sequence

import numpy as np

from adapters import PEERS, Array, Options, Peer, Stepper, make_ours
from fastoptim.bench.results import Row, row_of
from fastoptim.bench.timing import Step, interleave, summarize, verdict
from fastoptim.bench.workload import Workload
from workloads import OPTIONS, WORKLOADS

#: Answers are compared after a step with each of these multiples of the gradients: signs change, and RAdam reaches its
#: second form.
MULTIPLES = (1.0, 2.0, -0.5, 4.0, -1.0, 0.25, 0.5, 3.0)
#: The number of elements that are compared, spread evenly over all arrays.
MOST_COMPARED = 2**18
#: The tolerance for a peer, which rounds in another order: a part of the largest change in its array, and units in the
#: parameter's last place for each step.
PART_OF_CHANGE = 1e-4
LAST_PLACES = 2.0
#: A number of bytes that evicts everything else from all caches.
EVICTING_BYTES = 128 * 2**20


def workload_of(name: str, optimizer: str, threads: int | None = None) -> Workload:
    """Return a workload of `WORKLOADS`."""
    return Workload(optimizer, name, WORKLOADS[name][1], threads=threads, options=OPTIONS[optimizer])


def make_arrays(workload: Workload) -> tuple[list[Array], list[Array]]:
    """Return parameters as in a network, and gradients of many magnitudes, so that the position of eps matters."""
    rng = np.random.default_rng(0)
    params = [rng.standard_normal(shape, np.float32) * np.float32(0.02) for shape in workload.shapes]
    return params, [rng.standard_normal(shape, np.float32) ** 3 for shape in workload.shapes]


def sample(arrays: Sequence[Array]) -> list[Array]:
    """Copy some elements of each array, the same of all arrays of one shape."""
    stride = -(-sum(array.size for array in arrays) // MOST_COMPARED)
    return [array.reshape(-1)[::stride].copy() for array in arrays]


def run_steps(stepper: Stepper, grads: Sequence[Array]) -> None:
    """Take a step with each of the multiples, and restore the gradients."""
    for multiple in MULTIPLES:
        stepper.set_grads(g * np.float32(multiple) for g in grads)
        stepper.step()
    stepper.set_grads(grads)


def find_difference(before: Sequence[Array], ours: Sequence[Array], theirs: Sequence[Array]) -> str | None:
    """Describe the worst difference that rounding does not explain; None if there is none."""
    for i, (start, own, other) in enumerate(zip(before, ours, theirs, strict=True)):
        rounding = LAST_PLACES * len(MULTIPLES) * np.spacing(np.maximum(np.abs(own), np.abs(start)))
        error = np.abs(other - own)
        wrong = ~(error <= PART_OF_CHANGE * np.abs(own - start).max(initial=0) + rounding)  # NaN is wrong, too
        if wrong.any():
            worst = int(np.argmax(np.where(wrong, np.nan_to_num(error, nan=np.inf), 0)))
            return f"answer differs: {other[worst]} for {own[worst]} in array {i}, from {start[worst]}"
    return None


class AnswerChecker:
    """The reference's answers after `run_steps`, for a sample of the elements."""

    def __init__(self, optimizer: str, params: Sequence[Array], grads: Sequence[Array]) -> None:
        self._optimizer, self._params, self._grads = optimizer, sample(params), sample(grads)
        self.compared = sum(p.size for p in self._params)

    def _expected(self, changes: Options) -> list[Array]:
        options = {**OPTIONS[self._optimizer], **changes}
        reference = make_ours(self._optimizer, options, self._params, self._grads, "reference")
        run_steps(reference, self._grads)
        return reference.params()

    def check_ours(self, ours: Stepper) -> None:
        """Raise AssertionError unless the bits are the reference's."""
        for own, expected in zip(sample(ours.params()), self._expected({}), strict=True):
            np.testing.assert_array_equal(own.view(np.uint32), expected.view(np.uint32))

    def find_problem(self, peer: Peer, theirs: Stepper) -> str | None:
        """Compare a peer with the reference in the peer's convention."""
        expected = self._expected(peer.offers[self._optimizer].ours)
        return find_difference(self._params, expected, sample(theirs.params()))


def prepare(workload: Workload, peer: Peer) -> tuple[dict[str, Step], int, str | None]:
    """Return the steps of both, the number of elements compared, and the problem if the answers differ."""
    optimizer, options = workload.optimizer, workload.options
    params, grads = make_arrays(workload)
    checker = AnswerChecker(optimizer, params, grads)
    ours = make_ours(optimizer, options, params, grads)
    run_steps(ours, grads)
    checker.check_ours(ours)
    try:
        theirs = peer.make(peer.offers[optimizer], options, params, grads)
        run_steps(theirs, grads)
        problem = checker.find_problem(peer, theirs)
    except Exception as error:  # a peer's error must not stop the others
        return {}, checker.compared, f"{type(error).__name__}: {error}".splitlines()[0]
    return {"ours": ours.step, "theirs": theirs.step}, checker.compared, problem


def compare(workload: Workload, name: str, *, seconds: float, block: int | None = None) -> Row:
    """Compare the answers, and time both alternately if they agree; the arguments are those of `interleave`."""
    peer = PEERS[name]
    steps, compared, problem = prepare(workload, peer)
    row = make_row(workload, peer, compared, problem)
    if problem is None:
        steps = evict_before(steps) if block == 1 else steps
        times = interleave(steps, seconds=seconds, block=block)
        ours, theirs = times["ours"], times["theirs"]
        row["seconds"], row["ours_seconds"], row["noise"] = summarize(theirs), summarize(ours), verdict(ours, theirs)
        row["times_as_fast"] = row["seconds"]["median"] / row["ours_seconds"]["median"]
    del steps  # and the arrays, before the next comparison allocates its own
    gc.collect()
    return row


def make_row(workload: Workload, peer: Peer, compared: int = 0, problem: str | None = None) -> Row:
    """Return a row without times."""
    title = WORKLOADS[workload.name][0] if workload.name in WORKLOADS else workload.name
    row = row_of(workload, compared)
    row |= Row(title=title, peer=peer.name, version=peer.version(), times_as_fast=None, problem=problem)
    return row


def evict_before(steps: Mapping[str, Step]) -> dict[str, Step]:
    """Insert before each step one that fills the caches."""
    other = np.zeros(EVICTING_BYTES, np.uint8)
    evict: Step = lambda: np.add(other, 1, out=other)  # noqa: E731
    return {key: value for name, step in steps.items() for key, value in ((f"before {name}", evict), (name, step))}
