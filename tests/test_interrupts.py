"""An exception out of a signal handler, as of Ctrl-C or a time limit, may come at any point of any call."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
from programs import python

if TYPE_CHECKING:
    from pathlib import Path

PROGRAM = """
    import random, signal, sys
    from concurrent.futures import ThreadPoolExecutor
    import kv

    class Interrupt(Exception):
        pass

    armed = []
    # No exception comes out of a finalizer, and Python says so; by a hook in C, into which no interrupt comes in turn.
    said, sys.unraisablehook = sys.unraisablehook, id

    def interrupt(*_):
        if armed:
            raise Interrupt

    url, again, rounds = sys.argv[1], sys.argv[2] == "again and again", int(sys.argv[3])
    signal.signal(signal.SIGALRM, interrupt)
    pool = ThreadPoolExecutor(1)
    store = kv.open(url)
    other = kv.open(url) if "///" in url else store     # as in another process
    store.set_many({"a": b"0", "z": b"0"})
    store.set("first", b"", ttl=0.001)      # threading's own start() of the cleanup thread is not safe from interrupts
    chance, kept = random.Random(1), []

    def both(value):
        store.set("nested", value)
        return {"a": value, "z": value}

    def calls(value):
        store.set_many({"a": value, "z": value})
        store.get("a")
        store.get_many(["a", "z", "none"])
        store.update_many(["a", "z"], lambda _: both(value))
        store.keys()
        store.count()
        store.count(match="?")
        store.update("n", lambda old: b"%d" % (int(old or 0) + 1))
        store.namespace("name").set("k", value, ttl=0.001)
        store.namespaces()
        list(store.scan())
        store.delete_many(["n", "none"])
        store.cleanup()

    def interrupted(i):
        try:
            try:
                armed.append(True)
                seconds = chance.uniform(1e-6, 4e-4)
                signal.setitimer(signal.ITIMER_REAL, seconds, seconds / 4 + 1e-5 if again else 0)
                while True:
                    calls(b"%d" % i)
            except Interrupt as e:
                kept.append(e)
        finally:
            signal.setitimer(signal.ITIMER_REAL, 0)

    for i in range(rounds):
        try:
            interrupted(i)
        except Interrupt as e:
            kept.append(e)
        armed.clear()
        signal.setitimer(signal.ITIMER_REAL, 0)
        found = other.get_many(["a", "z"])
        assert found["a"] == found["z"]
        store.set("seen", b"%d" % i)
        assert other.get("seen") == b"%d" % i, "a write has returned, and is not there"
        other.set("theirs", b"%d" % i)              # no transaction is left open
        assert store.get("theirs") == b"%d" % i     # and no old state of the file
        if not again:
            pool.submit(store.set, "thread", b"").result(60)    # and no lock is left held
    sys.unraisablehook = said
    assert store.verify() == []
    pool.shutdown()
    print(len(kept))
"""


@pytest.mark.parametrize(
    ("url", "how"),
    [
        ("sqlite:///{}/app.db?durability=normal&lock_timeout=5", "once"),
        ("sqlite:///{}/app.db?durability=normal&lock_timeout=5", "again and again"),
        ("lmdb:///{}/app.lmdb?durability=normal&lock_timeout=5", "once"),
        ("sqlite://", "once"),
        ("memory://", "once"),
        ("memory://?max_entries=100", "once"),
    ],
)
def test_an_exception_out_of_a_signal_handler_harms_nothing(url: str, how: str, tmp_path: Path) -> None:
    rounds = 300 if url.startswith("lmdb") else 1_500  # each commit of LMDB waits for the disk
    assert int(python(PROGRAM, url.format(tmp_path), how, rounds)) >= rounds
