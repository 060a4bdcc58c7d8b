"""What only the SQLite store promises: the file, its errors, processes, fork, and the shared commits of the async colour."""

import asyncio
import os
import sqlite3
import subprocess
import sys
import threading
import tracemalloc
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, contextmanager
from pathlib import Path
from urllib.parse import quote

import pytest
from programs import python

import kv
from kv.backends.database import APPLICATION_ID, SCHEMA_VERSION


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "app.db"


@pytest.fixture
def store(path: Path) -> Iterator[kv.SQLiteStore]:
    with kv.SQLiteStore(path) as store:
        yield store


def raw(path: Path, *statements: str) -> list[tuple[object, ...]]:
    """What SQLite itself says, past our code."""
    with closing(sqlite3.connect(path, isolation_level=None)) as connection:
        return [row for sql in statements for row in connection.execute(sql).fetchall()]


def made(path: Path) -> Path:
    with kv.SQLiteStore(path) as store:
        store.set_many((f"key{i}", b"v" * 100) for i in range(1_000))
    return path


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


# what is not ours is refused, and left as it is


def untouched(path: Path, kind: type[kv.KVError], *words: str) -> None:
    before = path.read_bytes() if path.is_file() else None
    siblings = sorted(path.parent.iterdir())
    for durability in ("full", "normal"):
        with pytest.raises(kind) as raised:
            kv.open(f"sqlite:///{path}?durability={durability}")
        for word in (str(path), *words):
            assert word in str(raised.value)

    async def main() -> None:
        async with kv.open_async(f"sqlite:///{path}"):
            pass

    with pytest.raises(kind):
        asyncio.run(main())
    assert sorted(path.parent.iterdir()) == siblings
    assert before is None or path.read_bytes() == before


def test_a_directory_is_no_store(tmp_path: Path) -> None:
    untouched(tmp_path, kv.ConfigError, "is a directory; give the path of a file in it")


def test_a_directory_that_is_missing_is_not_made(tmp_path: Path) -> None:
    with pytest.raises(kv.ConfigError, match="does not exist; make it first"):
        kv.SQLiteStore(tmp_path / "none" / "app.db")
    assert list(tmp_path.iterdir()) == []


def test_a_text_file_is_no_store(path: Path) -> None:
    path.write_text("these are my notes, and they are long enough to be a header of something\n" * 20)
    untouched(path, kv.CorruptData, "is not a SQLite database", "left untouched")


@pytest.mark.parametrize("wal", [False, True])
def test_another_programs_database_is_no_store(path: Path, wal: bool) -> None:
    raw(
        path,
        f"PRAGMA journal_mode = {'wal' if wal else 'delete'}",
        "CREATE TABLE users (name)",
        "INSERT INTO users VALUES ('u')",
    )
    untouched(path, kv.CorruptData, "a SQLite database of something else", "left untouched")


def test_another_application_id_is_no_store(path: Path) -> None:
    raw(path, "PRAGMA application_id = 1196444487")
    untouched(path, kv.CorruptData, "of something else")


def test_a_newer_schema_is_no_store_of_this_version(path: Path) -> None:
    raw(made(path), f"PRAGMA user_version = {SCHEMA_VERSION + 1}")
    untouched(path, kv.CorruptData, f"schema version {SCHEMA_VERSION + 1}", "Upgrade anykv")


@pytest.mark.parametrize("left", [10, 50, 100, 512, 4096, 5000, 20_000])
def test_a_truncated_file_is_damaged_and_not_empty(path: Path, left: int) -> None:
    made(path)
    with path.open("r+b") as file:
        file.truncate(left)
    before = path.read_bytes()
    with pytest.raises(kv.CorruptData), kv.SQLiteStore(path) as store:
        store.get_many(f"key{i}" for i in range(1_000))
    assert path.read_bytes() == before


def test_verify_names_what_is_damaged(path: Path) -> None:
    made(path)
    with path.open("r+b") as file:
        file.seek(9 * 4096 + 8)
        file.write(b"\xff" * 2_000)
    with kv.SQLiteStore(path) as store:
        assert store.verify()


