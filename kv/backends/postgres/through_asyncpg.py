"""What the async store asks of the database, through asyncpg. What the driver raises becomes ours here."""

from __future__ import annotations

import asyncio
import math
import weakref
from typing import TYPE_CHECKING, Any, NoReturn, TypeVar

import asyncpg

from kv.backends.cleaner import Cleaner
from kv.backends.gathering import Opening
from kv.backends.pools import Life
from kv.errors import BackendError, ConfigError

from .asyncpg_sources import DRIVER_ERRORS, Borrowed, Bound, Own, Session, Source, affected, first, rows, value
from .errors import made_too, ours
from .framing import OURS, Overtaken, Patience
from .statements import BATCH
from .together import Together

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Sequence

    from kv.expiry import Ages
    from kv.values import ManyFn

    from .asyncpg_sources import Connection
    from .parts import Settings
    from .rows import Rows, Step

T = TypeVar("T")


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
        # what many tasks may share; not inside a transaction of somebody else's
        shared = None if isinstance(source, Bound) else Together(self)
        self.get = shared.get if shared else self.value
        self.set = shared.set if shared else self.write
        self.increment = shared.increment if shared else self.returned
        self._opening: weakref.WeakKeyDictionary[asyncio.AbstractEventLoop, Opening] = weakref.WeakKeyDictionary()

    async def open(self) -> None:
        """Do what comes before the first operation."""
        self.check_open()
        await self._opening.setdefault(asyncio.get_running_loop(), Opening()).wait(self.life, self._start)

    async def _start(self) -> None:
        """Connect, and find the table, or make it."""
        settings = self.settings
        if isinstance(self.source, Own):
            await self.source.warm(settings.least)
        if settings.missing(await self._look()):
            try:
                await self.alone(settings.table.creation)
            except BackendError as e:
                if not made_too(e.__cause__):
                    raise
            if settings.missing(await self._look()):
                raise settings.table.missing(self.shown)

    async def _look(self) -> Any:
        found = await self._perform(self.settings.look, rows, writing=False, starting=True)
        return found[0]

    async def value(self, step: Step) -> Any:
        """Read the first column of the first row; None where there is none."""
        return await self._perform(step, value, writing=False)

    async def rows(self, step: Step) -> list[Any]:
        """Read all rows."""
        return await self._perform(step, rows, writing=False)

    async def write(self, step: Step) -> int:
        """Run a statement that writes. Gives how many rows it changed."""
        return await self._perform(step, affected, writing=True)

    async def returned(self, step: Step) -> Any:
        """Run a statement that writes, and give the first row that it returns, or None."""
        return await self._perform(step, first, writing=True)

    async def _perform(
        self, step: Step, run: Callable[[Connection, Step], Awaitable[T]], *, writing: bool, starting: bool = False
    ) -> T:
        source = self.source
        patience: Patience | None = None
        while True:
            if not (self.life.started or starting):
                await self.open()
            session = await source.take()
            try:
                if session.frame.single:
                    result = await session.single(step, run)
                else:
                    session.begins()
                    result = await run(session.connection, step)
            except BaseException as error:
                e = session.met(error)
                try:
                    if session.frame.single:
                        await session.rollback()
                    elif isinstance(e, asyncpg.InternalClientError | asyncpg.InterfaceError):
                        session.whole = False
                    elif isinstance(e, asyncio.CancelledError):
                        await session.settled()
                finally:
                    await source.give(session, e)
                patience = patience or Patience(self.timeout)
                wait = patience.again(e, joined=session.frame.joins, idempotent=not writing)
                if wait is None:  # what joins a transaction, or has not come to its own commit, is undone with it
                    self._raise(e, writing=writing and (session.frame is OURS or session.committing))
            else:
                await source.give(session)
                return result
            await asyncio.sleep(wait)

    async def _transaction(self, work: Callable[[Session], Awaitable[T]]) -> T:
        """Do the work, which begins and commits a transaction, again where another one was faster."""
        source = self.source
        patience = Patience(self.timeout)
        while True:
            if not self.life.started:
                await self.open()
            session = await source.take()
            try:
                result = await work(session)
            except BaseException as e:
                error = session.error
                try:
                    await session.rollback()
                finally:
                    await source.give(session, error)
                if e is not error and not isinstance(e, Overtaken):  # of `fn`, or a cancellation
                    raise
                wait = patience.again(e, joined=session.frame.joins)
                if wait is None:
                    if isinstance(e, Overtaken):
                        raise patience.conflict(self.shown) from None
                    self._raise(e, writing=session.committing)
            else:
                await source.give(session)
                return result
            await asyncio.sleep(wait)

    async def update(self, at: Rows, keys: list[str], fn: ManyFn, ages: Ages) -> dict[str, bytes]:
        """Give `fn` what is live, and store what it answers, with the rows locked from before it until after that."""

        async def one(session: Session) -> dict[str, bytes]:
            found = await session.begin((at.sql.lock, at.one(keys[0])), rows)
            live = bool(found) and found[0][1]
            answer = fn({keys[0]: found[0][0]} if live else {})
            await session.commit(at.changed(keys[0], live, answer, ages))
            return answer

        async def many(session: Session) -> dict[str, bytes]:
            every = at.ordered(keys)
            asked = at.many(every)
            await session.begin((at.sql.lock_many, asked), rows)
            found = dict(await session.run((at.sql.read_many, asked), rows))
            live = {key: found[key] for key in keys if key in found}
            answer = fn(live)
            for step, count in at.all_changed(every, live, answer, ages):
                if await session.run(step, affected) != count:
                    raise Overtaken
            await session.commit()
            return answer

        return await self._transaction(one if len(keys) == 1 else many)

    async def store(self, steps: Sequence[Step]) -> None:
        """Run statements that write, all or none of them."""
        if len(steps) == 1:
            await self.write(steps[0])
            return

        async def work(session: Session) -> None:
            await session.begin(steps[0], affected)
            for step in steps[1:]:
                await session.run(step, affected)
            await session.commit()

        await self._transaction(work)

    async def alone(self, sql: str, *, bounded: bool = True) -> None:
        """Run what returns nothing as it is: several statements, or one that no transaction may hold."""
        session = await self.source.take()
        session.begins()
        if not bounded:
            session.until = math.inf
        try:
            await session.connection.execute(sql)
        except BaseException as e:
            self._raise(session.met(e), writing=True)
        finally:
            await self.source.give(session)

    async def vacuum(self, sql: str) -> None:
        """Run what no transaction may hold."""
        await self.open()
        if self.source.joined:
            raise ConfigError(f"{self.shown}: compact cannot run inside a transaction; call it on the store itself")
        await self.alone(sql, bounded=False)

    async def cleanup(self, limit: int | None = None) -> int:
        """Remove what has expired, in batches that are transactions each."""
        removed = 0
        while limit is None or removed < limit:
            batch = BATCH if limit is None else min(BATCH, limit - removed)
            count = await self.write((self.settings.sql.cleanup, (batch,)))
            removed += count
            if count < batch:
                break
        return removed

    def begin_cleaning(self) -> None:
        """Clean now and then, if the store is told to: in a thread with a loop of its own, whatever becomes of others."""
        if self.settings.cleanup_interval is None:
            return
        if not isinstance(self.source, Own):
            raise ConfigError("cleanup_interval needs a URL: a pool or a connection of asyncpg is of one event loop")
        self.cleaning = _Cleaning(self)
        self.cleaner = Cleaner(self.cleaning, self.settings.cleanup_interval)

    def _raise(self, error: BaseException, *, writing: bool) -> NoReturn:
        if isinstance(error, DRIVER_ERRORS):
            table = self.settings.table.name
            raise ours(error, self.shown, self.timeout, writing=writing, table=table) from error
        raise error

    async def close(self) -> None:
        self.life.closed = True
        await self.source.close()
        if self.cleaner:
            self.cleaner.stop()


