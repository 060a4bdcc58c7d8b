"""The cache: what is found, how old it may be, and what goes wrong."""

from __future__ import annotations

import asyncio
import itertools
import logging
import threading
from functools import partial
from typing import TYPE_CHECKING, Any

import pytest
from adapted import AsyncCutOff, CutOff, now, on
from caches import Clock, ask, cache_on, counted, refreshing, slow, waiting
from colours import both, run
from waiting import until

import kv
from kv.adapters import AsyncCache, Cache
from kv.adapters.caching import REFRESHES
from kv.adapters.entries import read
from kv.testing.suite import Lifted, together
from kv.wrappers.base import Wrapper

if TYPE_CHECKING:
    from collections.abc import Callable


# what is found


@both
def test_a_value_is_made_once_and_then_found(opens: Callable[..., Any], anywhere: str) -> None:
    async def body(store: kv.AsyncStore) -> None:
        cache, other = cache_on(store), cache_on(store)
        factory, calls = counted()
        assert await now(cache.get("k")) is None
        assert await now(cache.get("k", "none")) == "none"
        assert [await ask(cache, factory), await ask(other, factory), await now(other.get("k"))] == [1, 1, 1]
        assert await ask(cache, factory, "K é*") == 2
        assert await now(cache.delete("k"))
        assert not await now(cache.delete("k"))
        assert await ask(other, factory) == 3
        await now(cache.set("k", ["set"]))
        assert await ask(other, factory) == ["set"]
        assert len(calls) == 3

    run(opens(anywhere), body)


@both
def test_none_is_a_value(opens: Callable[..., Any]) -> None:
    async def body(store: kv.AsyncStore) -> None:
        cache = cache_on(store)
        for _ in range(2):
            assert await ask(cache, lambda: None) is None
        assert await now(cache.get("k", 1)) is None
        factory, calls = counted()
        assert await ask(cache, factory) is None
        assert calls == []

    run(opens("memory://"), body)


@both
def test_tags_and_prefixes_take_away_what_they_name_and_nothing_else(opens: Callable[..., Any], anywhere: str) -> None:
    async def body(store: kv.AsyncStore) -> None:
        cache = cache_on(store)
        await store.set("a1", b"mine")
        for key, tags in {"a1": ["x"], "a2": ["x", "y"], "b1": ["y"], "b2": []}.items():
            assert await ask(cache, partial(str, key), key, tags=tags) == key
        await now(cache.set("c", "c", tags=("x", "z")))

        async def left() -> list[str]:
            return [key for key in ("a1", "a2", "b1", "b2", "c") if await now(cache.get(key))]

        assert await left() == ["a1", "a2", "b1", "b2", "c"]
        await now(cache.invalidate("z", "nobody's"))
        assert await left() == ["a1", "a2", "b1", "b2"]
        await now(cache.invalidate("x"))
        assert await left() == ["b1", "b2"]
        await now(cache.invalidate())
        assert await ask(cache, lambda: "new", "a1", tags=["x"]) == "new"
        assert await now(cache.get("a2")) is None  # a tag that is used again brings nothing back
        assert await now(cache.clear("b")) == 2
        assert await left() == ["a1"]
        assert await now(cache.clear()) == 3  # those of a2 and c are stored still
        assert await left() == []
        assert await store.get("a1") == b"mine"
        assert await store.namespaces() == []  # no stamps either

    run(opens(anywhere), body)


class Forgetful(Wrapper):
    """A store that loses what is added, as one that is full may."""

    def _write(self, keys: Any, method: Any, *args: Any, **kwargs: Any) -> Any:
        return True if method.__name__ == "add" else method(*args, **kwargs)


def test_what_has_a_tag_that_got_lost_is_not_given(memory: kv.Store) -> None:
    cache = Cache(Forgetful(memory))
    assert cache.get_or_set("k", lambda: 1, tags=["t"]) == 1
    assert cache.get("k") is None
    assert Cache(memory).get_or_set("k", lambda: 2, tags=["t"]) == 2
    assert cache.get("k") == 2


@both
def test_what_a_caller_does_to_a_value_nobody_else_sees(opens: Callable[..., Any]) -> None:
    async def body(store: kv.AsyncStore) -> None:
        cache, made = cache_on(store), [1]
        first = await ask(cache, lambda: made)
        made.append(2)
        first.append(3)
        assert await now(cache.get("k")) == [1]

        def outcome() -> list[int]:
            return [1]

        factory = slow(cache, lambda: waiting(cache, "l") == 2, outcome)
        values = await together(store, *(ask(cache, factory, "l") for _ in range(3)))
        values[0].append(2)
        assert values[1:] == [[1], [1]]
        assert values[1] is not values[2]

    run(opens("memory://"), body)


