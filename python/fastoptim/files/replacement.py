"""Replace a file so that it is always whole: the old contents or the new ones, whenever the process is killed."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, BinaryIO

try:
    import fcntl
except ImportError:  # Windows
    fcntl = None  # type: ignore[assignment]


@contextmanager
def replacement(path: str | os.PathLike[str]) -> Iterator[BinaryIO]:
    """Yield a file to write; at the end it takes the place of `path`, unless the block has raised an exception.

    The file is ``path + ".new"`` until its contents and then its new name are on the disk.  One that a killed process
    has left is overwritten, and a second writer of the same path waits for the first.
    """
    target = Path(os.path.realpath(path))  # a link stays a link
    temporary = target.with_name(target.name + ".new")
    with _open_alone(temporary) as file:
        try:
            file.truncate()
            yield file
            file.flush()
            os.fsync(file.fileno())
            if fcntl is None:
                file.close()  # Windows renames no open file
            temporary.replace(target)
        except BaseException:
            with suppress(OSError):
                temporary.unlink()
            raise
    if os.name != "nt":
        _sync_directory(target.parent)


def _open_alone(path: Path) -> BinaryIO:
    """Open a file to write that no other writer has open; it is made if there is none."""
    flags = os.O_WRONLY | os.O_CREAT | getattr(os, "O_BINARY", 0) | getattr(os, "O_NOFOLLOW", 0)
    while True:
        file = os.fdopen(os.open(path, flags, 0o666), "wb")
        if fcntl is None:
            return file
        try:
            fcntl.flock(file, fcntl.LOCK_EX)
            if _is_at(file, path):
                return file
        except BaseException:
            file.close()
            raise
        file.close()  # its writer has given it its name in the meantime


def _is_at(file: Any, path: Path) -> bool:
    try:
        return os.path.samestat(os.fstat(file.fileno()), path.stat())
    except FileNotFoundError:
        return False


def _sync_directory(directory: Path) -> None:
    descriptor = os.open(directory, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
