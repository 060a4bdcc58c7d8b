"""The floors: the same work by hand, with a dict, `sqlite3`, psycopg, asyncpg and redis-py, as one writes it without a store.

Their tables and names are plain, their keys are not checked, and there are no namespaces; what is atomic in a store is
atomic here too. Whatever their pool cannot give at once waits for it.
"""

from __future__ import annotations

import asyncio
import sqlite3
from bisect import bisect_right, insort
from contextlib import asynccontextmanager, contextmanager
from functools import partial
from itertools import islice
from threading import Lock, local
from time import monotonic
from typing import TYPE_CHECKING, Any

import asyncpg
import psycopg
import redis as sync_redis
import redis.asyncio as async_redis
from psycopg_pool import ConnectionPool

from .ycsb import BATCH

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Iterator, Mapping

    from .measuring import Calls
    from .subjects import Place

POOL = 10
TTL = 600
END = "\U0010ffff"
"""After every key with a prefix."""


class Dict:
    """A dict with deadlines, and its keys in order."""

    def __init__(self) -> None:
        self.entries: dict[str, tuple[bytes, float | None]] = {}
        self.order: list[str] = []
        self.lock = Lock()  # around all that reads before it writes

    def get(self, key: str) -> bytes | None:
        entry = self.entries.get(key)
        if entry is None or (entry[1] is not None and monotonic() >= entry[1]):
            return None
        return entry[0]

    def set(self, key: str, value: bytes, ttl: float | None = None) -> None:
        with self.lock:
            if key not in self.entries:
                insort(self.order, key)
            self.entries[key] = (value, None if ttl is None else monotonic() + ttl)

    def set_ttl(self, key: str, value: bytes) -> None:
        self.set(key, value, TTL)

    def add(self, key: str, value: bytes) -> bool:
        with self.lock:
            if self.get(key) is not None:
                return False
            if key not in self.entries:
                insort(self.order, key)
            self.entries[key] = (value, None)
            return True

    def delete(self, key: str) -> bool:
        with self.lock:
            if self.entries.pop(key, None) is None:
                return False
            del self.order[bisect_right(self.order, key) - 1]
            return True

    def update(self, key: str, fn: Callable[[bytes | None], bytes]) -> bytes:
        with self.lock:
            entry = self.entries.get(key)
            if entry is None:
                insort(self.order, key)
            value = fn(None if entry is None else entry[0])
            self.entries[key] = (value, None if entry is None else entry[1])
            return value

    def increment(self, key: str) -> int:
        with self.lock:
            entry = self.entries.get(key)
            if entry is None:
                insort(self.order, key)
            number = int(entry[0]) + 1 if entry else 1
            self.entries[key] = (b"%d" % number, None if entry is None else entry[1])
            return number

    def get_many(self, keys: list[str]) -> dict[str, bytes]:
        return {key: value for key in keys if (value := self.get(key)) is not None}

    def set_many(self, items: Mapping[str, bytes]) -> None:
        with self.lock:
            for key, value in items.items():
                if key not in self.entries:
                    insort(self.order, key)
                self.entries[key] = (value, None)

    def page(self, prefix: str) -> list[str]:
        begin = bisect_right(self.order, prefix)
        return [key for key in self.order[begin : begin + BATCH] if key.startswith(prefix)]

    def scan(self, after: str, number: int) -> list[tuple[str, bytes]]:
        begin = bisect_right(self.order, after)
        return [(key, self.entries[key][0]) for key in self.order[begin : begin + number]]

    def calls(self) -> Calls:
        """Give what it can do."""
        names = ("get", "set", "set_ttl", "add", "delete", "increment", "get_many", "set_many", "page", "scan")
        update = lambda key, value: self.update(key, lambda _: value)  # noqa: E731
        return {"update": update, **{name: getattr(self, name) for name in names}}


@contextmanager
def memory(_: Place) -> Iterator[Calls]:
    """A dict."""
    yield Dict().calls()


