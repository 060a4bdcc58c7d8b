"""Calls of many tasks that go together: whom cancellations, lost connections, closed stores and loops that are over harm."""

from __future__ import annotations

import asyncio
import gc
import random
import threading
import weakref
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

import pytest
from proxy import Proxy
from test_gathering import counting, locked, run, three, url
from waiting import until

import kv
from kv.testing.suite import bounded

if TYPE_CHECKING:
    from collections.abc import Callable

    from redis import Redis

__all__ = ["url"]


# who is cancelled


@pytest.mark.parametrize("ticks", range(0, 40, 3))
def test_who_is_cancelled_at_any_point_harms_nobody(url: str, ticks: int) -> None:
    async def body(store: Any) -> None:
        await store.set_many({"{t}a": b"1", "{t}n": b"0"})
        calls = [lambda: store.get("{t}a"), lambda: store.set("{t}a", b"1"), lambda: store.increment("{t}n")]
        tasks = [asyncio.create_task(calls[n % 3]()) for n in range(60)]
        for _ in range(ticks):
            await asyncio.sleep(0)
        chosen = random.Random(ticks).sample(range(60), 30)
        asked = {n for n in chosen if tasks[n].cancel()}
        results = await asyncio.gather(*tasks, return_exceptions=True)
        for n, result in enumerate(results):
            if n in asked:
                assert isinstance(result, asyncio.CancelledError)
            elif n % 3 < 2:
                assert result == (None if n % 3 else b"1")
        sums = [r for n, r in enumerate(results) if n % 3 == 2 and isinstance(r, int)]
        assert len(set(sums)) == len(sums)
        assert int(await store.get("{t}n")) >= max(sums, default=0)
        await asyncio.gather(*(store.get("{t}a") for _ in range(30)))
        async with asyncio.timeout(20):
            await asyncio.gather(*(store.update(f"u{n}", lambda _: b"") for n in range(30)))

    run(url, body, pool_max=3)


def waiting_for_locks(admin: Any, url: str) -> list[int]:
    """The servers' processes that wait for a lock on this table."""
    table = f"%{url.rpartition('=')[2]}%"
    asked = "SELECT pid FROM pg_stat_activity WHERE wait_event_type = 'Lock' AND query LIKE %s"
    return [pid for (pid,) in admin.execute(asked, (table,))]


@pytest.mark.parametrize("call", ["increment", "set"])
def test_what_nobody_waits_for_any_more_holds_no_connection(
    call: str, postgres_url: str, postgres: Any, admin: Any
) -> None:
    async def body(store: Any) -> None:
        await store.set("k", b"1")
        free = await locked(postgres_url, postgres, "k")
        for turn in range(3):  # more than there are connections
            calls = [store.increment("k") if call == "increment" else store.set("k", b"1") for _ in range(10)]
            tasks = [asyncio.create_task(one) for one in calls]

            def at_the_server(least: int = 1 if turn else 2) -> bool:
                # all go together where what was cancelled before is just coming back
                return len(waiting_for_locks(admin, postgres_url)) >= least

            await until(at_the_server)
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
            await until(lambda: not waiting_for_locks(admin, postgres_url))
        assert await store.get("k") == b"1"
        await free()

    run(postgres_url, body, pool_max=2, lock_timeout=1_000)


def test_who_ends_all_tasks_but_his_own_is_not_cancelled_himself(url: str) -> None:
    async def body(store: Any) -> None:
        await store.set("k", b"1")

        def end_all() -> None:
            for task in asyncio.all_tasks():
                coro: Any = task.get_coro()
                if coro.__qualname__ == "Gathering._together":  # a driver's own do not like it
                    task.cancel()

        calls: list[Callable[[], Any]] = [
            lambda: store.get("k"),
            lambda: store.set("k", b"1"),
            lambda: store.increment("n"),
        ]
        for call in calls:
            for ticks in range(12):
                callers = [asyncio.create_task(call()) for _ in range(10)]
                for _ in range(ticks):
                    await asyncio.sleep(0)
                end_all()
                await until(callers[0].done)
                end_all()
                async with asyncio.timeout(20):
                    results = await asyncio.gather(*callers, return_exceptions=True)
                right: tuple[Any, ...] = (bytes, int, type(None), kv.Unavailable)
                if call is not calls[0]:
                    right += (kv.OutcomeUnknown,)
                assert all(isinstance(r, right) for r in results), results
        assert await store.get("k") == b"1"

    run(url, body)


# what is lost


def through(proxy: Proxy, url: str) -> str:
    """The same place, by the proxy."""
    where = urlsplit(url)
    user, at, _ = where.netloc.rpartition("@")
    return where._replace(netloc=f"{user}{at}127.0.0.1:{proxy.port}").geturl()


