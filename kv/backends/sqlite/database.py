"""A SQLite file that holds a store: its connections, locks and transactions.

One connection writes, under a lock of the process, so that threads queue here and only processes wait in SQLite;
readers take a connection from those that are idle, best the one that has written last: SQLite forgets the pages that a
connection has read when another one writes. Every write is its own `BEGIN IMMEDIATE`, which a single statement
is by itself. What the engine raises becomes ours where it comes out of the driver, by `errors.ours`.
"""

from __future__ import annotations

import os
import sqlite3
import threading
import time
import weakref
from collections import deque
from contextlib import suppress
from typing import TYPE_CHECKING, Any, Final, NoReturn, TypeAlias, TypeVar

from kv.backends.cleaner import Cleaner, in_batches
from kv.backends.forking import concerns, leak
from kv.backends.locks import holding, nap
from kv.base import PAGE
from kv.errors import (
    BackendError,
    ConfigError,
    Conflict,
    StoreClosed,
    Unavailable,
)
from kv.expiry import wall_ms

from . import schema
from .errors import DRIVER_ERRORS, code_of, ours

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

T = TypeVar("T")
Parameters: TypeAlias = "tuple[object, ...] | Callable[[], tuple[object, ...]]"
"""Of a statement; where a clock is among them, a function that gives them when the statement's turn has come."""

_CLEANUP = "DELETE FROM kv_entries WHERE id IN (SELECT id FROM kv_entries WHERE expires_at <= ? LIMIT ?)"
_INT_MAX: Final = 2**31 - 1
"""The most milliseconds that SQLite can be told, and more bytes than it takes."""
_IMPATIENT: Final = "PRAGMA busy_timeout = 0"  # we wait ourselves
_FORK_WAIT = 5.0
"""So many seconds a fork waits for other threads to leave SQLite; longer ones are left where they are."""


def rows(cursor: sqlite3.Cursor) -> list[Any]:
    return cursor.fetchall()


def affected(cursor: sqlite3.Cursor) -> int:
    return cursor.rowcount


def first(cursor: sqlite3.Cursor) -> Any:
    return cursor.fetchone()


def given(parameters: Parameters) -> tuple[object, ...]:
    return parameters() if callable(parameters) else parameters


class _Connection(sqlite3.Connection):
    """One that a weak set can hold: a reader that an interrupt has lost becomes garbage, and is closed."""

    def __del__(self) -> None:
        with suppress(sqlite3.Error):  # it may never have been open
            self.close()


