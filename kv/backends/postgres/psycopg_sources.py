"""Where the sync store's connections come from: our own, or a pool or a connection of somebody else. psycopg 3."""

from __future__ import annotations

import select
import threading
import time
import weakref
from collections import deque
from contextlib import suppress
from typing import TYPE_CHECKING, Any, Protocol, TypeVar

from kv.backends.forking import concerns, leak
from kv.errors import BackendError, Unavailable

from .address import for_psycopg
from .errors import connecting, no_driver
from .framing import JOINED, OURS, Frame, Life, guarded, settle

try:
    import psycopg
    from psycopg.pq import TransactionStatus
except ImportError as e:
    raise no_driver("psycopg", e) from e

if TYPE_CHECKING:
    from collections.abc import Callable

    from .parts import Settings
    from .rows import Step

    Connection = psycopg.Connection[Any]

T = TypeVar("T")


def affected(cursor: psycopg.Cursor[Any]) -> int:
    return cursor.rowcount


def rows(cursor: psycopg.Cursor[Any]) -> list[Any]:
    return cursor.fetchall() if cursor.description else []


def first(cursor: psycopg.Cursor[Any]) -> Any:
    return cursor.fetchone()


class Session:
    """A connection in the hands of one operation, and the cursor that all its statements go through."""

    connection: Connection

    def __init__(self, connection: Connection | None = None, frame: Frame = OURS) -> None:
        self.frame = frame
        self.committing = False
        self.error: BaseException | None = None  # that came from the driver, inside a transaction
        self.foreign = False  # of a parent process
        if connection is not None:
            self.use(connection)

    def use(self, connection: Connection) -> None:
        """Take the connection."""
        self.connection = connection
        self.cursor = psycopg.RawCursor(connection)
        self.cursor.format = psycopg.pq.Format.BINARY
        self.execute: Any = self.cursor.execute  # psycopg's type would take literals only
        self._tell: Any = psycopg.RawCursor(connection).execute
        self.pipelined = self.frame is OURS and psycopg.Pipeline.is_supported()

    def single(self, step: Step, take: Callable[[psycopg.Cursor[Any]], T]) -> T:
        """Run one statement in a transaction of its own."""
        result = self.begin(step, take)
        self.commit()
        return result

    def begin(self, step: Step, take: Callable[[psycopg.Cursor[Any]], T]) -> T:
        """Begin a transaction with a statement: one round trip."""
        self.committing = False
        if not self.pipelined:
            self._begin()
            return self.run(step, take)
        self._check_mine()
        try:
            with self.connection.pipeline():
                self._tell(self.frame.begin, prepare=False)
                self.execute(*step)
            return take(self.cursor)
        except psycopg.Error as e:
            self.error = e
            raise

    def _begin(self) -> None:
        if self.frame is JOINED or self.connection.autocommit:
            self._control(self.frame.begin)
        else:  # psycopg begins by itself
            self._control("SET TRANSACTION ISOLATION LEVEL READ COMMITTED")
            self._control(self.frame.begin.partition("; ")[2])

    def run(self, step: Step, take: Callable[[psycopg.Cursor[Any]], T]) -> T:
        """Run a statement inside the transaction."""
        self._check_mine()
        try:
            self.execute(*step)
            return take(self.cursor)
        except psycopg.Error as e:
            self.error = e
            raise

    def commit(self, step: Step | None = None) -> int:
        """End the transaction, with a last statement: one round trip. Gives how many rows that has changed."""
        if step is None or not self.pipelined:
            count = 0 if step is None else self.run(step, affected)
            self.committing = self.frame is not JOINED
            self._control(self.frame.commit)
            return count
        self._check_mine()
        self.committing = True
        try:
            with self.connection.pipeline():
                self.execute(*step)
                self._tell(self.frame.commit, prepare=False)
        except psycopg.Error as e:
            self.error = e
            raise
        return self.cursor.rowcount

    def rollback(self) -> None:
        """Undo what the transaction has done; where even that fails, the connection will be closed."""
        with suppress(psycopg.Error, BackendError):
            if self.connection.info.transaction_status in (TransactionStatus.INTRANS, TransactionStatus.INERROR):
                self._control(self.frame.rollback)

    def _control(self, sql: str) -> None:
        self._check_mine()
        try:
            self._tell(sql, prepare=False)
        except psycopg.Error as e:
            self.error = e
            raise

    def _check_mine(self) -> None:
        if self.foreign:
            raise BackendError("the process was forked inside an update, which goes on in the parent only")

    def watch(self) -> None:
        """Be able to see whether the server has ended the connection."""
        self._poll = select.poll() if hasattr(select, "poll") else None
        if self._poll:
            self._poll.register(self.connection.fileno(), select.POLLIN)

    def fresh(self) -> bool:
        """Whether the connection is open, before anything is sent that nobody would know the fate of."""
        return not self._poll.poll(0) if self._poll else not select.select([self.connection], [], [], 0)[0]


class Source(Protocol):
    """Where sessions come from."""

    @property
    def joined(self) -> bool:
        """Whether operations join a transaction that somebody else has begun."""
        ...

    def take(self) -> Session:
        """Give a session, for one operation."""
        ...

    def give(self, session: Session) -> None:
        """Take it back."""

    def drop(self, session: Session) -> None:
        """Take it back after an error."""

    def close(self) -> None:
        """Close what was opened here."""


