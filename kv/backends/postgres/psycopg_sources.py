"""Where the sync store's connections come from: our own, or a pool or a connection of somebody else. psycopg 3."""

from __future__ import annotations

import math
import time
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING, Any, Protocol, TypeVar

import psycopg
from psycopg.conninfo import conninfo_to_dict
from psycopg.pq import PipelineStatus, TransactionStatus
from psycopg.rows import tuple_row
from psycopg.types.array import ListBinaryDumper

from kv.backends import pools
from kv.errors import BackendError, ConfigError

from .address import for_psycopg
from .errors import connecting
from .framing import INNER, JOINED, OURS, Frame, Overtaken, guarded, settle

if TYPE_CHECKING:
    from collections.abc import Callable, Generator, Iterator

    from kv.backends.pools import Life

    from .parts import Settings
    from .rows import Step

    Connection = psycopg.Connection[Any]

T = TypeVar("T")

_PIPELINES = psycopg.Pipeline.is_supported()


def affected(cursor: psycopg.Cursor[Any]) -> int:
    return cursor.rowcount


def rows(cursor: psycopg.Cursor[Any]) -> list[Any]:
    return cursor.fetchall() if cursor.description else []


def first(cursor: psycopg.Cursor[Any]) -> Any:
    return cursor.fetchone()


class Silent(psycopg.OperationalError, TimeoutError):
    """The server has said nothing for too long."""


class OwnConnection(psycopg.Connection[Any]):
    """A connection of our own: it is closed where nothing moves on it for longer than `longest` seconds."""

    longest = math.inf

    def wait(self, gen: Generator[Any, Any, T], *args: Any, **kwargs: Any) -> T:
        return super().wait(self._bounded(gen), *args, **kwargs)

    def _bounded(self, gen: Generator[Any, Any, T]) -> Generator[Any, Any, T]:
        try:
            asks = next(gen)
            end = time.monotonic() + self.longest
            while True:
                ready = yield asks
                if ready:
                    end = time.monotonic() + self.longest
                elif time.monotonic() > end:
                    self.close()  # or leaving a pipeline would wait again
                    raise Silent
                asks = gen.send(ready)
        except StopIteration as e:
            result: T = e.value
            return result


@contextmanager
def unbounded(connection: Connection) -> Iterator[None]:
    """Let it wait as long as it takes."""
    if not isinstance(connection, OwnConnection):
        yield
        return
    longest, connection.longest = connection.longest, math.inf
    try:
        yield
    finally:
        connection.longest = longest


class Session(pools.Session):
    """A connection in the hands of one operation, and the cursor that all its statements go through."""

    connection: Connection
    ended: Callable[[], bool]
    """Whether the server has ended the connection."""

    def __init__(self, connection: Connection | None = None, frame: Frame = OURS) -> None:
        self.frame = frame
        self.committing = False
        self.error: BaseException | None = None  # that came from the driver, inside a transaction
        if connection is not None:
            self.use(connection)

    def use(self, connection: Connection) -> None:
        """Take the connection."""
        self.connection = connection
        self.cursor = psycopg.RawCursor(connection, row_factory=tuple_row)  # whatever the connection's own is
        self.cursor.format = psycopg.pq.Format.BINARY
        self.cursor.adapters.register_dumper(list, ListBinaryDumper)
        self.execute: Any = self.cursor.execute  # psycopg's type would take literals only
        self._tell: Any = psycopg.RawCursor(connection).execute

    @property
    def _pipelined(self) -> bool:
        """Whether two statements may travel together: not where one of them is two."""
        return self.frame is OURS and _PIPELINES

    def disconnect(self) -> None:
        """Close the connection, if it was ever made."""
        if "connection" in vars(self):
            self.connection.close()

    def single(self, step: Step, take: Callable[[psycopg.Cursor[Any]], T]) -> T:
        """Run one statement in a transaction of its own."""
        result = self.begin(step, take)
        self.commit()
        return result

    def begin(self, step: Step, take: Callable[[psycopg.Cursor[Any]], T]) -> T:
        """Begin a transaction with a statement: one round trip."""
        self.committing, self.error = False, None
        if not self._pipelined:
            self._begin()
            return self.run(step, take)
        self.check_mine()
        try:
            with self.connection.pipeline():
                self._tell(self.frame.begin, prepare=False)
                self.execute(*step)
            return take(self.cursor)
        except psycopg.Error as e:
            self.error = e
            raise

    def _begin(self) -> None:
        if self.frame.joins or self.connection.autocommit:
            self._control(self.frame.begin)
        else:  # psycopg begins by itself
            self._control("SET TRANSACTION ISOLATION LEVEL READ COMMITTED")
            self._control(self.frame.begin.partition("; ")[2])

    def run(self, step: Step, take: Callable[[psycopg.Cursor[Any]], T]) -> T:
        """Run a statement inside the transaction."""
        self.check_mine()
        try:
            self.execute(*step)
            return take(self.cursor)
        except psycopg.Error as e:
            self.error = e
            raise

    def commit(self, step: Step | None = None) -> None:
        """End the transaction, with a last statement that has to change one row: one round trip.

        Raises:
            Overtaken: it changed none.
        """
        if step is None or not self._pipelined:
            if step is not None and self.run(step, affected) != 1:
                raise Overtaken
            if self.connection.info.transaction_status == TransactionStatus.INERROR:
                raise BackendError("a call inside the function given to update has failed; nothing was written")
            self.committing = not self.frame.joins
            self._control(self.frame.commit)
            return
        self.check_mine()
        self.committing = True
        try:
            with self.connection.pipeline():
                self.execute(*step)
                self._tell(self.frame.commit, prepare=False)
        except psycopg.Error as e:
            self.error = e
            raise
        if self.cursor.rowcount != 1:
            raise Overtaken

    def rollback(self) -> None:
        """Undo what the transaction has done; where even that fails, the connection will be closed."""
        with suppress(psycopg.Error, BackendError):
            if self.connection.info.transaction_status in (TransactionStatus.INTRANS, TransactionStatus.INERROR):
                self._control(self.frame.rollback)

    def _control(self, sql: str) -> None:
        self.check_mine()
        try:
            self._tell(sql, prepare=False)
        except psycopg.Error as e:
            self.error = e
            raise

    def fresh(self) -> bool:
        """Whether the connection is open, before anything is sent that nobody would know the fate of."""
        return not self.ended()


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

    def drop(self, session: Session, error: BaseException | None) -> None:
        """Take it back after an error."""

    def close(self) -> None:
        """Close what was opened here."""