@asynccontextmanager
async def memory_async(_: Place) -> AsyncIterator[Calls]:
    """The dict behind `async def`."""

    def behind(call: Callable[..., Any]) -> Callable[..., Any]:
        async def behind_async(*args: Any) -> Any:
            return call(*args)

        return behind_async

    yield {name: behind(call) for name, call in Dict().calls().items()}


TABLE_SQL = "CREATE TABLE IF NOT EXISTS bare (key TEXT PRIMARY KEY, expires_at REAL, value BLOB NOT NULL)"
_NOW = "unixepoch('subsec')"
GET_SQL = f"SELECT value FROM bare WHERE key = ? AND (expires_at IS NULL OR expires_at > {_NOW})"
SET_SQL = (
    "INSERT INTO bare (key, value, expires_at) VALUES (?, ?, NULL) "
    "ON CONFLICT (key) DO UPDATE SET value = excluded.value, expires_at = NULL"
)
_LIVE = f"(expires_at IS NULL OR expires_at > {_NOW})"


@contextmanager
def sqlite(place: Place) -> Iterator[Calls]:
    """`sqlite3`, a connection for each thread, with the same settings as the store's."""
    mine, opened = local(), list[sqlite3.Connection]()

    def connection() -> sqlite3.Connection:
        try:
            return mine.connection  # type: ignore[no-any-return]
        except AttributeError:
            made = sqlite3.connect(place.folder / "bare.db", 60, isolation_level=None, check_same_thread=False)
            for pragma in ("journal_mode = WAL", f"synchronous = {place.durability}", "cache_size = -16000"):
                made.execute(f"PRAGMA {pragma}")
            made.execute(TABLE_SQL)
            opened.append(made)
            mine.connection = made
            return made

    def one(statement: str, *args: object) -> Any:
        row = connection().execute(statement, args).fetchone()
        return row and row[0]

    def update(key: str, value: bytes) -> None:
        with connection() as c:
            c.execute("BEGIN IMMEDIATE")
            if c.execute(GET_SQL, (key,)).fetchone() is None:
                c.execute(SET_SQL, (key, value))
            else:
                c.execute("UPDATE bare SET value = ? WHERE key = ?", (value, key))

    def set_many(items: Mapping[str, bytes]) -> None:
        with connection() as c:
            c.execute("BEGIN IMMEDIATE")
            c.executemany(SET_SQL, items.items())

    marks = ", ".join("?" * BATCH)
    yield {
        "get": partial(one, GET_SQL),
        "set": lambda key, value: connection().execute(SET_SQL, (key, value)),
        "set_ttl": lambda key, value: connection().execute(
            f"INSERT INTO bare (key, value, expires_at) VALUES (?, ?, {_NOW} + {TTL}) "
            "ON CONFLICT (key) DO UPDATE SET value = excluded.value, expires_at = excluded.expires_at",
            (key, value),
        ),
        "add": lambda key, value: connection().execute(f"{SET_SQL} WHERE expires_at <= {_NOW}", (key, value)).rowcount,
        "delete": lambda key: connection().execute(f"DELETE FROM bare WHERE key = ? AND {_LIVE}", (key,)).rowcount,
        "update": update,
        "increment": lambda key: one(
            "INSERT INTO bare (key, value) VALUES (?, CAST('1' AS BLOB)) ON CONFLICT (key) DO UPDATE "
            "SET value = CAST(CAST(CAST(value AS TEXT) AS INTEGER) + 1 AS BLOB) RETURNING value",
            key,
        ),
        "get_many": lambda keys: dict(
            connection().execute(f"SELECT key, value FROM bare WHERE key IN ({marks}) AND {_LIVE}", keys)
        ),
        "set_many": set_many,
        "page": lambda prefix: [
            key
            for (key,) in connection().execute(
                f"SELECT key FROM bare WHERE key >= ? AND key < ? AND {_LIVE} ORDER BY key LIMIT {BATCH}",
                (prefix, prefix + END),
            )
        ],
        "scan": lambda after, number: (
            connection()
            .execute(f"SELECT key, value FROM bare WHERE key > ? AND {_LIVE} ORDER BY key LIMIT ?", (after, number))
            .fetchall()
        ),
    }
    for made in opened:
        made.close()


