"""Connections to Redis: how many, what cancels, kills and interrupts leave of them, loops, forks and ends."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import threading
from typing import TYPE_CHECKING, Any

import pytest
import servers
from colours import both, in_threads, run
from programs import children, python
from waiting import until, wait_for

import kv
from kv.testing.suite import Lifted, bounded, inside, lifted, together

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Iterator

    from redis import Redis

    Opens = Callable[..., Any]


@pytest.fixture
def name(redis_url: str) -> str:
    """A name of this test's own for its connections."""
    return redis_url.rpartition("=")[2]


@pytest.fixture
def url(redis_url: str, name: str) -> str:
    return f"{redis_url}&client_name={name}"


@pytest.fixture
def own() -> Iterator[servers.Redis]:
    """A server that may be paused."""
    server = servers.own_redis()
    yield server
    server.close()


def connections(admin: Redis, name: str) -> list[int]:
    """The numbers of the connections that have this name."""
    return [int(one["id"]) for one in admin.client_list() if one["name"] == name]


# how many


def test_threads_share_the_connections_that_there_may_be(url: str, name: str, redis_admin: Redis) -> None:
    with kv.open(url, pool_max=3) as store:
        assert len(connections(redis_admin, name)) == 1
        in_threads(*[lambda: [store.increment("n") for _ in range(20)]] * 12)
        assert store.get("n") == b"240"
        assert len(connections(redis_admin, name)) <= 3
    wait_for(lambda: not connections(redis_admin, name))


def test_tasks_that_call_at_once_go_over_one_connection_together(url: str, name: str, redis_admin: Redis) -> None:
    async def body(store: kv.AsyncStore) -> None:
        assert len(connections(redis_admin, name)) == 1
        await asyncio.gather(*(store.increment("n") for _ in range(200)))
        assert await store.get("n") == b"200"
        assert len(connections(redis_admin, name)) == 1

    run(kv.open_async(url, pool_max=3), body)
    wait_for(lambda: not connections(redis_admin, name))


@both
def test_an_async_store_connects_when_it_is_used(opens: Opens, url: str, name: str, redis_admin: Redis) -> None:
    async def main() -> None:
        store = lifted(opens(url))
        assert len(connections(redis_admin, name)) == (1 if opens is kv.open else 0)
        assert await store.get("k") is None
        assert len(connections(redis_admin, name)) == 1
        await store.aclose()
        await until(lambda: not connections(redis_admin, name))

    bounded(main, 60)


@contextlib.asynccontextmanager
async def held(store: kv.AsyncStore, server: servers.Redis, calls: int = 1) -> AsyncIterator[list[asyncio.Future[Any]]]:
    """While so many writes wait for the server, each on a connection of its own. Gives them."""
    server.call("CLIENT", "PAUSE", 60_000, "WRITE")
    waiting: list[asyncio.Future[Any]] = []
    for n in range(calls):
        sync = isinstance(store, Lifted)
        call = asyncio.to_thread(inside, store, "set", f"held {n}", b"v") if sync else store.set(f"held {n}", b"v")
        waiting.append(asyncio.ensure_future(call))
    await until(lambda: server.call("INFO", "clients")["blocked_clients"] == calls)
    yield waiting
    server.call("CLIENT", "UNPAUSE")
    await asyncio.gather(*waiting, return_exceptions=True)


@both
def test_who_waits_too_long_for_a_connection_is_told(opens: Opens, own: servers.Redis) -> None:
    async def body(store: kv.AsyncStore) -> None:
        async with held(store, own, 2):
            for call in (lambda: store.get("k"), lambda: store.increment("n"), store.keys):
                with pytest.raises(
                    kv.Unavailable, match=r"all 2 connections have been busy for 0\.1 s; .* raise pool_max"
                ):
                    await call()
        assert await store.keys() == ["held 0", "held 1"]

    run(opens(own.url, pool_max=2, lock_timeout=0.1), body)


