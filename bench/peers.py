"""Compare a step of fastoptim with that of PyTorch, DeepSpeed, optax, Keras, numba, numexpr, NumPy, thinc and MLX.

    pip install '.[peers]'
    python bench/peers.py                                          Adam on every workload, with all installed peers
    python bench/peers.py --work 1.6e7 --optimizer all --peer torch        every optimizer that PyTorch has
    python bench/peers.py --work many 1e6 --block 1                each step finds its arrays evicted from the caches
    python bench/peers.py --work 2^12 2^18 --peer numba --threads 1
    python bench/peers.py --list                                   the workloads, and the peers with their optimizers

Each row has a process of its own, in which fastoptim and the peer have the same float32 numbers, options and number of
threads.  First both take eight steps, and their parameters are
compared, fastoptim's in the peer's convention.  A peer whose answer differs is reported and not timed.  Then both are
timed alternately.  `times` is how many times as fast as the peer fastoptim is.

Two peers are not in the extra: `pip install deepspeed`, which compiles its kernel at its first use, and `pip install
'mlx[cpu]'`, whose wheel needs glibc 2.35.
"""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from functools import partial
from itertools import product
from multiprocessing import get_context
from typing import Any

import numpy as np

import fastoptim as fo
from adapters import OPTIONS, PEERS, Array, Peer, Stepper, make_ours
from fastoptim.bench import cli
from fastoptim.bench.results import Row, row_of
from fastoptim.bench.table import Columns, duration, format_run, show_noise, spread
from fastoptim.bench.timing import Budget, OnRound, interleave, summarize, verdict
from fastoptim.bench.workload import MODELS, Shapes, Workload, name_size

SIZES = (10**5, 10**6, 16 * 10**6, *(2**power for power in range(12, 19)))
#: A title and the shapes of the arrays.
WORKLOADS: dict[str, tuple[str, Shapes]] = {
    "one": ("1 array of 1", ((1,),)),
    "mlp": ("784-256-10 network, 4 arrays", MODELS["mlp"]),
    "many": ("1,000 arrays of 256", ((256,),) * 1000),
    "gpt2": ("GPT-2 124M, 148 arrays", MODELS["gpt2"]),
    **{name_size(size): (f"1 array of {name_size(size)}", ((size,),)) for size in SIZES},
}

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


def make_arrays(workload: Workload) -> tuple[list[Array], list[Array]]:
    """Return parameters as in a network, and gradients of many magnitudes, so that the position of eps matters."""
    rng = np.random.default_rng(0)
    params = [rng.standard_normal(shape, np.float32) * np.float32(0.02) for shape in workload.shapes]
    return params, [rng.standard_normal(shape, np.float32) ** 3 for shape in workload.shapes]


