"""What a cache in this process promises to this process, and to others."""

from __future__ import annotations

import asyncio
import os
import sys
import threading
from typing import TYPE_CHECKING, Any

import pytest
from colours import around, both, in_threads, run
from programs import pythons

import kv
from kv.testing.suite import Lifted, gone, together
from kv.wrappers import AsyncNearCache, NearCache, nearcache
from kv.wrappers.base import AsyncWrapper, Wrapper

if TYPE_CHECKING:
    from collections.abc import Callable

    Opens = Callable[..., Any]


def near(store: Any, **options: Any) -> Any:
    return around(store, NearCache, AsyncNearCache, **{"ttl": 3_600, **options})


def inside(cache: Any) -> Any:
    """The store that the cache stands around, as tests call it."""
    return Lifted(cache._store.store) if isinstance(cache, Lifted) else cache.store


def info(cache: Any) -> Any:
    return (cache._store if isinstance(cache, Lifted) else cache).near_info()


@both
def test_what_was_read_once_is_not_asked_for_again_until_it_is_too_old(opens: Opens, anywhere: str) -> None:
    async def body(store: Any) -> None:
        cache = near(store)
        short = near(store, ttl=0.001)
        await store.set("k", b"1")
        assert [await cache.get("k"), await cache.get("missing"), await short.get("k")] == [b"1", None, b"1"]
        await store.set("k", b"2")
        await store.set("missing", b"3")
        assert [await cache.get("k"), await cache.get("missing", b"-")] == [b"1", b"-"]  # as others' writes are seen
        assert info(cache)[:3] == (2, 2, 2)
        while await short.get("k") != b"2":
            pass

    run(opens(anywhere), body)


@both
def test_an_entry_is_not_given_past_its_own_deadline(opens: Opens, anywhere: str) -> None:
    async def body(store: Any) -> None:
        cache = near(store)
        await cache.set("k", b"1", ttl=0.03)
        await cache.get("k")
        await gone(store, "k")
        while await cache.get("k") is not None:  # the server's clock may be a little ahead of ours
            pass
        assert await cache.add("k", b"2")
        assert await cache.get("k") == b"2"

    run(opens(anywhere), body)


@both
def test_how_old_a_value_is_counts_from_before_it_was_read(opens: Opens, monkeypatch: pytest.MonkeyPatch) -> None:
    now = 1_000.0
    monkeypatch.setattr(nearcache, "monotonic", lambda: now)

    def later(method: Any) -> Any:
        """The store's own read, which takes 4 seconds."""

        def look(keys: list[str]) -> Any:
            nonlocal now
            found = method(keys)
            now += 4
            return found

        return look

    async def body(store: Any) -> None:
        nonlocal now
        cache = near(store, ttl=5)
        await store.set("k", b"1")
        innermost = cache._store.store if isinstance(cache, Lifted) else cache.store
        monkeypatch.setattr(innermost, "_look", later(innermost._look))
        assert await cache.get("k") == b"1"
        await store.set("k", b"2")
        now += 0.9
        assert await cache.get("k") == b"1"
        now += 0.1
        assert await cache.get("k") == b"2"

    run(opens("memory://"), body)


@both
def test_no_key_however_it_is_made_is_answered_from_another_namespace(opens: Opens) -> None:
    async def body(store: Any) -> None:
        cache = near(store)
        await cache.set("k", b"root's")
        await cache.get("k")
        for path in (["a"], ["a", "b"]):
            view = cache
            for name in path:
                view = view.namespace(name)
            await view.set("k", b"secret")
            await view.get("k")
        kept = cache._store if isinstance(cache, Lifted) else cache
        assert len(kept._memory.entries) == 3
        for name in [*kept._memory.entries, "a\x1ek", "a\x1fb\x1ek", "\x1ek", "\x1fb\x1ek", "b\x1ek"]:
            for view in (cache, cache.namespace("a")):
                with pytest.raises(kv.InvalidKey):
                    await view.get(name)

    run(opens("memory://"), body)


@both
def test_every_write_through_it_is_seen_at_once_in_every_view(opens: Opens) -> None:
    async def body(store: Any) -> None:
        cache = near(store).namespace("a").namespace("b")
        other = inside(cache)
        twin = cache.namespace("c")
        calls = {
            "set": ("k", b"1"), "set_many": ({"k": b"2"},), "update": ("k", lambda _: b"3"),
            "update_many": (["k"], lambda _: {"k": b"4"}), "compare_and_set": ("k", b"4", b"5"), "increment": ("k",),
            "pop": ("k",), "add": ("k", b"7"), "delete": ("k",), "delete_many": (["k"],), "clear": (),
            "expire": ("k", 1_000), "persist": ("k",),
        }  # fmt: skip
        for name, args in calls.items():
            await other.set("k", b"0" if name in ("add", "increment") else b"4")
            if name == "add":
                await other.delete("k")
            await cache.get("k")
            await getattr(cache, name)(*args)
            assert await cache.get("k") == await other.get("k"), name
        await twin.set("k", b"twin")
        assert await twin.get("k") == b"twin"
        assert await cache.get("k") == await other.get("k")

    run(opens("memory://"), body)


