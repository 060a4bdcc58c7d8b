"""A SQLite file that holds a store: its connections, locks, transactions, errors and upkeep.

One connection writes, under a lock of the process, so that threads queue here and only processes wait in SQLite;
readers take a connection from those that are idle. Every write is its own `BEGIN IMMEDIATE`, which a single statement
is by itself. Errors of the engine become ours in one place, `Database.error`.
"""

from __future__ import annotations

import os
import random
import sqlite3
import threading
import time
import weakref
from collections import deque
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING, Any, TypeVar

from kv.backends.cleaner import Cleaner
from kv.backends.forking import concerns
from kv.base import PAGE
from kv.errors import (
    BackendError,
    ConfigError,
    Conflict,
    CorruptData,
    KVError,
    OutcomeUnknown,
    StoreClosed,
    Unavailable,
    ValueTooLarge,
)
from kv.expiry import wall_ms
from kv.keys import SEPARATOR, check_key, check_path

from . import schema
from .schema import code_of

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator

    from .worker import Call

T = TypeVar("T")

_CLEANUP = "DELETE FROM kv_entries WHERE id IN (SELECT id FROM kv_entries WHERE expires_at <= ? LIMIT ?)"
_EVERY = "SELECT id, namespace, key, typeof(expires_at), typeof(value), value FROM kv_entries ORDER BY id"
_FORK_WAIT = 5.0
"""So many seconds a fork waits for other threads to leave SQLite; longer ones are left where they are."""
_TRANSACTION = ("BEGIN IMMEDIATE", "COMMIT", "ROLLBACK")
_SAVEPOINT = ("SAVEPOINT kv", "RELEASE kv", "ROLLBACK TO kv")


def rows(cursor: sqlite3.Cursor) -> list[Any]:
    return cursor.fetchall()


def first(cursor: sqlite3.Cursor) -> Any:
    return cursor.fetchone()


