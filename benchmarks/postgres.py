"""The PostgreSQL stores beside bare statements of the same work by a bigint key, on the very connection that the store uses.

The same connection, because a server's process may run on the client's core or on the other one, which makes a round
trip three times as long: between two connections that would be all one sees.
"""

from __future__ import annotations

import asyncio
import os
import random
import sys
from itertools import cycle
from pathlib import Path
from typing import TYPE_CHECKING, Any

import psycopg

import kv
from kv.keys import fnv1a_64

from .harness import Case, compare, console

sys.path.append(str(Path(__file__).parents[1] / "tests"))

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

ENTRIES = 100_000
KEYS = [f"user:{i:06}:profile" for i in range(ENTRIES)]
HASHES = {key: fnv1a_64(key.encode()) for key in KEYS}
VALUES = cycle([os.urandom(128) for _ in range(1_009)])
BURST = 100
"""So many calls in a row, and then it is the next one's turn."""

TABLE = """
    CREATE TABLE bare (LIKE kv_store INCLUDING STORAGE, PRIMARY KEY (key_hash)) WITH (fillfactor = 75);
    ALTER TABLE bare ALTER key_check DROP NOT NULL, ALTER namespace DROP NOT NULL;
"""
"""Of the same columns; what is needed besides the hash and the key is not filled in."""
GET = "SELECT value FROM bare WHERE key_hash = $1 AND (expires_at IS NULL OR expires_at > now())"
SET = (
    "INSERT INTO bare (key_hash, key, value, updated_at) VALUES ($1, $2, $3, now()) ON CONFLICT (key_hash) DO UPDATE SET value = excluded.value, "
    "expires_at = NULL, updated_at = now()"
)
SET_MANY = (
    "INSERT INTO bare (key_hash, key, value, updated_at) "
    "SELECT h, k, v, now() FROM unnest($1::bigint[], $2::text[], $3::bytea[]) AS a (h, k, v) "
    "ON CONFLICT (key_hash) DO UPDATE SET value = excluded.value, expires_at = NULL, updated_at = now()"
)
LOCK = "SELECT value FROM bare WHERE key_hash = $1 FOR UPDATE"
CHANGE = "UPDATE bare SET value = $2, updated_at = now() WHERE key_hash = $1"


def run(*, quick: bool) -> bool:
    """Compare, and give whether every target was met."""
    import servers

    # a server as users have it: what is written is on disk when a commit returns
    server = servers.own_postgres(fsync="on", full_page_writes="on", shared_buffers="256MB", max_wal_size="4GB")
    try:
        rounds = 30 if quick else 150
        met = single(server.url, rounds)
        return met & asyncio.run(awaited(server.url, rounds))
    finally:
        server.close()


def burst(call: Callable[[str], object]) -> Callable[[], None]:
    """Call it for some keys."""
    rng = random.Random(1)

    def calls() -> None:
        for key in rng.sample(KEYS, BURST):
            call(key)

    return calls


def many() -> dict[str, bytes]:
    """Entries for a batch."""
    return {key: next(VALUES) for key in random.Random(2).sample(KEYS, 10_000)}


def columns(batch: dict[str, bytes]) -> tuple[list[int], list[str], list[bytes]]:
    """The same as arrays."""
    return [HASHES[key] for key in batch], [*batch], [*batch.values()]