def test_verify_names_the_rows_that_no_store_has_written(store: kv.SQLiteStore, path: Path) -> None:
    store.set("good", b"v")
    assert store.verify() == []
    raw(
        path,
        "INSERT INTO kv_entries (namespace, key, value) VALUES ('', 'text', 'secret')",
        "INSERT INTO kv_entries (namespace, key, value) VALUES ('', 'a' || char(10), x'00')",
        "INSERT INTO kv_entries (namespace, key, value) VALUES (char(31), 'k', x'00')",
        "INSERT INTO kv_entries (namespace, key, value, expires_at) VALUES ('', 'late', x'00', 'soon')",
    )
    found = store.verify()
    assert len(found) == 4
    for line, word in zip(
        found, ["value of type text", "control character", "namespace is empty", "deadline of type text"], strict=True
    ):
        assert word in line
    assert "secret" not in "".join(found)


REFUSED = """
    import os, sys, kv
    kv.SQLiteStore(":memory:").close()   # all that is imported, before its files may no longer be read
    if not os.geteuid():                 # root may write anywhere
        os.setgroups([]), os.setgid(65534), os.setuid(65534)
    try:
        with kv.SQLiteStore(sys.argv[1]) as store:
            store.set("k", b"new")
        print("written")
    except kv.KVError as e:
        print(type(e).__name__, e)
"""


def refused(path: Path) -> str:
    """What a process that may not do everything is told."""
    for parent in path.parents:
        if parent.stat().st_uid == os.geteuid() and not parent.stat().st_mode & 0o001:
            parent.chmod(parent.stat().st_mode | 0o055)  # pytest's folders are for their owner alone
    return python(REFUSED, path)


def test_a_read_only_file_is_refused(path: Path) -> None:
    made(path)
    path.chmod(0o444)
    before = path.read_bytes()
    out = refused(path)
    assert out.startswith("Unavailable")
    assert f"{path} may not be read and written by this user" in out
    assert path.read_bytes() == before


def test_a_read_only_directory_is_refused(path: Path) -> None:
    made(path)
    path.chmod(0o666)
    path.parent.chmod(0o555)
    before = path.read_bytes()
    out = refused(path)
    path.parent.chmod(0o755)
    assert out.startswith("Unavailable")
    assert str(path) in out
    assert path.read_bytes() == before


@contextmanager
def small_disk(mount: Path) -> Iterator[None]:
    mount.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", mount], check=True)
    try:
        yield
    finally:
        subprocess.run(["umount", "-l", mount], check=True)


FILL = """
    import os, sys, kv
    with open(os.path.dirname(sys.argv[1]) + "/ballast", "wb") as file:
        file.write(bytes(600_000))
    with kv.SQLiteStore(sys.argv[1]) as store:
        store.set("kept", b"v")
        for i in range(10_000):
            try:
                store.set(f"k{i}", b"x" * 10_000)
            except kv.Unavailable as e:
                print(e)
                break
        assert store.get("kept") == b"v" and store.get(f"k{i}") is None and store.verify() == []
        for call in (lambda: store.update("kept", lambda v: b"y" * 900_000),
                     lambda: store.set_many({f"m{i}": b"z" * 10_000 for i in range(100)})):
            try:
                call()
            except kv.Unavailable:
                pass
            else:
                raise AssertionError
        assert store.get("kept") == b"v" and store.count("m") == 0
        os.remove(os.path.dirname(sys.argv[1]) + "/ballast")
        store.clear("k")
        store.compact()
        store.set("again", b"v")
        print(store.count(), store.verify())
"""


