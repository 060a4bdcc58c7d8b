"""A thread that runs blocking calls for event loops, all that are waiting as one batch.

A hop to a thread and back costs some 50 microseconds; a batch pays it once. Nothing is delayed to fill a batch: it is
what has come while the one before it ran.
"""

from __future__ import annotations

import asyncio
import threading
import weakref
from concurrent.futures import Future
from contextlib import suppress
from queue import Empty, SimpleQueue
from typing import TYPE_CHECKING, Any, TypeAlias, TypeVar

from kv.backends.forking import concerns
from kv.errors import StoreClosed

if TYPE_CHECKING:
    from collections.abc import Callable

    Runner: TypeAlias = Callable[[list["Call"]], None]

T = TypeVar("T")


class _Thread(threading.local):
    """What is known of a thread: whether it is a worker's."""

    working = False


_here = _Thread()
_LONGEST = 1_000
"""So many calls make a batch at most, so that the first is not kept waiting for the last."""


class Call:
    """A call on its way: what to run, who waits for it, and what came of it."""

    __slots__ = ("error", "future", "loop", "result", "run")

    def __init__(self, run: Callable[[], Any]) -> None:
        self.run: Any = run
        self.loop = asyncio.get_running_loop()
        self.future: asyncio.Future[Any] = self.loop.create_future()
        self.result: Any = None
        self.error: BaseException | None = None

    def execute(self) -> None:
        """Run it, unless whoever waited has been cancelled, and keep what came of it."""
        if self.future.cancelled():
            return
        self.error = None
        try:
            self.result = self.run()
        except BaseException as e:
            self.error = e

    def settle(self) -> None:
        """Tell who waits; in the event loop's thread."""
        if self.future.done():
            return
        if self.error is None:
            self.future.set_result(self.result)
        elif isinstance(self.error, StopIteration):  # no coroutine can raise it: what Python itself does then
            error = RuntimeError("coroutine raised StopIteration")
            error.__cause__ = self.error
            self.future.set_exception(error)
        else:
            self.future.set_exception(self.error)


class Ending:
    """The last that a worker is told: what to do before it ends."""

    def __init__(self, last: Callable[[], None] | None = None) -> None:
        self._last = last
        self._done: Future[None] = Future()

    def run(self) -> None:
        try:
            if self._last is not None:
                self._last()
        except BaseException as e:
            self._done.set_exception(e)
        else:
            self._done.set_result(None)

    async def wait(self) -> None:
        await asyncio.shield(asyncio.wrap_future(self._done))


def one_by_one(calls: list[Call]) -> None:
    """Run a batch of calls that have nothing to share."""
    for call in calls:
        call.execute()


class Worker:
    """A daemon thread with a queue; starts with the first call, ends with `stop` or when nobody holds the worker.

    Args:
        name: of the thread.
        closed: what a call after `stop` is told.
        runner: how a batch of calls is run.
    """

    def __init__(self, name: str, closed: str, runner: Runner = one_by_one) -> None:
        self._name = name
        self._closed = closed
        self._runner = runner
        self._reset()
        concerns(self)

    def _reset(self) -> None:
        self._lock = threading.Lock()  # protects the two below: nothing comes into the queue behind its end
        self._thread: threading.Thread | None = None
        self._stopped = False
        self._ending = Ending()
        self._queue: SimpleQueue[Call | Ending] = SimpleQueue()
        weakref.finalize(self, self._queue.put, self._ending)

    async def __call__(self, run: Callable[[], T]) -> T:
        """Run it in the thread. Cancelled before its batch begins, it does not run at all."""
        if _here.working:  # a function that a worker runs calls the store: to wait would be for ever
            return run()
        call = Call(run)
        with self._lock:
            if self._stopped:
                raise StoreClosed(self._closed)
            if self._thread is None:
                self._start()
            self._queue.put(call)
        result: T = await call.future
        return result

    def _start(self) -> None:
        thread = threading.Thread(target=_work, args=(self._queue, self._runner), name=self._name, daemon=True)
        thread.start()
        self._thread = thread

    def stop(self, last: Callable[[], None] | None = None) -> None:
        """End the thread when it has done what is queued, and then `last`."""
        with self._lock:
            if not self._stopped:
                if last and self._thread is None:
                    self._start()
                self._stopped = True
                self._ending = Ending(last)
                self._queue.put(self._ending)

    async def ended(self) -> None:
        """Wait, after `stop`, for the last to be done, and for the thread to end."""
        if not _here.working:  # else it is a worker who would wait for itself
            await self._ending.wait()
            self.join()  # it has nothing left to do

    def join(self) -> None:
        """Wait, after `stop`, for the thread to end."""
        if self._thread is not None:
            self._thread.join()

    def before_fork(self) -> None:
        pass

    def after_fork(self, *, child: bool) -> None:
        if child:
            self._reset()


def _work(queue: SimpleQueue[Call | Ending], runner: Runner) -> None:
    _here.working = True
    while True:
        batch = [queue.get()]
        try:
            while len(batch) < _LONGEST:
                batch.append(queue.get_nowait())
        except Empty:
            pass
        calls = [call for call in batch if isinstance(call, Call)]
        if calls:
            runner(calls)
            _deliver(calls)
        for ending in batch:
            if isinstance(ending, Ending):  # the last that came
                ending.run()
                return
        del batch, calls  # hold nothing while waiting


def _deliver(calls: list[Call]) -> None:
    """Tell each event loop, once."""
    for loop in {call.loop for call in calls}:
        with suppress(RuntimeError):  # the loop is closed, and nobody waits
            loop.call_soon_threadsafe(_settle, [call for call in calls if call.loop is loop])


def _settle(calls: list[Call]) -> None:
    for call in calls:
        call.settle()
