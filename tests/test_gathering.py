"""Calls of many tasks that go to a server together: what each of them gets is what it would have got alone."""

from __future__ import annotations

import asyncio
import gc
import random
import threading
import weakref
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

import asyncpg
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st
from proxy import Proxy

import kv
from kv.backends.gathering import Batch, Gathering
from kv.backends.postgres.together import sums_of
from kv.backends.redis.replies import plain
from kv.testing.suite import bounded

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from redis import Redis

EDGE = 2**63 - 1


@pytest.fixture(params=["postgres_url", "redis_url", "cluster_url"])
def url(request: pytest.FixtureRequest) -> str:
    return str(request.getfixturevalue(request.param))


def run(url: str, body: Callable[[Any], Awaitable[None]], **options: Any) -> None:
    """Do it with an async store that is connected."""

    async def main() -> None:
        async with kv.open_async(url, **options) as store:
            await body(store)

    bounded(main, 60)


# what each gets


def test_each_of_many_callers_gets_what_is_his(url: str) -> None:
    async def body(store: Any) -> None:
        views = [store, store.namespace("a"), store.namespace("a").namespace("b")]
        chance = random.Random(1)

        async def one(n: int) -> None:
            view, key = views[n % 3], f"k{n // 3}"
            assert await view.get(key) is None
            await view.set(key, b"%d" % n, ttl=chance.choice([None, 1_000, 2_000]))
            assert await view.get(key) == b"%d" % n
            assert await view.get("missing", "-") == "-"
            assert await view.increment(key, -n) == 0
            assert await view.increment("sum") > 0

        await asyncio.gather(*(one(n) for n in range(120)))
        assert [await view.get("sum") for view in views] == [b"40"] * 3

    run(url, body)


def test_a_ttl_is_that_of_its_own_set(url: str) -> None:
    async def body(store: Any) -> None:
        ttls: list[float | None] = [None, 100, 10_000]
        for _ in range(2):  # of what is new, and of what is there
            await asyncio.gather(*(store.set(f"k{n}", b"", ttl=ttls[n % 3]) for n in range(60)))
            for n in range(60):
                left, ttl = await store.ttl(f"k{n}"), ttls[n % 3]
                assert left == float("inf") if ttl is None else ttl - 30 < left <= ttl

    run(url, body)


def test_what_one_task_sets_twice_and_many_set_at_once_is_never_older_than_what_was_told(url: str) -> None:
    async def body(store: Any) -> None:
        async def one(n: int) -> None:
            for i in range(20):
                await store.set(f"own{n}", b"%d" % i)
                assert await store.get(f"own{n}") == b"%d" % i
                await store.set("shared", b"%d" % n)

        await asyncio.gather(*(one(n) for n in range(20)))
        assert int(await store.get("shared")) in range(20)

    run(url, body)


def test_sums_that_are_added_together_are_each_callers_own(url: str) -> None:
    async def body(store: Any) -> None:
        amounts = [random.Random(2).randint(-9, 9) for _ in range(200)]
        sums = await asyncio.gather(*(store.increment("n", amount) for amount in amounts))
        assert sums[-1] == sum(amounts) == int(await store.get("n"))
        ones = await asyncio.gather(*(store.increment("ones") for _ in range(200)))
        assert sorted(ones) == [*range(1, 201)]

    run(url, body)