class Own:
    """Connections of our own, the one used last first, so that none is more than what is needed.

    Not psycopg's pool: it would connect in other threads, which hides why one cannot connect, and its callers would
    wait for its timeout instead of hearing it.
    """

    joined = False

    def __init__(self, settings: Settings, life: Life) -> None:
        self.life = life
        self.url = settings.url or ""
        self.shown = settings.shown
        self.least = settings.least
        self.most = settings.most
        self.timeout = settings.timeout
        self.told = for_psycopg(self.url)
        self._begin()
        concerns(self)

    def _begin(self) -> None:
        self.idle: deque[Session] = deque()
        self.every: weakref.WeakSet[Session] = weakref.WeakSet()  # also those at work; one that an interrupt lost goes
        self.changed = threading.Condition()  # protects `every`, and wakes who waits
        self.waiting = 0
        weakref.finalize(self, _close_idle, self.idle)

    def take(self) -> Session:
        while True:
            try:
                session = self.idle.pop()
            except IndexError:
                return self._another()
            if session.fresh():
                return session
            self.drop(session)

    def _another(self) -> Session:
        end = time.monotonic() + self.timeout
        with self.changed:
            self.waiting += 1
            try:
                while True:
                    self.life.check_open()
                    with suppress(IndexError):
                        return self.idle.pop()
                    if len(self.every) < self.most:
                        session = Session()
                        self.every.add(session)
                        break
                    # a second at most: a session that an interrupt lost wakes nobody
                    if not self.changed.wait(min(1.0, end - time.monotonic())) and time.monotonic() >= end:
                        raise Unavailable(
                            f"{self.shown}: all {self.most} connections have been busy for {self.timeout:g} s; nothing "
                            "was done. Try again, or raise pool_max"
                        )
            finally:
                self.waiting -= 1
        try:
            self._connect(session)
        except BaseException:
            self.drop(session)
            raise
        return session

    def _connect(self, session: Session) -> None:
        try:
            connection = psycopg.connect(self.url, autocommit=True, **self.told)
        except (psycopg.Error, OSError) as e:
            raise connecting(e, self.shown) from e
        try:
            session.use(connection)
            session.watch()
            session.execute(settle(connection.info.backend_pid, self.timeout))
            direct, _ = first(session.cursor)
        except psycopg.Error as e:
            connection.close()
            raise connecting(e, self.shown) from e
        except BaseException:
            connection.close()
            raise
        if not direct:
            session.frame = guarded(self.timeout)
            connection.prepare_threshold = None  # a prepared statement would be on another server

    def give(self, session: Session) -> None:
        self.idle.append(session)
        if self.waiting:
            with self.changed:
                self.changed.notify()
        if self.life.closed:
            _close_idle(self.idle)

    def drop(self, session: Session) -> None:
        connection = getattr(session, "connection", None)
        if connection is not None and not session.foreign:
            if connection.info.transaction_status == TransactionStatus.IDLE and session.fresh():
                self.give(session)
                return
            connection.close()
        with self.changed:
            self.every.discard(session)
            self.changed.notify()

    def warm(self) -> None:
        """Connect as often as `pool_min` says."""
        sessions = [self.take() for _ in range(max(1, self.least))]
        for session in sessions:
            self.give(session)

    def close(self) -> None:
        with self.changed:
            self.changed.notify_all()
        _close_idle(self.idle)

    def before_fork(self) -> None:
        self.changed.acquire()

    def after_fork(self, *, child: bool) -> None:
        self.changed.release()
        if child:
            for session in self.every:
                session.foreign = True
            # to close them, or to free them, would end the parent's
            leak([s.connection for s in self.every if hasattr(s, "connection")], [*self.every])
            self.idle.clear()
            self._begin()


def _close_idle(idle: deque[Session]) -> None:
    """Close what nobody uses; also what nobody closed, when the store is garbage or the interpreter ends."""
    with suppress(IndexError):
        while True:
            idle.pop().connection.close()


class Borrowed:
    """Connections of somebody else's pool."""

    joined = False

    def __init__(self, pool: Any, settings: Settings, life: Life) -> None:
        self._pool = pool
        self._shown = settings.shown
        self._life = life
        self._frame = guarded(settings.timeout)

    def take(self) -> Session:
        self._life.check_open()
        try:
            return Session(self._pool.getconn(), self._frame)
        except Exception as e:  # the pool's own errors are psycopg's too
            raise connecting(e, self._shown) from e

    def give(self, session: Session) -> None:
        self._pool.putconn(session.connection)

    drop = give

    def close(self) -> None:
        pass


class Bound:
    """One connection of somebody else, and the transaction that is on it."""

    def __init__(self, connection: Connection, life: Life, timeout: float) -> None:
        self._connection = connection
        self._life = life
        self._frame = guarded(timeout)

    @property
    def joined(self) -> bool:
        idle = self._connection.info.transaction_status == TransactionStatus.IDLE
        return not (idle and self._connection.autocommit)

    def take(self) -> Session:
        self._life.check_open()
        return Session(self._connection, JOINED if self.joined else self._frame)

    def give(self, session: Session) -> None:
        pass

    drop = give

    def close(self) -> None:
        pass


class Inner(Bound):
    """The connection of an update, while `fn` runs."""

    used = False

    def take(self) -> Session:
        self.used = True
        return super().take()
