"""`sqlite:///app.db`: one file, many threads and processes. `database.py` has the connections beneath."""

from __future__ import annotations

import json
import math
import os
import sqlite3
from functools import partial
from typing import TYPE_CHECKING, Any, Final, ParamSpec, TypeVar, overload

from kv import options
from kv.backends.filestores import AsyncFileStore, FileStore, path_of
from kv.base import PAGE, TRAVEL_BYTES
from kv.errors import ConfigError, CorruptData, ValueTooLarge
from kv.expiry import KEEP_TTL, ttl_ms, update_ttl_ms, wall_ms, wall_past, wall_until
from kv.keys import SEPARATOR, Listing, check_key, check_keys, check_limit, prefix_end
from kv.store import Record, Stats
from kv.url import Backend, hide
from kv.values import check_amount, check_items, check_value, of_one

from . import together, upkeep
from .database import Database, first, rows
from .schema import DDL

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Mapping
    from typing import Self

    from kv.expiry import TTL, Ages, Keep
    from kv.store import Value
    from kv.values import ManyFn, OwnFn

    from .database import Parameters

__all__ = ["AsyncSQLiteStore", "SQLiteStore"]

D = TypeVar("D")
T = TypeVar("T")
P = ParamSpec("P")

PAGE_BYTES: Final = 4_000_000
"""A page of a scan ends here, however few the entries are."""

_ONE = "WHERE namespace = ? AND key = ?"
_LIVE = "(expires_at IS NULL OR expires_at > ?)"
# where nothing has expired that still lies there, keys are listed and counted by the index, and no row is read
_EXPIRED = "EXISTS (SELECT 1 FROM kv_entries WHERE expires_at <= ?)"
_RANGE = f"WHERE namespace = ? AND key >= ? AND key < ? AND (NOT {_EXPIRED} OR {_LIVE})"
_GET = f"SELECT value, expires_at FROM kv_entries {_ONE}"
_SIZE = f"SELECT length(value), expires_at FROM kv_entries {_ONE}"
_PUT = (
    "INSERT INTO kv_entries (namespace, key, expires_at, value) VALUES (?, ?, ?, ?) "
    "ON CONFLICT (namespace, key) DO UPDATE SET expires_at = excluded.expires_at, value = excluded.value"
)
# The integer that a value is the canonical text of, and no other value, is added to in one statement. A sum that is too
# large becomes a float in SQLite.
_NUMBER = "CAST(CAST(value AS TEXT) AS INTEGER)"
_INCREMENT = (
    f"UPDATE kv_entries SET value = CAST(CAST({_NUMBER} + ?1 AS TEXT) AS BLOB) WHERE namespace = ?2 AND key = ?3 AND "
    "(expires_at IS NULL OR expires_at > ?4) AND typeof(value) = 'blob' AND "
    f"CAST({_NUMBER} AS TEXT) = CAST(value AS TEXT) AND typeof({_NUMBER} + ?1) = 'integer' RETURNING value"
)
_RETURNS: Final = sqlite3.sqlite_version_info >= (3, 35)
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