@asynccontextmanager
async def sqlite_async(place: Place) -> AsyncIterator[Calls]:
    """The same in the event loop's threads."""
    with sqlite(place) as calls:
        yield {name: partial(asyncio.to_thread, call) for name, call in calls.items()}


POSTGRES_TABLE = """
    CREATE TABLE IF NOT EXISTS bare (key text COLLATE "C" PRIMARY KEY, value bytea NOT NULL, expires_at timestamptz)
    WITH (fillfactor = 75)
"""
_ALIVE = "(expires_at IS NULL OR expires_at > now())"
_UPSERT = "ON CONFLICT (key) DO UPDATE SET value = excluded.value, expires_at = excluded.expires_at"
STATEMENTS = {
    "get": f"SELECT value FROM bare WHERE key = $1 AND {_ALIVE}",
    "set": f"INSERT INTO bare (key, value) VALUES ($1, $2) {_UPSERT}",
    "set_ttl": f"INSERT INTO bare (key, value, expires_at) VALUES ($1, $2, now() + interval '{TTL} s') {_UPSERT}",
    "add": f"INSERT INTO bare (key, value) VALUES ($1, $2) {_UPSERT} WHERE bare.expires_at <= now() RETURNING 1",
    "delete": f"DELETE FROM bare WHERE key = $1 AND {_ALIVE} RETURNING 1",
    "increment": (
        "INSERT INTO bare (key, value) VALUES ($1, '1') ON CONFLICT (key) DO UPDATE "
        "SET value = convert_to((convert_from(bare.value, 'UTF8')::bigint + 1)::text, 'UTF8') RETURNING value"
    ),
    "lock": f"SELECT value FROM bare WHERE key = $1 AND {_ALIVE} FOR UPDATE",
    "change": "UPDATE bare SET value = $2 WHERE key = $1",
    "get_many": f"SELECT key, value FROM bare WHERE key = ANY($1::text[]) AND {_ALIVE}",
    "set_many": f"INSERT INTO bare (key, value) SELECT * FROM unnest($1::text[], $2::bytea[]) {_UPSERT}",
    "page": f"SELECT key FROM bare WHERE key >= $1 AND key < $2 AND {_ALIVE} ORDER BY key LIMIT {BATCH}",
    "scan": f"SELECT key, value FROM bare WHERE key > $1 AND {_ALIVE} ORDER BY key LIMIT $2",
}


def _columns(items: Mapping[str, bytes]) -> tuple[list[str], list[bytes]]:
    """In order, so that two never wait for each other."""
    keys = sorted(items)
    return keys, [items[key] for key in keys]


@contextmanager
def postgres(place: Place) -> Iterator[Calls]:
    """psycopg's pool, autocommit."""
    settings = {"autocommit": True, "cursor_factory": psycopg.RawCursor}
    opened: Any = ConnectionPool(place.url, kwargs=settings, min_size=POOL, max_size=POOL, open=True, timeout=60)
    with opened as pool:
        pool.wait()
        with pool.connection() as c:
            c.execute(POSTGRES_TABLE)

        def fetch(name: str, *args: object) -> list[Any]:
            with pool.connection() as c:
                rows: list[Any] = c.execute(STATEMENTS[name], args, binary=True).fetchall()
                return rows

        def run(name: str, *args: object) -> None:
            with pool.connection() as c:
                c.execute(STATEMENTS[name], args)

        def one(name: str, *args: object) -> Any:
            rows = fetch(name, *args)
            return rows[0][0] if rows else None

        def update(key: str, value: bytes) -> None:
            with pool.connection() as c, c.transaction():
                if c.execute(STATEMENTS["lock"], (key,), binary=True).fetchone():
                    c.execute(STATEMENTS["change"], (key, value))
                else:
                    c.execute(STATEMENTS["set"], (key, value))

        yield {
            **{name: partial(one, name) for name in ("get", "add", "delete", "increment")},
            **{name: partial(run, name) for name in ("set", "set_ttl")},
            "update": update,
            "get_many": lambda keys: dict(fetch("get_many", keys)),
            "set_many": lambda items: run("set_many", *_columns(items)),
            "page": lambda prefix: [key for (key,) in fetch("page", prefix, prefix + END)],
            "scan": partial(fetch, "scan"),
        }


