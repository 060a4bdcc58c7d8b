"""How an operation is framed on a connection, and when it is tried again. Pure, the same for both drivers."""

from __future__ import annotations

import random
import time
from typing import Final, NamedTuple

from kv.errors import Conflict

from .errors import AGAIN, lost, sqlstate, unsent

SETTLE: Final = (
    "SELECT set_config('lock_timeout', '{timeout}', false), "
    "set_config('default_transaction_isolation', 'read committed', false) WHERE pg_backend_pid() = {pid}"
)
"""Told to a new connection of our own: how long to wait for locks, if the server at its other end is always the same
one. Behind a pooler it is not, what is set there would be set for others, and this selects no row."""


class Frame(NamedTuple):
    """What stands around the statements of an operation."""

    begin: str
    commit: str
    rollback: str
    single: bool
    """Whether around a single statement too."""
    joins: bool = False
    """Whether it is inside another transaction, whose commit is not ours."""


OURS: Final = Frame("BEGIN ISOLATION LEVEL READ COMMITTED", "COMMIT", "ROLLBACK", single=False)
"""On a connection that is ours alone."""

JOINED: Final = Frame(
    "SAVEPOINT kv", "RELEASE SAVEPOINT kv", "ROLLBACK TO SAVEPOINT kv; RELEASE SAVEPOINT kv", single=False, joins=True
)
"""Inside the transaction of somebody else."""

INNER: Final = JOINED._replace(single=True)
"""Inside an update of ours, while `fn` runs: a call that fails there, and is caught there, must not undo the update."""


def guarded(timeout: float) -> Frame:
    """On a connection that has settings of its own, or another server for each transaction."""
    begin = f"BEGIN ISOLATION LEVEL READ COMMITTED; SET LOCAL lock_timeout = {milliseconds(timeout)}"
    return Frame(begin, "COMMIT", "ROLLBACK", single=True)


def milliseconds(timeout: float) -> int:
    """Give seconds as PostgreSQL takes them for a timeout."""
    return max(1, min(round(timeout * 1000), 2**31 - 1))


def settle(pid: int, timeout: float) -> str:
    """Give `SETTLE` for a connection whose server has said that it is this process."""
    return SETTLE.format(pid=int(pid), timeout=milliseconds(timeout))


class Overtaken(Exception):
    """Another write was faster, or an entry expired meanwhile: begin again."""


def unmasked(error: BaseException) -> BaseException:
    """Give the interrupt that a driver lost while it left its pipeline, or else the error."""
    hidden = error.__context__
    return hidden if hidden and not isinstance(hidden, Exception) and "pipeline" in str(error) else error


class Patience:
    """How often one operation is tried again, and how long it may take."""

    def __init__(self, timeout: float) -> None:
        self._timeout = timeout
        self._end = time.monotonic() + timeout
        self._tries = 0

    def again(self, error: BaseException, *, joined: bool, idempotent: bool = False) -> float | None:
        """Give the seconds to wait before it is tried again, or None where it is not.

        Args:
            error: what came of it.
            joined: it is part of a transaction that has failed as a whole.
            idempotent: it only reads, and may be done twice where the connection was lost.
        """
        self._tries += 1
        if isinstance(error, Overtaken):
            pass
        elif joined:
            return None
        elif sqlstate(error) not in AGAIN:
            return 0.0 if self._tries == 1 and lost(error) and (idempotent or unsent(error)) else None
        if time.monotonic() > self._end:
            return None
        return random.uniform(0, min(0.001 * 2 ** min(self._tries, 8), 0.1))

    def conflict(self, url: str) -> Conflict:
        """The error for an `update` that was overtaken for too long."""
        return Conflict(
            f"{url}: for {self._timeout:g} s other writes were faster than the function given to update; its answer was "
            "not stored. Try again, or raise lock_timeout"
        )
