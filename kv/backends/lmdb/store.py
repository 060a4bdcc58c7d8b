"""`lmdb:///app.lmdb`: one file, many threads and processes. `database.py` has what the views of a store share."""

from __future__ import annotations

import math
import os
from operator import itemgetter
from typing import TYPE_CHECKING, Any, Final, TypeVar, overload

from kv import options
from kv.backends.filestores import AsyncFileStore, FileStore, path_of
from kv.base import PAGE, TRAVEL_BYTES
from kv.errors import ConfigError, ValueTooLarge
from kv.expiry import KEEP_TTL, ttl_ms, wall_ms, wall_past, wall_until
from kv.keys import SEPARATOR, Listing, check_key, check_keys, check_limit
from kv.store import Record, Stats
from kv.url import Backend, hide
from kv.values import check_items, check_value

from . import layout, upkeep
from .database import Database

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping
    from typing import Self

    from kv.expiry import TTL, Ages
    from kv.store import Value
    from kv.values import ManyFn

    from .tree import Tree

    Row = tuple[str, bytes, int | None]

__all__ = ["AsyncLMDBStore", "LMDBStore"]

D = TypeVar("D")

_KEY = itemgetter(0)
PAGE_BYTES: Final = 4_000_000
"""A page of a scan ends here, however few the entries are."""
MAX_VALUE: Final = 2_147_000_000
"""The bytes of the largest value. LMDB holds more, but older ones do not write it whole."""


