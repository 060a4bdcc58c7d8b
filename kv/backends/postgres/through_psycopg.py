"""What the sync store asks of the database, through psycopg 3. What the driver raises becomes ours here."""

from __future__ import annotations

import threading
import time
from contextlib import nullcontext, suppress
from typing import TYPE_CHECKING, Any, NoReturn, TypeVar

import psycopg

from kv.backends.cleaner import Cleaner, in_batches
from kv.backends.forking import concerns
from kv.backends.pools import Life
from kv.errors import BackendError, ConfigError

from .errors import made_too, ours
from .framing import OURS, Overtaken, Patience, unmasked
from .psycopg_sources import Borrowed, Bound, Inner, Own, Session, Source, affected, first, rows, unbounded
from .statements import BATCH

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from kv.expiry import Ages
    from kv.values import ManyFn

    from .parts import Settings
    from .rows import Rows, Step

T = TypeVar("T")


class _Inside(threading.local):
    """Where this thread does what it is asked while it runs `fn` of an update: inside that one's transaction."""

    at: Inner | None = None


class Database:
    """What a store asks: each method is an operation, or, of `transaction`, what is inside one."""

    def __init__(self, source: Source, settings: Settings, life: Life) -> None:
        self.source = source
        self.settings = settings
        self.shown = settings.shown
        self.timeout = settings.timeout
        self.life = life
        self.check_open = life.check_open
        self.cleaner: Cleaner | None = None
        self._inside = _Inside()

    def start(self) -> None:
        """Connect, and find the table, or make it."""
        settings = self.settings
        if isinstance(self.source, Own):
            self.source.warm(settings.least)
        if settings.missing(self.rows(settings.look)[0]):
            try:
                self.alone(settings.table.creation)
            except BackendError as e:
                if not made_too(e.__cause__):
                    raise
            if settings.missing(self.rows(settings.look)[0]):
                raise settings.table.missing(self.shown)

    def value(self, step: Step) -> Any:
        """Read the first column of the first row; None where there is none."""
        row = self._perform(step, first, writing=False)
        return None if row is None else row[0]

    def rows(self, step: Step) -> list[Any]:
        """Read all rows."""
        return self._perform(step, rows, writing=False)

    def write(self, step: Step) -> int:
        """Run a statement that writes. Gives how many rows it changed."""
        return self._perform(step, affected, writing=True)

    def returned(self, step: Step) -> Any:
        """Run a statement that writes, and give the first row that it returns, or None."""
        return self._perform(step, first, writing=True)

    def _perform(self, step: Step, take: Callable[[psycopg.Cursor[Any]], T], *, writing: bool) -> T:
        patience: Patience | None = None
        while True:
            source = self._inside.at or self.source
            session = source.take()
            try:
                if session.frame.single:
                    result = session.single(step, take)
                else:
                    session.execute(*step)
                    result = take(session.cursor)
            except BaseException as e:
                try:
                    if session.frame.single:
                        session.rollback()
                finally:
                    source.drop(session, e)
                if (interrupt := unmasked(e)) is not e:
                    raise interrupt from None
                patience = patience or Patience(self.timeout)
                wait = patience.again(e, joined=session.frame.joins, idempotent=not writing)
                if wait is None:  # what joins a transaction, or has not come to its own commit, is undone with it
                    self._raise(e, writing=writing and (session.frame is OURS or session.committing))
            else:
                source.give(session)
                return result
            time.sleep(wait)

    def _transaction(self, work: Callable[[Session], T]) -> T:
        """Do the work, which begins and commits a transaction, again where another one was faster."""
        patience = Patience(self.timeout)
        outside = self._inside.at
        while True:
            source = outside or self.source
            session = source.take()
            inner = Inner(session, self.life, self.timeout)
            try:
                try:
                    self._inside.at = inner
                    result = work(session)
                finally:
                    self._inside.at = outside
            except BaseException as e:
                error = session.error
                try:
                    session.rollback()
                finally:
                    source.drop(session, e)
                if (interrupt := unmasked(e)) is not e:
                    raise interrupt from None
                overtaken = isinstance(e, Overtaken)
                if e is not error and not overtaken:  # of `fn`, or of a signal handler
                    raise
                wait = None if overtaken and inner.used else patience.again(e, joined=session.frame.joins)
                if wait is None and overtaken:
                    raise patience.conflict(self.shown) from None
                if wait is None:
                    self._raise(e, writing=session.committing)
            else:
                source.give(session)
                return result
            time.sleep(wait)

    def update(self, at: Rows, keys: list[str], fn: ManyFn, ages: Ages) -> dict[str, bytes]:
        """Give `fn` what is live, and store what it answers, with the rows locked from before it until after that."""

        def one(session: Session) -> dict[str, bytes]:
            found = session.begin((at.sql.lock, at.one(keys[0])), rows)
            live = bool(found) and found[0][1]
            answer = fn({keys[0]: found[0][0]} if live else {})
            session.commit(at.changed(keys[0], live, answer, ages))
            return answer

        def many(session: Session) -> dict[str, bytes]:
            every = at.ordered(keys)
            asked = at.many(every)
            session.begin((at.sql.lock_many, asked), rows)
            found = dict(session.run((at.sql.read_many, asked), rows))
            live = {key: found[key] for key in keys if key in found}
            answer = fn(live)
            for step, count in at.all_changed(every, live, answer, ages):
                if session.run(step, affected) != count:
                    raise Overtaken
            session.commit()
            return answer

        return self._transaction(one if len(keys) == 1 else many)

    def store(self, steps: Sequence[Step]) -> None:
        """Run statements that write, all or none of them."""
        if len(steps) == 1:
            self.write(steps[0])
            return

        def work(session: Session) -> None:
            session.begin(steps[0], affected)
            for step in steps[1:]:
                session.run(step, affected)
            session.commit()

        self._transaction(work)

    def alone(self, sql: str, *, bounded: bool = True) -> None:
        """Run what returns nothing as it is: several statements, or one that no transaction may hold."""
        source = self._inside.at or self.source
        session = source.take()
        flip = not (session.frame.joins or session.connection.autocommit)
        try:
            if flip:
                session.connection.autocommit = True
            with nullcontext() if bounded else unbounded(session.connection):
                session._control(sql)
        except BaseException as e:
            self._raise(e, writing=True)
        finally:
            if flip:
                with suppress(psycopg.Error):
                    session.connection.autocommit = False
            source.drop(session, None)

    def vacuum(self, sql: str) -> None:
        """Run what no transaction may hold."""
        if (self._inside.at or self.source).joined:
            raise ConfigError(f"{self.shown}: compact cannot run inside a transaction; call it on the store itself")
        self.alone(sql, bounded=False)

    def cleanup(self, limit: int | None = None) -> int:
        """Remove what has expired, in batches that are transactions each."""
        return in_batches(lambda batch: self.write((self.settings.sql.cleanup, (batch,))), BATCH, limit)

    def begin_cleaning(self) -> None:
        """Clean now and then, if the store is told to."""
        if self.settings.cleanup_interval is not None:
            self.cleaner = Cleaner(self, self.settings.cleanup_interval)
            concerns(self)

    def _raise(self, error: BaseException, *, writing: bool) -> NoReturn:
        if isinstance(error, psycopg.Error):
            table = self.settings.table.name
            raise ours(error, self.shown, self.timeout, writing=writing, table=table) from error
        raise error

    def close(self) -> None:
        self.life.closed = True
        self.source.close()
        if self.cleaner:
            self.cleaner.stop()

    def before_fork(self) -> None:
        pass

    def after_fork(self, *, child: bool) -> None:
        if child:
            self.cleaner = None


def open_database(server: Any, settings: Settings) -> Database:
    """Give the database behind a URL, a pool or a connection."""
    life = Life(settings.shown)
    source: Source
    if settings.url is not None:
        source = Own(settings, life)
    elif isinstance(server, psycopg.Connection):
        source = Bound(server, life, settings.timeout)
    elif hasattr(server, "getconn") and hasattr(server, "putconn"):
        source = Borrowed(server, settings, life)
    else:
        raise ConfigError(
            f"PostgresStore takes a URL, a psycopg connection or a pool of psycopg_pool, not {type(server).__name__}"
        )
    return Database(source, settings, life)


def bound(connection: Any, db: Database) -> Database:
    """Give the database on a connection of somebody else."""
    if not isinstance(connection, psycopg.Connection):
        raise ConfigError(f"bind takes a psycopg connection, not {type(connection).__name__}")
    return Database(Bound(connection, db.life, db.timeout), db.settings, db.life)