def test_a_full_disk_takes_nothing_and_loses_nothing(tmp_path: Path) -> None:
    if os.geteuid():  # a mount of one's own needs a namespace of one's own
        inside = f'mkdir {tmp_path}/m && mount -t tmpfs -o size=1m tmpfs {tmp_path}/m && exec "$0" "$@"'
        out = python(FILL, f"{tmp_path}/m/app.db", wrapper=("unshare", "-rm", "sh", "-c", inside))
    else:
        with small_disk(tmp_path / "m"):
            out = python(FILL, tmp_path / "m" / "app.db")
    assert "the disk is full; nothing was written. Free some space and try again" in out
    assert out.endswith(" []\n")


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
    with pytest.raises(kv.Unavailable, match="cannot be opened"):
        store.backup(path.parent / "none" / "copy.db")
    assert sorted(p.name for p in path.parent.iterdir() if "part" in p.name) == []


def test_the_cleanup_thread_cleans_and_ends(path: Path) -> None:
    with kv.SQLiteStore(path, cleanup_interval=0.01) as store:
        store.set("k", b"v", ttl=0.001)
        while raw(path, "SELECT 1 FROM kv_entries"):
            pass
    assert not any(t.name == "kv-cleanup" for t in threading.enumerate())


# fork, kill, the end


def test_a_forked_child_has_connections_of_its_own(path: Path) -> None:
    out = python(
        """
        import os, sys, threading, warnings, kv
        warnings.simplefilter("ignore", DeprecationWarning)   # of fork beside threads, which is what is tested
        store = kv.SQLiteStore(sys.argv[1], durability="normal", cleanup_interval=1000)
        store.set("k", b"parent")
        assert store.get("k")
        stop = threading.Event()
        def write():
            while not stop.is_set():
                store.increment("parent")
                store.get("k")
        threads = [threading.Thread(target=write) for _ in range(3)]
        for t in threads: t.start()
        for i in range(10):
            pid = os.fork()
            if not pid:
                for _ in range(20):
                    store.increment("child")
                assert store.get("k") == b"parent"
                if i % 2:
                    store.close()
                    sys.exit(0)       # the interpreter ends, and closes nothing of the parent's
                os._exit(0)
            assert os.waitpid(pid, 0)[1] == 0
        stop.set()
        for t in threads: t.join()
        print(store.get("child"), store.verify())
        store.close()
        """,
        path,
    )
    assert out == "b'200' []\n"


def test_a_child_forked_inside_an_update_writes_nothing(path: Path) -> None:
    python(
        """
        import os, sys, kv
        store = kv.SQLiteStore(sys.argv[1])
        parent = os.getpid()
        def fn(value):
            pid = os.fork()
            if pid:
                assert os.waitpid(pid, 0)[1] == 0
                return b"parent"
            return b"child"
        try:
            store.update("k", fn)
        except kv.BackendError as e:
            assert os.getpid() != parent and "forked inside an update" in str(e), e
            os._exit(0)
        assert os.getpid() == parent and store.get("k") == b"parent"
        """,
        path,
    )


def test_acknowledged_writes_survive_kill(path: Path) -> None:
    code = """
        import os, signal, sys, kv
        store = kv.SQLiteStore(sys.argv[1])
        done = 0
        while True:
            n = store.increment("n")
            store.set_many({f"a{n % 7}": b"%d" % n, f"b{n % 7}": b"%d" % n})
            sys.stdout.write(f"{n}\\n"); sys.stdout.flush()
    """
    import textwrap

    last = 0
    for _ in range(8):
        with subprocess.Popen(
            [sys.executable, "-c", textwrap.dedent(code), path], stdout=subprocess.PIPE, text=True
        ) as child:
            assert child.stdout
            for _ in range(25):
                last = int(child.stdout.readline())
            child.kill()
            rest = child.stdout.read().split()
        last = int(rest[-1]) if rest and rest[-1].isdigit() and int(rest[-1]) > last else last
        with kv.SQLiteStore(path) as store:
            n = int(store.get("n", b"0"))
            assert last <= n <= last + 1
            for i in range(7):
                assert store.get(f"a{i}") == store.get(f"b{i}")  # all of a set_many, or nothing
            assert store.verify() == []
            last = n


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


# the async colour


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
