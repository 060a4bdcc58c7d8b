"""Connections of our own to a server, shared by who uses a store: a pool for threads, and one for event loops.

A driver's module says how its connection is made, seen to be open and closed: `Session` and `AsyncSession`. The one used
last is taken first, so that there are never more than are needed.
"""

from __future__ import annotations

import asyncio
import gc
import select
import time
import weakref
from abc import ABC, abstractmethod
from collections import deque
from contextlib import suppress
from queue import Empty, SimpleQueue
from typing import TYPE_CHECKING, Any, Generic, TypeVar

from kv.backends.forking import concerns, leak
from kv.errors import BackendError, StoreClosed, Unavailable

if TYPE_CHECKING:
    from collections.abc import Callable

S = TypeVar("S", bound="Session")
A = TypeVar("A", bound="AsyncSession")


class Life:
    """Whether a store is open, known to all that share it: its views, its bound ones, its pools."""

    def __init__(self, shown: str, *, started: bool = True) -> None:
        self._shown = shown
        self.started = started
        self.closed = False

    def check_open(self) -> None:
        """Raise `StoreClosed` after close."""
        if self.closed:
            raise StoreClosed(f"the store {self._shown} is closed; open a new one")


def busy(shown: str, most: int, timeout: float) -> Unavailable:
    """The error for who has waited too long for a connection."""
    return Unavailable(
        f"{shown}: all {most} connections have been busy for {timeout:g} s; nothing was done. Try again, or raise pool_max"
    )


def watched(fileno: int) -> Callable[[], bool]:
    """Give a function that says whether a socket has something to read: between two operations, that it has ended."""
    if hasattr(select, "poll"):
        poll = select.poll()
        poll.register(fileno, select.POLLIN)
        ask = poll.poll
        return lambda: bool(ask(0))
    return lambda: bool(select.select([fileno], [], [], 0)[0])


class _Held:
    """A connection in the hands of one operation."""

    foreign = False
    """Whether it is of a parent process."""

    def check_mine(self) -> None:
        """Raise in a process that was forked while the session was at work."""
        if self.foreign:
            raise BackendError("the process was forked inside an update, which goes on in the parent only")


# threads


class Session(_Held, ABC):
    """A connection in the hands of one operation."""

    _free: deque[None] | None = None
    """Where this one's place goes back to."""

    @abstractmethod
    def fresh(self) -> bool:
        """Whether the connection is open, before anything is sent that nobody would know the fate of."""

    @abstractmethod
    def disconnect(self) -> None:
        """Close the connection, if it was ever made."""

    def place(self, free: deque[None]) -> None:
        """Take one of the places that there are, or raise `IndexError`."""
        free.pop()
        self._free = free

    @property
    def placed(self) -> bool:
        """Whether it takes one of the places that there are."""
        return self._free is not None

    def end(self) -> None:
        """Close the connection, and make room for another one."""
        try:
            self.disconnect()
        finally:
            free, self._free = self._free, None
            if free is not None:
                free.append(None)

    def __del__(self) -> None:
        if self.placed and not self.foreign:  # an interrupt has lost it
            self.end()