@both
def test_how_many_calls_on_the_store_it_takes(opens: Callable[..., Any]) -> None:
    async def body(store: kv.AsyncStore) -> None:
        inner = on(store, CutOff, AsyncCutOff)
        cache: Any = AsyncCache(inner) if isinstance(inner, AsyncCutOff) else Cache(inner)

        async def calls(answer: Any) -> list[str]:
            inner.calls.clear()
            await now(answer())
            return list(inner.calls)

        assert await calls(lambda: cache.get_or_set("k", int)) == ["get", "compare_and_set", "update"]
        assert await calls(lambda: cache.get_or_set("k", int)) == ["get"]
        assert await calls(lambda: cache.get("k")) == ["get"]
        assert await calls(lambda: cache.set("k", 1)) == ["set"]
        tagged = ["get", "get_many", "add", "get_many", "compare_and_set", "update"]
        assert await calls(lambda: cache.get_or_set("t", int, tags=["x"])) == tagged
        assert await calls(lambda: cache.get_or_set("t", int, tags=["x"])) == ["get", "get_many"]
        assert await calls(lambda: cache.invalidate("x", "y")) == ["delete_many"]

    run(opens("memory://"), body)


# how old it may be


@both
def test_a_value_is_fresh_for_its_ttl(opens: Callable[..., Any]) -> None:
    async def body(store: kv.AsyncStore) -> None:
        clock = Clock()
        cache = cache_on(store, ttl=60, clock=clock)
        factory, _ = counted()
        keys: dict[str, dict[str, Any]] = {"own": {}, "longer": {"ttl": 120}, "for ever": {"ttl": None}}
        for key, options in keys.items():
            await ask(cache, factory, key, **options)
        await now(cache.set("set", 0))
        clock.now += 59.9
        assert [await now(cache.get(key)) for key in (*keys, "set")] == [1, 2, 3, 0]
        clock.now += 0.1
        assert [await now(cache.get(key)) for key in (*keys, "set")] == [None, 2, 3, None]
        assert await ask(cache, factory, "own") == 4
        clock.now += 1e9
        assert [await now(cache.get(key)) for key in keys] == [None, None, 3]

    run(opens("memory://"), body)


@both
def test_the_store_lets_go_of_what_is_of_no_use_any_more(opens: Callable[..., Any]) -> None:
    async def body(store: kv.AsyncStore) -> None:
        entries = store.namespace("cache")
        cache = cache_on(store, ttl=100, stale_while_revalidate=10, stale_if_error=1_000)
        await ask(cache, int)
        await now(cache.set("s", 1, ttl=500))
        assert 1_000 < (await entries.ttl("k") or 0) <= 1_100
        assert 1_400 < (await entries.ttl("s") or 0) <= 1_500
        with pytest.raises(ZeroDivisionError):
            await ask(cache, lambda: 1 / 0, "e")
        assert await entries.keys() == ["k", "s"]  # no lease of who failed
        # that of who makes a value is there for longer than others wait for him, and a stale value for as long as it may serve
        clock = Clock()
        cache = cache_on(store, ttl=100, stale_if_error=1_000, lease=30, clock=clock)
        assert 30 < await ask(cache, lambda: cache._entries.ttl("n"), "n") <= 600
        clock.now += 200
        assert 800 < await ask(cache, lambda: cache._entries.ttl("n"), "n") <= 900

    run(opens("memory://"), body)


@both
def test_jitter_takes_a_part_of_the_ttl_off(opens: Callable[..., Any]) -> None:
    async def body(store: kv.AsyncStore) -> None:
        clock = Clock()
        cache = cache_on(store, ttl=100, jitter=0.5, clock=clock)
        keys = [f"k{n}" for n in range(50)]
        for key in keys:
            await now(cache.set(key, 1))
        fresh = []
        for clock.now in (1_050 - 1e-6, 1_075, 1_100):
            fresh.append(sum([await now(cache.get(key, 0)) for key in keys]))
        assert fresh[0] == 50
        assert 5 < fresh[1] < 45
        assert fresh[2] == 0

    run(opens("memory://"), body)


@both
def test_a_stale_value_is_given_at_once_and_made_anew_in_the_background(opens: Callable[..., Any]) -> None:
    async def body(store: kv.AsyncStore) -> None:
        clock = Clock()
        cache = cache_on(store, ttl=60, stale_while_revalidate=60, clock=clock)
        go = threading.Event()
        await ask(cache, lambda: "old")
        clock.now += 119
        calls = itertools.count(1)
        factory = slow(cache, go.is_set, lambda: next(calls))
        assert await now(cache.get("k")) is None  # not fresh
        before = len(asyncio.all_tasks())
        assert [await ask(cache, factory) for _ in range(5)] == ["old"] * 5
        assert len(asyncio.all_tasks()) - before == (not isinstance(store, Lifted))
        await until(lambda: any(flight.token for flight in [*cache._flights._flights.values()]))
        other = cache_on(store, stale_while_revalidate=60, clock=clock)
        assert await ask(other, factory) == "old"
        assert not other._refreshers  # somebody does it
        go.set()
        await until(lambda: not refreshing(cache))
        assert [await now(cache.get("k")), next(calls)] == [1, 2]
        clock.now += 120
        assert await ask(cache, lambda: "third") == "third"  # too old to be given

    run(opens("memory://"), body)


