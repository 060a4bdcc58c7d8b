"""Moving stores of either colour from an event loop: every pair, writers meanwhile, cancellation."""

from __future__ import annotations

import asyncio
import io
import random
import threading
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any

import pytest
from exports import LATER, TREE, contents, exported, fill
from tiny import AsyncTinyStore, TinyStore
from waiting import until

import kv
from kv import transfer
from kv.store import Record
from kv.testing.suite import gone, lifted

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator
    from pathlib import Path

    from exports import Contents

KINDS = ["memory", "sqlite", "postgres", "tiny"]
SIDES = [f"{colour} {kind}" for kind in KINDS for colour in ("sync", "async")]
TINY = {"sync": TinyStore, "async": AsyncTinyStore}
OPEN = {"sync": kv.open, "async": kv.open_async}


@pytest.fixture
def side(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Callable[[str], Any]]:
    """Makes an empty store of a colour and a kind."""
    tables: list[str] = []

    def one(name: str) -> Any:
        colour, kind = name.split()
        if kind == "tiny":
            return TINY[colour]()
        if kind == "postgres":
            url = f"{request.getfixturevalue('postgres_url')}_{len(tables)}"
            tables.append(url.rpartition("=")[2])
        else:
            url = {"memory": "memory://", "sqlite": f"sqlite:///{tmp_path}/{random.random()}.db"}[kind]
        return OPEN[colour](url)

    yield one
    for table in tables:
        request.getfixturevalue("admin").execute(f"DROP TABLE IF EXISTS {table}")


async def different(source: Any, target: Any) -> list[str]:
    return [line async for line in transfer.differences_async(source, target, extra=True)]


def idle() -> bool:
    """Whether no thread of a transfer is left."""
    return not any(thread.name.startswith("kv-aside") for thread in threading.enumerate())


@pytest.mark.parametrize("to", SIDES)
@pytest.mark.parametrize("of", SIDES)
def test_from_every_store_to_every_other(side: Callable[[str], Any], memory: kv.Store, of: str, to: str) -> None:
    async def main() -> None:
        source, target = side(of), side(to)
        async with lifted(source), lifted(target):
            assert (await transfer.copy_async(memory, source)).stored == 21
            assert await transfer.copy_async(source, target) == (21, 21, 0, 0, 0)
            assert await different(source, target) == []
            there = lifted(target)
            await there.delete("a")
            await there.set("b", b"nobody else's")
            await there.namespace("a").set("k", b"changed", ttl=60)
            await there.namespace("a").persist("l")
            assert await different(source, target) == [
                "'a' is missing",
                "'b' is only in the target",
                "'k' in namespace 'a' has another value",
                "'l' in namespace 'a' has another deadline",
            ]
            assert await transfer.migrate_async(source, target) == (21, 3, 18, 0, 1)
            assert await different(memory, target) == []

    fill(memory, TREE)
    asyncio.run(main())
    assert idle()


@pytest.mark.parametrize("name", SIDES)
def test_what_is_looked_up_is_what_is_read(side: Callable[[str], Any], name: str) -> None:
    async def main() -> None:
        given = side(name)
        async with lifted(given) as store:
            await store.set("dies", b"1", ttl=0.001)
            found: Any = lifted(given)
            await found._load([Record("dead", b"0", 1), Record("l", b"2", LATER), Record("k", b"", None)])
            await gone(store, "dies")
            looked = await found._look(["l", "missing", "dies", "dead", "k"])
            assert sorted(looked) == ["k", "l"]
            read = {record.key: record for record in await found._dump(None, 10)}
            assert sorted(read) == ["k", "l"]
            for record in (*looked.items(), *read.items()):
                assert transfer.same(record[1], Record(*{"k": ("k", b"", None), "l": ("l", b"2", LATER)}[record[0]]))
                assert record[0] == record[1].key

    asyncio.run(main())


