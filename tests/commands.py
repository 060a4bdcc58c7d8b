"""Runs `kv` in this process, as a program, and on a terminal."""

from __future__ import annotations

import contextlib
import io
import json
import os
import pty
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from kv.cli.app import run

if TYPE_CHECKING:
    import signal

PROGRAM = [sys.executable, "-W", "error", "-m", "kv.cli"]


class Answer(NamedTuple):
    code: int
    out: bytes
    err: str

    @property
    def lines(self) -> list[str]:
        return self.out.decode().splitlines()

    @property
    def json(self) -> list[Any]:
        return [json.loads(line) for line in self.lines]


def call(*args: str, stdin: bytes = b"") -> Answer:
    """Run a command line in this process."""
    streams = [io.TextIOWrapper(io.BytesIO(data), "utf-8") for data in (stdin, b"", b"")]
    before = sys.stdin
    with contextlib.redirect_stdout(streams[1]), contextlib.redirect_stderr(streams[2]):
        sys.stdin = streams[0]
        try:
            code = run(list(args))
        finally:
            sys.stdin = before
    for stream in streams:
        stream.flush()
    out, err = (stream.buffer.getvalue() for stream in streams[1:])
    return Answer(code, out, err.decode())


def real(*args: str, stdin: bytes = b"", env: dict[str, str] | None = None) -> Answer:
    """Run the real program."""
    done = subprocess.run(
        [*PROGRAM, *args], input=stdin, capture_output=True, env={**os.environ, **(env or {})}, check=False
    )
    return Answer(done.returncode, done.stdout, done.stderr.decode())


def start(*args: str, **streams: Any) -> subprocess.Popen[bytes]:
    return subprocess.Popen([*PROGRAM, *args], **{"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, **streams})


def on_terminal(*args: str, stdin: bytes | None = None, err: bool = False) -> Answer:
    """Run the real program with its standard output (or standard error) on a terminal. Gives what the terminal got."""
    ours, theirs = pty.openpty()
    streams: dict[str, Any] = {"stdin": subprocess.PIPE if stdin is not None else theirs}
    streams |= {"stderr": theirs, "stdout": subprocess.PIPE} if err else {"stdout": theirs, "stderr": subprocess.PIPE}
    with start(*args, env={**os.environ, "TERM": "xterm", "COLUMNS": "100"}, **streams) as process:
        os.close(theirs)
        if stdin is not None:
            assert process.stdin
            process.stdin.write(stdin)
            process.stdin.close()
        got = b""
        with contextlib.suppress(OSError):  # EIO: nobody has the other end any more
            while data := os.read(ours, 65_536):
                got += data
        os.close(ours)
        other = process.stdout if err else process.stderr
        assert other
        rest = other.read()
    return Answer(process.returncode, rest if err else got, (got if err else rest).decode())


def failed(answer: Answer, *words: str) -> None:
    """See that it was an error, said in one line."""
    assert answer.code == 2
    assert answer.out == b""
    assert answer.err.startswith("kv: ")
    assert answer.err.endswith("\n")
    assert answer.err.count("\n") == 1
    assert "Traceback" not in answer.err
    for word in words:
        assert word in answer.err


DB = ("--url", "sqlite:///app.db")


def db(*args: str, stdin: bytes = b"") -> Answer:
    return call(*DB, *args, stdin=stdin)


ANY_BYTES = bytes(range(256)) + b"\r\n\n"


def interrupted_export(source: Path, target: Path, sent: signal.Signals) -> subprocess.Popen[bytes]:
    """Interrupt an export in the middle of its work."""
    part = Path(f"{target}.part")
    while True:
        process = start("-u", f"sqlite:///{source}", "export", "-o", str(target))
        while process.poll() is None and (not part.exists() or part.stat().st_size < 1_000_000):
            pass
        process.send_signal(sent)
        process.wait()
        if not target.exists():
            return process
        target.unlink()  # it was faster than we
        process.communicate()
