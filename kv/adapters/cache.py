"""A cache on any store: a value is made once, by one of all who want it, and again when it is old."""

from __future__ import annotations

import asyncio
import contextlib
import inspect
import os
import threading
from typing import TYPE_CHECKING, Any, ParamSpec, TypeVar, cast, overload

from kv.store import AsyncStore, Store

from .cachedfunctions import AsyncCachedFunction, CachedFunction, async_decorator, decorator
from .caching import OWN, Caching, T
from .steps import run, run_async

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Iterable

    from kv.expiry import TTL

    from .cachedfunctions import AsyncDecorator, Key, Tags
    from .caching import Asked, Own
    from .entries import Found
    from .flights import Flight
    from .steps import Steps

__all__ = ["AsyncCache", "AsyncCachedFunction", "Cache", "CachedFunction"]

D = TypeVar("D")
P = ParamSpec("P")
R = TypeVar("R")


class Cache(Caching[Store, T]):
    """Values that are costly to make, kept for a while on a store.

        cache = Cache(store, ttl=60, stale_if_error=3600)
        user = cache.get_or_set("user:1", lambda: load(1), tags=["users"])

        @cache.cached(tags=["users"])
        def user(number: int) -> dict: ...

    Of many threads that want a value at once one makes it, and the others wait for it; with `processes`, of many processes
    too. A value is never older than a change that was told: when `delete`, `set`, `clear` or `invalidate` returns, no later
    call gives, and no factory that was running stores, what was made before; in whatever process.

    A value is fresh for its ttl. After that, for `stale_while_revalidate` seconds, it is given all the same, while one thread
    in the background makes the next; and for `stale_if_error` seconds it is given where the factory raises an `Exception`.
    What fails in place of somebody's call is logged by the logger `kv.cache`. Fresh, late and over are told by the clocks of
    those who ask, which should agree by as much as that matters.

    A hit is one call on the store, and with tags two; a miss is three, with tags one or two more, and where some of these are
    new one more and one for each. What is stored lies in the namespace `cache`, a stamp for each tag in `cache`, `tags`; both
    may be removed at any time, and what they were for is made anew.

    Args:
        store: an open store. It is not closed here.
        kind: the type of the values. None is a value too, where the type allows it.
        codec: as for `kv.typed`.
        ttl: for how long a value is fresh, where a call does not say: seconds or a `timedelta`; None: for ever.
        stale_while_revalidate: seconds or a `timedelta`.
        stale_if_error: seconds or a `timedelta`.
        jitter: up to this part of the ttl is taken off by chance, so that what was stored together is not over together;
            from 0 to less than 1.
        processes: one factory call per key among processes too. Others ask the store every 5 to 250 ms, for a lease at most,
            whether the value is there. Where a factory raises, that comes out in its own process; the next one then tries.
        lease: for how long others wait for who makes a value; longer than a factory takes. If he was killed they then go on
            without him.
        clock: seconds since 1970.
    """

    _end = "close"

    @overload
    def get(self, key: str) -> T | None: ...
    @overload
    def get(self, key: str, default: D) -> T | D: ...
    def get(self, key: str, default: object = None) -> object:
        """Give the value where it is fresh, else `default`. One call on the store, two for a value with tags.

        Raises:
            CorruptData: what is stored is not a cache's, or no `T`.
        """
        return run(self._getting(key, default))

    def set(self, key: str, value: T, *, ttl: TTL | Own = OWN, tags: Iterable[str] = ()) -> None:
        """Store a value. A factory that is running for the key stores nothing. One call; with tags one more, and where
        some of these are new one more and one for each.

        Args:
            key: any key.
            value: the value.
            ttl: for how long it is fresh.
            tags: any keys; when one of them is invalidated, the value is gone.
        """
        run(self._setting(key, value, ttl, tags))

    def get_or_set(self, key: str, factory: Callable[[], T], ttl: TTL | Own = OWN, *, tags: Iterable[str] = ()) -> T:
        """Give the value, or have the factory make it, and store that.

        Args:
            key: any key.
            factory: gives the value. It may use the cache, for other keys. An `Exception` of it comes out of all who wait
                for this call of it, and is not stored; any other exception, as of Ctrl-C, comes out where it is called
                alone, and another of those who wait calls its own factory.
            ttl: for how long it is fresh, from when it is there.
            tags: any keys; when one of them is invalidated, the value is gone.

        Returns:
            A value of the caller's own: what is done to it, nobody else sees.

        Raises:
            RuntimeError: the factory asks for its own key, directly or by way of others.
            InvalidValue: the codec does not take what the factory gives.
            CorruptData: what is stored is not a cache's, or no `T`; `delete` removes it.
            BackendError: the store failed, whether or not the value is there.
        """
        if inspect.iscoroutinefunction(factory):
            raise TypeError("the factory is a coroutine function; use AsyncCache")
        return run(self._answering(self._asked(key, factory, ttl, tags)))

    def delete(self, key: str) -> bool:
        """Remove the value. A factory that is running for the key stores nothing. Gives whether there was something to remove.

        One atomic call.
        """
        return cast("bool", self._entries.delete(key))

    def invalidate(self, *tags: str) -> None:
        """Have all values with one of these tags be gone. One call on the store, however many they are."""
        run(self._invalidating(tags))

    def clear(self, prefix: str = "") -> int:
        """Remove all values whose keys begin with the prefix, and nothing else. Gives how many. A listing of the keys."""
        return run(self._clearing(prefix))

    def cached(
        self,
        *,
        ttl: TTL | Own = OWN,
        key: Key = None,
        tags: Tags = (),
    ) -> Callable[[Callable[P, R]], CachedFunction[P, R]]:
        """Give a decorator that has a function's values cached.

        The key is the function's module and name with all its arguments, defaults too: `f(1)` and `f(a=1)` are one call,
        `f(1)` and `f(True)` two. Arguments may be str, int, float, bool, None, bytes, UUID, Decimal, dates and times, members
        of Enums, paths, dataclasses, and tuples, lists, sets and dicts of these. What a function closes over is not in its key.

        Args:
            ttl: for how long a value is fresh.
            key: gives the key from the arguments; for others than those above, such as `self`.
            tags: of all values, or a function that gives those of a call from the arguments.

        Raises:
            TypeError: at the call, an argument has no form that is the same in every process; at once, the function is a
                lambda without `key`.
        """
        return decorator(self, ttl, key, tags)

    def _where(self) -> object:
        return os.getpid()

    def _call(self, factory: Callable[[], Any]) -> Any:
        value = factory()
        if inspect.iscoroutine(value):
            value.close()
            raise TypeError("the factory gave a coroutine; use AsyncCache")
        return value

    def _fly(self, asked: Asked, found: Found, over: Flight | None) -> Any:
        return self._flights.fly(asked.key, lambda flight: run(self._flying(asked, flight, found)), over)

    def _begin(self, steps: Steps[None]) -> threading.Thread:
        thread = threading.Thread(target=run, args=(steps,), name="kv.cache refresh", daemon=True)
        with contextlib.suppress(RuntimeError):  # no more threads, or the interpreter ends: the next call tries
            thread.start()
        return thread

    def _goes_on(self, refresher: threading.Thread) -> bool:
        return refresher.is_alive()


