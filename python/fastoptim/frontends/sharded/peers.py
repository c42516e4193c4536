"""Agreement between ranks: whether each of them can do what comes next, and one error on all if one cannot.

A call of several ranks first exchanges one small array.  An error before that, such as a gradient of another shape,
reaches every rank, nothing has changed, and all may continue.  An error later, while arrays are under way, closes the
connection on all ranks, because it is not known how far each has come.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Any

import numpy as np

from ...reference_math import Array
from .links import Link, PeerLeftError

_COLUMNS = 3  # of each rank: whether it failed, the call, the facts
_TEXT = 500  # bytes of an error


class Peers:
    """The ranks, seen from one of them."""

    def __init__(self, link: Link) -> None:
        self.link = link
        self.rank, self.size = link.rank, link.size
        self.count = 0  # numbers that an agreement adds up besides
        self._closed = ""  # why
        self._agreed = True
        self._call = ""

    @contextmanager
    def together(self, call: str) -> Iterator[None]:
        """Do something on every rank: the block calls `agree` before it exchanges arrays."""
        if self._closed:
            raise RuntimeError(f"{call}: expected ranks that all take part, but {self._closed}")
        self._call, self._agreed = call, False
        try:
            yield
        except BaseException as error:
            if self._agreed or self._closed:
                raise  # the others have the same error, or a notice
            if isinstance(error, Exception):
                with suppress(Exception):  # this one's own error comes first
                    self._exchange("", np.zeros(self.count), error)
            else:
                self._abort(error)  # such as KeyboardInterrupt
            raise

    def agree(self, facts: str = "", counts: Array | None = None) -> Array:
        """Return the sum of `counts` over the ranks, after all have come here with the same facts."""
        return self._exchange(facts, np.zeros(self.count) if counts is None else counts, None)

    @contextmanager
    def exchanging(self) -> Iterator[None]:
        """Exchange arrays, after an agreement; an error closes the connection."""
        try:
            yield
        except BaseException as error:
            self._abort(error)
            if isinstance(error, PeerLeftError):
                raise RuntimeError(f"{self._call}: {error}") from None
            raise

    def leave(self, why: str) -> None:
        """Close the connection without the others' consent."""
        if not self._closed:
            self._closed = "this one has left"
            self.link.leave(why)

    def close(self) -> None:
        """Close the connection on all ranks."""
        if self._closed:
            return
        with self.together("close"):
            self.agree()
        self._closed = "the connection was closed"
        self.link.close()

    def _exchange(self, facts: str, counts: Array, error: Exception | None) -> Array:
        rows: Array = np.zeros((self.size, _COLUMNS))
        rows[self.rank] = error is not None, digest(self._call.encode()), digest(facts.encode())
        with self.exchanging():
            total = self.link.all_sum(np.concatenate([rows.reshape(-1), counts]))
            rows = total[: rows.size].reshape(rows.shape)
            failed = np.flatnonzero(rows[:, 0])
            text = self._text(error, int(failed[0])) if len(failed) else ""
        self._agreed = True
        if error is not None:
            return total
        if text:
            raise RuntimeError(f"{self._call}: rank {failed[0]} failed with {text}")
        for column, what in ((1, "call"), (2, "options and step")):
            if len(others := np.flatnonzero(rows[:, column] != rows[0, column])):
                raise RuntimeError(
                    f"{self._call}: expected the same {what} on every rank, got another on rank {others[0]}"
                )
        return total[rows.size :]

    def _text(self, error: Exception | None, rank: int) -> str:
        """Return the error of that rank."""
        buffer = np.zeros(_TEXT)
        if rank == self.rank and error is not None:
            own = f"{type(error).__name__}: {error}".encode()[:_TEXT]
            buffer[: len(own)] = np.frombuffer(own, np.uint8)
        return bytes(self.link.all_sum(buffer).astype(np.uint8)).rstrip(b"\0").decode(errors="replace")

    def _abort(self, error: BaseException) -> None:
        if not self._closed:
            why = f"{type(error).__name__}: {error}".rstrip(": ")
            self._closed = str(error) if isinstance(error, PeerLeftError) else f"this rank stopped with {why}"
            if not isinstance(error, PeerLeftError):  # whose rank has told the others itself
                self.link.leave(f"stopped in {self._call} with {why}"[:_TEXT])


def digest(data: Any) -> float:
    """Return 48 bits of a digest, as a double."""
    return float(int.from_bytes(hashlib.sha256(data).digest()[:6], "little"))
