"""What tasks of one AsyncSQLiteStore ask at once: shared statements, and in them each call's own order, error and end."""

import asyncio
import math
import threading
from collections.abc import AsyncIterator, Coroutine
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

from sqlitefiles import made, raw

import kv
from kv.backends.worker import Worker

TRIGGER = (
    "CREATE TRIGGER no BEFORE INSERT ON kv_entries WHEN new.key LIKE 'bad%' "
    "BEGIN SELECT RAISE(ABORT, 'not this one'); END"
)


@asynccontextmanager
async def held(worker: Worker) -> AsyncIterator[None]:
    """Keep a worker busy, so that what is called meanwhile is one batch."""
    inside, go_on = threading.Event(), threading.Event()

    def wait() -> None:
        inside.set()
        assert go_on.wait(60)

    busy = asyncio.create_task(worker(wait))
    await asyncio.to_thread(inside.wait, 60)
    yield
    await asyncio.sleep(0)  # the tasks have begun, and their calls are in the queue
    go_on.set()
    await busy


def tasks(*calls: Coroutine[Any, Any, object]) -> list[asyncio.Task[object]]:
    return [asyncio.create_task(call) for call in calls]


def test_sets_of_one_batch_are_one_statement_in_their_order(path: Path) -> None:
    texts: list[str] = []

    async def main() -> None:
        async with kv.AsyncSQLiteStore(path) as store:
            below = store.namespace("below")
            async with held(store._writer):
                assert store._store._db.writer
                store._store._db.writer.set_trace_callback(texts.append)
                calls = tasks(
                    store.set("k", b"1"),
                    below.set("k", b"below"),
                    store.set("k", b"2", ttl=60),
                    store.set("gone", b"", ttl=0.001),
                    store.set("k", b"3"),
                    store.increment("n"),
                    store.set("n", b"5"),
                    store.increment("n"),
                    store.set("late", bytearray(b"v"), ttl=60),
                )
            assert await asyncio.gather(*calls) == [None, None, None, None, None, 1, None, 6, None]
            assert await store.get_many(["k", "n", "late"]) == {"k": b"3", "n": b"6", "late": b"v"}
            assert await below.get("k") == b"below"
            assert await store.ttl("k") == math.inf
            assert 59 < (await store.ttl("late") or 0) <= 60
            while await store.exists("gone"):
                pass

    asyncio.run(main())
    assert [text for text in texts if not text.startswith(("INSERT", "SELECT"))] == ["BEGIN IMMEDIATE", "COMMIT"]


def test_a_set_that_is_refused_fails_alone_in_its_batch(path: Path) -> None:
    async def main() -> None:
        async with kv.AsyncSQLiteStore(path) as store:
            raw(path, TRIGGER)
            async with held(store._writer):
                calls = tasks(
                    store.increment("n"),
                    store.set("a", b"1"),
                    store.set("bad", b"2"),
                    store.set("b", b"3"),
                    store.set("bad too", b"4"),
                    store.set("a", b"5"),
                    store.set("bad\n", b"6"),
                )
            results = await asyncio.gather(*calls, return_exceptions=True)
            done, refused = type(None), kv.BackendError
            assert [type(r) for r in results] == [int, done, refused, done, refused, done, kv.InvalidKey]
            assert results[2] is not results[4]
            assert await store.get_many(await store.keys()) == {"a": b"5", "b": b"3", "n": b"1"}

    asyncio.run(main())


def test_an_own_update_that_is_refused_fails_alone_in_its_batch(path: Path) -> None:
    async def main() -> None:
        async with kv.AsyncSQLiteStore(path) as store:
            raw(path, TRIGGER)
            async with held(store._writer):
                calls = tasks(
                    store.set("n", b"1"),
                    store.increment("bad"),
                    store.increment("n"),
                    store.compare_and_set("n", b"1", b"7"),
                    store.compare_and_set("n", b"2", None),
                    store.increment("n", 2**63 - 1),
                    store.increment("n"),
                    store.pop("n"),
                )
            results = await asyncio.gather(*calls, return_exceptions=True)
            kinds = [type(result) for result in results]
            assert kinds[1] is kv.BackendError
            assert kinds[6] is kv.IntegerOverflow
            assert results[:1] + results[2:6] + results[7:] == [None, 2, False, True, 2**63 - 1, b"%d" % (2**63 - 1)]
            assert await store.keys() == []

    asyncio.run(main())


def test_what_a_failed_function_has_set_is_undone_in_a_batch_too(path: Path) -> None:
    async def main() -> None:
        async with kv.AsyncSQLiteStore(path) as store:

            def fail(_: bytes | None) -> bytes:
                store._store.set("inner", b"")
                store._store.increment("n", 10)
                raise ZeroDivisionError

            async with held(store._writer):
                calls = tasks(store.increment("n"), store.update("k", fail), store.increment("n"))
            results = await asyncio.gather(*calls, return_exceptions=True)
            assert [type(r) for r in results] == [int, ZeroDivisionError, int]
            assert await store.get_many(await store.keys()) == {"n": b"2"}

    asyncio.run(main())