def test_next_to_the_edge_only_those_fail_whose_sum_is_too_large(url: str) -> None:
    async def body(store: Any) -> None:
        await store.set("n", b"%d" % (EDGE - 5))
        results = await asyncio.gather(*(store.increment("n") for _ in range(20)), return_exceptions=True)
        assert sorted(r for r in results if isinstance(r, int)) == [*range(EDGE - 4, EDGE + 1)]
        assert [type(r) for r in results if not isinstance(r, int)] == [kv.IntegerOverflow] * 15
        halves = [EDGE // 2 + 1, EDGE // 2, -EDGE, EDGE]
        results = await asyncio.gather(*(store.increment("m", n) for n in halves), return_exceptions=True)
        assert [r for r in results if not isinstance(r, kv.IntegerOverflow)]

    run(url, body)


@given(st.lists(st.integers(-(2**63), EDGE), min_size=1, max_size=8), st.integers(-(2**63), EDGE))
def test_sums_that_are_told_are_those_of_some_order_and_fit(amounts: list[int], start: int) -> None:
    assume(sum(map(abs, amounts)) <= EDGE)
    assume(-(2**63) <= start + sum(amounts) <= EDGE)
    sums = sums_of(amounts, start)
    assert all(-(2**63) <= made <= EDGE for made in sums)
    left = [*zip(amounts, sums, strict=True)]
    now = start
    while left:  # each has its turn
        step = next(one for one in left if now + one[0] == one[1])
        left.remove(step)
        now = step[1]
    assert now == start + sum(amounts)


def test_loops_that_are_over_are_not_held(url: str) -> None:
    store = kv.open_async(url)

    async def work() -> weakref.ref[Any]:
        await asyncio.gather(*(store.increment("n") for _ in range(5)))
        await asyncio.gather(*(store.get("n") for _ in range(5)))
        await store._db.leave() if hasattr(store._db, "leave") else await store._db.source.leave()  # type: ignore[attr-defined]
        return weakref.ref(asyncio.get_running_loop())

    loops = [asyncio.run(work()) for _ in range(5)]
    gc.collect()
    assert (
        sum(loop() is not None for loop in loops) <= 2
    )  # of five: the last, of which nobody has heard yet that it is over

    async def end() -> None:
        await store.aclose()

    asyncio.run(end())


def test_what_is_wrong_with_one_is_told_to_him_alone(url: str) -> None:
    async def body(store: Any) -> None:
        await store.set("text", b"no number")
        calls = [
            *(store.increment("text") for _ in range(10)),
            *(store.increment("n") for _ in range(10)),
            *(store.get("text") for _ in range(10)),
            *(store.set("k", b"1") for _ in range(10)),
        ]
        results = await asyncio.gather(*calls, return_exceptions=True)
        assert [type(r) for r in results[:10]] == [kv.NotAnInteger] * 10
        assert len({id(r) for r in results[:10]}) == 10  # each has a traceback of his own
        assert sorted(results[10:20]) == [*range(1, 11)]  # type: ignore[type-var]
        assert results[20:30] == [b"no number"] * 10
        assert results[30:] == [None] * 10

    run(url, body)


def test_values_of_every_size_go_together(url: str) -> None:
    async def body(store: Any) -> None:
        sizes = [0, 1, 100, 65_535, 65_536, 65_537, 300_000] * 5
        values = {f"k{n}": bytes([n]) * size for n, size in enumerate(sizes)}
        await asyncio.gather(*(store.set(key, value) for key, value in values.items()))
        got = await asyncio.gather(*(store.get(key) for key in values for _ in range(2)))
        assert got == [value for value in values.values() for _ in range(2)]

    run(url, body)


# how few messages they need


def three(store: Any) -> list[Callable[[int], Any]]:
    return [lambda n: store.set(f"k{n}", b"1"), lambda n: store.get(f"k{n}"), lambda _: store.increment("n")]


def test_many_gets_and_sets_share_statements(postgres_url: str) -> None:
    async def body(store: Any) -> None:
        ran: list[str] = []

        class Counted(type(store._db)):  # type: ignore[misc]
            async def _perform(self, step: Any, run: Any, **kwargs: Any) -> Any:
                ran.append(step[0])
                return await super()._perform(step, run, **kwargs)

        store._db.__class__ = Counted
        for call in three(store):
            ran.clear()
            await asyncio.gather(*(call(n) for n in range(200)))
            assert len(ran) == 2, ran  # the first by itself, and then all the others

    run(postgres_url, body)


def test_many_calls_share_a_pipeline(redis_url: str, redis_admin: Redis) -> None:
    async def body(store: Any) -> None:
        before = redis_admin.info("stats")["total_reads_processed"]
        for call in three(store):
            await asyncio.gather(*(call(n) for n in range(200)))
        reads = redis_admin.info("stats")["total_reads_processed"] - before
        assert reads < 30, reads

    run(redis_url, body)


# what does not go together


def test_a_locked_key_keeps_its_own_caller_waiting_and_nobody_else(postgres_url: str, postgres: Any) -> None:
    async def body(store: Any) -> None:
        await store.set_many({f"k{n}": b"old" for n in range(20)})
        holder = await asyncpg.connect(postgres.url)
        transaction = holder.transaction()
        await transaction.start()
        table = urlsplit(postgres_url).query.partition("=")[2]
        await holder.execute(f"SELECT 1 FROM {table} WHERE key = 'k7' FOR UPDATE")
        tasks = [asyncio.create_task(store.set(f"k{n}", b"new", ttl=1_000)) for n in range(20)]
        done, waiting = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
        while len(done) < 19:
            more, waiting = await asyncio.wait(waiting, return_when=asyncio.FIRST_COMPLETED)
            done |= more
        assert tasks[7] in waiting
        assert await store.get("k7") == b"old"
        await transaction.rollback()
        await holder.close()
        await asyncio.gather(*tasks)
        assert await store.get_many([f"k{n}" for n in range(20)]) == {f"k{n}": b"new" for n in range(20)}
        left = await store._db.value(("SELECT current_setting('lock_timeout')", ()))
        assert left == "30s"  # of the connection, as it was

    run(postgres_url, body)


def test_a_transaction_of_the_caller_is_nobody_elses(postgres_url: str, postgres: Any) -> None:
    async def body(store: Any) -> None:
        await store.set("k", b"outside")
        connection = await asyncpg.connect(postgres.url)
        transaction = connection.transaction()
        await transaction.start()
        bound = store.bind(connection)
        outside = [asyncio.create_task(store.get("k")) for _ in range(20)]
        await bound.set("k", b"inside")
        assert await bound.increment("n") == 1
        assert [await bound.get("k"), *await asyncio.gather(*outside)] == [b"inside", *[b"outside"] * 20]
        others = [asyncio.create_task(store.set(f"o{n}", b"1")) for n in range(20)]
        await transaction.rollback()
        await connection.close()
        await asyncio.gather(*others)
        assert [await store.get("k"), await store.get("n"), await store.count("o")] == [b"outside", None, 20]

    run(postgres_url, body)


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


# what is lost


@pytest.mark.parametrize("which", ["the first", "the others"])
@pytest.mark.parametrize("backend", ["redis", "postgres"])
def test_a_lost_connection_is_told_each_as_if_he_had_been_alone(
    backend: str, which: str, request: pytest.FixtureRequest
) -> None:
    where = urlsplit(str(request.getfixturevalue(f"{backend}_url")))
    with Proxy(where.port or 0) as proxy:
        user, at, _ = where.netloc.rpartition("@")
        own = where._replace(netloc=f"{user}{at}127.0.0.1:{proxy.port}").geturl()

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

        run(own, body)


def test_a_store_that_is_closed_meanwhile_lets_nobody_wait_for_ever(url: str) -> None:
    async def main() -> None:
        store = kv.open_async(url)
        await store.set("k", b"1")
        tasks = [asyncio.create_task(store.get("k")) for _ in range(50)]
        await asyncio.sleep(0)
        await store.aclose()
        results = await asyncio.gather(*tasks, return_exceptions=True)
        assert all(r == b"1" or isinstance(r, kv.StoreClosed | kv.Unavailable) for r in results), results

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


# the gathering itself


def test_who_waits_behind_what_is_stuck_goes_without_it() -> None:
    async def main() -> None:
        stuck = asyncio.Event()

        async def send(batch: Batch[int]) -> None:
            if batch[0].asks == 0:
                await stuck.wait()
            for one in batch:
                one.done(one.asks)

        gathering: Gathering[int] = Gathering(send, asyncio.get_running_loop())
        me = gathering.enter()
        first = asyncio.create_task(gathering.join(0))
        await asyncio.sleep(0)
        gathering.leave(me)  # the first goes, and is not heard of
        await asyncio.sleep(0)
        others = [asyncio.create_task(gathering.join(n)) for n in range(1, 10)]
        assert await asyncio.gather(*others) == [*range(1, 10)]
        assert not first.done()
        stuck.set()
        assert await first == 0
        assert gathering.under_way is None

    bounded(main, 30)


def test_what_nobody_waits_for_any_more_is_cancelled() -> None:
    async def main() -> None:
        ended: list[str] = []

        async def send(batch: Batch[int]) -> None:
            try:
                await asyncio.Event().wait()
            except asyncio.CancelledError:
                ended.append("cancelled")
                raise

        gathering: Gathering[int] = Gathering(send, asyncio.get_running_loop())
        me = gathering.enter()
        tasks = [asyncio.create_task(gathering.join(n)) for n in range(3)]
        await asyncio.sleep(0)
        gathering.leave(me)
        await asyncio.sleep(0)
        for task in tasks:
            assert not ended
            task.cancel()
            await asyncio.wait([task])
        await asyncio.sleep(0)
        assert ended == ["cancelled"]
        assert gathering.under_way is None

    bounded(main, 30)


def test_connections_that_all_callers_have_left_are_free_again(postgres_url: str, postgres: Any) -> None:
    async def body(store: Any) -> None:
        await store.set("n", b"0")
        holder = await asyncpg.connect(postgres.url)
        transaction = holder.transaction()
        await transaction.start()
        table = urlsplit(postgres_url).query.partition("=")[2]
        await holder.execute(f"SELECT 1 FROM {table} WHERE key = 'n' FOR UPDATE")
        for _ in range(3):
            with pytest.raises(TimeoutError):
                async with asyncio.timeout(0.1):
                    await asyncio.gather(*(store.increment("n") for _ in range(20)))
        async with asyncio.timeout(20):  # of two connections, neither is lost to those
            await asyncio.gather(*(store.update(f"u{n}", lambda _: b"") for n in range(10)))
        await transaction.rollback()
        await holder.close()
        assert await store.increment("n") == 1

    run(postgres_url, body, pool_max=2)


def test_an_answer_is_read_where_it_is_whole_and_plain() -> None:
    data = b"$3\r\nab\r\r\n:5\r\n+OK\r\n_\r\n$-1\r\n$0\r\n\r\n:-7\r\n"
    answers = [b"ab\r", 5, b"OK", None, None, b"", -7]
    assert plain(data, 99) == (answers, len(data))
    assert plain(data, 2)[0] == answers[:2]
    for cut in range(len(data)):
        found, taken = plain(data[:cut], 99)
        assert answers[: len(found)] == found
        rest = plain(data[taken:], 99)[0]
        assert found + rest == answers
    for other in (b"-ERR no\r\n", b"*1\r\n:1\r\n", b">2\r\n+a\r\n+b\r\n", b"#t\r\n", b",1.5\r\n"):
        assert plain(b":1\r\n" + other, 99) == ([1], 4)
