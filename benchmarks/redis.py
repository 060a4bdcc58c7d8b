"""The Redis stores beside redis-py's own calls of the same work, on one server and on a cluster of three."""

from __future__ import annotations

import asyncio
import os
import random
import sys
from itertools import cycle
from pathlib import Path
from typing import TYPE_CHECKING, Any

import redis as driver
import redis.asyncio as async_driver

import kv

from .harness import Case, compare, console

sys.path.append(str(Path(__file__).parents[1] / "tests"))

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

ENTRIES = 100_000
KEYS = [f"user:{i:06}:profile" for i in range(ENTRIES)]
NAMES = {key: f"kv::{key}".encode() for key in KEYS}
VALUES = cycle([os.urandom(128) for _ in range(1_009)])
BURST = 100
"""So many calls in a row, and then it is the next one's turn."""
SOME = KEYS[500:600]
"""For `get_many`."""


def run(*, quick: bool) -> bool:
    """Compare, and give whether every target was met."""
    import servers

    rounds = 30 if quick else 150
    met = True
    server = servers.own_redis()
    try:
        with kv.RedisStore(server.url) as store:
            console.print(f"Redis {store.stats().version}, {ENTRIES:,} entries of 128 bytes\n")
            fill(store)
        with driver.Redis.from_url(server.url) as client:
            met &= single("redis", server.url, client, rounds)
        met &= asyncio.run(awaited("redis", server.url, async_driver.Redis.from_url(server.url), rounds))
    finally:
        server.close()
    cluster = servers.redis_cluster()
    try:
        with kv.RedisStore(cluster.url) as store:
            fill(store)
        port = cluster.nodes[0].port
        with driver.RedisCluster(host="127.0.0.1", port=port) as nodes:
            met &= single("redis cluster", cluster.url, nodes, rounds)
        nodes_async: Any = async_driver.RedisCluster(host="127.0.0.1", port=port)
        return met & asyncio.run(awaited("redis cluster", cluster.url, nodes_async, rounds))
    finally:
        cluster.close()


def fill(store: kv.RedisStore) -> None:
    """Store the entries."""
    for begin in range(0, ENTRIES, 1_000):
        store._load(kv.store.Record(key, next(VALUES), None) for key in KEYS[begin : begin + 1_000])


def single(mark: str, url: str, client: Any, rounds: int) -> bool:
    """The sync store beside redis-py."""
    alone = mark == "redis"
    read_many = client.mget if alone else client.mget_nonatomic
    some = [NAMES[key] for key in SOME]

    def burst(call: Callable[[str], object]) -> Callable[[], None]:
        rng = random.Random(1)

        def calls() -> None:
            for key in rng.sample(KEYS, BURST):
                call(key)

        return calls

    def by_hand(pipeline: Any, key: str) -> None:
        pipeline.get(NAMES[key])
        pipeline.multi()
        pipeline.set(NAMES[key], next(VALUES), keepttl=True)

    with kv.RedisStore(url) as store, kv.RedisStore(client) as given:
        met = compare(
            f"{mark}, sync: get of {ENTRIES:,}",
            Case("redis-py, get", burst(lambda key: client.get(NAMES[key])), BURST),
            Case("RedisStore.get", burst(store.get), BURST, 1.15),
            Case("RedisStore.get, on redis-py's client", burst(given.get), BURST, 1.15),
            rounds=rounds,
        )
        met &= compare(
            f"{mark}, sync: single writes",
            Case("redis-py, set", burst(lambda key: client.set(NAMES[key], next(VALUES))), BURST),
            Case("RedisStore.set", burst(lambda key: store.set(key, next(VALUES))), BURST, 1.15),
            Case("RedisStore.set ttl", burst(lambda key: store.set(key, next(VALUES), ttl=600)), BURST),
            Case("RedisStore.increment", burst(lambda _: store.increment("n")), BURST),
            rounds=rounds,
        )
        met &= compare(
            f"{mark}, sync: get_many of 100",
            Case("redis-py, mget" if alone else "redis-py, mget_nonatomic", lambda: read_many(some), 100),
            Case("RedisStore.get_many", lambda: store.get_many(SOME), 100, 1.1),
            rounds=rounds,
        )
        if not alone:
            return met
        return met & compare(
            f"{mark}, sync: update",
            Case(
                "redis-py, transaction(), WATCH GET MULTI SET EXEC",
                burst(lambda key: client.transaction(lambda p: by_hand(p, key), NAMES[key])),
                BURST,
            ),
            Case("RedisStore.update", burst(lambda key: store.update(key, lambda _: next(VALUES))), BURST),
            rounds=rounds,
        )


async def awaited(mark: str, url: str, client: Any, rounds: int) -> bool:
    """The async store beside redis.asyncio."""
    alone = mark == "redis"
    read_many = client.mget if alone else client.mget_nonatomic
    some = [NAMES[key] for key in SOME]
    async with kv.AsyncRedisStore(url) as store:
        loop = asyncio.get_running_loop()

        def case(name: str, call: Callable[[str], Awaitable[object]], most: float | None = None) -> Case:
            rng = random.Random(1)

            async def calls() -> None:
                for key in rng.sample(KEYS, BURST):
                    await call(key)

            return Case(name, lambda: asyncio.run_coroutine_threadsafe(calls(), loop).result(), BURST, most)

        def once(name: str, call: Callable[[], Awaitable[object]], most: float | None = None) -> Case:
            async def calls() -> None:
                await call()

            return Case(name, lambda: asyncio.run_coroutine_threadsafe(calls(), loop).result(), 100, most)

        def race() -> bool:
            met = compare(
                f"{mark}, async: get of {ENTRIES:,}",
                case("redis-py, get", lambda key: client.get(NAMES[key])),
                case("AsyncRedisStore.get", store.get, 1.15),
                rounds=rounds,
            )
            met &= compare(
                f"{mark}, async: single writes",
                case("redis-py, set", lambda key: client.set(NAMES[key], next(VALUES))),
                case("AsyncRedisStore.set", lambda key: store.set(key, next(VALUES)), 1.15),
                case("AsyncRedisStore.set ttl", lambda key: store.set(key, next(VALUES), ttl=600)),
                case("AsyncRedisStore.increment", lambda _: store.increment("n")),
                rounds=rounds,
            )
            return met & compare(
                f"{mark}, async: get_many of 100",
                once("redis-py, mget" if alone else "redis-py, mget_nonatomic", lambda: read_many(some)),
                once("AsyncRedisStore.get_many", lambda: store.get_many(SOME), 1.1),
                rounds=rounds,
            )

        # the clock is read in another thread, so that the loop is free to run what is timed
        try:
            return await asyncio.to_thread(race)
        finally:
            await client.aclose()
