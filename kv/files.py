"""Files: where one may be, and those written beside their final name, locked while they are, renamed when whole."""

from __future__ import annotations

import os
import threading
from contextlib import contextmanager, suppress
from typing import IO, TYPE_CHECKING

from .errors import ConfigError, Unavailable

if TYPE_CHECKING:
    from collections.abc import Iterator


def check_place(path: str, name: str) -> None:
    """See, without changing anything, that a store may be kept in such a file; `name` is what messages call it."""
    if os.path.isdir(path):
        raise ConfigError(f"{name} is a directory; give the path of a file in it")
    if not os.path.isdir(os.path.dirname(path)):
        raise ConfigError(f"{name}: the directory {os.path.dirname(path)!r} does not exist; make it first")
    if os.path.exists(path) and not os.access(path, os.R_OK | os.W_OK):
        raise Unavailable(f"{name} may not be read and written by this user; see its permissions")


@contextmanager
def copied(path: str) -> Iterator[str]:
    """Give a name beside the path for what is written there; the file has its own when it is whole and on disk."""
    directory = os.path.dirname(path)
    if not os.path.isdir(directory):
        raise ConfigError(f"the directory {directory!r} does not exist; make it first")
    if os.path.exists(path):
        raise ConfigError(f"{path} exists; a backup goes to a new file")
    part = f"{path}.{os.getpid()}-{threading.get_ident()}.part"
    try:
        yield part
        os.replace(part, path)
        sync_folder(directory)
    finally:
        with suppress(FileNotFoundError):
            os.remove(part)


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
