"""Servers and poolers that restart under load, in good order or not: clients go on, and every write is accounted for."""

from __future__ import annotations

import asyncio
import threading
from typing import TYPE_CHECKING, Any

import pytest
import servers
from colours import both
from networks import SOAK, report
from test_postgres_pooler import bouncer
from waiting import until

import kv
from kv.testing.suite import Lifted, bounded, lifted

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    Opens = Callable[..., Any]
    Restart = Callable[[], None]

__all__ = ["bouncer"]

CALLERS = 4
RESTARTS = 20 if SOAK else 2


@pytest.fixture(scope="module")
def own_postgres() -> Iterator[servers.Postgres]:
    server = servers.own_postgres()
    yield server
    server.close()


@pytest.fixture(scope="module")
def own_redis() -> Iterator[servers.Redis]:
    server = servers.own_redis(appendonly="yes", appendfsync="always")
    yield server
    server.close()


class Caller:
    """One who counts on an entry of his own, and on one of all, again and again."""

    def __init__(self, number: int) -> None:
        self.key = f"n{number}"
        self.counted = self.unknown = self.refused = 0
        self.wrong: BaseException | None = None

    async def work(self, store: kv.AsyncStore, stop: threading.Event) -> None:
        while not stop.is_set() and self.wrong is None:
            try:
                if (self.counted + self.unknown) % 3:
                    await store.increment(self.key)
                else:
                    await store.update(self.key, lambda value: b"%d" % (int(value or 0) + 1))
                self.counted += 1
                await store.get(self.key)
            except kv.OutcomeUnknown:
                self.unknown += 1
            except kv.Unavailable:
                self.refused += 1
                await asyncio.sleep(0.01)
            except BaseException as e:
                self.wrong = e


async def under_load(store: kv.AsyncStore, restart: Restart) -> str:
    """Restart while callers call, and compare what they were told with what is there."""
    callers, stop = [Caller(n) for n in range(CALLERS)], threading.Event()
    work = [caller.work(store, stop) for caller in callers]
    sync = isinstance(store, Lifted)
    tasks = [asyncio.ensure_future(asyncio.to_thread(asyncio.run, one) if sync else one) for one in work]

    async def more() -> None:
        before = [caller.counted for caller in callers]
        await until(lambda: all(c.wrong or c.counted > n + 10 for c, n in zip(callers, before, strict=True)))

    for _ in range(RESTARTS):
        await more()
        await asyncio.to_thread(restart)
    await more()
    stop.set()
    await asyncio.gather(*tasks)
    assert [caller.wrong for caller in callers if caller.wrong] == []
    for caller in callers:
        value = int(await store.get(caller.key) or 0)
        assert caller.counted <= value <= caller.counted + caller.unknown
    told = {what: sum(getattr(one, what) for one in callers) for what in ("counted", "unknown", "refused")}
    assert told["unknown"] + told["refused"] > 0
    return f"{RESTARTS} restarts, {told}"


@pytest.mark.parametrize(
    ("what", "how"),
    [
        ("bouncer", "killed"),
        ("bouncer", "in good order"),
        ("own_postgres", "in good order"),
        ("own_redis", "in good order"),
        *([("own_postgres", "killed"), ("own_redis", "killed")] if SOAK else []),
    ],
)
@both
def test_clients_go_on_after_a_restart(opens: Opens, what: str, how: str, request: pytest.FixtureRequest) -> None:
    server = request.getfixturevalue(what)

    def restart() -> None:
        server.stop() if how == "in good order" else server.kill()
        server.start()

    async def main() -> None:
        async with lifted(opens(server.url, pool_max=3)) as store:
            await store.clear()
            report(f"{what} {opens.__name__} {how}: {await under_load(store, restart)}")
            await store.clear()

    bounded(main, 600 if SOAK else 60)
