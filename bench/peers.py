"""A step of fastoptim beside the same step of PyTorch, DeepSpeed, optax, Keras, numba, numexpr, NumPy, thinc and MLX.

    pip install '.[peers]'
    python bench/peers.py                                          Adam on every work, against all that are installed
    python bench/peers.py --work 1.6e7 --optimizer all --peer torch        every optimizer that PyTorch has
    python bench/peers.py --work many 1e6 --block 1                each step finds its arrays driven out of the caches
    python bench/peers.py --work 2^12 2^18 --peer numba --threads 1
    python bench/peers.py --list                                   works, and the peers with what they have

Each peer has a process of its own, with fastoptim beside it: the same float32 numbers, hyper-parameters and number of
threads.  First both take eight steps, and their parameters are compared, fastoptim's in the peer's convention; one that
answers otherwise is named and not timed.  Then they are timed in turn, a block of steps each, round after round.
`times` is how many times as fast as the peer fastoptim is.  Who is not installed is skipped.

Two are not in the extra: `pip install deepspeed`, which compiles its kernel when it is first used, and `pip install
'mlx[cpu]'`, whose wheel wants glibc 2.35.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

import fastoptim as fo
from apart import Plan, reports
from contest import Row, bind
from fastoptim.bench import machine
from fastoptim.bench.progress import Progress
from fastoptim.bench.results import SCHEMA, Times, judge, write
from fastoptim.bench.timing import QUIET
from rivals import PEERS, Peer
from works import OPTIONS, WORKS

HEADER = ("work", "optimizer", "peer", "a step of the peer", "of fastoptim", "times")
LINE = "{:<29} {:<9} {:<13} {:>26} {:>26} {:>7}  {}"


def main(arguments: Sequence[str] | None = None) -> int:
    """Times what is asked for and prints it as it comes."""
    args = parser().parse_args(arguments)
    if args.list:
        print(listed())
        return 0
    if wrong := refused(args):
        parser().error(wrong)
    fo.set_num_threads(args.threads)
    bind(args.threads)
    peers = [peer for peer in chosen(args.peer) if peer.installed()]
    missing = [peer.name for peer in chosen(args.peer) if not peer.installed()]
    print(headline(peers, args.threads))
    if missing:
        print(f"not installed, so skipped: {', '.join(missing)}")
    print("\n" + LINE.format(*HEADER, "").rstrip())
    rows, watched = run([plan_of(peer, args) for peer in peers])
    noise = judge(rows, watched)
    print(f"\n{noise['verdict']}")
    if args.json:
        settings = {
            **{name: getattr(args, name) for name in ("threads", "seconds", "block")},
            "peers": {peer.name: peer.version() for peer in peers},
            "missing": missing,
        }
        results = {"schema": SCHEMA, "machine": machine.describe(), "settings": settings, "noise": noise, "rows": rows}
        write(args.json, results)
    return 0


def plan_of(peer: Peer, args: argparse.Namespace) -> Plan:
    """What a peer is asked for and has."""
    optimizers = OPTIONS if "all" in args.optimizer else args.optimizer
    contests = [(work, optimizer) for optimizer in optimizers for work in args.work if optimizer in peer.offers]
    return Plan(peer.name, contests, args.threads, args.seconds, args.block)


def run(plans: Sequence[Plan]) -> tuple[list[Row], dict[str, float | None]]:
    """Follows the plans one after another; the rows, and the busiest that others were."""
    rows: list[Row] = []
    watched: dict[str, float | None] = {"load_before": machine.load(), "load_after": None, "others": None}
    with Progress(sum(len(plan.contests) for plan in plans)) as progress:
        for plan in plans:
            progress.begin(plan.peer)
            for report in reports(plan) if plan.contests else ():
                if report.share is not None:
                    progress.part(report.share)
                if report.row is not None:
                    rows.append(report.row)
                    print(("\r\033[K" if sys.stderr.isatty() else "") + line(report.row), flush=True)
                    progress.end()
                if report.watched is not None:
                    watched["others"] = max(watched["others"] or 0.0, report.watched["others"] or 0.0)
    return rows, {**watched, "load_after": machine.load()}


def parser() -> argparse.ArgumentParser:
    """The command line."""
    made = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    made.add_argument("--work", nargs="+", choices=WORKS, default=list(WORKS), metavar="WORK", help="see --list")
    made.add_argument(
        "--optimizer", nargs="+", choices=[*OPTIONS, "all"], default=["adam"], metavar="NAME", help="see --list"
    )
    made.add_argument(
        "--peer", nargs="+", default=[""], metavar="NAME", help='names or their beginnings: "torch" is all of its ways'
    )
    made.add_argument("--threads", type=int, default=fo.get_num_threads(), help="of every contender")
    made.add_argument("--seconds", type=float, default=3.0, help="how long a row is timed")
    made.add_argument("--block", type=int, help="steps in a row; default: a millisecond of them; 1: caches are cold")
    made.add_argument("--json", type=Path, metavar="FILE", help="writes the run there")
    made.add_argument("--list", action="store_true", help="says what can be chosen, and stops")
    return made


def refused(args: argparse.Namespace) -> str | None:
    """What is wrong with the numbers and the file, before anything is measured."""
    for name in ("threads", "block"):
        if (value := getattr(args, name)) is not None and value < 1:
            return f"--{name}: expected a whole number >= 1, got {value}"
    if not 0 <= args.seconds < float("inf"):
        return f"--seconds: expected a number >= 0, got {args.seconds}"
    if args.json and not args.json.absolute().parent.is_dir():
        return f"--json: expected a file in a directory that exists, got {str(args.json)!r}"
    return None


def chosen(names: Sequence[str]) -> list[Peer]:
    """The peers whose names begin so; exits if there is none."""
    if unknown := [name for name in names if not any(peer.startswith(name) for peer in PEERS)]:
        sys.exit(f"no such peer: {', '.join(unknown)}; there are {', '.join(PEERS)}")
    return [peer for name, peer in PEERS.items() if name.startswith(tuple(names))]


def listed() -> str:
    """Works and peers."""
    lines = ["works"]
    lines += [f"  {work.name:<14}{work.title}, {work.elements:,} elements" for work in WORKS.values()]
    lines.append("peers")
    for peer in PEERS.values():
        version = peer.version() if peer.installed() else "not installed"
        lines += [f"  {peer.name:<14}{version}: {peer.about}", f"  {'':<14}{', '.join(peer.offers)}"]
    return "\n".join(lines)


def headline(peers: Sequence[Peer], threads: int) -> str:
    """Who runs where."""
    info = fo.build_info()
    versions = ", ".join(dict.fromkeys(f"{peer.package} {peer.version()}" for peer in peers))
    return (
        f"fastoptim {info['version']} ({info['isa']}) beside {versions}\n"
        f"{machine.describe()['processor']}, {threads} threads; float32\n"
        "medians, and from the 10th to the 90th percentile"
    )


def line(row: Row) -> str:
    """One row of the table."""
    ours, theirs, times = row["ours_seconds"], row["seconds"], row["times_as_fast"]
    names = (row["title"], row["optimizer"], row["peer"])
    if ours is None or theirs is None or times is None:
        return LINE.format(*names, "", "", "", row["problem"])
    remark = "" if row["noise"] == QUIET else row["noise"]
    return LINE.format(*names, spread(theirs), spread(ours), f"{times:.2f}", remark).rstrip()


def spread(times: Times) -> str:
    """The median, and where most of the times lie, in microseconds."""
    median, low, high = (1e6 * times[key] for key in ("median", "low", "high"))
    digits = 0 if median >= 1000 else 1
    return f"{median:,.{digits}f} ({low:,.{digits}f}-{high:,.{digits}f}) us"


if __name__ == "__main__":
    sys.exit(main())