class Gated(Wrapper):
    """The store, whose reads wait to be let on after they have read, as on a slow network."""

    def __init__(self, store: kv.Store) -> None:
        super().__init__(store)
        self.read, self.on = threading.Event(), threading.Event()

    def _look(self, keys: list[str]) -> Any:
        found = super()._look(keys)
        self.read.set()
        assert self.on.wait(30)
        return found


class AsyncGated(AsyncWrapper):
    """See `Gated`."""

    def __init__(self, store: kv.AsyncStore) -> None:
        super().__init__(store)
        self.read, self.on = asyncio.Event(), asyncio.Event()

    async def _look(self, keys: list[str]) -> Any:
        found = await super()._look(keys)
        self.read.set()
        await self.on.wait()
        return found


@pytest.mark.parametrize("what", ["set", "clear", "in another view"])
def test_a_value_read_before_a_write_is_not_kept_after_it(what: str) -> None:
    gate = Gated(kv.MemoryStore())
    cache = writer = NearCache(gate, ttl=3_600)
    if what == "in another view":
        cache, writer = cache.namespace("n"), cache.namespace("n")
    cache.set("k", b"old")
    seen: list[Any] = []
    reader = threading.Thread(target=lambda: seen.append(cache.get("k")))
    reader.start()
    assert gate.read.wait(30)
    if what == "clear":
        writer.clear()
    else:
        writer.set("k", b"new")
    gate.on.set()
    reader.join()
    assert seen == [b"old"]  # as it began before the write had ended
    assert cache.get("k") == (None if what == "clear" else b"new")


def test_a_value_read_before_a_write_is_not_kept_after_it_among_tasks() -> None:
    async def main() -> None:
        gate = AsyncGated(kv.AsyncMemoryStore())
        cache = AsyncNearCache(gate, ttl=3_600)
        await cache.set("k", b"old")
        reader = asyncio.create_task(cache.get("k"))
        await gate.read.wait()
        await cache.set("k", b"new")
        gate.on.set()
        assert await reader == b"old"
        assert await cache.get("k") == b"new"

    asyncio.run(main())


class SlowToWrite(AsyncWrapper):
    """The store, whose writes wait to be let on after they have written."""

    def __init__(self, store: kv.AsyncStore) -> None:
        super().__init__(store)
        self.written, self.on = asyncio.Event(), asyncio.Event()

    async def set(self, key: str, value: Any, *, ttl: Any = None) -> None:
        await super().set(key, value, ttl=ttl)
        self.written.set()
        await self.on.wait()


@pytest.mark.parametrize("end", ["done", "cancelled"])
def test_nothing_is_kept_while_a_write_runs_and_all_is_again_when_it_has_ended(end: str) -> None:
    async def main() -> None:
        slow = SlowToWrite(kv.AsyncMemoryStore())
        cache = AsyncNearCache(slow, ttl=3_600)
        writer = asyncio.create_task(cache.set("k", b"1"))
        await slow.written.wait()
        assert await cache.get("k") == b"1"
        assert cache.near_info().entries == 0
        if end == "done":
            slow.on.set()
            await writer
        else:
            writer.cancel()
            await asyncio.wait([writer])
        assert await cache.get("k") == b"1"
        assert cache.near_info().entries == 1

    asyncio.run(main())


@both
def test_many_that_read_and_write_never_see_a_value_older_than_one_seen_before(opens: Opens) -> None:
    async def body(store: Any) -> None:
        cache = near(store)
        await cache.set("n", b"0")

        async def write() -> None:
            for _ in range(60):
                await cache.increment("n")

        async def read() -> None:
            last = 0
            for _ in range(300):
                now = int(await cache.get("n") or 0)
                assert now >= last
                last = now

        await together(store, *(write() for _ in range(3)), *(read() for _ in range(5)))
        assert await cache.get("n") == b"180"

    run(opens("memory://"), body)


