"""How far a long run has come, where somebody watches: tqdm's bar if that is installed, else a line of our own."""

from __future__ import annotations

import shutil
import sys
from importlib import import_module
from types import TracebackType
from typing import Any, TextIO


class Progress:
    """Counts rows, with their parts, on a terminal; nothing elsewhere."""

    def __init__(self, total: int, stream: TextIO | None = None) -> None:
        self._stream = stream or sys.stderr
        self._total = total
        self._done = 0
        self._label = ""
        self._shown = self._stream.isatty()
        self._bar = _tqdm_bar(total, self._stream) if self._shown else None

    def begin(self, label: str) -> None:
        """The next row."""
        self._label = label
        if self._bar is not None:
            self._bar.set_description_str(label)
        self.part(0)

    def part(self, share: float) -> None:
        """So much of the row is done, from 0 to 1."""
        if self._bar is not None:
            self._bar.n = self._done + share
            self._bar.refresh()
        elif self._shown:
            self._stream.write("\r" + line(self._done + share, self._total, self._label, _columns()))
            self._stream.flush()

    def end(self) -> None:
        """The row is done."""
        self._done += 1

    def __enter__(self) -> Progress:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._bar is not None:
            self._bar.close()
        elif self._shown:
            self._stream.write("\r" + " " * (_columns() - 1) + "\r")
            self._stream.flush()


def line(done: float, total: int, label: str, columns: int) -> str:
    """A bar of that width.

    >>> line(1, 4, "adam 1e6", 40)
    '[#####               ] 1/4 adam 1e6    '
    """
    width = max(10, min(40, columns // 2))
    filled = int(width * done / total) if total else width
    text = f"[{'#' * filled}{' ' * (width - filled)}] {int(done)}/{total} {label}"
    return text[: columns - 1].ljust(columns - 1)


def _columns() -> int:
    return shutil.get_terminal_size().columns


def _tqdm_bar(total: int, stream: TextIO) -> Any:
    try:
        tqdm = import_module("tqdm").tqdm
    except ImportError:
        return None
    shown = "{desc} |{bar}| {n:.1f}/{total} [{elapsed}<{remaining}]"
    return tqdm(total=total, file=stream, leave=False, bar_format=shown)
