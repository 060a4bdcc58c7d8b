"""Connections to each server of a Redis Cluster: how many, what cancels and kills leave of them, loops, forks and ends."""

from __future__ import annotations

import asyncio
import contextlib
import random
import threading
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

import pytest
from clusters import begin
from colours import both, in_threads, run
from programs import children, python
from redis.asyncio import RedisCluster
from waiting import until, wait_for

import kv
from kv.testing.suite import bounded, lifted, together

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Coroutine

    from redis import Redis

    Opens = Callable[..., Any]

KEYS = [f"k{n}" for n in range(60)]
VALUES = {key: key.encode() * 20 for key in KEYS}


@pytest.fixture
def name(cluster_url: str) -> str:
    """A name of this test's own for its connections."""
    return cluster_url.rpartition("=")[2]


@pytest.fixture
def url(cluster_url: str, name: str) -> str:
    return f"{cluster_url}&client_name={name}"


def connections(admins: list[Redis], name: str) -> list[list[int]]:
    """The numbers of the connections that have this name, on each server."""
    return [[int(one["id"]) for one in admin.client_list() if one["name"] == name] for admin in admins]


def blocked(admins: list[Redis], name: str) -> list[list[int]]:
    """Those that wait for a server that writes nothing."""
    return [
        [int(one["id"]) for one in admin.client_list() if one["name"] == name and "b" in one["flags"]]
        for admin in admins
    ]


async def fill(store: kv.AsyncStore) -> None:
    for first in range(0, len(KEYS), 20):
        await together(store, *(store.set(key, VALUES[key]) for key in KEYS[first : first + 20]))


async def some(store: kv.AsyncStore, chance: random.Random) -> None:
    """Ask for some of the values, of all servers, and see that they are those asked for."""
    asked = chance.sample(KEYS, 20)
    assert [*(await store.get_many([*asked, "none"])).items()] == [(key, VALUES[key]) for key in asked]
    assert await store.get(asked[0]) == VALUES[asked[0]]
    assert await store.size(asked[1]) == len(VALUES[asked[1]])


@both
def test_callers_share_the_connections_that_there_may_be_to_each_server(
    opens: Opens, url: str, name: str, cluster_admins: list[Redis]
) -> None:
    async def body(store: kv.AsyncStore) -> None:
        await fill(store)
        for _ in range(5):
            await together(store, *(some(store, random.Random(n)) for n in range(60)))
        assert all(0 < len(one) <= 2 for one in connections(cluster_admins, name))

    run(opens(url, pool_max=2), body)
    wait_for(lambda: not any(connections(cluster_admins, name)))


@both
def test_a_store_goes_on_after_the_servers_have_ended_its_idle_connections(
    opens: Opens, url: str, name: str, cluster_admins: list[Redis]
) -> None:
    async def body(store: kv.AsyncStore) -> None:
        for n in range(1, 4):
            await together(store, *(store.increment(f"n{i}") for i in range(30)))
            for admin, numbers in zip(cluster_admins, connections(cluster_admins, name), strict=True):
                for number in numbers:
                    admin.client_kill_filter(_id=str(number))
            await until(lambda: not any(connections(cluster_admins, name)))
            # no OutcomeUnknown: it is seen before anything is sent
            assert await store.delete_many(["none", *(f"n{i}" for i in range(20, 30))]) == 10
            assert await store.get_many([f"n{i}" for i in range(20)]) == {f"n{i}": b"%d" % n for i in range(20)}

    run(opens(url), body)


