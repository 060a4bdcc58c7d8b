"""Calls of one event loop that go to a server together.

Where nobody is under way, a call goes at once and by itself, as it would without all this. Those that come while it is under
way wait, and go as one when it is back: nothing is delayed to become more, and what is under way is never long in
coming, as there is one statement or one pipeline for all who wait. How many wait is how many tasks there are, each for its
own call; they hold no connection meanwhile. What nobody waits for any more is cancelled, and its connection is free.
"""

from __future__ import annotations

import asyncio
import copy
from collections import deque
from functools import partial
from typing import TYPE_CHECKING, Any, Final, Generic, TypeVar

from kv.errors import KVError

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from kv.backends.pools import Life

    Send = Callable[["Batch[Q]"], Awaitable[None]]

Q = TypeVar("Q")
E = TypeVar("E", bound=BaseException)

TOGETHER: Final = 256
"""So many go as one at most, so that nobody waits long for the others' answers."""
STUCK: Final = 0.05
"""Seconds after which who waits waits no longer for what is under way: its connection may be lost, or a lock in its way."""


class Waiting(Generic[Q]):
    """A call that waits: what it asks, the future of what comes of it, and with whom it is under way, if it is."""

    __slots__ = ("asks", "batch", "future")

    def __init__(self, asks: Q, future: asyncio.Future[Any]) -> None:
        self.asks = asks
        self.future = future
        self.batch: Batch[Q] | None = None

    def done(self, result: object) -> None:
        """Give the caller his result, unless he has been cancelled."""
        if not self.future.done():
            self.future.set_result(result)

    def failed(self, error: BaseException) -> None:
        """Have the caller raise the error."""
        if not self.future.done():
            self.future.cancel() if isinstance(error, asyncio.CancelledError) else self.future.set_exception(error)


class Batch(list[Waiting[Q]]):
    """Calls that go as one. Attributes: the task that sends them; None when they are back."""

    __slots__ = ("task",)

    def __init__(self) -> None:
        self.task: asyncio.Task[None] | None = None

    def left(self) -> None:
        """Take that a caller waits no longer: what no other one waits for either must hold no connection and no lock."""
        if self.task is not None and all(one.future.done() for one in self):
            self.task.cancel()


class Gathering(Generic[Q]):
    """The calls of one kind in one event loop. `send` answers every one of those that it is given.

    What it raises is raised by those that have no answer yet.
    """

    __slots__ = ("_gone", "_loop", "_send", "_tasks", "_waiting", "_watch", "under_way")

    def __init__(self, send: Send[Q], loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop
        self._send = send
        self._waiting: deque[Waiting[Q]] = deque()
        self._tasks: set[asyncio.Task[None]] = set()
        self._watch: asyncio.TimerHandle | None = None
        self._gone = 0.0
        self.under_way: object | None = None
        """Whoever is; None: nobody is waited for."""

    def enter(self) -> object:
        """Go alone, as nobody is under way. `leave` must follow, with what this gives."""
        self.under_way = me = object()
        return me

    def leave(self, me: object) -> None:
        """Be back, and have those go who have come meanwhile."""
        if self.under_way is me:
            self.under_way = None
            self._forget()
            if self._waiting and not self._loop.is_closed():
                self._go()

    def _forget(self) -> None:
        """Leave out those in front who wait no longer; all, where the loop is ending."""
        while self._waiting and self._waiting[0].future.done():
            self._waiting.popleft()

    async def go(self, asks: Q, alone: Callable[[], Awaitable[Any]]) -> Any:
        """Go alone where nobody is under way, else wait and go with others. Gives what comes of it."""
        if self.under_way is not None:
            return await self.join(asks)
        me = self.enter()
        try:
            return await alone()
        finally:
            self.leave(me)

    async def join(self, asks: Q) -> Any:
        """Wait, and go with others. Gives what comes of it."""
        loop = self._loop
        one = Waiting(asks, loop.create_future())
        self._waiting.append(one)
        if self._watch is None:
            self._gone = loop.time()  # by the time that matters: it may have been under way for longer
            self._watch = loop.call_later(STUCK, self._look)
        try:
            return await one.future
        except asyncio.CancelledError:
            if one.batch is not None:
                one.batch.left()
            raise

    def _look(self) -> None:
        """Have those who wait go without what is under way, if nobody has gone for long."""
        self._watch = None
        self._forget()
        if self._waiting:
            if self._loop.time() - self._gone >= STUCK * 0.9:
                self._go()
            self._watch = self._loop.call_later(STUCK, self._look)

    def _go(self) -> None:
        me = self.enter()
        task = self._loop.create_task(self._together(me))
        self._tasks.add(task)  # or it may be garbage before it is done
        task.add_done_callback(partial(self._back, me))

    def _back(self, me: object, task: asyncio.Task[None]) -> None:
        """The task is done, or was cancelled before it began."""
        self._tasks.discard(task)
        self.leave(me)

    async def _together(self, me: object) -> None:
        try:
            while self.under_way is me and (batch := self._first()):
                self._gone = self._loop.time()
                await self._sent(batch)
        finally:
            self.leave(me)

    async def _sent(self, batch: Batch[Q]) -> None:
        batch.task = asyncio.current_task()
        try:
            await self._send(batch)
        except BaseException as e:
            for one in batch:
                one.failed(own(e))
            if not isinstance(e, Exception):
                raise
        finally:
            batch.task = None

    def _first(self) -> Batch[Q]:
        """Take those who have waited longest, and wait still."""
        waiting = self._waiting
        batch: Batch[Q] = Batch()
        while waiting and len(batch) < TOGETHER:
            one = waiting.popleft()
            if not one.future.done():
                one.batch = batch
                batch.append(one)
        return batch


class Opening:
    """What comes before the first call, once for all that wait for it in one event loop; where it fails, all are told."""

    def __init__(self) -> None:
        self._lock = asyncio.Lock()
        self._error: KVError | None = None
        self._failures = 0

    async def wait(self, life: Life, start: Callable[[], Awaitable[None]]) -> None:
        """Start, or wait for who is starting."""
        before = self._failures
        async with self._lock:
            if life.started:
                return
            if self._error is not None and self._failures != before:
                raise own(self._error)
            try:
                await start()
            except KVError as e:
                self._error = e
                self._failures += 1
                raise
            self._error = None
            life.started = True


class Gatherings(Generic[Q]):
    """One for each event loop."""

    def __init__(self, send: Send[Q]) -> None:
        self._send = send
        self._of: dict[asyncio.AbstractEventLoop, Gathering[Q]] = {}
        self._last: tuple[asyncio.AbstractEventLoop, Gathering[Q]] | None = None

    def here(self) -> Gathering[Q]:
        """Give that of the loop that is running."""
        loop = asyncio.get_running_loop()
        last = self._last
        if last is not None and last[0] is loop:
            return last[1]
        gathering = self._of.get(loop)
        if gathering is None:
            for other in [*self._of]:  # a gathering holds its loop
                if other.is_closed():
                    self._of.pop(other, None)
            gathering = self._of.setdefault(loop, Gathering(self._send, loop))
        self._last = loop, gathering
        return gathering


def own(error: E) -> E:
    """Give an error that is one caller's own: its traceback grows where it is raised."""
    try:
        copied = copy.copy(error)
    except Exception:  # one that cannot be made anew is better shared than lost
        return error
    copied.__cause__ = error.__cause__
    return copied.with_traceback(error.__traceback__)
