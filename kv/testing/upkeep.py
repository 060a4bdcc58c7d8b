"""Cleanup, statistics, compaction, verification, and the end."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from kv.errors import StoreClosed
from kv.store import Stats

from .hostile import CALLS, A, B, C
from .suite import LONG, SOON, Suite, expired, gone, listed, raises, together

if TYPE_CHECKING:
    from kv.store import AsyncStore


class Upkeep(Suite):
    async def test_cleanup_removes_what_has_expired_and_nothing_else(self, store: AsyncStore) -> None:
        await store.set(A, b"1")
        await store.set(B, b"2", ttl=LONG)
        there, removed = 1, 0
        for _ in range(5):
            await expired(store, *(f"k{i}" for i in range(20)))
            there = (await store.stats()).expired
            removed = await store.cleanup()
            assert type(removed) is int
            assert (await store.stats()).expired == 0
            if removed >= there:  # else the backend's own cleanup was faster
                break
        assert removed >= there, f"cleanup says that it removed {removed}, and there were {there} to remove"
        assert await listed(store.scan()) == [(A, b"1"), (B, b"2")]
        assert await store.ttl(A) == math.inf
        assert 0 < (await store.ttl(B) or 0) <= LONG

    async def test_cleanup_of_any_view_is_of_the_whole_store(self, store: AsyncStore) -> None:
        views = [store, store.namespace("a"), store.namespace("a").namespace("b"), store.namespace("a2")]
        for cleaner in views:
            for view in views:
                await view.set(A, b"live")
                await view.set(B, b"old", ttl=SOON)
            for view in views:
                await gone(view, B)
            await cleaner.cleanup()
            assert [(await view.stats()).expired for view in views] == [0] * len(views)
            assert [await listed(view.scan()) for view in views] == [[(A, b"live")]] * len(views)

    async def test_cleanup_removes_no_more_than_its_limit(self, store: AsyncStore) -> None:
        await expired(store, *(f"k{i}" for i in range(7)))
        there = (await store.stats()).expired
        assert await store.cleanup(limit=0) == 0
        assert await store.cleanup(limit=3) in range(4)
        assert (await store.stats()).expired in range(there)[:5] or there == 0
        while await store.cleanup(limit=3):
            pass
        assert (await store.stats()).expired == 0
        with raises(ValueError):
            await store.cleanup(limit=-1)

    async def test_cleanup_removes_thousands(self, store: AsyncStore) -> None:
        keys = [f"{{t}}{i:04}" for i in range(2_100)]
        await store.set_many(dict.fromkeys(keys, b"old"), ttl=SOON)
        await store.set(A, b"live")
        await gone(store, *keys)
        await store.cleanup()
        assert (await store.stats()).expired == 0
        assert await store.keys() == [A]

    async def test_cleanup_beside_itself_is_harmless(self, store: AsyncStore) -> None:
        await store.set(A, b"live")
        await expired(store, *(f"k{i}" for i in range(40)))
        removed = await together(store, *(store.cleanup(limit=limit) for limit in (None, 1, 10, None, 5, None)))
        assert sum(removed) <= 40
        assert (await store.keys(), (await store.stats()).expired) == ([A], 0)

    async def test_cleanup_never_shows(self, store: AsyncStore) -> None:
        await expired(store, A, B, C, value=b"7")
        await store.cleanup()
        assert await store.add(A, b"new") is True
        assert await store.increment(B) == 1
        assert await store.delete(C) is False
        assert await store.ttl(A) == await store.ttl(B) == math.inf

    async def test_a_new_deadline_outlives_a_cleanup_after_the_old_one(self, store: AsyncStore) -> None:
        await store.set_many({A: b"1", B: b"1", C: b"1"}, ttl=LONG / 2)
        await store.set(A, b"2")
        assert await store.persist(B)
        assert await store.expire(C, LONG)
        await store.set("d", b"1", ttl=SOON)
        await store.set("d", b"2", ttl=LONG)
        await expired(store, "e")
        await store.cleanup()
        assert await store.get_many([A, B, C, "d", "e"]) == {A: b"2", B: b"1", C: b"1", "d": b"2"}

    async def test_stats_count_what_lives_in_this_namespace(self, store: AsyncStore) -> None:
        await store.set_many({"{t}": b"12345", "{t}é": b"", "{t}😀": bytes(1_000)})
        await store.set("é", b"old")
        await store.set("é", b"longer", ttl=LONG)
        await store.delete("{t}")
        await expired(store, "gone")
        await store.namespace("a").set("other", bytes(5_000))
        stats = await store.stats()
        assert isinstance(stats, Stats)
        assert (stats.keys, stats.key_bytes, stats.value_bytes) == (3, len("{t}é{t}😀é".encode()), 1_006)
        assert stats.expired in {0, 1}
        assert stats.disk_bytes is None or stats.disk_bytes > 0
        assert (type(stats.backend), type(stats.version)) == (str, str)
        assert stats.backend
        assert (await store.namespace("a").stats())[:4] == (1, 0, 5, 5_000)
        assert (await store.namespace("b").stats())[:4] == (0, 0, 0, 0)

    async def test_compact_and_verify_change_nothing(self, store: AsyncStore) -> None:
        entries = {f"{{t}}{i:03}": bytes(100) for i in range(300)}
        await store.set_many(entries)
        await store.namespace("a").set(A, b"other")
        await store.set(B, b"2", ttl=LONG)
        await expired(store, C)
        await store.delete_many([*entries][100:])
        assert await store.verify() == []
        assert await store.compact() is None  # type: ignore[func-returns-value]
        assert await store.verify() == []
        assert await listed(store.scan()) == sorted([*[*entries.items()][:100], (B, b"2")])
        assert 0 < (await store.ttl(B) or 0) <= LONG
        assert await listed(store.namespace("a").scan()) == [(A, b"other")]

    async def test_every_method_of_a_closed_store_says_so(self, store: AsyncStore) -> None:
        await store.set(A, b"1")
        view = store.namespace("a")
        await view.set(A, b"1")
        await self.root.aclose()
        for what, call in CALLS.items():
            for closed in (self.root, store, view):
                with raises(StoreClosed, what):
                    await call(closed)

    async def test_closing_twice_is_harmless(self, store: AsyncStore) -> None:
        await store.set(A, b"1")
        await self.root.aclose()
        await self.root.aclose()
        await together(store, *(self.root.aclose() for _ in range(5)))

    async def test_leaving_with_closes_and_lets_the_error_out(self, store: AsyncStore) -> None:
        with raises(ZeroDivisionError):
            async with self.root as same:
                await same.set(A, b"1")
                raise ZeroDivisionError
        with raises(StoreClosed):
            await self.root.get(A)
        with raises(StoreClosed):
            await store.get(A)
