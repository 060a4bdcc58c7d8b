"""What only the memory store promises: bounds, costs, and threads that end."""

import random
import sys
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from types import FrameType
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from programs import python

import kv
from kv.backends.memory.sortedkeys import SortedKeys


@pytest.fixture
def store() -> Iterator[kv.MemoryStore]:
    with kv.MemoryStore() as store:
        yield store


def lines(call: Callable[[], object]) -> int:
    """How many lines of this package a call runs: its cost, on every machine the same."""
    count = 0

    def trace(frame: FrameType, event: str, _: object) -> Any:
        nonlocal count
        count += event == "line"
        return trace if "kv" in frame.f_code.co_filename else None

    sys.settrace(trace)
    try:
        call()
    finally:
        sys.settrace(None)
    return count


def wait_until_expired(store: kv.MemoryStore, key: str) -> None:
    while store.exists(key):
        pass


def test_a_sweep_costs_what_has_expired_and_not_what_lives(store: kv.MemoryStore) -> None:
    costs = []
    for live in (100, 100_000):
        store.set_many(((f"live{i}", b"") for i in range(live)), ttl=1_000)
        store.set_many(((f"dead{i}", b"") for i in range(10)), ttl=0.001)
        wait_until_expired(store, "dead9")
        costs.append(lines(lambda: costs.append(-store.cleanup())))
    assert costs[0] == costs[2] == -10
    assert costs[3] <= costs[1] + 10
    assert costs[3] < 300


def test_a_listing_costs_what_it_gives_and_not_what_is_stored(store: kv.MemoryStore) -> None:
    costs = []
    for stored in (1_000, 100_000):
        store.set_many((f"k{i:06}", b"") for i in range(stored))
        store.set_many((f"p{i}", b"") for i in range(10))
        assert len(store.keys("p")) == 10  # the first listing sorts
        store.set("q", b"")
        costs.append(lines(lambda: store.keys("p")))
    assert costs[1] <= costs[0] + 10
    assert costs[1] < 300


def test_deadlines_that_are_set_again_and_again_take_no_more_room(store: kv.MemoryStore) -> None:
    for _ in range(20_000):
        store.set("session", b"", ttl=1_000)
    assert len(store._memory.heap) < 5_000
    store.persist("session")
    assert store.ttl("session") == float("inf")


def test_keys_that_come_and_go_unlisted_take_no_more_room(store: kv.MemoryStore) -> None:
    assert store.keys() == []
    for i in range(20_000):
        store.set(f"k{i}", b"")
        store.delete(f"k{i}")
    changed = store._table.sorted._changed
    assert changed is None or len(changed) < 5_000
    assert store.keys() == []


def test_namespaces_that_come_and_go_take_no_room(store: kv.MemoryStore) -> None:
    for i in range(1_000):
        view = store.namespace(f"n{i}")
        view.set("k", b"")
        assert store.namespace(f"n{i}").pop("k") == b""
    del view
    assert len(store._memory.tables) == 1
    store.namespace("kept").set("k", b"v")
    assert store.namespace("kept").get("k") == b"v"


@given(
    st.lists(st.tuples(st.sampled_from(["add", "remove", "list"]), st.text("abc", min_size=1, max_size=3)), max_size=60)
)
def test_the_sorted_keys_are_the_keys_sorted(steps: list[tuple[str, str]]) -> None:
    mapping: dict[str, object] = {}
    index = SortedKeys(mapping)
    for step, key in steps:
        if step == "list":
            assert index.between(key, None, 100) == sorted(k for k in mapping if k >= key)
            assert index.between("", key, 2) == sorted(k for k in mapping if k < key)[:2]
            continue
        index.touch(key)
        if step == "add":
            mapping[key] = None
        else:
            mapping.pop(key, None)
    assert index.between("", None, 1_000) == sorted(mapping)