@both
def test_a_refresh_that_fails_is_logged_without_the_value_and_tried_again(
    opens: Callable[..., Any], caplog: pytest.LogCaptureFixture
) -> None:
    async def body(store: kv.AsyncStore) -> None:
        clock = Clock()
        cache = cache_on(store, ttl=60, stale_while_revalidate=60, clock=clock)
        await ask(cache, lambda: "old")
        clock.now += 61
        factory, calls = counted(ValueError("a secret"))

        def logged(n: int) -> bool:
            return len(caplog.records) > n

        for n in range(2):
            assert await ask(cache, factory) == "old"
            await until(partial(logged, n))
            await until(lambda: not refreshing(cache))
        assert len(calls) == 2
        assert {record.name for record in caplog.records} == {"kv.cache"}
        assert "'k'" in caplog.text
        assert "ValueError" in caplog.text
        assert "secret" not in caplog.text

    with caplog.at_level(logging.WARNING):
        run(opens("memory://"), body)


@both
def test_so_many_are_made_anew_at_once_and_no_more(opens: Callable[..., Any]) -> None:
    async def body(store: kv.AsyncStore) -> None:
        clock = Clock()
        cache = cache_on(store, ttl=60, stale_while_revalidate=60, clock=clock)
        keys = [f"k{n}" for n in range(REFRESHES + 5)]
        for key in keys:
            await now(cache.set(key, "old"))
        clock.now += 61
        go = threading.Event()
        calls = itertools.count(1)
        factory = slow(cache, go.is_set, lambda: next(calls))
        for key in keys * 2:
            assert await ask(cache, factory, key) == "old"
        assert len(cache._refreshers) == REFRESHES
        go.set()
        await until(lambda: not refreshing(cache))
        assert next(calls) == REFRESHES + 1

    run(opens("memory://"), body)


@both
def test_where_the_factory_fails_a_stale_value_does(
    opens: Callable[..., Any], caplog: pytest.LogCaptureFixture
) -> None:
    async def body(store: kv.AsyncStore) -> None:
        clock = Clock()
        cache = cache_on(store, ttl=60, stale_if_error=600, clock=clock)
        await ask(cache, lambda: "old", tags=["t"])
        clock.now += 659
        failing, calls = counted(ValueError("a secret"))
        assert [await ask(cache, failing, tags=["t"]) for _ in range(2)] == ["old"] * 2
        assert len(calls) == 2  # each call tries
        assert read(await store.namespace("cache").get("k"), "k").lease is None  # others need not wait

        def late() -> None:
            clock.now += 2
            raise ValueError("a secret")

        with pytest.raises(ValueError, match="a secret"):  # too old by now
            await ask(cache, late, tags=["t"])
        assert await ask(cache, lambda: "new", tags=["t"]) == "new"
        clock.now += 660
        with pytest.raises(ValueError, match="a secret"):
            await ask(cache, failing, tags=["t"])
        await now(cache.set("k", "old", tags=["t"]))
        clock.now += 61
        await now(cache.invalidate("t"))
        with pytest.raises(ValueError, match="a secret"):  # what is wrong is not given, however young
            await ask(cache, failing, tags=["t"])
        await now(cache.set("k", "old"))
        clock.now += 61
        with pytest.raises(KeyboardInterrupt if isinstance(store, Lifted) else asyncio.CancelledError):
            await ask(cache, counted(KeyboardInterrupt() if isinstance(store, Lifted) else asyncio.CancelledError())[0])
        assert "secret" not in caplog.text

    with caplog.at_level(logging.WARNING):
        run(opens("memory://"), body)


# what goes wrong


@pytest.mark.parametrize("method", ["get", "get_many", "add", "compare_and_set", "update"])
@pytest.mark.parametrize("error", [kv.Unavailable, kv.OutcomeUnknown])
@both
def test_where_the_store_fails_that_is_said_and_no_lease_stays(
    opens: Callable[..., Any], error: type[Exception], method: str
) -> None:
    async def body(store: kv.AsyncStore) -> None:
        cut = on(store, CutOff, AsyncCutOff, method, error("gone"))
        make: Any = AsyncCache if isinstance(cut, AsyncCutOff) else Cache
        cache = make(cut, processes=True)
        with pytest.raises(error, match="gone"):
            await ask(cache, lambda: 1, tags=["t"])
        entries = store.namespace("cache")
        if (method, error) == ("compare_and_set", kv.Unavailable):  # as which it was said that it did nothing
            await entries.delete("k")
        assert await ask(cache, lambda: 2, tags=["t"]) == (1 if method == "update" else 2)

    run(opens("memory://"), body)


