"""Stores where programs are odd: many event loops, uvloop, forked workers, and ends of every kind with stores left open."""

from __future__ import annotations

import os
import re
import subprocess
import sys

import pytest
from programs import ROOT, python, pythons

BEGIN = """
import asyncio, logging, os, sys, threading, kv
logging.getLogger("asyncio").setLevel(logging.ERROR)    # what it says of slow machines
url = sys.argv[1]
async def work(store, n=20):
    await asyncio.gather(*(store.increment("n") for _ in range(n)))
    await store.set("k", b"v", ttl=1000)
    assert await store.get("k") == b"v"
"""

ENDS = {
    "sync": """
        store = kv.open(url)
        store.set("k", b"v")
        scan = store.scan()
        next(scan)
        thread = threading.Thread(target=store.get, args=("k",)); thread.start(); thread.join()
        """,
    "async": """
        store = kv.open_async(url)
        asyncio.run(work(store))
        """,
    "async, in the midst of calls": """
        async def main():
            global store, tasks
            store = kv.open_async(url)
            await work(store)
            tasks = [asyncio.create_task(store.increment("n")) for _ in range(50)]
            await asyncio.sleep(0)
        asyncio.run(main())
        """,
    "a daemon's loop": """
        store = kv.open_async(url)
        ready = threading.Event()
        async def main():
            await work(store)
            ready.set()
            while True:
                await store.increment("n")
        threading.Thread(target=lambda: asyncio.run(main()), daemon=True).start()
        ready.wait()
        """,
    "a module's cycle": """
        class App: pass
        app = App()
        app.app, app.store, app.other = app, kv.open(url), kv.open_async(url)
        asyncio.run(work(app.other))
        app.store.increment("n")
        del app
        """,
    "os._exit": """
        store, other = kv.open(url), kv.open_async(url)
        async def main():
            await work(other)
            store.increment("n")
            os._exit(0)
        asyncio.run(main())
        """,
    "exit inside update": """
        store = kv.open(url)
        store.update("k", lambda _: sys.exit(0))
        """,
}


def begin(url: str) -> str:
    """How each program begins. Who leaves sockets of an event loop open hears so from asyncio and the drivers, as everywhere."""
    sockets = not url.startswith(("memory", "sqlite"))
    return BEGIN + "import warnings; warnings.simplefilter('ignore', ResourceWarning)\n" * sockets


@pytest.mark.parametrize("how", ENDS)
def test_a_program_ends_with_open_stores_and_no_word(anywhere: str, how: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PYTHONDEVMODE", "1")
    assert python(begin(anywhere) + re.sub("^        ", "", ENDS[how], flags=re.MULTILINE), anywhere) == ""


def test_loops_of_all_kinds_share_one_store(shared: str) -> None:
    out = python(
        begin(shared)
        + re.sub(
            "^            ",
            "",
            """
            async def leave(store):
                await work(store, 10)
                async with store.namespace("n"): pass      # a view closes nothing
            store = kv.open_async(url, pool_max=3) if "sqlite" not in url else kv.open_async(url)
            sync = kv.open(url)
            first, second = asyncio.new_event_loop(), asyncio.new_event_loop()
            for _ in range(3):                              # two loops of one thread, by turns
                first.run_until_complete(leave(store))
                second.run_until_complete(leave(store))
            def thread():
                with asyncio.Runner() as runner:
                    for _ in range(3):
                        runner.run(leave(store))
                        sync.increment("n")
            threads = [threading.Thread(target=thread) for _ in range(4)]
            for one in threads: one.start()
            first.run_until_complete(leave(store))
            for one in threads: one.join()
            print(sync.get("n"))
            first.run_until_complete(store.aclose())
            sync.close()
            for loop in (first, second): loop.close()
            """,
            flags=re.MULTILINE,
        ),
        shared,
    )
    assert out == f"{str(6 * 10 + 10 + 4 * 3 * 11).encode()!r}\n"


UVLOOP = """
import asyncio, sys, uvloop, kv
async def main():
    async with kv.open_async(sys.argv[1]) as store:
        await asyncio.gather(*(store.increment("n") for _ in range(200)))
        await asyncio.gather(*(store.set(f"k{i}", bytes(i * 1000)) for i in range(50)))
        found = await asyncio.gather(*(store.get(f"k{i}") for i in range(50)))
        assert [len(value) for value in found] == [i * 1000 for i in range(50)]
        many = [asyncio.create_task(store.update("m", lambda v: b"%d" % (int(v or b"0") + 1))) for _ in range(60)]
        await asyncio.sleep(0.001)
        for task in many[::3]:
            task.cancel()
        done = [r for r in await asyncio.gather(*many, return_exceptions=True) if isinstance(r, bytes)]
        assert int(await store.get("m")) >= len(done) >= 40
        assert [key async for key, _ in store.scan("k", limit=3)] == ["k0", "k1", "k10"]
        assert (await store.add("a", b"1", ttl=1000), await store.pop("a"), await store.verify()) == (True, b"1", [])
        print(type(asyncio.get_running_loop()).__module__, await store.get("n"))
store = kv.open_async(sys.argv[1])
async def again():
    await store.increment("n")
uvloop.run(main())
for _ in range(2):                                          # one store in one loop after the other
    uvloop.run(again())
async def end():
    print(await store.get("n"))
    await store.aclose()
uvloop.run(end())
"""


@pytest.mark.skipif(sys.platform == "win32", reason="uvloop is not for Windows")
def test_a_store_on_uvloop(shared: str) -> None:
    # where warnings are errors, uvloop does not come back from closing a loop in which something was left open
    command = [sys.executable, "-W", "error", "-W", "ignore::ResourceWarning", "-c", UVLOOP, shared]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, cwd=ROOT, check=False)
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout == "uvloop b'200'\nb'202'\n"