def test_the_sorted_keys_stay_sorted_through_splits_and_many_changes() -> None:
    rng = random.Random(5)
    mapping: dict[str, object] = {}
    index = SortedKeys(mapping)
    for size in (10, 5_000, 100, 1_500, 1, 9_000):
        for _ in range(size):
            key = f"{rng.randrange(20_000):05}"
            index.touch(key)
            if rng.random() < 0.7:
                mapping[key] = None
            else:
                mapping.pop(key, None)
        assert index.between("", None, 10**6) == sorted(mapping)
        assert index.between("05", "06", 50) == sorted(k for k in mapping if "05" <= k < "06")[:50]


# max_entries


def test_the_least_recently_used_goes_first() -> None:
    with kv.MemoryStore(max_entries=3) as store:
        store.set_many({"a": b"1", "b": b"2", "c": b"3"})
        assert store.get("a") == b"1"
        store.update("b", lambda value: value)
        store.set("d", b"4")
        assert store.keys() == ["a", "b", "d"]
        store.namespace("n").set("e", b"5")  # the bound is the whole store's
        assert store.keys() == ["b", "d"]
        assert store.namespace("n").get("e") == b"5"


def test_what_has_expired_goes_before_what_is_used() -> None:
    with kv.MemoryStore(max_entries=3) as store:
        store.set("a", b"")
        store.set("b", b"", ttl=0.001)
        store.set("c", b"")
        wait_until_expired(store, "b")
        store.set("d", b"")
        assert store.keys() == ["a", "c", "d"]


def test_a_batch_larger_than_the_bound_keeps_its_last() -> None:
    with kv.MemoryStore(max_entries=2) as store:
        store.set_many({f"k{i}": b"" for i in range(10)})
        assert store.keys() == ["k8", "k9"]
        assert store.increment("n") == 1
        assert store.stats().keys == 2


def test_the_bound_holds_with_threads() -> None:
    with kv.MemoryStore(max_entries=50) as store, ThreadPoolExecutor(8) as pool:

        def work(seed: int) -> None:
            rng = random.Random(seed)
            for _ in range(500):
                key, step = f"k{rng.randrange(200)}", rng.randrange(4)
                if step == 0:
                    store.get(key)
                elif step == 1:
                    store.pop(key)
                else:
                    store.set(key, b"", ttl=None if step == 2 else 0.001)

        list(pool.map(work, range(8)))
        assert store.count() <= 50
        assert len(store._memory.recent or ()) <= 50


# optimistic updates


def test_a_slow_function_stops_nobody_else(store: kv.MemoryStore) -> None:
    inside, go_on = threading.Event(), threading.Event()

    def slow(value: bytes | None) -> bytes:
        inside.set()
        assert go_on.wait(60)
        return b"slow"

    with ThreadPoolExecutor(1) as pool:
        update = pool.submit(store.update, "k", slow)
        assert inside.wait(60)
        store.set("other", b"v")  # would wait for ever under one lock
        assert store.get("other") == b"v"
        go_on.set()
        assert update.result(60) == b"slow"


def test_a_slow_function_is_called_again_after_a_faster_write(store: kv.MemoryStore) -> None:
    seen: list[bytes | None] = []

    def slow(value: bytes | None) -> bytes:
        seen.append(value)
        if len(seen) == 1:
            with ThreadPoolExecutor(1) as pool:
                pool.submit(store.set, "k", b"faster").result(60)
        return (value or b"") + b"!"

    assert store.update("k", slow) == b"faster!"
    assert seen == [None, b"faster"]


def test_a_function_that_writes_to_its_own_key_is_told(store: kv.MemoryStore) -> None:
    def meddling(value: bytes | None) -> bytes:
        store.increment("k")
        return b"0"

    with pytest.raises(kv.Conflict, match="function given to update of 'k', or it writes there itself"):
        store.update("k", meddling)