@both
def test_who_waits_for_a_connection_hears_that_the_store_is_closed(opens: Opens, own: servers.Redis) -> None:
    def somebody_waits(store: Any) -> bool:
        (source,) = (store._store if isinstance(store, Lifted) else store)._db._sources.values()
        return bool(
            source.waiters if isinstance(store, Lifted) else [w for h in source.homes.values() for w in h.waiting]
        )

    async def main() -> None:
        store = lifted(opens(own.url, pool_max=1, lock_timeout=60))
        async with held(store, own) as writes:
            get = asyncio.to_thread(inside, store, "get", "k") if isinstance(store, Lifted) else store.get("k")
            waits = asyncio.ensure_future(get)
            await until(lambda: somebody_waits(store))
            await store.aclose()
            with pytest.raises(kv.StoreClosed):
                await waits
        await asyncio.gather(*writes)  # what was under way is done
        assert own.call("GET", "kv::held 0") == b"v"
        await until(lambda: own.call("INFO", "clients")["connected_clients"] == 1)

    bounded(main, 60)


@both
def test_a_store_goes_on_after_the_server_has_ended_its_idle_connections(
    opens: Opens, url: str, name: str, redis_admin: Redis
) -> None:
    async def body(store: kv.AsyncStore) -> None:
        for n in range(5):
            await together(store, *(store.increment("n") for _ in range(10)))
            for number in connections(redis_admin, name):
                redis_admin.client_kill_filter(_id=str(number))
            if n % 2:
                await until(lambda: not connections(redis_admin, name))  # and the event loop hears of it
            await store.increment("n")  # no OutcomeUnknown: it is seen before anything is sent
        assert await store.get("n") == b"55"

    run(opens(url, pool_max=3), body)


# what an interrupt and a cancellation leave


def test_an_interrupt_loses_no_connection(url: str, name: str, redis_admin: Redis) -> None:
    out = python(
        """
        import signal, sys, threading, time, kv
        sys.unraisablehook = id                            # Python tells of interrupts that came inside a __del__
        store = kv.open(sys.argv[1], pool_max=2, lock_timeout=20)
        stop = threading.Event()
        def work():
            while not stop.is_set():
                store.increment("n")
        threads = [threading.Thread(target=work) for _ in range(2)]
        for t in threads: t.start()
        busy = False
        def interrupt(*_):
            global busy
            if busy:
                busy = False
                raise KeyboardInterrupt
        signal.signal(signal.SIGALRM, interrupt)
        signal.setitimer(signal.ITIMER_REAL, 0.002, 0.003)
        interrupts, end = 0, time.monotonic() + 2
        while time.monotonic() < end:
            try:
                busy = True
                store.update("k", lambda value: value)
                store.get("k")
                store.keys()
                busy = False
            except (KeyboardInterrupt, kv.KVError):
                interrupts += 1
        signal.setitimer(signal.ITIMER_REAL, 0)
        stop.set()
        for t in threads: t.join()
        assert interrupts > 10, interrupts
        more = [threading.Thread(target=lambda: [store.increment("m") for _ in range(50)]) for _ in range(4)]
        for t in more: t.start()
        for t in more: t.join()
        print(store.get("m"))
        store.close()
        """,
        url,
    )
    assert out == "b'200'\n"


def test_a_task_cancelled_at_any_await_leaves_the_pool_whole(url: str, name: str, redis_admin: Redis) -> None:
    async def body(store: kv.AsyncStore) -> None:
        async def work() -> None:
            await store.set("a", b"1", ttl=50)
            await store.update("a", lambda value: (value or b"0")[:5])
            await store.update_many(["a", "b"], lambda found: {"b": b"2", **found})
            await store.set_many({"a": b"3", "c": b"4"})
            await store.keys()
            _ = [entry async for entry in store.scan()]

        done, ticks = False, 0
        while not done:
            tasks = [asyncio.create_task(work()) for _ in range(3)]
            for _ in range(ticks):
                await asyncio.sleep(0)
            for task in tasks:
                task.cancel()
            results = await asyncio.gather(*tasks, return_exceptions=True)
            assert all(r is None or isinstance(r, asyncio.CancelledError) for r in results), results
            done = all(r is None for r in results)
            ticks += 1 + ticks // 10
        async with asyncio.timeout(20):
            await asyncio.gather(*(store.increment(f"n{i}") for i in range(20)))
        assert len(connections(redis_admin, name)) <= 2
        assert await store.count("n") == 20

    run(kv.open_async(url, pool_max=2, lock_timeout=10), body)


