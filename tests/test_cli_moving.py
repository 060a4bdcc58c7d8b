"""`kv export`, `import` and `copy`: round trips, damaged files, and kills in the middle."""

from __future__ import annotations

import os
import signal
from pathlib import Path

import pytest
from commands import (
    ANY_BYTES,
    DB,
    call,
    db,
    failed,
    interrupted_export,
    on_terminal,
    real,
    start,
)

import kv

pytestmark = pytest.mark.usefixtures("home")


def test_export_and_import(tmp_path: Path) -> None:
    db("set", "k", "v", "--ttl", "1h")
    db("set", "raw", stdin=ANY_BYTES)
    db("set", "k", "inside", "-n", "a", "-n", "b")
    answer = db("export", "-o", "out.jsonl")
    assert answer[:2] == (0, b"")
    assert answer.err.startswith("exported 3 entries in ")
    assert [entry.name for entry in tmp_path.glob("out*")] == ["out.jsonl"]
    answer = db("export")
    assert answer.out == (tmp_path / "out.jsonl").read_bytes()
    assert db("export", "-o", "-").out == answer.out
    assert answer.json[0] == {"format": "anykv", "version": 1}
    assert answer.json[-1]["entries"] == 3
    new = ("-u", "sqlite:///new.db")
    done = call(*new, "import", "out.jsonl")
    assert done[:2] == (0, b"")
    assert done.err.startswith("imported 3 entries in ")
    assert ", 3 stored, 0 skipped as expired, 0 deleted" in done.err
    assert call(*new, "export").out == answer.out
    assert real("-u", "sqlite:///piped.db", "import", "-", stdin=answer.out).code == 0
    assert real("-u", "sqlite:///piped.db", "import", "--resume", stdin=answer.out).err.endswith(
        "0 stored, 3 there already, 0 skipped as expired, 0 deleted\n"
    )
    assert call("-u", "sqlite:///piped.db", "export").out == answer.out
    call(*new, "set", "more", "v")
    call(*new, "set", "more", "v", "-n", "z")
    assert "2 deleted" in call(*new, "import", "out.jsonl", "--replace").err
    assert call(*new, "export").out == answer.out
    inner = call("export", "-u", "sqlite:///new.db", "-n", "a")
    assert inner.json[1] == {"namespace": ["b"], "key": "k", "value": "inside"}
    failed(db("export", "--resume"), "-o FILE")
    failed(db("export", "-o", "./app.db"), "the store itself")
    failed(db("export", "-o", "missing/out"), "No such file")
    failed(db("export", "-o", str(tmp_path)), "not a regular file")
    failed(db("import", "missing"), "No such file", "missing")
    failed(db("import", str(tmp_path)), "directory")


def test_import_from_a_terminal_asks_for_a_file() -> None:
    answer = on_terminal(*DB, "import")
    assert answer.code == 2
    assert "no file" in answer.err


def test_a_damaged_export_is_refused(tmp_path: Path) -> None:
    db("set", "k", "v")
    good = db("export").out
    for name, data, words in (
        ("cut", good[:-30], ["cut.jsonl, line 3: ", "cut off"]),
        ("changed", good.replace(b'"v"', b'"w"'), ["changed.jsonl, line 3: ", "checksum"]),
        ("gzip", b"\x1f\x8b\x08" + good, ["line 1: ", "gzip"]),
        ("empty", b"", ["empty"]),
        ("other", b"key,value\n", ["line 1: ", "not an export"]),
    ):
        (tmp_path / f"{name}.jsonl").write_bytes(data)
        failed(
            call("-u", "sqlite:///new.db", "import", f"{name}.jsonl", "--replace"), *words, "nothing has been imported"
        )
        failed(call("-u", "sqlite:///new.db", "import", stdin=data), "standard input", *words[1:])
    assert call("count", "-u", "sqlite:///new.db").out == b"0\n"


def test_copy() -> None:
    db("set", "k", "v", "--ttl", "1h")
    db("set", "k", "inside", "-n", "a")
    answer = call("copy", "sqlite:///app.db", "sqlite:///new.db", "--verify")
    assert answer[:2] == (0, b"")
    assert answer.err.startswith("copied 2 entries in ")
    assert answer.err.endswith("compared: no difference\n")
    assert call("export", "-u", "sqlite:///new.db").out == db("export").out
    assert call("copy", "sqlite:///app.db?namespace=a", "sqlite:///app.db?namespace=c").code == 0
    assert db("get", "k", "-n", "c").out == b"inside"
    assert "2 stored" in call("copy", "sqlite:///app.db?namespace=x", "memory://", "--verify").err.replace(
        "0 stored", "2 stored"
    )
    call("set", "extra", "", "-u", "sqlite:///new.db")
    assert (
        "1 stored, 2 there already" in call("copy", "sqlite:///app.db", "sqlite:///new.db", "--resume", "--replace").err
    )
    assert call("export", "-u", "sqlite:///new.db").out == db("export").out


