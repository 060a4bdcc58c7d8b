"""Code as users write it. It only has to type-check, with mypy --strict and pyright; nothing runs it."""

from collections.abc import AsyncIterator, Iterator, MutableMapping
from dataclasses import dataclass
from datetime import timedelta
from typing import TypedDict, assert_type

import attrs
import msgspec
import pydantic

import kv
from kv import adapters, codecs, wrappers


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


@dataclass
class User:
    name: str
    visits: int = 0


class Cart(TypedDict):
    items: list[str]


class Point(msgspec.Struct):
    x: int


@attrs.define
class Pair:
    one: int


class Model(pydantic.BaseModel):
    name: str


def typed_stores(store: kv.Store) -> None:
    users = kv.typed(store, User)
    assert_type(users, kv.TypedStore[User])
    assert_type(users.get("k"), User | None)
    assert_type(users.get("k", 0), User | int)
    assert_type(users.require("k"), User)
    assert_type(users.pop("k"), User | None)
    assert_type(users.pop("k", "x"), User | str)
    assert_type(users.get_many(["k"]), dict[str, User])
    assert_type(users.scan(), Iterator[tuple[str, User]])
    assert_type(users.update("k", lambda user: user), User | None)
    assert_type(users.update("k", lambda user: User(user.name), default=User("Ada")), User | None)
    assert_type(users.update_many(["k"], lambda found: {"k": found["k"]}), dict[str, User])
    users.set("k", User("Ada"), ttl=timedelta(minutes=1))
    users.set("k", "Ada")  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
    users.set_many({"k": User("Ada")})
    users.set_many([("k", User("Ada"))])
    numbers = kv.typed(store, int)
    assert_type(numbers.update("n", lambda n: n + 1, default=0), int | None)
    assert_type(numbers.increment("n"), int)
    assert_type(kv.typed(store), kv.TypedStore[object])
    assert_type(kv.typed(store, codec="msgpack"), kv.TypedStore[object])
    assert_type(kv.typed(store, User, codec="msgpack"), kv.TypedStore[User])
    assert_type(kv.typed(store, User, codec=codecs.msgpack), kv.TypedStore[User])
    assert_type(kv.typed(store, list[int]), kv.TypedStore[list[int]])
    assert_type(kv.typed(store, Cart).get("k"), Cart | None)
    assert_type(kv.typed(store, Point).get("k"), Point | None)
    assert_type(kv.typed(store, Pair).get("k"), Pair | None)
    assert_type(kv.typed(store, Model).get("k"), Model | None)
    maybe: kv.TypedStore[int | None] = kv.typed(store, int | None)
    maybe.set("k", None)
    with users.namespace("n") as view:
        assert_type(view, kv.TypedStore[User])
    assert_type(kv.as_mapping(users), MutableMapping[str, User])
    assert_type(kv.as_mapping(store), MutableMapping[str, bytes])


class Reversed:
    """A codec of one's own."""

    decimal = False

    def encode(self, value: str) -> bytes:
        return value[::-1].encode()

    def decode(self, data: bytes) -> str:
        return data.decode()[::-1]


def own_codec(store: kv.Store) -> None:
    assert_type(kv.typed(store, codec=Reversed()), kv.TypedStore[str])


async def typed_async_stores(store: kv.AsyncStore) -> None:
    users = kv.typed(store, User)
    assert_type(users, kv.AsyncTypedStore[User])
    assert_type(await users.get("k"), User | None)
    assert_type(await users.get("k", 0), User | int)
    assert_type(await users.require("k"), User)
    assert_type(await users.update("k", lambda user: user), User | None)
    assert_type(users.scan(), AsyncIterator[tuple[str, User]])
    assert_type(kv.typed(store), kv.AsyncTypedStore[object])
    assert_type(await kv.typed(store, int).update("n", lambda n: n + 1, default=0), int | None)
    async with users.namespace("n") as view:
        assert_type(view, kv.AsyncTypedStore[User])


@dataclass
class Ada:
    visits: int = 0


def wrappers_are_stores(store: kv.Store, other: kv.AsyncStore) -> tuple[list[kv.Store], list[kv.AsyncStore]]:
    encrypted = wrappers.Encrypted(store, wrappers.new_key())
    assert_type(encrypted.namespace("n"), wrappers.Encrypted)
    assert_type(encrypted.reencrypt(), int)
    assert_type(wrappers.NearCache(store, ttl=5).near_info(), wrappers.NearCacheInfo)
    return [
        encrypted,
        wrappers.Compressed(store),
        wrappers.NearCache(store),
        wrappers.TTLLimits(store, max=timedelta(days=1)),
        wrappers.ReadOnly(store),
        wrappers.Telemetry(store),
    ], [wrappers.AsyncEncrypted(other, "env:KEYS"), wrappers.AsyncNearCache(other), wrappers.AsyncReadOnly(other)]


def adapters_keep_types(store: kv.Store) -> None:
    cache = adapters.Cache(store, int)
    assert_type(cache.get_or_set("k", lambda: 5), int)
    assert_type(cache.get("k"), int | None)

    @cache.cached(ttl=5)
    def length(text: str) -> int:
        return len(text)

    assert_type(length("a"), int)
    session = adapters.Sessions(store, Ada).get("id")
    assert_type(session, adapters.Session[Ada] | None)
    job = adapters.Queue(store, "jobs", Ada).claim()
    assert_type(job, adapters.Job[Ada] | None)
    theme = adapters.Setting("site.theme", "light")
    settings = adapters.Settings(store, [theme])
    assert_type(settings.get(theme), str)
    assert_type(settings.of("ada").get(theme), str)
    assert_type(adapters.RateLimiter(store, 5, per=1).check("k").allowed, bool)
    with adapters.Lock(store, "k") as lease:
        assert_type(lease.fence, int)
    assert_type(adapters.Flags(store).variant("f", "ada"), str | None)


async def async_adapters_keep_types(store: kv.AsyncStore) -> None:
    async def five() -> int:
        return 5

    assert_type(await adapters.AsyncCache(store, int).get_or_set("k", five), int)
    assert_type(await adapters.AsyncQueue(store, "jobs", Ada).claim(), adapters.AsyncJob[Ada] | None)
    async with adapters.AsyncLock(store, "k") as lease:
        assert_type(lease.fence, int)
