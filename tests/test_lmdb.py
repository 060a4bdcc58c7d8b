"""What is LMDB's own: short keys, a map that grows, one opening for each process, readers' slots, and what it cannot read."""

from __future__ import annotations

import asyncio
import os
import random
import signal
import subprocess
import sys
import threading
from typing import TYPE_CHECKING, Any

import lmdb
import pytest
from programs import ROOT, child_inside_an_update, children, python, pythons
from waiting import wait_for

import kv
from kv.backends.lmdb import layout, opened

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "app.lmdb"


@pytest.fixture
def store(path: Path) -> Iterator[kv.LMDBStore]:
    with kv.LMDBStore(path, durability="normal") as store:
        yield store


def records(store: kv.LMDBStore) -> list[bytes]:
    """Every key of LMDB."""
    with store._db.open().env.begin() as txn:
        return [*txn.cursor().iternext(values=False)]


def is_open(path: Path) -> bool:
    """Whether this process has the file open."""
    return any(each.path == str(path) for each in opened.OPEN._environments.values())


# names of any length


@pytest.mark.parametrize("path_of_names", [(), ("n",), ("n" * 255, "m" * 255, "ö" * 100)])
def test_keys_longer_than_lmdbs_are_in_order_and_each_has_its_own_value(
    store: kv.LMDBStore, path_of_names: tuple[str, ...]
) -> None:
    for name in path_of_names:
        store = store.namespace(name)
    chance = random.Random(1)
    alphabet = "a", "b", "ä", "\U0001f600", " ", "~"
    edge = layout.PIECE - len(store._head)
    lengths = [1, edge - 1, edge, edge + 1, 2 * layout.PIECE - 1, 2 * layout.PIECE, 2 * layout.PIECE + 1, 2_048]
    keys = {"a" * n for n in lengths if n > 0}
    for base in ("", "a" * 470, "a" * 500, "ä" * 480, "b" * 1_000):
        for _ in range(40):
            key = base + "".join(chance.choices(alphabet, k=chance.randint(1, 40)))
            keys.add(key.encode()[:2_048].decode(errors="ignore"))
    keys.add("a" * 2_047 + "b")
    entries = {key: key.encode()[::-1] for key in keys}
    store.set_many(entries)
    ordered = sorted(keys)
    assert store.keys() == ordered
    assert [*store.scan()] == [(key, entries[key]) for key in ordered]
    assert store.get_many(keys) == entries
    for key in chance.sample(ordered, 30):
        after = ordered[ordered.index(key) + 1 :]
        assert store.keys(after=key, limit=7) == after[:7]
        assert store.keys(key) == [other for other in ordered if other.startswith(key)]
        assert store.get(key) == entries[key]
        assert store.get(key[:-1] + "!") is None
        assert store.keys(after=key[:-1] + "!", limit=3) == [o for o in ordered if o > key[:-1] + "!"][:3]
    assert store.count() == len(keys)
    assert store.verify() == []


def test_what_leads_to_long_keys_goes_with_the_last_of_them(store: kv.LMDBStore) -> None:
    before = records(store)
    keys = ["k" * n + end for n in (500, 1_000, 1_500, 2_000) for end in "ab"]
    for key in keys:
        store.set(key, b"v", ttl=1_000)
    view = store.namespace("n" * 255).namespace("m" * 255)
    view.set("x" * 2_048, b"v", ttl=0.001)
    random.Random(2).shuffle(keys)
    for key in keys:
        assert store.delete(key)
        assert store.get(key) is None
        assert store.verify() == []
    while view.get("x" * 2_048):
        pass
    assert store.cleanup() == 1
    assert set(records(store)) - set(before) == {layout.LAYER}
    assert store.namespaces() == []


def test_a_layer_that_was_emptied_is_filled_again(store: kv.LMDBStore) -> None:
    for i in range(20):
        store.set("k" * 600, b"%d" % i)
        store.set("k" * 480 + "z" * 900, b"z")
        assert store.pop("k" * 600) == b"%d" % i
        assert store.pop("k" * 480 + "z" * 900) == b"z"
        assert store.keys() == []


# the map