@both
def test_a_write_whose_connection_is_lost_is_not_sent_again(
    opens: Opens, url: str, name: str, cluster_admins: list[Redis]
) -> None:
    async def body(store: kv.AsyncStore) -> None:
        await fill(store)
        calls: list[Coroutine[Any, Any, object]] = [
            store.increment("n"),
            store.update("u", lambda _: b""),
            store.delete_many(KEYS),
        ]
        for call in calls:
            for admin in cluster_admins:
                admin.client_pause(60_000, all=False)
            try:
                writing = begin(store, call)
                alive = [*cluster_admins]
                while not writing.done():  # each server ends one connection
                    await until(lambda alive=alive: writing.done() or any(blocked(alive, name)))  # type: ignore[misc]  # noqa: B023
                    for admin, numbers in zip([*alive], blocked(alive, name), strict=True):
                        if numbers:
                            admin.client_kill_filter(_id=str(numbers[0]))
                            alive.remove(admin)
                with pytest.raises(kv.OutcomeUnknown, match="may or may not have happened"):
                    await writing
            finally:
                for admin in cluster_admins:
                    admin.client_unpause()
        assert await store.get_many(["n", "u", *KEYS]) == VALUES

    run(opens(url), body)


# what a cancellation leaves


@contextlib.asynccontextmanager
async def whose(who: str, url: str, name: str) -> AsyncIterator[kv.AsyncStore]:
    """A store on connections of its own, or on those of a client of redis-py's."""
    async with contextlib.AsyncExitStack() as stack:
        if who == "own":
            yield await stack.enter_async_context(kv.open_async(url, pool_max=2, lock_timeout=10))
        else:
            at = urlsplit(url)
            host, port = at.netloc.partition(",")[0].rsplit(":", 1)
            client = RedisCluster(host=host, port=int(port), client_name=name, max_connections=30)
            await stack.enter_async_context(client)
            yield await stack.enter_async_context(kv.AsyncRedisStore(client, prefix=name))


@pytest.mark.parametrize("who", ["own", "lent"])
def test_a_task_cancelled_at_any_await_leaves_all_pools_whole_and_no_answer_to_others(
    who: str, url: str, name: str, cluster_admins: list[Redis]
) -> None:
    async def main() -> None:
        async with whose(who, url, name) as store:
            await fill(store)

            async def work(n: int) -> None:
                chance = random.Random(n)
                await some(store, chance)
                await store.delete_many([f"d{n}" for n in range(20)])
                await store.update("u", lambda value: (value or b"0")[:5])
                assert await store.keys("k5") == ["k5", *(f"k{n}" for n in range(50, 60))]
                await some(store, chance)

            done, ticks = False, 0
            while not done:
                tasks = [asyncio.create_task(work(n)) for n in range(4)]
                for _ in range(ticks):
                    await asyncio.sleep(0)
                asked = [task.cancel() for task in tasks]
                results = await asyncio.gather(*tasks, return_exceptions=True)
                assert all(r is None or isinstance(r, asyncio.CancelledError) for r in results), results
                if who == "own":  # a driver that connects may lose a cancellation, before Python 3.12
                    assert [r is not None for r in results] == asked
                done = not any(asked)
                await some(store, random.Random(ticks))
                ticks += 1 + ticks // 10
            async with asyncio.timeout(20):
                await asyncio.gather(*(store.increment(f"n{n}") for n in range(10)))
                await asyncio.gather(*(some(store, random.Random(n)) for n in range(2)))
            assert all(0 < len(one) <= (2 if who == "own" else 30) for one in connections(cluster_admins, name))

    bounded(main, 60)
    wait_for(lambda: not any(connections(cluster_admins, name)))


def test_a_task_cancelled_while_one_server_is_at_work_ends_at_once_and_gives_all_connections_back(
    url: str, name: str, cluster_admins: list[Redis]
) -> None:
    async def body(store: kv.AsyncStore) -> None:
        await fill(store)
        cluster_admins[0].client_pause(60_000, all=False)
        try:
            for ticks in range(60):
                removing = asyncio.create_task(store.delete_many(KEYS))
                for _ in range(ticks):
                    await asyncio.sleep(0)
                removing.cancel()
                with pytest.raises(asyncio.CancelledError):
                    async with asyncio.timeout(20):  # less than the server is waited for
                        await removing
            assert await store.get("none") is None
            assert len(await store.get_many(KEYS)) <= len(KEYS)
        finally:
            cluster_admins[0].client_unpause()
        await fill(store)
        await some(store, random.Random(0))

    run(kv.open_async(url, pool_max=1, lock_timeout=10), body)
    wait_for(lambda: not any(connections(cluster_admins, name)))


