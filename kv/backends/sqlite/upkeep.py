"""Upkeep of a SQLite file: its space, its health, a copy of it."""

from __future__ import annotations

import os
import sqlite3
from contextlib import suppress
from typing import TYPE_CHECKING

from kv.errors import ConfigError, CorruptData, InvalidKey, Unavailable
from kv.files import copied
from kv.keys import SEPARATOR, check_key, check_path

from .database import rows
from .errors import ours

if TYPE_CHECKING:
    from .database import Database

_EVERY = (
    "SELECT id, typeof(namespace), CAST(namespace AS BLOB), typeof(key), CAST(key AS BLOB), typeof(expires_at), "
    "typeof(value), value FROM kv_entries ORDER BY id"
)


def compact(db: Database) -> None:
    def work() -> None:
        writer = db.whole()
        try:
            db.patiently(writer, "VACUUM")
            # for readers to leave the log
            writer.execute(f"PRAGMA busy_timeout = {db.busy_ms}")
            try:
                writer.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchall()
            finally:
                writer.execute("PRAGMA busy_timeout = 0")
        except sqlite3.Error as e:
            raise ours(e, db, writing=True) from e
        finally:
            db.rest(writer)

    db.locked(work)


def disk_bytes(db: Database) -> int | None:
    if db.path is None:
        return None
    size = 0
    for suffix in ("", "-wal", "-shm"):
        with suppress(FileNotFoundError):
            size += os.stat(db.path + suffix).st_size
    return size


def verify(db: Database) -> list[str]:
    found: list[str] = []

    def read(cursor: sqlite3.Cursor) -> None:
        for number, *columns in cursor:
            for what in _wrong(*columns):
                names, key = (text.decode(errors="backslashreplace") if text else "" for text in columns[1:4:2])
                found.append(f"row {number}, namespace {names!r}, key {key!r}: {what}")

    try:
        found += [line for (line,) in db.fetch("PRAGMA integrity_check", (), rows) if line != "ok"]
        db.fetch(_EVERY, (), read)
    except CorruptData as e:
        found.append(f"the file is damaged: {e.__cause__}")
    return found


def _wrong(
    namespace_type: str, namespace: bytes, key_type: str, key: bytes, deadline_type: str, value_type: str, _: object
) -> list[str]:
    """What no store has written in a row."""
    wrong = []
    for what, kind, right in (
        ("namespace", namespace_type, ["text"]),
        ("key", key_type, ["text"]),
        ("deadline", deadline_type, ["null", "integer"]),
        ("value", value_type, ["blob"]),
    ):
        if kind not in right:
            wrong.append(f"a {what} of type {kind}")
    try:
        if key_type == "text":
            check_key(key.decode())
        if namespace_type == "text":
            check_path(namespace.decode().split(SEPARATOR) if namespace else ())
    except InvalidKey as e:
        wrong.append(str(e))
    except UnicodeDecodeError as e:
        wrong.append(f"text that is no UTF-8: {e}")
    return wrong


def backup(db: Database, path: str) -> None:
    for log in (f"{path}-wal", f"{path}-journal"):  # it would be played back into the backup
        if os.path.exists(log):
            raise ConfigError(f"{log} exists; a backup goes to a new file")
    try:
        with copied(path) as part:
            target = sqlite3.connect(part)
            try:
                db.fetch("SELECT 1", (), lambda cursor: cursor.connection.backup(target))
            finally:
                target.close()
    except (sqlite3.Error, OSError) as e:
        raise Unavailable(f"the backup of {db.name} to {path} failed: {e}") from e