class Pool(ABC, Generic[S]):
    """Connections for threads.

    Args:
        make: gives a session without a connection.
        shown: the server, for messages.
        most: how many connections there may be.
        timeout: seconds to wait for one that is free.
        life: of the store.

    Attributes:
        silence: what the driver raises where nothing has come back for too long.
    """

    silence: type[BaseException] | tuple[type[BaseException], ...]

    def __init__(self, make: Callable[[], S], *, shown: str, most: int, timeout: float, life: Life) -> None:
        self._make = make
        self.shown = shown
        self.most = most
        self.timeout = timeout
        self.life = life
        self._begin()
        concerns(self)

    def _begin(self) -> None:
        # All three are of single steps that no interrupt can come into, and need no lock.
        self.idle: deque[S] = deque()
        self.free: deque[None] = deque([None] * self.most)  # one for each connection that may still be made
        self.waiters: deque[SimpleQueue[S | None]] = deque()
        self.every: weakref.WeakSet[S] = weakref.WeakSet()
        self.searched = 0.0  # when what is lost may be looked for again
        weakref.finalize(self, _close_idle, self.idle)

    @abstractmethod
    def _connect(self, session: S) -> None:
        """Connect the session, or raise what the store shall raise."""

    def take(self) -> S:
        """Give a session that is connected, for one operation."""
        with suppress(IndexError):
            while not (session := self.idle.pop()).fresh():
                self.end(session)
            return session
        return self._another()

    def _another(self) -> S:
        session = self._make()
        self.every.add(session)
        waiter: SimpleQueue[S | None] = SimpleQueue()
        self.waiters.append(waiter)
        end = time.monotonic() + self.timeout
        try:
            while True:
                self.life.check_open()
                with suppress(IndexError):  # given back before it was known that somebody waits
                    return self.idle.pop()
                with suppress(IndexError):
                    session.place(self.free)
                    break
                try:
                    given = waiter.get(timeout=max(0.0, min(1.0, end - time.monotonic())))
                except Empty:  # a connection that an interrupt lost is given by nobody
                    self._find_lost()
                    with suppress(ValueError):
                        self.waiters.remove(waiter)
                else:
                    if given is not None:
                        return given
                if time.monotonic() >= end:
                    raise busy(self.shown, self.most, self.timeout)
                self.waiters.appendleft(waiter)
        finally:
            with suppress(ValueError):
                self.waiters.remove(waiter)
            with suppress(Empty):
                while True:
                    if (late := waiter.get_nowait()) is not None:
                        self.give(late)
            if self.free:  # it may have been woken for that
                self._pass_on(None)
        try:
            self._connect(session)
        except BaseException:
            self.end(session)
            raise
        return session

    def _find_lost(self) -> None:
        """Give back the places of sessions that interrupts have lost, and whose own end has met another one.

        Collecting garbage stops every thread, also those whose connections are waited for: it gets a twentieth of the
        time at most.
        """
        began = time.monotonic()
        if began < self.searched:
            return
        self.searched = began + self.timeout  # by nobody else meanwhile
        gc.collect()  # what an exception holds by its traceback may hold that exception
        with suppress(RuntimeError):  # others connect just now
            places = len(self.free) + sum(session.placed for session in [*self.every])
            self.free.extend([None] * (self.most - places))
        now = time.monotonic()
        self.searched = now + max(1.0, 20 * (now - began))

    def give(self, session: S) -> None:
        """Take a session back, for others."""
        self.idle.append(session)
        if self.waiters or self.life.closed:
            self._serve()

    def end(self, session: S, error: BaseException | None = None) -> None:
        """Take a session back whose connection cannot be used again. If nothing came back on it, what is idle is no better."""
        if isinstance(error, self.silence):
            _close_idle(self.idle)
        session.end()
        self._pass_on(None)

    def _serve(self) -> None:
        """Give what is idle to who waits longest, not to who comes first; after close, to nobody."""
        while self.waiters:
            with suppress(IndexError):
                self._pass_on(self.idle.popleft())
                continue
            return
        if self.life.closed:
            _close_idle(self.idle)

    def _pass_on(self, session: S | None) -> None:
        """Wake who waits longest, with a connection, or because there is room for another one."""
        try:
            self.waiters.popleft().put(session)
        except IndexError:
            if session is not None:
                self.idle.append(session)

    def warm(self, least: int) -> None:
        """Connect so often, once at least."""
        sessions = [self.take() for _ in range(max(1, least))]
        for session in sessions:
            self.give(session)

    def close(self) -> None:
        """Close what nobody uses; the rest when it is given back."""
        with suppress(IndexError):
            while True:
                self.waiters.popleft().put(None)  # to see that it is closed
        _close_idle(self.idle)

    def before_fork(self) -> None:
        pass

    def after_fork(self, *, child: bool) -> None:
        if child:
            # to close them, or to free them, would end the parent's
            for session in [*self.every]:
                session.foreign = True
                leak(session)
            self.idle.clear()
            self._begin()


def _close_idle(idle: deque[S]) -> None:
    """Close what nobody uses; also what nobody closed, when the store is garbage or the interpreter ends."""
    with suppress(IndexError):
        while True:
            idle.pop().end()


# event loops


class AsyncSession(_Held, ABC):
    """See `Session`."""

    home: Home[Any] | None = None
    """Of the loop that it belongs to; None where the connection is somebody else's."""

    @abstractmethod
    def fresh(self) -> bool:
        """See `Session.fresh`."""

    @abstractmethod
    def usable(self) -> bool:
        """Whether the connection may be used again after an operation."""

    @abstractmethod
    def terminate(self) -> None:
        """Close the connection at once."""

    @abstractmethod
    async def goodbye(self) -> None:
        """Close the connection in good order."""

    @abstractmethod
    def sever(self) -> None:
        """Close the socket of a connection whose loop is closed."""


