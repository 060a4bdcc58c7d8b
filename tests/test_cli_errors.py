"""What `kv` says when something is wrong: one line, the right exit code, and nothing changed."""

from __future__ import annotations

import contextlib
import os
import signal
import sqlite3
import subprocess
from typing import TYPE_CHECKING

import pytest
from commands import (
    DB,
    PROGRAM,
    call,
    db,
    failed,
    interrupted_export,
    real,
    start,
)

import kv

if TYPE_CHECKING:
    from pathlib import Path

pytestmark = pytest.mark.usefixtures("home")


def test_bad_usage_is_one_line() -> None:
    failed(call("frobnicate"), "frobnicate", "kv --help")
    failed(call("get"), "KEY", "kv get --help")
    failed(call("get", "a", "b"), "b")
    failed(call("get", "k", "--frobnicate"), "--frobnicate")
    failed(call("--url"), "--url")
    failed(call("delete"), "KEYS")
    failed(call("set", "k", "v", "--ttl"), "--ttl")


def test_a_url_that_stands_for_something_else() -> None:
    for verb in ("keys", "scan", "count", "clear"):
        failed(db(verb, "sqlite:///other.db"), "sqlite:///other.db is the URL of a store, and stands for a prefix here")
    assert db("keys", "https://example.com/").code == 0
    for verb in ("stats", "cleanup", "compact", "verify", "namespaces"):
        failed(db(verb, "sqlite:///other.db"), "two URLs, one as argument and one as --url")


def test_a_url_that_is_none() -> None:
    failed(call("get", "k", "--url", "app.db"), "app.db", "sqlite:///")
    failed(call("get", "k", "--url", "sqlit:///app.db"), "sqlite")
    failed(call("get", "k", "--url", "sqlite:///app.db?durabilty=full"), "durability")
    answer = call("get", "k", "--url", "nosuch://user:secret@host/db")
    failed(answer)
    assert "secret" not in answer.err


def test_a_path_that_is_not_utf8() -> None:
    failed(real("stats", os.fsdecode(b"sqlite:///\xff.db")), "no store at sqlite:///\\udcff.db")
    failed(real(*DB, "import", os.fsdecode(b"\xfe.jsonl")), "No such file or directory: \\udcfe.jsonl")


def test_an_answer_that_is_no_text_is_not_yes() -> None:
    db("set", "k", "v")
    answer = db("clear", stdin=b"\xff\n")
    assert (answer.code, answer.out) == (1, b"")
    assert answer.err.startswith("delete 1 key in ")
    assert db("count").out == b"1\n"


def test_keys_that_are_none() -> None:
    failed(db("get", ""), "empty")
    failed(db("set", "a\nb", "v"), "control character")
    failed(db("set", "x" * 3_000, "v"), "2,048")
    failed(real(*DB, "set", os.fsdecode(b"\xff"), "v"), "surrogate")


def test_files_that_are_no_stores(tmp_path: Path) -> None:
    text = tmp_path / "text.db"
    text.write_text("this is a text file, and it is longer than the header of a database is\n" * 100)
    folder = tmp_path / "folder.db"
    folder.mkdir()
    with contextlib.closing(sqlite3.connect(tmp_path / "other.db")) as other:
        other.execute("CREATE TABLE t (x)")
        other.commit()
    call("-u", "sqlite:///newer.db", "set", "k", "v")
    with contextlib.closing(sqlite3.connect(tmp_path / "newer.db")) as newer:
        newer.execute("PRAGMA user_version = 999")
        newer.commit()
    for name, words in (
        ("text.db", ["not a SQLite database"]),
        ("folder.db", ["directory"]),
        ("other.db", ["something else"]),
        ("newer.db", ["999", "pgrade"]),
        ("missing/app.db", ["missing", "does not exist"]),
    ):
        before = (tmp_path / name).read_bytes() if (tmp_path / name).is_file() else None
        for verb in (["get", "k"], ["set", "k", "v"], ["verify"], ["demo"], ["export"]):
            answer = call("-u", f"sqlite:///{name}", *verb)
            failed(answer)
            if (tmp_path / name).exists():
                assert all(word in answer.err for word in words)
        if before is not None:
            assert (tmp_path / name).read_bytes() == before