class AsyncCache(Caching[AsyncStore, T]):
    """See `Cache`. One of many tasks of an event loop makes a value, in a task of its own, so that no cancelled one harms the
    others; it is cancelled when the last of them is. A factory may be a coroutine function, or a plain one, which then runs
    in the event loop."""

    _end = "aclose"

    @overload
    async def get(self, key: str) -> T | None: ...
    @overload
    async def get(self, key: str, default: D) -> T | D: ...
    async def get(self, key: str, default: object = None) -> object:
        """See `Cache.get`."""
        return await run_async(self._getting(key, default))

    async def set(self, key: str, value: T, *, ttl: TTL | Own = OWN, tags: Iterable[str] = ()) -> None:
        """See `Cache.set`."""
        await run_async(self._setting(key, value, ttl, tags))

    async def get_or_set(
        self, key: str, factory: Callable[[], T | Awaitable[T]], ttl: TTL | Own = OWN, *, tags: Iterable[str] = ()
    ) -> T:
        """See `Cache.get_or_set`."""
        return await run_async(self._answering(self._asked(key, factory, ttl, tags)))

    async def delete(self, key: str) -> bool:
        """See `Cache.delete`."""
        return cast("bool", await self._entries.delete(key))

    async def invalidate(self, *tags: str) -> None:
        """See `Cache.invalidate`."""
        await run_async(self._invalidating(tags))

    async def clear(self, prefix: str = "") -> int:
        """See `Cache.clear`."""
        return await run_async(self._clearing(prefix))

    def cached(
        self,
        *,
        ttl: TTL | Own = OWN,
        key: Key = None,
        tags: Tags = (),
    ) -> AsyncDecorator:
        """See `Cache.cached`. What it makes of a plain function is a coroutine function too."""
        return async_decorator(self, ttl, key, tags)

    def _where(self) -> object:
        return asyncio.get_running_loop()

    async def _call(self, factory: Callable[[], Any]) -> Any:
        value = factory()
        return await value if inspect.isawaitable(value) else value

    def _fly(self, asked: Asked, found: Found, over: Flight | None) -> Any:
        return self._flights.fly_async(asked.key, lambda flight: run_async(self._flying(asked, flight, found)), over)

    def _begin(self, steps: Steps[None]) -> asyncio.Task[None]:
        return asyncio.get_running_loop().create_task(run_async(steps))

    def _goes_on(self, refresher: asyncio.Task[None]) -> bool:
        return not refresher.done() and not refresher.get_loop().is_closed()
