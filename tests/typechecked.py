"""Code as users write it. It only has to type-check, with mypy --strict and pyright; nothing runs it."""

from collections.abc import AsyncIterator, Iterator
from datetime import timedelta
from typing import assert_type

import kv


def any_store(store: kv.Store) -> None:
    assert_type(store.get("k"), bytes | None)
    assert_type(store.get("k", b""), bytes)
    assert_type(store.get("k", 0), bytes | int)
    assert_type(store.pop("k", None), bytes | None)
    assert_type(store.pop("k", "x"), bytes | str)
    store.set("k", b"v", ttl=timedelta(minutes=1))
    store.set("k", bytearray(b"v"), ttl=1.5)
    store.set("k", memoryview(b"v"), ttl=None)
    assert_type(store.update("k", lambda value: (value or b"") + b"x", ttl=kv.KEEP_TTL), bytes | None)
    assert_type(store.update("k", lambda _: None, ttl=5, ttl_if_new=60), bytes | None)
    assert_type(store.update_many(["a", "b"], lambda found: {"a": found.get("b", b"")}), dict[str, bytes])
    store.set_many({"a": b"1"})
    store.set_many([("a", b"1"), ("b", bytearray(b"2"))], ttl=5)
    assert_type(store.get_many(key for key in "ab"), dict[str, bytes])
    assert_type(store.keys("a", match="*", after="b", limit=3), list[str])
    assert_type(store.scan(), Iterator[tuple[str, bytes]])
    assert_type(store.ttl("k"), float | None)
    assert_type(store.stats().disk_bytes, int | None)
    assert_type(store.compare_and_set("k", None, b"v"), bool)
    with store.namespace("n") as view:
        assert_type(view, kv.Store)


async def any_async_store(store: kv.AsyncStore) -> None:
    assert_type(await store.get("k"), bytes | None)
    assert_type(await store.get("k", b""), bytes)
    assert_type(await store.pop("k", 0), bytes | int)
    assert_type(await store.increment("k", 5, ttl_if_new=60), int)
    assert_type(store.scan("a"), AsyncIterator[tuple[str, bytes]])
    async for key, value in store.scan():
        assert_type(key, str)
        assert_type(value, bytes)
    async with store.namespace("n") as view:
        assert_type(view, kv.AsyncStore)


def every_store_is_a_store() -> list[kv.Store]:
    return [
        kv.open(),
        kv.open("memory://", max_entries=5),
        kv.MemoryStore(),
        kv.SQLiteStore("app.db", durability="full"),
    ]


def every_async_store_is_an_async_store() -> list[kv.AsyncStore]:
    return [kv.open_async(), kv.AsyncMemoryStore(), kv.AsyncSQLiteStore("app.db")]


def a_concrete_store_keeps_its_type() -> None:
    with kv.SQLiteStore("app.db") as store:
        assert_type(store, kv.SQLiteStore)
        assert_type(store.namespace("n"), kv.SQLiteStore)
        assert_type(store.get("k"), bytes | None)
        store.namespace("n").backup("copy.db")


def keep_ttl_narrows(ttl: kv.TTL | kv.KeepTTL) -> kv.TTL:
    return None if ttl is kv.KEEP_TTL else ttl
