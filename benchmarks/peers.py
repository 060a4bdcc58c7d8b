"""Other stores of the same kind, set up as their documentation has it. What one cannot do is left out, and what it does otherwise is in its note.

Each is imported when it is opened: none has to be installed.
"""

from __future__ import annotations

import sqlite3
from base64 import b64decode, b64encode
from contextlib import asynccontextmanager, closing, contextmanager, nullcontext
from functools import partial
from importlib import import_module
from threading import Lock
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit
from warnings import catch_warnings

from .floors import GET_SQL, POOL, SET_SQL, TABLE_SQL, TTL

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Iterator, Mapping

    from .measuring import Calls
    from .subjects import Place

MOST = 10_000_000
"""Entries, where a cache must be told: none is thrown out."""


def _json(value: bytes) -> dict[str, str]:
    """Give bytes as they can stand in JSON."""
    return {"v": b64encode(value).decode()}


def _bytes(value: Mapping[str, str] | None) -> bytes | None:
    return None if value is None else b64decode(value["v"])


@contextmanager
def cachetools(_: Place) -> Iterator[Calls]:
    """Its TTLCache; threads need the lock, as it says itself."""
    cache: Any = import_module("cachetools").TTLCache(MOST, TTL)
    lock = Lock()

    def locked(call: Callable[..., Any]) -> Callable[..., Any]:
        def call_locked(*args: Any) -> Any:
            with lock:
                return call(*args)

        return call_locked

    def add(key: str, value: bytes) -> bool:
        return key not in cache and cache.__setitem__(key, value) is None

    def increment(key: str) -> int:
        cache[key] = number = cache.get(key, 0) + 1
        return int(number)

    yield {
        "get": locked(cache.get),
        "set": locked(cache.__setitem__),
        "set_ttl": locked(cache.__setitem__),
        "add": locked(add),
        "delete": locked(lambda key: cache.pop(key, None)),
        "update": locked(cache.__setitem__),
        "increment": locked(increment),
        "get_many": locked(lambda keys: {key: cache[key] for key in keys if key in cache}),
        "set_many": locked(cache.update),
    }


@contextmanager
def diskcache(place: Place) -> Iterator[Calls]:
    """Its Cache, with nothing thrown out, and SQLite's durability as the store has it."""
    module: Any = import_module("diskcache")
    synchronous = {"normal": 1, "full": 2}[place.durability]
    folder = str(place.folder / "diskcache")
    settings = {"eviction_policy": "none", "cull_limit": 0, "sqlite_synchronous": synchronous}
    with module.Cache(folder, timeout=60, **settings) as cache:

        def update(key: str, value: bytes) -> None:
            with cache.transact(retry=True):
                cache.get(key)
                cache.set(key, value)

        def set_many(items: Mapping[str, bytes]) -> None:
            with cache.transact(retry=True):
                for key, value in items.items():
                    cache.set(key, value)

        yield {
            "get": cache.get,
            "set": partial(cache.set, retry=True),
            "set_ttl": partial(cache.set, expire=TTL, retry=True),
            "add": partial(cache.add, retry=True),
            "delete": partial(cache.delete, retry=True),
            "update": update,
            "increment": partial(cache.incr, retry=True),
            "set_many": set_many,
        }


@contextmanager
def sqlitedict(place: Place) -> Iterator[Calls]:
    """Its dict; a write is committed before it returns."""
    module: Any = import_module("sqlitedict")
    same = {"encode": sqlite3.Binary, "decode": bytes}  # bytes as they are, not pickled
    path = str(place.folder / "sqlitedict.db")
    with module.SqliteDict(path, journal_mode="WAL", outer_stack=False, **same) as entries:

        def write(key: str, value: bytes) -> None:
            entries[key] = value
            entries.commit()

        def set_many(items: Mapping[str, bytes]) -> None:
            entries.update(items)
            entries.commit()

        yield {"get": entries.get, "set": write, "set_many": set_many}


@contextmanager
def dbm_sqlite(place: Place) -> Iterator[Calls]:
    """`dbm.sqlite3`, of Python 3.13; its connection is of one thread, so each has its own."""
    from threading import local

    module: Any = import_module("dbm.sqlite3")
    mine = local()

    def database() -> Any:
        if not hasattr(mine, "database"):
            mine.database = module.open(str(place.folder / "dbm.db"), "c")
        return mine.database

    yield {
        "get": lambda key: database().get(key),
        "set": lambda key, value: database().__setitem__(key, value),
    }


