"""`examples/move_in.py`: the old files stay as they are, and a move that breaks off is completed by another."""

from __future__ import annotations

import math
import os
import pty
import signal
import subprocess
from contextlib import closing, suppress
from typing import TYPE_CHECKING, Any

import diskcache
import pytest
from oldfiles import FLAT, NESTED, SECRET, dumb, every, fill, named, since_3_13, values
from programs import python
from scripts import command, example, loaded
from sqlitedict import SqliteDict
from waiting import wait_for

import kv

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable
    from pathlib import Path


@pytest.fixture
def url(tmp_path: Path) -> str:
    return f"sqlite:///{tmp_path}/new.db?durability=normal"


@pytest.fixture
def old(tmp_path: Path) -> Path:
    return tmp_path / "old"


# the old files


def files(path: Path) -> dict[str, tuple[int, bytes]]:
    """All that is there, to the byte and to the nanosecond."""
    every = path.rglob("*") if path.is_dir() else path.parent.glob(f"{path.name}*")
    return {str(p): (p.stat().st_mtime_ns, p.read_bytes() if p.is_file() else b"") for p in (*every, path.parent)}


@every
def test_the_old_files_are_left_as_they_are(
    kind: str, make: Callable[[Path, dict[str, Any]], None], tmp_path: Path
) -> None:
    old = tmp_path / "folder" / "old"
    old.parent.mkdir()
    make(old, FLAT | NESTED)
    before = files(old)
    assert example("move_in.py", kind, old, f"sqlite:///{tmp_path}/new.db", "--unpickle").code == 0
    assert files(old) == before


@pytest.mark.parametrize("alive", [True, False])
def test_what_a_killed_or_a_living_process_has_in_its_log_is_carried(alive: bool, tmp_path: Path, url: str) -> None:
    old = tmp_path / "folder" / "old"
    old.parent.mkdir()
    code = """
        import os, sys, diskcache
        cache = diskcache.Cache(sys.argv[1])
        for n in range(300):
            cache[f"k{n}"] = n
        os._exit(0)
    """
    if alive:
        cache = diskcache.Cache(old)
        for n in range(300):
            cache[f"k{n}"] = n
    else:
        python(code, old)
    assert (old / "cache.db-wal").stat().st_size
    before = files(old)
    said = example("move_in.py", "diskcache", old, url)
    assert files(old) == before
    assert said == (0, "", "carried 300, expired 0, left out 0\n")
    assert values(url) == {f"k{n}": n for n in range(300)}
    if alive:
        cache.close()


def test_half_a_transaction_of_a_killed_process_is_not_carried(tmp_path: Path, url: str) -> None:
    old = tmp_path / "folder" / "old"
    old.parent.mkdir()
    fill(SqliteDict(str(old), autocommit=True), {f"k{n}": "old" * 500 for n in range(100)})
    python(
        """
        import os, pickle, sqlite3, sys
        db = sqlite3.connect(sys.argv[1])
        db.execute("PRAGMA cache_size = 1")
        db.execute("PRAGMA synchronous = FULL")
        db.execute("UPDATE unnamed SET value = ?", (pickle.dumps("new" * 500),))
        os._exit(0)
        """,
        old,
    )
    assert b"newnew" in old.read_bytes()  # the half of it is in the file
    before = files(old)
    assert example("move_in.py", "sqlitedict", old, url, "--unpickle").code == 0
    assert files(old) == before
    assert set(values(url).values()) == {"old" * 500}


@pytest.mark.parametrize("log", [True, False])
def test_files_that_are_written_to_meanwhile_are_refused(log: bool, old: Path) -> None:
    move_in = loaded("move_in.py")
    cache = diskcache.Cache(old)
    cache["a"] = 1
    if not log:
        cache.close()

    def read() -> None:
        with move_in.diskcache(old, None) as source:
            assert [row.key for row in source.rows] == ["a"]
            cache["b"] = 1

    with pytest.raises(move_in.Refused, match="written to meanwhile"):
        read()
    cache.close()


@pytest.mark.parametrize(
    ("kind", "content"),
    [
        ("diskcache", None),
        ("sqlitedict", None),
        ("shelve", None),
        ("sqlitedict", b""),
        ("sqlitedict", b"no database" * 1000),
        ("shelve", b"no database" * 1000),
        ("shelve", b"SQLite format 3\0" + b"\xff" * 5000),
    ],
)
def test_what_cannot_be_read_is_an_error_and_makes_no_store(
    kind: str, content: bytes | None, old: Path, url: str, tmp_path: Path
) -> None:
    if content is not None:
        old.write_bytes(content)
    said = example("move_in.py", kind, old, url)
    assert said[:2] == (2, "")
    assert said.err.startswith("move_in.py: ")
    assert said.err.count("\n") == 1
    assert {p.name for p in tmp_path.iterdir()} <= {"old"}