def test_the_map_grows_under_readers_and_nobody_notices(store: kv.LMDBStore) -> None:
    stop, errors = threading.Event(), []
    store.set("there", b"all along")

    def read() -> None:
        try:
            while not stop.is_set():
                assert store.get("there") == b"all along"
                assert store.keys(limit=3)
        except BaseException as e:
            errors.append(e)

    threads = [threading.Thread(target=read) for _ in range(2)]
    for thread in threads:
        thread.start()
    value = os.urandom(1_000_000)
    try:
        store.set_many((f"big{i}", value) for i in range(10))
        for i in range(10, 20):
            store.set(f"big{i}", value)
        seen = []
        assert store.update("huge", lambda old: seen.append(old) or bytes(30_000_000)) == bytes(30_000_000)  # type: ignore[func-returns-value]
    finally:
        stop.set()
        for thread in threads:
            thread.join()
    assert not errors
    assert store._db.open().env.info()["map_size"] > 50_000_000
    assert store.get_many(f"big{i}" for i in range(20)) == {f"big{i}": value for i in range(20)}
    assert store.size("huge") == 30_000_000


def test_readers_that_come_again_and_again_do_not_keep_others_from_being_alone(store: kv.LMDBStore) -> None:
    stop = threading.Event()

    def read() -> None:
        while not stop.is_set():
            store.get("k")
            store.keys(limit=3)

    threads = [threading.Thread(target=read) for _ in range(3)]
    for thread in threads:
        thread.start()
    try:
        for _ in range(20):
            store._db.open().presence.alone(int, 10)
    finally:
        stop.set()
        for thread in threads:
            thread.join()


def test_a_function_that_reads_waits_for_nobody_who_waits_for_its_update(store: kv.LMDBStore) -> None:
    presence = store._db.open().presence
    waiting = threading.Thread(target=presence.alone, args=(int, 30))

    def fn(_: bytes | None) -> bytes:
        waiting.start()
        wait_for(lambda: presence.wanted)
        return store.get("other", b"-") + b"".join(store.get_many(["other"]).values())

    store.set("other", b"1")
    assert store.update("k", fn) == b"11"
    waiting.join(30)
    assert not waiting.is_alive()


def test_a_map_that_another_process_has_made_grow_is_followed(store: kv.LMDBStore, path: Path) -> None:
    script = """
        import os, sys, kv
        with kv.LMDBStore(sys.argv[1], durability="normal") as store:
            for i in range(5):
                store.set(f"{sys.argv[2]}{i}", bytes(8_000_000))
    """
    store.set("there", b"1")
    python(script, path, "a")
    assert store.size("a4") == 8_000_000  # a reader is first to notice
    python(script, path, "b")
    store.set("k", b"v")  # a writer is
    assert store.size("b4") == 8_000_000
    pythons(script.replace("sys.argv[2]", "me"), path)
    assert store.count() == 32
    assert store.verify() == []


def test_calls_of_many_tasks_survive_a_map_that_is_full(path: Path) -> None:
    async def main() -> None:
        async with kv.open_async(f"lmdb:///{path}?durability=normal") as store:
            await asyncio.gather(*(store.set(f"k{i}", bytes(300_000)) for i in range(200)))
            await asyncio.gather(*(store.increment("n") for _ in range(100)), *(store.get(f"k{i}") for i in range(100)))
            assert await store.get("n") == b"100"
            assert await store.count() == 201

    asyncio.run(main())


def test_a_function_that_hides_that_the_map_is_full_is_called_again(store: kv.LMDBStore) -> None:
    calls = []

    def fn(_: bytes | None) -> bytes:
        calls.append(1)
        try:
            store.set("inside", bytes(30_000_000))
        except kv.KVError:
            return b"failed"
        return b"done"

    assert store.update("k", fn) == b"done"
    assert len(calls) > 1
    assert store.size("inside") == 30_000_000


# a part of a transaction


def test_a_part_that_fails_takes_with_it_what_its_function_wrote(path: Path) -> None:
    async def main() -> None:
        async with kv.open_async(f"lmdb:///{path}?durability=normal") as store:
            sync = store._store  # type: ignore[attr-defined]

            def fails(_: bytes | None) -> bytes:
                sync.set("by fails", b"1")
                raise ZeroDivisionError

            def works(_: bytes | None) -> bytes:
                sync.set("by works", b"1")
                sync.update("deeper", lambda _: sync.set("deepest", b"1") or b"1")
                return b"1"

            results = await asyncio.gather(
                *(store.set(f"k{i}", b"") for i in range(5)),
                store.update("x", fails),
                store.update("y", works),
                store.increment("n"),
                return_exceptions=True,
            )
            assert [type(r) for r in results] == [type(None)] * 5 + [ZeroDivisionError, bytes, int]
            assert await store.keys() == ["by works", "deeper", "deepest", "k0", "k1", "k2", "k3", "k4", "n", "y"]

    asyncio.run(main())


