"""A process that is killed in the middle of a call, at every point of it in turn, and what others see then.

Forks, and so runs in a process of its own: `programs.python` calls `sqlite_calls` or `server_calls`.
"""

from __future__ import annotations

import asyncio
import contextlib
import math
import os
import random
import resource
import select
import signal
import socket
from itertools import count
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from waiting import wait_for

import kv
from kv.testing.suite import LONG, lifted

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Iterable, Iterator

    Seen = dict[str, tuple[bytes, bool]]

OLD, DATED, NUMBER, NEW = KEYS = ["{t}old", "{t}dated", "{t}number", "{t}new"]
LARGE = b"large" * 2_000
CALLS: dict[str, Callable[[kv.AsyncStore], Awaitable[object]]] = {
    "update": lambda s: s.update(OLD, lambda value: LARGE),
    "update of a missing one": lambda s: s.update(NEW, lambda value: b"new", ttl_if_new=LONG),
    "update that deletes": lambda s: s.update(DATED, lambda value: None),
    "set_many": lambda s: s.set_many({NEW: b"new", OLD: LARGE, DATED: b"new"}),
    "set_many with a ttl": lambda s: s.set_many({NEW: b"new", OLD: b"new", DATED: b"new"}, ttl=LONG),
    "update_many": lambda s: s.update_many([NEW, OLD, DATED], lambda found: {NEW: b"new", OLD: LARGE}),
    "delete_many": lambda s: s.delete_many([OLD, DATED]),
    "increment": lambda s: s.increment(NUMBER, ttl=LONG),
}
UPKEEP: dict[str, Callable[[kv.AsyncStore], Awaitable[object]]] = {
    "compact": lambda s: s.compact(),
    "close": lambda s: s.aclose(),  # carries the log into the file
}
"""What changes no entry."""
TIMEOUT = 20
"""Seconds that others wait for a lock at most; they never do."""


async def restore(store: kv.AsyncStore) -> None:
    """What there is before each call."""
    await store.set_many({OLD: b"old", NUMBER: b"41"})
    await store.set(DATED, b"dated", ttl=LONG)
    await store.delete(NEW)


async def look(store: kv.AsyncStore) -> Seen:
    """What there is, as another writer sees it, who waits for nobody's lock but for those of the living."""
    seen: dict[str, bytes] = {}

    def keep(found: dict[str, bytes]) -> dict[str, bytes]:
        seen.update(found)
        return found

    await store.update_many(KEYS, keep)
    assert await store.get_many(KEYS) == seen
    return {key: (value, await store.ttl(key) == math.inf) for key, value in seen.items()}


def opened(url: str, colour: str) -> Any:
    return lifted(kv.open(url) if colour == "sync" else kv.open_async(url))


def forked(url: str, colour: str, name: str, arm: Callable[[Any], object]) -> int:
    """Begin a call in a child, which is armed when it has come so far."""

    async def main() -> None:
        store = opened(url, colour)
        await (restore(store) if name in UPKEEP else store.get("-"))
        arm(store)
        await (CALLS | UPKEEP)[name](store)
        os._exit(0)

    pid = os.fork()
    if not pid:
        try:
            asyncio.run(main())
        finally:
            os._exit(1)
    return pid


def was_killed(pid: int) -> bool:
    _, status = os.waitpid(pid, 0)
    if os.WIFSIGNALED(status):
        assert os.WTERMSIG(status) in (signal.SIGKILL, signal.SIGXFSZ), status
        return True
    assert status == 0, f"the call has failed, see above: {status}"
    return False


def die() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


class Fuse:
    """Kills its process when it has been asked so often."""

    def __init__(self, n: int) -> None:
        self._left = n

    def __call__(self, *_: object) -> int:
        self._left -= 1
        if self._left <= 0:
            die()
        return 0


# SQLite


def writer_of(store: Any) -> Any:
    database = store._store._db
    return database.open()


def at_statement(store: Any, n: int) -> None:
    writer_of(store).set_trace_callback(Fuse(n))


