"""What only the async colour of the SQLite store can get wrong: shared commits, cancellation, event loops, its threads."""

import asyncio
import os
import sqlite3
import threading
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from pathlib import Path

import pytest
from programs import python

import kv


def test_one_commit_carries_what_was_waiting(path: Path) -> None:
    commits = []

    async def main() -> None:
        async with kv.AsyncSQLiteStore(path) as store:
            writer = store._store._db.writer
            assert writer
            writer.set_trace_callback(lambda sql: commits.append(sql) if sql == "COMMIT" else None)
            await asyncio.gather(*(store.increment("n") for _ in range(500)))
            assert await store.get("n") == b"500"

    asyncio.run(main())
    assert 1 <= len(commits) < 20


def test_in_a_shared_commit_each_fails_alone(path: Path) -> None:
    async def main() -> None:
        async with kv.AsyncSQLiteStore(path) as store:
            await store.set("text", b"no number")

            def fail(_: bytes | None) -> bytes:
                raise ZeroDivisionError

            results = await asyncio.gather(
                store.increment("n"),
                store.increment("text"),
                store.update("n", fail),
                store.update_many(["n", "m"], lambda found: {"n": found["n"], "m": bytes(1_000_000_000)}),
                store.set("bad\n", b""),
                store.increment("n"),
                return_exceptions=True,
            )
            assert [type(r) for r in results] == [
                int,
                kv.NotAnInteger,
                ZeroDivisionError,
                kv.ValueTooLarge,
                kv.InvalidKey,
                int,
            ]
            assert await store.get_many(["n", "m", "text"]) == {"n": b"2", "text": b"no number"}

    asyncio.run(main())


def test_when_the_shared_commit_cannot_be_everybody_is_told(path: Path) -> None:
    async def main() -> None:
        async with kv.AsyncSQLiteStore(path, lock_timeout=0.05) as store:
            await store.set("k", b"v")
            with closing(sqlite3.connect(path, isolation_level=None)) as other:
                other.execute("BEGIN IMMEDIATE")
                results = await asyncio.gather(*(store.set("k", b"w") for _ in range(10)), return_exceptions=True)
                assert {type(r) for r in results} == {kv.Conflict}
                assert await store.get("k") == b"v"
            await store.set("k", b"w")

    asyncio.run(main())


def test_a_cancelled_write_happens_or_does_not_and_harms_nobody(path: Path) -> None:
    async def main() -> None:
        async with kv.AsyncSQLiteStore(path) as store:
            inside, go_on = threading.Event(), threading.Event()

            def slow(_: bytes | None) -> bytes:
                inside.set()
                assert go_on.wait(60)
                return b"slow"

            first = asyncio.create_task(store.update("first", slow))
            await asyncio.to_thread(inside.wait, 60)
            waiting = [asyncio.create_task(store.increment("n")) for _ in range(10)]
            await asyncio.sleep(0)  # they are queued behind the first
            for task in waiting[::2]:
                task.cancel()
            first.cancel()
            await asyncio.sleep(0)
            go_on.set()
            results = await asyncio.gather(first, *waiting, return_exceptions=True)
            assert [isinstance(r, asyncio.CancelledError) for r in results] == [True] + [True, False] * 5
            assert await store.get("n") == b"5"  # those cancelled while they waited never ran
            assert await store.get("first") == b"slow"  # that one was under way

    asyncio.run(main())


def test_a_second_event_loop_and_loops_in_threads(path: Path) -> None:
    store = kv.open_async(f"sqlite:///{path}?durability=normal")

    async def work(n: int) -> None:
        await asyncio.gather(*(store.increment("n") for _ in range(n)))

    asyncio.run(work(50))
    asyncio.run(work(50))
    with ThreadPoolExecutor(4) as pool:
        list(pool.map(lambda _: asyncio.run(work(50)), range(4)))

    async def end() -> None:
        assert await store.get("n") == b"300"
        await store.aclose()

    asyncio.run(end())