# one file, one opening


def test_all_stores_of_a_process_share_the_file(store: kv.LMDBStore, path: Path, tmp_path: Path) -> None:
    (tmp_path / "link.lmdb").symlink_to(path)
    os.link(path, tmp_path / "hard.lmdb")
    for name in ("app.lmdb", "link.lmdb", "hard.lmdb", "./app.lmdb"):
        with kv.LMDBStore(tmp_path / name) as other:
            other.set(name, b"1")
            assert other._db.open() is store._db.open()
        assert store.get(name) == b"1"
    del other
    store.close()
    assert not is_open(path)
    with kv.LMDBStore(path) as again:
        assert again.count() == 4


def test_a_store_that_nobody_closed_is_closed_with_its_last_view(path: Path) -> None:
    view = kv.LMDBStore(path).namespace("a")
    view.set("k", b"v")
    del view
    assert not is_open(path)
    kv.LMDBStore(path).close()


def test_a_store_closed_inside_its_own_update_writes_nothing(path: Path) -> None:
    store = kv.LMDBStore(path)

    def fn(_: bytes | None) -> bytes:
        store.close()
        return b"v"

    with pytest.raises(kv.StoreClosed):
        store.update("k", fn)
    assert not is_open(path)
    with kv.LMDBStore(path) as again:
        assert again.get("k") is None


def test_an_abandoned_scan_keeps_no_slot_and_no_old_pages(store: kv.LMDBStore) -> None:
    store.set_many((f"k{i:05}", bytes(100)) for i in range(2_000))
    scan = store.scan()
    assert next(scan) == ("k00000", bytes(100))
    assert "no active readers" in store._db.open().env.readers()


def test_a_slot_of_a_killed_reader_is_given_back(store: kv.LMDBStore, path: Path) -> None:
    script = "import kv, sys\nstore = kv.LMDBStore(sys.argv[1])\nstore._db.read(lambda _: print(flush=True) or input())"
    reader = subprocess.Popen(
        [sys.executable, "-c", script, path], stdin=subprocess.PIPE, stdout=subprocess.PIPE, cwd=ROOT
    )
    assert reader.stdout
    reader.stdout.readline()
    assert str(reader.pid) in store._db.open().env.readers()
    reader.kill()
    reader.communicate()
    kv.LMDBStore(path).close()
    with store._db.open().env.begin():
        pass
    store._db.open().env.reader_check()
    assert "no active readers" in store._db.open().env.readers()


# writers wait for each other, and not for ever


def test_a_writer_waits_for_another_process_for_so_long(store: kv.LMDBStore, path: Path) -> None:
    script = "import kv, sys\nkv.LMDBStore(sys.argv[1]).update('k', lambda _: print(flush=True) or input().encode())"
    writer = subprocess.Popen(
        [sys.executable, "-c", script, path], stdin=subprocess.PIPE, stdout=subprocess.PIPE, cwd=ROOT
    )
    assert writer.stdout
    writer.stdout.readline()
    with kv.LMDBStore(path, lock_timeout=0.05) as hasty:
        with pytest.raises(kv.Conflict, match=r"another process has been writing for more than 0\.05 s"):
            hasty.set("k", b"v")
        assert hasty.get("k") is None  # and readers do not wait at all
    writer.communicate(b"theirs\n")
    store.set("other", b"v")
    assert store.get("k") == b"theirs"


def test_a_writer_waits_for_another_thread_for_so_long(path: Path) -> None:
    inside, go_on = threading.Event(), threading.Event()

    def slow(_: bytes | None) -> bytes:
        inside.set()
        go_on.wait(60)
        return b"1"

    with kv.LMDBStore(path, lock_timeout=0.05) as store:
        writer = threading.Thread(target=store.update, args=("k", slow))
        writer.start()
        inside.wait(60)
        with pytest.raises(kv.Conflict, match="another thread has been writing"):
            store.set("k", b"2")
        go_on.set()
        writer.join()
        assert store.get("k") == b"1"


# fork and kill


def test_a_forked_child_opens_the_file_anew(path: Path) -> None:
    assert children(f"lmdb:///{path}?durability=normal") == "b'200' []\n"


def test_a_child_forked_inside_an_update_writes_nothing(path: Path) -> None:
    assert child_inside_an_update(f"lmdb:///{path}") == "b'parent'\n"