def test_files_are_written_and_read(tmp_path: Path, memory: kv.Store) -> None:
    whole = exported(fill(memory, TREE))
    steps: list[str] = []

    async def main() -> None:
        async with kv.AsyncSQLiteStore(tmp_path / "app.db") as store:
            done = await transfer.import_file_async(store, io.BytesIO(whole), replace=True)
            assert done == (21, 21, 0, 0, 0)
            assert await transfer.total_async(store) == 21
            out = io.BytesIO()
            assert await transfer.export_async(store, out, progress=lambda step, *_: steps.append(step)) == (21, 0)
            assert out.getvalue() == whole
            assert set(steps) == {"exporting"}
            (tmp_path / "out.part").write_bytes(whole[:300])
            done_too = await transfer.export_file_async(store, tmp_path / "out", resume=True)
            assert done_too.entries == 21
            assert done_too.resumed > 0
            assert (tmp_path / "out").read_bytes() == whole
            with pytest.raises(kv.CorruptData, match="nothing has been imported"):
                await transfer.import_file_async(store, io.BytesIO(whole[:-5]), name="this")

    asyncio.run(main())


@pytest.mark.parametrize("kind", KINDS)
def test_a_store_is_moved_while_it_is_written_to(side: Callable[[str], Any], kind: str) -> None:
    keys = [f"{n:04}" for n in range(700)]
    written = 0
    stop = False

    async def write(store: kv.AsyncStore, seed: int) -> None:
        nonlocal written
        chance = random.Random(seed)
        while not stop:
            here = store.namespace("n") if chance.random() < 0.3 else store
            key = chance.choice(keys)
            match chance.randrange(4):
                case 0:
                    await here.delete(key)
                case 1:
                    await here.set(key, chance.randbytes(10), ttl=1_000)
                case 2:
                    await here.set_many({f"{{{key}}}:{n}": b"%d" % n for n in range(3)})
                case _:
                    await here.increment(f"n{key}")
            written += 1
            await asyncio.sleep(0.001)

    async def main() -> None:
        nonlocal stop
        source, target = side(f"async {kind}"), side("sync sqlite")
        async with lifted(source), lifted(target):
            for store in source, source.namespace("n"):
                await store._load([Record(key, b"old", None) for key in keys])
            writers = [asyncio.create_task(write(source, seed)) for seed in range(4)]
            meanwhile = passes = 0
            while meanwhile < 50 and passes < 1_000:
                before = written
                await transfer.migrate_async(source, target)
                meanwhile += written - before
                passes += 1
            stop = True
            await asyncio.gather(*writers)
            assert meanwhile >= 50, "the event loop stood still"
            await source.set("0000", b"the last word")
            last = await transfer.migrate_async(source, target)
            assert last.stored > 0
            assert last.same > 0
            assert await different(source, target) == []
            assert await transfer.migrate_async(source, target) == (last.entries, 0, last.entries, 0, 0)

    asyncio.run(main())


# cancelled


class Slow(kv.MemoryStore):
    """A store that says when it loads, and waits to be told to go on."""

    def __init__(self) -> None:
        super().__init__()
        self.loads = threading.Semaphore(0)
        self.begun = self.done = 0

    def _load(self, records: Iterable[Record]) -> None:
        self.begun += 1
        assert self.loads.acquire(timeout=20)
        super()._load(records)
        self.done += 1


class AsyncSlow(kv.AsyncMemoryStore):
    """The same in the other colour; the event loop goes on meanwhile."""

    _store: Slow

    def __init__(self) -> None:
        super().__init__()
        self._store = Slow()

    async def _load(self, records: Iterable[Record]) -> None:
        await asyncio.to_thread(self._store._load, records)


@pytest.mark.parametrize("colour", [Slow, AsyncSlow])
@pytest.mark.parametrize("times", [1, 2])
def test_a_cancelled_migration_is_over_when_it_says_so(memory: kv.Store, colour: type, times: int) -> None:
    fill(memory, {(): {f"{n:05}": (b"%d" % n, None) for n in range(5_000)}})

    async def main() -> None:
        target = colour()
        slow: Slow = getattr(target, "_store", target)
        slow.loads.release(3)
        moving = asyncio.create_task(transfer.migrate_async(memory, target))
        await until(lambda: slow.begun == 4)  # in the middle of a page
        for _ in range(times):
            moving.cancel()
            await asyncio.sleep(0.01)
            assert not moving.done(), "the thread still writes"
        slow.loads.release(100)
        with pytest.raises(asyncio.CancelledError):
            await moving
        assert idle()
        assert slow.begun == slow.done == 4, "it went on"
        stored = slow.keys()
        assert 0 < len(stored) < 5_000
        assert stored == memory.keys(limit=len(stored))
        assert await transfer.migrate_async(memory, target) == (5_000, 5_000 - len(stored), len(stored), 0, 0)
        assert contents(slow) == contents(memory)

    asyncio.run(main())


