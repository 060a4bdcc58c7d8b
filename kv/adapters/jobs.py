"""Jobs of a queue as they are stored: names that sort in the order of delivery, records, and how they change. Pure.

    q/01764112345678901r0645a1b2c3d4e55f60718293.1a2b3c4d    due, in microseconds since 1970; ready or claimed; id; chance
    d/0645a1b2c3d4e55f60718293                               a dead letter

A job that changes gets another name, so that whoever knows an old one can do nothing to it. An id begins with the time of
the push, and so dead letters are sorted by that.
"""

from __future__ import annotations

import re
import secrets
from traceback import format_exception_only
from typing import TYPE_CHECKING, Final, NamedTuple

from kv.errors import CorruptData
from kv.values import Unchanged

from .records import foreign, pack, unpack

if TYPE_CHECKING:
    from collections.abc import Callable

    Change = Callable[[bytes], bytes]

LIVE: Final = "q/"
DEAD: Final = "d/"

_name = re.compile(r"q/([0-9]{17})([rc])([0-9a-f]{24})\.[0-9a-f]{8}").fullmatch
_letter = re.compile(r"d/([0-9a-f]{24})").fullmatch


class Name(NamedTuple):
    """What the name of a job says."""

    due: int
    claimed: bool
    id: str


def named(due: int, state: str, job_id: str) -> str:
    """Give a name that no job has had; `state` is "r" or "c"."""
    return f"{LIVE}{due:017}{state}{job_id}.{secrets.token_hex(4)}"


def parsed(key: str) -> Name | None:
    """Give what the name of a job says; None where it is not of our form."""
    found = _name(key)
    return Name(int(found[1]), found[2] == "c", found[3]) if found else None


def letter(job_id: str) -> str | None:
    """Give the name of a dead letter; None where nothing that we wrote has this id."""
    return key if _letter(key := DEAD + job_id) else None


def new_id(now: int) -> str:
    return f"{now:014x}{secrets.token_hex(5)}"


class Record(NamedTuple):
    """What is stored of a job."""

    attempts: int
    pushed: int
    """Microseconds since 1970."""
    error: str | None
    payload: bytes

    def pack(self) -> bytes:
        """Give it as it is stored."""
        return pack({"attempts": self.attempts, "pushed": self.pushed, "error": self.error}, self.payload)


def read(value: bytes, key: str) -> Record:
    """Give a job that is stored, or raise `CorruptData`."""
    facts, payload = unpack(value, key, "a job")
    match facts:
        case {"attempts": int(attempts), "pushed": int(pushed), "error": str() | None as error}:
            return Record(attempts, pushed, error, payload)
    raise foreign(key, "a job")


MAX_ERROR: Final = 1_000
"""How many characters of an error are kept with a job."""


def described(error: str | BaseException | None) -> str | None:
    """Give what is kept of an error."""
    if isinstance(error, BaseException):
        error = "".join(format_exception_only(error)).strip()
    if error is not None and not isinstance(error, str):
        raise TypeError(f"error must be a str, an exception or None, not {type(error).__name__}")
    return error and error[:MAX_ERROR]


# how a job changes while it moves from one name to another


class Refused(Exception):
    """Raised inside `update_many`: the job is not to be claimed, but to be put among the dead letters.

    Attributes:
        spent: it has been claimed as often as it may be; else it is no job.
    """

    def __init__(self, *, spent: bool) -> None:
        self.spent = spent


def moved(old: str, new: str, change: Change) -> Callable[[dict[str, bytes]], dict[str, bytes]]:
    """Give the function for `update_many` that moves an entry; it raises `Unchanged` where there is none."""

    def fn(found: dict[str, bytes]) -> dict[str, bytes]:
        if old not in found:
            raise Unchanged
        return {new: change(found[old])}

    return fn


def claim(key: str, most: int) -> Change:
    """Count one more attempt, up to so many."""

    def change(value: bytes) -> bytes:
        try:
            record = read(value, key)
        except CorruptData:
            raise Refused(spent=False) from None
        if record.attempts >= most:
            raise Refused(spent=True)
        return record._replace(attempts=record.attempts + 1).pack()

    return change


def unclaim(key: str) -> Change:
    """Count one attempt less."""

    def change(value: bytes) -> bytes:
        record = read(value, key)
        return record._replace(attempts=record.attempts - 1).pack()

    return change


def fail(key: str, error: str | None) -> Change:
    """Keep what went wrong."""
    return lambda value: read(value, key)._replace(error=error).pack()


def revive(key: str) -> Change:
    """Begin with no attempts again."""
    return lambda value: read(value, key)._replace(attempts=0).pack()


def leave(value: bytes) -> bytes:
    """Change the name alone."""
    return value
