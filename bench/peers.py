"""Compare a step of fastoptim with that of PyTorch, DeepSpeed, optax, Keras, numba, numexpr, NumPy, thinc and MLX.

    pip install '.[peers]'
    python bench/peers.py                                          Adam on every workload, with all installed peers
    python bench/peers.py --work 1.6e7 --optimizer all --peer torch        every optimizer that PyTorch has
    python bench/peers.py --work many 1e6 --block 1                each step finds its arrays evicted from the caches
    python bench/peers.py --work 2^12 2^18 --peer numba --threads 1
    python bench/peers.py --list                                   the workloads, and the peers with their optimizers

Each peer runs in a process of its own together with fastoptim: the same float32 numbers, options and number of threads.
First both take eight steps, and their parameters are compared, fastoptim's in the peer's convention.  A peer whose
answer differs is reported and not timed.  Then both are timed alternately.  `times` is how many times as fast as the
peer fastoptim is.

Two peers are not in the extra: `pip install deepspeed`, which compiles its kernel at its first use, and `pip install
'mlx[cpu]'`, whose wheel needs glibc 2.35.
"""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from itertools import product
from multiprocessing import get_context
from pathlib import Path

import fastoptim as fo
from adapters import PEERS, Peer
from compare import compare, make_row, workload_of
from fastoptim.bench import cli, machine, results, table
from fastoptim.bench.timing import QUIET
from workloads import OPTIONS, WORKLOADS

HEADER = ("work", "optimizer", "peer", "a step of the peer", "of fastoptim", "times", "")
WIDTHS = (29, 9, 13, 26, 26, 7, 0)
IS_LEFT = (True, True, True, False, False, False, True)
#: Where libraries read the number of threads from; the last is XLA's.
THREADS_VARIABLES = (
    *(f"{library}_NUM_THREADS" for library in ("OMP", "MKL", "OPENBLAS", "BLIS", "NUMBA", "NUMEXPR", "VECLIB")),
    "NUMEXPR_MAX_THREADS",
    "NPROC",
)


def main(arguments: Sequence[str] | None = None) -> int:
    """Time the chosen rows and print each when it is done."""
    args = make_parser().parse_args(arguments)
    if args.list:
        print(list_choices())
        return 0
    try:
        cli.check_numbers(args.seconds, [args.threads], block=args.block)
        if args.json:
            cli.check_writable(args.json, "json")
    except ValueError as error:
        make_parser().error(str(error))
    fo.set_num_threads(args.threads)
    os.environ.update(dict.fromkeys(THREADS_VARIABLES, str(args.threads)))  # read by the workers' libraries
    peers = [peer for peer in select_peers(args.peer) if peer.installed()]
    missing = [peer.name for peer in select_peers(args.peer) if not peer.installed()]
    described, watch = machine.describe(), machine.Watch()
    versions = ", ".join(dict.fromkeys(f"{peer.package} {peer.version()}" for peer in peers))
    print(f"{table.describe_machine(described)}\n{versions}; {args.threads} threads, float32")
    print("medians, and the range from the 10th to the 90th percentile")
    if missing:
        print(f"not installed, so skipped: {', '.join(missing)}")
    print("\n" + table.align_line(HEADER, WIDTHS, IS_LEFT))
    rows: list[results.Row] = []
    for row in run(peers, args):
        rows.append(row)
        print(line_of(row), flush=True)
    settings = {name: getattr(args, name) for name in ("threads", "seconds", "block")}
    settings |= {"peers": {peer.name: peer.version() for peer in peers}, "missing": missing}
    found = results.make_run(described, settings, watch.report(), rows)
    print("\n" + table.conclude(found["noise"]))
    if args.json:
        results.write_json(args.json, found)
    return 0


def run(peers: Sequence[Peer], args: argparse.Namespace) -> Iterator[results.Row]:
    """Compare with one peer after another, each in a new process: other peers' threads would wait and spin there."""
    optimizers = OPTIONS if "all" in args.optimizer else args.optimizer
    for peer in peers:
        with ProcessPoolExecutor(1, get_context("spawn"), fo.set_num_threads, (args.threads,)) as process:
            for optimizer, work in product(optimizers, args.work):
                if optimizer in peer.offers:
                    workload = workload_of(work, optimizer, args.threads)
                    try:
                        yield process.submit(
                            compare, workload, peer.name, seconds=args.seconds, block=args.block
                        ).result()
                    except BrokenProcessPool as error:
                        yield make_row(workload, peer, problem=str(error))


def make_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--work", nargs="+", choices=WORKLOADS, default=list(WORKLOADS), metavar="WORK", help="see --list"
    )
    parser.add_argument(
        "--optimizer", nargs="+", choices=[*OPTIONS, "all"], default=["adam"], metavar="NAME", help="see --list"
    )
    parser.add_argument(
        "--peer",
        nargs="+",
        default=[""],
        metavar="NAME",
        help='names or their beginnings: "torch" selects all of its forms',
    )
    parser.add_argument("--threads", type=int, default=fo.get_num_threads(), help="of fastoptim and of the peers")
    parser.add_argument("--seconds", type=float, default=3.0, help="time for each row")
    parser.add_argument("--block", type=int, help="consecutive steps; default: a millisecond of them; 1: cold caches")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the run to this file")
    parser.add_argument("--list", action="store_true", help="print what can be chosen, and stop")
    return parser


def select_peers(names: Sequence[str]) -> list[Peer]:
    """Return the peers whose names begin so; exit if there is none."""
    if unknown := [name for name in names if not any(peer.startswith(name) for peer in PEERS)]:
        sys.exit(f"no such peer: {', '.join(unknown)}; there are {', '.join(PEERS)}")
    return [peer for name, peer in PEERS.items() if name.startswith(tuple(names))]


def list_choices() -> str:
    """Return the workloads and the peers."""
    lines = ["workloads", *(f"  {name:<14}{title}" for name, (title, _) in WORKLOADS.items()), "peers"]
    for peer in PEERS.values():
        version = peer.version() if peer.installed() else "not installed"
        lines += [f"  {peer.name:<14}{version}: {peer.about}", f"  {'':<14}{', '.join(peer.offers)}"]
    return "\n".join(lines)


def line_of(row: results.Row) -> str:
    """Return one line of the table."""
    cells = [row["title"], row["optimizer"], row["peer"], "", "", "", row["problem"] or ""]
    if row["times_as_fast"] is not None:
        medians = [f"{table.duration(t['median'])} ({table.spread(t)})" for t in (row["seconds"], row["ours_seconds"])]
        cells[3:] = [*medians, f"{row['times_as_fast']:.2f}", "" if row["noise"] == QUIET else row["noise"]]
    return table.align_line(cells, WIDTHS, IS_LEFT)


if __name__ == "__main__":
    sys.exit(main())
