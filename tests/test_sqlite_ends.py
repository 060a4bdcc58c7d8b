"""What fork and the end of the interpreter leave of a SQLite store."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
from programs import child_inside_an_update, children, python

if TYPE_CHECKING:
    from pathlib import Path


def test_a_forked_child_has_connections_of_its_own(path: Path) -> None:
    assert children(f"sqlite:///{path}?durability=normal") == "b'200' []\n"


def test_a_child_forked_inside_an_update_writes_nothing(path: Path) -> None:
    assert child_inside_an_update(f"sqlite:///{path}") == "b'parent'\n"


def test_a_busy_reader_does_not_keep_a_fork_waiting(path: Path) -> None:
    python(
        """
        import os, sys, threading, time, warnings, kv
        warnings.simplefilter("ignore", DeprecationWarning)
        store = kv.SQLiteStore(sys.argv[1])
        store.set("k", b"v")
        stop = threading.Event()
        def read():
            while not stop.is_set():
                store.get("k")
        threads = [threading.Thread(target=read) for _ in range(3)]
        for t in threads: t.start()
        waits, sleep = [], time.sleep
        time.sleep = lambda seconds: (waits.append(seconds), sleep(seconds))     # as often as a fork has to wait
        for _ in range(10):
            pid = os.fork()
            if not pid:
                os._exit(0 if store.get("k") == b"v" else 1)
            assert os.waitpid(pid, 0)[1] == 0
        stop.set()
        for t in threads: t.join()
        assert len(waits) < 1_000, len(waits)
        """,
        path,
    )


def test_an_exception_out_of_a_signal_handler_during_a_fork_leaves_no_lock(path: Path) -> None:
    python(
        """
        import os, signal, sys, threading, warnings, kv
        warnings.simplefilter("ignore", DeprecationWarning)
        sys.unraisablehook = lambda unraisable: seen.append(unraisable.exc_type)
        seen = []
        def interrupt(*_):
            raise ZeroDivisionError
        signal.signal(signal.SIGALRM, interrupt)
        store = kv.SQLiteStore(sys.argv[1])
        inside, go_on = threading.Event(), threading.Event()
        def slow(_):
            inside.set()
            go_on.wait(60)
            return b"1"
        writer = threading.Thread(target=store.update, args=("k", slow))
        writer.start()
        inside.wait()
        signal.setitimer(signal.ITIMER_REAL, 0.1)
        pid = os.fork()                      # waits for the writer, and is interrupted
        if not pid:
            os._exit(0)
        assert os.waitpid(pid, 0)[1] == 0 and seen == [ZeroDivisionError], seen
        go_on.set()
        writer.join()
        done = []
        def work():
            kv.MemoryStore().set("k", b"v")
            done.append(store.get("k"))
            store.set("k", b"2")
        worker = threading.Thread(target=work, daemon=True)
        worker.start()
        worker.join(60)
        assert done == [b"1"] and store.get("k") == b"2", done
        pid = os.fork()
        if not pid:
            os._exit(0 if store.get("k") == b"2" else 1)
        assert os.waitpid(pid, 0)[1] == 0
        store.close()
        """,
        path,
    )


def test_two_threads_fork_at_once(path: Path) -> None:
    python(
        """
        import logging      # its own fork hook would run them one after the other, came it first
        import os, sys, threading, warnings, kv
        warnings.simplefilter("ignore", DeprecationWarning)
        sys.setswitchinterval(1e-6)
        store, memory = kv.SQLiteStore(sys.argv[1], durability="normal"), kv.MemoryStore()
        def fork():
            for _ in range(10):
                pid = os.fork()
                if not pid:
                    store.increment("n"); memory.increment("n")
                    os._exit(0)
                assert os.waitpid(pid, 0)[1] == 0
        def write():
            for _ in range(50):
                store.update("parent", lambda old: b"%d" % (int(old or 0) + 1))
                memory.increment("n")
        threads = [threading.Thread(target=work) for work in (fork, fork, fork, write)]
        for t in threads: t.start()
        for t in threads: t.join()
        assert store.get("n") == b"30" and store.get("parent") == memory.get("n") == b"50"
        store.close()
        """,
        path,
    )


@pytest.mark.parametrize("how", ["", "store.close()", "raise SystemExit", "import os; os._exit(0)"])
def test_a_program_ends_without_a_word(path: Path, how: str) -> None:
    python(
        f"""
        import sys, kv
        store = kv.SQLiteStore(sys.argv[1], cleanup_interval=0.001)
        store.set("k", b"v", ttl=0.001)
        store.get("k")
        view = store.namespace("n")
        view.set("k", b"v")
        {how}
        """,
        path,
    )