@contextmanager
def django(place: Place) -> Iterator[Calls]:
    """Its database cache, on SQLite or PostgreSQL."""
    conf: Any = import_module("django.conf")
    if not conf.settings.configured:
        conf.settings.configure(USE_TZ=True)
        import_module("django").setup()
    db: Any = import_module("django.db")
    if place.server is None:
        pragmas = f"PRAGMA journal_mode=WAL; PRAGMA synchronous={place.durability};"
        options: dict[str, Any] = {"timeout": 60, "transaction_mode": "IMMEDIATE", "init_command": pragmas}
        database: dict[str, Any] = {"ENGINE": "django.db.backends.sqlite3", "NAME": str(place.folder / "django.db")}
    else:
        parts = urlsplit(place.url)
        options = {"pool": {"min_size": POOL, "max_size": POOL, "timeout": 60}}
        database = {"ENGINE": "django.db.backends.postgresql", "NAME": parts.path[1:], "USER": parts.username}
        database |= {"HOST": parts.hostname, "PORT": parts.port}
    db.connections.settings = db.connections.configure_settings({"default": {**database, "OPTIONS": options}})
    import_module("django.core.management").call_command("createcachetable", "django_cache", verbosity=0)
    kind: Any = import_module("django.core.cache.backends.db").DatabaseCache
    cache = kind("django_cache", {"TIMEOUT": None, "OPTIONS": {"MAX_ENTRIES": MOST}})

    def served(call: Callable[..., Any], *more: Any) -> Callable[..., Any]:
        """As at the end of a request: a connection goes back to the pool, and one without a pool stays."""

        def call_served(*args: Any) -> Any:
            try:
                return call(*args, *more)
            finally:
                if place.server is not None:
                    db.connection.close()

        return call_served

    def increment(key: str) -> int:
        cache.add(key, 0)
        return int(cache.incr(key))

    yield {
        "get": served(cache.get),
        "set": served(cache.set),
        "set_ttl": served(cache.set, TTL),
        "add": served(cache.add),
        "delete": served(cache.delete),
        "increment": served(increment),
        "get_many": served(cache.get_many),
    }
    db.connections.close_all()
    if place.server is not None:
        db.connection.close_pool()
    del db.connections["default"]


@contextmanager
def langgraph(place: Place) -> Iterator[Calls]:
    """LangGraph's PostgresStore, with a pool."""
    store_of: Any = import_module("langgraph.store.postgres").PostgresStore
    base: Any = import_module("langgraph.store.base")
    rows: Any = import_module("psycopg.rows")
    pool_of: Any = import_module("psycopg_pool").ConnectionPool
    settings = {"autocommit": True, "prepare_threshold": 0, "row_factory": rows.dict_row}
    with pool_of(place.url, kwargs=settings, min_size=POOL, max_size=POOL, timeout=60) as pool:
        store = store_of(pool)
        store.setup()
        yield {
            "get": lambda key: (item := store.get((NAMESPACE,), key)) and _bytes(item.value),
            "set": lambda key, value: store.put((NAMESPACE,), key, _json(value)),
            "delete": lambda key: store.delete((NAMESPACE,), key),
            "get_many": lambda keys: [
                item and _bytes(item.value) for item in store.batch([base.GetOp((NAMESPACE,), key) for key in keys])
            ],
            "set_many": lambda items: store.batch(
                [base.PutOp((NAMESPACE,), key, _json(value)) for key, value in sorted(items.items())]
            ),
        }


@asynccontextmanager
async def langgraph_async(place: Place) -> AsyncIterator[Calls]:
    """LangGraph's AsyncPostgresStore, with a pool."""
    store_of: Any = import_module("langgraph.store.postgres").AsyncPostgresStore
    base: Any = import_module("langgraph.store.base")
    async with store_of.from_conn_string(place.url, pool_config={"min_size": POOL, "max_size": POOL}) as store:
        await store.setup()

        async def get(key: str) -> bytes | None:
            item = await store.aget((NAMESPACE,), key)
            return item and _bytes(item.value)

        async def get_many(keys: list[str]) -> list[bytes | None]:
            found = await store.abatch([base.GetOp((NAMESPACE,), key) for key in keys])
            return [item and _bytes(item.value) for item in found]

        yield {
            "get": get,
            "set": lambda key, value: store.aput((NAMESPACE,), key, _json(value)),
            "delete": lambda key: store.adelete((NAMESPACE,), key),
            "get_many": get_many,
            "set_many": lambda items: store.abatch(
                [base.PutOp((NAMESPACE,), key, _json(value)) for key, value in sorted(items.items())]
            ),
        }


NAMESPACE = "benchmark"