def told(url: str, shown: str) -> dict[str, Any]:
    """What psycopg is told besides the URL; `ConfigError` where libpq does not read that, whose words hold all of it."""
    with suppress(psycopg.ProgrammingError):
        conninfo_to_dict(url)
        return for_psycopg(url)
    raise ConfigError(f"{shown} is no URL of libpq; see its host, its port, and what stands after the ?")


class Own(pools.Pool[Session]):
    """Connections of our own.

    Not psycopg's pool: it would connect in other threads, which hides why one cannot connect, and its callers would
    wait for its timeout instead of hearing it.
    """

    joined = False
    silence = Silent

    def __init__(self, settings: Settings, life: Life) -> None:
        super().__init__(Session, shown=settings.shown, most=settings.most, timeout=settings.timeout, life=life)
        self.url = settings.url or ""
        self.told = told(self.url, settings.shown)
        self.longest = settings.longest

    def _connect(self, session: Session) -> None:
        try:
            connection = OwnConnection.connect(self.url, autocommit=True, **self.told)
        except (psycopg.Error, OSError) as e:
            raise connecting(e, self.shown) from e
        try:
            connection.longest = self.longest
            session.use(connection)
            session.ended = pools.watched(connection.fileno())
            session.execute(settle(connection.info.backend_pid, self.timeout), prepare=False)
        except psycopg.Error as e:
            connection.close()
            raise connecting(e, self.shown) from e
        except BaseException:
            connection.close()
            raise
        if session.cursor.rowcount == 0:
            session.frame = guarded(self.timeout)
            connection.prepare_threshold = None  # a prepared statement would be on another server

    def drop(self, session: Session, error: BaseException | None) -> None:
        if session.foreign:
            return
        connection = session.connection
        if (
            (error is None or isinstance(error, Exception))  # else an interrupt, which may have come at any point
            and connection.info.transaction_status == TransactionStatus.IDLE
            and connection.pgconn.pipeline_status == PipelineStatus.OFF
            and session.fresh()
        ):
            self.give(session)
        else:
            self.end(session, error)


def checked(connection: Connection, shown: str) -> Connection:
    """Give somebody else's connection back, or raise `ConfigError` where it cannot be used."""
    if connection.info.encoding != "utf-8":
        raise ConfigError(f"{shown}: the connection's client_encoding is {connection.info.encoding}; keys need UTF8")
    if connection.pgconn.pipeline_status != PipelineStatus.OFF:
        raise ConfigError(f"{shown}: the connection is in pipeline mode, in which no answer comes at once")
    return connection


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
            connection = self._pool.getconn()
        except Exception as e:  # the pool's own errors are psycopg's too
            raise connecting(e, self._shown) from e
        try:
            return Session(checked(connection, self._shown), self._frame)
        except BaseException:
            self._pool.putconn(connection)
            raise

    def give(self, session: Session) -> None:
        self._pool.putconn(session.connection)

    def drop(self, session: Session, error: BaseException | None) -> None:
        if error is not None and not isinstance(error, Exception):
            session.connection.close()  # which a pool replaces
        self.give(session)

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
        connection = checked(self._connection, "the bound store")
        return Session(connection, JOINED if self.joined else self._frame)

    def give(self, session: Session) -> None:
        pass

    def drop(self, session: Session, error: BaseException | None) -> None:
        pass

    def close(self) -> None:
        pass


class Inner(Bound):
    """The connection of an update, while `fn` runs."""

    def __init__(self, session: Session, life: Life, timeout: float) -> None:
        super().__init__(session.connection, life, timeout)
        self._session = session
        self.used = False

    def take(self) -> Session:
        self._session.check_mine()
        self.used = True
        self._life.check_open()
        return Session(self._connection, INNER)
