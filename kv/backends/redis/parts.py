"""What both colours of the Redis store have, and what needs no connection. Pure."""

from __future__ import annotations

import random
from itertools import islice
from typing import TYPE_CHECKING, Any, ClassVar

from kv.expiry import ttl_ms, update_ttl_ms
from kv.store import Record, Stats
from kv.values import check_amount, check_compared, check_items, check_value

from . import commands
from .names import Names, by_way, is_entry, literal
from .refusals import check_size, not_added, spread
from .server import OPTIONS, PARAMETERS

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
    from typing import Self

    from kv import options
    from kv.errors import BackendError, KVError
    from kv.expiry import TTL, Ages, Keep
    from kv.keys import Listing
    from kv.store import Value

    from .commands import Command
    from .routing import Slots
    from .server import Server


class Parts:
    """What both colours have, and what needs no connection."""

    url_options: ClassVar[Mapping[str, options.Check]] = OPTIONS
    url_parameters: ClassVar[tuple[str, ...]] = tuple(PARAMETERS.keys() - OPTIONS.keys())
    _path: tuple[str, ...]
    _view: Callable[[tuple[str, ...]], Self]
    _server: Server
    _slots: Slots
    _names: Names
    _gathered: Mapping[bytes, list[bytes]] | None = None
    """For `kv.transfer`, which goes through every namespace: the names of all, by one listing."""

    def _use(self, server: Server) -> None:
        self._server = server
        self._names = Names(server.prefix, self._path)

    @classmethod
    def from_url(cls, url: str, **opts: Any) -> Self:
        """Open by a URL, with the options taken off it; see `kv.open`."""
        return cls(url, **opts)  # type: ignore[call-arg]

    def _where(self) -> str:
        prefix = "" if self._server.prefix == "kv" else f" prefix={self._server.prefix}"
        return f"{self._server.shown}{prefix}"

    # the commands of more than a few words

    def _put(self, key: str, value: Value, ttl: TTL) -> Command:
        name = self._names.of(key)
        return commands.put(name, check_size(key, check_value(value, key)), None if ttl is None else ttl_ms(ttl))

    def _put_many(self, items: Mapping[str, Value] | Iterable[tuple[str, Value]], ttl: TTL) -> list[Command]:
        """Everything in one step, if there is anything."""
        entries = {self._names.of(key): check_size(key, value) for key, value in check_items(items).items()}
        ms = ttl_ms(ttl)
        self._check_together([*entries])
        return [commands.put_many(entries, ms)] if entries else []

    def _check_together(self, names: Sequence[bytes]) -> None:
        if not self._slots.together(names):
            raise spread(self._server.shown)

    def _add(self, key: str, value: Value, ttl: TTL) -> Command:
        name = self._names.of(key)
        return commands.add(name, check_size(key, check_value(value, key)), ttl_ms(ttl))

    def _compare(self, key: str, expected: Value | None, value: Value | None, ttl: TTL | Keep) -> Command:
        name = self._names.of(key)
        old, new = check_compared(expected, value, key)
        ages = update_ttl_ms(ttl, None)
        if new is not None:
            check_size(key, new)
        return commands.swap([name], [old], [new], ages, tell=False)

    def _increment(self, key: str, amount: int, ttl: TTL | Keep, ttl_if_new: TTL) -> Command:
        name = self._names.of(key)
        return commands.increment(name, check_amount(amount, key), update_ttl_ms(ttl, ttl_if_new))

    def _swap(
        self,
        names: Sequence[bytes],
        keys: Sequence[str],
        found: Mapping[str, bytes],
        answer: Mapping[str, bytes],
        ages: Ages,
    ) -> Command:
        """What stores the answer of the function of an update, if what it was given is still there."""
        for key, value in answer.items():
            check_size(key, value)
        old, new = map(found.get, keys), map(answer.get, keys)
        return commands.swap(names, [*old], [*new], ages)

    # listing

    def _within(self, listing: Listing) -> bytes:
        return literal(self._names.head + listing.head)

    def _sorted(self, names: Iterable[bytes], listing: Listing) -> list[str]:
        """Give the keys of the range that the glob matches, in order."""
        start, stop, key_of = listing.start, listing.stop, self._names.key
        keys = sorted(
            key for name in names if (key := key_of(name)) is not None and key >= start and (stop is None or key < stop)
        )
        return listing.pick(keys)

    def _children(self, names: Iterable[bytes]) -> list[str]:
        found = {child for name in names if (child := self._names.child(name)) is not None}
        return sorted(found)

    def _children_gathered(self, gathered: Mapping[bytes, list[bytes]]) -> list[str]:
        below, child_of = self._names.below.encode(), self._names.child
        inside = (names for names in gathered.values() if names[0].startswith(below))
        return self._children(next((name for name in names if child_of(name)), names[0]) for names in inside)

    def _holding(self, names: Iterable[bytes]) -> Self:
        """Give this store, with the names that it is to list."""
        view = self._view(self._path)
        view._gathered = by_way(self._server.prefix, names)
        return view

    def _removals(self, keys: Iterable[str]) -> Iterator[list[Command]]:
        """Give what removes the keys, a part at a time, so that others come in between."""
        every = iter(keys)
        while some := [*islice(every, 10 * commands.PAGE)]:
            yield [commands.delete(group) for group in self._slots.spread(self._names.many(some), commands.PAGE)]

    def _entries_of(self, keys: Sequence[str], answers: Sequence[Any]) -> list[Record]:
        """Give what `commands.read` has read, without what was gone."""
        return [
            Record(key, value, None if deadline == -1 else deadline)
            for key, (value, deadline) in zip(keys, commands.pairs(answers), strict=True)
            if value is not None and deadline != -2
        ]

    def _loads(self, records: Iterable[Record]) -> list[Command]:
        return [
            commands.load(self._names.of(key), Record(key, check_size(key, check_value(value, key)), until))
            for key, value, until in records
        ]

    def _wrong(self, names: Sequence[bytes], kinds: Sequence[bytes]) -> list[str]:
        """Name what begins with the prefix, and is no entry."""
        prefix = self._server.prefix
        wrong = []
        for name, kind in zip(names, kinds, strict=True):
            if kind not in (b"string", b"none"):
                wrong.append(f"{name!r} is a {kind.decode()}, and entries are strings")
            elif not is_entry(prefix, name):
                wrong.append(f"{name!r} begins with {prefix}: and is the name of no entry")
        return wrong

    def _stats(self, keys: Sequence[str], answers: Sequence[Any]) -> Stats:
        live = [(key, size) for key, (size, there) in zip(keys, commands.pairs(answers), strict=True) if there]
        key_bytes = sum(len(key.encode()) for key, _ in live)
        return Stats(len(live), 0, key_bytes, sum(size for _, size in live), None, "redis", self._server.version)


def found(
    asked: Sequence[str], names: Sequence[bytes], groups: Sequence[Sequence[bytes]], answers: Sequence[Sequence[Any]]
) -> dict[str, bytes]:
    """Give what `get_many` has found, in the order asked."""
    values: dict[bytes, bytes | None] = {}
    for group, answer in zip(groups, answers, strict=True):
        values.update(zip(group, answer, strict=True))
    return {key: value for key, name in zip(asked, names, strict=True) if (value := values[name]) is not None}


def not_counted(error: BackendError, key: str) -> KVError:
    """Give the error of an `increment` for what the server said."""
    return not_added(error.__cause__ or error, key) or error


def pause(tries: int) -> float:
    """Give the seconds to wait after so many conflicts: at random, so that not the same ones meet again."""
    return random.uniform(0, min(0.0002 * 2 ** min(tries, 8), 0.05))
