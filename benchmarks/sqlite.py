"""The SQLite store beside bare `sqlite3` statements on a table of the same shape, with the same settings."""

from __future__ import annotations

import asyncio
import os
import random
import sqlite3
import tempfile
from contextlib import closing
from importlib import import_module
from itertools import cycle
from pathlib import Path
from typing import TYPE_CHECKING, Any

import kv
from kv.backends.sqlite.schema import DDL, PRAGMAS

from .harness import Case, compare, console

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

VALUES = cycle([os.urandom(128) for _ in range(1_009)])
"""A new value each time: SQLite does not write a row again that is the same."""
GET = "SELECT value FROM kv_entries WHERE namespace = '' AND key = ?"
SET = (
    "INSERT INTO kv_entries (namespace, key, value) VALUES ('', ?, ?) "
    "ON CONFLICT (namespace, key) DO UPDATE SET value = excluded.value"
)


def bare(path: Path, durability: str) -> sqlite3.Connection:
    """The floor: a connection as one makes it by hand, autocommit, on our table."""
    connection = sqlite3.connect(path, isolation_level=None, check_same_thread=False)
    connection.executescript(DDL)
    connection.execute("PRAGMA journal_mode = WAL")
    for pragma in (f"PRAGMA synchronous = {durability}", *PRAGMAS):
        connection.execute(pragma)
    return connection


def run(*, quick: bool) -> bool:
    """Compare, and give whether every target was met."""
    with tempfile.TemporaryDirectory() as folder:
        console.print(f"files in {folder}\n")
        met = single(Path(folder), 5 if quick else 15)
        met &= asyncio.run(together(Path(folder), 3 if quick else 7))
        return met


def single(folder: Path, rounds: int) -> bool:
    """One caller, sync."""
    keys = [f"user:{i:06}:profile" for i in range(100_000)]
    mark = "sqlite, durability=normal"
    with (
        kv.SQLiteStore(folder / "kv.db", durability="normal") as store,
        closing(bare(folder / "bare.db", "normal")) as floor,
    ):
        store.set_many((key, next(VALUES)) for key in keys)
        floor.execute("BEGIN")
        floor.executemany(SET, [(key, next(VALUES)) for key in keys])
        floor.execute("COMMIT")
        asked = random.Random(1).sample(keys, 2_000)
        cache = disk_cache(folder, keys)
        met = compare(
            f"{mark}: get of 100,000",
            each("sqlite3, SELECT", lambda key: floor.execute(GET, (key,)).fetchone(), asked),
            each("SQLiteStore.get", store.get, asked, 1.4),
            *([each("diskcache.Cache.get", cache.get, asked)] if cache is not None else []),
            rounds=rounds,
        )
        peers = (
            [each("diskcache.Cache.set", lambda key: cache.set(key, next(VALUES)), asked)] if cache is not None else []
        )
        met &= writes(mark, store, floor, asked, rounds, peers)

        batch = [(key, next(VALUES)) for key in random.Random(2).sample(keys, 10_000)]

        def many() -> None:
            floor.execute("BEGIN IMMEDIATE")
            floor.executemany(SET, batch)
            floor.execute("COMMIT")

        met &= compare(
            f"{mark}: set_many of 10,000 over 100,000",
            Case("sqlite3, executemany in one transaction", many, len(batch)),
            Case("SQLiteStore.set_many", lambda: store.set_many(batch), len(batch), 1.3),
            rounds=rounds,
        )
    with kv.SQLiteStore(folder / "full.db") as store, closing(bare(folder / "bare-full.db", "full")) as floor:
        met &= writes("sqlite, durability=full", store, floor, asked[:200], rounds, [])
    return met


def each(name: str, call: Callable[[str], object], keys: list[str], most: float | None = None) -> Case:
    """A row that calls once for each key."""

    def loop() -> None:
        for key in keys:
            call(key)

    return Case(name, loop, len(keys), most)