@pytest.mark.parametrize("backend", ["redis", "postgres"])
def test_a_connection_on_which_nothing_comes_back_holds_up_its_own_callers_only(
    backend: str, request: pytest.FixtureRequest
) -> None:
    url = str(request.getfixturevalue(f"{backend}_url"))
    with Proxy(urlsplit(url).port or 0) as proxy:

        async def body(store: Any) -> None:
            await asyncio.gather(*(store.set(f"k{n}", b"1") for n in range(30)), store.increment("n"))
            calls: list[Callable[[int], Any]] = [
                lambda n: store.get(f"k{n}"),
                lambda n: store.set(f"k{n}", b"1"),
                lambda _: store.increment("n"),
            ]
            for n, call in enumerate(calls):
                for lonely in (0, 1):  # the one that goes by itself, or those after it
                    await call(0)  # there is a connection
                    proxy.spare, proxy.hold = lonely, 1
                    tasks = [asyncio.create_task(call(0)) for _ in range(1 + 9 * lonely)]
                    await until(lambda: not proxy.hold)
                    async with asyncio.timeout(20):
                        await asyncio.gather(*(call(n) for n in range(30)))
                    stuck = [task for task in tasks if not task.done()]
                    assert len(stuck) == [1, 9][lonely]
                    proxy.end()
                    results = await asyncio.gather(*stuck, return_exceptions=True)
                    assert {r if r == b"1" else type(r) for r in results} == {kv.OutcomeUnknown if n else b"1"}
            assert await asyncio.gather(*(store.get(f"k{n}") for n in range(30))) == [b"1"] * 30

        run(through(proxy, url), body, pool_max=2)


@pytest.mark.parametrize("which", ["the first", "the others"])
@pytest.mark.parametrize("backend", ["redis", "postgres"])
def test_a_lost_connection_is_told_each_as_if_he_had_been_alone(
    backend: str, which: str, request: pytest.FixtureRequest
) -> None:
    url = str(request.getfixturevalue(f"{backend}_url"))
    with Proxy(urlsplit(url).port or 0) as proxy:

        async def body(store: Any) -> None:
            await store.set("k", b"1")
            await store.increment("n")
            proxy.spare, proxy.lose = int(which == "the others"), 1
            results = await asyncio.gather(*(store.increment("n") for _ in range(20)), return_exceptions=True)
            unknown = [r for r in results if not isinstance(r, int)]
            assert unknown
            assert {type(r) for r in unknown} == {kv.OutcomeUnknown}
            assert len({id(r) for r in unknown}) == len(unknown)
            assert int(await store.get("n")) in range(21 - len(unknown), 22)
            if which == "the others":
                assert len(unknown) == 19
                proxy.lose = 1
            assert await asyncio.gather(*(store.get("k") for _ in range(20))) == [b"1"] * 20  # reads are tried again

        run(through(proxy, url), body)


@pytest.mark.parametrize("backend", ["redis", "postgres"])
def test_who_gives_up_a_connection_on_which_nothing_comes_back_makes_room_for_another(
    backend: str, request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch
) -> None:
    url = str(request.getfixturevalue(f"{backend}_url"))
    monkeypatch.setattr("kv.backends.postgres.asyncpg_sources._GOODBYE", 0.1)
    with Proxy(urlsplit(url).port or 0) as proxy:

        async def body(store: Any) -> None:
            for lonely in (0, 1):
                await store.set("k", b"1")  # there is a connection
                proxy.spare, proxy.hold = lonely, 1
                tasks = [asyncio.create_task(store.set("k", b"1")) for _ in range(1 + 9 * lonely)]
                await until(lambda: not proxy.hold)
                for task in tasks:
                    task.cancel()
                await asyncio.gather(*tasks, return_exceptions=True)
                async with asyncio.timeout(20):
                    assert await asyncio.gather(*(store.get("k") for _ in range(30))) == [b"1"] * 30

        run(through(proxy, url), body, pool_max=1, lock_timeout=1_000)


def test_what_the_server_does_not_do_for_all_is_tried_for_each(postgres_url: str, postgres: Any, admin: Any) -> None:
    async def body(store: Any) -> None:
        await store.increment("n")
        free = await locked(postgres_url, postgres, "n")
        tasks = [asyncio.create_task(store.increment("n")) for _ in range(10)]
        await until(lambda: len(waiting_for_locks(admin, postgres_url)) == 2)  # the first, and the others
        for pid in waiting_for_locks(admin, postgres_url):
            admin.execute("SELECT pg_cancel_backend(%s)", (pid,))
        await until(tasks[0].done)
        assert isinstance(tasks[0].exception(), kv.Unavailable)  # alone it was, and is told
        await free()
        assert sorted(await asyncio.gather(*tasks[1:])) == [*range(2, 11)]

    run(postgres_url, body)


