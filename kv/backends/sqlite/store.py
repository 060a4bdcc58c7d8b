"""`sqlite:///app.db`: one file, many threads and processes. `database.py` has the connections beneath."""

from __future__ import annotations

import json
import math
import os
import sqlite3
from functools import partial
from typing import TYPE_CHECKING, Any, ClassVar, Final, ParamSpec, TypeVar, overload

from kv import options
from kv.base import PAGE, TRAVEL_BYTES, BaseStore, leading
from kv.errors import (
    ConfigError,
    CorruptData,
    ValueTooLarge,
)
from kv.expiry import KEEP_TTL, ttl_ms, wall_ms
from kv.keys import SEPARATOR, Listing, check_key, check_keys, check_limit, prefix_end
from kv.lifted import AsyncFromSync
from kv.store import Record, Stats
from kv.url import Backend, hide, unquoted_path
from kv.values import check_items, check_value

from . import upkeep
from .database import Database, first, rows
from .schema import DDL
from .worker import Worker

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Iterable, Iterator, Mapping
    from typing import Self

    from kv.expiry import TTL, Ages
    from kv.store import Value
    from kv.values import ManyFn

__all__ = ["AsyncSQLiteStore", "SQLiteStore"]

D = TypeVar("D")
T = TypeVar("T")
P = ParamSpec("P")

PAGE_BYTES: Final = 4_000_000
"""A page of a scan ends here, however few the entries are."""

_ONE = "WHERE namespace = ? AND key = ?"
_LIVE = "(expires_at IS NULL OR expires_at > ?)"
_RANGE = f"WHERE namespace = ? AND key >= ? AND key < ? AND {_LIVE}"
_GET = f"SELECT value, expires_at FROM kv_entries {_ONE}"
_SIZE = f"SELECT length(value), expires_at FROM kv_entries {_ONE}"
_PUT = (
    "INSERT INTO kv_entries (namespace, key, expires_at, value) VALUES (?, ?, ?, ?) "
    "ON CONFLICT (namespace, key) DO UPDATE SET expires_at = excluded.expires_at, value = excluded.value"
)
_ADD = f"{_PUT} WHERE kv_entries.expires_at <= ?"
_MANY = (
    "SELECT asked.value, entry.value, expires_at FROM json_each(?) AS asked "
    "CROSS JOIN kv_entries AS entry ON namespace = ? AND entry.key = asked.value"
)
_DELETE_MANY = f"DELETE FROM kv_entries WHERE namespace = ? AND key IN (SELECT value FROM json_each(?)) AND {_LIVE}"
_DELETE = f"DELETE FROM kv_entries {_ONE} AND {_LIVE}"
_EXPIRE = f"UPDATE kv_entries SET expires_at = ? {_ONE} AND {_LIVE}"
_PERSIST = f"UPDATE kv_entries SET expires_at = NULL {_ONE} AND expires_at > ?"
_KEYS = f"SELECT key FROM kv_entries {_RANGE} ORDER BY key LIMIT ?"
_SCAN = f"SELECT key, value, expires_at FROM kv_entries {_RANGE} ORDER BY key LIMIT ?"
_COUNT = f"SELECT count(*) FROM kv_entries {_RANGE}"
_NAMESPACE = f"SELECT namespace FROM kv_entries WHERE namespace >= ? AND namespace < ? AND {_LIVE} ORDER BY 1 LIMIT 1"
_STATS = f"""
    SELECT count(*) FILTER (WHERE {_LIVE}), count(*) FILTER (WHERE expires_at <= ?),
        total(length(CAST(key AS BLOB))) FILTER (WHERE {_LIVE}), total(length(value)) FILTER (WHERE {_LIVE})
    FROM kv_entries WHERE namespace = ?
"""
_END = b""  # greater than any text, as every blob is


