"""What lies in the file, and how to know one of ours from any other."""

from __future__ import annotations

import os
import sqlite3
from typing import Final
from urllib.parse import quote

from kv.errors import CorruptData
from kv.files import check_place

from .errors import DRIVER_ERRORS, code_of

APPLICATION_ID: Final = 0x616E796B  # "anyk", in the file's header
SCHEMA_VERSION: Final = 1
# A rowid table: a large value stands outside the index, and is not read or moved to find a key.
DDL: Final = f"""\
CREATE TABLE kv_entries (
    id INTEGER PRIMARY KEY,
    namespace TEXT NOT NULL,  -- the names, joined by U+001F ('' is the root)
    key TEXT NOT NULL,
    expires_at INTEGER,       -- milliseconds since 1970 (NULL: never)
    value BLOB NOT NULL,
    UNIQUE (namespace, key)
);
CREATE INDEX kv_entries_expires_at ON kv_entries (expires_at) WHERE expires_at IS NOT NULL;
PRAGMA application_id = {APPLICATION_ID};
PRAGMA user_version = {SCHEMA_VERSION};
"""

PRAGMAS: Final = (
    "PRAGMA cell_size_check = ON",  # or some damage reads as "nothing there"
    "PRAGMA cache_size = -16000",  # KiB at most, of pages that were read
)
"""What every connection is told."""

_HEADER = (
    "SELECT (SELECT application_id FROM pragma_application_id), (SELECT user_version FROM pragma_user_version), "
    "(SELECT count(*) FROM sqlite_master)"
)


def check_file(path: str, name: str) -> None:
    """See, without changing anything, that this may be a file of ours, or become one."""
    check_place(path, name)
    there = os.path.exists(path)
    if not there or os.path.getsize(path) == 0:
        # our own first page is in the file before there is a log; SQLite would throw this one away
        if os.path.exists(f"{path}-wal") and os.path.getsize(f"{path}-wal"):
            raise CorruptData(
                f"{name} is {'empty' if there else 'missing'}, and {path}-wal is not; they were left untouched. "
                "Restore the file, or move its log away"
            )
        return
    # Through SQLite and not through open(): closing any descriptor of the file would drop this process's locks on
    # it. "immutable" reads the header as it stands, and takes no lock, no journal and no log.
    try:
        peek = sqlite3.connect(f"file:{quote(os.fsencode(path))}?mode=ro&immutable=1", uri=True)
        try:
            is_ours(peek, name)
        finally:
            peek.close()
    except DRIVER_ERRORS as e:
        if code_of(e) != sqlite3.SQLITE_CORRUPT:  # what another process is just writing may look damaged
            raise


def is_ours(connection: sqlite3.Connection, name: str) -> bool:
    """Give whether there is a schema of ours; raise where there is another."""
    # one statement, and so of one moment: another process may be making the schema
    application, version, tables = connection.execute(_HEADER).fetchone()
    if application != APPLICATION_ID:
        if application or version or tables:
            raise CorruptData(f"{name} is a SQLite database of something else; it was left untouched")
        return False
    if version != SCHEMA_VERSION:
        raise CorruptData(
            f"{name} has schema version {version}, and this version of anykv knows {SCHEMA_VERSION}; "
            "it was left untouched. Upgrade anykv to open it"
        )
    return True


def make(connection: sqlite3.Connection) -> None:
    """Make our schema, inside a transaction."""
    for statement in DDL.split(";\n"):
        connection.execute(statement)
