"""What only the SQLite store promises: its file, its locks, its upkeep."""

from __future__ import annotations

import os
import shutil
import sqlite3
import threading
import tracemalloc
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from typing import TYPE_CHECKING
from urllib.parse import quote

import pytest
from sqlitefiles import made, raw

import kv
from kv.backends.sqlite.schema import APPLICATION_ID, SCHEMA_VERSION

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path


@pytest.fixture
def store(path: Path) -> Iterator[kv.SQLiteStore]:
    with kv.SQLiteStore(path) as store:
        yield store


# the file


def test_the_file_says_whose_it_is(path: Path) -> None:
    made(path)
    assert raw(path, "PRAGMA application_id", "PRAGMA user_version", "PRAGMA journal_mode") == [
        (APPLICATION_ID,),
        (SCHEMA_VERSION,),
        ("wal",),
    ]
    assert [p.name for p in path.parent.iterdir()] == ["app.db"]  # the log is gone when the last one closes


@pytest.mark.parametrize(("durability", "level"), [("full", 2), ("normal", 1)])
def test_durability_is_the_engines(path: Path, durability: str, level: int) -> None:
    with kv.open(f"sqlite:///{path}?durability={durability}") as store:
        assert isinstance(store, kv.SQLiteStore)
        store.get("k")
        assert len(store._db.every) == 1  # who writes reads by the same connection, and keeps what it has read
        store.update("k", lambda _: store.get("k", b""))
        for connection in store._db.every:
            assert connection.execute("PRAGMA synchronous").fetchone() == (level,)
        assert len(store._db.every) == 2  # the writer's, and a reader's


def test_the_schema_printed_is_the_schema_made(store: kv.SQLiteStore, path: Path, tmp_path: Path) -> None:
    with closing(sqlite3.connect(tmp_path / "own.db")) as connection:
        connection.executescript(store.ddl())
    with kv.SQLiteStore(tmp_path / "own.db") as own:  # made by somebody's migrations, and taken as ours
        own.set("k", b"v")
        assert own.verify() == []
    schema = "SELECT sql FROM sqlite_master ORDER BY name"
    assert raw(tmp_path / "own.db", schema) == raw(path, schema)


def test_an_empty_file_becomes_a_store(path: Path) -> None:
    path.touch()
    with kv.SQLiteStore(path) as store:
        store.set("k", b"v")


def test_the_path_is_that_of_the_day_it_was_opened(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(path.parent)
    with kv.SQLiteStore("app.db") as store:
        monkeypatch.chdir("/")
        store.set("k", b"v")
        assert store.get("k") == b"v"
    assert path.exists()


# values, locks


def test_a_value_too_large_is_refused_before_anything_is_written(store: kv.SQLiteStore) -> None:
    huge = bytes(1_000_000_000)
    store.set("k", b"old")
    attempts: list[Callable[[], object]] = [
        lambda: store.set("k", huge),
        lambda: store.add("new", huge),
        lambda: store.set_many({"a": b"", "k": huge}),
        lambda: store.update("k", lambda _: huge),
        lambda: store.update_many(["a", "k"], lambda _: {"a": b"", "k": huge}),
        lambda: store.compare_and_set("k", b"old", huge),
    ]
    for attempt in attempts:
        with pytest.raises(kv.ValueTooLarge, match=r"1,000,000,000 bytes; SQLite holds up to 999,990,000"):
            attempt()
    assert dict(store.scan()) == {"k": b"old"}


def test_a_locked_file_is_waited_for_and_then_a_conflict(path: Path) -> None:
    with (
        kv.SQLiteStore(path, lock_timeout=0.05) as store,
        closing(sqlite3.connect(path, isolation_level=None)) as other,
    ):
        store.set("k", b"v")
        other.execute("BEGIN IMMEDIATE")
        writes: list[Callable[[], object]] = [
            lambda: store.set("k", b"w"),
            lambda: store.set_many({"k": b"w"}),
            lambda: store.update("k", lambda _: b"w"),
            lambda: store.delete("k"),
            lambda: store.increment("n"),
        ]
        for write in writes:
            with pytest.raises(kv.Conflict, match=r"another process has kept the file locked for more than 0\.05 s"):
                write()
        assert store.get("k") == b"v"  # readers never wait
        other.execute("ROLLBACK")
        store.set("k", b"w")


def test_threads_wait_their_turn_and_then_it_is_a_conflict(path: Path) -> None:
    with kv.SQLiteStore(path, lock_timeout=0.05) as store, ThreadPoolExecutor(1) as pool:

        def slow(_: bytes | None) -> bytes:
            with pytest.raises(kv.Conflict, match="another thread has been writing for more than"):
                pool.submit(store.set, "other", b"v").result(60)
            return b"done"

        assert store.update("k", slow) == b"done"


def test_a_path_may_be_any_bytes(tmp_path: Path) -> None:
    path = os.path.join(os.fsencode(tmp_path), b"\xff?%#.db")
    for _ in range(2):
        with kv.SQLiteStore(os.fsdecode(path)) as store:
            store.increment("n")
    with kv.open("sqlite:///" + quote(path)) as store:
        assert store.get("n") == b"2"


def test_what_expires_while_a_call_waits_is_missing(store: kv.SQLiteStore, path: Path) -> None:
    calls: dict[str, tuple[Callable[[str], object], object]] = {
        "persist": (store.persist, False),
        "expire": (lambda key: store.expire(key, 1_000), False),
        "delete": (store.delete, False),
        "delete_many": (lambda key: store.delete_many([key]), 0),
        "add": (lambda key: store.add(key, b"new"), True),
        "pop": (store.pop, None),
        "compare_and_set": (lambda key: store.compare_and_set(key, b"old", b"new"), False),
    }
    store.set_many(dict.fromkeys(calls, b"old"), ttl=0.3)
    with closing(sqlite3.connect(path, isolation_level=None)) as other, ThreadPoolExecutor(len(calls)) as pool:
        other.execute("BEGIN IMMEDIATE")
        waiting = {key: pool.submit(call, key) for key, (call, _) in calls.items()}
        while store.get_many(calls):
            pass
        other.execute("COMMIT")
        assert {key: call.result(60) for key, call in waiting.items()} == {
            key: want for key, (_, want) in calls.items()
        }
    assert store.get_many(calls) == {"add": b"new"}


def test_a_file_that_was_removed_is_not_made_anew(path: Path) -> None:
    with kv.SQLiteStore(path) as store:
        store.set("k", b"v")
        path.unlink()
        with pytest.raises(kv.Unavailable, match="has been removed or replaced since it was opened; open it again"):
            store.update("k", lambda _: store.get("k"))  # which needs a second connection
        assert not path.exists()


def test_closed_is_closed_whatever_became_of_the_file(tmp_path: Path) -> None:
    folder = tmp_path / "folder"
    folder.mkdir()
    store = kv.SQLiteStore(folder / "app.db")
    store.close()
    shutil.rmtree(folder)
    with pytest.raises(kv.StoreClosed):
        store.get("k")
    with pytest.raises(kv.StoreClosed):
        store.set("k", b"v")


def test_an_interrupted_read_keeps_no_state_of_the_file(store: kv.SQLiteStore) -> None:
    store.set_many((f"k{i}", b"old") for i in range(100))

    def interrupted(cursor: sqlite3.Cursor) -> None:
        cursor.fetchone()
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt) as kept:
        store._db.fetch("SELECT key FROM kv_entries", (), interrupted)
    store.set("k1", b"new")
    assert store.get("k1") == b"new"
    del kept