class SQLiteStore(FileStore[Database]):
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

    def _view(self, path: tuple[str, ...]) -> Self:
        view = super()._view(path)
        view._ns = SEPARATOR.join(path)
        return view

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
        return default if row is None or wall_past(row[1]) else _whole(row[0])

    def get_many(self, keys: Iterable[str]) -> dict[str, bytes]:
        return self._live(check_keys(keys))

    def _live(self, keys: list[str]) -> dict[str, bytes]:
        return {key: _whole(value) for key, value, expires_at in self._many(keys) if not wall_past(expires_at)}

    def _many(self, keys: list[str]) -> list[tuple[str, bytes, int | None]]:
        return self._db.fetch(_MANY, (json.dumps(keys), self._ns), rows)

    def size(self, key: str) -> int | None:
        row = self._db.row(_SIZE, (self._ns, check_key(key)))
        return None if row is None or wall_past(row[1]) else row[0]

    def ttl(self, key: str) -> float | None:
        row = self._db.row(_SIZE, (self._ns, check_key(key)))
        if row is None or wall_past(row[1]):
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
        return lambda: (self._ns, listing.start, stop, now := wall_ms(), now, *more)

    def _pages_of(self, listing: Listing) -> Iterator[list[tuple[str, bytes, int | None]]]:
        most = listing.first(PAGE)
        while not listing.empty and (page := self._page(listing, most)):
            yield page
            listing.go_on_after(page[-1][0])
            most = min(PAGE, 2 * most)  # some had expired

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
        self._db.write(_PUT, self._put(key, value, ttl))

    def _put(self, key: str, value: Value, ttl: TTL) -> Parameters:
        ms = None if ttl is None else ttl_ms(ttl)
        row = self._row(check_key(key), check_value(value, key), None)
        return row if ms is None else lambda: (*row[:2], wall_until(ms), row[3])

    def set_many(self, items: Mapping[str, Value] | Iterable[tuple[str, Value]], *, ttl: TTL = None) -> None:
        entries = check_items(items)
        ms = ttl_ms(ttl)

        def work(writer: sqlite3.Connection) -> None:
            expires_at = wall_until(ms)
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
        return self._db.write(_ADD, lambda: (*row[:2], wall_until(ms), row[3], wall_ms())) == 1

    def expire(self, key: str, ttl: TTL) -> bool:
        ms = ttl_ms(ttl)
        key = check_key(key)
        return self._db.write(_EXPIRE, lambda: (wall_until(ms), self._ns, key, wall_ms())) == 1

    def persist(self, key: str) -> bool:
        key = check_key(key)
        return self._db.write(_PERSIST, lambda: (self._ns, key, wall_ms())) == 1

    def _update(self, keys: list[str], fn: ManyFn, ages: Ages) -> dict[str, bytes]:
        return self._db.transaction(self._updating(keys, fn, ages))

    def increment(self, key: str, amount: int = 1, *, ttl: TTL | Keep = KEEP_TTL, ttl_if_new: TTL = None) -> int:
        amount = check_amount(amount, key)
        key = check_key(key)
        if update_ttl_ms(ttl, ttl_if_new)[0] is KEEP_TTL and _RETURNS:
            sums = self._db.returned(_INCREMENT, lambda: (amount, self._ns, key, wall_ms()))
            if sums:
                return int(sums[0][0])
        return super().increment(key, amount, ttl=ttl, ttl_if_new=ttl_if_new)  # where it is missing, or no integer

    def _apply(self, key: str, fn: OwnFn, *, ttl: TTL | Keep = KEEP_TTL, ttl_if_new: TTL = None) -> bytes | None:
        # a function of ours writes nothing besides
        key = check_key(key)
        return self._db.step(self._updating([key], of_one(fn, key), update_ttl_ms(ttl, ttl_if_new))).get(key)

    def _updating(self, keys: list[str], fn: ManyFn, ages: Ages) -> Callable[[sqlite3.Connection], dict[str, bytes]]:
        def work(writer: sqlite3.Connection) -> dict[str, bytes]:
            if len(keys) == 1:
                rows = [(keys[0], *row) for row in self._db.read(writer, _GET, (self._ns, keys[0]))]
            else:
                rows = self._db.read(writer, _MANY, (json.dumps(keys), self._ns))
            while True:
                there = {key: (_whole(value), until) for key, value, until in rows if not wall_past(until)}
                answer = fn({key: value for key, (value, _) in there.items()})
                if not any(wall_past(until) for _, until in there.values()):
                    break  # else an entry has expired while fn ran, and is missing now
            changed = []
            for key, value in answer.items():
                age = ages[0] if key in there else ages[1]
                changed.append(self._row(key, value, there[key][1] if age is KEEP_TTL else wall_until(age)))
            self._db.write_many(writer, _PUT, changed)
            if gone := [key for key in there if key not in answer]:
                self._db.write_many(writer, _DELETE_MANY, [(self._ns, json.dumps(gone), wall_ms())])
            return answer

        return work

    def cleanup(self, *, limit: int | None = None) -> int:
        return self._db.cleanup(check_limit(limit))

    def compact(self) -> None:
        upkeep.compact(self._db)

    def verify(self) -> list[str]:
        return upkeep.verify(self._db)

    def backup(self, path: str | os.PathLike[str]) -> None:
        upkeep.backup(self._db, os.path.abspath(os.fspath(path)))

    # travelling, see kv.transfer

    _first_page = PAGE

    def _dump(self, after: str | None, limit: int) -> list[Record]:
        return [Record(*row) for row in self._page(Listing(after=after), limit, TRAVEL_BYTES)]

    def _look(self, keys: list[str]) -> dict[str, Record]:
        found = self._many(keys)
        return {key: Record(key, _whole(value), until) for key, value, until in found if not wall_past(until)}

    def _load(self, records: Iterable[Record]) -> None:
        rows = [
            self._row(check_key(key), check_value(value, key), expires_at)
            for key, value, expires_at in records
            if not wall_past(expires_at)
        ]
        self._db.transaction(lambda writer: self._db.write_many(writer, _PUT, rows))


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
    """Give the path in a URL; none is in memory."""
    return path_of(url) or ":memory:"


class _Unopened(SQLiteStore):
    """Connects when it is first used, in the thread that uses it."""

    def _open(self) -> None:
        pass


class AsyncSQLiteStore(AsyncFileStore[SQLiteStore]):
    """See `SQLiteStore`. Connects at the first operation, or at `async with`.

    Reads, writes, and what takes long (`clear`, `cleanup`, `compact`, `stats`, `verify`, `backup`) run in a thread
    each, so none waits for the others. The writes that are waiting share one commit, and each returns after it; the sets
    and increments among them share statements, and so do the gets that are waiting.
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
        super().__init__(store, "sqlite", read=together.read, write=partial(together.write, store._db))

    @classmethod
    def from_url(cls, url: str, **opts: Any) -> Self:
        """Open by a URL, with the options taken off it; see `kv.open`."""
        return cls(_path(url), **opts)

    @overload
    async def get(self, key: str) -> bytes | None: ...
    @overload
    async def get(self, key: str, default: D) -> bytes | D: ...
    async def get(self, key: str, default: object = None) -> object:
        return await self._reader(together.Get(self._store, key, default))

    async def set(self, key: str, value: Value, *, ttl: TTL = None) -> None:
        await self._writer(together.Write(self._store._db, _PUT, self._store._put(key, value, ttl)))

    async def increment(self, key: str, amount: int = 1, *, ttl: TTL | Keep = KEEP_TTL, ttl_if_new: TTL = None) -> int:
        return await self._writer(together.Increment(self._store, key, amount, ttl, ttl_if_new))

    @staticmethod
    def ddl() -> str:
        """See `SQLiteStore.ddl`."""
        return DDL


BACKEND: Final = Backend(SQLiteStore, AsyncSQLiteStore)
