"""Where the async store's connections come from: our own, or a pool or a connection of somebody else. asyncpg."""

from __future__ import annotations

import asyncio
import math
import time
import weakref
from contextlib import suppress
from typing import TYPE_CHECKING, Any, Protocol, TypeVar

import asyncpg

from kv.backends import pools
from kv.errors import BackendError, ConfigError

from .address import for_asyncpg
from .errors import connecting
from .framing import JOINED, OURS, Frame, Overtaken, guarded, settle

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from kv.backends.pools import Life

    from .parts import Settings
    from .rows import Step

    Connection = Any  # asyncpg's, or what its pool gives

T = TypeVar("T")

DRIVER_ERRORS = (asyncpg.PostgresError, asyncpg.InterfaceError, asyncpg.InternalClientError, OSError, TimeoutError)
_GOODBYE = 5.0
"""Seconds that a connection has to end in good order."""


async def value(connection: Connection, step: Step) -> Any:
    return await connection.fetchval(step[0], *step[1])


async def rows(connection: Connection, step: Step) -> list[Any]:
    found: list[Any] = await connection.fetch(step[0], *step[1])
    return found


async def first(connection: Connection, step: Step) -> Any:
    return await connection.fetchrow(step[0], *step[1])


async def affected(connection: Connection, step: Step) -> int:
    status: str = await connection.execute(step[0], *step[1])
    return int(status.rpartition(" ")[2])


class Session(pools.AsyncSession):
    """A connection in the hands of one operation."""

    ended: Callable[[], bool] | None = None
    """Whether the server has ended the connection, where that can be seen."""

    silent = False
    """Whether it was closed because nothing came back."""

    def __init__(self, connection: Connection, frame: Frame = OURS, longest: float = math.inf) -> None:
        self.connection = connection
        self.frame = frame
        self.longest = longest
        self.until = math.inf
        self.committing = False
        self.error: BaseException | None = None  # that came from the driver, inside a transaction
        self.whole = True  # whether it may be used again

    def begins(self) -> None:
        """Take that something is under way, which has its time from now on."""
        self.until = time.monotonic() + self.longest

    def met(self, error: BaseException) -> BaseException:
        """Give what an error of the driver's was, where it came because nothing else did."""
        if not self.silent or not isinstance(error, DRIVER_ERRORS):
            return error
        silence = TimeoutError()
        silence.__cause__ = error
        return silence

    async def single(self, step: Step, run: Callable[[Connection, Step], Awaitable[T]]) -> T:
        """Run one statement in a transaction of its own."""
        result = await self.begin(step, run)
        await self.commit()
        return result

    async def begin(self, step: Step, run: Callable[[Connection, Step], Awaitable[T]]) -> T:
        """Begin a transaction with a statement."""
        self.committing, self.error = False, None
        await self._control(self.frame.begin)
        return await self.run(step, run)

    async def run(self, step: Step, run: Callable[[Connection, Step], Awaitable[T]]) -> T:
        """Run a statement inside the transaction."""
        self.check_mine()
        self.begins()
        try:
            return await run(self.connection, step)
        except DRIVER_ERRORS as e:
            self.error = self.met(e)
            raise self.error from self.error.__cause__

    async def commit(self, step: Step | None = None) -> None:
        """End the transaction, with a last statement that has to change one row.

        Raises:
            Overtaken: it changed none.
        """
        if step is not None and await self.run(step, affected) != 1:
            raise Overtaken
        self.committing = not self.frame.joins
        await self._control(self.frame.commit)

    async def rollback(self) -> None:
        """Undo what the transaction has done; where even that fails, the connection is not used again."""
        whole, self.whole = self.whole, False
        # also where asyncpg knows of no transaction: one that was cancelled may just be beginning, and is waited for
        with suppress(*DRIVER_ERRORS, BackendError):
            await asyncio.wait_for(self._control(self.frame.rollback), _GOODBYE)
            self.whole = whole

    async def settled(self) -> None:
        """Wait until the server has ended what was cancelled; where it does not say so, the connection is not used again."""
        whole, self.whole = self.whole, False
        with suppress(TimeoutError):
            async with asyncio.timeout(_GOODBYE):
                await self.connection._protocol._wait_for_cancellation()
            self.whole = whole

    async def _control(self, sql: str) -> None:
        self.check_mine()
        self.begins()
        try:
            await self.connection.execute(sql)
        except DRIVER_ERRORS as e:
            self.error = self.met(e)
            raise self.error from self.error.__cause__

    def watch(self) -> None:
        """Be able to see whether the server has ended the connection, and see when it says nothing more."""
        socket = self.connection._transport.get_extra_info("socket")
        if socket is not None:
            self.ended = pools.watched(socket.fileno())
        _look(weakref.ref(self), asyncio.get_running_loop())

    def fresh(self) -> bool:
        """Whether the connection is open, before anything is sent that nobody would know the fate of."""
        return not (self.connection.is_closed() or (self.ended and self.ended()))

    def usable(self) -> bool:
        """Whether the connection may be used again after an operation."""
        return self.whole and not self.connection.is_closed()

    def terminate(self) -> None:
        """Close the connection at once."""
        self.connection.terminate()

    async def goodbye(self) -> None:
        """Close the connection in good order."""
        with suppress(*DRIVER_ERRORS):
            await self.connection.close(timeout=_GOODBYE)

    def sever(self) -> None:
        """Close the socket of a connection whose loop is closed."""
        self.connection._transport._call_connection_lost(None)