@asynccontextmanager
async def postgres_async(place: Place) -> AsyncIterator[Calls]:
    """asyncpg's pool."""
    async with asyncpg.create_pool(place.url, min_size=POOL, max_size=POOL) as pool:
        await pool.execute(POSTGRES_TABLE)

        async def update(key: str, value: bytes) -> None:
            async with pool.acquire() as c, c.transaction():
                if await c.fetchval(STATEMENTS["lock"], key) is not None:
                    await c.execute(STATEMENTS["change"], key, value)
                else:
                    await c.execute(STATEMENTS["set"], key, value)

        async def get_many(keys: list[str]) -> dict[str, bytes]:
            return dict(await pool.fetch(STATEMENTS["get_many"], keys))

        async def page(prefix: str) -> list[str]:
            return [key for (key,) in await pool.fetch(STATEMENTS["page"], prefix, prefix + END)]

        yield {
            **{name: partial(pool.fetchval, STATEMENTS[name]) for name in ("get", "add", "delete", "increment")},
            **{name: partial(pool.execute, STATEMENTS[name]) for name in ("set", "set_ttl")},
            "update": update,
            "get_many": get_many,
            "set_many": lambda items: pool.execute(STATEMENTS["set_many"], *_columns(items)),
            "page": page,
            "scan": partial(pool.fetch, STATEMENTS["scan"]),
        }


@contextmanager
def redis(place: Place) -> Iterator[Calls]:
    """redis-py's pool."""
    pool = sync_redis.BlockingConnectionPool.from_url(place.url, max_connections=POOL, timeout=60)
    client: Any = sync_redis.Redis(connection_pool=pool)

    def page(prefix: str) -> list[bytes]:
        return list(islice(sorted(client.scan_iter(match=f"{prefix}*", count=1_000)), BATCH))

    def scan(after: str, number: int) -> list[tuple[bytes, bytes]]:
        keys = sorted(key for key in client.scan_iter(count=1_000) if key > after.encode())[:number]
        return list(zip(keys, client.mget(keys), strict=True)) if keys else []

    def update(key: str, value: bytes) -> None:
        def change(pipeline: Any) -> None:
            pipeline.get(key)
            pipeline.multi()
            pipeline.set(key, value, keepttl=True)

        client.transaction(change, key)

    yield {**_redis_calls(client), "update": update, "page": page, "scan": scan}
    client.close()
    pool.disconnect()


@asynccontextmanager
async def redis_async(place: Place) -> AsyncIterator[Calls]:
    """redis-py's pool, asyncio."""
    pool = async_redis.BlockingConnectionPool.from_url(place.url, max_connections=POOL, timeout=60)
    client: Any = async_redis.Redis(connection_pool=pool)

    async def keys_of(match: str | None = None) -> list[bytes]:
        return sorted([key async for key in client.scan_iter(match=match, count=1_000)])

    async def page(prefix: str) -> list[bytes]:
        return (await keys_of(f"{prefix}*"))[:BATCH]

    async def scan(after: str, number: int) -> list[tuple[bytes, bytes]]:
        keys = [key for key in await keys_of() if key > after.encode()][:number]
        return list(zip(keys, await client.mget(keys), strict=True)) if keys else []

    async def update(key: str, value: bytes) -> None:
        async def change(pipeline: Any) -> None:
            await pipeline.get(key)
            pipeline.multi()
            pipeline.set(key, value, keepttl=True)

        await client.transaction(change, key)

    yield {**_redis_calls(client), "update": update, "page": page, "scan": scan}
    await client.aclose()
    await pool.disconnect()


def _redis_calls(client: Any) -> Calls:
    """Give what is one command."""
    return {
        "get": client.get,
        "set": client.set,
        "set_ttl": lambda key, value: client.set(key, value, ex=TTL),
        "add": lambda key, value: client.set(key, value, nx=True),
        "delete": client.delete,
        "increment": client.incr,
        "get_many": client.mget,
        "set_many": client.mset,
    }
