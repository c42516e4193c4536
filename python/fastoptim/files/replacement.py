"""Replace a file so that it is always whole: the old contents or the new ones, whenever the process is killed."""

from __future__ import annotations

import os
import stat
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

    The file is ``.NAME.new`` in the same directory until its contents and then its new name are on the disk.  One that
    a killed process has left is overwritten, and a second writer of the same path waits for the first.  The new file
    has the permissions of the old one.  Raises FileExistsError if `path` is a directory, a device or a pipe.
    """
    target = Path(os.path.realpath(path))  # a link stays a link
    temporary = target.with_name(f".{target.name}.new")
    mode = _mode_of(target, path)
    with _open_alone(temporary, path) as file:
        try:
            file.truncate()
            if mode is not None and hasattr(os, "fchmod"):
                os.fchmod(file.fileno(), mode)
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


def _mode_of(file: Path, place: str | os.PathLike[str]) -> int | None:
    """Return the permissions of a regular file, None if there is no file; raise an error for anything else."""
    try:
        mode = file.lstat().st_mode
    except FileNotFoundError:
        return None
    if not stat.S_ISREG(mode):
        raise FileExistsError(f"{os.fspath(place)}: expected a regular file or none, got a directory, device or pipe")
    return stat.S_IMODE(mode)


def _open_alone(path: Path, place: str | os.PathLike[str]) -> BinaryIO:
    """Open a file to write that no other writer has open; it is made if there is none."""
    flags = os.O_WRONLY | os.O_CREAT
    for name in ("O_BINARY", "O_NOFOLLOW", "O_NONBLOCK"):  # the last: a pipe would wait for its reader
        flags |= getattr(os, name, 0)
    while True:
        _mode_of(path, place)
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