def test_a_truncated_database_is_an_error(tmp_path: Path) -> None:
    with kv.open("sqlite:///app.db") as store:
        store.set_many({f"{n:05}": bytes(100) for n in range(5_000)})
    whole = (tmp_path / "app.db").read_bytes()
    (tmp_path / "app.db").write_bytes(whole[: len(whole) // 2])
    for verb in ("scan", "export"):
        answer = db(verb)
        assert answer.code == 2
        assert "damaged" in answer.err
    assert db("verify").code in (1, 2)


@pytest.mark.parametrize("args", [("get", "k"), ("keys",), ("export",), ("--help",)])
def test_a_full_output_is_an_error(args: tuple[str, ...]) -> None:
    db("set", "k", "v")
    with open("/dev/full", "wb") as full, start(*DB, *args, stdout=full) as process:
        assert process.stderr
        err = process.stderr.read().decode()
    assert process.returncode == 2
    assert err.splitlines()[-1] == "kv: No space left on device"
    assert "Traceback" not in err


def test_a_file_that_gets_too_large_is_an_error(tmp_path: Path) -> None:
    with kv.open("sqlite:///app.db") as store:
        store.set_many({f"{n:05}": bytes(100) for n in range(5_000)})
    command = " ".join([*PROGRAM, *DB, "export", "-o", "out"])
    done = subprocess.run(["bash", "-c", f"ulimit -f 100; {command}"], capture_output=True, check=False)
    assert done.returncode == 2
    assert done.stderr.decode() == "kv: File too large\n"
    assert not (tmp_path / "out").exists()
    assert (tmp_path / "out.part").exists()
    assert db("export", "-o", "out", "--resume").code == 0
    assert (tmp_path / "out").read_bytes() == db("export").out


def test_closed_streams_are_no_crash() -> None:
    command = " ".join([*PROGRAM, *DB])
    for line, code in (
        ("set k v >&-", 0),
        ("set k v <&-", 0),
        ("get k >&- 2>&-", 0),
        ("get x 2>&-", 1),
        ("get '' 2>&-", 2),
        ("set k <&- 2>&-", 2),
    ):
        done = subprocess.run(["bash", "-c", f"{command} {line}"], capture_output=True, check=False)
        assert (done.returncode, done.stderr) == (code, b"")
    done = subprocess.run(["bash", "-c", f"{command} set k <&-"], capture_output=True, check=False)
    assert done.returncode == 2
    assert b"no value; the standard input is closed" in done.stderr
    assert db("get", "k").out == b"v"


def test_a_reader_that_leaves_is_no_error(big: Path) -> None:
    for args in (("keys",), ("scan", "--json"), ("export",)):
        with start("-u", f"sqlite:///{big}", *args) as process:
            assert process.stdout
            assert process.stderr
            process.stdout.readline()
            process.stdout.close()
            assert process.stderr.read() == b""
        assert process.returncode == 141


def test_ctrl_c_is_no_traceback(big: Path, tmp_path: Path) -> None:
    with start("-u", f"sqlite:///{big}", "scan") as process:
        assert process.stdout
        assert process.stderr
        process.stdout.readline()  # it has begun, and waits until we read on
        process.send_signal(signal.SIGINT)
        process.stdout.read()
        assert process.stderr.read() == b""
    assert process.returncode == 130
    with interrupted_export(big, tmp_path / "out", signal.SIGINT) as process:
        assert process.stderr
        assert process.stderr.read() == b"kv: interrupted; the same command with --resume goes on from here\n"
    assert process.returncode == 130
