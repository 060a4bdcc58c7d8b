"""A cache that several processes share: one call of the factory, and no change undone, whoever is killed."""

from __future__ import annotations

import signal
import subprocess
import sys
import textwrap
from typing import TYPE_CHECKING, Any

import pytest
from programs import ROOT, python, pythons

import kv
from kv.adapters import Cache

if TYPE_CHECKING:
    from collections.abc import Iterator

COLOURS = pytest.mark.parametrize("colour", ["sync", "async"])

HEAD = """
import asyncio, inspect, sys, time, kv
from kv.adapters import AsyncCache, Cache

url, colour = sys.argv[1:3]
store = kv.open(url)                     # what the processes tell each other
def told(key, what=b""):
    end = time.monotonic() + 60
    while store.get(key) != what:
        assert time.monotonic() < end, key
        time.sleep(0.002)
async def now(answer):
    return await answer if inspect.isawaitable(answer) else answer
def run(body, **options):
    async def main():
        async with kv.open_async(url) as opened:
            await body(AsyncCache(opened, **options))
    if colour == "async":
        asyncio.run(main())
    else:
        asyncio.run(body(Cache(store, **options)))
    store.close()
"""


def test_one_process_makes_the_value_and_the_others_wait_for_it(shared: str) -> None:
    with kv.open(shared):
        pass
    said = pythons(
        HEAD
        + """
def factory():
    told("here", b"4")                   # nobody finds a value, as there is none before all have come
    return store.increment("calls")
async def body(cache):
    store.increment("here")
    print(await now(cache.get_or_set("k", factory, tags=["t"])), end="")
colour = ["sync", "async"][me % 2]
run(body, processes=True)
""",
        shared,
        "both",
    )
    assert said == ["1"] * 4
    with kv.open(shared) as store:
        assert store.get("calls") == b"1"


@COLOURS
def test_a_change_by_another_process_while_the_factory_runs_is_not_undone(shared: str, colour: str) -> None:
    with kv.open(shared):
        pass
    said = pythons(
        HEAD
        + """
CHANGES = {
    "deleted": lambda cache: cache.delete("k"),
    "invalidated": lambda cache: cache.invalidate("t"),
    "cleared": lambda cache: cache.clear(),
    "set": lambda cache: cache.set("k", "set"),
}
async def body(cache):
    for name, change in CHANGES.items():
        def factory():
            store.set(f"{name} running", b"")
            told(f"{name} changed")
            return "before"
        if me == 0:
            print(await now(cache.get_or_set("k", factory, tags=["t"])), await now(cache.get("k")))
            await now(cache.delete("k"))
            store.set(f"{name} done", b"")
        else:
            told(f"{name} running")
            await now(change(cache))
            print(name, await now(cache.get_or_set("k", lambda: "after", tags=["t"])))
            store.set(f"{name} changed", b"")
            told(f"{name} done")
run(body, processes=sys.argv[3] == "True")
""",
        shared,
        colour,
        colour == "sync",  # either way; both in test_cache.py
        processes=2,
    )
    assert said == [
        "before after\n" * 3 + "before set\n",
        "deleted after\ninvalidated after\ncleared after\nset set\n",
    ]


@pytest.fixture
def holder(shared: str) -> Iterator[subprocess.Popen[str]]:
    """A process in the middle of its factory."""
    with kv.open(shared):
        pass
    code = """
    import sys, threading, kv
    from kv.adapters import Cache
    def factory():
        print("in", flush=True)
        threading.Event().wait()
    with kv.open(sys.argv[1]) as store:
        Cache(store, processes=True, lease=float(sys.argv[2])).get_or_set("k", factory)
    """
    with subprocess.Popen(
        [sys.executable, "-c", textwrap.dedent(code), shared, "0.5"], stdout=subprocess.PIPE, text=True, cwd=ROOT
    ) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "in\n"
        yield process
        process.kill()


def test_who_is_killed_while_he_makes_the_value_is_replaced(shared: str, holder: subprocess.Popen[str]) -> None:
    holder.send_signal(signal.SIGKILL)
    holder.wait()
    with kv.open(shared) as store:
        cache: Cache[Any] = Cache(store, processes=True, lease=0.5)
        assert store.namespace("cache").exists("k")  # his lease
        assert cache.get_or_set("k", lambda: "mine") == "mine"
        assert cache.get("k") == "mine"


def test_who_does_not_wait_for_other_processes_does_not(shared: str, holder: subprocess.Popen[str]) -> None:
    with kv.open(shared) as store:
        assert Cache(store).get_or_set("k", lambda: "mine") == "mine"
        assert holder.poll() is None


def test_a_child_does_not_wait_for_what_its_parent_does(path: str) -> None:
    said = python(
        """
        import os, signal, sys, threading, warnings, kv
        from kv.adapters import Cache
        warnings.simplefilter("ignore", DeprecationWarning)   # of fork beside threads, which is what is tested
        store = kv.open(f"sqlite:///{sys.argv[1]}")
        cache = Cache(store)
        running, go = threading.Event(), threading.Event()
        def factory():
            running.set()
            go.wait()
            return "parent"
        thread = threading.Thread(target=cache.get_or_set, args=("k", factory))
        thread.start()
        running.wait()
        held = threading.Event()
        def hold():
            with cache._flights.lock():
                held.set()
                go.wait()
        holder = threading.Thread(target=hold)
        holder.start()
        held.wait()
        child = os.fork()
        if not child:
            signal.alarm(30)
            assert cache.get_or_set("k", lambda: "child") == "child"
            os._exit(0)
        status = os.waitpid(child, 0)[1]
        go.set()
        thread.join(), holder.join()
        assert status == 0, status
        print(cache.get("k"), end="")
        store.close()
        """,
        path,
    )
    assert said == "child"
