"""One call at a time for a key, whose outcome all who ask meanwhile get: among threads, and among tasks of a loop.

Who waits can give up, or be cancelled, and harms nobody. Where a call is cut off, those who wait for it are told so, and
one of them makes the next.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import threading
from concurrent.futures import CancelledError, Future
from contextvars import ContextVar
from functools import partial
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine, Iterator
    from typing import Any

    Outcome = bytes | None

_inside: ContextVar[Flight | None] = ContextVar("kv.flights", default=None)
"""The flight that this thread or task works for."""


class Flight:
    """A call that is under way."""

    def __init__(self) -> None:
        self.token: str | None = None
        """What it tells those who come, from some point on."""
        self.future: Future[Outcome] = Future()  # of threads
        self.task: asyncio.Task[Outcome] | None = None  # of tasks
        self.waiters = 0
        self._waits: list[Flight] = []  # what is done for this one waits for them

    @contextlib.contextmanager
    def waited_for(self, key: str) -> Iterator[None]:
        """Note who waits for whom, and raise `RuntimeError` where they would wait for each other for ever."""
        outer = _inside.get()
        if outer is None:
            yield
            return
        outer._waits.append(self)  # before it looks, so that of two who do this at once one sees the other
        try:
            if self._leads_to(outer):
                raise RuntimeError(f"the factory for {key!r} would wait for itself: it asks for what it is called for")
            yield
        finally:
            outer._waits.remove(self)

    def _leads_to(self, other: Flight) -> bool:
        seen: set[Flight] = set()
        ways = [self]
        while ways:
            flight = ways.pop()
            if flight not in seen:
                seen.add(flight)
                ways += flight._waits
        return other in seen

    @contextlib.contextmanager
    def worked_for(self) -> Iterator[None]:
        """What is done here is done for this flight."""
        token = _inside.set(self)
        try:
            yield
        finally:
            _inside.reset(token)


def work_for_none() -> None:
    """From here on this thread or task works for no flight, whoever started it."""
    _inside.set(None)


class Flights:
    """Those under way, by key: for each process and, of tasks, for each event loop."""

    def __init__(self) -> None:
        self._flights: dict[tuple[object, str], Flight] = {}
        self._locks: dict[int, threading.RLock] = {}  # by process: a fork may come while it is held

    def lock(self) -> threading.RLock:
        """What protects the table."""
        return self._locks.setdefault(os.getpid(), threading.RLock())

    def get(self, where: object, key: str) -> Flight | None:
        """Give the flight for a key; `where` is a process's id or an event loop."""
        return self._flights.get((where, key))

    def _join(self, where: object, key: str, mine: Flight, over: Flight | None) -> Flight:
        with self.lock():
            flight = self._flights.get((where, key))
            if flight is None or flight is over:
                self._flights[where, key] = flight = mine
            return flight

    def _leave(self, where: object, key: str, flight: Flight) -> None:
        with self.lock():
            if self._flights.get((where, key)) is flight:
                del self._flights[where, key]

    def _landed(self, where: object, key: str, flight: Flight, task: asyncio.Task[Outcome]) -> None:
        self._leave(where, key, flight)
        if not task.cancelled():
            task.exception()  # asked for, it is not reported as lost where nobody waits any more

    def fly(self, key: str, call: Callable[[Flight], Outcome], over: Flight | None) -> Outcome:
        """Make the call in this thread, or wait for the one that is under way, except for `over`.

        An `Exception` of the call comes out of all who wait, any other one only where the call is made.

        Returns:
            What the call gave; None where it was cut off.

        Raises:
            RuntimeError: the call that is under way waits for this one.
        """
        where = os.getpid()
        flight = mine = Flight()
        try:  # so that, whatever comes and whenever, nobody waits for what nobody does
            flight = self._join(where, key, mine, over)
            with flight.waited_for(key):
                if flight is not mine:
                    return _outcome(flight.future)
                with mine.worked_for():
                    answer = call(mine)
                mine.future.set_result(answer)
                return answer
        except Exception as e:
            if not mine.future.done():
                mine.future.set_exception(e)
            raise
        finally:
            self._leave(where, key, mine)
            mine.future.cancel()  # where nothing is known of it
            del flight, mine  # they hold the error, which holds this frame

    async def fly_async(
        self, key: str, call: Callable[[Flight], Coroutine[Any, Any, Outcome]], over: Flight | None
    ) -> Outcome:
        """See `fly`. The call is made in a task of its own, which is cancelled when nobody waits for it any more."""
        where, mine = asyncio.get_running_loop(), Flight()
        flight = self._join(where, key, mine, over)
        if flight is mine:
            mine.task = where.create_task(_working(mine, call))
            mine.task.add_done_callback(partial(self._landed, where, key, mine))
        task = flight.task
        assert task is not None
        flight.waiters += 1
        try:
            with flight.waited_for(key):
                await asyncio.wait([task])
        finally:
            flight.waiters -= 1
            if not flight.waiters and not task.done():
                self._leave(where, key, flight)
                task.cancel()
        cut_off = task.cancelled() or not isinstance(task.exception(), Exception | None)
        try:
            return None if cut_off and flight is not mine else task.result()
        finally:
            del flight, mine, task  # they hold the error, which holds this frame


async def _working(flight: Flight, call: Callable[[Flight], Coroutine[Any, Any, Outcome]]) -> Outcome:
    with flight.worked_for():
        return await call(flight)


def _outcome(future: Future[Outcome]) -> Outcome:
    try:
        return future.result()
    except CancelledError:
        if future.cancelled():
            return None
        raise
    finally:
        del future  # it holds the error, which holds this frame