def sample(arrays: Sequence[Array]) -> list[Array]:
    """Copy some elements of each array, the same of all arrays of one shape."""
    stride = -(-sum(array.size for array in arrays) // MOST_COMPARED)
    return [array.reshape(-1)[::stride].copy() for array in arrays]


def run_steps(stepper: Stepper, grads: Sequence[Array]) -> list[Array]:
    """Take a step with each of the multiples, restore the gradients, and return a sample of the parameters."""
    for multiple in MULTIPLES:
        stepper.set_grads(g * np.float32(multiple) for g in grads)
        stepper.step()
    stepper.set_grads(grads)
    return sample(stepper.params())


def check_answers(workload: Workload, peer: Peer | None, stepper: Stepper, *arrays: list[Array]) -> int:
    """Compare with the reference in the peer's convention, or its bits; return the number of elements compared."""
    params, grads = map(sample, arrays)
    changes = peer.offers[workload.optimizer].ours if peer else {}
    reference = make_ours(workload.optimizer, {**workload.options, **changes}, params, grads, "reference")
    found = run_steps(stepper, arrays[1])
    for i, (start, own, other) in enumerate(zip(params, run_steps(reference, grads), found, strict=True)):
        if peer:
            of_change = PART_OF_CHANGE * np.abs(own - start).max(initial=0)
            rounding = LAST_PLACES * len(MULTIPLES) * np.finfo(np.float32).eps
            np.testing.assert_allclose(other, own, rounding, of_change, err_msg=f"array {i}: answer differs")
        else:
            np.testing.assert_array_equal(other.view(np.uint32), own.view(np.uint32))
    return sum(p.size for p in params)


def compare(workload: Workload, name: str, budget: Budget) -> Row:
    """Compare the answers, and time both alternately if they agree; AssertionError if fastoptim's is wrong."""
    if workload.threads:
        fo.set_num_threads(workload.threads)
    peer, arrays = PEERS[name], make_arrays(workload)
    ours = make_ours(workload.optimizer, workload.options, *arrays)
    compared = check_answers(workload, None, ours, *arrays)
    try:
        theirs = peer.stepper(workload.optimizer, *arrays)
        check_answers(workload, peer, theirs, *arrays)
    except Exception as error:  # a peer's error must not stop the others
        return make_row(workload, name, compared, " ".join(f"{type(error).__name__}: {error}".split())[:200])
    steps = {"ours": ours.step, "theirs": theirs.step}
    if budget.block == 1:  # a further step before each fills the caches
        other = np.zeros(EVICTING_BYTES, np.uint8)
        evict = partial(np.add, other, 1, out=other)
        steps = {"before ours": evict, "ours": ours.step, "before theirs": evict, "theirs": theirs.step}
    times = interleave(steps, budget)
    row = make_row(workload, name, compared)
    row |= Row(seconds=summarize(times["theirs"]), ours_seconds=summarize(times["ours"]))
    row["noise"] = verdict(times["ours"], times["theirs"])
    row["times_as_fast"] = row["seconds"]["median"] / row["ours_seconds"]["median"]
    return row


def make_row(workload: Workload, name: str, compared: int = 0, problem: str | None = None) -> Row:
    """Return a row without times."""
    title, _ = WORKLOADS.get(workload.name, (workload.name, ()))
    compared_with = Row(title=title, peer=name, version=PEERS[name].version(), times_as_fast=None, problem=problem)
    return row_of(workload, compared) | compared_with


# ---- the command line

#: Where libraries read the number of threads from; the last is XLA's.
THREADS_VARIABLES = (
    *(f"{library}_NUM_THREADS" for library in ("OMP", "MKL", "OPENBLAS", "BLIS", "NUMBA", "NUMEXPR", "VECLIB")),
    "NUMEXPR_MAX_THREADS",
    "NPROC",
)

COLUMNS: Columns = {
    "work": lambda row: row["title"],
    "optimizer": lambda row: row["optimizer"],
    "peer": lambda row: row["peer"],
    "a step of the peer": lambda row: show_times(row, "seconds"),
    "of fastoptim": lambda row: show_times(row, "ours_seconds"),
    "times": lambda row: f"{row['times_as_fast']:.2f}" if row["times_as_fast"] else "",
    "noise": lambda row: row["problem"] or show_noise(row),
}
KEY = "times: medians, and the range from the 10th to the 90th percentile"


def show_times(row: Row, name: str) -> str:
    return f"{duration(row[name]['median'])} ({spread(row[name])})" if name in row else ""  # type: ignore[literal-required]


def main(arguments: Sequence[str] | None = None) -> int:
    """Time the chosen rows and print them."""
    args = make_parser().parse_args(arguments)
    if args.list:
        print(list_choices())
        return 0
    fo.set_num_threads(args.threads)
    os.environ.update(dict.fromkeys(THREADS_VARIABLES, str(args.threads)))  # read by the workers' libraries
    chosen = [peer for peer in PEERS.values() if peer.name.startswith(tuple(args.peer))]
    args.peers = {peer.name: peer.version() for peer in chosen if peer.installed()}
    args.missing = [peer.name for peer in chosen if not peer.installed()]
    versions = [f"{PEERS[name].packages.split()[0]} {version}" for name, version in args.peers.items()]
    key = f"{KEY}\n{', '.join(dict.fromkeys(versions))}; not installed: {', '.join(args.missing) or 'none'}"
    show = partial(format_run, columns=COLUMNS, answers="answers equal up to rounding", key=key)
    return cli.run_rows(lambda: jobs_of(args), args, show)


def jobs_of(args: argparse.Namespace) -> list[cli.Job]:
    """Return the comparisons, one peer after another."""
    jobs: list[cli.Job] = []
    budget = Budget(args.seconds, args.rounds, args.block)
    for peer, optimizer, work in product(args.peers, OPTIONS if "all" in args.optimizer else args.optimizer, args.work):
        if optimizer in PEERS[peer].offers:
            settings: dict[str, Any] = {"threads": args.threads, "options": OPTIONS[optimizer]}
            workload = Workload(optimizer, work, WORKLOADS[work][1], **settings)
            jobs.append((f"{peer} {optimizer} {work}", partial(compare_apart, workload, peer, budget)))
    return jobs


def compare_apart(workload: Workload, peer: str, budget: Budget, on_round: OnRound) -> Row:
    """Compare in a process of its own, since other peers' threads would wait and spin there."""
    with ProcessPoolExecutor(1, get_context("spawn")) as process:
        try:
            return process.submit(compare, workload, peer, budget).result()
        except BrokenProcessPool as error:
            return make_row(workload, peer, problem=str(error))


def make_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    of_list: dict[str, Any] = {"nargs": "+", "metavar": "NAME", "help": "see --list"}
    parser.add_argument("--work", choices=WORKLOADS, default=list(WORKLOADS), **of_list)
    parser.add_argument("--optimizer", choices=[*OPTIONS, "all"], default=["adam"], **of_list)
    parser.add_argument("--peer", type=parse_peer, default=[""], **of_list | {"help": 'or its beginning, as "torch"'})
    threads = fo.get_num_threads()
    parser.add_argument("--threads", type=cli.parse_threads, default=threads, help="of fastoptim and of the peers")
    cli.add_run_arguments(parser, seconds=3.0)
    parser.add_argument("--list", action="store_true", help="print what can be chosen, and stop")
    return parser


def parse_peer(text: str) -> str:
    if not any(peer.startswith(text) for peer in PEERS):
        raise argparse.ArgumentTypeError(f"no such peer: {text}; there are {', '.join(PEERS)}")
    return text


def list_choices() -> str:
    """Return the workloads and the peers."""
    lines = ["workloads", *(f"  {name:<14}{title}" for name, (title, _) in WORKLOADS.items()), "peers"]
    for peer in PEERS.values():
        version = peer.version() if peer.installed() else "not installed"
        lines += [f"  {peer.name:<14}{version}: {peer.about}", f"  {'':<14}{', '.join(peer.offers)}"]
    return "\n".join(lines)


if __name__ == "__main__":
    sys.exit(main())