WRITER = """
import os, sys, kv
store, n, chance = kv.LMDBStore(sys.argv[1], durability=sys.argv[2]), 0, __import__("random").Random()
while True:
    n += 1
    keys = {f"{sys.argv[3]}:{part}": b"%d" % n + bytes(chance.choice((0, 0, 5_000))) for part in range(5)}
    keys |= {f"{sys.argv[3]}:" + "long" * 300: b"%d" % n}
    store.set_many(keys, ttl=chance.choice((None, 1_000)))
    os.write(1, b"%d\\n" % n)
"""


@pytest.mark.parametrize("durability", ["full", "normal"])
def test_kills_lose_no_write_that_has_returned_and_leave_none_half_done(path: Path, durability: str) -> None:
    kills = int(os.environ.get("KV_TEST_KILLS", "3"))
    chance, acknowledged = random.Random(), dict.fromkeys("ab", 0)
    for _ in range(kills):
        writers = {
            name: subprocess.Popen(
                [sys.executable, "-c", WRITER, path, durability, name], stdout=subprocess.PIPE, cwd=ROOT
            )
            for name in acknowledged
        }
        said = dict.fromkeys(writers, b"")
        for name, writer in writers.items():
            assert writer.stdout
            said[name] = writer.stdout.readline()  # it is at work
        for _ in range(chance.randint(0, 30)):
            name = chance.choice("ab")
            stdout: Any = writers[name].stdout
            said[name] += stdout.readline()
        for name in chance.sample("ab", 2):
            writers[name].send_signal(signal.SIGKILL)
        for name, writer in writers.items():
            said[name] += writer.communicate()[0]
            acknowledged[name] = int(said[name][: said[name].rindex(b"\n")].split()[-1])
        with kv.LMDBStore(path, lock_timeout=5) as store:
            for name, least in acknowledged.items():
                found = {value.rstrip(b"\x00") for _, value in store.scan(f"{name}:")}
                assert len(found) == 1, found
                assert int(found.pop()) in (least, least + 1)
            assert store.count() == 12
            assert store.verify() == []


# what is no store of ours


def refused(path: Path, kind: type[kv.KVError], *words: str) -> None:
    before = path.read_bytes() if path.is_file() else None
    for _ in range(2):
        with pytest.raises(kind) as raised:
            kv.open(f"lmdb:///{path}")
        for word in (str(path), *words):
            assert word in str(raised.value)
    assert before is None or path.read_bytes() == before
    assert not is_open(path)


def test_a_directory_is_no_store(tmp_path: Path) -> None:
    refused(tmp_path, kv.ConfigError, "is a directory")
    with pytest.raises(kv.ConfigError, match="does not exist; make it first"):
        kv.LMDBStore(tmp_path / "none" / "app.lmdb")
    assert list(tmp_path.iterdir()) == []


def test_a_text_file_is_no_store(path: Path) -> None:
    path.write_text("these are my notes\n" * 1_000)
    refused(path, kv.CorruptData, "is not an LMDB file", "left untouched")
    assert [*path.parent.iterdir()] == [path]


def raw(path: Path, **entries: bytes) -> None:
    with lmdb.open(str(path), subdir=False, map_size=1 << 20) as env, env.begin(write=True) as txn:
        for key, value in entries.items():
            txn.put(key.encode(), value)


def test_a_file_of_another_program_is_no_store(path: Path) -> None:
    raw(path, user=b"u")
    refused(path, kv.CorruptData, "an LMDB file of something else", "left untouched")


def test_a_newer_format_is_no_store_of_this_version(path: Path) -> None:
    raw(path, **{layout.MARK.decode(): b"2"})
    refused(path, kv.CorruptData, "format version 2", "Upgrade anykv")


def test_an_empty_file_becomes_a_store(path: Path) -> None:
    path.touch()
    with kv.LMDBStore(path) as store:
        store.set("k", b"v")
    with kv.LMDBStore(path) as store:
        assert store.get("k") == b"v"


@pytest.mark.parametrize("left", [10, 5_000, 50_000, 500_000])
def test_a_truncated_file_is_damaged_and_kills_nobody(path: Path, left: int) -> None:
    with kv.LMDBStore(path) as store:
        store.set_many((f"key{i}", b"v" * 1_000) for i in range(1_000))
    os.truncate(path, left)
    refused(path, kv.CorruptData, "left untouched")