def writes(
    mark: str, store: kv.SQLiteStore, floor: sqlite3.Connection, keys: list[str], rounds: int, peers: list[Case]
) -> bool:
    """Single writes, each its own commit."""
    return compare(
        f"{mark}: single writes",
        each("sqlite3, upsert", lambda key: floor.execute(SET, (key, next(VALUES))), keys),
        each("SQLiteStore.set", lambda key: store.set(key, next(VALUES)), keys, 1.5),
        each("SQLiteStore.set ttl", lambda key: store.set(f"t{key}", next(VALUES), ttl=60), keys),
        each("SQLiteStore.increment", lambda _: store.increment("n"), keys),
        each("SQLiteStore.update", lambda key: store.update(key, lambda _: next(VALUES)), keys),
        *peers,
        rounds=rounds,
    )


def disk_cache(folder: Path, keys: list[str]) -> Any:
    """Give diskcache's cache with the same entries, or None where it is not installed."""
    try:
        cache: Any = import_module("diskcache").Cache(str(folder / "diskcache"))
    except ImportError:
        return None
    with cache.transact():
        for key in keys:
            cache.set(key, next(VALUES))
    return cache


async def together(folder: Path, rounds: int) -> bool:
    """64 tasks on one async store."""
    aiosqlite: Any = import_module("aiosqlite")
    tasks, each = 64, 20
    keys = [f"user:{i:06}:profile" for i in range(10_000)]
    met = True
    peer = await aiosqlite.connect(folder / "aiosqlite.db", isolation_level=None)
    await peer.executescript(DDL)
    await peer.execute("PRAGMA journal_mode = WAL")
    await peer.executemany(SET, [(key, next(VALUES)) for key in keys])
    floor = bare(folder / "commit.db", "full")
    floor.execute("BEGIN")
    floor.executemany(SET, [(key, next(VALUES)) for key in keys])
    floor.execute("COMMIT")

    async def peer_set(key: str) -> None:
        await peer.execute(SET, (key, next(VALUES)))

    async def peer_get(key: str) -> object:
        async with peer.execute(GET, (key,)) as cursor:
            return await cursor.fetchone()

    async with kv.AsyncSQLiteStore(folder / "async.db") as store:
        await store.set_many((key, next(VALUES)) for key in keys)
        loop = asyncio.get_running_loop()

        rng = random.Random(2)
        parts = [rng.sample(keys, each) for _ in range(tasks)]

        async def all_of(call: Callable[[str], Awaitable[object]]) -> None:
            async def task(some: list[str]) -> None:
                for key in some:
                    await call(key)

            await asyncio.gather(*map(task, parts))

        def case(name: str, call: Callable[[str], Awaitable[object]], least: float | None = None) -> Case:
            run = lambda: asyncio.run_coroutine_threadsafe(all_of(call), loop).result()  # noqa: E731
            return Case(name, run, tasks * each, least=least)

        def commits() -> None:
            for part in parts:
                for key in part:
                    floor.execute(SET, (key, next(VALUES)))

        def race() -> bool:
            met = compare(
                "async sqlite, 64 tasks writing, durability=full",
                Case("sqlite3, one commit for each write", commits, tasks * each),
                case("aiosqlite, one commit for each write", peer_set),
                case("AsyncSQLiteStore.set", lambda key: store.set(key, next(VALUES)), 5.5),
                case("AsyncSQLiteStore.increment, one key", lambda _: store.increment("n")),
                rounds=rounds,
            )
            return met & compare(
                "async sqlite, 64 tasks reading",
                case("aiosqlite, SELECT", peer_get),
                case("AsyncSQLiteStore.get", store.get, 4),
                rounds=rounds,
            )

        # the clock is read in another thread, so that the loop is free to run what is timed
        met &= await asyncio.to_thread(race)
    await peer.close()
    floor.close()
    return met
