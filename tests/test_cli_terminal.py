"""What `kv` does only on a terminal."""

from __future__ import annotations

import os
import pty
from typing import TYPE_CHECKING

import pytest
from commands import (
    DB,
    db,
    on_terminal,
    real,
    start,
)

import kv

if TYPE_CHECKING:
    from pathlib import Path

pytestmark = pytest.mark.usefixtures("home")


def test_a_value_is_readable_on_a_terminal() -> None:
    with kv.open("sqlite:///app.db") as store:
        store.set("text", "é\ttab\nline".encode())
        store.set("nasty", b"\x1b[31mred\x07\x00\r\n\xff\xc3\x28" + "\u202egnp\u0085".encode())
    shown = on_terminal(*DB, "get", "text").out.decode()
    assert shown == "é\ttab\r\nline\r\n"
    shown = on_terminal(*DB, "get", "nasty").out.decode()
    assert shown == "\\x1b[31mred\\x07\\x00\\r\r\n\\xff\\xc3(\\u202egnp\\u0085\r\n"
    assert on_terminal(*DB, "pop", "text").out.decode() == "é\ttab\r\nline\r\n"


def test_a_key_plays_no_tricks_on_a_terminal() -> None:
    db("set", "\u202ekey", "v")
    assert on_terminal(*DB, "keys").out.decode() == "\\u202ekey\r\n"
    assert on_terminal(*DB, "scan").out.decode() == "\\u202ekey\tv\r\n"
    assert real(*DB, "keys").out.decode() == "\u202ekey\n"


def test_progress_is_shown_on_a_terminal_and_nowhere_else(big: Path, big_export: Path) -> None:
    source = f"sqlite:///{big}"
    answer = on_terminal("-u", source, "export", "-o", "out", err=True)
    assert answer.code == 0
    assert "exporting" in answer.err
    assert "\x1b[" in answer.err
    assert "exported 100,000 entries" in answer.err
    quiet = real("-u", source, "export", "-o", "out")
    assert "\x1b[" not in quiet.err
    assert len(quiet.err.splitlines()) == 1
    answer = on_terminal(*DB, "import", str(big_export), err=True)
    assert "checking" in answer.err
    assert "importing" in answer.err
    answer = on_terminal("copy", source, "memory://", "--verify", err=True)
    assert "copying" in answer.err
    assert "comparing" in answer.err
    answer = on_terminal("verify", source, err=True)
    assert "reading every entry" in answer.err
    assert real("verify", source).err == "kv: read everything, all is well\n"


def test_clear_asks_on_a_terminal() -> None:
    db("set", "k", "v")
    ours, theirs = pty.openpty()
    with start(*DB, "clear", stdin=theirs) as process:
        os.close(theirs)
        assert process.stderr
        assert b"[y/N]" in process.stderr.readline()
        os.write(ours, b"yes\n")
        assert process.stdout
        assert process.stdout.read() == b"1\n"
    os.close(ours)
    assert process.returncode == 0