def at_instruction(store: Any, n: int) -> None:
    """Of SQLite's virtual machine."""
    writer_of(store).set_progress_handler(Fuse(n), 1)


def at_byte(_: Any, n: int) -> None:
    """Of the log, which is empty: what lies behind is not written, and the kernel kills who tries."""
    signal.signal(signal.SIGXFSZ, signal.SIG_DFL)
    resource.setrlimit(resource.RLIMIT_FSIZE, (n, resource.RLIM_INFINITY))


BYTES = [
    *range(25_000),
    *(32 + 4_120 * page + near for page in range(6) for near in (-1, 0, 1, 24) for _ in range(500)),
]
"""Of a log, most of them where a page begins."""
POINTS: dict[str, Callable[[Any, int], None]] = {
    "statement": at_statement,
    "instruction": at_instruction,
    "byte": at_byte,
}


def sqlite_call(path: str, colour: str, name: str, points: str, numbers: Iterable[int], beside: bool) -> int:
    """Kill a call at these points, while another process has the store open or not. Gives how often it was killed.

    The numbers end where the call comes to its end.
    """
    url = f"sqlite:///{path}?durability=normal&lock_timeout={TIMEOUT if beside else 0.001}"

    def now(work: Callable[[kv.AsyncStore], Awaitable[Any]]) -> Any:
        async def main() -> Any:
            async with opened(url, "sync") as store:
                return await work(store)

        return asyncio.run(main())

    now(restore)
    prepared = Path(path).read_bytes()
    before = now(look)
    now((CALLS | UPKEEP)[name])
    after = now(look)
    assert (after == before) == (name in UPKEEP)
    killed = 0
    with kv.open(url) if beside else contextlib.nullcontext():
        for n in numbers:
            if beside:
                now(restore)
            else:
                Path(path).write_bytes(prepared)  # closed stores leave no log beside it
            if not was_killed(forked(url, colour, name, lambda store, n=n: POINTS[points](store, n))):  # type: ignore[misc]
                assert now(look) == after
                break
            killed += 1
            found = now(look)
            assert found in (before, after), f"{points} {n} of {name} ({colour}): {found}"
    return killed


def sqlite_calls(path: str, points: str, most: int, seed: str, names: list[str]) -> None:
    """Kill these calls in each colour at each point, or at so many of them by chance. Prints how often."""
    chance, killed = random.Random(seed), 0
    for beside in (False,) if points == "byte" else (False, True):  # a log that is not empty has no first byte
        for name in names:
            for colour in ("sync", "async"):
                numbers: Iterable[int] = count(1)
                if most:
                    numbers = sorted(chance.sample(range(1, 150) if points == "instruction" else BYTES, most))
                killed += sqlite_call(path, colour, name, points, numbers, beside)
    print(killed)


# servers


def postgres_message(said: bytes, first: bool) -> int:
    """How long the first message is, or 0 where it is not whole."""
    kind = 0 if first else 1
    if len(said) < kind + 4:
        return 0
    length = kind + int.from_bytes(said[kind : kind + 4])
    return length if len(said) >= length else 0


def redis_command(said: bytes, _: bool) -> int:
    try:
        end = said.index(b"\r\n") + 2
        for _part in range(int(said[1 : end - 2])):
            head = said.index(b"\r\n", end) + 2
            end = head + int(said[end + 1 : head - 2]) + 2
    except ValueError:
        return 0
    return end if len(said) >= end else 0