def test_a_store_that_cannot_be_opened_is_an_error(old: Path) -> None:
    dumb(old, {"k": 1})
    said = example("move_in.py", "shelve", old, "postgresql://app:hunter2@127.0.0.1:1/app")
    assert said[:2] == (2, "")
    assert SECRET not in said.err
    assert "KV_URL is not set" in example("move_in.py", "shelve", old).err


# a move that breaks off


class Breaks(kv.MemoryStore):
    """A store that breaks down, or cannot hold what is large."""

    batches: int
    largest: float

    def __init__(self, batches: int = -1, largest: float = math.inf) -> None:
        super().__init__()
        self.batches = batches
        self.largest = largest

    def set_many(self, items: Any, *, ttl: kv.TTL = None) -> None:
        if any(len(value) > self.largest for value in items.values()):
            raise kv.ValueTooLarge("too large")
        if not self.batches:
            raise kv.Unavailable("gone")
        self.batches -= 1
        super().set_many(items, ttl=ttl)

    def set(self, key: str, value: kv.Value, *, ttl: kv.TTL = None) -> None:
        if len(value) > self.largest:
            raise kv.ValueTooLarge("too large")
        super().set(key, value, ttl=ttl)


def rows(move_in: Any, entries: dict[str, object]) -> Iterable[Any]:
    return (move_in.Row(repr(key), key, value) for key, value in entries.items())


def test_a_batch_is_all_or_nothing_and_another_run_completes_it() -> None:
    move_in = loaded("move_in.py")
    entries: dict[str, object] = {f"{n:04}": n for n in range(1_300)}
    with Breaks(batches=2) as store:
        with pytest.raises(kv.Unavailable):
            move_in.Move(store).run(rows(move_in, entries))
        assert store.keys() == [f"{n:04}" for n in range(1_000)]
        store.batches = -1
        move = move_in.Move(store)
        move.run(rows(move_in, entries))
        assert move.carried == 1_300
        assert {key: int(value) for key, value in store.scan()} == entries


def test_a_batch_is_bounded_in_bytes_too() -> None:
    move_in = loaded("move_in.py")
    with Breaks(batches=10) as store:
        move_in.Move(store, raw=True).run(rows(move_in, {f"{n}": b"x" * 700_000 for n in range(10)}))
        assert store.batches == 5


def test_one_that_is_too_large_does_not_stop_the_others(capsys: pytest.CaptureFixture[str]) -> None:
    move_in = loaded("move_in.py")
    with Breaks(largest=1_000) as store:
        move = move_in.Move(store)
        move.run([*rows(move_in, {"a": 1, "b": "x" * 2_000, "c": 2}), move_in.Row("'d'", "d", "x" * 2_000, 1e11)])
        assert dict(store.scan()) == {"a": b"1", "c": b"2"}
        assert (move.carried, move.left.total()) == (2, 2)
    assert named(capsys.readouterr().out) == {"b", "d"}


@pytest.mark.parametrize("sent", [signal.SIGKILL, signal.SIGINT])
def test_one_that_was_killed_or_interrupted_is_completed_by_several_at_once(
    sent: signal.Signals, old: Path, url: str
) -> None:
    entries = {f"{n:05}": n for n in range(20_000)}
    since_3_13(old, entries)
    run = command("move_in.py", "shelve", old, url, "--unpickle")
    with subprocess.Popen(run, stderr=subprocess.PIPE, text=True) as process, closing(kv.open(url)) as store:
        wait_for(lambda: store.keys(limit=1) or process.poll() is not None)
        process.send_signal(sent)
        err = process.communicate()[1]
        if process.returncode and sent == signal.SIGINT:
            assert err.startswith("move_in.py: interrupted; carried ")
            assert err.count("\n") == 1
        assert len(store.keys()) % 500 == 0  # whole batches
        others = [subprocess.Popen(run, stderr=subprocess.PIPE, text=True) for _ in range(3)]
        said = [(other.communicate(timeout=60)[1], other.returncode) for other in others]
        assert said == [("carried 20,000, expired 0, left out 0\n", 0)] * 3
    assert values(url) == entries


def test_progress_is_shown_on_a_terminal(old: Path, url: str) -> None:
    dumb(old, {"k": 1})
    ours, theirs = pty.openpty()
    with subprocess.Popen(
        command("move_in.py", "shelve", old, url, "--unpickle"), stderr=theirs, env={**os.environ, "TERM": "xterm"}
    ):
        os.close(theirs)
        got = b""
        with suppress(OSError):  # nobody has the other end any more
            while data := os.read(ours, 65_536):
                got += data
    os.close(ours)
    assert b"moving" in got
    assert b"carried 1, " in got