def test_a_file_without_the_hole_in_its_end_is_whole(path: Path) -> None:
    with kv.LMDBStore(path) as store:
        store.set_many((f"key{i}", b"v" * 1_000) for i in range(1_000))
        used = (store._db.open().env.info()["last_pgno"] + 1) * store._db.open().env.stat()["psize"]
    os.truncate(path, used)
    with kv.LMDBStore(path) as store:
        assert store.count() == 1_000
        store.set("k", b"v")
    assert path.stat().st_size > used


def test_a_file_that_is_removed_or_replaced_takes_no_writes(store: kv.LMDBStore, path: Path) -> None:
    store.set("k", b"v")
    path.rename(path.with_suffix(".old"))
    with pytest.raises(kv.Unavailable, match="has been removed or replaced since it was opened"):
        store.set("k", b"2")
    path.touch()
    with pytest.raises(kv.Unavailable, match="removed or replaced"):
        store.set("k", b"2")
    path.unlink()
    path.with_suffix(".old").rename(path)
    store.set("k", b"2")


def test_a_file_that_the_driver_has_open_is_refused(path: Path) -> None:
    kv.LMDBStore(path).close()
    with (
        lmdb.open(str(path), subdir=False),
        pytest.raises(kv.Unavailable, match="is open in this process in another way"),
    ):
        kv.LMDBStore(path)
    kv.LMDBStore(path).close()


def test_verify_names_what_no_store_has_written(path: Path) -> None:
    kv.LMDBStore(path).close()
    with lmdb.open(str(path), subdir=False) as env, env.begin(write=True) as txn:
        txn.put(b"\x00bad\x01key", b"\x00v")
        txn.put(b"\x00latin\xe9", b"\x00v")
        txn.put(b"\x00none", b"")
        txn.put(b"\x00due", layout.record(10**15, b"v"))
        txn.put(layout.due(10**15, b"\x00gone"), b"")
        txn.put(layout.due(10**15, b"\x00gone too"), b"")
    with kv.LMDBStore(path) as store:
        found = "\n".join(store.verify())
    for what in ("control character", "no UTF-8", "no value", "is not listed", "deadlines are of no entry"):
        assert what in found, found


def test_a_backup_is_a_compact_store(store: kv.LMDBStore, path: Path) -> None:
    store.set_many((f"key{i}", b"v" * 1_000) for i in range(3_000))
    store.namespace("n").set("k", b"v", ttl=1_000)
    store.delete_many(f"key{i}" for i in range(2_900))
    copy = path.with_name("copy.lmdb")
    store.backup(copy)
    with pytest.raises(kv.ConfigError, match="exists; a backup goes to a new file"):
        store.backup(copy)
    with kv.LMDBStore(copy) as other:
        assert [*other.scan()] == [*store.scan()]
        assert other.namespaces() == ["n"]
        assert other.verify() == []
        theirs, ours = other.stats().disk_bytes, store.stats().disk_bytes
        assert theirs
        assert ours
        assert theirs < ours / 2
        other.set("more", b"v" * 20_000_000)
    with pytest.raises(kv.ConfigError, match="does not exist"):
        store.backup(path / "none" / "copy.lmdb")
    assert sorted(p.name for p in path.parent.iterdir()) == ["app.lmdb", "app.lmdb-lock", "copy.lmdb", "copy.lmdb-lock"]


@pytest.mark.parametrize(
    ("url", "words"),
    [
        ("lmdb://", "names no file"),
        ("lmdb:///", "names no file"),
        ("lmdb://app.lmdb", "three slashes, lmdb:///app.lmdb"),
        ("lmdb:///a.lmdb?durability=off", "expected full or normal"),
        ("lmdb:///a.lmdb?map_size=1", "unknown option"),
    ],
)
def test_a_url_that_is_not_right_says_what_is(url: str, words: str) -> None:
    for opens in (kv.open, kv.open_async):
        with pytest.raises(kv.ConfigError, match=words):
            opens(url)
    with pytest.raises(kv.ConfigError, match="takes a path"):
        kv.LMDBStore("lmdb:///a.lmdb")


def test_a_driver_that_is_missing_is_an_error_that_says_how_to_install_it(path: Path) -> None:
    python(
        """
        import sys, kv
        assert "lmdb" not in sys.modules
        sys.modules["lmdb"] = None
        try:
            kv.open(sys.argv[1])
        except kv.ConfigError as e:
            assert 'pip install "anykv[lmdb]"' in str(e), e
        else:
            raise AssertionError
        """,
        f"lmdb:///{path}",
    )