def _page(cursor: sqlite3.Cursor, most: int) -> list[tuple[str, bytes, int | None]]:
    rows, size = [], 0
    for row in cursor:
        if type(row[0]) is not str or type(row[1]) is not bytes:
            raise _damaged("key that is no text, or a value that is no bytes")
        rows.append(row)
        size += len(row[1])
        if size >= most:
            break
    return rows


class SQLiteStore(BaseStore):
    """A store in one SQLite file, for many threads and processes.

    What a disk changes by itself is noticed in the log, which has checksums: what was written before is there. In the
    file, which has none, it is `CorruptData`, or named by `verify`; but inside a value only who can tell notices it, as
    `kv.wrappers.Encrypted` does.

    Args:
        path: the file, made where it is missing; `":memory:"` is a database in memory.
        durability: "full": a write that has returned survives power loss; "normal": it survives the end of the
            process, and a power loss may take the last ones, but never half of one.
        lock_timeout: seconds to wait for other writers before `Conflict`.
        cleanup_interval: seconds between two removals of expired entries by a daemon thread; None: never.
        namespace: the namespace to be in, or the names of nested ones.

    Raises:
        ConfigError: an option or the path is not right.
        CorruptData: the file is not ours, is damaged, or has a newer schema; it is left untouched.
        Unavailable: the file may not be read and written, or the disk is full.
    """

    url_options: ClassVar[Mapping[str, options.Check]] = {
        "cleanup_interval": options.seconds_or_off,
        "durability": options.one_of("full", "normal"),
        "lock_timeout": options.seconds,
        "namespace": options.names,
    }

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
        opts: Any = options.checked(given, self.url_options, "SQLiteStore")
        name = os.fspath(path)
        if "://" in name:
            raise ConfigError(f"SQLiteStore takes a path, and {hide(name)} is a URL; kv.open takes URLs")
        self._db = Database(None if name == ":memory:" else os.path.abspath(name), **opts)
        self._ns = SEPARATOR.join(self._path)
        self._open()

    @classmethod
    def from_url(cls, url: str, **opts: Any) -> Self:
        """Open by a URL, with the options taken off it; see `kv.open`."""
        return cls(_path(url), **opts)

    @classmethod
    def _ddl_of_url(cls, url: str, **_: Any) -> str:
        _path(url)
        return cls.ddl()

    def _open(self) -> None:
        self._db.open()

    def _view(self, path: tuple[str, ...]) -> Self:
        view = super()._view(path)
        view._ns = SEPARATOR.join(path)
        return view

    def _where(self) -> str:
        return self._db.name

    def _close(self) -> None:
        self._db.close()

    @staticmethod
    def ddl() -> str:
        """Give the SQL that makes the schema."""
        return DDL

    # reading

    @overload
    def get(self, key: str) -> bytes | None: ...
    @overload
    def get(self, key: str, default: D) -> bytes | D: ...
    def get(self, key: str, default: object = None) -> object:
        row = self._db.row(_GET, (self._ns, check_key(key)))
        return default if row is None or _past(row[1]) else _whole(row[0])

    def get_many(self, keys: Iterable[str]) -> dict[str, bytes]:
        found = self._many(check_keys(keys))
        return {key: _whole(value) for key, value, expires_at in found if not _past(expires_at)}

    def _many(self, keys: list[str]) -> list[tuple[str, bytes, int | None]]:
        return self._db.fetch(_MANY, (json.dumps(keys), self._ns), rows)

    def size(self, key: str) -> int | None:
        row = self._db.row(_SIZE, (self._ns, check_key(key)))
        return None if row is None or _past(row[1]) else row[0]

    def ttl(self, key: str) -> float | None:
        row = self._db.row(_SIZE, (self._ns, check_key(key)))
        if row is None or _past(row[1]):
            return None
        return math.inf if row[1] is None else max(1, row[1] - wall_ms()) / 1000

    def keys(
        self, prefix: str = "", *, match: str | None = None, after: str | None = None, limit: int | None = None
    ) -> list[str]:
        listing = Listing(prefix, match, after, limit)
        most = -1 if listing.matches or listing.limit is None else listing.limit
        keys = self._db.fetch(_KEYS, self._range(listing, most), lambda rows: listing.pick(_texts(rows)))
        if keys:
            _check_order(keys[-1], listing)
        return keys

    def _range(self, listing: Listing, *more: object) -> Callable[[], tuple[object, ...]]:
        stop = "" if listing.empty else _END if listing.stop is None else listing.stop
        return lambda: (self._ns, listing.start, stop, wall_ms(), *more)

    def scan(
        self, prefix: str = "", *, match: str | None = None, after: str | None = None, limit: int | None = None
    ) -> Iterator[tuple[str, bytes]]:
        listing = Listing(prefix, match, after, limit)
        self._db.open()
        return listing.pick_entries(
            (key, value) for page in self._pages_of(listing) for key, value, until in page if not _past(until)
        )

    def _pages_of(self, listing: Listing) -> Iterator[list[tuple[str, bytes, int | None]]]:
        """Give the live rows of the range, a page at a time, holding nothing between two pages."""
        while not listing.empty and (page := self._page(listing, PAGE)):
            yield page
            listing.go_on_after(page[-1][0])

    def _page(self, listing: Listing, limit: int, most: int = PAGE_BYTES) -> list[tuple[str, bytes, int | None]]:
        page = self._db.fetch(_SCAN, self._range(listing, limit), partial(_page, most=most))
        if page:
            _check_order(page[-1][0], listing)
        return page

    def count(self, prefix: str = "", *, match: str | None = None) -> int:
        listing = Listing(prefix, match)
        if matches := listing.matches:
            return self._db.fetch(_KEYS, self._range(listing, -1), lambda rows: sum(map(matches, _texts(rows))))
        count: int = self._db.fetch(_COUNT, self._range(listing), first)[0]
        return count

    def namespaces(self) -> list[str]:
        head = self._ns + SEPARATOR if self._ns else ""
        start, stop = head or "\x01", prefix_end(head) or _END
        names: list[str] = []
        while row := self._db.fetch(_NAMESPACE, lambda: (start, stop, wall_ms()), first):  # noqa: B023 - at once
            names.append(row[0][len(head) :].partition(SEPARATOR)[0])
            start = head + names[-1] + "\x20"  # behind all that are in it: the least that another name can begin with
        return names

    def stats(self) -> Stats:
        live, expired, key_bytes, value_bytes = self._db.fetch(_STATS, lambda: (*[wall_ms()] * 4, self._ns), first)
        return Stats(
            keys=live,
            expired=expired,
            key_bytes=int(key_bytes),
            value_bytes=int(value_bytes),
            disk_bytes=upkeep.disk_bytes(self._db),
            backend="sqlite",
            version=sqlite3.sqlite_version,
        )

    # writing

    def _row(self, key: str, value: bytes, expires_at: int | None) -> tuple[object, ...]:
        if len(value) > self._db.max_value:
            raise ValueTooLarge(
                f"the value for {key[:80]!r} has {len(value):,} bytes; SQLite holds up to {self._db.max_value:,}. "
                "Nothing was written"
            )
        return self._ns, key, expires_at, value

    def set(self, key: str, value: Value, *, ttl: TTL = None) -> None:
        ms = None if ttl is None else ttl_ms(ttl)
        row = self._row(check_key(key), check_value(value, key), None)
        self._db.write(_PUT, row if ms is None else lambda: (*row[:2], _until(ms), row[3]))

    def set_many(self, items: Mapping[str, Value] | Iterable[tuple[str, Value]], *, ttl: TTL = None) -> None:
        entries = check_items(items)
        ms = ttl_ms(ttl)

        def work(writer: sqlite3.Connection) -> None:
            expires_at = _until(ms)
            self._db.write_many(writer, _PUT, [self._row(key, value, expires_at) for key, value in entries.items()])

        self._db.transaction(work)

    def delete(self, key: str) -> bool:
        key = check_key(key)
        return self._db.write(_DELETE, lambda: (self._ns, key, wall_ms())) == 1

    def delete_many(self, keys: Iterable[str]) -> int:
        asked = json.dumps(check_keys(keys))
        return self._db.write(_DELETE_MANY, lambda: (self._ns, asked, wall_ms()))

    def add(self, key: str, value: Value, *, ttl: TTL = None) -> bool:
        ms = ttl_ms(ttl)
        row = self._row(check_key(key), check_value(value, key), None)
        return self._db.write(_ADD, lambda: (*row[:2], _until(ms), row[3], wall_ms())) == 1

    def expire(self, key: str, ttl: TTL) -> bool:
        ms = ttl_ms(ttl)
        key = check_key(key)
        return self._db.write(_EXPIRE, lambda: (_until(ms), self._ns, key, wall_ms())) == 1

    def persist(self, key: str) -> bool:
        key = check_key(key)
        return self._db.write(_PERSIST, lambda: (self._ns, key, wall_ms())) == 1

    def _update(self, keys: list[str], fn: ManyFn, ages: Ages) -> dict[str, bytes]:
        def work(writer: sqlite3.Connection) -> dict[str, bytes]:
            if len(keys) == 1:
                rows = [(keys[0], *row) for row in self._db.read(writer, _GET, (self._ns, keys[0]))]
            else:
                rows = self._db.read(writer, _MANY, (json.dumps(keys), self._ns))
            while True:
                there = {key: (_whole(value), until) for key, value, until in rows if not _past(until)}
                answer = fn({key: value for key, (value, _) in there.items()})
                if not any(_past(until) for _, until in there.values()):
                    break  # else an entry has expired while fn ran, and is missing now
            changed = []
            for key, value in answer.items():
                age = ages[0] if key in there else ages[1]
                changed.append(self._row(key, value, there[key][1] if age is KEEP_TTL else _until(age)))
            self._db.write_many(writer, _PUT, changed)
            if gone := [key for key in there if key not in answer]:
                self._db.write_many(writer, _DELETE_MANY, [(self._ns, json.dumps(gone), wall_ms())])
            return answer

        return self._db.transaction(work)

    def cleanup(self, *, limit: int | None = None) -> int:
        return self._db.cleanup(check_limit(limit))

    def compact(self) -> None:
        upkeep.compact(self._db)

    def verify(self) -> list[str]:
        return upkeep.verify(self._db)

    def backup(self, path: str | os.PathLike[str]) -> None:
        """Copy the whole store, all namespaces, to a new file, while it is in use.

        The copy is one state of the store, and a store itself. Its file appears when it is whole and on disk.

        Raises:
            ConfigError: there is a file of that name.
            Unavailable: the disk is full, or the directory is not writable.
        """
        upkeep.backup(self._db, os.path.abspath(os.fspath(path)))

    # travelling, see kv.transfer

    _first_page = PAGE

    def _dump(self, after: str | None, limit: int) -> list[Record]:
        return [Record(*row) for row in self._page(Listing(after=after), limit, TRAVEL_BYTES)]

    def _look(self, keys: list[str]) -> dict[str, Record]:
        found = self._many(keys)
        return {key: Record(key, _whole(value), until) for key, value, until in found if not _past(until)}

    def _load(self, records: Iterable[Record]) -> None:
        rows = [
            self._row(check_key(key), check_value(value, key), expires_at)
            for key, value, expires_at in records
            if not _past(expires_at)
        ]
        self._db.transaction(lambda writer: self._db.write_many(writer, _PUT, rows))


