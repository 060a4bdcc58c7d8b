"""Calls of many tasks that go to a server together: what each of them gets is what it would have got alone."""

from __future__ import annotations

import asyncio
import random
from typing import TYPE_CHECKING, Any

import asyncpg
import pytest
from programs import pythons

import kv
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


def test_of_what_many_set_at_once_the_last_stays(url: str) -> None:
    async def body(store: Any) -> None:
        await asyncio.gather(*(store.set(f"k{n % 3}", b"%d" % n, ttl=[None, 1_000][n % 2]) for n in range(100)))
        found = await store.get_many(["k0", "k1", "k2"])
        # the first goes by itself, and the others after it
        assert found == {"k0": b"99", "k1": b"97", "k2": b"98"}

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
        await store.set("n", b"%d" % (-EDGE + 4))
        results = await asyncio.gather(*(store.increment("n", -2) for _ in range(20)), return_exceptions=True)
        assert sorted(r for r in results if isinstance(r, int)) == [-EDGE, -EDGE + 2]
        assert [type(r) for r in results if not isinstance(r, int)] == [kv.IntegerOverflow] * 18

    run(url, body)


@pytest.mark.parametrize("side", [1, -1])
def test_no_sum_leaves_64_bits_on_the_way_to_one_that_does_not(url: str, side: int) -> None:
    async def body(store: Any) -> None:
        await store.set("n", b"%d" % (side * (EDGE - 1)))
        amounts = [side * n for n in (0, 5, -7, 3, -9)]
        results = await asyncio.gather(*(store.increment("n", n) for n in amounts), return_exceptions=True)
        added = [n for n, r in zip(amounts, results, strict=True) if isinstance(r, int)]
        assert all(abs(r) <= EDGE for r in results if isinstance(r, int)), results
        assert all(isinstance(r, int | kv.IntegerOverflow) for r in results)
        assert int(await store.get("n")) == side * (EDGE - 1) + sum(added)

    run(url, body)


def test_too_much_to_be_added_at_once_is_added_one_by_one(url: str) -> None:
    async def body(store: Any) -> None:
        for amount in (EDGE // 2, EDGE):
            amounts = [0, amount, amount, -amount, -amount]
            results = await asyncio.gather(*(store.increment("n", n) for n in amounts), return_exceptions=True)
            assert all(abs(r) <= EDGE for r in results if isinstance(r, int)), results
            assert all(isinstance(r, int | kv.IntegerOverflow) for r in results)
            added = [n for n, r in zip(amounts, results, strict=True) if isinstance(r, int)]
            assert len(added) > 2
            assert await store.increment("n", -sum(added)) == 0

    run(url, body)


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


def test_processes_whose_tasks_share_statements_neither_lose_a_write_nor_wait_for_each_other(url: str) -> None:
    code = """
        import asyncio, kv
        async def main():
            async with kv.open_async(sys.argv[1], lock_timeout=20) as store:
                def more(found):
                    return {key: b"%d" % (int(found.get(key, b"0")) + 1) for key in ("{m}a", "{m}b")}
                for _ in range(5):
                    keys = [f"k{n}" for n in range(40)][:: 1 if me % 2 else -1]
                    writes = [store.set(key, b"%d" % me) for key in keys] + [store.set("{m}c", b"") for _ in range(9)]
                    adds = [store.increment("n") for _ in range(20)] + [store.increment("{m}a", 0) for _ in range(9)]
                    many = store.set_many({"{m}c": b"1", "{m}d": b"1"})
                    sums = await asyncio.gather(store.update_many(["{m}b", "{m}a"], more), many, *writes, *adds)
                    print(*sums[51 : 71])
        asyncio.run(main())
        """
    said = [int(n) for out in pythons(code, url, processes=3) for n in out.split()]
    assert sorted(said) == [*range(1, 301)]

    async def body(store: Any) -> None:
        assert await store.get_many(["n", "{m}a", "{m}b"]) == {"n": b"300", "{m}a": b"15", "{m}b": b"15"}
        assert {*(await store.get_many([f"k{n}" for n in range(40)])).values()} <= {b"0", b"1", b"2"}

    run(url, body)


# how few messages they need


def three(store: Any) -> list[Callable[[int], Any]]:
    return [lambda n: store.set(f"k{n}", b"1"), lambda n: store.get(f"k{n}"), lambda _: store.increment("n")]


def counting(store: Any) -> list[str]:
    """Have every statement of an operation of one statement noted from now on. Gives where."""
    ran: list[str] = []

    class Counted(type(store._db)):  # type: ignore[misc]
        async def _perform(self, step: Any, run: Any, **kwargs: Any) -> Any:
            ran.append(step[0])
            return await super()._perform(step, run, **kwargs)

    store._db.__class__ = Counted
    return ran


def test_many_gets_and_sets_share_statements(postgres_url: str) -> None:
    async def body(store: Any) -> None:
        ran = counting(store)
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


async def locked(url: str, server: Any, key: str) -> Callable[[], Awaitable[None]]:
    """Have somebody else lock the row of a key. Gives what ends that."""
    holder = await asyncpg.connect(server.url)
    transaction = holder.transaction()
    await transaction.start()
    await holder.execute(f"SELECT 1 FROM {url.rpartition('=')[2]} WHERE key = $1 FOR UPDATE", key)

    async def end() -> None:
        await transaction.rollback()
        await holder.close()

    return end


def test_a_locked_key_keeps_its_own_caller_waiting_and_nobody_else(postgres_url: str, postgres: Any) -> None:
    async def body(store: Any) -> None:
        await store.set_many({f"k{n}": b"old" for n in range(20)})
        free = await locked(postgres_url, postgres, "k7")
        tasks = [asyncio.create_task(store.set(f"k{n}", b"new", ttl=1_000)) for n in range(20)]
        done, waiting = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
        while len(done) < 19:
            more, waiting = await asyncio.wait(waiting, return_when=asyncio.FIRST_COMPLETED)
            done |= more
        assert tasks[7] in waiting
        assert await store.get("k7") == b"old"
        await free()
        await asyncio.gather(*tasks)
        assert await store.get_many([f"k{n}" for n in range(20)]) == {f"k{n}": b"new" for n in range(20)}
        left = await store._db.value(("SELECT current_setting('lock_timeout')", ()))
        assert left == "1000s"  # of the connection, as it was

    run(postgres_url, body, lock_timeout=1_000)


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