def _look(of: weakref.ref[Session], loop: asyncio.AbstractEventLoop) -> None:
    """Close a connection that has been waited for too long; again and again, as a timer for each statement costs more."""
    session = of()
    if session is None or session.connection.is_closed():
        return
    if time.monotonic() > session.until and session.home is not None and session not in session.home.idle:
        session.silent = True
        session.terminate()
    else:
        loop.call_later(session.longest / 4, _look, of, loop)


class Source(Protocol):
    """Where sessions come from."""

    @property
    def joined(self) -> bool:
        """Whether operations join a transaction that somebody else has begun."""
        ...

    async def take(self) -> Session:
        """Give a session, for one operation."""
        ...

    async def give(self, session: Session, error: BaseException | None = None, /) -> None:
        """Take it back, after this error."""

    async def leave(self) -> None:
        """Close what was opened here in the loop that is running."""

    async def close(self) -> None:
        """Close what was opened here."""


class Own(pools.AsyncPool[Session]):
    """Connections of our own.

    Not asyncpg's pool: it sends a query at every release, to reset what we never change.
    """

    joined = False
    silence = TimeoutError

    def __init__(self, settings: Settings, life: Life) -> None:
        super().__init__(shown=settings.shown, most=settings.most, timeout=settings.timeout, life=life)
        self.told = for_asyncpg(settings.url or "")
        self.longest = settings.longest
        self.pooled = False

    async def _connect(self) -> Session:
        while True:
            try:
                connection = await self._reach()
                try:
                    session = Session(connection, guarded(self.timeout) if self.pooled else OURS, self.longest)
                    session.watch()
                    sql = settle(connection.get_server_pid(), self.timeout)
                    direct = self.pooled or await connection.execute(sql, timeout=self.longest) == "SELECT 1"
                except BaseException:
                    connection.terminate()
                    raise
                if direct:
                    return session
                self.pooled = True  # a prepared statement would be on another server
                await connection.close(timeout=_GOODBYE)
            except DRIVER_ERRORS as e:
                raise connecting(e, self.shown) from e
            except ValueError as e:
                raise ConfigError(f"{self.shown}: {e}") from e

    async def _reach(self) -> Connection:
        """Connect to the first host that lets us; each has its own time, as with libpq."""
        more: dict[str, Any] = {"statement_cache_size": 0} if self.pooled else {}
        for told in self.told[:-1]:
            with suppress(*DRIVER_ERRORS):
                return await asyncpg.connect(**told, **more)
        return await asyncpg.connect(**self.told[-1], **more)


class Borrowed:
    """Connections of somebody else's pool."""

    joined = False

    def __init__(self, pool: Any, settings: Settings, life: Life) -> None:
        self._pool = pool
        self._shown = settings.shown
        self._life = life
        self._frame = guarded(settings.timeout)

    async def take(self) -> Session:
        self._life.check_open()
        try:
            return Session(await self._pool.acquire(), self._frame)
        except DRIVER_ERRORS as e:
            raise connecting(e, self._shown) from e

    async def give(self, session: Session, *_: object) -> None:
        await self._pool.release(session.connection)

    async def leave(self) -> None:
        pass

    close = leave


class Bound:
    """One connection of somebody else, and the transaction that is on it."""

    def __init__(self, connection: Connection, life: Life, timeout: float) -> None:
        self._connection = connection
        self._life = life
        self._frame = guarded(timeout)

    @property
    def joined(self) -> bool:
        joined: bool = self._connection.is_in_transaction()
        return joined

    async def take(self) -> Session:
        self._life.check_open()
        return Session(self._connection, JOINED if self.joined else self._frame)

    async def give(self, session: Session, *_: object) -> None:
        pass

    async def leave(self) -> None:
        pass

    close = leave