def _until(ms: int | None) -> int | None:
    return None if ms is None else wall_ms() + ms


def _past(expires_at: int | None) -> bool:
    try:
        return expires_at is not None and wall_ms() >= expires_at
    except TypeError as e:
        raise _damaged("deadline that is no number") from e


def _whole(value: bytes) -> bytes:
    if type(value) is bytes:
        return value
    raise _damaged("value that is no bytes")


def _texts(rows: Iterable[tuple[str]]) -> Iterator[str]:
    for (text,) in rows:
        if type(text) is not str:
            raise _damaged("key that is no text")
        yield text


def _check_order(last: str, listing: Listing) -> None:
    if last < listing.start:  # from where the same would come again, for ever
        raise _damaged("key that is not in order")


def _damaged(what: str) -> CorruptData:
    return CorruptData(
        f"the SQLite file is damaged: it holds a {what}, which nobody has written; restore a backup, or see what "
        "`kv verify` names"
    )


def _path(url: str) -> str:
    """Give the path in a URL, by SQLAlchemy's convention: three slashes and a relative path, or four and an absolute."""
    rest = url.partition("://")[2]
    if rest in ("", "/", "/:memory:"):
        return ":memory:"
    if not rest.startswith("/"):
        raise ConfigError(f"{hide(url)}: a relative path takes three slashes, sqlite:///app.db, an absolute one four")
    return unquoted_path(rest[1:])