class LMDBStore(FileStore[Database]):
    """A store in one LMDB file, for many threads and processes: reads are what it is for.

    Args:
        path: the file, made where it is missing; beside it lies its lock, `path-lock`.
        durability: "full": a write that has returned survives power loss; "normal": it survives the end of the
            process, and a power loss may take the last one, but never half of one. It is one flush to disk a commit
            instead of two: LMDB has no way without one that a power loss could not damage the file by.
        lock_timeout: seconds to wait for other writers before `Conflict`.
        cleanup_interval: seconds between two removals of expired entries by a daemon thread; None: never.
        namespace: the namespace to be in, or the names of nested ones.

    Raises:
        ConfigError: an option or the path is not right, or the driver is missing.
        CorruptData: the file is not ours, is damaged, or has a newer format; it is left untouched.
        Unavailable: the file may not be read and written, or the disk is full.
    """

    def __init__(
        self,
        path: str | os.PathLike[str],
        *,
        durability: str = "full",
        lock_timeout: float = 30,
        cleanup_interval: float | None = None,
        namespace: str | Iterable[str] | None = None,
    ) -> None:
        super().__init__(namespace=namespace)
        given = {"durability": durability, "lock_timeout": lock_timeout, "cleanup_interval": cleanup_interval}
        opts: Any = options.checked(given, self.url_options, "LMDBStore")
        name = os.fspath(path)
        if "://" in name:
            raise ConfigError(f"LMDBStore takes a path, and {hide(name)} is a URL; kv.open takes URLs")
        self._db = Database(os.path.abspath(name), **opts)
        self._head = layout.head(self._path)
        self._open()

    @classmethod
    def from_url(cls, url: str, **opts: Any) -> Self:
        """Open by a URL, with the options taken off it; see `kv.open`."""
        return cls(_path(url), **opts)

    def _view(self, path: tuple[str, ...]) -> Self:
        view = super()._view(path)
        view._head = layout.head(path)
        return view

    def _name(self, key: str) -> bytes:
        return self._head + check_key(key).encode()

    # reading

    @overload
    def get(self, key: str) -> bytes | None: ...
    @overload
    def get(self, key: str, default: D) -> bytes | D: ...
    def get(self, key: str, default: object = None) -> object:
        value = self._db.get(self._head + check_key(key).encode())
        return default if value is None else value

    def get_many(self, keys: Iterable[str]) -> dict[str, bytes]:
        return {key: value for key, (value, _) in self._many(check_keys(keys)).items()}

    def _many(self, keys: list[str]) -> dict[str, tuple[bytes, int | None]]:
        return self._db.read(lambda tree: self._found(tree, keys))

    def _found(self, tree: Tree, keys: list[str]) -> dict[str, tuple[bytes, int | None]]:
        """Give value and deadline of those of the keys that live."""
        found = {}
        for key in keys:
            record = tree.find(self._head + key.encode())
            if record is not None and not wall_past(until := layout.deadline(record)):
                found[key] = layout.value(record), until
        return found

    def size(self, key: str) -> int | None:
        name = self._name(key)

        def work(tree: Tree) -> int | None:
            record = tree.find(name)
            return None if record is None or wall_past(layout.deadline(record)) else layout.size(record)

        return self._db.read(work)

    def ttl(self, key: str) -> float | None:
        name = self._name(key)

        def work(tree: Tree) -> float | None:
            if (record := tree.find(name)) is None:
                return None
            if (until := layout.deadline(record)) is None:
                return math.inf
            left = until - wall_ms()
            return left / 1000 if left > 0 else None

        return self._db.read(work)

    def _walk(self, tree: Tree, listing: Listing) -> Iterator[tuple[str, memoryview]]:
        """Give the live entries of a range, as keys and records."""
        if listing.empty:
            return
        head, skip, now = self._head, len(self._head), wall_ms()
        stop = layout.end(head) if listing.stop is None else head + listing.stop.encode()
        for name, record in tree.walk(head + listing.start.encode(), stop):
            if not record[0] or int.from_bytes(record[1:9], "big") > now:
                yield name[skip:].decode(), record

    def keys(
        self, prefix: str = "", *, match: str | None = None, after: str | None = None, limit: int | None = None
    ) -> list[str]:
        listing = Listing(prefix, match, after, limit)
        return self._db.read(lambda tree: listing.pick(map(_KEY, self._walk(tree, listing))))

    def _pages_of(self, listing: Listing) -> Iterator[list[Row]]:
        most = listing.first(PAGE)
        while page := self._page(listing, most, PAGE_BYTES):
            yield page
            listing.go_on_after(page[-1][0])
            most = min(PAGE, 2 * most)

    def _page(self, listing: Listing, limit: int, most: int) -> list[Row]:
        def work(tree: Tree) -> list[Row]:
            rows, size = [], 0
            for key, record in self._walk(tree, listing):
                rows.append((key, layout.value(record), layout.deadline(record)))
                size += len(record)
                if len(rows) == limit or size >= most:
                    break
            return rows

        return self._db.read(work)

    def count(self, prefix: str = "", *, match: str | None = None) -> int:
        listing = Listing(prefix, match)
        matches = listing.matches
        return self._db.read(lambda tree: sum(matches is None or matches(key) for key, _ in self._walk(tree, listing)))

    def namespaces(self) -> list[str]:
        head = self._head[:-1] + SEPARATOR.encode() if self._path else b""
        first, stop = (head, layout.end(head)) if head else layout.NAMES[1]

        def work(tree: Tree) -> list[str]:
            names: list[str] = []
            start = first
            while (name := self._first_live(tree, start, stop)) is not None:
                found = name[len(head) :].partition(b"\x00")[0].partition(SEPARATOR.encode())[0]
                names.append(found.decode())
                start = head + found + b"\x20"  # behind all that are in it: the least that another name can begin with
            return names

        return self._db.read(work)

    @staticmethod
    def _first_live(tree: Tree, start: bytes, stop: bytes) -> bytes | None:
        return next((name for name, rec in tree.walk(start, stop) if not wall_past(layout.deadline(rec))), None)

    def stats(self) -> Stats:
        def work(tree: Tree) -> Stats:
            live = expired = key_bytes = value_bytes = 0
            skip = len(self._head)
            for name, record in tree.walk(self._head, layout.end(self._head)):
                if wall_past(layout.deadline(record)):
                    expired += 1
                else:
                    live += 1
                    key_bytes += len(name) - skip
                    value_bytes += layout.size(record)
            return Stats(
                live, expired, key_bytes, value_bytes, upkeep.disk_bytes(self._db), "lmdb", upkeep.version(self._db)
            )

        return self._db.read(work)

    # writing

    def _checked(self, key: str, value: bytes) -> bytes:
        if len(value) > MAX_VALUE:
            raise ValueTooLarge(
                f"the value for {key[:80]!r} has {len(value):,} bytes; LMDB holds up to {MAX_VALUE:,}. Nothing was written"
            )
        return value

    def set(self, key: str, value: Value, *, ttl: TTL = None) -> None:
        ms = None if ttl is None else ttl_ms(ttl)
        name, value = self._name(key), self._checked(key, check_value(value, key))
        self._db.write(lambda tree: tree.put(name, wall_until(ms), value))

    def set_many(self, items: Mapping[str, Value] | Iterable[tuple[str, Value]], *, ttl: TTL = None) -> None:
        entries = {key: self._checked(key, value) for key, value in check_items(items).items()}
        ms = ttl_ms(ttl)

        def work(tree: Tree) -> None:
            until = wall_until(ms)
            for key in sorted(entries):  # neighbours lie on one page
                tree.put(self._head + key.encode(), until, entries[key])

        self._db.write(work)

    def delete(self, key: str) -> bool:
        return self.delete_many([key]) == 1

    def delete_many(self, keys: Iterable[str]) -> int:
        names = [self._head + key.encode() for key in check_keys(keys)]

        def work(tree: Tree) -> int:
            live = [name for name in names if self._live(tree, name)]
            for name in live:
                tree.remove(name)
            return len(live)

        return self._db.write(work)

    @staticmethod
    def _live(tree: Tree, name: bytes) -> memoryview | None:
        record = tree.find(name)
        return None if record is None or wall_past(layout.deadline(record)) else record

    def add(self, key: str, value: Value, *, ttl: TTL = None) -> bool:
        ms = ttl_ms(ttl)
        name, value = self._name(key), self._checked(key, check_value(value, key))

        def work(tree: Tree) -> bool:
            if self._live(tree, name):
                return False
            tree.put(name, wall_until(ms), value)
            return True

        return self._db.write(work)

    def expire(self, key: str, ttl: TTL) -> bool:
        ms = ttl_ms(ttl)
        name = self._name(key)

        def work(tree: Tree) -> bool:
            if (record := self._live(tree, name)) is None:
                return False
            tree.put(name, wall_until(ms), layout.value(record))
            return True

        return self._db.write(work)

    def persist(self, key: str) -> bool:
        name = self._name(key)

        def work(tree: Tree) -> bool:
            record = self._live(tree, name)
            if record is None or layout.deadline(record) is None:
                return False
            tree.put(name, None, layout.value(record))
            return True

        return self._db.write(work)

    def _update(self, keys: list[str], fn: ManyFn, ages: Ages) -> dict[str, bytes]:
        def work(tree: Tree) -> dict[str, bytes]:
            there = self._found(tree, keys)
            while True:
                answer = fn({key: value for key, (value, _) in there.items()})
                if not any(wall_past(until) for _, until in there.values()):
                    break
                there = {key: entry for key, entry in there.items() if not wall_past(entry[1])}  # while fn ran
            for key, value in answer.items():
                self._checked(key, value)
            for key, value in answer.items():
                age = ages[0] if key in there else ages[1]
                until = there[key][1] if age is KEEP_TTL else wall_until(age)
                tree.put(self._head + key.encode(), until, value)
            for key in there:
                if key not in answer and self._live(tree, name := self._head + key.encode()):
                    tree.remove(name)
            return answer

        return self._db.write(work)

    def cleanup(self, *, limit: int | None = None) -> int:
        return self._db.cleanup(check_limit(limit))

    def verify(self) -> list[str]:
        return upkeep.verify(self._db)

    def backup(self, path: str | os.PathLike[str]) -> None:
        upkeep.backup(self._db, os.path.abspath(os.fspath(path)))

    # travelling, see kv.transfer

    _first_page = PAGE

    def _dump(self, after: str | None, limit: int) -> list[Record]:
        return [Record(*row) for row in self._page(Listing(after=after), limit, TRAVEL_BYTES)]

    def _look(self, keys: list[str]) -> dict[str, Record]:
        return {key: Record(key, value, until) for key, (value, until) in self._many(keys).items()}

    def _load(self, records: Iterable[Record]) -> None:
        entries = [
            (self._name(key), until, self._checked(key, check_value(value, key)))
            for key, value, until in records
            if not wall_past(until)
        ]

        def work(tree: Tree) -> None:
            for entry in entries:
                tree.put(*entry)

        self._db.write(work)