@both
def test_what_is_not_a_caches_is_left_as_it_is(opens: Callable[..., Any], anywhere: str) -> None:
    foreign = [
        b"",
        b"1",
        b"{}",
        b"\x02{}\n",
        b"\x02[]\n",
        b'\x02{"value":[1]}\n',
        b'\x02{"lease":[1,2,{}]}\n',
        b"\x02{",
    ]

    async def body(store: kv.AsyncStore) -> None:
        cache = cache_on(store)
        for value in foreign:
            await store.namespace("cache").set("k", value)
            calls: list[Callable[[], Any]] = [lambda: cache.get("k"), lambda: cache.get_or_set("k", int)]
            for call in calls:
                with pytest.raises(kv.CorruptData, match="for 'k' is not a cache's"):
                    await now(call())
            assert await store.namespace("cache").get("k") == value
        await now(cache.delete("k"))
        assert await ask(cache, int) == 0

    run(opens(anywhere), body)


@both
def test_a_value_of_another_type_is_told(opens: Callable[..., Any]) -> None:
    async def body(store: kv.AsyncStore) -> None:
        await now(cache_on(store).set("k", "secret"))
        typed = cache_on(store, int)
        with pytest.raises(kv.CorruptData, match="'k' is not what this codec wrote: expected int, got str"):
            await ask(typed, int)
        calls: list[Callable[[], Any]] = [
            lambda: typed.set("l", "secret"),
            lambda: typed.get_or_set("l", lambda: "secret"),
        ]
        for call in calls:
            with pytest.raises(kv.InvalidValue, match="'l' cannot be stored: expected int, got str"):
                await now(call())
        assert await store.namespace("cache").keys() == ["k"]

    run(opens("memory://"), body)


@both
def test_wrong_arguments_are_refused_before_anything_is_done(opens: Callable[..., Any]) -> None:
    async def body(store: kv.AsyncStore) -> None:
        inner = on(store, CutOff, AsyncCutOff)
        make: Any = AsyncCache if isinstance(inner, AsyncCutOff) else Cache
        cache = make(inner)
        wrong: list[tuple[type[Exception], Callable[[], Any]]] = [
            (kv.InvalidKey, lambda: cache.get("")),
            (kv.InvalidKey, lambda: cache.set(1, 1)),
            (kv.InvalidKey, lambda: cache.get_or_set("\ud800", int)),
            (kv.InvalidKey, lambda: cache.get_or_set("k", int, tags=[""])),
            (kv.InvalidKey, lambda: cache.invalidate("t", "")),
            (TypeError, lambda: cache.set("k", 1, tags="tag")),
            (TypeError, lambda: cache.get_or_set("k", 1)),
            (kv.InvalidTTL, lambda: cache.get_or_set("k", int, 0)),
            (kv.InvalidTTL, lambda: cache.set("k", 1, ttl=-1)),
            (kv.InvalidTTL, lambda: cache.cached(ttl=0)),
            (TypeError, lambda: cache.cached(tags="tag")),
            (TypeError, lambda: cache.cached(key="key")(len)),
            (TypeError, lambda: cache.cached()(lambda: 1)),
            (kv.InvalidTTL, lambda: make(inner, ttl=0)),
            (kv.InvalidTTL, lambda: make(inner, ttl=10**12, stale_if_error=1)),
            (kv.InvalidTTL, lambda: make(inner, lease=None)),
            (ValueError, lambda: make(inner, stale_if_error=-1)),
            (TypeError, lambda: make(inner, stale_while_revalidate="1")),
            (ValueError, lambda: make(inner, jitter=1)),
            (TypeError, lambda: make(inner, jitter=True)),
            (TypeError, lambda: (Cache if make is AsyncCache else AsyncCache)(inner)),
        ]
        for error, call in wrong:
            with pytest.raises(error):
                await now(call())
        assert inner.calls == []

    run(opens("memory://"), body)


def test_coroutines_belong_to_the_asynchronous_colour() -> None:
    async def factory() -> int:
        return 1

    with kv.open("memory://") as store:
        cache: Cache[Any] = Cache(store)
        with pytest.raises(TypeError, match="use AsyncCache"):
            cache.get_or_set("k", factory)
        with pytest.raises(TypeError, match="use AsyncCache"):
            cache.get_or_set("k", lambda: factory())  # noqa: PLW0108  # not known as one before it is called
        with pytest.raises(TypeError, match="use AsyncCache"):
            cache.cached()(factory)
        assert repr(cache) == "<Cache on <MemoryStore>>"
