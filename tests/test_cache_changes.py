"""Changes while a factory runs: none is undone, and nobody is given what was made before."""

from __future__ import annotations

import asyncio
import itertools
import threading
import time
from typing import TYPE_CHECKING, Any

import pytest
from adapted import now
from caches import Clock, ask, cache_on, slow
from colours import both, run
from waiting import until

from kv.testing.suite import Lifted, together

if TYPE_CHECKING:
    from collections.abc import Callable

    import kv


CHANGES: dict[str, Callable[[Any], Any]] = {
    "delete": lambda cache: cache.delete("k"),
    "set": lambda cache: cache.set("k", "set"),
    "clear": lambda cache: cache.clear(),
    "clear a prefix": lambda cache: cache.clear("k"),
    "invalidate": lambda cache: cache.invalidate("other", "t"),
}


@pytest.mark.parametrize("processes", [False, True], ids=["alone", "processes"])
@pytest.mark.parametrize("theirs", [False, True], ids=["own", "another's"])
@both
def test_a_change_while_the_factory_runs_is_not_undone(
    opens: Callable[..., Any], anywhere: str, theirs: bool, processes: bool
) -> None:
    async def body(store: kv.AsyncStore) -> None:
        cache = cache_on(store, processes=processes)
        other = cache_on(store, processes=processes) if theirs else cache
        for name, change in CHANGES.items():
            running, changed = threading.Event(), threading.Event()

            def outcome() -> str:
                return "before"

            def begun(running: threading.Event = running, changed: threading.Event = changed) -> bool:
                running.set()
                return changed.is_set()

            async def changes(
                name: str = name,
                change: Callable[[Any], Any] = change,
                running: threading.Event = running,
                changed: threading.Event = changed,
            ) -> None:
                await until(running.is_set)
                await now(change(other))
                assert await now(cache.get("k")) == ("set" if name == "set" else None)
                after = await ask(other, lambda: "after", tags=["t"])  # does not wait for what was begun before
                assert after == ("set" if name == "set" else "after"), name
                changed.set()

            first, _ = await together(store, ask(cache, slow(cache, begun, outcome), tags=["t"]), changes())
            assert first == "before"
            assert await now(cache.get("k")) == ("set" if name == "set" else "after"), name
            await now(cache.clear())

    run(opens(anywhere), body)


@both
def test_without_processes_another_cache_does_not_wait_and_one_of_both_stores(opens: Callable[..., Any]) -> None:
    async def body(store: kv.AsyncStore) -> None:
        cache, other = cache_on(store), cache_on(store)
        running, done = threading.Event(), threading.Event()

        def begun() -> bool:
            running.set()
            return done.is_set()

        async def second() -> Any:
            await until(running.is_set)
            value = await ask(other, lambda: "second", tags=["t"])
            assert await now(cache.get("k")) == "second"
            done.set()
            return value

        factory = slow(cache, begun, lambda: "first")
        assert await together(store, ask(cache, factory, tags=["t"]), second()) == ["first", "second"]
        assert await now(cache.get("k")) == "second"

    run(opens("memory://"), body)


@both
def test_who_is_slower_than_his_lease_is_not_waited_for_and_stores_if_he_is_first(opens: Callable[..., Any]) -> None:
    async def body(store: kv.AsyncStore) -> None:
        clock = Clock()
        cache, other = (cache_on(store, processes=True, lease=30, clock=clock) for _ in range(2))
        slow_one, fast_one = threading.Event(), threading.Event()

        def begun(event: threading.Event, go: threading.Event) -> Callable[[], bool]:
            return lambda: event.set() or go.is_set()  # type: ignore[func-returns-value]

        running, running_too = threading.Event(), threading.Event()

        async def first() -> Any:
            return await ask(cache, slow(cache, begun(running, slow_one), lambda: "slow"))

        async def second() -> Any:
            await until(running.is_set)
            clock.now += 30
            return await ask(other, slow(cache, begun(running_too, fast_one), lambda: "second"))

        async def third() -> None:
            await until(running_too.is_set)
            slow_one.set()
            await until(lambda: not cache._flights._flights)
            assert await now(cache.get("k")) == "slow"
            fast_one.set()

        assert (await together(store, first(), second(), third()))[:2] == ["slow", "second"]
        assert await now(cache.get("k")) == "slow"

    run(opens("memory://"), body)


@pytest.mark.parametrize("processes", [False, True], ids=["alone", "processes"])
@both
def test_nobody_is_given_what_was_old_when_he_asked(opens: Callable[..., Any], anywhere: str, processes: bool) -> None:
    async def body(store: kv.AsyncStore) -> None:
        caches = [cache_on(store, processes=processes) for _ in range(2)]
        truth = told = 0

        def plain() -> int:
            value = truth
            time.sleep(0)
            return value

        async def coroutine() -> int:
            value = truth
            await asyncio.sleep(0)
            return value

        factory = plain if isinstance(store, Lifted) else coroutine

        async def reads(cache: Any) -> None:
            while truth < 40:
                before = told
                assert await ask(cache, factory, tags=["t"]) >= before
                await asyncio.sleep(0)

        async def writes() -> None:
            nonlocal truth, told
            for n, change in zip(range(1, 41), itertools.cycle(CHANGES), strict=False):
                truth = n
                cache = caches[n % 2]
                await now(cache.set("k", n, tags=["t"]) if change == "set" else CHANGES[change](cache))
                told = n
                await asyncio.sleep(0)

        await together(store, writes(), *(reads(cache) for cache in caches * 3))

    run(opens(anywhere), body)
