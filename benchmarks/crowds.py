"""Many tasks on one async store, beside the plain driver with a pool of ten: what calls that go together gain, at 1 to 64 tasks."""

from __future__ import annotations

import asyncio
import os
import random
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import asyncpg
import redis.asyncio as async_redis

import kv
from kv.keys import fnv1a_64

from .harness import Case, compare, console
from .postgres import GET, SET, TABLE

sys.path.append(str(Path(__file__).parents[1] / "tests"))

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    Call = Callable[[str], Awaitable[object]]

KEYS = [f"user:{n:04}:profile" for n in range(1_000)]
VALUE = os.urandom(128)
EACH = 25
"""So many calls each task makes in a round."""
TASKS = (1, 2, 4, 8, 64)
ADD = (
    "INSERT INTO bare (key_hash, key, value, updated_at) VALUES ($1, 'n', '1', now()) ON CONFLICT (key_hash) DO UPDATE "
    "SET value = convert_to((encode(bare.value, 'escape')::bigint + 1)::text, 'UTF8')"
)


def run(*, quick: bool) -> bool:
    """Compare, and give whether every target was met."""
    import servers

    met = True
    for own, beside in ((servers.own_postgres, postgres), (servers.own_redis, redis)):
        server = own(fsync="on") if own is servers.own_postgres else own()
        try:
            met &= asyncio.run(beside(server.url, 7 if quick else 25))
        finally:
            server.close()
    return met


async def postgres(url: str, rounds: int) -> bool:
    """AsyncPostgresStore beside asyncpg's own pool."""
    async with kv.AsyncPostgresStore(url) as store, asyncpg.create_pool(url, min_size=10, max_size=10) as pool:
        await store.set_many(dict.fromkeys(KEYS, VALUE))
        await pool.execute(TABLE)
        hashes = {key: fnv1a_64(key.encode()) for key in KEYS}
        await pool.executemany(SET, [(hashes[key], key, VALUE) for key in KEYS])
        return await beside(
            "postgres: asyncpg's pool of 10",
            {
                "get": (lambda key: pool.fetchval(GET, hashes[key]), store.get, 8),
                "set": (
                    lambda key: pool.execute(SET, hashes[key], key, VALUE),
                    lambda key: store.set(key, VALUE),
                    6,
                ),
                "increment of one key": (lambda _: pool.execute(ADD, 7), lambda _: store.increment("n"), 5),
            },
            rounds,
        )


async def redis(url: str, rounds: int) -> bool:
    """AsyncRedisStore beside redis-py's pool of 10."""
    pool = async_redis.BlockingConnectionPool.from_url(url, max_connections=10)
    client = async_redis.Redis(connection_pool=pool)
    async with kv.AsyncRedisStore(url) as store:
        await store.set_many(dict.fromkeys(KEYS, VALUE))
        try:
            return await beside(
                "redis: redis-py's pool of 10",
                {
                    "get": (lambda key: client.get(f"kv::{key}"), store.get, 6),
                    "set": (lambda key: client.set(f"kv::{key}", VALUE), lambda key: store.set(key, VALUE), 6),
                    "increment of one key": (lambda _: client.incrby("n", 1), lambda _: store.increment("n"), 6),
                },
                rounds,
            )
        finally:
            await client.aclose()
            await pool.disconnect()


async def beside(what: str, calls: dict[str, tuple[Call, Call, float]], rounds: int) -> bool:
    """Compare each call at every number of tasks; the target is for 64, and no less than the plain pool for fewer."""
    loop = asyncio.get_running_loop()
    met = True
    for name, (plain, ours, least) in calls.items():
        for tasks in TASKS:
            met &= await asyncio.to_thread(
                compare,
                f"{what}, {name}, {tasks} tasks",
                crowd(loop, "the driver", plain, tasks),
                crowd(loop, "kv", ours, tasks, least if tasks == TASKS[-1] else 1 / 1.05),
                rounds=rounds,
            )
    console.print()
    return met


def crowd(loop: asyncio.AbstractEventLoop, name: str, call: Call, tasks: int, least: float | None = None) -> Case:
    """A case in which so many tasks call at once."""
    chance: Any = random.Random(tasks)

    async def task() -> None:
        for key in chance.choices(KEYS, k=EACH):
            await call(key)

    async def all_of_them() -> None:
        await asyncio.gather(*(task() for _ in range(tasks)))

    return Case(name, lambda: asyncio.run_coroutine_threadsafe(all_of_them(), loop).result(), tasks * EACH, least=least)
