"""Where the async store's connections come from: our own, or a pool or a connection of somebody else. asyncpg."""

from __future__ import annotations

import asyncio
import select
import weakref
from collections import deque
from contextlib import suppress
from typing import TYPE_CHECKING, Any, Protocol, TypeVar

import asyncpg

from kv.backends.forking import concerns, leak
from kv.errors import BackendError, ConfigError, Unavailable

from .address import for_asyncpg
from .errors import connecting
from .framing import JOINED, OURS, Frame, Life, Overtaken, guarded, settle

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

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


class Session:
    """A connection in the hands of one operation."""

    def __init__(self, connection: Connection, frame: Frame = OURS, home: Home | None = None) -> None:
        self.connection = connection
        self.frame = frame
        self.home = home
        self.committing = False
        self.error: BaseException | None = None  # that came from the driver, inside a transaction
        self.whole = True  # whether it may be used again
        self.foreign = False  # of a parent process

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
        self._check_mine()
        try:
            return await run(self.connection, step)
        except DRIVER_ERRORS as e:
            self.error = e
            raise

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

    async def _control(self, sql: str) -> None:
        self._check_mine()
        try:
            await self.connection.execute(sql)
        except DRIVER_ERRORS as e:
            self.error = e
            raise

    def _check_mine(self) -> None:
        if self.foreign:
            raise BackendError("the process was forked inside an update, which goes on in the parent only")

    def watch(self) -> None:
        """Be able to see whether the server has ended the connection."""
        self._poll = select.poll() if hasattr(select, "poll") else None
        socket = self.connection._transport.get_extra_info("socket")
        if self._poll and socket is not None:
            self._poll.register(socket.fileno(), select.POLLIN)

    def fresh(self) -> bool:
        """Whether the connection is open, before anything is sent that nobody would know the fate of."""
        return not (self.connection.is_closed() or (self._poll and self._poll.poll(0)))


class Home:
    """What belongs to one event loop: its connections, and who waits for one."""

    def __init__(self) -> None:
        self.idle: list[Session] = []
        self.every: set[Session] = set()
        self.connecting = 0
        self.waiting: deque[asyncio.Future[Session | None]] = deque()

    def wake(self, session: Session | None) -> bool:
        """Give the session to who waits longest, or tell him to look again. Gives whether there was one."""
        while self.waiting:
            waiter = self.waiting.popleft()
            if not waiter.done():
                waiter.set_result(session)
                return True
        return False

    def wake_all(self) -> None:
        """Have everybody look again."""
        while self.wake(None):
            pass


class Source(Protocol):
    """Where sessions come from."""

    @property
    def joined(self) -> bool:
        """Whether operations join a transaction that somebody else has begun."""
        ...

    async def take(self) -> Session:
        """Give a session, for one operation."""
        ...

    async def give(self, session: Session) -> None:
        """Take it back."""

    async def leave(self) -> None:
        """Close what was opened here in the loop that is running."""

    async def close(self) -> None:
        """Close what was opened here."""


