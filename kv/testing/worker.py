"""What one process does in `ProcessConformance`: `python -m kv.testing.worker` takes jobs as lines of JSON.

It says `{"at": "start"}` when it is ready to begin, waits for a line, does the job, and says what came of it.
"""

from __future__ import annotations

import asyncio
import json
import random
import sys
import time
import traceback
from itertools import count
from typing import TYPE_CHECKING, Any

import kv

from .processes import NEVER
from .suite import anything, expired, increased, lifted

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from kv.store import AsyncStore


def say(**what: object) -> None:
    sys.stdout.write(json.dumps(what) + "\n")
    sys.stdout.flush()


async def increments(store: AsyncStore, keys: list[str], times: int) -> None:
    for _ in range(times):
        for key in keys:
            await store.increment(key)


async def updates(store: AsyncStore, keys: list[str], times: int) -> None:
    for _ in range(times):
        for key in keys:
            await store.update(key, increased)


async def updates_of_many(store: AsyncStore, keys: list[str], times: int) -> None:
    for _ in range(times):
        await store.update_many(keys, lambda found: {key: increased(found.get(key)) for key in keys})


async def adds(store: AsyncStore, keys: list[str]) -> list[str]:
    return [key for key in keys if await store.add(key, b"1")]


async def pops(store: AsyncStore, keys: list[str]) -> list[str]:
    return [key for key in keys if await store.pop(key) is not None]


async def compares(store: AsyncStore, keys: list[str], value: str) -> list[str]:
    return [key for key in keys if await store.compare_and_set(key, b"0", value.encode())]


async def sets(store: AsyncStore, keys: list[str], value: str) -> None:
    await store.set_many(dict.fromkeys(keys, value.encode()))


async def expires(store: AsyncStore, keys: list[str]) -> None:
    await expired(store, *keys, value=b"1000")


async def gets(store: AsyncStore, keys: list[str]) -> list[str | None]:
    found = await store.get_many(keys)
    return [found[key].decode() if key in found else None for key in keys]


async def rewrites(store: AsyncStore, keys: list[str], value: str, until: list[str]) -> None:
    """Write until every reader has left a sign that it has seen enough."""
    for i in count():
        await store.set_many(dict.fromkeys(keys, f"{value} {i}".encode()))
        if len(await store.get_many(until)) == len(until):
            return


async def transfers(store: AsyncStore, keys: list[str], seed: int, until: list[str]) -> None:
    """The same, from one account to another."""
    chance = random.Random(seed)
    for i in count():
        payer, payee = chance.sample(keys, 2)

        def fn(found: dict[str, bytes], payer: str = payer, payee: str = payee) -> dict[str, bytes]:
            amount = chance.randint(0, int(found[payer]))
            return {payer: b"%d" % (int(found[payer]) - amount), payee: b"%d" % (int(found[payee]) + amount)}

        await store.update_many([payer, payee], fn)
        if NEVER in until and i == 5:
            say(at="work")
        if len(await store.get_many(until)) == len(until):
            return


async def watches(store: AsyncStore, keys: list[str], states: int, sign: str) -> None:
    """Read until so many states have been seen."""
    seen: set[object] = set()
    try:
        while len(seen) < states:
            found = await store.get_many(keys)
            assert len(found) == len(keys)
            assert len({*found.values()}) == 1, "some of one set_many, some of another"
            seen |= {*found.values()}
    finally:
        await store.set(sign, b"")


async def audits(store: AsyncStore, keys: list[str], total: int, states: int, sign: str) -> None:
    """The same, of accounts."""
    seen: set[object] = set()
    try:
        while len(seen) < states:
            found = await store.get_many(keys)
            assert sum(map(int, found.values())) == total, "some of one transfer, not the other"
            seen.add(tuple(found.values()))
    finally:
        await store.set(sign, b"")


async def stops_in_update(store: AsyncStore, key: str) -> None:
    def fn(_: object) -> bytes:
        say(at="work")
        time.sleep(600)
        return b"never written"

    await store.update(key, fn)


async def mixes(store: AsyncStore, keys: list[str], seed: int, times: int) -> None:
    chance = random.Random(seed)
    for _ in range(times):
        await anything(store, keys, chance)


JOBS: dict[str, Callable[..., Awaitable[object]]] = {
    job.__name__: job
    for job in (
        *(increments, updates, updates_of_many, adds, pops, compares, sets, expires, gets, rewrites, watches),
        *(transfers, audits, stops_in_update, mixes),
    )
}


async def do(url: str, colour: str, job: str, kwargs: dict[str, Any], *, opening: bool) -> object:
    """Do a job on the store at the URL; `opening`: all begin with opening it, and not when they have."""
    if opening:
        await begin()
    store: Any = kv.open(url) if colour == "sync" else kv.open_async(url)
    async with lifted(store) as opened:
        if not opening:
            await opened.exists("-")  # an async store connects at its first call
            await begin()
        return await JOBS[job](opened, **kwargs)


async def begin() -> None:
    say(at="start")
    sys.stdin.readline()


def main() -> None:
    for line in sys.stdin:
        try:
            say(result=asyncio.run(do(**json.loads(line))))
        except Exception:  # to the process that asked
            say(error=traceback.format_exc())


if __name__ == "__main__":
    main()
