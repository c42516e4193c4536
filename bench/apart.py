"""A peer in a process of its own, beside fastoptim alone: no third one's threads are there, which wait and spin."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from multiprocessing import get_context
from multiprocessing.connection import Connection
from typing import NamedTuple

import fastoptim as fo
from contest import Row, contest, row_of
from fastoptim.bench.machine import Watch
from rivals import PEERS
from works import WORKS


class Plan(NamedTuple):
    """What a process is to time."""

    peer: str
    contests: Sequence[tuple[str, str]]  # a work and an optimizer
    threads: int
    seconds: float
    block: int | None


class Report(NamedTuple):
    """What a process says: a row, how much of the next one is done, or at the end who used the processors."""

    row: Row | None = None
    share: float | None = None
    watched: dict[str, float | None] | None = None


def reports(plan: Plan) -> Iterator[Report]:
    """Of a process that follows the plan; rows that it leaves out by dying say so."""
    context = get_context("spawn")
    receiver, sender = context.Pipe(duplex=False)
    process = context.Process(target=follow, args=(plan, sender))
    process.start()
    sender.close()
    done = 0
    try:
        while True:
            report: Report = receiver.recv()
            done += report.row is not None
            yield report
    except EOFError:
        process.join()
        for work, optimizer in plan.contests[done:]:
            problem = f"the process ended with {process.exitcode}"
            yield Report(row=row_of(WORKS[work], optimizer, PEERS[plan.peer], problem=problem))
    finally:
        process.terminate()
        process.join()


def follow(plan: Plan, sender: Connection) -> None:
    """What the process does."""
    peer = PEERS[plan.peer]
    fo.set_num_threads(plan.threads)
    peer.use(plan.threads)
    watch = Watch()
    for work, optimizer in plan.contests:
        row = contest(
            WORKS[work],
            optimizer,
            peer,
            seconds=plan.seconds,
            block=plan.block,
            on_round=telling(lambda share: sender.send(Report(share=share))),
        )
        sender.send(Report(row=row))
    sender.send(Report(watched=watch.report()))
    sender.close()


def telling(tell: Callable[[float], object]) -> Callable[[float], None]:
    """Tells a share when it has grown by a hundredth."""
    told = 0.0

    def on_round(share: float) -> None:
        nonlocal told
        if share >= told + 0.01:
            told = share
            tell(share)

    return on_round
