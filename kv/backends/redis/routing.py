"""Which server gets which command, and what becomes of what it answers: redirections, retries, errors. Pure.

`Plan` decides, and the two executors, `through_redis.py` and `through_redis_asyncio.py`, do what it says: while it gives
batches, they send each to its server and tell it what came of it.
"""

from __future__ import annotations

import random
import time
from typing import TYPE_CHECKING, Any, Final, NamedTuple, TypeAlias

from redis import exceptions
from redis.crc import key_slot

from kv.errors import KVError, OutcomeUnknown, Unavailable

from . import commands
from .errors import exhausted, lost, ours, partly

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from .commands import Command

Address: TypeAlias = tuple[str, int]

ALONE: Final[Address] = ("", 0)
"""Where there is one server, and no need to know its address."""

_HOPS: Final = 16
"""So often one command is sent elsewhere, or again, at most."""


class Layout(NamedTuple):
    """Where keys may be."""

    servers: Sequence[Address] = (ALONE,)
    """All that have some, in the view of any: also who is just being given its first slot."""
    slots: Sequence[Sequence[bytes]] = ()
    """What each of them says that it has."""
    moving: bool = False
    """Whether slots are on their way from one to another."""


class Slots:
    """The servers, and which of them has which of the 16,384 slots; a single server has them all.

    Attributes:
        stale: a server was not where it should be, or did not answer: ask again before the next command.
        primaries: the servers that have slots.
    """

    def __init__(self, seeds: Sequence[Address] = ()) -> None:
        self.alone = not seeds
        self.seeds = [*seeds]
        self.stale = not self.alone
        self.primaries: list[Address] = [ALONE] if self.alone else []
        self._slots: list[Address | None] = [None] * (0 if self.alone else 16_384)
        self._silent: set[Address] = set()

    def of(self, name: bytes) -> Address:
        """Give the server that has a key."""
        if self.alone:
            return ALONE
        return self._slots[key_slot(name)] or (self.primaries or self.seeds)[0]

    @property
    def known(self) -> list[Address]:
        """Every server that may be asked which are where, last those that did not answer when they were asked last."""
        return sorted(dict.fromkeys([*self.primaries, *self.seeds]), key=self._silent.__contains__)

    def doubt(self, address: Address) -> None:
        """Take that a server did not answer."""
        self.stale = not self.alone
        self._silent.add(address)

    def learn(self, answer: Any, asked: Address) -> None:
        """Take what `CLUSTER SLOTS` says."""
        slots: list[Address | None] = [None] * 16_384
        primaries: dict[Address, None] = {}
        for first, last, (host, port, *_), *_ in answer:
            address = _address(host, port, asked)
            primaries[address] = None
            slots[first : last + 1] = [address] * (last + 1 - first)
        self._silent.discard(asked)
        if primaries:
            self._slots, self.primaries, self.stale = slots, [*primaries], False

    def layout(self, said: Iterable[tuple[Address, list[Any]]]) -> Layout:
        """Give what there is now, as each of the primaries says in `CLUSTER SLOTS` and `CLUSTER NODES`."""
        servers: dict[Address, None] = {}
        slots, moving = [], False
        for asked, (answer, nodes) in said:
            primaries = {name: _address(host, port, asked) for _, _, (host, port, name, *_), *_ in answer}
            rows = {row[0]: row for row in map(bytes.split, nodes.splitlines())}
            (mine,) = (row[8:] for row in rows.values() if b"myself" in row[2])
            for on_its_way in (word for word in mine if word.startswith(b"[")):  # [slot->-to] or [slot-<-from]
                moving = True
                name = on_its_way[1:-1].split(b"-")[2]
                host, _, port = rows[name][1].partition(b"@")[0].rpartition(b":")
                primaries.setdefault(name, _address(host, port, asked))
            servers.update(dict.fromkeys(primaries.values()))
            slots.append(mine)
        return Layout([*servers], slots, moving)

    def together(self, names: Sequence[bytes]) -> bool:
        """Whether one step can touch them all."""
        return self.alone or len({key_slot(name) for name in names}) <= 1

    def spread(self, names: Sequence[bytes], most: int | None = None) -> list[list[bytes]]:
        """Give the keys in groups that one command may name each, of so many at most."""
        if self.alone:
            groups = [[*names]] if names else []
        else:
            by_slot: dict[int, list[bytes]] = {}
            for name in names:
                by_slot.setdefault(key_slot(name), []).append(name)
            groups = [*by_slot.values()]
        return [group[i : i + most] for group in groups for i in range(0, len(group), most)] if most else groups


def _address(host: bytes | None, port: bytes | int, asked: Address) -> Address:
    """Give the address that a server tells of another; where it tells none, that is its own."""
    return (host or b"").decode() or asked[0], int(port)


