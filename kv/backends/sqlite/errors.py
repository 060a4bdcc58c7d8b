"""What SQLite says when something is wrong, in our words."""

from __future__ import annotations

import sqlite3
from typing import TYPE_CHECKING

from kv.errors import (
    BackendError,
    Conflict,
    CorruptData,
    KVError,
    OutcomeUnknown,
    StoreClosed,
    Unavailable,
    ValueTooLarge,
)

if TYPE_CHECKING:
    from typing import Final

    from .database import Database

DRIVER_ERRORS: Final = (sqlite3.Error, UnicodeDecodeError)
"""The second one where SQLite's own message holds text out of a damaged schema."""


def code_of(error: Exception) -> int:
    """Give SQLite's primary result code."""
    if isinstance(error, UnicodeDecodeError):
        return sqlite3.SQLITE_CORRUPT
    return getattr(error, "sqlite_errorcode", sqlite3.SQLITE_ERROR) & 0xFF


def ours(error: Exception, db: Database, *, writing: bool = False) -> KVError:
    """Give our error for one of SQLite's; `writing`: it came where a commit may have been under way."""
    code = code_of(error)
    if isinstance(error, sqlite3.ProgrammingError) and "closed database" in str(error):
        return StoreClosed(db.closed_message)
    if code in (sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED):
        return Conflict(
            f"{db.name}: another process has kept the file locked for more than {db.lock_timeout:g} s; nothing "
            "was written. Try again, or raise lock_timeout"
        )
    if code == sqlite3.SQLITE_FULL:
        return Unavailable(f"{db.name}: the disk is full; nothing was written. Free some space and try again")
    if code == sqlite3.SQLITE_READONLY:
        return Unavailable(
            f"{db.name} is read-only here; nothing was written. See the permissions of the file and its directory"
        )
    if code in (sqlite3.SQLITE_CANTOPEN, sqlite3.SQLITE_PERM, sqlite3.SQLITE_AUTH):
        return Unavailable(f"{db.name} cannot be opened; see the path, its permissions and the limit of open files")
    if code == sqlite3.SQLITE_NOTADB:
        return CorruptData(f"{db.name} is not a SQLite database; it was left untouched. Is the path right?")
    if code == sqlite3.SQLITE_CORRUPT:
        return CorruptData(f"{db.name} is damaged ({error}); restore a backup, or see what `kv verify` names")
    if str(error).startswith("Could not decode to UTF-8"):  # and then comes the text, of whatever it was
        return CorruptData(
            f"{db.name} is damaged (text that is no UTF-8); restore a backup, or see what `kv verify` names"
        )
    if code == sqlite3.SQLITE_TOOBIG:
        return ValueTooLarge(f"{db.name}: SQLite holds values up to {db.max_value:,} bytes; nothing was written")
    if code == sqlite3.SQLITE_IOERR:
        if writing:
            return OutcomeUnknown(f"{db.name}: the disk failed during a commit ({error}); read before you try again")
        return Unavailable(f"{db.name}: the disk failed or is full ({error}); nothing was written")
    return BackendError(f"{db.name}: SQLite says: {error}")