class Home(Generic[A]):
    """What belongs to one event loop: its connections, and who waits for one."""

    def __init__(self) -> None:
        self.idle: list[A] = []
        self.every: set[A] = set()
        self.connecting = 0
        self.waiting: deque[asyncio.Future[A | None]] = deque()

    def wake(self, session: A | None) -> bool:
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


class AsyncPool(ABC, Generic[A]):
    """See `Pool`. Each event loop has connections of its own."""

    silence: type[BaseException] | tuple[type[BaseException], ...]

    def __init__(self, *, shown: str, most: int, timeout: float, life: Life) -> None:
        self.shown = shown
        self.most = most
        self.timeout = timeout
        self.life = life
        self._begin()
        concerns(self)

    def _begin(self) -> None:
        self.homes: weakref.WeakKeyDictionary[asyncio.AbstractEventLoop, Home[A]] = weakref.WeakKeyDictionary()
        self._last: tuple[asyncio.AbstractEventLoop | None, Home[A]] = (None, Home())

    @abstractmethod
    async def _connect(self) -> A:
        """Give a session that is connected, or raise what the store shall raise."""

    def home(self) -> Home[A]:
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
                        session.sever()

    async def take(self) -> A:
        """Give a session that is connected, for one operation."""
        home = self.home()
        while home.idle:
            session = home.idle.pop()
            if session.fresh():
                return session
            self.end(session)
        return await self._another(home)

    async def _another(self, home: Home[A]) -> A:
        end = asyncio.get_running_loop().time() + self.timeout
        while True:
            self.life.check_open()
            if len(home.every) + home.connecting < self.most:
                home.connecting += 1
                # in a task of its own: drivers do not like to be cancelled while they connect
                joining = asyncio.create_task(self._join(home))
                try:
                    return await asyncio.shield(joining)
                except asyncio.CancelledError:
                    joining.add_done_callback(self._joined_late)
                    raise
            if (session := await self._wait(home, end)) is not None:
                return session

    async def _join(self, home: Home[A]) -> A:
        try:
            session = await self._connect()
        except BaseException:
            home.wake(None)
            raise
        finally:
            home.connecting -= 1
        session.home = home
        home.every.add(session)
        return session

    def _joined_late(self, joining: asyncio.Task[A]) -> None:
        """Keep for others what somebody who has been cancelled connected."""
        if not joining.cancelled() and joining.exception() is None:
            self._keep(joining.result())

    async def _wait(self, home: Home[A], end: float) -> A | None:
        waiter: asyncio.Future[A | None] = asyncio.get_running_loop().create_future()
        home.waiting.append(waiter)
        try:
            async with asyncio.timeout_at(end):  # before Python 3.12, `wait_for` may lose a cancellation
                return await waiter
        except BaseException as e:
            if waiter.done() and not waiter.cancelled():  # for him who comes next
                session = waiter.result()
                home.wake(None) if session is None else await self.give(session)
            if isinstance(e, TimeoutError):
                raise busy(self.shown, self.most, self.timeout) from None
            raise

    async def give(self, session: A, error: BaseException | None = None) -> None:
        """Take a session back, for others if it is usable. See `Pool.end`."""
        home = session.home
        assert home is not None
        if session.foreign:
            return
        while isinstance(error, self.silence) and home.idle:
            self.end(home.idle.pop())
        if not session.usable():
            self.end(session)
        elif self.life.closed:
            home.every.discard(session)
            home.wake_all()
            await session.goodbye()
        else:
            self._keep(session)

    def _keep(self, session: A) -> None:
        home = session.home
        assert home is not None
        if self.life.closed:
            self.end(session)
        elif not home.wake(session):
            home.idle.append(session)

    def end(self, session: A) -> None:
        """Take a session back whose connection cannot be used again."""
        home = session.home
        assert home is not None
        home.every.discard(session)
        session.terminate()
        home.wake(None)

    async def warm(self, least: int) -> None:
        """Connect so often, once at least."""
        sessions = [await self.take() for _ in range(max(1, least))]
        for session in sessions:
            await self.give(session)

    async def close(self) -> None:
        """Close what nobody uses; the rest when it is given back."""
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
        idle, home.idle = home.idle, []
        home.every.difference_update(idle)
        await asyncio.gather(*(session.goodbye() for session in idle))

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


def _terminate(home: Home[A]) -> None:
    home.wake_all()
    while home.idle:
        session = home.idle.pop()
        home.every.discard(session)
        session.terminate()
