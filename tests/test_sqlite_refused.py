"""What is no store of ours, is damaged or read-only: refused in our words, and left as it is."""

import asyncio
import os
from contextlib import suppress
from pathlib import Path

import pytest
from programs import python
from sqlitefiles import made, raw

import kv
from kv.backends.sqlite.schema import SCHEMA_VERSION


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


def with_damaged_rows(path: Path) -> Path:
    with made(path).open("r+b") as file:
        file.seek(9 * 4096 + 8)
        file.write(b"\xff" * 2_000)
    return path


def test_a_scan_reads_no_more_rows_than_its_limit(path: Path) -> None:
    with kv.SQLiteStore(with_damaged_rows(path)) as store:
        assert len([*store.scan(limit=10)]) == 10
        with pytest.raises(kv.CorruptData):
            [*store.scan(limit=500)]


def test_where_nothing_has_expired_keys_are_listed_and_counted_without_their_rows(path: Path) -> None:
    with kv.SQLiteStore(with_damaged_rows(path)) as store:
        assert len(store.keys("key")) == store.count() == 1_000
        store.set("old", b"", ttl=0.001)
        while store.exists("old"):
            pass
        for listing in (store.keys, store.count):
            with pytest.raises(kv.CorruptData):
                listing()


def test_damage_never_reads_as_nothing_there(path: Path) -> None:
    with kv.SQLiteStore(path) as store:
        store.set_many({"a": b"1", "b": b"2", "c": b"3", "d": b"4"})
    pages = path.stat().st_size // 4096
    for page in range(1, pages):
        whole = path.read_bytes()
        damaged = path.with_name(f"{page}.db")
        damaged.write_bytes(whole[: page * 4096 + 8] + b"x" * 16 + whole[page * 4096 + 24 :])
        with suppress(kv.CorruptData), kv.SQLiteStore(damaged) as store:
            assert store.keys() == ["a", "b", "c", "d"]
            assert len(store.get_many(["a", "b", "c", "d"])) == 4


@pytest.mark.parametrize("left", ["nothing", "an empty file"])
def test_a_log_without_its_file_is_left_alone(path: Path, left: str) -> None:
    with kv.SQLiteStore(path) as store:
        store.set("k", b"v")
        log = path.with_name("app.db-wal").read_bytes()
    path.unlink()
    if left == "an empty file":
        path.touch()
    path.with_name("app.db-wal").write_bytes(log)
    untouched(path, kv.CorruptData, "is missing" if left == "nothing" else "is empty", "app.db-wal is not")
    assert path.with_name("app.db-wal").read_bytes() == log


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