STEPS: dict[str, Callable[..., Any]] = {
    "checking": lambda _, target, whole, told: transfer.import_file_async(target, io.BytesIO(whole), progress=told),
    "importing": lambda _, target, whole, told: transfer.import_file_async(target, io.BytesIO(whole), progress=told),
    "exporting": lambda full, _, __, told: transfer.export_async(full, io.BytesIO(), progress=told),
    "deleting the rest": lambda _, target, __, told: transfer.migrate_async(kv.MemoryStore(), target, progress=told),
    "comparing": lambda full, target, _, told: anext(transfer.differences_async(full, target, progress=told)),
}


@pytest.mark.parametrize("step", STEPS)
def test_every_step_ends_at_its_next_page(memory: kv.Store, make: Callable[[], kv.Store], step: str) -> None:
    entries: Contents = {(): {f"{n:05}": (b"", None) for n in range(5_000)}}
    whole = exported(fill(memory, entries))
    target = fill(make(), entries)
    steps: list[str] = []

    async def main() -> None:
        loop, stopping = asyncio.get_running_loop(), threading.Event()

        def cancel() -> None:
            moving.cancel()
            loop.call_later(0.01, stopping.set)

        def told(now: str, *_: object) -> None:
            steps.append(now)
            if steps.count(step) == 3:
                loop.call_soon_threadsafe(cancel)
                assert stopping.wait(20)

        moving = asyncio.ensure_future(STEPS[step](memory, target, whole, told))
        with pytest.raises(asyncio.CancelledError):
            await moving

    asyncio.run(main())
    assert idle()
    assert steps[-1] == step
    assert steps.count(step) == 3, "it went on"
    assert target.count() >= 3_000


def test_a_timeout_and_a_comparison_left_alone_leave_no_thread(memory: kv.Store) -> None:
    fill(memory, {(): {f"{n:05}": (b"", None) for n in range(2_000)}})

    async def main() -> None:
        slow = Slow()
        loop = asyncio.get_running_loop()
        loop.call_later(0.1, slow.loads.release, 100)
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.05):
                await transfer.copy_async(memory, slow)
        assert idle()
        async with kv.AsyncMemoryStore() as empty:
            async for line in transfer.differences_async(memory, empty):
                assert line == "'00000' is missing"
                break

    asyncio.run(main())
    assert idle()


def test_the_threads_of_the_loop_are_left_to_the_stores(memory: kv.Store) -> None:
    class Store(AsyncTinyStore):
        async def _at(self) -> TinyStore:
            await asyncio.wait_for(asyncio.to_thread(int), 5)  # as one that looks up a host's name
            return await super()._at()

    async def main() -> None:
        asyncio.get_running_loop().set_default_executor(ThreadPoolExecutor(1))
        store = Store()
        await transfer.copy_async(memory, store)
        assert await different(memory, store) == []

    fill(memory, TREE)
    asyncio.run(main())


# refused, and broken


def test_an_error_comes_out_as_it_is(memory: kv.Store) -> None:
    error = kv.Unavailable("gone")

    class Broken(kv.AsyncMemoryStore):
        async def _look(self, keys: list[str]) -> dict[str, Record]:
            raise error

    async def main() -> None:
        with pytest.raises(kv.Unavailable) as e:
            await transfer.migrate_async(memory, Broken())
        assert e.value is error

    memory.set("k", b"v")
    asyncio.run(main())
    assert idle()


def test_what_is_no_store_is_refused(memory: kv.Store) -> None:
    async def main() -> None:
        with pytest.raises(TypeError, match="not object"):
            await transfer.copy_async(memory, object())  # type: ignore[arg-type]
        with pytest.raises(TypeError, match="not AsyncMemoryStore; the functions that end in _async"):
            transfer.copy(memory, kv.AsyncMemoryStore())  # type: ignore[arg-type]

    asyncio.run(main())
