"""`memory://`: a dict, and what it takes to expire, list and share it. `tables.py` has the state beneath."""

from __future__ import annotations

import math
import platform
from itertools import islice
from typing import TYPE_CHECKING, Any, ClassVar, Final, ParamSpec, TypeVar, overload

from kv import options
from kv.backends.locks import holding
from kv.base import PAGE, TRAVEL_BYTES, BaseStore
from kv.errors import ConfigError, Conflict
from kv.expiry import KEEP_TTL, ttl_ms, update_ttl_ms
from kv.keys import Listing, check_key, check_keys, check_limit
from kv.lifted import AsyncFromSync
from kv.store import Record, Stats
from kv.url import Backend, hide
from kv.values import check_items, check_value

from .tables import (
    GONE,
    UNIX,
    Entry,
    Memory,
    Path,
    all_until,
    changes,
    clock,
    live_entries,
    live_value,
    still,
    successor,
    until,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Mapping
    from typing import Self

    from kv.expiry import TTL, Ages, Keep
    from kv.store import Value
    from kv.values import ManyFn, OwnFn

__all__ = ["AsyncMemoryStore", "MemoryStore"]

D = TypeVar("D")
T = TypeVar("T")
P = ParamSpec("P")

RETRIES: Final = 200
"""So many times `fn` runs again because another write was faster."""
TURN: Final = 0.1
"""So many seconds an update that was overtaken waits for others that were. Whoever it waits for may wait for it."""


class MemoryStore(BaseStore):
    """A store in this process's memory, for threads.

    Args:
        max_entries: how many entries to hold, in all namespaces together; when one more comes, what has expired goes,
            then what was used longest ago. None: no bound.
        cleanup_interval: seconds between two removals of expired entries by a daemon thread, which starts with the
            first entry that expires; None: never.
        namespace: the namespace to be in, or the names of nested ones.

    Raises:
        ConfigError: an option is not right.
    """

    url_options: ClassVar[Mapping[str, options.Check]] = {
        "cleanup_interval": options.seconds_or_off,
        "max_entries": options.count_or_off,
        "namespace": options.names,
    }

    def __init__(
        self,
        *,
        max_entries: int | None = None,
        cleanup_interval: float | None = 60,
        namespace: str | Iterable[str] | None = None,
    ) -> None:
        super().__init__(namespace=namespace)
        given = {"max_entries": max_entries, "cleanup_interval": cleanup_interval}
        opts: Any = options.checked(given, self.url_options, "MemoryStore")
        self._memory = Memory(**opts)
        self._attach()

    @classmethod
    def from_url(cls, url: str, **opts: Any) -> Self:
        """Open by a URL, with the options taken off it; see `kv.open`."""
        _check_url(url)
        return cls(**opts)

    def _attach(self) -> None:
        self._table = self._memory.table(self._path)
        self._lookup = self._table.entries.get
        self._ranked = self._memory.recent is not None

    def _view(self, path: Path) -> Self:
        view = super()._view(path)
        view._attach()
        return view

    def _close(self) -> None:
        self._memory.close()

    def _missed(self, key: object) -> None:
        """Check what a hit need not check: a key that is stored is valid, and the store is open."""
        check_key(key)
        self._memory.check_open()

    # reading

    @overload
    def get(self, key: str) -> bytes | None: ...
    @overload
    def get(self, key: str, default: D) -> bytes | D: ...
    def get(self, key: str, default: object = None) -> object:
        try:
            entry = self._lookup(key)
        except TypeError:  # unhashable
            entry = None
        if type(entry) is bytes and not self._ranked:
            return entry
        value = self._read(key, entry)
        return default if value is None else value

    def _read(self, key: str, entry: Entry | None) -> bytes | None:
        if entry is None:
            self._missed(key)
        elif self._ranked:
            self._memory.used(self._path, key)
        return live_value(entry, clock())

    def get_many(self, keys: Iterable[str]) -> dict[str, bytes]:
        asked = check_keys(keys)
        self._memory.check_open()
        with self._memory.lock:  # between the steps of a set_many there is nothing to see
            entries = self._entries(asked)
        return {key: value for key, entry in entries.items() if (value := self._read(key, entry)) is not None}

    def _entries(self, keys: list[str]) -> dict[str, Entry | None]:
        return {key: self._lookup(key) for key in keys}

    def exists(self, key: str) -> bool:
        return self.size(key) is not None

    def size(self, key: str) -> int | None:
        value = live_value(self._lookup(check_key(key)), clock())
        if value is None:
            self._memory.check_open()
            return None
        return len(value)

    def ttl(self, key: str) -> float | None:
        entry = self._lookup(check_key(key))
        now = clock()
        if live_value(entry, now) is None:
            self._memory.check_open()
            return None
        return (entry[0] - now) / 1e9 if type(entry) is tuple else math.inf

    def _walk(self, listing: Listing) -> Iterator[tuple[str, bytes, int | None]]:
        """Give key, value and deadline of the live entries of the range, a page at a time, locked for a page only."""
        # no more than was asked for, where all of it is live: entries lie far apart, and to look one up costs most
        most = listing.first(PAGE)
        while not listing.empty:
            with self._memory.lock:
                self._memory.check_open()
                page = self._table.sorted.between(listing.start, listing.stop, most)
                entries = self._entries(page)
            if not page:
                return
            listing.go_on_after(page[-1])
            most = min(PAGE, 2 * most)
            for key, entry in entries.items():
                if isinstance(entry, bytes):
                    yield key, entry, None
                elif entry is not None and clock() < entry[0]:
                    yield key, entry[1], entry[0]

    def keys(
        self, prefix: str = "", *, match: str | None = None, after: str | None = None, limit: int | None = None
    ) -> list[str]:
        listing = Listing(prefix, match, after, limit)
        with self._memory.lock:  # over all pages: half of a set_many is not to be seen
            self._memory.check_open()
            return listing.pick(self._keys(listing))

    def _keys(self, listing: Listing) -> Iterator[str]:
        return (key for key, *_ in self._walk(listing))

    def scan(
        self, prefix: str = "", *, match: str | None = None, after: str | None = None, limit: int | None = None
    ) -> Iterator[tuple[str, bytes]]:
        listing = Listing(prefix, match, after, limit)
        self._memory.check_open()
        return listing.pick_entries((key, value) for key, value, _ in self._walk(listing))

    def count(self, prefix: str = "", *, match: str | None = None) -> int:
        listing = Listing(prefix, match)
        with self._memory.lock:
            self._memory.check_open()
            return self._count(listing) if prefix or match is not None else self._count_all()

    def _count(self, listing: Listing) -> int:
        return sum(listing.matches is None or listing.matches(key) for key in self._keys(listing))

    def _count_all(self) -> int:
        now = clock()
        return sum(type(entry) is bytes or entry[0] > now for entry in self._table.entries.values())

    def namespaces(self) -> list[str]:
        with self._memory.lock:
            self._memory.check_open()
            return self._below()

    def _below(self) -> list[str]:
        depth, now = len(self._path), clock()
        below = [t for t in self._memory.filled if len(t.path) > depth and t.path[:depth] == self._path]
        return sorted(
            {t.path[depth] for t in below if any(live_value(entry, now) is not None for entry in t.entries.values())}
        )

    def stats(self) -> Stats:
        self._memory.check_open()
        items, now = [*self._table.entries.items()], clock()
        live = [(key, value) for key, entry in items if (value := live_value(entry, now)) is not None]
        return Stats(
            keys=len(live),
            expired=len(items) - len(live),
            key_bytes=sum(len(key.encode()) for key, _ in live),
            value_bytes=sum(len(value) for _, value in live),
            disk_bytes=None,
            backend="memory",
            version=platform.python_version(),
        )

    # writing

    def set(self, key: str, value: Value, *, ttl: TTL = None) -> None:
        value = check_value(value, key)
        entry = value if ttl is None else until(ttl_ms(ttl), value)
        with self._memory.lock:
            if ttl is None and type(key) is str and key in self._table.entries and not self._ranked:
                self._table.entries[key] = value  # a key that is stored is valid, and the store is open
                return
            key = check_key(key)
            self._memory.put(self._table, key, entry)

    def set_many(self, items: Mapping[str, Value] | Iterable[tuple[str, Value]], *, ttl: TTL = None) -> None:
        entries = check_items(items)
        ms = ttl_ms(ttl)
        with self._memory.lock:
            self._memory.check_open()
            self._memory.write(self._table, all_until(ms, entries))

    def delete(self, key: str) -> bool:
        key = check_key(key)
        with self._memory.lock:
            self._memory.check_open()
            if live_value(self._lookup(key), clock()) is None:
                return False
            self._memory.remove(self._table, key)
            return True

    def delete_many(self, keys: Iterable[str]) -> int:
        asked = check_keys(keys)
        with self._memory.lock:
            self._memory.check_open()
            live = live_entries(self._entries(asked))
            self._memory.write(self._table, dict.fromkeys(live, GONE))
            return len(live)

    def persist(self, key: str) -> bool:
        key = check_key(key)
        with self._memory.lock:
            self._memory.check_open()
            entry = self._lookup(key)
            value = live_value(entry, clock())
            if value is None or type(entry) is not tuple:
                return False
            self._memory.put(self._table, key, value)
            return True

    def _apply(self, key: str, fn: OwnFn, *, ttl: TTL | Keep = KEEP_TTL, ttl_if_new: TTL = None) -> bytes | None:
        key = check_key(key)
        ages = update_ttl_ms(ttl, ttl_if_new)
        with self._memory.lock:
            self._memory.check_open()
            old = self._lookup(key)
            current = live_value(old, clock())
            new = fn(current)
            if new is not None:
                self._memory.put(self._table, key, successor(None if current is None else old, new, ages))
            elif current is not None:
                self._memory.remove(self._table, key)
            return new

    def _update(self, keys: list[str], fn: ManyFn, ages: Ages) -> dict[str, bytes]:
        # A slow fn must not stop the whole store: it runs without the lock, and again where another write was faster.
        answer = self._try_update(keys, fn, ages)
        if answer is not None:
            return answer

        def again(_: bool) -> dict[str, bytes]:
            for _try in range(RETRIES):
                answer = self._try_update(keys, fn, ages)
                if answer is not None:
                    return answer
            raise Conflict(
                f"{RETRIES} times another write was faster than the function given to update of {keys[0]!r}"
                f"{f' and {len(keys) - 1} more' if keys[1:] else ''}, or it writes there itself; its answer was not stored"
            )

        return holding(self._memory.turns, TURN, again)

    def _try_update(self, keys: list[str], fn: ManyFn, ages: Ages) -> dict[str, bytes] | None:
        """Run fn on what is there, and store its answer if that is still there; None if it is not."""
        memory = self._memory
        with memory.lock:
            memory.check_open()
            seen = self._entries(keys)
        live = live_entries(seen)
        answer = fn({key: entry if isinstance(entry, bytes) else entry[1] for key, entry in live.items()})
        with memory.lock:
            memory.check_open()
            if not still(live, self._entries(keys)):
                return None
            memory.write(self._table, changes(live, answer, ages))
        return answer

    def cleanup(self, *, limit: int | None = None) -> int:
        self._memory.check_open()
        return self._memory.cleanup(check_limit(limit))

    def compact(self) -> None:
        self._memory.check_open()
        self._memory.cleanup()
        with self._memory.lock:
            self._memory.compact()

    # travelling, see kv.transfer

    _first_page = PAGE

    def _dump(self, after: str | None, limit: int) -> list[Record]:
        self._memory.check_open()
        page, size = [], 0
        for key, value, deadline in islice(self._walk(Listing(after=after)), limit):
            page.append(_record(key, value, deadline))
            size += len(value)
            if size >= TRAVEL_BYTES:
                break
        return page

    def _look(self, keys: list[str]) -> dict[str, Record]:
        with self._memory.lock:
            self._memory.check_open()
            live = live_entries(self._entries(keys))
        return {
            key: _record(key, entry, None) if isinstance(entry, bytes) else _record(key, entry[1], entry[0])
            for key, entry in live.items()
        }

    def _load(self, records: Iterable[Record]) -> None:
        entries: dict[str, Entry] = {}
        now = clock()
        for key, value, expires_at in records:
            deadline = None if expires_at is None else expires_at * 1_000_000 - UNIX
            if deadline is None:
                entries[check_key(key)] = check_value(value, key)
            elif deadline > now:
                entries[check_key(key)] = (deadline, check_value(value, key))
        with self._memory.lock:
            self._memory.check_open()
            self._memory.write(self._table, entries)


def _record(key: str, value: bytes, deadline: int | None) -> Record:
    return Record(key, value, None if deadline is None else -(-(deadline + UNIX) // 1_000_000))


class AsyncMemoryStore(AsyncFromSync):
    """See `MemoryStore`. Nothing here waits, so every call is done when the coroutine first runs."""

    url_options: ClassVar[Mapping[str, options.Check]] = MemoryStore.url_options

    def __init__(
        self,
        *,
        max_entries: int | None = None,
        cleanup_interval: float | None = 60,
        namespace: str | Iterable[str] | None = None,
    ) -> None:
        super().__init__(MemoryStore(max_entries=max_entries, cleanup_interval=cleanup_interval, namespace=namespace))

    @classmethod
    def from_url(cls, url: str, **opts: Any) -> Self:
        """Open by a URL, with the options taken off it; see `kv.open`."""
        _check_url(url)
        return cls(**opts)

    async def _read(self, method: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        return method(*args, **kwargs)

    _write = _maintain = _read

    async def _close(self) -> None:
        self._store.close()

    # the two hottest, without a coroutine inside a coroutine

    @overload
    async def get(self, key: str) -> bytes | None: ...
    @overload
    async def get(self, key: str, default: D) -> bytes | D: ...
    async def get(self, key: str, default: object = None) -> object:
        return self._store.get(key, default)

    async def set(self, key: str, value: Value, *, ttl: TTL = None) -> None:
        self._store.set(key, value, ttl=ttl)


def _check_url(url: str) -> None:
    if url.partition("://")[2].strip("/"):
        raise ConfigError(
            f"{hide(url)} names a host or a path; memory:// takes neither, and each open gives a new store"
        )


BACKEND: Final = Backend(MemoryStore, AsyncMemoryStore)
