"""Moves of stores that are in use, and of stores without order."""

from __future__ import annotations

import asyncio
import os
import random
import threading
import tracemalloc
from typing import TYPE_CHECKING, Any

import pytest
from exports import MANY, contents, exported, fill
from tiny import TinyStore

import kv
from kv import transfer
from kv.base import PAGE, TRAVEL_BYTES, BaseStore, next_limit
from kv.store import Record

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from exports import Contents
    from redis import Redis


def test_a_migration_carries_in_its_next_pass_what_was_written_behind_it(make: Callable[[], kv.Store]) -> None:
    source, target = fill(make(), MANY), fill(make(), {(): {"old": (b"1", None)}, ("gone",): {"k": (b"", None)}})
    pages: list[int] = []

    def progress(step: str, *_: object) -> None:
        if step == "copying" and not pages:
            assert target.exists("00000")
            source.set("00000", b"changed")  # behind
            source.delete("01999")  # ahead
            source.namespace("z").set("k", b"new")  # ahead
        pages.append(1)

    first = transfer.migrate(source, target, progress=progress)
    assert (first.stored, first.deleted) == (first.entries, 2)
    left = [*transfer.differences(source, target, extra=True)]
    new = ["'k' in namespace 'z' is missing"]  # where the keys are gathered first
    assert left in (["'00000' has another value"], ["'00000' has another value", *new])
    source.namespace("n").expire("00000", 1_000)
    source.delete("00001")
    assert transfer.migrate(source, target) == (2_999, len(left) + 1, 2_998 - len(left), 0, 1)
    assert contents(target) == contents(source)
    assert transfer.migrate(source, target) == (2_999, 0, 2_999, 0, 0)


def test_a_store_is_moved_while_threads_write_to_it(make: Callable[[], kv.Store]) -> None:
    keys = [f"{n:03}" for n in range(700)]
    source, target = fill(make(), {(): dict.fromkeys(keys, (b"old", None))}), make()
    stop = threading.Event()
    written = [0] * 3

    def write(seed: int) -> None:
        chance = random.Random(seed)
        while not stop.wait(0.001):
            here = source.namespace("n") if chance.random() < 0.3 else source
            key = chance.choice(keys)
            if chance.random() < 0.3:
                here.delete(key)
            else:
                here.set(key, chance.randbytes(10), ttl=chance.choice([None, 1_000]))
            written[seed] += 1

    threads = [threading.Thread(target=write, args=[seed]) for seed in range(3)]
    for thread in threads:
        thread.start()
    try:
        while min(written) < 20 and all(thread.is_alive() for thread in threads):
            transfer.migrate(source, target)
    finally:
        stop.set()
        for thread in threads:
            thread.join()
    assert min(written) >= 20
    last = transfer.migrate(source, target)
    assert [*transfer.differences(source, target, extra=True)] == []
    assert transfer.migrate(source, target) == (last.entries, 0, last.entries, 0, 0)


# a store without order


class Unordered(kv.MemoryStore):
    """A store that can only list all it has; `listed` says which namespace each time."""

    listed: list[tuple[str, ...]]

    def __init__(self) -> None:
        super().__init__()
        self.listed = []

    def keys(
        self, prefix: str = "", *, match: str | None = None, after: str | None = None, limit: int | None = None
    ) -> list[str]:
        self.listed.append(self._path)
        return super().keys(prefix, match=match, after=after, limit=limit)

    def count(self, prefix: str = "", *, match: str | None = None) -> int:
        return len(self.keys(prefix, match=match))

    def _pages(self, prefix: str, match: str | None = None, after: str | None = None) -> Iterator[list[str]]:
        found = self.keys(prefix, match=match, after=after)
        yield from (found[i : i + PAGE] for i in range(0, len(found), PAGE))

    def _records(self, after: str | None) -> Iterator[list[Record]]:
        for keys in self._pages("", after=after):
            found = self._look(keys)
            yield [found[key] for key in keys if key in found]

    def _dump(self, after: str | None, limit: int) -> list[Record]:
        raise AssertionError("a range was asked for")


@pytest.mark.parametrize("colour", ["sync", "async"])
def test_a_store_without_order_is_listed_once_for_each_purpose(colour: str) -> None:
    entries: Contents = {path: {f"{n:05}": (b"v", None) for n in range(3_000)} for path in [(), ("n",)]}
    with Unordered() as source, Unordered() as target, kv.MemoryStore() as plain:
        fill(plain, entries)

        def listed(work: Callable[..., Any], of: Any, to: Any, **options: Any) -> tuple[int, int]:
            """Do it. Gives how often each namespace was listed in both."""
            source.listed.clear()
            target.listed.clear()
            done = work(of, to, **options)
            assert [done] if colour == "sync" else asyncio.run(done)
            for store in source, target:
                assert store.listed.count(()) == store.listed.count(("n",))
            return source.listed.count(()), target.listed.count(())

        asynchronous = [kv.AsyncMemoryStore(), kv.AsyncMemoryStore()]
        for lifted, store in zip(asynchronous, (source, target), strict=True):
            lifted._store = store
        here: list[Any] = [source, target] if colour == "sync" else [*asynchronous]
        copy: Callable[..., Any] = transfer.copy if colour == "sync" else transfer.copy_async
        migrate: Callable[..., Any] = transfer.migrate if colour == "sync" else transfer.migrate_async

        assert listed(copy, plain, here[0]) == (0, 0)
        assert listed(copy, *here) == (1, 0)
        source.set_many({f"{n:05}": b"changed" for n in range(0, 3_000, 7)})
        assert listed(copy, *here, resume=True) == (1, 0)
        target.set_many({f"{n:05}:": b"" for n in range(0, 3_000, 7)})
        assert listed(migrate, *here) == (2, 1)
        assert listed(migrate, *here, progress=lambda *_: None) == (3, 2)
        source.listed.clear()
        target.listed.clear()
        assert [*transfer.differences(source, target, extra=True)] == []
        assert source.listed == target.listed == [(), ("n",)]
        assert exported(source) == exported(target)
        assert source.listed == [(), ("n",)] * 2