@asynccontextmanager
async def key_value(place: Place, kind: str) -> AsyncIterator[Calls]:
    """py-key-value-aio's stores."""
    stores: Any = import_module(f"key_value.aio.stores.{kind}")
    if kind == "memory":
        store = stores.MemoryStore()
    elif kind == "disk":
        store = stores.DiskStore(directory=place.folder / "key_value")
    elif kind == "redis":
        redis: Any = import_module("redis.asyncio")
        pool = redis.BlockingConnectionPool.from_url(place.url, max_connections=POOL, timeout=60, decode_responses=True)
        store = stores.RedisStore(client=redis.Redis(connection_pool=pool))
    else:
        asyncpg: Any = import_module("asyncpg")
        pool = await asyncpg.create_pool(place.url, min_size=POOL, max_size=POOL)
        with catch_warnings(action="ignore"):  # it says that it is not stable yet
            store = stores.PostgreSQLStore(pool=pool, table_name="key_value")
    async with store if kind != "memory" else nullcontext():

        async def get(key: str) -> bytes | None:
            return _bytes(await store.get(key))

        async def get_many(keys: list[str]) -> list[bytes | None]:
            return [_bytes(value) for value in await store.get_many(keys)]

        yield {
            "get": get,
            "set": lambda key, value: store.put(key, _json(value)),
            "set_ttl": lambda key, value: store.put(key, _json(value), ttl=TTL),
            "delete": store.delete,
            "get_many": get_many,
            "set_many": lambda items: store.put_many(sorted(items), [_json(items[key]) for key in sorted(items)]),
        }


@asynccontextmanager
async def litestar(place: Place, kind: str) -> AsyncIterator[Calls]:
    """Litestar's stores."""
    stores: Any = import_module(f"litestar.stores.{kind}")
    if kind == "memory":
        store = stores.MemoryStore()
    elif kind == "file":
        store = stores.FileStore(place.folder / "litestar", create_directories=True)
    else:
        redis: Any = import_module("redis.asyncio")
        pool = redis.BlockingConnectionPool.from_url(place.url, max_connections=POOL, timeout=60)
        store = stores.RedisStore(redis.Redis(connection_pool=pool), handle_client_shutdown=True)
    async with store:
        yield {
            "get": store.get,
            "set": store.set,
            "set_ttl": lambda key, value: store.set(key, value, TTL),
            "delete": store.delete,
        }


@asynccontextmanager
async def aiocache(place: Place, kind: str) -> AsyncIterator[Calls]:
    """aiocache's caches, of bytes as they are."""
    module: Any = import_module("aiocache")
    serializer = import_module("aiocache.serializers").NullSerializer(encoding=None)
    if kind == "memory":
        cache = module.SimpleMemoryCache(serializer, timeout=None)
    else:
        parts = urlsplit(place.url)
        where = {"endpoint": parts.hostname, "port": parts.port, "db": int(parts.path[1:] or 0)}
        cache = module.RedisCache(serializer, pool_max_size=MOST, timeout=None, **where)
    async with cache:
        yield {
            "get": cache.get,
            "set": cache.set,
            "set_ttl": lambda key, value: cache.set(key, value, TTL),
            "delete": cache.delete,
            "increment": cache.increment,
            "get_many": cache.multi_get,
            "set_many": lambda items: cache.multi_set(items.items()),
        }


@asynccontextmanager
async def cashews(place: Place, kind: str) -> AsyncIterator[Calls]:
    """cashews' caches; a value is pickled where it leaves the process."""
    cache: Any = import_module("cashews").Cache()
    if kind == "memory":
        cache.setup("mem://", size=MOST)
    else:
        cache.setup(place.url, max_connections=POOL, wait_for_connection_timeout=60, suppress=False)
    await cache.init()
    yield {
        "get": cache.get,
        "set": cache.set,
        "set_ttl": lambda key, value: cache.set(key, value, TTL),
        "add": lambda key, value: cache.set(key, value, exist=False),
        "delete": cache.delete,
        "increment": cache.incr,
        "get_many": lambda keys: cache.get_many(*keys),
        "set_many": cache.set_many,
    }
    await cache.close()


@asynccontextmanager
async def aiosqlite(place: Place) -> AsyncIterator[Calls]:
    """One connection in a thread, as it is mostly used."""
    module: Any = import_module("aiosqlite")
    with closing(sqlite3.connect(place.folder / "aiosqlite.db")) as made:
        made.execute("PRAGMA journal_mode = WAL")
    async with module.connect(place.folder / "aiosqlite.db", isolation_level=None) as connection:
        await connection.execute(f"PRAGMA synchronous = {place.durability}")
        await connection.execute(TABLE_SQL)

        async def get(key: str) -> bytes | None:
            async with connection.execute(GET_SQL, (key,)) as cursor:
                row: Any = await cursor.fetchone()
                return row[0] if row else None

        async def write(key: str, value: bytes) -> None:
            async with connection.execute(SET_SQL, (key, value)):
                pass

        yield {"get": get, "set": write}