def test_two_stores_whose_functions_call_each_other() -> None:
    one, two = kv.MemoryStore(), kv.MemoryStore()

    def both(first: kv.Store, second: kv.Store) -> None:
        for _ in range(300):
            with suppress(kv.Conflict):
                first.update("k", lambda old: second.update("k", lambda _: b"x") and (old or b"")[:3] + b"y")

    with ThreadPoolExecutor(4) as pool:
        for done in [pool.submit(both, *pair) for pair in [(one, two), (two, one)] * 2]:
            done.result(60)


def test_no_listing_sees_half_of_set_many(store: kv.MemoryStore) -> None:
    store.set_many((f"m{i}", b"") for i in range(3_000))
    stop = threading.Event()

    def write() -> None:
        while not stop.is_set():
            store.set_many({"a": b"", "z": b""})
            store.delete_many(["a", "z"])

    interval = sys.getswitchinterval()
    sys.setswitchinterval(1e-5)
    try:
        with ThreadPoolExecutor(1) as pool:
            writer = pool.submit(write)
            try:
                for _ in range(100):
                    keys = store.keys()
                    assert ("a" in keys) is ("z" in keys)
                    assert store.count(match="?") in (0, 2)
            finally:
                stop.set()
            writer.result(60)
    finally:
        sys.setswitchinterval(interval)


# threads, the end, fork


def test_expired_entries_are_removed_by_themselves() -> None:
    with kv.MemoryStore(cleanup_interval=0.01) as store:
        assert not any(t.name == "kv-cleanup" for t in threading.enumerate())  # none before it is needed
        store.set("k", b"", ttl=0.001)
        while store.stats().expired or store._table.entries:
            pass
        assert any(t.name == "kv-cleanup" for t in threading.enumerate())
    assert not any(t.name == "kv-cleanup" for t in threading.enumerate())


def test_a_store_that_nobody_closed_ends_its_thread() -> None:
    out = python("""
        import gc, threading, kv
        store = kv.MemoryStore(cleanup_interval=1000)
        store.set("k", b"", ttl=1)
        (thread,) = [t for t in threading.enumerate() if t.name == "kv-cleanup"]
        del store
        gc.collect()
        thread.join(60)
        print(thread.is_alive())
    """)
    assert out == "False\n"


@pytest.mark.parametrize("how", ["", "store.close()", "raise SystemExit"])
def test_a_program_ends_without_a_word(how: str) -> None:
    python(f"""
        import kv
        store = kv.open("memory://?cleanup_interval=0.001")
        store.set("k", b"", ttl=0.001)
        {how}
    """)


def test_an_async_program_ends_without_a_word() -> None:
    python("""
        import asyncio, kv
        async def main():
            store = kv.open_async("memory://?cleanup_interval=0.001")
            await store.set("k", b"", ttl=0.001)
            return store
        store = asyncio.run(main())
        async def again():
            assert await store.increment("n") == 1   # a second event loop
        asyncio.run(again())
    """)


def test_a_forked_child_has_a_store_of_its_own() -> None:
    out = python("""
        import os, sys, threading, kv, warnings
        warnings.simplefilter("ignore", DeprecationWarning)   # of fork beside threads, which is what is tested
        store = kv.MemoryStore(cleanup_interval=0.01)
        store.set("k", b"parent", ttl=1000)
        stop = threading.Event()
        def write():
            while not stop.is_set():
                store.increment("n")
        threads = [threading.Thread(target=write) for _ in range(4)]
        for t in threads: t.start()
        for _ in range(20):
            pid = os.fork()
            if not pid:
                assert store.get("k") == b"parent"
                store.set("k", b"child", ttl=0.001)   # no lock was inherited, and a new thread cleans
                while store.stats().expired or store.exists("k"): pass
                os._exit(0)
            assert os.waitpid(pid, 0)[1] == 0
        stop.set()
        for t in threads: t.join()
        print(store.get("k"))
        store.close()
    """)
    assert out == "b'parent'\n"
