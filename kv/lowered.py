"""A thread beside an event loop, and stores of either colour as sync ones for it: `kv.lifted` the other way round.

So what takes long is written once, in the sync colour, and `kv.transfer` has both.
"""

from __future__ import annotations

import asyncio
import threading
from concurrent.futures import ThreadPoolExecutor
from contextvars import copy_context
from functools import partial
from typing import TYPE_CHECKING, Any, ParamSpec, TypeVar, cast

from .base import AsyncBaseStore, BaseStore
from .lifted import AsyncFromSync

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Iterator
    from typing import Self

    from .store import AsyncStore, Store

__all__ = ["Aside", "Lowered", "go_on", "lowered"]

T = TypeVar("T")
P = ParamSpec("P")

_here = threading.local()
"""What tells the work in this thread to stop, where it is an `Aside`'s."""


class Stopped(Exception):
    """Whoever wanted the work has been cancelled."""


def go_on() -> None:
    """Raise `Stopped` in the thread of an `Aside` that has been cancelled; anywhere else, do nothing."""
    if hasattr(_here, "stop") and _here.stop.is_set():
        raise Stopped


class Aside:
    """A thread that works for the running event loop, until the end of `with`.

    It is none of `asyncio.to_thread`: those are few, and a store may need one of them for what this one waits for.
    """

    def __init__(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._stop = threading.Event()
        self._thread = ThreadPoolExecutor(1, "kv-aside", setattr, (_here, "stop", self._stop))

    def lower(self, store: Store | AsyncStore) -> BaseStore:
        """Give a store of either colour as the thread may call it."""
        return store if isinstance(store, BaseStore) else lowered(store, self._loop)

    async def run(self, work: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        """Do the work in the thread. Cancelled, it is done when the work has come to its next `go_on`."""
        running = self._loop.run_in_executor(self._thread, copy_context().run, partial(work, *args, **kwargs))
        cancelled = None
        while not running.done():
            try:
                await asyncio.wait([running])
            except asyncio.CancelledError as e:
                self._stop.set()
                cancelled = e
        if cancelled is not None:
            running.exception()  # or it would be reported as seen by nobody
            raise cancelled
        return running.result()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        self._thread.shutdown()


def lowered(store: Store | AsyncStore, loop: asyncio.AbstractEventLoop) -> BaseStore:
    """Give an async store as a sync one, as far as `kv.transfer` needs it, for a thread that is not the loop's."""
    if not isinstance(store, AsyncBaseStore | AsyncFromSync):
        raise TypeError(
            f"kv.transfer moves stores that are a kv.base.BaseStore or AsyncBaseStore, and not {type(store).__name__}"
        )
    return cast("BaseStore", Lowered(store, loop))


class Lowered:
    """What `lowered` gives. Each method runs in the event loop while the thread waits."""

    def __init__(self, store: AsyncBaseStore | AsyncFromSync, loop: asyncio.AbstractEventLoop) -> None:
        self._store = store
        self._loop = loop

    def _wait(self, method: Callable[..., Any], *args: object) -> Any:
        async def call() -> Any:
            return await method(*args)

        return asyncio.run_coroutine_threadsafe(call(), self._loop).result()

    def __getattr__(self, name: str) -> Any:
        return partial(self._wait, getattr(self._store, name))

    def namespace(self, name: str) -> Lowered:
        return Lowered(self._store.namespace(name), self._loop)

    def _gather(self) -> Lowered:
        return Lowered(self._wait(self._store._gather), self._loop)

    def _records(self, after: str | None) -> Iterator[Any]:
        return self._each(self._store._records(after))

    def _pages(self, prefix: str) -> Iterator[Any]:
        return self._each(self._store._pages(prefix))

    def _each(self, pages: AsyncIterator[Any]) -> Iterator[Any]:
        # Nothing is closed here in the end, which may come in the loop's own thread; the loop closes what is left.
        while (page := self._wait(anext, pages, None)) is not None:
            yield page

    def __repr__(self) -> str:
        return repr(self._store)