def test_where_nobody_answers_all_are_told_at_once(postgres_url: str) -> None:
    with Proxy(urlsplit(postgres_url).port or 0) as proxy:

        async def body(store: Any) -> None:
            await store.get("k")
            proxy.lose = 1_000
            ran = counting(store)
            results = await asyncio.gather(*(store.get("k") for _ in range(40)), return_exceptions=True)
            assert {type(r) for r in results} == {kv.Unavailable}
            assert len({id(r) for r in results}) == 40
            assert len(ran) == 2  # nobody tries again what did not work for all
            proxy.lose = 0

        run(through(proxy, postgres_url), body)


def test_each_script_and_key_of_a_pipeline_finds_its_way(cluster_url: str, cluster_admins: list[Redis]) -> None:
    async def body(store: Any) -> None:
        calls: list[Callable[[int], Any]] = [
            lambda n: store.increment(f"k{n}", ttl=1_000),
            lambda n: store.set(f"k{n}", b"0", ttl=1_000),
        ]
        for i in range(4):
            for admin in cluster_admins:
                admin.script_flush()  # all of a pipeline are unknown
            slots = store._db.slots._slots
            slots[:] = slots[5_000:] + slots[:5_000]  # and at the wrong server
            got = await asyncio.gather(*(calls[n % 2](n // 2) for n in range(200)))
            assert got[1::2] == [None] * 100
            assert {*got[::2]} <= {1, 2}, i

    run(cluster_url, body)


def test_what_cannot_be_read_ends_the_connection_and_is_told_each(
    redis_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def body(store: Any) -> None:
        def broken(*_: object) -> list[object]:
            raise ValueError("no number")

        values = {f"k{n}": b"%d" % n for n in range(20)}
        await asyncio.gather(*(store.set(key, value) for key, value in values.items()))
        monkeypatch.setattr("kv.backends.redis.redis_asyncio_sources.Session._arrived", broken)
        async with asyncio.timeout(20):
            results = await asyncio.gather(*(store.get(key) for key in values), return_exceptions=True)
        monkeypatch.undo()
        assert {type(r) for r in results} == {bytes, ValueError}
        assert len({id(r) for r in results}) == 20
        for _ in range(3):
            assert await asyncio.gather(*(store.get(key) for key in values)) == [*values.values()]

    run(redis_url, body)


# the end


def test_a_store_that_is_closed_meanwhile_lets_nobody_wait_for_ever(url: str) -> None:
    async def main() -> None:
        store = kv.open_async(url)
        await store.set("k", b"1")
        calls = three(store)
        tasks = [asyncio.create_task(calls[n % 3](0)) for n in range(60)]
        await asyncio.sleep(0)
        await store.aclose()
        results = await asyncio.gather(*tasks, return_exceptions=True)
        assert all(r is None or isinstance(r, bytes | int | kv.StoreClosed) for r in results), results
        assert any(isinstance(r, kv.StoreClosed) for r in results)
        closed = [r for r in results if isinstance(r, kv.StoreClosed)]
        assert len({id(r) for r in closed}) == len(closed)  # each has a traceback of his own

    bounded(main, 30)


def test_loops_in_several_threads_do_not_wait_for_each_other(url: str) -> None:
    store = kv.open_async(url)

    async def work() -> None:
        await asyncio.gather(*(store.increment("n") for _ in range(100)))
        await store._db.leave() if hasattr(store._db, "leave") else await store._db.source.leave()  # type: ignore[attr-defined]

    threads = [threading.Thread(target=lambda: asyncio.run(work())) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
        assert not thread.is_alive()

    async def end() -> None:
        async with store:
            assert await store.get("n") == b"400"

    asyncio.run(end())


def test_loops_that_are_over_are_not_kept(url: str) -> None:
    store: Any = kv.open_async(url)
    loops: list[weakref.ref[asyncio.AbstractEventLoop]] = []

    async def work() -> None:
        loops.append(weakref.ref(asyncio.get_running_loop()))
        await asyncio.gather(*(call(n) for call in three(store) for n in range(10)))

    for _ in range(6):
        asyncio.run(work())
    gc.collect()
    assert (
        sum(loop() is not None for loop in loops) <= 2
    )  # the last, and that in which many waited for the store to open
    asyncio.run(store.aclose())


def test_a_store_that_nobody_holds_is_gone_at_once(url: str) -> None:
    async def main() -> None:
        store: Any = kv.open_async(url)
        await asyncio.gather(*(store.increment("n") for _ in range(50)))
        await asyncio.gather(*(store.get("n") for _ in range(50)))
        await (store._db.leave() if hasattr(store._db, "leave") else store._db.source.leave())
        await asyncio.sleep(0)
        gone = weakref.ref(store._db)
        gc.disable()
        del store
        assert gone() is None

    try:
        bounded(main, 30)
    finally:
        gc.enable()
