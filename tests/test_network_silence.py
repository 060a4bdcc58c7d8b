"""Servers that say nothing: every call ends in its time and says what is known, and the store goes on when they speak again."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

import pytest
from colours import both
from faultproxy import PLACES, Fault
from networks import (
    CASES,
    ENTRIES,
    SOAK,
    Network,
    PostgresNetwork,
    Trial,
    check_whole,
    net,
    network,
    outcome,
    report,
)

import kv
from kv.testing.suite import bounded, lifted, together

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from networks import Operation

    Opens = Callable[..., Any]

__all__ = ["net"]

MOST = 3  # connections
SHORT = {"pool_max": MOST, "lock_timeout": 0.3, "socket_timeout": 0.5}
CONNECT = {"postgres": "connect_timeout=2", "redis": "socket_connect_timeout=1"}
STALLED = [case for case in CASES if SOAK or str(case.id).endswith(("-set", "-update"))]
WAYS = [pytest.param([False], id="to-the-server"), pytest.param([True], id="from-the-server")]


@pytest.fixture
def postgres_net(request: pytest.FixtureRequest) -> Iterator[Network]:
    with network("postgres", request) as made:
        yield made


def opened(opens: Opens, net: Network) -> Any:
    return lifted(opens(f"{net.url}&{CONNECT[net.backend]}", **SHORT))


@pytest.mark.parametrize("ways", WAYS)
@both
def test_a_read_on_a_silent_connection_is_answered_by_a_new_one(opens: Opens, net: Network, ways: list[bool]) -> None:
    async def main() -> None:
        async with opened(opens, net) as store:
            await check_whole(net, store, MOST)  # all are idle now
            net.proxy.silence(*ways)
            assert await store.get("a") == b"1"  # and not by one of those
            assert await store.increment("n") == 1
            net.proxy.restore()
            net.end()
            await check_whole(net, store, MOST)

    bounded(main, 60)


@both
def test_where_nobody_says_anything_each_caller_is_told_what_is_known(opens: Opens, net: Network) -> None:
    async def main() -> None:
        async with opened(opens, net) as store:
            await check_whole(net, store, MOST)
            net.proxy.silence(False, True)
            net.proxy.silent = {True}
            calls = [
                *(store.get(key) for key in ENTRIES),
                store.keys(),
                *(store.set(f"s{n}", b"new") for n in range(3)),
                *(store.increment("n") for _ in range(3)),
                *(store.update(f"u{n}", lambda _: b"new") for n in range(3)),
            ]
            results = await together(store, *map(outcome, calls))
            assert {type(one) for one in results[:4]} == {kv.Unavailable}
            assert {type(one) for one in results} <= {kv.Unavailable, kv.OutcomeUnknown}
            net.proxy.restore()
            net.end()
            held = net.held()
            counts = int(held.pop("n", b"0"))
            assert counts <= sum(isinstance(one, kv.OutcomeUnknown) for one in results[7:10])
            writes = dict(zip(["s0", "s1", "s2", "n0", "n1", "n2", "u0", "u1", "u2"], results[4:], strict=True))
            assert all(isinstance(writes[key], kv.OutcomeUnknown) for key in held.keys() - ENTRIES.keys())
            await check_whole(net, store, MOST)

    bounded(main, 60)


def test_who_waits_for_a_store_to_open_is_told_with_the_first(net: Network) -> None:
    async def main() -> None:
        store = opened(kv.open_async, net)
        net.proxy.silent = {True}
        calls = [store.keys() for _ in range(30)]
        assert {type(one) for one in await asyncio.gather(*map(outcome, calls))} == {kv.Unavailable}
        assert net.proxy.came == 1  # nobody tries what the others have just waited for
        net.proxy.restore()
        assert await store.keys() == []
        await store.aclose()

    bounded(main, 60)


@pytest.mark.parametrize(("net", "operation"), STALLED, indirect=["net"])
@both
def test_half_a_message_is_as_good_as_none(opens: Opens, net: Network, operation: Operation) -> None:
    async def main() -> None:
        async with opened(opens, net) as store:
            trial = Trial(net, store)
            seen = await trial.clean(operation, cold=False)
            for way in (False, True):
                count = sum(one.answers is way for one in seen)
                for number in range(count) if SOAK else [count - 1]:
                    for place in PLACES if SOAK else PLACES[1:2]:
                        await trial.struck(
                            operation, Fault(way, number, place, stalls=True), cold=False, connecting=False
                        )
            report(f"{net.backend} {opens.__name__} {operation.name}, stalled: {dict(trial.outcomes)}")

    bounded(main, 600 if SOAK else 60)


@both
def test_who_waits_for_a_lock_is_no_silent_server(opens: Opens, postgres_net: Network, admin: Any) -> None:
    net = postgres_net

    async def main() -> None:
        async with lifted(opens(net.url, lock_timeout=1, socket_timeout=0.5)) as store:
            await store.set("k", b"1")
            assert isinstance(net, PostgresNetwork)
            with admin.transaction():
                admin.execute(f"SELECT 1 FROM {net.table} FOR UPDATE")
                with pytest.raises(kv.Conflict, match="lock_timeout"):
                    await store.set("k", b"2")
            assert await store.get("k") == b"1"

    bounded(main, 60)


@both
def test_compact_takes_as_long_as_it_takes(opens: Opens, postgres_net: Network) -> None:
    async def main() -> None:
        async with opened(opens, postgres_net) as store:
            await store.set("k", b"1")
            postgres_net.proxy.delay = 1.0
            await store.compact()
            with pytest.raises(kv.OutcomeUnknown, match="see socket_timeout"):
                await store.set("k", b"2")

    bounded(main, 60)


def test_who_waits_for_a_connection_waits_no_longer_because_others_come_before_him(
    request: pytest.FixtureRequest,
) -> None:
    async def main() -> None:
        with network("redis", request) as net:
            store = kv.open_async(net.url, pool_max=1, lock_timeout=0.75, socket_timeout=0.5)
            async with store:
                net.proxy.silence(True)
                net.proxy.silent = {True}
                # the first one tries again at once, when the second one has just been told that there is room
                first, second = await asyncio.gather(outcome(store.keys()), outcome(store.keys()))
                assert "cannot be reached" in str(first)
                assert "have been busy for 0.75 s" in str(second)
                net.proxy.restore()
                assert await store.keys() == []

    bounded(main, 60)