def test_a_store_in_use_is_moved() -> None:
    move = ("copy", "sqlite:///app.db", "sqlite:///new.db", "--resume", "--replace", "--verify")
    for key in ("a", "b", "c"):
        db("set", key, "1")
    db("set", "k", "inside", "-n", "n")
    assert ", 4 stored, 0 skipped as expired, 0 deleted\n" in call(*move).err
    db("set", "b", "2")
    db("set", "d", "1")
    db("delete", "c")
    db("delete", "k", "-n", "n")
    answer = call(*move)
    assert answer[:2] == (0, b"")
    assert ", 2 stored, 1 there already, 0 skipped as expired, 2 deleted\ncompared: no difference\n" in answer.err
    assert call("export", "-u", "sqlite:///new.db").out == db("export").out


def test_copy_refuses_a_store_and_itself() -> None:
    db("set", "k", "v")
    for source, target in (
        ("sqlite:///app.db", "sqlite:///app.db"),
        ("sqlite:///app.db", f"sqlite:///{Path.cwd()}/app.db"),
        ("sqlite:///app.db", "SQLITE:///./app.db?durability=normal"),
        ("sqlite:///app.db?namespace=a", "sqlite:///app.db?namespace=a"),
        ("memory://", "memory://"),
    ):
        failed(call("copy", source, target), "same store")
    for source, target in (
        ("sqlite:///app.db", "sqlite:///app.db?namespace=a"),
        ("sqlite:///app.db?namespace=a", "sqlite:///app.db"),
    ):
        failed(call("copy", source, target), "inside the other")
    os.symlink("app.db", "link.db")
    failed(call("copy", "sqlite:///app.db", "sqlite:///link.db"), "same store")
    failed(call(*DB, "copy", "memory://", "sqlite:///x.db"), "two URLs")
    failed(call("copy", "memory://"), "DST")


def test_a_killed_export_is_resumed(big: Path, big_export: Path, tmp_path: Path) -> None:
    with interrupted_export(big, tmp_path / "out", signal.SIGKILL) as process:
        assert process.returncode == -signal.SIGKILL
    assert (tmp_path / "out.part").exists()
    other = call("-u", "sqlite:///other.db", "set", "k", "v")
    assert other.code == 0
    part = (tmp_path / "out.part").read_bytes()
    failed(
        call("-u", "sqlite:///other.db", "export", "-o", "out", "--resume"),
        f"out.part is of an export of <SQLiteStore sqlite:///{big}>, not of <SQLiteStore sqlite:///{tmp_path}/other.db>",
    )
    untouched = (tmp_path / "out.part").read_bytes() == part
    assert untouched
    answer = call("-u", f"sqlite:///{big}", "export", "-o", "out", "--resume")
    assert answer.code == 0
    assert answer.err.startswith("exported 100,000 entries in ")
    assert "by the run before" in answer.err
    assert (tmp_path / "out").read_bytes() == big_export.read_bytes()
    assert not [*tmp_path.glob("out.part*")]


@pytest.mark.parametrize("options", [(), ("--replace",), ("--replace", "--resume")])
def test_a_killed_import_is_completed(big_export: Path, options: tuple[str, ...]) -> None:
    old = [f"old:{n}" for n in range(100)]
    command = ("-u", "sqlite:///new.db", "import", str(big_export), *options)
    with kv.open("sqlite:///new.db") as store:
        store.set_many(dict.fromkeys(old, b"old"))
        with start(*command) as process:
            while not store.exists("key:0002000"):
                assert process.poll() is None, "it ended before"
            process.kill()
        assert process.returncode == -signal.SIGKILL
        count = store.count("key:")
        assert 2_000 < count < 100_000
        assert store.count("old:") == len(old)
        assert store.keys("key:") == [f"key:{n:07}" for n in range(count)]
        answer = call(*command)
        assert answer.code == 0
        assert ("there already" in answer.err) == ("--resume" in options)
        assert store.count("key:") == 100_000
        assert store.count("old:") == (0 if "--replace" in options else len(old))
    if "--replace" in options:
        assert call("-u", "sqlite:///new.db", "export").out == big_export.read_bytes()
