"""Connections that end before, in and after each message of each operation: what callers are told is what has happened."""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING, Any

import pytest
from colours import both
from faultproxy import PLACES, Fault, FaultProxy
from networks import (
    CASES,
    OF_REDIS,
    OPERATIONS,
    SOAK,
    PoolerNetwork,
    Trial,
    check_whole,
    net,
    network_of_a_cluster,
    report,
)
from test_postgres_pooler import bouncer

import kv
from kv.testing.suite import bounded, lifted

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    import servers
    from faultproxy import Message
    from networks import Network, Operation

    Opens = Callable[..., Any]

__all__ = ["bouncer", "net"]

MOST = 3  # connections


def faults(seen: list[Message]) -> Iterator[Fault]:
    """Every place of every message; in the suite, where these are many, one place of one message of each kind."""
    numbers: Counter[bool] = Counter()
    kinds: Counter[Message] = Counter()
    for message in seen:
        way, number = message.answers, numbers[message.answers]
        numbers[way] += 1
        kinds[message] += 1
        if SOAK or len(seen) < 6:
            yield from (Fault(way, number, place) for place in PLACES)
        elif kinds[message] == 1:  # first where the server has it, and nobody hears of that
            yield Fault(way, number, PLACES[(len({kind for kind in kinds if kind.answers is way}) + 1 - way) % 3])


def connecting(cold: list[Message], warm: list[Message]) -> list[Message]:
    """Those of the messages on a new connection that come before the operation's own."""
    ready = [i for i, message in enumerate(cold) if message == (True, "Z")]  # PostgreSQL: to its settings too
    return cold[: ready[1] + 1 if ready else len(cold) - len(warm)]


async def each(net: Network, store: kv.AsyncStore, operation: Operation, *, cold: bool) -> None:
    """Let it meet each fault, on connections that have been used for it, and on new ones too."""
    trial = Trial(net, store)
    warm = await trial.clean(operation, cold=False)
    for fault in faults(warm):
        await trial.struck(operation, fault, cold=False, connecting=False)
    if cold:
        new = await trial.clean(operation, cold=True)
        before = Counter(message.answers for message in connecting(new, warm))
        for fault in faults(new):
            early = fault.number < before[fault.answers] - (fault.place == "after")
            await trial.struck(operation, fault, cold=True, connecting=early)
    await check_whole(net, store, MOST)
    report(f"{net.url.partition(':')[0]} {type(store).__name__} {operation.name}: {dict(trial.outcomes)}")


@pytest.mark.parametrize(("net", "operation"), CASES, indirect=["net"])
@both
def test_a_connection_that_ends_at_any_message_leaves_what_the_caller_is_told(
    opens: Opens, net: Network, operation: Operation
) -> None:
    async def main() -> None:
        async with lifted(opens(net.url, pool_max=MOST)) as store:
            await each(net, store, operation, cold=bool(SOAK) or operation.name in ("get", "set"))

    bounded(main, 600 if SOAK else 60)


@both
def test_a_connection_to_a_server_of_a_cluster_that_ends_does_so_too(opens: Opens) -> None:
    async def main() -> None:
        with network_of_a_cluster() as net:
            async with lifted(opens(net.url, pool_max=MOST)) as store:
                for operation in OF_REDIS:
                    if SOAK or operation.name in ("get", "keys", "increment", "set_many", "update"):
                        await each(net, store, operation, cold=bool(SOAK))

    bounded(main, 600 if SOAK else 60)


@both
def test_a_connection_to_a_pooler_that_ends_does_so_too(
    opens: Opens, bouncer: servers.PgBouncer, postgres_url: str, table: str, admin: Any
) -> None:
    async def main() -> None:
        with FaultProxy(bouncer.port, "postgresql") as proxy:
            url = f"postgresql://postgres@127.0.0.1:{proxy.port}/postgres?table={table}&application_name=by-{table}"
            net = PoolerNetwork(proxy, url, f"by-{table}", admin, table)
            async with lifted(opens(url, pool_max=MOST)) as store:
                for operation in OPERATIONS:
                    if SOAK or operation.name in ("get", "increment", "update"):
                        await each(net, store, operation, cold=bool(SOAK))

    kv.open(postgres_url).close()  # there is a table
    bounded(main, 600 if SOAK else 60)