def test_a_write_leaves_a_reader_its_connection_and_its_state_of_the_file(store: kv.SQLiteStore) -> None:
    store.set("k", b"old")
    db = store._db
    first = db.writer

    def read(cursor: sqlite3.Cursor) -> list[tuple[bytes]]:
        assert cursor.connection is first
        store.set("k", b"new")
        assert db.writer is not first
        assert store.get("k") == b"new"
        with pytest.raises(ZeroDivisionError):
            store.update("k", lambda _: b"%d" % (1 // 0))
        return cursor.fetchall()

    assert db.fetch("SELECT value FROM kv_entries UNION ALL SELECT value FROM kv_entries", (), read) == [(b"old",)] * 2
    assert {*db.idle} == {*db.every} == {first, db.writer}
    store.set("k", b"newer")
    assert {*db.idle} == {*db.every} == {first, db.writer}


def test_a_writer_that_an_interrupt_has_lost_is_replaced(store: kv.SQLiteStore, path: Path) -> None:
    lost = store._db.whole()
    for begin in ("SELECT 1", "BEGIN IMMEDIATE"):  # or it is taken back, where it keeps others out
        lost.execute(begin)
        store.set("k", b"v")
        assert store.get("k") == b"v"
        (lost,) = store._db.idle
        store._db.idle.clear()
        assert raw(path, "BEGIN IMMEDIATE", "SELECT key FROM kv_entries") == [("k",)]  # no lock is left


def test_what_an_interrupted_rollback_has_left_is_rolled_back(store: kv.SQLiteStore, path: Path) -> None:
    writes: list[Callable[[], object]] = [
        lambda: store.set("k", b"new"),
        lambda: store.set_many({"k": b"new"}),
        store.compact,
    ]
    for write in writes:
        assert store._db.writer
        store._db.writer.execute("BEGIN IMMEDIATE")
        store._db.writer.execute("INSERT INTO kv_entries (namespace, key, value) VALUES ('', 'half', x'')")
        write()
        assert raw(path, "SELECT key FROM kv_entries") == [("k",)]


def test_a_url_is_no_path() -> None:
    with pytest.raises(kv.ConfigError, match=r"takes a path, and sqlite:///app\.db is a URL; kv\.open takes URLs"):
        kv.SQLiteStore("sqlite:///app.db")


def test_two_stores_on_one_file_see_each_other(path: Path) -> None:
    with kv.SQLiteStore(path) as one, kv.SQLiteStore(path) as other:
        one.set("k", b"1")
        assert other.increment("k") == 2
        assert one.get("k") == b"2"


def test_what_expires_while_the_function_runs_is_missing(store: kv.SQLiteStore) -> None:
    seen: list[bytes | None] = []

    def slow(value: bytes | None) -> bytes:
        seen.append(value)
        while store.exists("k"):
            pass
        return b"new"

    store.set("k", b"old", ttl=0.2)
    assert store.update("k", slow) == b"new"
    assert seen in ([b"old", None], [None])
    assert store.ttl("k") == float("inf")


def test_the_function_may_call_the_store_and_all_of_it_is_one_write(store: kv.SQLiteStore) -> None:
    def fn(value: bytes | None) -> bytes:
        store.set("log", b"entry")
        store.set_many({"a": b"1", "b": b"2"})
        assert store.get("k") is None
        return b"v"

    store.update("k", fn)
    assert store.keys() == ["a", "b", "k", "log"]

    def failing(value: bytes | None) -> bytes:
        store.set("log", b"another")
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        store.update("k", failing)
    assert store.get("log") == b"entry"


def test_an_engines_error_of_the_callers_own_comes_out_as_it_is(store: kv.SQLiteStore) -> None:
    error = sqlite3.OperationalError("mine")

    def fn(_: bytes | None) -> bytes:
        raise error

    with pytest.raises(sqlite3.OperationalError) as raised:
        store.update("k", fn)
    assert raised.value is error


def test_a_scan_of_large_values_is_read_in_small_pages(store: kv.SQLiteStore) -> None:
    for i in range(40):
        store.set(f"k{i:02}", bytes(1_000_000))
    tracemalloc.start()
    try:
        assert sum(len(value) for _, value in store.scan()) == 40_000_000
        assert tracemalloc.get_traced_memory()[1] < 15_000_000
    finally:
        tracemalloc.stop()


# upkeep


def test_verify_names_the_rows_that_no_store_has_written(store: kv.SQLiteStore, path: Path) -> None:
    store.set("good", b"v")
    assert store.verify() == []
    raw(
        path,
        "INSERT INTO kv_entries (namespace, key, value) VALUES ('', 'text', 'secret')",
        "INSERT INTO kv_entries (namespace, key, value) VALUES ('', 'a' || char(10), x'00')",
        "INSERT INTO kv_entries (namespace, key, value) VALUES (char(31), 'k', x'00')",
        "INSERT INTO kv_entries (namespace, key, value, expires_at) VALUES ('', 'late', x'00', 'soon')",
        "INSERT INTO kv_entries (namespace, key, value) VALUES (x'61', 'k', x'00')",
        "INSERT INTO kv_entries (namespace, key, value) VALUES ('', CAST(x'FF' AS TEXT), x'00')",
    )
    words = [
        "a value of type text",
        "a control character",
        "namespace is empty",
        "a deadline of type text",
        "a namespace of type blob",
        "no UTF-8",
    ]
    found = store.verify()
    for line, word in zip(found, words, strict=True):
        assert word in line
    assert "secret" not in "".join(found)


def test_compact_gives_the_space_back(store: kv.SQLiteStore) -> None:
    store.set_many((f"k{i}", b"x" * 1_000) for i in range(5_000))
    before = store.stats().disk_bytes
    store.clear()
    store.compact()
    after = store.stats().disk_bytes
    assert before is not None
    assert after is not None
    assert after < before / 10


def test_a_backup_is_one_state_of_the_store(store: kv.SQLiteStore, path: Path) -> None:
    copy = path.with_name("copy.db")
    store.set_many((f"filler{i}", b"x" * 1_000) for i in range(3_000))
    stop, started = threading.Event(), threading.Event()

    def write() -> None:
        i = 0
        while not stop.is_set():
            i += 1
            store.set_many({"a": b"%d" % i, "z": b"%d" % i})
            started.set()

    with ThreadPoolExecutor(1) as pool:
        writer = pool.submit(write)
        assert started.wait(60)
        store.backup(copy)
        stop.set()
        writer.result(60)
    with kv.SQLiteStore(copy) as kept:
        assert kept.get("a") == kept.get("z") is not None
        assert kept.count() == 3_002
        assert kept.verify() == []
    with pytest.raises(kv.ConfigError, match="exists; a backup goes to a new file"):
        store.backup(copy)
    with pytest.raises(kv.ConfigError, match="none' does not exist; make it first"):
        store.backup(path.parent / "none" / "copy.db")
    os.remove(copy)
    log = path.with_name("copy.db-wal")
    log.write_bytes(b"of some other file")
    with pytest.raises(kv.ConfigError, match=r"copy\.db-wal exists"):
        store.backup(copy)
    assert sorted(p.name for p in path.parent.iterdir() if "part" in p.name) == []


def test_the_cleanup_thread_cleans_and_ends(path: Path) -> None:
    with kv.SQLiteStore(path, cleanup_interval=0.01) as store:
        store.set("k", b"v", ttl=0.001)
        while raw(path, "SELECT 1 FROM kv_entries"):
            pass
    assert not any(t.name == "kv-cleanup" for t in threading.enumerate())