class _Cleaning:
    """`cleanup` as a thread calls it. Belongs to the database, so that the thread ends when nobody holds that."""

    def __init__(self, db: Database) -> None:
        self._db = weakref.ref(db)

    def cleanup(self) -> int:
        return asyncio.run(self._clean())

    async def _clean(self) -> int:
        db = self._db()
        if db is None:
            return 0
        try:
            return await db.cleanup()
        finally:
            await db.source.leave()


def open_database(server: Any, settings: Settings) -> Database:
    """Give the database behind a URL, a pool or a connection."""
    life = Life(settings.shown, started=False)
    source: Source
    if settings.url is not None:
        source = Own(settings, life)
    elif isinstance(server, asyncpg.Pool):
        source = Borrowed(server, settings, life)
    elif _is_connection(server):
        source = Bound(server, life, settings.timeout)
    else:
        raise ConfigError(
            f"AsyncPostgresStore takes a URL, an asyncpg connection or an asyncpg pool, not {type(server).__name__}"
        )
    return Database(source, settings, life)


def bound(connection: Any, db: Database) -> Database:
    """Give the database on a connection of somebody else."""
    if not _is_connection(connection):
        raise ConfigError(f"bind takes an asyncpg connection, not {type(connection).__name__}")
    return Database(Bound(connection, db.life, db.timeout), db.settings, db.life)


def _is_connection(thing: object) -> bool:
    return isinstance(thing, asyncpg.Connection | asyncpg.pool.PoolConnectionProxy)
