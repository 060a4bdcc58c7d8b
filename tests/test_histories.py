"""Every backend under concurrency: what threads, tasks and processes were given has an order that explains it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest
from histories import MANY, PATIENCE, begin, each, in_processes, keys_of, moved, plan, records
from test_conformance_wrappers import STACK

import kv
from kv.testing.suite import bounded, lifted

if TYPE_CHECKING:
    from collections.abc import Callable

    from histories import Soak

    from kv.testing.processes import Process

ROUNDS = {"memory": 20, "sqlite": 5}
"""As many as take no time to speak of."""
everywhere = pytest.mark.parametrize(
    "anywhere", ["memory", "sqlite", "lmdb", "postgres", "redis", "cluster"], indirect=True
)
all_shared = pytest.mark.parametrize("shared", ["sqlite", "lmdb", "postgres", "redis", "cluster"], indirect=True)
MIXES = pytest.mark.parametrize("together", [False, True], ids=["each key", "all keys"])


@everywhere
@MIXES
@pytest.mark.parametrize("opens", [kv.open, kv.open_async], ids=["threads", "tasks"])
def test_threads_and_tasks(anywhere: str, opens: Callable[[str], Any], together: bool, soak: Soak) -> None:
    async def main() -> None:
        async with lifted(opens(anywhere)) as store:
            for seed in soak.seeds(ROUNDS.get(anywhere.partition(":")[0], 2)):
                what = plan(seed, together)
                await begin(store, seed, what["keys"])
                calls = await records(store, "", clients=8, calls=20 * MANY, **what)
                soak.judge(calls, together=together)

    bounded(main, PATIENCE)


@everywhere
@pytest.mark.parametrize("opens", [kv.open, kv.open_async], ids=["threads", "tasks"])
def test_threads_and_tasks_behind_all_wrappers(anywhere: str, opens: Callable[..., Any], soak: Soak) -> None:
    async def main() -> None:
        async with lifted(opens(anywhere, **STACK)) as store:
            for seed in soak.seeds():
                calls = await records(store, "", clients=5, calls=25, **plan(seed, together=bool(seed % 2)))
                soak.judge(calls, together=bool(seed % 2))

    bounded(main, PATIENCE)


@all_shared
@MIXES
def test_processes_of_both_colours(shared: str, crew: list[Process], together: bool, soak: Soak) -> None:
    async def main() -> None:
        async with lifted(kv.open(shared)) as store:
            for seed in soak.seeds():
                what = plan(seed, together)
                await begin(store, seed, what["keys"])
                calls = in_processes(shared, crew[:4], clients=2, calls=20 * MANY, **what)
                soak.judge(calls, together=together)

    bounded(main, PATIENCE)


# money

TOTAL = 100


@everywhere
@pytest.mark.parametrize("opens", [kv.open, kv.open_async], ids=["threads", "tasks"])
def test_no_money_is_lost_or_made(anywhere: str, opens: Callable[[str], Any], soak: Soak) -> None:
    async def main() -> None:
        async with lifted(opens(anywhere)) as store:
            for seed in soak.seeds():
                accounts = await bank(store, seed)
                what = {"seed": seed, "keys": accounts, "total": TOTAL, "times": 20}
                soak.add(await moved(store, "", clients=5 * MANY, **what))

    bounded(main, PATIENCE)


@all_shared
def test_no_money_is_lost_or_made_by_processes(shared: str, crew: list[Process], soak: Soak) -> None:
    async def main() -> None:
        async with lifted(kv.open(shared)) as store:
            for seed in soak.seeds():
                what = {"seed": seed, "keys": await bank(store, seed), "total": TOTAL, "times": 15, "clients": 2}
                calls = each(shared, crew, "moved", [{"who": p.colour, **what} for p in crew])
                soak.add(sum(calls))

    bounded(main, PATIENCE)


async def bank(store: kv.AsyncStore, seed: int) -> list[str]:
    accounts = keys_of(seed, "{t}") + keys_of(seed + 1, "{t}2")
    await store.namespace(f"{seed}").set(accounts[0], b"%d" % TOTAL)
    return accounts