def test_sets_and_gets_cancelled_before_their_batch_do_not_run(path: Path) -> None:
    async def main() -> None:
        async with kv.AsyncSQLiteStore(path) as store:
            async with held(store._writer):
                sets = tasks(*(store.set(f"k{i}", b"v") for i in range(10)))
                await asyncio.sleep(0)
                for call in sets[::2]:
                    call.cancel()
            results = await asyncio.gather(*sets, return_exceptions=True)
            assert [isinstance(r, asyncio.CancelledError) for r in results] == [True, False] * 5
            assert await store.keys() == [f"k{i}" for i in range(1, 10, 2)]
            async with held(store._reader):
                gets = tasks(*(store.get(f"k{i}") for i in range(1, 10)))
                await asyncio.sleep(0)
                for call in gets[1::2]:
                    call.cancel()
            results = await asyncio.gather(*gets, return_exceptions=True)
            assert results[::2] == [b"v"] * 5
            assert {type(r) for r in results[1::2]} == {asyncio.CancelledError}

    asyncio.run(main())


def test_gets_of_one_batch_are_a_query_for_each_namespace(path: Path) -> None:
    queries: list[str] = []

    async def main() -> None:
        async with kv.AsyncSQLiteStore(path) as store:
            below = store.namespace("below")
            await store.set_many({"a": b"1", "b": b""})
            await below.set("a", b"below")
            await store.set("old", b"", ttl=0.001)
            while await store.exists("old"):
                pass
            (reader,) = store._store._db.idle
            reader.set_trace_callback(queries.append)
            async with held(store._reader):
                calls = tasks(
                    store.get("a"),
                    store.get("b"),
                    below.get("a", "none"),
                    store.get("a"),
                    store.get("missing"),
                    store.keys(),
                    store.get("old", b"none"),
                    below.get("b", "none"),
                    store.get("bad\n"),
                )
            results = await asyncio.gather(*calls, return_exceptions=True)
            assert isinstance(results.pop(), kv.InvalidKey)
            assert results == [b"1", b"", b"below", b"1", None, ["a", "b"], b"none", "none"]

    asyncio.run(main())
    assert len(queries) == 3


def test_a_get_of_what_is_damaged_fails_alone_in_its_batch(path: Path) -> None:
    with made(path).open("r+b") as file:
        file.seek(9 * 4096 + 8)
        file.write(b"\xff" * 2_000)

    async def main() -> None:
        async with kv.AsyncSQLiteStore(path) as store:
            async with held(store._reader):
                calls = tasks(*(store.get(f"key{i}") for i in range(1_000)))
            results = await asyncio.gather(*calls, return_exceptions=True)
            wrong = [type(r) for r in results if r != b"v" * 100]
            assert 0 < len(wrong) < 100
            assert {*wrong} == {kv.CorruptData}

    asyncio.run(main())


def test_increments_of_one_batch_are_one_step_with_their_own_sums_and_deadlines(path: Path) -> None:
    texts: list[str] = []

    async def main() -> None:
        async with kv.AsyncSQLiteStore(path) as store:
            below = store.namespace("below")
            await store.set("kept", b"5", ttl=60)
            async with held(store._writer):
                assert store._store._db.writer
                store._store._db.writer.set_trace_callback(texts.append)
                calls = tasks(
                    store.increment("n"),
                    store.increment("kept", -7),
                    store.increment("n", 10),
                    store.increment("n"),
                )
                rest = tasks(
                    below.increment("n"),
                    store.increment("window", ttl_if_new=60),
                    store.increment("window", ttl_if_new=600),
                    store.increment("window", ttl_if_new=60),
                    store.increment("twice", ttl=600, ttl_if_new=60),
                    store.increment("twice", ttl=600, ttl_if_new=60),
                )
            assert await asyncio.gather(*calls, *rest) == [1, -2, 11, 12, 1, 1, 2, 3, 1, 2]
            store._store._db.writer.set_trace_callback(None)
            assert await store.get_many(["n", "kept"]) == {"n": b"12", "kept": b"-2"}
            assert await store.ttl("n") == math.inf
            for key, seconds in {"kept": 60, "window": 60, "twice": 600}.items():
                assert seconds - 5 < (await store.ttl(key) or 0) <= seconds

    asyncio.run(main())
    assert not [text for text in texts if "SAVEPOINT" in text]
    assert sum(text.startswith("SELECT") for text in texts) == 7


def test_an_increment_that_is_refused_fails_alone_in_its_batch(path: Path) -> None:
    async def main() -> None:
        async with kv.AsyncSQLiteStore(path) as store:
            raw(path, TRIGGER)
            await store.set_many({"text": b"no number", "most": b"%d" % (2**63 - 2)})
            async with held(store._writer):
                calls = tasks(*(store.increment(key) for key in ["n", "text", "most", "bad", "most", "n"]))
            results = await asyncio.gather(*calls, return_exceptions=True)
            wrong = [type(result) for result in results if not isinstance(result, int)]
            assert wrong == [kv.NotAnInteger, kv.BackendError, kv.IntegerOverflow]
            assert results[::5] == [1, 2]
            assert results[2] == 2**63 - 1
            assert await store.get_many(["n", "text"]) == {"n": b"2", "text": b"no number"}

    asyncio.run(main())
