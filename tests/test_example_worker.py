"""The example of a worker: what it does, and what is left of it when it is ended in the middle of a job."""

from __future__ import annotations

import contextlib
import hashlib
import os
import pty
import select
import signal
import subprocess
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from scripts import command, example
from waiting import wait_for

import kv
from kv.adapters import Counts, Queue

if TYPE_CHECKING:
    from collections.abc import Iterator


def sums(url: str) -> dict[str, str]:
    """What has been done: sums by name."""
    with kv.open(url) as store:
        return {Path(path).name: total.decode() for path, total in store.namespace("sums").scan()}


def counts(url: str) -> Counts:
    with kv.open(url) as store:
        return Queue(store, "files", str).counts()


def push(url: str, *paths: Path) -> None:
    assert example("worker.py", url, "push", *paths) == (0, "", "")


def of(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


@pytest.fixture
def start() -> Iterator[Any]:
    """Starts workers, and ends what is left of them."""
    running: list[subprocess.Popen[bytes]] = []

    def one(url: str, *options: str, **streams: Any) -> subprocess.Popen[bytes]:
        running.append(
            subprocess.Popen(
                command("worker.py", url, "work", *options),
                **{"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, **streams},
            )
        )
        return running[-1]

    yield one
    for process in running:
        process.kill()
        process.communicate()


class Slow:
    """A file that a worker reads until it is told to end: a pipe."""

    def __init__(self, path: Path) -> None:
        os.mkfifo(path)
        self.path = path
        self._out = -1

    def being_read(self) -> bool:
        """Whether a worker has begun to read it: then it is in the middle of its job."""
        if self._out == -1:
            with contextlib.suppress(OSError):  # ENXIO: nobody reads it
                self._out = os.open(self.path, os.O_WRONLY | os.O_NONBLOCK)
        return self._out != -1

    def end(self, data: bytes = b"") -> None:
        os.write(self._out, data)
        os.close(self._out)
        self._out = -1


def test_workers_do_what_is_queued_once_and_quietly(shared: str, tmp_path: Path, start: Any) -> None:
    contents = {f"{n}.txt": b"%d" % n * 1_000 for n in range(20)}
    for name, data in contents.items():
        (tmp_path / name).write_bytes(data)
    push(shared, *(tmp_path / name for name in contents))
    assert counts(shared) == (20, 0, 0, 0)
    crew = [start(shared, "--drain") for _ in range(2)]
    assert [one.communicate(timeout=60) for one in crew] == [(b"", b"")] * 2
    assert [one.returncode for one in crew] == [0, 0]
    assert sums(shared) == {name: of(data) for name, data in contents.items()}
    assert counts(shared) == (0, 0, 0, 0)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_lets_it_finish_what_it_has_in_hand(number: signal.Signals, tmp_path: Path, start: Any) -> None:
    url = f"sqlite:///{tmp_path}/app.db"
    slow, next_one = Slow(tmp_path / "slow"), tmp_path / "next"
    next_one.write_bytes(b"")
    push(url, slow.path, next_one)
    worker = start(url)
    wait_for(slow.being_read)
    worker.send_signal(number)
    slow.end(b"x")
    assert worker.communicate(timeout=60) == (b"", b"")
    assert worker.returncode == 0
    assert sums(url) == {"slow": of(b"x")}
    assert counts(url) == (1, 0, 0, 0)


def test_a_second_signal_ends_it_at_once_and_the_job_is_not_lost(tmp_path: Path, start: Any) -> None:
    url = f"sqlite:///{tmp_path}/app.db"
    slow = Slow(tmp_path / "slow")
    push(url, slow.path)
    ours, theirs = pty.openpty()
    worker = start(url, stderr=theirs)
    os.close(theirs)
    wait_for(slow.being_read)
    shown = b""
    while b"finishing the job in hand" not in shown:
        worker.send_signal(signal.SIGTERM)  # one that comes just before the read waits with it for the next
        if select.select([ours], [], [], 1)[0]:
            shown += os.read(ours, 65_536)
    worker.send_signal(signal.SIGTERM)
    assert worker.wait(30) == -signal.SIGTERM
    os.close(ours)
    assert sums(url) == {}
    assert counts(url) == (0, 0, 1, 0)


def test_the_job_of_a_killed_worker_is_done_by_another(shared: str, tmp_path: Path, start: Any) -> None:
    slow = Slow(tmp_path / "slow")
    push(shared, slow.path)
    worker = start(shared, "--visibility", "0.5")
    wait_for(slow.being_read)
    worker.kill()
    assert worker.wait(60) == -signal.SIGKILL
    slow.end()
    other = start(shared)
    wait_for(slow.being_read)
    slow.end(b"again")
    wait_for(lambda: counts(shared) == (0, 0, 0, 0))
    other.terminate()
    assert other.communicate(timeout=60) == (b"", b"")
    assert sums(shared) == {"slow": of(b"again")}
    assert counts(shared) == (0, 0, 0, 0)


def test_a_job_that_fails_is_a_dead_letter_at_last_and_can_be_done_again(tmp_path: Path) -> None:
    url, path = f"sqlite:///{tmp_path}/app.db", tmp_path / "missing"
    push(url, path)
    code, out, err = example("worker.py", url, "work", "--drain", "--attempts", "1")
    assert (code, out) == (0, "")
    assert err == f"worker: [Errno 2] No such file or directory: '{path}'\n"
    code, out, err = example("worker.py", url, "status")
    assert (code, err) == (1, "")
    assert out.startswith("0 ready, 0 delayed, 0 claimed, 1 dead\n")
    assert out.endswith(f": FileNotFoundError: [Errno 2] No such file or directory: '{path}'\n")
    path.write_bytes(b"there")
    assert example("worker.py", url, "retry") == (0, "", "")
    assert example("worker.py", url, "work", "--drain") == (0, "", "")
    assert example("worker.py", url, "sums") == (0, f"{of(b'there')}  {path}\n", "")
    assert example("worker.py", url, "status") == (0, "0 ready, 0 delayed, 0 claimed, 0 dead\n", "")


def test_on_a_terminal_it_shows_how_far_it_is(tmp_path: Path, start: Any) -> None:
    url = f"sqlite:///{tmp_path}/app.db"
    push(url, Path(__file__))
    ours, theirs = pty.openpty()
    worker = start(url, stderr=theirs)
    os.close(theirs)
    shown = b""
    while b"1 done here; 0 ready, 0 delayed, 0 claimed, 0 dead" not in shown:
        shown += os.read(ours, 65_536)
    worker.terminate()
    assert worker.wait(60) == 0
    os.close(ours)


def test_what_is_wrong_is_said_in_one_line() -> None:
    code, out, err = example("worker.py", "nonsense://", "status")
    assert (code, out) == (2, "")
    assert err.startswith("worker: ")
    assert err.count("\n") == 1
