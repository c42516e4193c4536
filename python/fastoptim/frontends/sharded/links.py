"""Links: the four ways in which processes exchange arrays, over mpi4py and over CuPy's NCCL communicator.

A link adds small arrays of every rank, adds an array at one rank, sends an array from one rank to all, and moves an
array from one rank to another.  Buffers are contiguous and one-dimensional.  mpi4py and CuPy are not imported: the
caller's communicator has all that is needed.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator
from contextlib import suppress
from typing import Any, Protocol

import numpy as np

from ...reference_math import Array

_PIECE = 1 << 30  # elements of one message: MPI counts in 31 bits
_EAGER_POLLS, _NAP = 50, 5e-5  # seconds
_NOTICES = 1  # the tag of messages from a rank that leaves


class Request(Protocol):
    """A transfer that may still be under way."""

    def wait(self) -> None:
        """Return when its buffers may be used again."""


class Link(Protocol):
    """Processes that exchange arrays."""

    rank: int
    size: int
    xp: Any
    """The package of the arrays: numpy or cupy."""

    def limit_waiting(self, seconds: float | None) -> None:
        """Raise TimeoutError after waiting so long for another rank; without a limit at first."""

    def all_sum(self, values: Array) -> Array:
        """Return the sum of small NumPy arrays of doubles over all ranks."""

    def reduce(self, send: Any, receive: Any, root: int) -> Request:
        """Start to add the arrays `send` of all ranks into `receive` at root."""

    def broadcast(self, buffer: Any, root: int) -> Request:
        """Start to send a buffer of bytes from root to all."""

    def move(self, buffer: Array, source: int, target: int) -> None:
        """Move a NumPy array of bytes from one rank to another; the others do nothing."""

    def leave(self, why: str) -> None:
        """Tell the other ranks, as far as the link can, that this one takes part no longer."""

    def close(self) -> None:
        """Free the link, after all ranks have agreed to."""


class PeerLeftError(RuntimeError):
    """Another rank takes part no longer."""


class MPILink:
    """mpi4py's communicator, with NumPy arrays.

    Waiting is a loop, because a rank that leaves sends a notice instead of the array that is waited for.
    """

    xp: Any = np

    def __init__(self, comm: Any) -> None:
        self._comm = comm.Dup()  # so that messages of others are not mistaken for ours
        self.rank: int = self._comm.rank
        self.size: int = self._comm.size
        self._timeout: float | None = None
        self._notices: list[Any] = []

    def limit_waiting(self, seconds: float | None) -> None:
        """See Link."""
        self._timeout = seconds

    def all_sum(self, values: Array) -> Array:
        """See Link."""
        total = np.empty_like(values)
        self._wait([self._comm.Iallreduce(values, total)])
        return total

    def reduce(self, send: Any, receive: Any, root: int) -> Request:
        """See Link."""
        is_root = self.rank == root
        pieces = _pieces(send.size)
        return _MPIRequest(
            self, [self._comm.Ireduce(send[at], receive[at] if is_root else None, root=root) for at in pieces]
        )

    def broadcast(self, buffer: Any, root: int) -> Request:
        """See Link."""
        return _MPIRequest(self, [self._comm.Ibcast(buffer[at], root=root) for at in _pieces(buffer.size)])

    def move(self, buffer: Array, source: int, target: int) -> None:
        """See Link."""
        if self.rank == source:
            self._wait([self._comm.Isend(buffer[at], dest=target) for at in _pieces(buffer.size)])
        elif self.rank == target:
            self._wait([self._comm.Irecv(buffer[at], source=source) for at in _pieces(buffer.size)])

    def leave(self, why: str) -> None:
        """Send a notice to every other rank."""
        notice = f"rank {self.rank} {why}"
        with suppress(Exception):  # the caller may have finalized MPI
            self._notices += [
                self._comm.isend(notice, dest=rank, tag=_NOTICES) for rank in range(self.size) if rank != self.rank
            ]

    def close(self) -> None:
        """Free the communicator."""
        self._comm.Free()

    def _wait(self, requests: list[Any]) -> None:
        started, polls = time.monotonic(), 0
        for request in requests:
            while not request.Test():
                notice = self._comm.improbe(tag=_NOTICES)
                if notice is not None:
                    raise PeerLeftError(notice.recv())
                if self._timeout is not None and time.monotonic() - started > self._timeout:
                    raise TimeoutError(f"expected the other ranks within {self._timeout:g} s")
                polls += 1
                time.sleep(0 if polls < _EAGER_POLLS else _NAP)  # there may be more ranks than processors


class _MPIRequest:
    def __init__(self, link: MPILink, requests: list[Any]) -> None:
        self._link, self._requests = link, requests

    def wait(self) -> None:
        self._link._wait(self._requests)


class NCCLLink:
    """CuPy's ``cupyx.distributed.NCCLBackend``, with CuPy arrays: one process and GPU a rank, on the current stream.

    NCCL has no notices: a rank that leaves is not noticed, and the others wait until they are ended.
    """

    def __init__(self, comm: Any) -> None:
        self.xp: Any = sys.modules["cupy"]  # the communicator's module has imported it
        self._comm = comm
        self.rank: int = comm.rank
        self.size: int = comm._n_devices
        self._done = _Done()

    def limit_waiting(self, seconds: float | None) -> None:
        """Raise ValueError for a limit."""
        if seconds is not None:
            raise ValueError("timeout: expected None with NCCL, which cannot stop waiting, got a number")

    def all_sum(self, values: Array) -> Array:
        """See Link."""
        sent = self.xp.asarray(values)
        total = self.xp.empty_like(sent)
        self._comm.all_reduce(sent, total)
        return self.xp.asnumpy(total)  # type: ignore[no-any-return]

    def reduce(self, send: Any, receive: Any, root: int) -> Request:
        """See Link.  The stream keeps the order, so that nobody waits."""
        self._comm.reduce(send, send if receive is None else receive, root)
        return self._done

    def broadcast(self, buffer: Any, root: int) -> Request:
        """See Link."""
        self._comm.broadcast(buffer, root)
        return self._done

    def move(self, buffer: Array, source: int, target: int) -> None:
        """See Link."""
        if self.rank == source:
            self._comm.send(self.xp.asarray(buffer), target)
        elif self.rank == target:
            received = self.xp.empty(buffer.size, np.uint8)
            self._comm.recv(received, source)
            buffer[...] = self.xp.asnumpy(received)

    def leave(self, why: str) -> None:
        """Do nothing."""

    def close(self) -> None:
        """Do nothing: the communicator is the caller's."""


class _Done:
    def wait(self) -> None:
        pass


def _pieces(size: int) -> Iterator[slice]:
    return (slice(begin, min(begin + _PIECE, size)) for begin in range(0, size, _PIECE))


def link_of(comm: Any) -> Link:
    """Return the link over a communicator of mpi4py or of CuPy."""
    if all(hasattr(comm, name) for name in ("Dup", "Ireduce", "Ibcast", "Iallreduce")):
        return MPILink(comm)
    if all(hasattr(comm, name) for name in ("all_reduce", "reduce", "broadcast", "send", "recv", "_n_devices")):
        return NCCLLink(comm)
    raise TypeError(
        "comm: expected a communicator of mpi4py, such as MPI.COMM_WORLD, or CuPy's NCCLBackend, "
        f"got {type(comm).__module__}.{type(comm).__qualname__}"
    )
