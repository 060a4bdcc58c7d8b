"""Workers over a queue: the SHA-256 of files, by as many processes as are started, on whatever store the URL names.

    python worker.py sqlite:///app.db push *.iso
    python worker.py sqlite:///app.db work            # until Ctrl-C or SIGTERM, which let it finish what it has in hand
    python worker.py sqlite:///app.db work --drain    # until nothing is ready
    python worker.py sqlite:///app.db sums            # as sha256sum prints them
    python worker.py sqlite:///app.db status          # exits 1 where there are dead letters
    python worker.py sqlite:///app.db retry           # the dead letters

A worker that is killed loses nothing: its job is ready again when its claim runs out. So a job may be done twice, and this
one may: it writes the same sum to the same key again. A job that fails is tried again, later and later, and at last is a
dead letter.
"""

from __future__ import annotations

import argparse
import contextlib
import hashlib
import os
import signal
import sys
import threading
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING

import kv
from kv.adapters import Job, LeaseLost, Queue

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

CHUNK = 1 << 20


@dataclass(frozen=True)
class File:
    """A job."""

    path: str


def digest(job: Job[File], visibility: float) -> str:
    """Give the sum of a file. The claim is extended in time, so that a file may be of any size."""
    total, claimed = hashlib.sha256(), time.monotonic()
    with open(job.value.path, "rb") as file:
        while chunk := file.read(CHUNK):
            total.update(chunk)
            if time.monotonic() > claimed + visibility / 3:
                job.extend()
                claimed = time.monotonic()
    return total.hexdigest()


def work(store: kv.Store, queue: Queue[File], visibility: float, *, drain: bool) -> None:
    """Do jobs until there is a signal, or no job."""
    stop, sums = until_signalled(), store.namespace("sums")
    done = 0
    with progress() as say:
        while not stop.is_set():
            try:
                job = queue.claim(timeout=0 if drain else 1)
                if job is None:
                    if drain:
                        return
                    say(done, queue)
                    continue
                with job:
                    sums.set(job.value.path, digest(job, visibility).encode())
                done += 1
                say(done, queue)
            except (OSError, LeaseLost, kv.CorruptData) as e:  # the job has been given back, or is a dead letter
                print(f"worker: {e}", file=sys.stderr)


def until_signalled() -> threading.Event:
    """Give an event that SIGTERM or Ctrl-C sets. A second signal ends the program at once."""
    stop = threading.Event()

    def handler(number: int, _frame: object) -> None:
        signal.signal(number, signal.SIG_DFL)
        stop.set()
        if os.isatty(2):  # not print(), which may be what was interrupted
            os.write(2, b"\nfinishing the job in hand; once more, and it ends at once\n")

    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, handler)
    return stop


@contextlib.contextmanager
def progress() -> Iterator[Callable[[int, Queue[File]], None]]:
    """Give what shows how far it is, about once a second: on a terminal, and nowhere else."""
    if not sys.stderr.isatty():
        yield lambda done, queue: None  # noqa: ARG005
        return
    shown = 0.0

    def say(done: int, queue: Queue[File]) -> None:
        nonlocal shown
        if time.monotonic() >= shown + 1:
            shown = time.monotonic()
            print(f"\r{done} done here; {described(queue)}\x1b[K", end="", flush=True, file=sys.stderr)

    try:
        yield say
    finally:
        print(file=sys.stderr)


def described(queue: Queue[File]) -> str:
    """Give the counts in words."""
    return ", ".join(f"{count:,} {state}" for state, count in queue.counts()._asdict().items())


def run(arguments: argparse.Namespace) -> int:
    """Do what the command line says."""
    with kv.open(arguments.url) as store:
        visibility = getattr(arguments, "visibility", 30.0)
        attempts = getattr(arguments, "attempts", 5)
        queue = Queue(store, "files", File, visibility=visibility, max_attempts=attempts)
        if arguments.command == "push":
            queue.push_many(File(os.path.abspath(path)) for path in arguments.file)
        elif arguments.command == "work":
            work(store, queue, visibility, drain=arguments.drain)
        elif arguments.command == "sums":
            for path, total in store.namespace("sums").scan():
                print(f"{total.decode()}  {path}")
        elif arguments.command == "status":
            print(described(queue))
            for letter in queue.dead():
                print(f"{letter.id}: {letter.error}")
            return 1 if queue.counts().dead else 0
        elif arguments.command == "retry":
            for letter in queue.dead():
                queue.retry_dead(letter.id)
    return 0


def main() -> int:
    """Run the program. Gives its exit code."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("url", help="of the store, as sqlite:///app.db or redis://localhost")
    commands = parser.add_subparsers(dest="command", required=True)
    commands.add_parser("push", help="queue files").add_argument("file", nargs="+")
    worker = commands.add_parser("work", help="do what is queued")
    worker.add_argument("--drain", action="store_true", help="end where nothing is ready")
    worker.add_argument("--visibility", type=float, default=30.0, metavar="SECONDS", help="how long a claim stands")
    worker.add_argument("--attempts", type=int, default=5, metavar="N", help="until a job is a dead letter")
    for name, what in (("sums", "print what is done"), ("status", "count jobs"), ("retry", "queue dead letters again")):
        commands.add_parser(name, help=what)
    try:
        return run(parser.parse_args())
    except kv.KVError as e:
        print(f"worker: {e}", file=sys.stderr)
        return 2


if __name__ == "__main__":
    sys.exit(main())