# loops, forks, ends


def test_a_store_works_in_one_loop_after_the_other(url: str) -> None:
    out = python(
        """
        import asyncio, sys, kv
        store = kv.open_async(sys.argv[1])
        async def work():
            await asyncio.gather(*(store.increment(f"n{n}") for n in range(30)))
            return await store.get_many([f"n{n}" for n in range(30)])
        for _ in range(3):
            found = asyncio.run(work())
        print({*found.values()}, len(found))
        asyncio.run(store.aclose())
        """,
        url,
    )
    assert out == "{b'3'} 30\n"


def test_loops_in_threads_have_connections_of_their_own(url: str, name: str, cluster_admins: list[Redis]) -> None:
    store = kv.open_async(url)
    together = threading.Barrier(4)

    async def work() -> None:
        for _ in range(5):
            await asyncio.gather(*(store.increment(f"n{n}") for n in range(20)))
        together.wait(30)
        assert all(len(one) >= 4 for one in connections(cluster_admins, name))
        together.wait(30)
        await store.namespace("n")._db.leave()  # type: ignore[attr-defined]

    assert in_threads(*[lambda: asyncio.run(work())] * 4) == [None] * 4

    async def body(store: kv.AsyncStore) -> None:
        assert await store.get_many([f"n{n}" for n in range(20)]) == {f"n{n}": b"20" for n in range(20)}

    run(store, body)
    wait_for(lambda: not any(connections(cluster_admins, name)))


def test_a_forked_child_has_connections_of_its_own(url: str) -> None:
    assert children(url) == "b'200' []\n"


def test_a_child_forked_from_a_loop_has_connections_of_its_own(url: str) -> None:
    out = python(
        """
        import asyncio, os, sys, kv
        store = kv.open_async(sys.argv[1])
        async def more():
            await asyncio.gather(*(store.increment(f"n{n}") for n in range(20)))
        async def main():
            await more()
            if not os.fork():
                try:
                    await store.get("n")    # this loop is the parent's, says asyncio
                except RuntimeError:
                    asyncio.run(more())
                os._exit(0)
            assert os.wait()[1] == 0
            await more()
            print({*(await store.get_many([f"n{n}" for n in range(20)])).values()})
            await store.aclose()
        asyncio.run(main())
        """,
        url,
    )
    assert out == "{b'3'}\n"


@both
def test_close_ends_the_connections_to_every_server(
    opens: Opens, url: str, name: str, cluster_admins: list[Redis]
) -> None:
    async def main() -> None:
        store = lifted(opens(url))
        await fill(store)
        assert all(connections(cluster_admins, name))
        view = store.namespace("n")
        await view.aclose()
        assert all(connections(cluster_admins, name))
        await store.aclose()
        await store.aclose()
        await until(lambda: not any(connections(cluster_admins, name)))
        calls: list[Callable[[], Any]] = [
            lambda: store.get("k"),
            lambda: view.set("k", b"v"),
            lambda: store.get_many(KEYS),
            lambda: store.delete_many(KEYS),
            store.keys,
            store.compact,
            store.verify,
        ]
        for call in calls:
            with pytest.raises(kv.StoreClosed):
                await call()

    bounded(main, 60)


def test_the_interpreter_ends_quietly_with_open_stores(url: str) -> None:
    code = """
        import asyncio, sys, kv
        store = kv.open(sys.argv[1])
        for n in range(20):
            store.set(f"{n}", b"v")
        other = kv.open_async(sys.argv[1])
        """
    assert python(code, url) == ""