def _path(url: str) -> str:
    path = path_of(url)
    if not path:
        raise ConfigError(
            f"{hide(url)} names no file; lmdb:///app.lmdb is a relative path, an absolute one takes four slashes"
        )
    return path


class _Unopened(LMDBStore):
    """Opens the file when it is first used, in the thread that uses it."""

    def _open(self) -> None:
        pass


class AsyncLMDBStore(AsyncFileStore[LMDBStore]):
    """See `LMDBStore`. Opens the file at the first operation, or at `async with`.

    A `get` runs where it is awaited, as it takes less than a way to a thread and back, unless it had to wait. Other
    reads, writes, and what takes long (`clear`, `cleanup`, `compact`, `stats`, `verify`, `backup`) run in a thread
    each, so none waits for the others. The writes that are waiting share one commit, and each returns after it.
    """

    def __init__(
        self,
        path: str | os.PathLike[str],
        *,
        durability: str = "full",
        lock_timeout: float = 30,
        cleanup_interval: float | None = None,
        namespace: str | Iterable[str] | None = None,
    ) -> None:
        store = _Unopened(
            path,
            durability=durability,
            lock_timeout=lock_timeout,
            cleanup_interval=cleanup_interval,
            namespace=namespace,
        )
        super().__init__(store, "lmdb", write=store._db.batch)

    @classmethod
    def from_url(cls, url: str, **opts: Any) -> Self:
        """Open by a URL, with the options taken off it; see `kv.open`."""
        return cls(_path(url), **opts)

    @overload
    async def get(self, key: str) -> bytes | None: ...
    @overload
    async def get(self, key: str, default: D) -> bytes | D: ...
    async def get(self, key: str, default: object = None) -> object:
        if self._store._db.at_hand:
            return self._store.get(key, default)
        return await self._read(self._store.get, key, default)


BACKEND: Final = Backend(LMDBStore, AsyncLMDBStore)
