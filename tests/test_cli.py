"""The verbs of `kv`, in this process where many calls are needed, and as a program where that matters."""

from __future__ import annotations

import contextlib
import os
import random
import sqlite3
import subprocess
import sys
from pathlib import Path

import pytest
from commands import (
    ANY_BYTES,
    DB,
    PROGRAM,
    call,
    db,
    failed,
    on_terminal,
    real,
    start,
)
from waiting import wait_for

import kv

pytestmark = pytest.mark.usefixtures("home")


# values in and out


def test_set_and_get() -> None:
    assert db("set", "greeting", "hello") == (0, b"", "")
    assert db("get", "greeting") == (0, b"hello", "")
    assert db("get", "greeting", "--json").json == [{"key": "greeting", "value": "hello"}]
    assert db("get", "missing") == (1, b"", "")
    assert db("get", "missing", "--json") == (1, b"", "")


def test_bytes_go_in_and_out_as_they_are(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(ANY_BYTES)
    assert real(*DB, "set", "a", stdin=ANY_BYTES).code == 0
    assert real(*DB, "set", "b", "-", stdin=ANY_BYTES).code == 0
    assert real(*DB, "set", "c", "--file", "file").code == 0
    assert real(*DB, "set", "d", os.fsdecode(ANY_BYTES[1:])).code == 0  # no program takes NUL in an argument
    assert real(*DB, "add", "e", stdin=ANY_BYTES).code == 0
    assert [real(*DB, "get", key).out for key in "abce"] == [ANY_BYTES] * 4
    assert real(*DB, "get", "d").out == ANY_BYTES[1:]
    (line,) = db("get", "a", "--json").json
    assert line.keys() == {"key", "base64"}
    assert db("pop", "e").out == ANY_BYTES


def test_odd_keys_and_empty_values() -> None:
    for key in ("a b", "é\u2028", "--", "-", "\U0001f600", "100%", "'\""):
        assert db("set", "--", key, "").code == 0
        assert db("get", "--", key) == (0, b"", "")
        assert db("size", "--", key).out == b"0\n"
    assert db("keys").out.decode() == "".join(
        sorted(f"{key}\n" for key in ("a b", "é\u2028", "--", "-", "\U0001f600", "100%", "'\""))
    )


def test_where_a_value_may_come_from(tmp_path: Path) -> None:
    failed(db("set", "k", "v", "--file", "x"), "which one?", "kv set --help")
    failed(db("set", "k", "--file", "missing"), "No such file", "missing")
    failed(db("set", "k", "--file", str(tmp_path)), "directory")
    answer = on_terminal(*DB, "set", "k")
    assert answer.code == 2
    assert "no value" in answer.err


def test_add_says_who_was_first() -> None:
    assert [db("add", "k", value).code for value in "abc"] == [0, 1, 1]
    assert db("get", "k").out == b"a"


def test_delete_pop_exists_size() -> None:
    for key in "abc":
        db("set", key, key * 10)
    assert db("exists", "a") == (0, b"", "")
    assert db("exists", "x") == (1, b"", "")
    assert db("exists", "x", "--json") == (1, b'{"key": "x", "exists": false}\n', "")
    assert db("exists", "a", "--json").json == [{"key": "a", "exists": True}]
    assert db("size", "a") == (0, b"10\n", "")
    assert db("size", "a", "--json").json == [{"key": "a", "size": 10}]
    assert db("size", "x").code == 1
    assert db("pop", "a") == (0, b"a" * 10, "")
    assert db("pop", "a") == (1, b"", "")
    assert db("pop", "b", "--json").json == [{"key": "b", "value": "b" * 10}]
    assert db("delete", "c") == (0, b"", "")
    assert db("delete", "c") == (1, b"", "")
    for key in "abc":
        db("set", key, "")
    assert db("delete", "a", "a", "x", "b").code == 1
    assert db("keys").lines == ["c"]


def test_increment() -> None:
    assert db("increment", "n") == (0, b"1\n", "")
    assert db("increment", "n", "41").out == b"42\n"
    assert db("increment", "n", "-50").out == b"-8\n"
    db("set", "t", "text")
    failed(db("increment", "t"), "'t'", "integer")
    failed(db("increment", "n", "x"), "'x'")
    failed(db("increment", "n", "1.5"), "integer")
    failed(db("increment", "n", str(2**63)), "64 bits")
    assert db("increment", "m", "--ttl-if-new", "1h").out == b"1\n"
    assert db("increment", "m", "--ttl-if-new", "2h").out == b"2\n"
    assert 3_000 < float(db("ttl", "m").out) <= 3_600
    db("increment", "m", "--ttl", "never")
    assert db("ttl", "m").out == b"never\n"


def test_update_from_stdin_keeps_the_deadline() -> None:
    db("set", "k", "old", "--ttl", "1h")
    assert db("update-from-stdin", "k", stdin=b"new") == (0, b"", "")
    assert db("get", "k").out == b"new"
    assert 3_000 < float(db("ttl", "k").out) <= 3_600
    db("update-from-stdin", "k", "--append", stdin=b">")
    db("update-from-stdin", "k", "--prepend", "--ttl", "2h", stdin=b"<")
    assert db("get", "k").out == b"<new>"
    assert 7_000 < float(db("ttl", "k").out) <= 7_200
    assert db("update-from-stdin", "fresh", "--append", stdin=b"\xff").code == 0
    assert db("get", "fresh").out == b"\xff"
    assert db("ttl", "fresh").out == b"never\n"
    failed(db("update-from-stdin", "k", "--append", "--prepend"), "which one?")


def test_appending_from_many_programs_loses_nothing() -> None:
    programs = [start(*DB, "update-from-stdin", "k", "--append", stdin=subprocess.PIPE) for _ in range(8)]
    for n, program in enumerate(programs):
        assert program.stdin
        program.stdin.write(b"%d\n" % n)
        program.stdin.close()
    for program in programs:
        with program:
            assert program.wait() == 0
    assert sorted(db("get", "k").lines) == list("01234567")


# deadlines


def test_times_to_live() -> None:
    for text, seconds in (
        ("90", 90),
        ("1.5", 1.5),
        ("90s", 90),
        ("15m", 900),
        ("2h", 7_200),
        ("7d", 604_800),
        ("1w", 604_800),
        ("60000ms", 60),
    ):
        assert db("set", "k", "v", "--ttl", text).code == 0
        left = float(db("ttl", "k").out)
        assert seconds - 60 < left <= seconds
    (line,) = db("ttl", "k", "--json").json
    assert 0 < line["ttl"] <= 60
    assert db("expire", "k", "2h") == (0, b"", "")
    assert 7_000 < float(db("ttl", "k").out) <= 7_200
    assert db("persist", "k") == (0, b"", "")
    assert db("persist", "k").code == 1
    assert db("ttl", "k") == (0, b"never\n", "")
    assert db("ttl", "k", "--json").json == [{"key": "k", "ttl": None}]
    assert db("expire", "k", "never").code == 0
    assert db("ttl", "x") == (1, b"", "")
    assert db("expire", "x", "1h").code == 1
    assert db("persist", "x").code == 1
    for text in ("0", "-1", "x", "1y", "", "1 h", "inf", "nan", "0x10", "1e3", "9" * 20 + "w"):
        answer = db("set", "k", "other", "--ttl", text)
        failed(answer)
        assert "ttl" in answer.err.lower()
    assert db("get", "k").out == b"v"


def test_an_entry_expires_and_cleanup_removes_it() -> None:
    db("set", "short", "v", "--ttl", "1ms")
    db("set", "long", "v", "--ttl", "1h")
    while db("exists", "short").code == 0:
        pass
    assert db("get", "short").code == 1
    assert db("stats", "--json").json[0]["expired"] == 1
    assert db("cleanup", "--limit", "0").out == b"0\n"
    assert db("cleanup").out == b"1\n"
    assert db("cleanup").out == b"0\n"
    assert db("keys").lines == ["long"]


# listing


@pytest.fixture
def listed(home: Path) -> None:
    with kv.open("sqlite:///app.db") as store:
        store.set_many({key: key.encode() for key in ("user:1", "user:2", "user:10", "User:1", "other", "user%")})
        store.set("tab\u00a0and", b"a\tb\nc\\d\x00\x7f")
        store.set("raw", b"\xff\t\x80\\")


@pytest.mark.usefixtures("listed")
def test_keys_scan_and_count() -> None:
    everything = ["User:1", "other", "raw", "tab\u00a0and", "user%", "user:1", "user:10", "user:2"]
    assert db("keys").lines == everything
    assert db("keys", "--json").json == [{"key": key} for key in everything]
    assert db("keys", "user:").lines == ["user:1", "user:10", "user:2"]
    assert db("keys", "--match", "[uU]ser:?").lines == ["User:1", "user:1", "user:2"]
    assert db("keys", "user:", "--after", "user:1", "--limit", "1").lines == ["user:10"]
    assert db("keys", "--limit", "0") == (0, b"", "")
    assert db("keys", "nothing") == (0, b"", "")
    assert db("count").out == b"8\n"
    assert db("count", "user:").out == b"3\n"
    assert db("count", "--match", "*:1").out == b"2\n"
    assert db("count", "--json").json == [{"count": 8}]
    assert db("scan", "user:", "--limit", "2").out == b"user:1\tuser:1\nuser:10\tuser:10\n"
    assert db("scan", "user:2", "--json").json == [{"key": "user:2", "value": "user:2"}]
    assert db("scan", "raw", "--json").json == [{"key": "raw", "base64": "/wmAXA=="}]
    failed(db("keys", "--limit", "-1"), "limit")
    failed(db("keys", "a\x07"), "control character")


@pytest.mark.usefixtures("listed")
def test_scan_gives_a_line_for_each_entry() -> None:
    assert db("scan", "tab").out.decode() == "tab\u00a0and\ta\\tb\\nc\\\\d\\x00\\x7f\n"
    assert db("scan", "raw").out == b"raw\t\\xff\\t\\x80\\\\\n"


def test_listing_in_pages_lists_everything() -> None:
    with kv.open("sqlite:///app.db") as store:
        store.set_many((f"{n:06}", b"") for n in range(25_000))
    assert db("keys").lines == [f"{n:06}" for n in range(25_000)]
    assert db("keys", "--limit", "10001").lines == [f"{n:06}" for n in range(10_001)]


def test_clear_asks() -> None:
    for key in ("a1", "a2", "b1"):
        db("set", key, "")
        db("set", key, "", "--namespace", "inside")
    answer = db("clear", "a", stdin=b"n\n")
    assert answer[:2] == (1, b"")
    assert "'a'" in answer.err
    assert answer.err == "delete 2 keys that begin with 'a' in sqlite:///app.db? [y/N] \n"
    assert db("clear", "a", stdin=b"y\n")[:2] == (0, b"2\n")
    assert db("clear").code == 2
    assert db("count").out == b"1\n"
    assert db("clear", "--yes") == (0, b"1\n", "")
    assert db("count", "-n", "inside").out == b"3\n"
    assert db("-n", "inside", "clear", "-y").out == b"3\n"


def test_namespaces() -> None:
    db("set", "k", "root")
    db("set", "k", "a", "--namespace", "a")
    db("-n", "a", "set", "k", "a/b", "-n", "b")
    db("set", "k", "a/c", "-n", "a", "-n", "c d")
    assert db("namespaces").lines == ["a"]
    assert db("namespaces", "-n", "a").lines == ["b", "c d"]
    assert db("namespaces", "-n", "a", "--json").json == [{"namespace": "b"}, {"namespace": "c d"}]
    assert call("namespaces", "sqlite:///app.db?namespace=a").lines == ["b", "c d"]
    assert call("get", "k", "--url", "sqlite:///app.db?namespace=a", "-n", "b").out == b"a/b"
    assert db("get", "k").out == b"root"
    failed(db("get", "k", "-n", ""), "namespace")


# upkeep


def test_stats() -> None:
    db("set", "key", "value", "-n", "a")
    (figures,) = db("stats", "--json", "-n", "a").json
    assert {**figures, "disk_bytes": 0, "version": ""} == {
        "url": "sqlite:///app.db",
        "namespaces": ["a"],
        "keys": 1,
        "expired": 0,
        "key_bytes": 3,
        "value_bytes": 5,
        "disk_bytes": 0,
        "backend": "sqlite",
        "version": "",
    }
    assert figures["disk_bytes"] > 0
    lines = call("stats", "sqlite:///app.db", "--namespace", "a").lines
    assert "namespace    a" in lines
    assert "value bytes  5" in lines
    assert "disk bytes   -" in call("stats", "memory://").lines


def test_compact_verify_backup_ddl() -> None:
    db("set", "k", "v")
    assert db("compact") == (0, b"", "")
    assert call("verify", "sqlite:///app.db") == (0, b"", "kv: read everything, all is well\n")
    assert db("backup", "copy.db")[:2] == (0, b"")
    assert call("get", "k", "-u", "sqlite:///copy.db").out == b"v"
    assert b"CREATE TABLE" in db("ddl").out
    with contextlib.closing(sqlite3.connect(":memory:")) as raw:
        raw.executescript(call("ddl", "sqlite:///app.db").out.decode())
    failed(call("ddl", "memory://"), "memory:// has no schema")
    failed(call("backup", "x.db", "-u", "memory://"), "memory:// has no backup", "export")


@pytest.mark.parametrize("server", ["postgres", "redis", "cluster"])
def test_every_verb_works_on_a_server(server: str, request: pytest.FixtureRequest) -> None:
    url = request.getfixturevalue(f"{server}_url")
    redis = server != "postgres"  # which needs no table, and removes by itself what has expired
    if not redis:
        failed(call("stats", url), "no table", "kv ddl")
    assert call("set", "k", "v", "-u", url).code == 0
    assert call("set", "gone", "v", "--ttl", "1ms", "-u", url).code == 0
    assert call("get", "k", "-u", url).out == b"v"
    wait_for(lambda: call("keys", "-u", url).lines == ["k"])
    assert call("cleanup", url) == (0, b"0\n" if redis else b"1\n", "")
    assert f"backend      {'redis' if redis else 'postgresql'}" in call("stats", url).lines
    assert call("verify", url) == (0, b"", "kv: read everything, all is well\n")
    assert call("compact", url) == (0, b"", "")
    assert call("copy", url, "sqlite:///copy.db", "--verify").code == 0
    assert call("get", "k", "-u", "sqlite:///copy.db").out == b"v"
    assert call("export", "-o", "out.jsonl", "-u", url).code == 0
    assert call("clear", "--yes", "-u", url).code == 0
    assert call("import", "out.jsonl", "-u", url).code == 0
    assert call("get", "k", "-u", url).out == b"v"
    if redis:
        failed(call("ddl", url), "has no schema")


@pytest.mark.parametrize("scheme", ["postgresql", "redis", "redis+cluster"])
def test_a_server_that_cannot_be_reached_is_named_without_its_password(scheme: str) -> None:
    failed(call("get", "k", "-u", f"{scheme}://u:s3cret@127.0.0.1:1/0"), "u:***@", "cannot be reached")


def test_verify_names_what_is_wrong() -> None:
    with kv.open("sqlite:///app.db") as store:
        store.set_many({f"{n:05}": random.Random(n).randbytes(100) for n in range(1_000)})
    with contextlib.closing(sqlite3.connect("app.db")) as raw:
        raw.execute("UPDATE kv_entries SET key = 'bad' || char(10) WHERE key = '00007'")
        raw.commit()
    answer = db("verify")
    assert answer.code == 1
    assert len(answer.lines) >= 1
    assert answer.err == "kv: 1 finding\n"
    answer = db("verify", "--json")
    assert answer.code == 1
    assert all(line.keys() == {"finding"} for line in answer.json)


def test_a_mistyped_path_makes_no_store(tmp_path: Path) -> None:
    wrong = "sqlite:///wrong.db"
    for args in (
        ("export",),
        ("stats",),
        ("cleanup",),
        ("compact",),
        ("verify",),
        ("namespaces",),
        ("backup", "b.db"),
    ):
        failed(call("--url", wrong, *args), "no store at sqlite:///wrong.db")
    failed(call("copy", wrong, "sqlite:///other.db", "--replace"), "no store at sqlite:///wrong.db")
    assert b"CREATE TABLE" in call("ddl", wrong).out
    assert list(tmp_path.iterdir()) == []


# which store


def test_a_shell_completes_verbs(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("_KV_COMPLETE", "bash_complete")
    monkeypatch.setenv("COMP_WORDS", "kv co")
    monkeypatch.setenv("COMP_CWORD", "1")
    done = subprocess.run(PROGRAM, capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["plain,compact", "plain,copy", "plain,count"]
    monkeypatch.setenv("_KV_COMPLETE", "zsh_source")
    assert "#compdef kv" in subprocess.run(PROGRAM, capture_output=True, text=True, check=True).stdout


def test_the_store_without_a_url_is_a_file_of_the_user(home: Path) -> None:
    answer = real("set", "k", "v")
    assert answer.code == 0
    made = home / "anykv" / "kv.db"
    assert made.exists()
    assert answer.err.startswith(f"kv: made sqlite:///{made}")
    assert real("get", "k") == (0, b"v", "")
    assert real("stats", "--json").json[0]["url"] == f"sqlite:///{made}"


def test_the_first_verb_may_be_any(home: Path) -> None:
    answer = call("get", "k")
    assert answer[:2] == (1, b"")
    assert answer.err.startswith("kv: made ")
    assert call("get", "k") == (1, b"", "")
    assert (home / "anykv" / "kv.db").exists()


def test_kv_url_and_where_urls_may_stand(monkeypatch: pytest.MonkeyPatch, home: Path) -> None:
    monkeypatch.setenv("KV_URL", "sqlite:///env.db")
    assert call("set", "k", "env") == (0, b"", "")
    assert call("--url", "sqlite:///before.db", "set", "k", "before").code == 0
    assert call("set", "k", "after", "-u", "sqlite:///after.db").code == 0
    assert call("get", "k").out == b"env"
    assert call("-u", "sqlite:///before.db", "get", "k").out == b"before"
    assert call("-u", "sqlite:///before.db", "get", "k", "-u", "sqlite:///after.db").out == b"after"
    assert call("stats", "sqlite:///after.db", "--json").json[0]["url"] == "sqlite:///after.db"
    assert call("stats", "--json").json[0]["url"] == "sqlite:///env.db"
    failed(call("stats", "sqlite:///after.db", "--url", "sqlite:///env.db"), "two URLs")
    assert not home.exists()


# help


def test_help_is_neat() -> None:
    answer = call("--help")
    assert answer.code == 0
    assert answer.err == ""
    assert call().out == answer.out
    assert call("-h").out == answer.out
    verbs = [
        "get",
        "set",
        "delete",
        "update-from-stdin",
        "keys",
        "scan",
        "count",
        "ttl",
        "expire",
        "persist",
        "increment",
        "add",
        "exists",
        "stats",
        "cleanup",
        "compact",
        "verify",
        "export",
        "import",
        "copy",
        "namespaces",
        "ddl",
        "demo",
        "pop",
        "size",
        "clear",
        "backup",
        "reencrypt",
    ]
    rows = {line.split()[0]: line for line in answer.lines if line.startswith("  ") and len(line.split()) > 1}
    for verb in verbs:
        assert rows[verb].endswith(".")
    assert max(map(len, answer.lines)) <= 80


def test_each_verb_has_an_example() -> None:
    from kv.cli.app import kv as program

    for verb in program.commands:
        answer = call(verb, "--help")
        assert answer.code == 0
        assert f"kv {verb}" in answer.out.decode().split("\n", 1)[1]
        assert max(map(len, answer.lines)) <= 80
        if verb != "copy":
            assert "--url" in answer.out.decode()
            assert "--namespace" in answer.out.decode()


def test_version() -> None:
    assert real("--version") == (0, f"anykv {kv.__version__}\n".encode(), "")


def test_without_the_extra_it_says_what_to_install() -> None:
    root = Path(kv.__file__).parents[1]
    done = subprocess.run(
        [sys.executable, "-S", "-m", "kv.cli", "get", "k"],
        capture_output=True,
        check=False,
        env={"PYTHONPATH": str(root), "PATH": os.environ["PATH"]},
    )
    assert done.returncode == 2
    assert done.stdout == b""
    assert done.stderr.decode() == 'kv: the command line needs click, platformdirs, rich: pip install "anykv[cli]"\n'


def test_a_locale_without_unicode_is_no_error() -> None:
    db("set", "é", "日本")
    plain = {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}
    assert real(*DB, "keys", env=plain).out.decode() == "é\n"
    assert real(*DB, "scan", env=plain).out.decode() == "é\t日本\n"
    failed(real(*DB, "get", "é", env=plain), "surrogate")  # as Python reads arguments there