class Batch(NamedTuple):
    """What is sent to one server together."""

    address: Address
    commands: list[Command]
    places: list[int]
    """Where among the answers theirs belong."""
    asking: bool = False
    """Whether for slots that it is just being given."""

    @property
    def sent(self) -> list[tuple[Any, ...]]:
        if self.asking:
            return [args for command in self.commands for args in (("ASKING",), command.args)]
        return [command.args for command in self.commands]

    def answers(self, received: list[Any]) -> list[Any]:
        """Give those of the commands themselves."""
        return received[1::2] if self.asking else received


class Plan:
    """Commands on their way, until each has its answer.

    Attributes:
        answers: of each command in turn.
        wait: seconds before the batches just given are sent.
    """

    def __init__(self, asked: Sequence[Command], slots: Slots, shown: str, timeout: float) -> None:
        self._commands = [*asked]
        self._slots = slots
        self._shown = shown
        self._end = time.monotonic() + timeout
        self._tries = [0] * len(asked)
        self._todo: list[tuple[int, Address | None, bool]] = [(i, None, False) for i in range(len(asked))]
        self._error: KVError | None = None
        self._written = False
        self.answers: list[Any] = [None] * len(asked)
        self.wait = self._pause = 0.0

    @property
    def lost_its_way(self) -> bool:
        """Whether to ask which server has what, before the next batches."""
        return self._slots.stale and bool(self._todo)

    def give_up(self, error: KVError) -> None:
        """Take that no server says which of them has what."""
        for i, _, _ in self._todo:
            self._fail(i, error, sent=False)
        self._todo = []

    def batches(self) -> list[Batch]:
        """Give what to send now; nothing where all is answered.

        Raises:
            KVError: what the first of the commands that failed met, when nothing else is under way.
        """
        batches: dict[tuple[Address, bool], Batch] = {}
        for i, told, asking in self._todo:
            command = self._commands[i]
            address = told or self._slots.of(command.name)
            batch = batches.setdefault((address, asking), Batch(address, [], [], asking))
            batch.commands.append(command)
            batch.places.append(i)
        self._todo = []
        self.wait, self._pause = self._pause, 0.0
        if not batches and self._error is not None:
            if self._written and isinstance(self._error, Unavailable):
                raise partly(self._error, self._shown) from self._error.__cause__
            raise self._error
        return [*batches.values()]

    def took(self, batch: Batch, received: list[Any]) -> None:
        """Take what a server answered, errors among it."""
        for i, answer in zip(batch.places, batch.answers(received), strict=True):
            if isinstance(answer, exceptions.ResponseError):
                self._refused(i, answer, batch.address)
            else:
                self.answers[i] = answer
                self._written = self._written or self._commands[i].writes

    def _refused(self, i: int, error: exceptions.ResponseError, by: Address) -> None:
        """What a server would not do had no effect, and may be sent again."""
        command = self._commands[i]
        if isinstance(error, exceptions.NoScriptError) and command.args[0] == "EVALSHA":
            self._commands[i] = commands.whole(command)
            self._todo.append((i, None, False))
        elif isinstance(error, exceptions.TryAgainError) and time.monotonic() < self._end:
            self._todo.append((i, None, False))
            self._pause = random.uniform(0, 0.05)
        elif isinstance(error, exceptions.AskError) and not self._slots.alone and self._more(i):
            moved = isinstance(error, exceptions.MovedError)
            self._slots.stale = self._slots.stale or moved
            self._todo.append((i, (error.host or by[0], error.port), not moved))
            if self._tries[i] > 2:
                self._pause = random.uniform(0, 0.05)
        elif isinstance(error, exceptions.ClusterDownError) and not self._slots.alone and self._more(i):
            self._slots.stale = True  # for a moment also where a primary hands over to its replica
            self._todo.append((i, None, False))
            self._pause = random.uniform(0, 0.05)
        else:
            self._fail(i, error)

    def failed(self, batch: Batch, error: BaseException, *, sent: bool) -> None:
        """Take that a server could not be reached, or was lost with the commands on their way."""
        cause = error.__cause__
        refused = isinstance(error, KVError) and (cause is None or exhausted(cause))  # closed, or all are busy
        if not refused:
            self._slots.doubt(batch.address)
        most = 0 if refused else int(sent) if self._slots.alone else 3
        for i in batch.places:
            writes = self._commands[i].writes and sent
            if not (writes and lost(error)) and self._tries[i] < most and self._more(i):
                self._todo.append((i, None, False))
            else:
                self._fail(i, error, sent=sent)

    def _more(self, i: int) -> bool:
        self._tries[i] += 1
        return self._tries[i] < _HOPS and time.monotonic() < self._end

    def _fail(self, i: int, error: BaseException, *, sent: bool = True) -> None:
        command = self._commands[i]
        if isinstance(error, KVError):
            found = error
        else:
            found = ours(error, self._shown, writes=command.writes and sent, about=command.about)
            found.__cause__ = error
        # of several the first; but nobody may think that nothing has happened, where that is not known
        if self._error is None or (isinstance(found, OutcomeUnknown) and not isinstance(self._error, OutcomeUnknown)):
            self._error = found
