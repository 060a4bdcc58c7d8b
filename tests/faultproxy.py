"""A way to a server that knows where messages begin and end, and fails at any one of them. What `Proxy` can, it can too."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncIterator, Callable
from typing import Final, Literal, NamedTuple

from proxy import Proxy

Reader = asyncio.StreamReader
Place = Literal["before", "half", "after"]
Split = Callable[[Reader, bool], AsyncIterator[tuple[str, bytes]]]

PLACES: Final[tuple[Place, ...]] = ("before", "half", "after")
_STARTS: Final = {80877102: "cancel", 80877103: "TLS?", 80877104: "GSS?"}


class Fault(NamedTuple):
    """What happens to one message."""

    answers: bool
    """Whether it is one of the server's."""
    number: int
    """Which of those that go this way, since the fault was armed, from 0 on."""
    place: Place
    """Whether none, half or all of it arrives."""
    stalls: bool = False
    """Whether its connection stays, and says nothing more this way; else it ends, for both."""

    def __str__(self) -> str:
        what = "stalls" if self.stalls else "cut"
        return f"{what} {self.place} message {self.number} {'from' if self.answers else 'to'} the server"


class Message(NamedTuple):
    """One that came by: whether it is the server's, and its kind, as the protocol calls it."""

    answers: bool
    kind: str


class FaultProxy(Proxy):
    """A way to a port of this machine that speaks PostgreSQL's protocol or Redis', in `with`.

    Attributes:
        seen: the messages since `arm`.
        struck: whether the fault has happened.
        silent: which ways of new connections, of a client's words (False) and of the server's answers (True), say nothing
            until `restore`.
        delay: seconds that each message is late.
        came: how many connections have come.
    """

    came = 0

    def __init__(self, to: int, protocol: Literal["postgresql", "redis"]) -> None:
        super().__init__(to)
        self._split: Split = _postgresql if protocol == "postgresql" else _redis
        self._gates: set[tuple[bool, asyncio.Event]] = set()
        self.silent: set[bool] = set()
        self.delay = 0.0
        self.arm()

    def arm(self, fault: Fault | None = None) -> None:
        """Have that happen next; None: look, and nothing else."""
        self._fault, self._counts = fault, {False: 0, True: 0}
        self.seen: list[Message] = []
        self.struck = threading.Event()

    def silence(self, *ways: bool) -> None:
        """Say nothing more on the connections that there are, of a client's words (False) or of answers (True)."""
        for way, gate in [*self._gates]:
            if way in ways:
                self._loop.call_soon_threadsafe(gate.clear)
        self._settle()

    def restore(self) -> None:
        """Let everything through, also what was kept back."""
        self.silent, self.delay = set(), 0.0
        self.arm()
        for _, gate in [*self._gates]:
            self._loop.call_soon_threadsafe(gate.set)
        self._settle()

    def _settle(self) -> None:
        """Wait until what was said is done."""
        asyncio.run_coroutine_threadsafe(asyncio.sleep(0), self._loop).result(30)

    async def _way(self, near: Reader, near_out: asyncio.StreamWriter) -> None:
        self.came += 1
        await super()._way(near, near_out)

    async def _carry(self, begin: Reader, end: asyncio.StreamWriter, *, answers: bool) -> None:
        gate = asyncio.Event()
        if answers not in self.silent:
            gate.set()
        kept = answers, gate
        self._gates.add(kept)
        try:
            async for kind, message in self._split(begin, answers):
                await gate.wait()
                if self.delay:
                    await asyncio.sleep(self.delay)
                fault = self._met(answers, kind)
                part = {"before": 0, "half": (len(message) + 1) // 2}.get(fault.place if fault else "", len(message))
                end.write(message[:part])
                await end.drain()
                if fault:
                    self.struck.set()
                    if not fault.stalls:
                        return
                    gate.clear()
                    await gate.wait()
                    end.write(message[part:])
        except (OSError, EOFError):
            pass  # it has ended
        finally:
            self._gates.discard(kept)

    def _met(self, answers: bool, kind: str) -> Fault | None:
        """Take that a message comes by. Gives what happens to it."""
        number = self._counts[answers]
        self._counts[answers] += 1
        self.seen.append(Message(answers, kind))
        fault = self._fault
        return fault if fault and (fault.answers, fault.number) == (answers, number) else None


async def _postgresql(begin: Reader, answers: bool) -> AsyncIterator[tuple[str, bytes]]:
    started = answers
    while not started:  # these have no letter
        head = await begin.readexactly(8)
        said = int.from_bytes(head[4:])
        started = said not in _STARTS
        yield _STARTS.get(said, "startup"), head + await begin.readexactly(int.from_bytes(head[:4]) - 8)
    first = answers
    while True:
        kind = await begin.readexactly(1)
        if first and kind in b"NG":  # no TLS, no GSS
            yield f"{kind.decode()}o", kind
            continue
        first = False
        size = await begin.readexactly(4)
        yield kind.decode(), kind + size + await begin.readexactly(int.from_bytes(size) - 4)


async def _redis(begin: Reader, answers: bool) -> AsyncIterator[tuple[str, bytes]]:
    while True:
        message = await _resp(begin)
        yield (chr(message[0]) if answers else message.split(b"\r\n", 3)[2].decode()), message


async def _resp(begin: Reader) -> bytes:
    line = await begin.readuntil(b"\r\n")
    kind, size = line[:1], line[1:-2]
    if kind in b"$=!" and size != b"-1":
        return line + await begin.readexactly(int(size) + 2)
    if kind in b"*~>%" and size != b"-1":
        count = int(size) * (1 + (kind == b"%"))
        return b"".join([line, *[await _resp(begin) for _ in range(count)]])
    return line