class Gate:
    """A way to a server for one process, which is killed when it has sent so much.

    Attributes:
        port: where it answers.
    """

    def __init__(self, to: tuple[str, int], message: Callable[[bytes, bool], int]) -> None:
        self._to, self._message = to, message
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port = self._listener.getsockname()[1]
        self._ours, self._childs = socket.socketpair()

    def arm(self, _: object) -> None:
        """In the child: from here on it counts."""
        self._childs.sendall(b"!")
        self._childs.recv(1)

    def carry(self, pid: int, n: int, *, byte: bool) -> bool:
        """Carry what the child says, and kill it before its n-th message or byte; whether it was killed."""
        ways: dict[socket.socket, socket.socket] = {}
        said: dict[socket.socket, bytes] = {}  # by the child, and not carried yet
        first = {*said}  # that have said nothing yet
        armed, sent, ended = False, 0, os.pidfd_open(pid)
        try:
            while True:
                watched: list[Any] = [self._listener, self._ours, ended, *ways]
                for end in select.select(watched, [], [])[0]:
                    if end == ended:
                        return was_killed(pid)
                    if end is self._ours:
                        armed = True
                        self._ours.sendall(self._ours.recv(1))
                    elif end is self._listener:
                        near, far = self._listener.accept()[0], socket.create_connection(self._to)
                        far.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
                        ways[near], ways[far], said[near] = far, near, b""
                        first.add(near)
                    elif end not in ways:
                        pass  # the other end has just been closed
                    elif not (more := end.recv(65_536)):
                        other = ways.pop(end)
                        del ways[other]
                        end.close()
                        other.close()
                    elif end not in said:
                        ways[end].sendall(more)
                    else:
                        said[end] += more
                        while (
                            length := min(len(said[end]), 1)
                            if byte and armed
                            else self._message(said[end], end in first)
                        ):
                            sent += armed
                            if sent >= n:
                                os.kill(pid, signal.SIGKILL)
                                return was_killed(pid)
                            ways[end].sendall(said[end][:length])
                            said[end] = said[end][length:]
                            first.discard(end)
        finally:
            os.close(ended)
            for end in ways:
                end.close()

    def close(self) -> None:
        for end in (self._listener, self._ours, self._childs):
            end.close()


NAME = f"killed-{os.getpid()}"
"""By which the server knows who is killed."""


@contextlib.contextmanager
def onlooker(url: str) -> Iterator[Callable[[], object]]:
    """What tells whether the server has still to do with who was killed."""
    if url.startswith("redis"):
        from redis import Redis

        with Redis.from_url(url.partition("?")[0]) as client:
            yield lambda: f" name={NAME} ".encode() in client.execute_command("CLIENT", "LIST")
    else:
        import asyncpg  # noqa: F401 - for the children
        import psycopg

        asked = f"SELECT 1 FROM pg_stat_activity WHERE application_name = '{NAME}'"
        with psycopg.connect(url.partition("?")[0], autocommit=True) as connection:
            yield lambda: connection.execute(asked).fetchone()


def server_calls(url: str, points: str, most: int, seed: str, names: list[str]) -> None:
    """Kill these calls in each colour before each message to a server, or before so many bytes by chance. Prints how
    often.
    """
    chance, to = random.Random(seed), urlsplit(url)
    port, message, parameter = (
        (6379, redis_command, "client_name") if to.scheme == "redis" else (5432, postgres_message, "application_name")
    )
    with onlooker(url) as at_work, contextlib.closing(Gate((to.hostname or "", to.port or port), message)) as gate:
        user = to.netloc.rpartition("@")[0]
        through = to._replace(netloc=f"{user}@127.0.0.1:{gate.port}" if user else f"127.0.0.1:{gate.port}").geturl()
        through += f"&{parameter}={NAME}&lock_timeout={TIMEOUT}"
        killed = 0

        async def main() -> None:
            nonlocal killed
            async with opened(f"{url}&lock_timeout={TIMEOUT}", "sync") as store:
                for name in names:
                    await restore(store)
                    before = await look(store)
                    await CALLS[name](store)
                    after = await look(store)
                    assert after != before
                    for colour in ("sync", "async"):
                        for n in sorted(chance.sample(range(1, 2_000), most)) if most else count(1):
                            await restore(store)
                            pid = forked(through, colour, name, gate.arm)
                            if not gate.carry(pid, n, byte=points == "byte"):
                                assert await look(store) == after
                                break
                            killed += 1
                            await look(store)  # at once, whatever the server still does for who was killed
                            wait_for(lambda: not at_work())
                            found = await look(store)
                            assert found in (before, after), f"{points} {n} of {name} ({colour}): {found}"

        asyncio.run(main())
        print(killed)