def single(url: str, rounds: int) -> bool:
    """The sync store beside psycopg."""
    with kv.PostgresStore(url) as store, kv.PostgresStore(url, table="cache", unlogged=True) as unlogged:
        store.set_many((key, next(VALUES)) for key in KEYS)
        unlogged.set_many((key, next(VALUES)) for key in KEYS)
        source: Any = store._db.source
        unlogged._db.source = source
        console.print(f"PostgreSQL {store.stats().version}, fsync on, {ENTRIES:,} entries\n")
        held = source.take()
        held.connection.execute(TABLE)
        held.execute(SET_MANY, columns({key: next(VALUES) for key in KEYS}))
        held.connection.execute("VACUUM ANALYZE")
        source.give(held)
        cursor: Any = psycopg.RawCursor(held.connection)  # as one has it by hand, and reused
        cursor.format = psycopg.pq.Format.BINARY

        def floor(call: Callable[[Any, str], object]) -> Callable[[], None]:
            calls = burst(lambda key: call(held, key))

            def on_the_same_connection() -> None:
                assert source.take() is held
                calls()
                source.give(held)

            return on_the_same_connection

        def get(_: Any, key: str) -> None:
            cursor.execute(GET, (HASHES[key],))
            cursor.fetchone()

        def update(session: Any, key: str) -> None:
            with session.connection.transaction():
                cursor.execute(LOCK, (HASHES[key],))
                cursor.fetchone()
                cursor.execute(CHANGE, (HASHES[key], next(VALUES)))

        batch = many()

        def bare_many() -> None:
            assert source.take() is held
            cursor.execute(SET_MANY, columns(batch))
            source.give(held)

        mark = "postgresql, sync"
        met = compare(
            f"{mark}: get of {ENTRIES:,}",
            Case("psycopg, SELECT, held connection, one cursor", floor(get), BURST),
            Case("PostgresStore.get", burst(store.get), BURST, 1.2),
            rounds=rounds,
        )
        met &= compare(
            f"{mark}: single writes",
            Case("psycopg, upsert", floor(lambda _, key: cursor.execute(SET, (HASHES[key], key, next(VALUES)))), BURST),
            Case("PostgresStore.set", burst(lambda key: store.set(key, next(VALUES))), BURST, 1.2),
            Case("PostgresStore.set ttl", burst(lambda key: store.set(key, next(VALUES), ttl=600)), BURST),
            Case("PostgresStore.increment", burst(lambda _: store.increment("n")), BURST),
            Case("PostgresStore.set, unlogged", burst(lambda key: unlogged.set(key, next(VALUES))), BURST),
            rounds=rounds,
        )
        met &= compare(
            f"{mark}: update",
            Case("psycopg, transaction(), SELECT FOR UPDATE, UPDATE", floor(update), BURST),
            Case("PostgresStore.update", burst(lambda key: store.update(key, lambda _: next(VALUES))), BURST, 1.0),
            rounds=rounds,
        )
        return met & compare(
            f"{mark}: set_many of 10,000",
            Case("psycopg, unnest upsert", bare_many, len(batch)),
            Case("PostgresStore.set_many", lambda: store.set_many(batch), len(batch), 1.25),
            rounds=max(5, rounds // 10),
        )


async def awaited(url: str, rounds: int) -> bool:
    """The async store beside asyncpg."""
    async with kv.AsyncPostgresStore(url) as store:
        source: Any = store._db.source
        await store.get("-")
        held = await source.take()
        await source.give(held)
        loop = asyncio.get_running_loop()

        def case(name: str, call: Callable[[str], Awaitable[object]], most: float | None = None) -> Case:
            rng = random.Random(1)

            async def calls() -> None:
                for key in rng.sample(KEYS, BURST):
                    await call(key)

            return Case(name, lambda: asyncio.run_coroutine_threadsafe(calls(), loop).result(), BURST, most)

        def floor(name: str, call: Callable[[Any, str], Awaitable[object]]) -> Case:
            rng = random.Random(1)

            async def calls() -> None:
                assert await source.take() is held
                for key in rng.sample(KEYS, BURST):
                    await call(held.connection, key)
                await source.give(held)

            return Case(name, lambda: asyncio.run_coroutine_threadsafe(calls(), loop).result(), BURST)

        async def update(connection: Any, key: str) -> None:
            async with connection.transaction():
                await connection.fetchval(LOCK, HASHES[key])
                await connection.execute(CHANGE, HASHES[key], next(VALUES))

        batch = many()

        async def bare_many() -> None:
            assert await source.take() is held
            await held.connection.execute(SET_MANY, *columns(batch))
            await source.give(held)

        def once(name: str, call: Callable[[], Awaitable[object]], most: float | None = None) -> Case:
            async def calls() -> None:
                await call()

            return Case(name, lambda: asyncio.run_coroutine_threadsafe(calls(), loop).result(), len(batch), most)

        mark = "postgresql, async"

        def race() -> bool:
            met = compare(
                f"{mark}: get of {ENTRIES:,}",
                floor("asyncpg, fetchval, held connection", lambda c, key: c.fetchval(GET, HASHES[key])),
                case("AsyncPostgresStore.get", store.get, 1.15),
                rounds=rounds,
            )
            met &= compare(
                f"{mark}: single writes",
                floor("asyncpg, upsert", lambda c, key: c.execute(SET, HASHES[key], key, next(VALUES))),
                case("AsyncPostgresStore.set", lambda key: store.set(key, next(VALUES)), 1.15),
                case("AsyncPostgresStore.set ttl", lambda key: store.set(key, next(VALUES), ttl=600)),
                case("AsyncPostgresStore.increment", lambda _: store.increment("n")),
                rounds=rounds,
            )
            met &= compare(
                f"{mark}: update",
                floor("asyncpg, transaction(), SELECT FOR UPDATE, UPDATE", update),
                case("AsyncPostgresStore.update", lambda key: store.update(key, lambda _: next(VALUES)), 1.0),
                rounds=rounds,
            )
            return met & compare(
                f"{mark}: set_many of 10,000",
                once("asyncpg, unnest upsert", bare_many),
                once("AsyncPostgresStore.set_many", lambda: store.set_many(batch), 1.25),
                rounds=max(5, rounds // 10),
            )

        # the clock is read in another thread, so that the loop is free to run what is timed
        return await asyncio.to_thread(race)
