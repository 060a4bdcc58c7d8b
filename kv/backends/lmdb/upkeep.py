"""Upkeep of an LMDB file: its space, its health, a copy of it."""

from __future__ import annotations

import os
from contextlib import suppress
from typing import TYPE_CHECKING

from kv.errors import CorruptData, InvalidKey, Unavailable
from kv.files import copied
from kv.keys import SEPARATOR, check_key, check_path

from . import layout

if TYPE_CHECKING:
    from .database import Database
    from .tree import Tree


def disk_bytes(db: Database) -> int:
    size = 0
    for suffix in ("", "-lock"):
        with suppress(FileNotFoundError):
            found = os.stat(db.path + suffix)
            blocks = getattr(found, "st_blocks", None)  # the file has holes
            size += found.st_size if blocks is None else blocks * 512
    return size


def version(_: Database) -> str:
    import lmdb

    return ".".join(map(str, lmdb.version()))


def verify(db: Database) -> list[str]:
    found: list[str] = []

    def work(tree: Tree) -> None:
        due = sum(1 for _ in tree.walk(layout.DUE, layout.end(layout.DUE)))
        for start, stop in layout.NAMES:
            for name, record in tree.walk(start, stop):
                found.extend(f"{name!r}: {what}" for what in _wrong(tree, name, record))
                due -= bytes(record[:1]) == layout.UNTIL
        if due > 0:
            found.append(f"{due} deadlines are of no entry")

    try:
        db.read(work)
    except CorruptData as e:
        found.append(f"the file is damaged: {e.__cause__}")
    return found


def _wrong(tree: Tree, name: bytes, record: memoryview) -> list[str]:
    """What no store has written in an entry."""
    wrong = []
    namespace, _, key = name.partition(b"\x00")
    try:
        check_key(key.decode())
        check_path(namespace.decode().split(SEPARATOR) if namespace else ())
    except InvalidKey as e:
        wrong.append(str(e))
    except UnicodeDecodeError as e:
        wrong.append(f"text that is no UTF-8: {e}")
    if not len(record) or record[0] > 1 or (record[0] and len(record) < 9):
        wrong.append("no value with or without a deadline")
    elif (until := layout.deadline(record)) is not None and not tree.listed(name, until):
        wrong.append("its deadline is not listed, and no cleanup will find it")
    return wrong


def backup(db: Database, path: str) -> None:
    try:
        with copied(path) as part, open(part, "xb") as file:
            db.read(lambda _: db.open().env.copyfd(file.fileno(), compact=True))
            file.truncate(db.open().env.info()["map_size"])  # see `Environment._extend`
            os.fsync(file.fileno())
    except OSError as e:
        raise Unavailable(f"the backup of {db.name} to {path} failed: {e}") from e