def test_a_task_cancelled_while_the_server_is_at_work_gives_its_place_back(own: servers.Redis) -> None:
    async def body(store: kv.AsyncStore) -> None:
        async with held(store, own, 2) as writes:
            for write in writes:
                write.cancel()
            assert await store.get("held 0") is None
            assert await store.keys() == []

    run(kv.open_async(own.url, pool_max=2, lock_timeout=10), body)


# loops, forks, ends


def test_a_store_works_in_one_loop_after_the_other(url: str) -> None:
    out = python(
        """
        import asyncio, sys, kv
        store = kv.open_async(sys.argv[1])
        async def work():
            await asyncio.gather(*(store.increment("n") for _ in range(3)))
        for _ in range(3):
            asyncio.run(work())
        print(asyncio.run(store.get("n")))
        asyncio.run(store.aclose())
        """,
        url,
    )
    assert out == "b'9'\n"


def test_loops_in_threads_have_connections_of_their_own(url: str, name: str, redis_admin: Redis) -> None:
    store = kv.open_async(url)
    all_connected = threading.Barrier(4)

    async def work() -> None:
        for _ in range(20):
            await store.increment("n")
        all_connected.wait(30)
        assert len(connections(redis_admin, name)) == 4
        all_connected.wait(30)
        await store.namespace("n")._db.leave()  # type: ignore[attr-defined]

    assert in_threads(*[lambda: asyncio.run(work())] * 4) == [None] * 4

    async def body(store: kv.AsyncStore) -> None:
        assert await store.get("n") == b"80"

    run(store, body)
    wait_for(lambda: not connections(redis_admin, name))


def test_a_forked_child_has_connections_of_its_own(url: str) -> None:
    assert children(url) == "b'200' []\n"


def test_a_child_forked_from_a_loop_has_connections_of_its_own(url: str) -> None:
    out = python(
        """
        import asyncio, os, sys, kv
        store = kv.open_async(sys.argv[1])
        async def more():
            await asyncio.gather(*(store.increment("n") for _ in range(20)))
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
            print(await store.get("n"))
            await store.aclose()
        asyncio.run(main())
        """,
        url,
    )
    assert out == "b'60'\n"


def test_a_child_forked_inside_an_update_has_one_of_its_own(url: str) -> None:
    """Nothing is held while the function runs, so there are two updates, and neither is lost."""
    out = python(
        """
        import os, sys, kv
        store = kv.open(sys.argv[1])
        parent, forked = os.getpid(), []
        def fn(value):
            if not forked:
                forked.append(os.fork())
                if forked[0]:
                    os.wait()
            return (value or b"") + (b"p" if os.getpid() == parent else b"c")
        store.update("k", fn)
        if os.getpid() != parent:
            os._exit(0)
        print(store.get("k"))
        store.close()
        """,
        url,
    )
    assert out == "b'cp'\n"


def test_the_interpreter_ends_quietly_with_open_stores(url: str) -> None:
    code = """
        import asyncio, sys, kv
        store = kv.open(sys.argv[1])
        store.set("k", b"v")
        view = store.namespace("n")
        other = kv.open_async(sys.argv[1])
        """
    assert python(code, url) == ""


def test_a_store_that_nobody_closed_leaves_no_connection_when_it_is_garbage(
    url: str, name: str, redis_admin: Redis
) -> None:
    store = kv.open(url)
    assert len(connections(redis_admin, name)) == 1
    del store
    gc.collect()
    wait_for(lambda: not connections(redis_admin, name))
