"""Every call against every other: none waits for ever, no error reaches a caller, and nothing grows."""

from __future__ import annotations

import os
import random
from typing import TYPE_CHECKING, Any

import psycopg
import pytest
import servers
from histories import MANY, PATIENCE, each, pairs
from waiting import wait_for

import kv
from kv.testing.hostile import CALLS
from kv.testing.suite import bounded, lifted, together

if TYPE_CHECKING:
    from collections.abc import Callable

    from histories import Soak

    from kv.testing.processes import Process

NAME = f"pairs-{os.getpid()}"
GROWTH = 16_384
"""Kilobytes that an allocator may keep."""


def chosen(seed: int, n: int) -> list[list[str]]:
    chance = random.Random(seed)
    return [chance.choices([*CALLS], k=2) for _ in range(n)]


@pytest.mark.parametrize("opens", [kv.open, kv.open_async], ids=["threads", "tasks"])
def test_pairs_of_calls_of_threads_and_tasks(anywhere: str, opens: Callable[[str], Any], soak: Soak) -> None:
    async def main() -> None:
        async with lifted(opens(anywhere)) as store:
            for seed in soak.seeds():
                what = chosen(seed, 10)
                await together(store, *(pairs(store, what, i % 2, 2, compacts=i < 1) for i in range(4)))
                soak.add(10 * 2 * 8)
                assert await store.verify() == []

    bounded(main, PATIENCE)


def test_pairs_of_calls_of_processes(
    shared: str, crew: list[Process], request: pytest.FixtureRequest, soak: Soak
) -> None:
    url = shared + ("" if "sqlite" in shared else f"&{'application' if 'postgres' in shared else 'client'}_name={NAME}")
    n, times = 10 * MANY, 2
    first: list[dict[str, int]] = []
    for seed in soak.seeds(least=2):
        what = {"chosen": chosen(seed, n), "times": times}
        sides = [{**what, "side": i % 2, "compacts": i < 1} for i, _ in enumerate(crew)]
        given = each(url, crew, "pairs", sides)
        soak.add(len(crew) * 2 * n * times)
        wait_for(lambda: not connected(shared, request))  # the stores have been closed
        first = first or given
    last = each(url, crew, "measured", [{} for _ in crew])
    for before, after in zip(first, last, strict=True):
        assert after["kilobytes"] <= before["kilobytes"] + GROWTH, (before, after)
        assert after["files"] <= before["files"], (before, after)
        assert after["threads"] <= before["threads"], (before, after)
    with kv.open(shared) as store:
        assert store.verify() == []


def connected(url: str, request: pytest.FixtureRequest) -> int:
    """How many connections of these tests a server still has."""
    if url.startswith("postgresql"):
        sql = "SELECT count(*) FROM pg_stat_activity WHERE application_name = %s"
        return next(iter(request.getfixturevalue("admin").execute(sql, (NAME,))))[0]  # type: ignore[no-any-return]
    if url.startswith("redis"):
        cluster = url.startswith("redis+cluster")
        admins = request.getfixturevalue("cluster_admins") if cluster else [request.getfixturevalue("redis_admin")]
        return sum(one["name"] == NAME for admin in admins for one in admin.client_list())
    return 0  # of SQLite they are files, which each process counts


def test_autovacuum_and_cleanup_keep_up_with_writers(crew: list[Process], soak: Soak) -> None:
    server = servers.own_postgres(autovacuum_naptime="1s")
    try:
        with psycopg.connect(server.url, autocommit=True) as admin, kv.open(f"{server.url}?table=worn") as store:
            for seed in soak.seeds():
                what = [{"seed": seed + i, "times": 20} for i, _ in enumerate(crew)]
                soak.add(sum(each(f"{server.url}?table=worn", crew, "wears", what)))
                store.cleanup()
            assert store.stats().expired == 0
            dead = "SELECT n_dead_tup FROM pg_stat_user_tables WHERE relname = 'worn'"
            # the table's threshold is 1,000 and a fiftieth of what lives
            wait_for(lambda: next(iter(admin.execute(dead)))[0] <= 1_010, PATIENCE)
    finally:
        server.close()
