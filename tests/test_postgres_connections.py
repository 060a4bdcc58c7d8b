"""Connections to PostgreSQL: how many, whose, what cancels and kills leave of them, and every way to say where it is."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import threading
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

import asyncpg
import psycopg
import psycopg_pool
import pytest
from programs import child_inside_an_update, children, python
from waiting import until, wait_for

import kv
from kv.testing.suite import bounded, lifted

if TYPE_CHECKING:
    from collections.abc import Callable

    import servers

    Admin = psycopg.Connection[tuple[Any, ...]]


def sessions(admin: Admin, name: str) -> list[str]:
    """The states of the connections that have this `application_name`."""
    rows = admin.execute("SELECT state FROM pg_stat_activity WHERE application_name = %s", (name,))
    return [str(state) for (state,) in rows]


@pytest.fixture
def name(table: str) -> str:
    """An `application_name` of this test's own."""
    return f"app-{table}"


@pytest.fixture
def url(postgres_url: str, name: str) -> str:
    return f"{postgres_url}&application_name={name}"


def in_threads(*calls: Callable[[], object]) -> list[object]:
    results: list[object] = [None] * len(calls)

    def run(i: int, call: Callable[[], object]) -> None:
        try:
            results[i] = call()
        except BaseException as e:
            results[i] = e

    threads = [threading.Thread(target=run, args=(i, call)) for i, call in enumerate(calls)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
        assert not thread.is_alive()
    return results


# how many


def test_threads_share_the_connections_that_there_may_be(url: str, name: str, admin: Admin) -> None:
    with kv.open(url, pool_min=2, pool_max=3) as store:
        assert len(sessions(admin, name)) == 2
        in_threads(*[lambda: [store.increment("n") for _ in range(20)]] * 12)
        assert store.get("n") == b"240"
        assert len(sessions(admin, name)) <= 3


def test_tasks_share_the_connections_that_there_may_be(url: str, name: str, admin: Admin) -> None:
    async def main() -> None:
        async with kv.open_async(url, pool_min=2, pool_max=3) as store:
            await asyncio.gather(*(store.increment("n") for _ in range(200)))
            assert await store.get("n") == b"200"
            assert len(sessions(admin, name)) <= 3

    bounded(main, 60)


def test_who_waits_too_long_for_a_connection_is_told(url: str) -> None:
    with kv.open(url, pool_max=1) as store:
        store.set("k", b"v")
        impatient = kv.open(url, pool_max=1, lock_timeout=0.1)

        def fn(value: bytes | None) -> bytes | None:
            (error,) = in_threads(lambda: impatient.get("k"))
            assert isinstance(error, kv.Unavailable), error
            assert "pool_max" in str(error)
            return value

        with impatient:
            impatient.update("k", fn)
            assert impatient.get("k") == b"v"


def test_threads_that_wait_for_connections_do_not_stop_each_other(url: str) -> None:
    """To look for connections that an interrupt has lost stops every thread while garbage is collected."""
    stops: list[str] = []

    class Stop(BaseException):
        """A call that ends with it ends its connection too."""

    def fn(_: bytes | None) -> bytes:
        raise Stop

    def watch(phase: str, info: dict[str, int]) -> None:
        if phase == "start" and info["generation"] == 2:
            stops.append(threading.current_thread().name)

    with kv.open(url, pool_max=2, lock_timeout=60) as store:

        def work() -> None:
            for _ in range(10):
                with pytest.raises(Stop):
                    store.update("k", fn)

        gc.disable()
        gc.callbacks.append(watch)
        try:
            assert in_threads(*[work] * 12) == [None] * 12
        finally:
            gc.callbacks.remove(watch)
            gc.enable()
    assert len(stops) < 12


def test_who_waits_too_long_for_a_lock_is_told(url: str, table: str, admin: Admin) -> None:
    with kv.open(url, lock_timeout=0.1) as store, psycopg.connect(admin.info.dsn) as other:
        store.set("k", b"v")
        other.execute(f"SELECT 1 FROM {table} FOR UPDATE")
        for call in (
            lambda: store.set("k", b"x"),
            lambda: store.update("k", lambda _: b"x"),
            lambda: store.set_many({"k": b"x"}),
            lambda: store.update_many(["k", "l"], lambda _: {}),
            lambda: store.delete("k"),
            lambda: store.increment("k"),
        ):
            with pytest.raises(kv.Conflict, match="lock_timeout"):
                call()
        assert store.get("k") == b"v"


def test_a_store_goes_on_after_the_server_has_ended_its_idle_connections(url: str, name: str, admin: Admin) -> None:
    end = "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE application_name = %s"

    async def main() -> None:
        async with kv.open_async(url) as store, lifted(kv.open(url)) as sync:
            for n, one in enumerate([store, sync] * 3):
                await one.set("k", b"%d" % n)
                admin.execute(end, (name,))
                await until(lambda: not sessions(admin, name))
                await one.set("k", b"again")  # no OutcomeUnknown: it is seen before anything is sent
                assert await one.get("k") == b"again"

    bounded(main, 60)


def test_who_waits_for_a_connection_hears_that_the_store_is_closed(url: str) -> None:
    store = kv.open(url, pool_max=1, lock_timeout=60)

    def fn(value: bytes | None) -> bytes | None:
        def close_when_somebody_waits() -> None:
            source: Any = store._db.source  # type: ignore[attr-defined]
            wait_for(lambda: source.waiters)
            store.close()

        waited, _ = in_threads(lambda: store.get("k"), close_when_somebody_waits)
        assert isinstance(waited, kv.StoreClosed)
        return value

    store.update("k", fn)


def test_a_call_inside_fn_that_fails_and_is_caught_undoes_only_itself(url: str, admin: Admin, table: str) -> None:
    with kv.open(url, lock_timeout=0.2) as store, psycopg.connect(admin.info.dsn) as other:
        store.set("locked", b"1")
        other.execute(f"SELECT 1 FROM {table} FOR UPDATE")

        def fn(_: bytes | None) -> None:
            store.set("other", b"acknowledged")
            with pytest.raises(kv.Conflict):
                store.set("locked", b"2")

        assert store.update("missing", fn) is None
        assert store.get("other") == b"acknowledged"


def test_an_interrupt_loses_no_connection(url: str) -> None:
    out = python(
        """
        import logging, signal, sys, threading, time, kv
        logging.getLogger("psycopg").disabled = True       # it tells of queries that could not be cancelled
        sys.unraisablehook = id                            # and Python of interrupts that came inside a __del__
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


# what a cancellation leaves


def test_a_task_cancelled_at_any_await_leaves_the_pool_whole(url: str, name: str, admin: Admin) -> None:
    async def main() -> None:
        async with kv.open_async(url, pool_max=2, lock_timeout=10) as store:

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
            states = sessions(admin, name)
            assert len(states) <= 2
            assert not [state for state in states if "transaction" in state]
            await store.set_many(dict.fromkeys("abc", b"free"))

    bounded(main, 60)


def test_a_cancelled_call_that_waits_for_a_lock_ends_at_the_server_too(
    url: str, name: str, table: str, admin: Admin
) -> None:
    async def main() -> None:
        async with kv.open_async(url) as store:
            await store.set("k", b"v")
            with psycopg.connect(admin.info.dsn) as other:
                other.execute(f"SELECT 1 FROM {table} FOR UPDATE")
                calls = [
                    store.set("k", b"x"),
                    store.update("k", lambda _: b"x"),
                    store.update_many(["k", "l"], lambda _: {}),
                ]
                tasks = [asyncio.create_task(call) for call in calls]
                await until(lambda: sessions(admin, name).count("active") == len(calls))
                for task in tasks:
                    task.cancel()
                await asyncio.gather(*tasks, return_exceptions=True)
                await until(lambda: "active" not in sessions(admin, name))
                assert not [state for state in sessions(admin, name) if "transaction" in state]
            assert await store.get("k") == b"v"

    bounded(main, 60)


# loops, forks, ends


def test_a_store_works_in_one_loop_after_the_other(url: str) -> None:
    out = python(
        """
        import asyncio, sys, warnings, kv
        store = kv.open_async(sys.argv[1])
        for _ in range(3):
            asyncio.run(store.increment("n"))
        print(asyncio.run(store.get("n")))
        asyncio.run(store.aclose())
        """,
        url,
    )
    assert out == "b'3'\n"


def test_loops_in_threads_have_connections_of_their_own(url: str, name: str, admin: Admin) -> None:
    store = kv.open_async(url)
    all_connected = threading.Barrier(4)

    async def work() -> None:
        for _ in range(20):
            await store.increment("n")
        all_connected.wait(30)
        await store.namespace("n")._db.source.leave()  # type: ignore[attr-defined]

    in_threads(*[lambda: asyncio.run(work())] * 4)

    async def main() -> None:
        assert await store.get("n") == b"80"
        await store.aclose()

    bounded(main, 60)


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
            await asyncio.gather(*(store.increment("n") for _ in range(20)))
            if not os.fork():
                try:
                    await store.get("n")    # this loop is the parent's, says asyncio
                except RuntimeError:
                    asyncio.run(more())
                os._exit(0)
            assert os.wait()[1] == 0
            await asyncio.gather(*(store.increment("n") for _ in range(20)))
            print(await store.get("n"))
            await store.aclose()
        asyncio.run(main())
        """,
        url,
    )
    assert out == "b'60'\n"


def test_a_child_forked_inside_an_update_writes_nothing(url: str) -> None:
    assert child_inside_an_update(url) == "b'parent'\n"


def test_the_interpreter_ends_quietly_with_open_stores(url: str) -> None:
    code = """
        import asyncio, sys, kv
        store = kv.open(sys.argv[1], cleanup_interval=0.01)
        store.set("k", b"v")
        view = store.namespace("n")
        other = kv.open_async(sys.argv[1], cleanup_interval=0.01)
        """
    assert python(code, url) == ""


@pytest.mark.parametrize("colour", ["sync", "async"])
def test_a_store_cleans_by_itself_when_told_to(url: str, table: str, admin: Admin, colour: str) -> None:
    def gone() -> bool:
        return not admin.execute(f"SELECT 1 FROM {table}").fetchone()

    if colour == "sync":
        with kv.open(url, cleanup_interval=0.05) as store:
            store.set("k", b"v", ttl=0.05)
            wait_for(gone)
    else:

        async def main() -> None:
            async with kv.open_async(url, cleanup_interval=0.05) as store:
                await store.set("k", b"v", ttl=0.05)
                await until(gone)

        bounded(main, 60)
    assert not [thread for thread in threading.enumerate() if thread.name == "kv-cleanup"]


# any isolation level


@pytest.mark.parametrize("level", ["serializable", "repeatable read"])
@pytest.mark.parametrize("whose", ["own", "borrowed"])
def test_nothing_is_lost_at_any_default_isolation_level(
    postgres: servers.Server, table: str, level: str, whose: str
) -> None:
    url = f"{postgres.url}?options={quote(f'-c default_transaction_isolation={level}'.replace(' read', chr(92) + ' read'))}"

    def work(store: kv.Store) -> None:
        for _ in range(10):
            store.increment("n")
            store.update("u", lambda value: b"%d" % (int(value or 0) + 1))
            store.update_many(["x", "y"], lambda found: {key: b"%d" % (int(found.get(key, 0)) + 1) for key in "xy"})
            store.set_many({"a": b"1", "b": b"2"})
            store.delete_many(["b", "a"])
        store.pop("a")

    with contextlib.ExitStack() as stack:
        server: Any = url
        if whose == "borrowed":
            server = stack.enter_context(psycopg_pool.ConnectionPool(url, min_size=1, max_size=8, open=True))
        store = stack.enter_context(kv.PostgresStore(server, table=table))
        assert in_threads(*[lambda: work(store)] * 6) == [None] * 6
        assert store.get_many(["n", "u", "x", "y"]) == dict.fromkeys("nuxy", b"60")
        if whose == "borrowed":
            assert server.get_stats()["pool_available"] == server.get_stats()["pool_size"]

    async def main() -> None:
        async with contextlib.AsyncExitStack() as stack:
            server: Any = url
            if whose == "borrowed":
                server = await stack.enter_async_context(asyncpg.create_pool(url, min_size=1, max_size=8))
            store = await stack.enter_async_context(kv.AsyncPostgresStore(server, table=table))

            async def work() -> None:
                for _ in range(10):
                    await store.increment("n")
                    await store.update("u", lambda value: b"%d" % (int(value or 0) + 1))
                    await store.set_many({"a": b"1", "b": b"2"})
                    await store.delete_many(["b", "a"])

            await asyncio.gather(*(work() for _ in range(6)))
            assert await store.get_many(["n", "u"]) == dict.fromkeys("nu", b"120")
            await store.aclose()
            if whose == "borrowed":
                assert await server.fetchval("SELECT 1") == 1
                assert server.get_idle_size() == server.get_size()

    bounded(main, 60)
