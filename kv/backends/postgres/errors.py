"""What PostgreSQL and its drivers say when something is wrong, in our words. Pure: an error is known by its SQLSTATE."""

from __future__ import annotations

import re
from typing import Final

from kv.errors import (
    BackendError,
    ConfigError,
    Conflict,
    CorruptData,
    KVError,
    OutcomeUnknown,
    Unavailable,
    ValueTooLarge,
)

MAX_VALUE: Final = 2**28
"""The most bytes of a value: 256 MiB. PostgreSQL takes a gigabyte in one message, in which there may be two, and each
twice as long where a driver writes it as text."""

AGAIN: Final = {"40001", "40P01"}
"""The server has undone the whole transaction, and it may be tried again at once."""
_HINTS: Final = {  # libpq has no SQLSTATE for what comes while connecting
    "authentication|pg_hba|no password|role .* does not exist": "See the user, the password and pg_hba.conf",
    "database .* does not exist": "See the name of the database; createdb makes one",
    "too many (clients|connections)|connection slots": "See max_connections there, and pool_max here",
    "": "See that the server runs, and its host and port",
}
_UNSENT: Final = ("the connection is closed", "connection is closed", "cannot switch to state")
_MADE_TOO: Final = {"23505", "42P06", "42P07", "42710", "XX000", "40001", "40P01"}


def sqlstate(error: BaseException) -> str:
    """Give what the server called the error, "" where it is the driver's or the system's own."""
    code = getattr(error, "sqlstate", None)
    return code if isinstance(code, str) else ""


def made_too(error: BaseException | None) -> bool:
    """Whether this is what the server tells one of two who create the same at once."""
    return error is not None and sqlstate(error) in _MADE_TOO


def lost(error: BaseException) -> bool:
    """Whether this error means that the connection is gone, and nobody can say what the server has done."""
    code = sqlstate(error)
    if code:
        return code[:2] in ("08", "57") and code != "57014"
    return not isinstance(error, KVError) and (
        isinstance(error, OSError | EOFError)
        or type(error).__name__ in ("OperationalError", "InterfaceError", "InternalClientError")
    )


def unsent(error: BaseException) -> bool:
    """Whether the driver found the connection closed, or about to, before it sent anything."""
    return not sqlstate(error) and str(error).startswith(_UNSENT)


def connecting(error: BaseException, url: str) -> KVError:
    """Give our error for one that came while connecting."""
    said = str(error).strip().partition("\n")[0] or type(error).__name__  # libpq goes on with hints
    if isinstance(error, TimeoutError):
        said = "no answer in time (connect_timeout)"
    hint = next((hint for sign, hint in _HINTS.items() if re.search(sign, said)), _HINTS[""])
    return Unavailable(f"{url} cannot be reached: {said}. {hint}")


def ours(error: BaseException, url: str, timeout: float, *, writing: bool = False, table: str = "") -> KVError:
    """Give our error for one of the server's or the driver's.

    Args:
        error: what was raised.
        url: the store, for the message.
        timeout: the store's `lock_timeout`.
        writing: whether a write may have been committed when it came.
        table: the table, for the message.
    """
    code = sqlstate(error)
    said = getattr(getattr(error, "diag", None), "message_primary", None) or getattr(error, "message", None) or error
    if isinstance(error, TimeoutError):
        said = "no answer in time; see socket_timeout"
    if code == "22012":
        return clash(url, table)
    if code in AGAIN or code == "55P03":
        return Conflict(
            f"{url}: other writers of the same entries did not let this one through within {timeout:g} s; nothing was "
            "written. Try again, or raise lock_timeout"
        )
    if code == "57014":
        return Unavailable(f"{url}: the server cancelled the statement ({said}); it had no effect")
    if code in ("25006", "42501"):
        hint = "it may be a standby; connect to the primary" if code == "25006" else "see GRANT"
        return Unavailable(f"{url}: the server refuses ({said}), and nothing was changed; {hint}")
    if code[:2] == "53":
        return Unavailable(f"{url}: the server has run out of something ({said}); nothing was written")
    if code in ("42P01", "3F000"):
        return BackendError(f"{url}: the table {table} is gone ({said}); open the store anew, or see `kv ddl`")
    if code == "54000" or "invalid memory alloc request size" in str(said) or "out of memory" in str(said):
        return ValueTooLarge(f"{url}: too large for PostgreSQL ({said}); nothing was written")
    if code in ("XX001", "XX002"):
        return CorruptData(
            f"{url}: the table {table} is damaged ({said}); restore a backup, or see what `kv verify` names"
        )
    if lost(error):
        if writing and not unsent(error):
            return OutcomeUnknown(
                f"{url}: the connection was lost during a write ({_line(said)}), which may or may not have happened; read "
                "before you try again"
            )
        return Unavailable(f"{url}: the connection was lost ({_line(said)}), and nothing was written; try again")
    return BackendError(f"{url}: PostgreSQL says: {_line(said)}")


def clash(url: str, table: str) -> CorruptData:
    """The error for a key whose row holds another key with the same two hashes."""
    return CorruptData(
        f"{url}: the row in {table} for this key holds another key, with the same hashes; nothing was written. "
        "`kv verify` names rows that are wrong"
    )


def _line(said: object) -> str:
    return re.sub(r"\s*\n\s*", "; ", str(said).strip())


def check_size(key: str, value: bytes) -> bytes:
    """Give the value back, or raise `ValueTooLarge`."""
    if len(value) > MAX_VALUE:
        raise ValueTooLarge(
            f"the value for {key[:80]!r} has {len(value):,} bytes; PostgreSQL holds up to {MAX_VALUE:,}. "
            "Nothing was written"
        )
    return value


def no_driver(package: str, error: ImportError) -> ConfigError:
    """The error for a driver that is not installed."""
    return ConfigError(f'the driver {package} is missing ({error}); install it: pip install "anykv[postgres]"')
