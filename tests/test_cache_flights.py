"""One call of the factory for all who ask at once, and what becomes of the others where it fails, or one is cancelled."""

from __future__ import annotations

import asyncio
import itertools
from functools import partial
from typing import TYPE_CHECKING, Any

import pytest
from adapted import AsyncCutOff, now
from caches import Clock, ask, cache_on, refreshing, slow, waiting
from colours import both, run
from waiting import until, wait_for

import kv
from kv.adapters import AsyncCache
from kv.testing.suite import Lifted, together

if TYPE_CHECKING:
    from collections.abc import Callable


@both
def test_of_many_who_ask_at_once_one_makes_the_value(opens: Callable[..., Any], anywhere: str) -> None:
    async def body(store: kv.AsyncStore) -> None:
        cache, callers, calls = cache_on(store), 8, itertools.count(1)

        def all_wait(key: str) -> bool:
            return waiting(cache, key) == callers - 1

        for key in ("k", "l"):
            factory = slow(cache, partial(all_wait, key), lambda: next(calls))
            values = await together(store, *(ask(cache, factory, key) for _ in range(callers)))
            assert len({*values}) == 1
        assert next(calls) == 3
        assert cache._flights._flights == {}

    run(opens(anywhere), body)


@both
def test_an_error_reaches_all_who_wait_for_that_call_and_is_not_kept(opens: Callable[..., Any]) -> None:
    async def body(store: kv.AsyncStore) -> None:
        cache, calls = cache_on(store), itertools.count(1)

        def fail() -> None:
            raise LookupError(next(calls))

        async def asks() -> str:
            with pytest.raises(LookupError) as caught:
                await ask(cache, factory)
            return str(caught.value)

        factory = slow(cache, lambda: waiting(cache) == 4, fail)
        assert await together(store, *(asks() for _ in range(5))) == ["1"] * 5
        assert await ask(cache, lambda: "value") == "value"

    run(opens("memory://"), body)


class Stop(BaseException):
    """As Ctrl-C."""


@both
def test_who_is_interrupted_while_he_makes_the_value_leaves_it_to_another(opens: Callable[..., Any]) -> None:
    async def body(store: kv.AsyncStore) -> None:
        cache, calls = cache_on(store), itertools.count(1)

        def outcome() -> int:
            if (n := next(calls)) == 1:
                raise Stop
            return n

        async def asks() -> Any:
            try:
                return await ask(cache, factory)
            except Stop:
                return "stopped"

        seen: list[int] = []

        def enough() -> bool:
            seen.append(waiting(cache))
            return max(seen) == 3

        factory = slow(cache, enough, outcome)
        values = await together(store, *(asks() for _ in range(4)))
        assert sorted(map(str, values)) == ["2", "2", "2", "stopped"]
        assert await store.namespace("cache").keys() == ["k"]

    run(opens("memory://"), body)


@both
def test_a_factory_may_ask_for_other_keys(opens: Callable[..., Any]) -> None:
    async def body(store: kv.AsyncStore) -> None:
        cache = cache_on(store)
        assert await ask(cache, lambda: cache.get_or_set("a", lambda: cache.get_or_set("b", lambda: 1))) == 1
        assert [await now(cache.get(key)) for key in "kab"] == [1, 1, 1]

    run(opens("memory://"), body)


@both
def test_a_factory_that_asks_for_its_own_key_is_told_so(opens: Callable[..., Any]) -> None:
    async def body(store: kv.AsyncStore) -> None:
        cache = cache_on(store)
        with pytest.raises(RuntimeError, match="the factory for 'k' would wait for itself"):
            await ask(cache, lambda: cache.get_or_set("k", int))
        with pytest.raises(RuntimeError, match="the factory for 'k' would wait for itself"):
            await ask(cache, lambda: cache.get_or_set("a", lambda: cache.get_or_set("k", int)))
        assert await ask(cache, lambda: 1) == 1

    run(opens("memory://"), body)


@both
def test_factories_that_wait_for_each_other_are_told_so(opens: Callable[..., Any]) -> None:
    async def body(store: kv.AsyncStore) -> None:
        cache = cache_on(store)
        begun: set[str] = set()

        def plain(key: str, other: str) -> Any:
            begun.add(key)
            wait_for(lambda: len(begun) == 2)
            return cache.get_or_set(other, lambda: 1)

        async def coroutine(key: str, other: str) -> Any:
            begun.add(key)
            await until(lambda: len(begun) == 2)
            return await cache.get_or_set(other, lambda: 1)

        factory = plain if isinstance(store, Lifted) else coroutine

        async def asks(key: str, other: str) -> str:
            try:
                return f"{await ask(cache, lambda: factory(key, other), key)}"
            except RuntimeError as e:
                return str(e)[:11]

        # at least one is told; the other one may get a value from that, or be told the same
        assert "the factory" in await together(store, asks("a", "b"), asks("b", "a"))

    run(opens("memory://"), body)