class Own:
    """Connections of our own, the one used last first, so that none is more than what is needed.

    Not asyncpg's pool: it sends a query at every release, to reset what we never change.
    """

    joined = False

    def __init__(self, settings: Settings, life: Life) -> None:
        self.life = life
        self.shown = settings.shown
        self.least = settings.least
        self.most = settings.most
        self.timeout = settings.timeout
        self.told = for_asyncpg(settings.url or "")
        self.pooled = False
        self._begin()
        concerns(self)

    def _begin(self) -> None:
        self.homes: weakref.WeakKeyDictionary[asyncio.AbstractEventLoop, Home] = weakref.WeakKeyDictionary()
        self._last: tuple[asyncio.AbstractEventLoop | None, Home] = (None, Home())

    def home(self) -> Home:
        """Give the home of the loop that is running."""
        loop = asyncio.get_running_loop()
        if self._last[0] is not loop:
            home = self.homes.get(loop)
            if home is None:
                self._forget()
                home = self.homes[loop] = Home()
            self._last = loop, home
        return self._last[1]

    def _forget(self) -> None:
        """Close the connections of loops that are closed, as these cannot."""
        for loop, home in [*self.homes.items()]:
            if loop.is_closed():
                del self.homes[loop]
                for session in home.every:
                    with suppress(Exception):  # the last of what asyncio does itself; another loop's may differ
                        session.connection._transport._call_connection_lost(None)

    async def take(self) -> Session:
        home = self.home()
        while home.idle:
            session = home.idle.pop()
            if session.fresh():
                return session
            self._end(session)
        return await self._another(home)

    async def _another(self, home: Home) -> Session:
        while True:
            self.life.check_open()
            if len(home.every) + home.connecting < self.most:
                home.connecting += 1
                # in a task of its own: asyncpg does not like to be cancelled while it connects
                joining = asyncio.create_task(self._join(home))
                try:
                    return await asyncio.shield(joining)
                except asyncio.CancelledError:
                    joining.add_done_callback(self._joined_late)
                    raise
            if (session := await self._wait(home)) is not None:
                return session

    async def _join(self, home: Home) -> Session:
        try:
            session = await self._connect(home)
        except BaseException:
            home.wake(None)
            raise
        finally:
            home.connecting -= 1
        home.every.add(session)
        return session

    def _joined_late(self, joining: asyncio.Task[Session]) -> None:
        """Keep for others what somebody who has been cancelled connected."""
        if not joining.cancelled() and joining.exception() is None:
            self._keep(joining.result())

    async def _wait(self, home: Home) -> Session | None:
        waiter: asyncio.Future[Session | None] = asyncio.get_running_loop().create_future()
        home.waiting.append(waiter)
        try:
            return await asyncio.wait_for(waiter, self.timeout)
        except BaseException as e:
            if waiter.done() and not waiter.cancelled():  # for him who comes next
                session = waiter.result()
                home.wake(None) if session is None else await self.give(session)
            if isinstance(e, TimeoutError):
                raise Unavailable(
                    f"{self.shown}: all {self.most} connections have been busy for {self.timeout:g} s; nothing was done. "
                    "Try again, or raise pool_max"
                ) from None
            raise

    async def _connect(self, home: Home) -> Session:
        while True:
            try:
                connection = await self._reach()
                try:
                    session = Session(connection, guarded(self.timeout) if self.pooled else OURS, home)
                    session.watch()
                    sql = settle(connection.get_server_pid(), self.timeout)
                    direct = self.pooled or await connection.execute(sql) == "SELECT 1"
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

    async def give(self, session: Session) -> None:
        home = session.home
        assert home is not None
        if session.foreign:
            return
        if session.connection.is_closed() or not session.whole:
            self._end(session)
        elif self.life.closed:
            home.every.discard(session)
            home.wake_all()
            await self._goodbye(session)
        else:
            self._keep(session)

    def _keep(self, session: Session) -> None:
        home = session.home
        assert home is not None
        if self.life.closed:
            self._end(session)
        elif not home.wake(session):
            home.idle.append(session)

    def _end(self, session: Session) -> None:
        home = session.home
        assert home is not None
        home.every.discard(session)
        session.connection.terminate()
        home.wake(None)

    async def _goodbye(self, session: Session) -> None:
        with suppress(*DRIVER_ERRORS):
            await session.connection.close(timeout=_GOODBYE)

    async def warm(self) -> None:
        """Connect as often as `pool_min` says."""
        sessions = [await self.take() for _ in range(max(1, self.least))]
        for session in sessions:
            await self.give(session)

    async def close(self) -> None:
        here = asyncio.get_running_loop()
        self._forget()
        for loop, home in [*self.homes.items()]:
            if loop is here:
                await self.leave()
            elif not loop.is_closed():
                with suppress(RuntimeError):  # closed meanwhile
                    loop.call_soon_threadsafe(_terminate, home)

    async def leave(self) -> None:
        """Close the connections of the loop that is running."""
        home = self.home()
        home.wake_all()
        while home.idle:
            session = home.idle.pop()
            home.every.discard(session)
            await self._goodbye(session)

    def before_fork(self) -> None:
        pass

    def after_fork(self, *, child: bool) -> None:
        if child:
            sessions = [session for home in self.homes.values() for session in home.every]
            for session in sessions:
                session.foreign = True
            # to close them, or to free them, would say so where the parent waits for its own
            leak(sessions, [self.homes, self._last])
            self._begin()


def _terminate(home: Home) -> None:
    home.wake_all()
    while home.idle:
        session = home.idle.pop()
        home.every.discard(session)
        session.connection.terminate()


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

    async def give(self, session: Session) -> None:
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

    async def give(self, session: Session) -> None:
        pass

    async def leave(self) -> None:
        pass

    close = leave