# forked workers, as those of gunicorn with --preload

SERVER = """
import os, signal, socket, sys, threading, warnings
warnings.simplefilter("ignore", DeprecationWarning)         # of fork beside threads, which is what is tested
import kv
store = kv.open(sys.argv[1])                                # once, in the parent: the workers have it from there
view = store.namespace("app")
view.set("started", b"1")
stop = threading.Event()
def busy():
    while not stop.is_set():
        view.increment("parent")
thread = threading.Thread(target=busy); thread.start()
listener = socket.create_server(("127.0.0.1", 0), backlog=100)

def worker():
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
    while True:
        connection, _ = listener.accept()
        with connection:
            asked = connection.makefile("rb").readline().split()
            answer = view.increment(asked[0].decode()) if asked else b""
            connection.sendall(b"%d %d\\n" % (os.getpid(), answer))

def spawn():
    pid = os.fork()
    if not pid:
        try:
            worker()
        except SystemExit:
            os._exit(0)                                     # as gunicorn's do, or:
        finally:
            sys.exit(1)
    return pid

workers = [spawn() for _ in range(4)]
print(listener.getsockname()[1], flush=True)
for line in sys.stdin:                                      # a worker is replaced, as those that leak are
    pid = int(line)
    os.kill(pid, signal.SIGKILL)
    os.waitpid(pid, 0)
    workers[workers.index(pid)] = spawn()
    print("spawned", flush=True)
stop.set(); thread.join()
for pid in workers:
    os.kill(pid, signal.SIGTERM)
assert [os.waitpid(pid, 0)[1] for pid in workers] == [0] * 4
print(view.get("hits"), view.verify(), int(view.get("parent")) > 0, flush=True)
store.close()
listener.close()
"""
CLIENT = """
import socket, sys
pids = set()
for _ in range(int(sys.argv[2])):
    with socket.create_connection(("127.0.0.1", int(sys.argv[1])), 30) as asking:
        asking.sendall(b"hits\\n")
        pid, _ = asking.makefile("rb").readline().split()
        pids.add(pid.decode())
print(*pids)
"""


@pytest.mark.skipif(not hasattr(os, "fork"), reason="this system does not fork")
def test_workers_that_were_forked_with_an_open_store_lose_nothing(shared: str) -> None:
    command = [sys.executable, "-X", "faulthandler", "-W", "error", "-c", SERVER, shared]
    with subprocess.Popen(command, stdin=-1, stdout=-1, stderr=-1, text=True, cwd=ROOT) as server:
        assert server.stdin
        assert server.stdout
        port = server.stdout.readline().strip()
        killed = ""
        for _ in range(2):
            seen = {pid for said in pythons(CLIENT, port, 50, processes=3) for pid in said.split()[-4:]}
            assert killed not in seen
            killed = min(seen)
            server.stdin.write(f"{killed}\n")
            server.stdin.flush()
            assert server.stdout.readline() == "spawned\n"
        pythons(CLIENT, port, 50, processes=3)
        out, err = server.communicate(timeout=60)
    assert (server.returncode, err) == (0, "")
    assert out == f"{str(450).encode()!r} [] True\n"