@both
def test_a_factory_does_not_wait_for_what_it_has_made_anew_in_the_background(opens: Callable[..., Any]) -> None:
    async def body(store: kv.AsyncStore) -> None:
        clock = Clock()
        cache = cache_on(store, ttl=60, stale_while_revalidate=60, clock=clock)
        await now(cache.set("b", "old"))
        clock.now += 61

        def plain() -> Any:
            given = cache.get_or_set("b", lambda: cache.get_or_set("a", str))  # waits for us
            wait_for(lambda: waiting(cache, "a") == 1)
            return given

        async def coroutine() -> Any:
            given = await cache.get_or_set("b", lambda: cache.get_or_set("a", str))
            await until(lambda: waiting(cache, "a") == 1)
            return given

        assert await ask(cache, plain if isinstance(store, Lifted) else coroutine, "a") == "old"
        await until(lambda: not refreshing(cache))
        assert await now(cache.get("b")) == "old"  # what a is now
        clock.now += 59
        assert await now(cache.get("b")) == "old"  # for a minute from then

    run(opens("memory://"), body)


# cancelled


def asynchronous(body: Callable[[kv.AsyncStore, AsyncCache[Any]], Any]) -> None:
    async def main(store: kv.AsyncStore) -> None:
        await body(store, AsyncCache(store))

    run(kv.open_async("memory://"), main)


@pytest.mark.parametrize("who", [0, 1, 2])
def test_a_task_that_is_cancelled_while_it_waits_harms_nobody(who: int) -> None:
    async def body(store: kv.AsyncStore, cache: AsyncCache[Any]) -> None:
        go, calls = asyncio.Event(), 0

        async def factory() -> int:
            nonlocal calls
            calls += 1
            await go.wait()
            return calls

        tasks = [asyncio.create_task(cache.get_or_set("k", factory)) for _ in range(3)]
        await until(lambda: waiting(cache) == 2)
        tasks[who].cancel()
        await asyncio.wait([tasks[who]])
        go.set()
        results = await asyncio.gather(*tasks, return_exceptions=True)
        assert isinstance(results.pop(who), asyncio.CancelledError)
        assert results == [1, 1]
        assert await cache.get("k") == 1

    asynchronous(body)


def test_when_the_last_is_cancelled_the_factory_is_too_and_nobody_else_waits_for_it() -> None:
    async def body(store: kv.AsyncStore, cache: AsyncCache[Any]) -> None:
        cancelled, cleaned = asyncio.Event(), asyncio.Event()

        async def factory() -> None:
            try:
                await asyncio.Event().wait()
            except asyncio.CancelledError:
                cancelled.set()
                await cleaned.wait()
                raise

        tasks = [asyncio.create_task(cache.get_or_set("k", factory)) for _ in range(3)]
        await until(lambda: waiting(cache) == 2)
        (flight,) = cache._flights._flights.values()
        for task in tasks:
            task.cancel()
        await cancelled.wait()
        assert await cache.get_or_set("k", lambda: 1) == 1
        cleaned.set()
        assert flight.task is not None
        await asyncio.wait([flight.task])
        assert all(task.cancelled() for task in tasks)
        assert await cache.get("k") == 1
        assert cache._flights._flights == {}

    asynchronous(body)


def test_when_all_are_cancelled_no_lease_stays() -> None:
    async def body(store: kv.AsyncStore, cache: AsyncCache[Any]) -> None:
        task = asyncio.create_task(cache.get_or_set("k", asyncio.Event().wait))
        await until(lambda: any(flight.token for flight in [*cache._flights._flights.values()]))
        (flight,) = cache._flights._flights.values()
        task.cancel()
        assert flight.task is not None
        await asyncio.wait([task, flight.task])
        assert await store.namespace("cache").keys() == []

    asynchronous(body)


def test_a_task_that_is_cancelled_in_the_middle_of_taking_the_lease_gives_it_back() -> None:
    async def body(store: kv.AsyncStore, _: AsyncCache[Any]) -> None:
        cut = AsyncCutOff(store, "compare_and_set", asyncio.CancelledError())
        with pytest.raises(asyncio.CancelledError):
            await AsyncCache(cut, processes=True).get_or_set("k", int)
        assert await store.namespace("cache").keys() == []

    asynchronous(body)