class Database:
    """A file and the connections to it: what a store and all its views share."""

    def __init__(
        self, path: str | None, *, durability: str, lock_timeout: float, cleanup_interval: float | None
    ) -> None:
        self.path = path
        self.name = "sqlite://" if path is None else f"sqlite:///{path}"
        self.closed_message = f"the store {self.name} is closed; open a new one"
        self.durability = durability
        self.lock_timeout = lock_timeout
        self.busy_ms = min(round(lock_timeout * 1000), _INT_MAX)  # the same, as SQLite is told it
        self.cleanup_interval = cleanup_interval
        self.max_value = _INT_MAX  # until SQLite has said
        self.cleaner: Cleaner | None = None
        self.connecting = threading.Lock()  # held while a reader connects, and from before a fork until after it
        self.forking = False
        self.closed = False
        self.resting: list[sqlite3.Connection] = []  # during a fork
        self.held = False  # the lock, during a fork
        self._begin()
        concerns(self)

    def _begin(self) -> None:
        # Protects the writer, and in memory, where there is no other connection, the readers too. Reentrant: `fn` of an
        # update may call the store, and a batch calls many methods.
        self.lock = threading.RLock()
        self.writer: sqlite3.Connection | None = None
        self.depth = 0  # of transactions, one in the other
        self.inode: tuple[int, int] | None = None  # of the file that the writer has open
        self.memory: list[sqlite3.Connection] = []  # the writer, where there is no other connection, for the finalizer
        self.idle: deque[sqlite3.Connection] = deque()  # the writer too, while nobody writes
        self.every: weakref.WeakSet[sqlite3.Connection] = weakref.WeakSet()  # also those that read at the moment
        weakref.finalize(self, _close_unused, self.lock, self.idle, self.memory)

    # opening

    def connect(self) -> sqlite3.Connection:
        self.check_open()
        try:
            connection = sqlite3.connect(
                ":memory:" if self.path is None else self.path,
                timeout=self.busy_ms / 1000,
                isolation_level=None,
                check_same_thread=False,
                factory=_Connection,
            )
            self.every.add(connection)
            try:
                connection.execute(f"PRAGMA synchronous = {self.durability}")
                for pragma in schema.PRAGMAS:
                    connection.execute(pragma)
            except BaseException:
                connection.close()
                raise
        except DRIVER_ERRORS as e:
            raise ours(e, self) from e
        return connection

    def check_open(self) -> None:
        if self.closed:
            raise StoreClosed(self.closed_message)

    def open(self) -> sqlite3.Connection:
        """Give the writing connection; the first time, see that the file is ours, or make it so."""
        if self.writer is None:
            with self.lock:
                if self.writer is None:
                    self._open()
        assert self.writer is not None
        return self.writer

    def _open(self) -> None:
        self.check_open()
        writer = None
        try:
            if self.path is not None:
                schema.check_file(self.path, self.name)
            writer = self.connect()
            self._check_schema(writer)
            self.inode = self._inode()
            self.max_value = writer.getlimit(sqlite3.SQLITE_LIMIT_LENGTH) - 10_000  # the rest of the row
        except BaseException as e:
            if writer is not None:
                writer.close()
            if isinstance(e, DRIVER_ERRORS):
                raise ours(e, self) from e
            raise
        self.writer = writer
        (self.memory if self.path is None else self.idle).append(writer)
        if self.cleanup_interval is not None:
            self.cleaner = Cleaner(self, self.cleanup_interval)

    def _inode(self) -> tuple[int, int] | None:
        """What the path leads to."""
        if self.path is None:
            return None
        try:
            found = os.stat(self.path)
        except FileNotFoundError:
            return None
        return found.st_dev, found.st_ino

    def _reader(self) -> sqlite3.Connection:
        self.open()
        with self.connecting:
            return self._another()

    def _another(self) -> sqlite3.Connection:
        """Give a connection that nobody uses."""
        try:
            return self.idle.pop()
        except IndexError:
            # SQLite would make the file anew, and write to the old one as if nothing had happened
            if self._inode() != self.inode:
                raise Unavailable(
                    f"{self.name} has been removed or replaced since it was opened; open it again"
                ) from None
            connection = self.connect()
            connection.execute(_IMPATIENT)
            return connection

    def _check_schema(self, connection: sqlite3.Connection) -> None:
        if not schema.is_ours(connection, self.name):
            # The schema comes before WAL: so the header of the file itself says whose it is, from the first page on.
            self.patiently(connection, "BEGIN IMMEDIATE")
            try:
                if not schema.is_ours(connection, self.name):
                    schema.make(connection)
                self.patiently(connection, "COMMIT")
            except BaseException:
                with suppress(sqlite3.Error):
                    connection.execute("ROLLBACK")
                raise
        (mode,) = self.patiently(connection, "PRAGMA journal_mode = WAL").fetchone()
        if mode != "wal" and self.path is not None:
            raise ConfigError(f"{self.name} cannot use a write-ahead log here; is it on a network file system?")
        connection.execute(_IMPATIENT)

    def patiently(self, connection: sqlite3.Connection, sql: str, parameters: Parameters = ()) -> sqlite3.Cursor:
        """Run what has to wait for other processes, and had no effect while it did.

        SQLite's own waiting sleeps longer each time, so whoever has waited long goes on waiting while newcomers get the
        lock; and some statements it does not wait for at all. Short random naps are fair, and faster too.
        """
        began = None
        while True:
            try:
                return connection.execute(sql, given(parameters))
            except sqlite3.OperationalError as e:
                if code_of(e) != sqlite3.SQLITE_BUSY:
                    raise
                now = time.monotonic()
                waited = now - (began := began or now)
                if waited > self.lock_timeout:
                    raise
            nap(waited)

    # reading

    def fetch(self, sql: str, parameters: Parameters, take: Callable[[sqlite3.Cursor], T]) -> T:
        """Run a query and give what `take` takes of its rows."""
        if self.path is None:
            return self.locked(lambda: self._take(self.open(), sql, parameters, take))
        if self.forking:
            with self.connecting:  # nobody begins to read until the fork is over
                pass
        try:
            connection = self.idle.pop()
        except IndexError:
            connection = self._reader()
        try:
            return self._take(connection, sql, parameters, take)
        finally:
            self.idle.append(connection)
            if self.closed:
                self._close_idle()

    def row(self, sql: str, parameters: tuple[object, ...]) -> Any:
        """Run a query and give its first row, or None: `fetch` in one piece, for the hottest calls."""
        try:
            if self.path is None or self.forking:
                return self.fetch(sql, parameters, first)
            connection = self.idle.pop()
        except IndexError:
            return self.fetch(sql, parameters, first)
        try:
            return connection.execute(sql, parameters).fetchone()
        except DRIVER_ERRORS as e:
            if code_of(e) == sqlite3.SQLITE_BUSY:
                return self._take(connection, sql, parameters, first)
            raise ours(e, self) from e
        finally:
            self.idle.append(connection)
            if self.closed:
                self._close_idle()

    def _take(
        self, connection: sqlite3.Connection, sql: str, parameters: Parameters, take: Callable[[sqlite3.Cursor], T]
    ) -> T:
        try:
            cursor = self.patiently(connection, sql, parameters)
            try:
                return take(cursor)
            except BaseException:
                cursor.close()  # what keeps the error would keep the cursor, and the cursor this state of the file
                raise
        except DRIVER_ERRORS as e:
            raise ours(e, self) from e

    # writing

    def locked(self, work: Callable[[], T]) -> T:
        """Do it as the one thread that writes."""

        def checked(locked: bool) -> T:
            return work() if locked else self._refuse()

        return holding(self.lock, self.lock_timeout, checked)

    def _refuse(self) -> NoReturn:
        raise Conflict(
            f"{self.name}: another thread has been writing for more than {self.lock_timeout:g} s; nothing was "
            "written. Try again, or raise lock_timeout"
        )

    def write(self, sql: str, parameters: Parameters) -> int:
        """Run one statement, in the transaction if there is one, and else as one. Gives how many rows it changed."""
        # `locked` in one piece, for the hottest calls
        return holding(
            self.lock,
            self.lock_timeout,
            lambda locked: self._write(sql, parameters, affected) if locked else self._refuse(),
        )

    def returned(self, sql: str, parameters: Parameters) -> list[Any]:
        """The same. Gives the rows that it returns."""
        return self.locked(lambda: self._write(sql, parameters, rows))

    def _write(self, sql: str, parameters: Parameters, take: Callable[[sqlite3.Cursor], T]) -> T:
        writer = self.whole()
        try:
            cursor = self.patiently(writer, sql, parameters)
            try:
                return take(cursor)
            except BaseException:
                cursor.close()  # or what it has written would be neither there nor gone until the error is forgotten
                raise
        except DRIVER_ERRORS as e:
            raise ours(e, self, writing=True) from e
        finally:
            self.rest(writer)

    def whole(self) -> sqlite3.Connection:
        """Give the writer, outside any transaction but those that are under way. `rest` must follow."""
        writer = self.writer or self.open()
        if self.depth:
            return writer
        try:
            if self.path is not None and not self._taken(writer) and not writer.in_transaction:
                writer = self.writer = self._another()  # somebody reads by it: from now on another one writes
            if writer.in_transaction:  # an interrupt, while another one was dealt with
                writer.execute("ROLLBACK")
        except DRIVER_ERRORS as e:
            raise ours(e, self) from e
        return writer

    def _taken(self, connection: sqlite3.Connection) -> bool:
        """Take it from the idle ones, if it is one of them."""
        try:
            self.idle.remove(connection)
        except ValueError:
            return False
        return True

    def rest(self, writer: sqlite3.Connection) -> None:
        """Let readers have the writer, if it has done what it was taken for."""
        if writer is self.writer and self.path is not None and not self.depth and not writer.in_transaction:
            self.idle.append(writer)

    def read(self, writer: sqlite3.Connection, sql: str, parameters: tuple[object, ...]) -> list[Any]:
        """Run a query inside a transaction."""
        self._check_mine(writer)
        return self._take(writer, sql, parameters, rows)

    def write_many(self, writer: sqlite3.Connection, sql: str, rows: Iterable[tuple[object, ...]]) -> None:
        """Run one statement for each row, inside a transaction."""
        self._check_mine(writer)
        try:
            writer.executemany(sql, rows)
        except DRIVER_ERRORS as e:
            raise ours(e, self) from e

    def transaction(self, work: Callable[[sqlite3.Connection], T]) -> T:
        """Do the work so that all it writes is there, or nothing; inside another transaction, all of this part."""
        return self.locked(lambda: self._transaction(work))

    def _transaction(self, work: Callable[[sqlite3.Connection], T]) -> T:
        writer = self.whole()
        depth = self.depth
        begin, end, undo = (
            (f"SAVEPOINT kv{depth}", f"RELEASE kv{depth}", f"ROLLBACK TO kv{depth}")
            if depth
            else ("BEGIN IMMEDIATE", "COMMIT", "ROLLBACK")
        )
        try:
            self.depth = depth + 1
            self._control(writer, begin)
            result = work(writer)
            self._control(writer, end, writing=not depth)
        except BaseException:
            # nothing to undo where SQLite has, or after a fork inside the work, or when it has closed the store
            if writer is self.writer and writer.in_transaction:
                try:  # and no other call before it, after which an exception of a signal handler could come
                    writer.execute(undo)
                    if depth:
                        writer.execute(end)
                except sqlite3.Error:
                    pass
            raise
        finally:
            if writer is self.writer:
                self.depth = depth
            self.rest(writer)
        return result

    def step(self, work: Callable[[sqlite3.Connection], T]) -> T:
        """`transaction`, of work that writes once at most: inside another one there is never half of it to undo."""
        return self.locked(lambda: work(self.whole()) if self.depth else self._transaction(work))

    def _check_mine(self, writer: sqlite3.Connection) -> None:
        if writer is not self.writer:
            self.check_open()
            raise BackendError(
                f"{self.name}: the process was forked inside an update, which goes on in the parent only"
            )

    def _control(self, writer: sqlite3.Connection, sql: str, *, writing: bool = False) -> None:
        self._check_mine(writer)
        try:
            self.patiently(writer, sql)
        except DRIVER_ERRORS as e:
            raise ours(e, self, writing=writing) from e

    # keeping

    def cleanup(self, limit: int | None = None) -> int:
        now = wall_ms()
        return in_batches(lambda batch: self.write(_CLEANUP, (now, batch)), PAGE, limit)

    # ending

    def close(self) -> None:
        with self.lock:
            self.closed = True
            cleaner, self.cleaner = self.cleaner, None
            writer, self.writer = self.writer, None
            with suppress(sqlite3.Error):  # it is closed, at the end of the interpreter
                if writer is not None and (self.path is None or self.depth or writer.in_transaction):
                    writer.close()  # else it is idle, or somebody reads by it
            self.depth = 0
            self.memory.clear()
            self._close_idle()
        if cleaner:
            cleaner.stop()

    def _close_idle(self) -> None:
        while True:
            try:
                connection = self.idle.pop()
            except IndexError:
                return
            connection.close()

    def before_fork(self) -> None:
        # The child has SQLite's own locks as they are at the fork: so no other thread may be inside SQLite then.
        end = time.monotonic() + _FORK_WAIT
        self.connecting.acquire()
        self.forking = True
        self.held = self.lock.acquire(timeout=_FORK_WAIT)
        mine = self.path is None or self.depth > 0  # the writer; else it is idle
        while self.held and len(self.every) > mine + len(self.resting) and time.monotonic() < end:
            try:
                self.resting.append(self.idle.pop())
            except IndexError:
                time.sleep(0.001)

    def after_fork(self, *, child: bool) -> None:
        self.idle.extend(self.resting)
        self.resting.clear()
        if self.forking:
            self.forking = False
            self.connecting.release()
        if self.held:
            self.held = False
            self.lock.release()
        if child and self.path is not None:  # a copy of memory is a store of its own
            # SQLite forbids to use a connection in a child, and even to close it there: they are leaked on purpose.
            leak([*self.every])
            self.idle.clear()
            self._begin()
        if child:
            self.cleaner = None


def _close_unused(lock: threading.RLock, idle: deque[sqlite3.Connection], memory: list[sqlite3.Connection]) -> None:
    """Close what nobody closed, when the store is garbage or the interpreter ends."""
    while idle:
        idle.pop().close()
    # At the end of the interpreter a thread may still be writing, and to close its connection would crash.
    if memory and lock.acquire(blocking=False):
        memory.pop().close()
        lock.release()