# memory and progress


def test_large_values_do_not_fill_the_memory(tmp_path: Path) -> None:
    with kv.open(f"sqlite:///{tmp_path}/a.db") as store, kv.open(f"sqlite:///{tmp_path}/b.db") as other:
        for n in range(24):
            store.set(f"{n:03}", bytes(1 << 20))
        tracemalloc.start()
        try:
            transfer.export_file(store, tmp_path / "out")
            with open(tmp_path / "out", "rb") as file:
                transfer.import_file(other, file)
            transfer.copy(store, other, resume=True, replace=True)
            _, peak = tracemalloc.get_traced_memory()
        finally:
            tracemalloc.stop()
        assert contents(other) == contents(store)
        assert peak < 32 << 20


def test_pages_follow_the_size_of_values() -> None:
    small, large = [Record("k", bytes(10), None)] * 100, [Record("k", bytes(1 << 19), None)] * 16
    assert next_limit(1, small[:1]) == 8
    assert next_limit(64, small) == next_limit(500, small) == PAGE
    assert next_limit(16, large) == next_limit(1, large[:1]) == 1
    assert next_limit(500, [Record("k", bytes(10_000), None)] * 500) == 32
    assert next_limit(8, [Record("k", b"", None)] * 3) == next_limit(8, []) == 64


def test_what_travels_together_is_neither_large_nor_little(make: Callable[[], kv.Store]) -> None:
    keys = [f"{n:05}" for n in range(1_200)]
    stores: list[Any] = [make(), TinyStore()]
    for store in stores:
        fill(store, {(): {key: (bytes(700_000) if key < "00006" else b"", None) for key in keys}})
        pages = [*store._records(None)]
        assert [record.key for page in pages for record in page] == keys
        assert max(sum(len(record.value) for record in page) for page in pages) < 2 * TRAVEL_BYTES
        assert max(map(len, pages)) == PAGE


def test_progress_adds_up(tmp_path: Path, memory: kv.Store) -> None:
    seen: dict[str, tuple[int, int | None]] = {}

    def progress(step: str, done: int, total: int | None) -> None:
        seen[step] = (seen.get(step, (0, 0))[0] + done, total)

    fill(memory, MANY)
    transfer.export_file(memory, tmp_path / "out", progress=progress)
    assert seen == {"exporting": (3_000, 3_000)}
    with kv.open("memory://") as store, open(tmp_path / "out", "rb") as file:
        transfer.import_file(store, file, replace=True, progress=progress)
        assert seen["importing"] == (3_000, 3_000)
        assert seen["deleting the rest"] == (3_000, 3_000)
        checked, size = seen["checking"]
        assert size == os.path.getsize(tmp_path / "out")
        assert size * 0.7 < checked <= size
        transfer.copy(store, memory, progress=progress)
        list(transfer.differences(store, memory, progress=progress))
    assert seen["copying"] == seen["comparing"] == (3_000, 3_000)
    assert transfer.total(memory) == 3_000


def test_a_page_that_expires_while_it_is_read_is_not_the_end() -> None:
    class Store(kv.MemoryStore):
        _dump = BaseStore._dump  # the derived ones
        _look = BaseStore._look

        def ttl(self, key: str) -> float | None:
            if key == "a":
                self.delete("a")  # as if its deadline came just now
            return super().ttl(key)

    with Store() as store:
        store.set_many({"a": b"1", "b": b"2"})
        assert store._dump(None, 1) == [Record("b", b"2", None)]


@pytest.mark.parametrize("colour", ["sync", "async"])
def test_redis_is_listed_once_for_all_namespaces(redis_url: str, redis_admin: Redis, colour: str) -> None:
    def listings() -> int:
        with kv.MemoryStore() as copied:
            redis_admin.config_resetstat()
            if colour == "sync":
                assert transfer.copy(store, copied).entries == 40
            else:

                async def main() -> None:
                    async with kv.open_async(redis_url) as source:
                        assert (await transfer.copy_async(source, copied)).entries == 40

                asyncio.run(main())
            calls = int(redis_admin.info("commandstats")["cmdstat_scan"]["calls"])
            assert contents(copied) == contents(store)
            return calls

    with kv.open(redis_url) as store:
        for n in range(20):
            here = store.namespace(f"tenant:{n % 10}").namespace(f"{n}/%")
            here.set_many({"a": b"1", "b:c": b"2"})
        assert len(contents(store)) == 20
        assert listings() == 1