class Database:
    """A file and the connections to it: what a store and all its views share."""

    def __init__(
        self, path: str | None, *, durability: str, lock_timeout: float, cleanup_interval: float | None
    ) -> None:
        self.path = path
        self.name = "sqlite://" if path is None else f"sqlite:///{path}"
        self.durability = durability
        self.lock_timeout = lock_timeout
        self.cleanup_interval = cleanup_interval
        self.max_value = 0
        self.cleaner: Cleaner | None = None
        self.connecting = threading.Lock()  # held while a reader connects, which a fork must not cut in two
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
        self.writing: list[sqlite3.Connection] = []  # the writer, for the finalizer
        self.idle: deque[sqlite3.Connection] = deque()
        self.every: list[sqlite3.Connection] = []  # also those that a reader has at the moment
        weakref.finalize(self, _close_unused, self.lock, self.idle, self.writing)

    # opening

    def connect(self) -> sqlite3.Connection:
        if self.closed:
            raise StoreClosed(f"the store {self.name} is closed; open a new one")
        try:
            connection = sqlite3.connect(
                ":memory:" if self.path is None else self.path,
                timeout=self.lock_timeout,
                isolation_level=None,
                check_same_thread=False,
            )
        except sqlite3.Error as e:
            raise self.error(e) from e
        self.every.append(connection)
        try:
            connection.execute(f"PRAGMA synchronous = {self.durability}")
        except BaseException as e:
            self._drop(connection)
            if isinstance(e, sqlite3.Error):
                raise self.error(e) from e
            raise
        return connection

    def _drop(self, connection: sqlite3.Connection) -> None:
        self.every.remove(connection)
        connection.close()

    def open(self) -> sqlite3.Connection:
        """Give the writing connection; the first time, see that the file is ours, or make it so."""
        if self.writer is None:
            with self.lock:
                if self.writer is None:
                    if self.path is not None:
                        try:
                            schema.check_file(self.path, self.name)
                        except sqlite3.Error as e:
                            raise self.error(e) from e
                    writer = self.connect()
                    try:
                        self._check_schema(writer)
                        self.max_value = writer.getlimit(sqlite3.SQLITE_LIMIT_LENGTH) - 10_000  # the rest of the row
                    except BaseException as e:
                        self._drop(writer)
                        if isinstance(e, sqlite3.Error):
                            raise self.error(e) from e
                        raise
                    self.writer = writer
                    self.writing.append(writer)
                    if self.cleanup_interval is not None:
                        self.cleaner = Cleaner(self, self.cleanup_interval)
        return self.writer

    def _check_schema(self, connection: sqlite3.Connection) -> None:
        if not schema.is_ours(connection, self.name):
            # The schema comes before WAL: so the header of the file itself says whose it is, from the first page on.
            self._patiently(connection, "BEGIN IMMEDIATE")
            try:
                if not schema.is_ours(connection, self.name):
                    schema.make(connection)
                self._patiently(connection, "COMMIT")
            except BaseException:
                with suppress(sqlite3.Error):
                    connection.execute("ROLLBACK")
                raise
        (mode,) = self._patiently(connection, "PRAGMA journal_mode = WAL").fetchone()
        if mode != "wal" and self.path is not None:
            raise ConfigError(f"{self.name} cannot use a write-ahead log here; is it on a network file system?")
        connection.execute("PRAGMA busy_timeout = 0")  # from here on we wait ourselves

    def _patiently(
        self, connection: sqlite3.Connection, sql: str, parameters: tuple[object, ...] = ()
    ) -> sqlite3.Cursor:
        """Run what has to wait for other processes, and had no effect while it did.

        SQLite's own waiting sleeps longer each time, so whoever has waited long goes on waiting while newcomers get the
        lock; and some statements it does not wait for at all. Short random naps are fair, and faster too.
        """
        try:
            return connection.execute(sql, parameters)
        except sqlite3.OperationalError as e:
            if code_of(e) != sqlite3.SQLITE_BUSY:
                raise
        began = time.monotonic()
        while True:
            waited = time.monotonic() - began
            time.sleep(random.uniform(0, min(0.001 + waited / 50, 0.02)))
            try:
                return connection.execute(sql, parameters)
            except sqlite3.OperationalError as e:
                if code_of(e) != sqlite3.SQLITE_BUSY or waited > self.lock_timeout:
                    raise

    # reading

    def fetch(self, sql: str, parameters: tuple[object, ...], take: Callable[[sqlite3.Cursor], T]) -> T:
        """Run a query and give what `take` takes of its rows."""
        if self.path is None:
            with self.lock:
                return self._take(self.open(), sql, parameters, take)
        try:
            connection = self.idle.pop()
        except IndexError:
            self.open()
            with self.connecting:
                connection = self.connect()
        try:
            return self._take(connection, sql, parameters, take)
        finally:
            self.idle.append(connection)
            if self.closed:
                self._close_idle()

    def _take(
        self,
        connection: sqlite3.Connection,
        sql: str,
        parameters: tuple[object, ...],
        take: Callable[[sqlite3.Cursor], T],
    ) -> T:
        try:
            return take(connection.execute(sql, parameters))
        except sqlite3.Error as e:
            raise self.error(e) from e

    # writing

    def _lock(self) -> threading.RLock:
        lock = self.lock
        if not lock.acquire(timeout=self.lock_timeout):
            raise Conflict(
                f"{self.name}: another thread has been writing for more than {self.lock_timeout:g} s; nothing was "
                "written. Try again, or raise lock_timeout"
            )
        return lock

    def write(self, sql: str, parameters: tuple[object, ...]) -> int:
        """Run one statement, in the transaction if there is one, and else as one. Gives how many rows it changed."""
        lock = self._lock()
        try:
            return self._patiently(self.open(), sql, parameters).rowcount
        except sqlite3.Error as e:
            raise self.error(e, writing=True) from e
        finally:
            lock.release()

    def read(self, writer: sqlite3.Connection, sql: str, parameters: tuple[object, ...]) -> list[Any]:
        """Run a query inside a transaction."""
        self._check_mine(writer)
        return self._take(writer, sql, parameters, rows)

    def write_many(self, writer: sqlite3.Connection, sql: str, rows: Iterable[tuple[object, ...]]) -> None:
        """Run one statement for each row, inside a transaction."""
        self._check_mine(writer)
        try:
            writer.executemany(sql, rows)
        except sqlite3.Error as e:
            raise self.error(e) from e

    @contextmanager
    def transaction(self) -> Iterator[sqlite3.Connection]:
        """All that is written inside, or nothing; inside another one, all of this part. Gives what writes."""
        lock = self._lock()
        try:
            writer = self.open()
            inner = writer.in_transaction
            begin, end, undo = _SAVEPOINT if inner else _TRANSACTION
            try:
                self._control(writer, begin)
                yield writer
                self._control(writer, end, writing=not inner)
            except BaseException:
                if writer.in_transaction and writer is self.writer:  # not where SQLite rolled back, nor after a fork
                    with suppress(sqlite3.Error):
                        writer.execute(undo)
                        if inner:
                            writer.execute(end)
                raise
        finally:
            lock.release()

    def _check_mine(self, writer: sqlite3.Connection) -> None:
        if writer is not self.writer:
            raise BackendError(f"{self.name}: the process was forked inside an update, or the store was closed there")

    def _control(self, writer: sqlite3.Connection, sql: str, *, writing: bool = False) -> None:
        self._check_mine(writer)
        try:
            self._patiently(writer, sql)
        except sqlite3.Error as e:
            raise self.error(e, writing=writing) from e

    def batch(self, calls: list[Call]) -> None:
        """Run the calls in one transaction; each fails alone, but they are written together or not at all."""
        if len(calls) == 1:
            calls[0].execute()
            return
        try:
            with self.transaction():
                for call in calls:
                    call.execute()
                    if call.error and not self.open().in_transaction:  # SQLite itself has rolled all of it back
                        raise call.error
        except BaseException as e:
            for call in calls:
                call.error = e

    # keeping

    def cleanup(self, limit: int | None = None) -> int:
        removed, now = 0, wall_ms()
        while limit is None or removed < limit:
            batch = PAGE if limit is None else min(PAGE, limit - removed)
            count = self.write(_CLEANUP, (now, batch))
            removed += count
            if count < batch:
                break
        return removed

    def compact(self) -> None:
        lock = self._lock()
        try:
            writer = self.open()
            self._patiently(writer, "VACUUM")
            writer.execute(f"PRAGMA busy_timeout = {self.lock_timeout * 1000:.0f}")  # for readers to leave the log
            writer.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchall()
            writer.execute("PRAGMA busy_timeout = 0")
        except sqlite3.Error as e:
            raise self.error(e, writing=True) from e
        finally:
            lock.release()

    def disk_bytes(self) -> int | None:
        if self.path is None:
            return None
        size = 0
        for suffix in ("", "-wal", "-shm"):
            with suppress(FileNotFoundError):
                size += os.stat(self.path + suffix).st_size
        return size

    def verify(self) -> list[str]:
        found: list[str] = []

        def read(cursor: sqlite3.Cursor) -> None:
            for number, namespace, key, age, kind, _ in cursor:
                wrong = [] if age in ("null", "integer") else [f"a deadline of type {age}"]
                if kind != "blob":
                    wrong.append(f"a value of type {kind}")
                try:
                    check_key(key)
                    check_path(namespace.split(SEPARATOR) if namespace else ())
                except (KVError, AttributeError) as e:
                    wrong.append(str(e))
                found.extend(f"row {number}, namespace {namespace!r}, key {key!r}: {what}" for what in wrong)

        try:
            found += [line for (line,) in self.fetch("PRAGMA integrity_check", (), rows) if line != "ok"]
            self.fetch(_EVERY, (), read)
        except CorruptData as e:
            found.append(str(e))
        return found

    def backup(self, path: str) -> None:
        if os.path.exists(path):
            raise ConfigError(f"{path} exists; a backup goes to a new file")
        part = f"{path}.part"
        with suppress(FileNotFoundError):
            os.remove(part)
        try:
            target = sqlite3.connect(part)
            try:
                self.fetch("SELECT 1", (), lambda cursor: cursor.connection.backup(target))
            finally:
                target.close()
            os.replace(part, path)
        except sqlite3.Error as e:
            raise self.error(e) from e
        finally:
            with suppress(FileNotFoundError):
                os.remove(part)

    # ending

    def close(self) -> None:
        with self.lock:
            self.closed = True
            cleaner, self.cleaner = self.cleaner, None
            writer, self.writer = self.writer, None
            self.writing.clear()
            if writer is not None:
                self._drop(writer)
            self._close_idle()
        if cleaner:
            cleaner.stop()

    def _close_idle(self) -> None:
        while True:
            try:
                connection = self.idle.pop()
            except IndexError:
                return
            self._drop(connection)

    def before_fork(self) -> None:
        # The child has SQLite's own locks as they are at the fork: so no other thread may be inside SQLite then.
        end = time.monotonic() + _FORK_WAIT
        self.connecting.acquire()
        self.held = self.lock.acquire(timeout=_FORK_WAIT)
        while self.held and len(self.every) > len(self.writing) + len(self.resting) and time.monotonic() < end:
            try:
                self.resting.append(self.idle.pop())
            except IndexError:
                time.sleep(0.001)

    def after_fork(self, *, child: bool) -> None:
        self.idle.extend(self.resting)
        self.resting.clear()
        self.connecting.release()
        if self.held:
            self.lock.release()
        if child and self.path is not None:  # a copy of memory is a store of its own
            # SQLite forbids to use a connection in a child, and even to close it there: they are leaked on purpose.
            _leak(self.every)
            self.idle.clear()
            self.writing.clear()
            self._begin()
        if child:
            self.cleaner = None

    # what went wrong

    def error(self, error: sqlite3.Error, *, writing: bool = False) -> KVError:
        """Give our error for one of SQLite's."""
        code = code_of(error)
        if isinstance(error, sqlite3.ProgrammingError) and "closed database" in str(error):
            return StoreClosed(f"the store {self.name} is closed; open a new one")
        if code in (sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED):
            return Conflict(
                f"{self.name}: another process has kept the file locked for more than {self.lock_timeout:g} s; nothing "
                "was written. Try again, or raise lock_timeout"
            )
        if code == sqlite3.SQLITE_FULL:
            return Unavailable(f"{self.name}: the disk is full; nothing was written. Free some space and try again")
        if code == sqlite3.SQLITE_READONLY:
            return Unavailable(
                f"{self.name} is read-only here; nothing was written. See the permissions of the file and its directory"
            )
        if code in (sqlite3.SQLITE_CANTOPEN, sqlite3.SQLITE_PERM, sqlite3.SQLITE_AUTH):
            return Unavailable(
                f"{self.name} cannot be opened; see the path, its permissions and the limit of open files"
            )
        if code == sqlite3.SQLITE_NOTADB:
            return CorruptData(f"{self.name} is not a SQLite database; it was left untouched. Is the path right?")
        if code == sqlite3.SQLITE_CORRUPT:
            return CorruptData(f"{self.name} is damaged ({error}); restore a backup, or see what `kv verify` names")
        if code == sqlite3.SQLITE_TOOBIG:
            return ValueTooLarge(
                f"{self.name}: SQLite holds values up to {self.max_value:,} bytes; nothing was written"
            )
        if code == sqlite3.SQLITE_IOERR and writing:
            return OutcomeUnknown(f"{self.name}: the disk failed during a commit ({error}); read before you try again")
        return BackendError(f"{self.name}: SQLite says: {error}")


def _close_unused(lock: threading.RLock, idle: deque[sqlite3.Connection], writing: list[sqlite3.Connection]) -> None:
    """Close what nobody closed, when the store is garbage or the interpreter ends."""
    while idle:
        idle.pop().close()
    # At the end of the interpreter a thread may still be writing, and to close its connection would crash.
    if writing and lock.acquire(blocking=False):
        writing.pop().close()
        lock.release()


def _leak(connections: list[sqlite3.Connection]) -> None:
    """Keep the objects for ever, even through the end of the interpreter."""
    import ctypes

    for connection in connections:
        ctypes.pythonapi.Py_IncRef(ctypes.py_object(connection))
