"""Files that are written beside their final name: locked while they are, and renamed when they are whole."""

from __future__ import annotations

import os
from contextlib import contextmanager, suppress
from typing import IO, TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator


@contextmanager
def locked(path: str, buffering: int) -> Iterator[IO[bytes]]:
    """Open a file to read and write, made where it is missing, that no other process has open this way."""
    while True:
        with open(os.open(path, os.O_RDWR | os.O_CREAT, 0o666), "r+b", buffering=buffering) as file:
            _lock(file, path)
            if os.path.exists(path) and os.path.samestat(os.stat(path), os.fstat(file.fileno())):
                yield file
                return
            # it was renamed before it was locked: open the new one


def _lock(file: IO[bytes], path: str) -> None:
    try:
        import fcntl
    except ImportError:  # Windows
        return
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        raise BlockingIOError(f"another export is writing {path}") from None


def sync_folder(path: str) -> None:
    """Have the names in a folder survive power loss."""
    with suppress(OSError):  # some systems open no folders; the file itself is synced
        fd = os.open(path, os.O_RDONLY)
        try:
            os.fsync(fd)
        finally:
            os.close(fd)