def test_closing_ends_the_threads_and_does_what_was_asked_before(path: Path) -> None:
    before = set(threading.enumerate())

    async def main() -> None:
        store = kv.AsyncSQLiteStore(path)
        writes = [asyncio.create_task(store.increment("n")) for _ in range(100)]
        await asyncio.sleep(0)
        await store.stats()
        await store.aclose()
        await store.aclose()
        assert sorted(await asyncio.gather(*writes)) == list(range(1, 101))
        for call in (store.get("k"), store.set("k", b""), store.stats()):
            with pytest.raises(kv.StoreClosed):
                await call
        for thread in set(threading.enumerate()) - before:
            thread.join(60)
            assert not thread.is_alive()

    asyncio.run(main())


def test_an_async_program_ends_without_a_word(path: Path) -> None:
    python(
        """
        import asyncio, sys, kv
        async def main():
            store = kv.open_async(f"sqlite:///{sys.argv[1]}")
            await asyncio.gather(*(store.increment("n") for _ in range(100)))
            await store.get("n")
            return store
        store = asyncio.run(main())   # never closed, and another task was under way
        """,
        path,
    )


def test_an_async_backup(path: Path) -> None:
    async def main() -> None:
        async with kv.AsyncSQLiteStore(path) as store:
            await store.set("k", b"v")
            await store.backup(path.with_name("copy.db"))

    asyncio.run(main())
    with kv.SQLiteStore(path.with_name("copy.db")) as copy:
        assert copy.get("k") == b"v"


def test_what_was_asked_before_the_end_is_done(path: Path) -> None:
    async def main() -> None:
        store = kv.open_async(f"sqlite:///{path}")
        writes = [store.set(f"k{i}", b"v") for i in range(20)]
        *_, keys, count, _, _ = await asyncio.gather(
            *writes, store.keys(), store.clear("x"), store.aclose(), store.aclose()
        )
        assert count == 0
        assert type(keys) is list
        with pytest.raises(kv.StoreClosed):
            await store.set("late", b"v")

    asyncio.run(main())
    with kv.SQLiteStore(path) as store:
        assert store.count() == 20


def test_a_cancelled_end_is_an_end(path: Path) -> None:
    async def main() -> None:
        before = {*threading.enumerate()}
        store = kv.AsyncSQLiteStore(path)
        await store.set("k", b"v")
        end = asyncio.create_task(store.aclose())
        await asyncio.sleep(0)
        end.cancel()
        with pytest.raises(asyncio.CancelledError):
            await end
        with pytest.raises(kv.StoreClosed):
            await store.get("k")
        await store.aclose()
        assert {*threading.enumerate()} <= before

    asyncio.run(main())


def test_the_event_loop_opens_no_file(path: Path) -> None:
    async def main() -> None:
        store = kv.open_async(f"sqlite:///{path}")
        entries = store.scan()
        assert os.listdir(path.parent) == []
        assert [entry async for entry in entries] == []
        await store.aclose()

    asyncio.run(main())


def test_no_thread_to_be_had_is_an_error_and_not_the_end(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(_: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    async def main() -> None:
        store = kv.open_async(f"sqlite:///{path}")
        with monkeypatch.context() as patch:
            patch.setattr(threading.Thread, "start", refuse)
            with pytest.raises(RuntimeError, match="can't start new thread"):
                await store.set("k", b"v")
        await store.set("k", b"v")
        assert await store.get("k") == b"v"
        await store.aclose()

    asyncio.run(main())


def test_an_error_that_no_coroutine_can_raise_harms_no_neighbour(path: Path) -> None:
    async def main() -> None:
        async with kv.open_async(f"sqlite:///{path}") as store:
            calls = [store.set("a", b"1"), store.update("k", lambda _: next(iter([]))), store.set("b", b"2")]
            results = await asyncio.gather(*calls, return_exceptions=True)
            assert [type(result) for result in results] == [type(None), RuntimeError, type(None)]
            assert await store.keys() == ["a", "b"]

    asyncio.run(main())