def test_it_holds_no_more_entries_and_bytes_than_it_may() -> None:
    with kv.MemoryStore() as store:
        few = NearCache(store, max_entries=3)
        small = NearCache(store, max_bytes=100)
        for n in range(10):
            store.set(f"k{n}", bytes(40))
            few.get(f"k{n}")
            few.get("k0")  # asked for again and again, it stays
            small.get(f"k{n}")
        assert few.near_info()[:3] == (10, 10, 3)
        assert [name[-2:] for name in few._memory.entries] == ["k8", "k9", "k0"]
        assert (small.near_info().entries, small.near_info().bytes) == (2, 86)
        store.set("large", bytes(101))
        assert len(small.get("large") or b"") == 101
        assert not [name for name in small._memory.entries if name.endswith("large")]
        assert small.near_info().entries == 2


@pytest.mark.parametrize("options", [{"max_entries": 0}, {"max_bytes": -1}, {"max_entries": True}, {"ttl": None}])
def test_bounds_that_bound_nothing_are_refused(options: dict[str, Any]) -> None:
    with kv.MemoryStore() as store, pytest.raises(kv.ConfigError, match="near cache"):
        NearCache(store, **options)


def test_a_closed_cache_answers_nothing_from_memory() -> None:
    cache = NearCache(kv.MemoryStore(), ttl=3_600)
    cache.set("k", b"1")
    assert cache.get("k") == b"1"
    cache.close()
    with pytest.raises(kv.StoreClosed):
        cache.get("k")


def test_what_is_read_inside_a_transaction_is_not_kept_for_those_outside(postgres_url: str, admin: Any) -> None:
    with NearCache(kv.open(postgres_url), ttl=3_600) as cache:
        cache.set("k", b"1")
        with admin.transaction(force_rollback=True):
            bound = cache.bind(admin)
            bound.set("k", b"2")
            assert [bound.get("k"), bound.get("k"), cache.get("k")] == [b"2", b"2", b"1"]
        assert cache.get("k") == b"1"


@pytest.mark.skipif(not hasattr(os, "fork"), reason="this system does not fork")
def test_a_child_of_a_fork_in_the_midst_of_a_write_keeps_what_it_reads(tmp_path: Any) -> None:
    with NearCache(kv.open(f"sqlite:///{tmp_path}/app.db"), ttl=3_600) as cache:
        cache.set("k", b"1")
        [name] = cache._names(["k"]) or []
        cache._memory.writing([name])
        cache._memory.writing(None)
        child = os.fork()
        if not child:
            try:
                ok = cache.get("k") == b"1" and cache.near_info()[:3] == (0, 1, 1)
                cache._memory.written(None)  # as what forked inside a write goes on
                cache._memory.written([name])
                cache.set("k", b"2")
                ok = ok and cache.get("k") == cache.get("k") == b"2" and cache.near_info()[:3] == (1, 2, 1)
            finally:
                os._exit(0 if ok else 1)
        assert os.waitpid(child, 0)[1] == 0
        cache._memory.written(None)
        cache._memory.written([name])


def test_processes_see_each_others_writes_after_the_ttl_and_their_own_at_once(shared: str) -> None:
    code = """
        import kv, time
        from kv.wrappers import NearCache
        with NearCache(kv.open(sys.argv[1]), ttl=0.05) as cache:
            for n in range(30):
                total = cache.increment("n")
                assert int(cache.get("n")) >= total
                cache.set(f"mine{me}", b"%d" % n)
                assert cache.get(f"mine{me}") == b"%d" % n
            while cache.get("n") != b"120":    # not for ever
                pass
    """
    pythons(code, shared)


def test_a_hit_between_any_two_steps_of_a_fill_disturbs_nothing() -> None:
    with NearCache(kv.MemoryStore(), ttl=3_600, max_entries=4) as cache:
        cache.get("hot")
        cache.get("cold")
        steps = 0

        def hit(frame: Any, event: str, arg: Any) -> None:  # it takes no lock: so may another thread's
            nonlocal steps
            steps += 1
            cache.get(("hot", "cold")[steps % 2])

        for n in range(10):
            sys.setprofile(hit)
            try:
                assert cache.get(f"k{n}") is None
            finally:
                sys.setprofile(None)
        assert steps > 100
        assert cache.near_info().entries == 4
        assert cache.near_info().misses == 12  # both were there all along


def test_threads_may_fill_and_evict_at_once() -> None:
    with NearCache(kv.MemoryStore(), ttl=3_600, max_entries=5) as cache:
        cache.set_many({f"k{n}": b"%d" % n for n in range(20)})

        def work() -> None:
            for n in range(2_000):
                key = n * 7 % 20
                assert cache.get(f"k{key}") == b"%d" % key

        assert in_threads(*[work] * 8) == [None] * 8
        assert cache.near_info().entries == 5
        assert cache.near_info().bytes == sum(len(k) + len(v or b"") for k, (v, _) in cache._memory.entries.items())