class _Unopened(SQLiteStore):
    """Connects when it is first used, in the thread that uses it."""

    def _open(self) -> None:
        pass


class AsyncSQLiteStore(AsyncFromSync):
    """See `SQLiteStore`. Connects at the first operation, or at `async with`.

    Reads, writes, and what takes long (`clear`, `cleanup`, `compact`, `stats`, `verify`, `backup`) run in a thread
    each, so none waits for the others. The writes that are waiting share one commit, and each returns after it.
    """

    _store: SQLiteStore

    url_options: ClassVar[Mapping[str, options.Check]] = SQLiteStore.url_options

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
        super().__init__(store)
        closed = store._db.closed_message
        self._reader = Worker("kv-sqlite-reader", closed)
        self._writer = Worker("kv-sqlite-writer", closed, store._db.batch)
        self._keeper = Worker("kv-sqlite-keeper", closed)

    @classmethod
    def from_url(cls, url: str, **opts: Any) -> Self:
        """Open by a URL, with the options taken off it; see `kv.open`."""
        return cls(_path(url), **opts)

    async def _read(self, method: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        return await self._reader(lambda: method(*args, **kwargs))

    async def _write(self, method: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        return await self._writer(lambda: method(*args, **kwargs))

    async def _maintain(self, method: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        return await self._keeper(lambda: method(*args, **kwargs))

    async def backup(self, path: str | os.PathLike[str]) -> None:
        """See `SQLiteStore.backup`."""
        await self._maintain(self._store.backup, path)

    @staticmethod
    def ddl() -> str:
        """See `SQLiteStore.ddl`."""
        return DDL

    def scan(
        self, prefix: str = "", *, match: str | None = None, after: str | None = None, limit: int | None = None
    ) -> AsyncIterator[tuple[str, bytes]]:
        listing = Listing(prefix, match, after, limit)
        pages = self._store._pages_of(listing)

        async def entries() -> AsyncIterator[tuple[str, bytes]]:
            while page := await self._read(next, pages, None):
                for key, value, until in page:
                    if (listing.matches is None or listing.matches(key)) and not _past(until):
                        yield key, value

        return leading(entries(), limit)

    async def _close(self) -> None:
        # what was asked before is done first, whoever is cancelled meanwhile
        for worker in (self._reader, self._keeper):
            worker.stop()
        self._writer.stop(self._end)
        await self._writer.ended()

    def _end(self) -> None:
        for worker in (self._reader, self._keeper):
            worker.join()
        self._store.close()

    async def __aenter__(self) -> Self:
        await self._write(self._store._db.open)
        return self


BACKEND: Final = Backend(SQLiteStore, AsyncSQLiteStore)
