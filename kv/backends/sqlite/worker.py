"""A thread that runs blocking calls for event loops, all that are waiting as one batch.

A hop to a thread and back costs some 50 microseconds; a batch pays it once. Nothing is delayed to fill a batch: it is
what has come while the one before it ran.
"""

from __future__ import annotations

import asyncio
import threading
import weakref
from contextlib import suppress
from queue import Empty, SimpleQueue
from typing import TYPE_CHECKING, Any, TypeAlias, TypeVar

from kv.backends.forking import concerns

if TYPE_CHECKING:
    from collections.abc import Callable

    Runner: TypeAlias = Callable[[list["Call"]], None]

T = TypeVar("T")

_here = threading.local()
"""Whether this thread is a worker's."""
_LONGEST = 1_000
"""So many calls make a batch at most, so that the first is not kept waiting for the last."""


class Call:
    """A call on its way: what to run, who waits for it, and what came of it."""

    __slots__ = ("error", "future", "loop", "result", "run")

    def __init__(self, run: Callable[[], Any]) -> None:
        self.run = run
        self.loop = asyncio.get_running_loop()
        self.future: asyncio.Future[Any] = self.loop.create_future()
        self.result: Any = None
        self.error: BaseException | None = None

    def execute(self) -> None:
        """Run it, unless whoever waited has been cancelled, and keep what came of it."""
        if self.future.cancelled():
            return
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
        else:
            self.future.set_exception(self.error)


def one_by_one(calls: list[Call]) -> None:
    """Run a batch of calls that have nothing to share."""
    for call in calls:
        call.execute()


class Worker:
    """A daemon thread with a queue; starts with the first call, ends with `stop` or when nobody holds the worker."""

    def __init__(self, name: str, runner: Runner = one_by_one) -> None:
        self._name = name
        self._runner = runner
        self._reset()
        concerns(self)

    def _reset(self) -> None:
        self._lock = threading.Lock()  # protects the two below: nothing comes into the queue behind its end
        self._started = False
        self._stopped = False
        self._queue: SimpleQueue[Call | None] = SimpleQueue()
        weakref.finalize(self, self._queue.put, None)

    async def __call__(self, run: Callable[[], T]) -> T:
        """Run it in the thread. Cancelled before its batch begins, it does not run at all."""
        if hasattr(_here, "working"):  # a function that a worker runs calls the store: to wait would be for ever
            return run()
        call = Call(run)
        with self._lock:
            stopped = self._stopped
            if not stopped:
                self._queue.put(call)
            if not self._started:
                self._started = True
                args = (self._queue, self._runner)
                threading.Thread(target=_work, args=args, name=self._name, daemon=True).start()
        if stopped:
            return run()  # the store is closed, and says so
        result: T = await call.future
        return result

    def stop(self) -> None:
        """End the thread when it has done what is queued."""
        with self._lock:
            self._stopped = self._started = True
            self._queue.put(None)

    def before_fork(self) -> None:
        pass

    def after_fork(self, *, child: bool) -> None:
        if child:
            self._reset()


def _work(queue: SimpleQueue[Call | None], runner: Runner) -> None:
    _here.working = True
    while True:
        batch = [queue.get()]
        try:
            while len(batch) < _LONGEST:
                batch.append(queue.get_nowait())
        except Empty:
            pass
        calls = [call for call in batch if call is not None]
        if calls:
            runner(calls)
            _deliver(calls)
        if len(calls) < len(batch):
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
