"""`postgresql://`: both colours side by side. A value flows from here through `rows.py` and `statements.py` to a driver."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any, Final, TypeVar, overload

from kv.base import PAGE, AsyncBaseStore, BaseStore, leading
from kv.errors import CorruptData
from kv.expiry import KEEP_TTL, ttl_ms
from kv.keys import Listing, check_keys, check_limit
from kv.url import Backend
from kv.values import check_items

from .errors import no_driver
from .parts import Parts, Settings, records_of, refuse, said, stats_of
from .rows import FIRST_ROW, Rows, array_literal, ended, inside, ms, page_of, wrong
from .statements import BATCH

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterable, Iterator, Mapping
    from typing import Self

    from kv.expiry import TTL, Ages, Keep
    from kv.store import Record, Stats, Value
    from kv.values import ManyFn

    from . import through_asyncpg, through_psycopg

__all__ = ["AsyncPostgresStore", "PostgresStore"]

D = TypeVar("D")


class PostgresStore(Parts, BaseStore):
    """A store in a table of a PostgreSQL database, for many threads, processes and machines.

    Args:
        server: a URL as libpq reads it, `postgresql://user:password@host:5432/database`; or a `psycopg_pool`
            pool or a `psycopg` connection of yours, which is never closed here.
        table: the table's name; it is made where it is missing.
        schema: of the table; None: as `search_path` says.
        unlogged: whether the table is UNLOGGED: faster, and empty after a crash of the server.
        listing: whether the table that is made gets the index for `keys`, `scan`, `count` and `clear` by prefix.
        create: whether the table may be made; False: no DDL is ever issued, see `kv ddl`.
        pool_min: how many connections to open at once.
        pool_max: how many connections to open at most.
        lock_timeout: seconds to wait for other writers before `Conflict`, and for a free connection.
        socket_timeout: seconds that an answer may take besides, before the connection counts as lost; `compact` alone takes
            as long as it takes. Of a pool or a connection of yours its own settings apply.
        cleanup_interval: seconds between two removals of expired entries by a daemon thread; None: never.
        namespace: the namespace to be in, or the names of nested ones.

    Raises:
        ConfigError: the URL, an option or the table that is there is not right, or the driver is missing.
        Unavailable: the server cannot be reached, or refuses.
    """

    _db: through_psycopg.Database

    def __init__(
        self,
        server: Any,
        *,
        table: str = "kv_store",
        schema: str | None = None,
        unlogged: bool = False,
        listing: bool = True,
        create: bool = True,
        pool_min: int = 1,
        pool_max: int = 10,
        lock_timeout: float = 30,
        socket_timeout: float = 30,
        cleanup_interval: float | None = None,
        namespace: str | Iterable[str] | None = None,
    ) -> None:
        super().__init__(namespace=namespace)
        settings = Settings(
            server,
            "PostgresStore",
            table=table,
            schema=schema,
            unlogged=unlogged,
            listing=listing,
            create=create,
            pool_min=pool_min,
            pool_max=pool_max,
            lock_timeout=lock_timeout,
            socket_timeout=socket_timeout,
            cleanup_interval=cleanup_interval,
        )
        self._use(settings)
        try:
            from . import through_psycopg
        except ImportError as e:
            raise no_driver("psycopg", e) from e

        self._db = through_psycopg.open_database(server, settings)
        try:
            self._db.start()
        except BaseException:
            self._db.close()
            raise
        self._db.begin_cleaning()

    def _view(self, path: tuple[str, ...]) -> Self:
        view = super()._view(path)
        view._rows = self._rows_of(path)
        return view

    def _rows_of(self, path: tuple[str, ...]) -> Rows:
        return Rows(self._sql, path, array_literal)

    def bind(self, connection: Any) -> Self:
        """Give this store on a connection of yours, inside the transaction that is on it.

        What is written is there when you commit, with what else you wrote, and gone if you roll back. Outside a
        transaction each call is its own. Like any psycopg connection it is for one thread at a time, and its own
        `lock_timeout` and isolation level apply.
        """
        from . import through_psycopg

        view = self._view(self._path)
        view._db = through_psycopg.bound(connection, self._db)
        return view

    def _close(self) -> None:
        self._db.close()

    # reading

    @overload
    def get(self, key: str) -> bytes | None: ...
    @overload
    def get(self, key: str, default: D) -> bytes | D: ...
    def get(self, key: str, default: object = None) -> object:
        value = self._db.value((self._sql.get, self._rows.one(key)))
        return default if value is None else value

    def get_many(self, keys: Iterable[str]) -> dict[str, bytes]:
        asked = check_keys(keys)
        found = dict(self._db.rows((self._sql.get_many, self._rows.many(self._rows.ordered(asked)))))
        return {key: found[key] for key in asked if key in found}

    def exists(self, key: str) -> bool:
        return self._db.value((self._sql.exists, self._rows.one(key))) is not None

    def size(self, key: str) -> int | None:
        size: int | None = self._db.value((self._sql.size, self._rows.one(key)))
        return size

    def ttl(self, key: str) -> float | None:
        left: float | None = self._db.value((self._sql.ttl, self._rows.one(key)))
        return left

    def keys(
        self, prefix: str = "", *, match: str | None = None, after: str | None = None, limit: int | None = None
    ) -> list[str]:
        listing = Listing(prefix, match, after, limit)
        self._db.check_open()
        return listing.pick(key for page in self._pages_of(listing) for key in page)

    def _pages_of(self, listing: Listing) -> Iterator[list[str]]:
        """Give the live keys of the range, a page at a time."""
        size, first = page_of(None if listing.matches else listing.limit), True
        while not listing.empty:
            bounds, args = self._rows.range(listing, first=first)
            page = inside(self._db.rows((self._sql.keys(size, bounds), args)), listing)
            yield [key for (key,) in page]
            if len(page) < size:
                return
            listing.go_on_after(page[-1][0])
            first = False

    def scan(
        self, prefix: str = "", *, match: str | None = None, after: str | None = None, limit: int | None = None
    ) -> Iterator[tuple[str, bytes]]:
        listing = Listing(prefix, match, after, limit)
        self._db.check_open()
        return listing.pick_entries(self._entries(listing))

    def _entries(self, listing: Listing) -> Iterator[tuple[str, bytes]]:
        size, first = min(PAGE, page_of(listing.limit)), True
        while not listing.empty:
            asked = time.monotonic()
            bounds, args = self._rows.range(listing, first=first)
            read = self._db.rows((self._sql.scan(size, bounds), args))
            page = inside(read, listing)
            for key, value, left in page:
                if left is None or left > (time.monotonic() - asked) * 1000:
                    yield key, value
            if len(page) < len(read) or ended(page, size):
                return
            listing.go_on_after(page[-1][0])
            first = False

    def count(self, prefix: str = "", *, match: str | None = None) -> int:
        listing = Listing(prefix, match)
        self._db.check_open()
        if matches := listing.matches:
            return sum(sum(map(matches, page)) for page in self._pages_of(listing))
        bounds, args = self._rows.range(listing)
        count: int = self._db.value((self._sql.count(bounds), args))
        return count

    def namespaces(self) -> list[str]:
        args = self._rows.namespaces()
        sql = self._sql.namespaces(listing=self._settings.table.listing, bounded=len(args) > 2)
        return self._rows.names(self._db.rows((sql, args)))

    def stats(self) -> Stats:
        return stats_of(self._db.rows((self._sql.stats, (self._rows.namespace,)))[0])

    # writing

    def set(self, key: str, value: Value, *, ttl: TTL = None) -> None:
        if self._db.write(self._put(key, value, None if ttl is None else ttl_ms(ttl))) != 1:
            raise self._clash()

    def set_many(self, items: Mapping[str, Value] | Iterable[tuple[str, Value]], *, ttl: TTL = None) -> None:
        self._db.store(self._rows.stored(check_items(items), ttl_ms(ttl)))

    def delete(self, key: str) -> bool:
        return said(self._db.returned((self._sql.delete, self._rows.one(key))))

    def delete_many(self, keys: Iterable[str]) -> int:
        return self._db.write((self._sql.delete_many, self._rows.many(self._rows.ordered(check_keys(keys)))))

    def add(self, key: str, value: Value, *, ttl: TTL = None) -> bool:
        return self._db.write(self._addition(key, value, ttl_ms(ttl))) == 1

    def compare_and_set(
        self, key: str, expected: Value | None, value: Value | None, *, ttl: TTL | Keep = KEEP_TTL
    ) -> bool:
        swap = self._swap(key, expected, value, ttl)
        if swap is None:
            return not self.exists(key)
        return said(self._db.returned(swap)) if value is None else self._db.write(swap) == 1

    @overload
    def pop(self, key: str) -> bytes | None: ...
    @overload
    def pop(self, key: str, default: D) -> bytes | D: ...
    def pop(self, key: str, default: object = None) -> object:
        row = self._db.returned((self._sql.pop, self._rows.one(key)))
        return default if row is None or row[0] is None else row[0]

    def increment(self, key: str, amount: int = 1, *, ttl: TTL | Keep = KEEP_TTL, ttl_if_new: TTL = None) -> int:
        step = self._addend(key, amount, ttl, ttl_if_new)
        while (row := self._db.returned(step)) is None:
            current = self.get(key)
            if current is None and self._db.value((self._sql.clash, step[1][:4])):
                raise self._clash()
            refuse(current, amount, key)
        return int(row[0])

    def expire(self, key: str, ttl: TTL) -> bool:
        return self._db.write((self._sql.expire, (*self._rows.one(key), ms(ttl_ms(ttl))))) == 1

    def persist(self, key: str) -> bool:
        return self._db.write((self._sql.persist, self._rows.one(key))) == 1

    def _update(self, keys: list[str], fn: ManyFn, ages: Ages) -> dict[str, bytes]:
        return self._db.update(self._rows, keys, fn, ages)

    def clear(self, prefix: str = "") -> int:
        listing = Listing(prefix)
        bounds, args = self._rows.range(listing)
        step = self._sql.clear(bounds), args
        removed, seen = 0, BATCH
        while seen == BATCH:
            seen, live = self._db.returned(step)
            removed += live
        return removed

    def cleanup(self, *, limit: int | None = None) -> int:
        return self._db.cleanup(check_limit(limit))

    def compact(self) -> None:
        self._db.vacuum(self._sql.compact)

    def verify(self) -> list[str]:
        found: list[str] = []
        last = FIRST_ROW
        try:
            while page := self._db.rows((self._sql.every, last)):
                found += filter(None, map(wrong, page))
                last = tuple(page[-1][:2])
        except CorruptData as e:
            found.append(str(e))
        return found

    # travelling, see kv.transfer

    def _dump(self, after: str | None, limit: int) -> list[Record]:
        return records_of(self._db.rows(self._dumping(after, limit)))

    def _look(self, keys: list[str]) -> dict[str, Record]:
        return {record.key: record for record in records_of(self._db.rows(self._looking(keys)))}

    def _load(self, records: Iterable[Record]) -> None:
        self._db.store(self._loading(records))


class AsyncPostgresStore(Parts, AsyncBaseStore):
    """See `PostgresStore`. On asyncpg; connects at the first operation, or at `async with`, in each event loop anew."""

    _db: through_asyncpg.Database

    def __init__(
        self,
        server: Any,
        *,
        table: str = "kv_store",
        schema: str | None = None,
        unlogged: bool = False,
        listing: bool = True,
        create: bool = True,
        pool_min: int = 1,
        pool_max: int = 10,
        lock_timeout: float = 30,
        socket_timeout: float = 30,
        cleanup_interval: float | None = None,
        namespace: str | Iterable[str] | None = None,
    ) -> None:
        super().__init__(namespace=namespace)
        settings = Settings(
            server,
            "AsyncPostgresStore",
            table=table,
            schema=schema,
            unlogged=unlogged,
            listing=listing,
            create=create,
            pool_min=pool_min,
            pool_max=pool_max,
            lock_timeout=lock_timeout,
            socket_timeout=socket_timeout,
            cleanup_interval=cleanup_interval,
        )
        self._use(settings)
        try:
            from . import through_asyncpg
        except ImportError as e:
            raise no_driver("asyncpg", e) from e

        self._db = through_asyncpg.open_database(server, settings)
        self._db.begin_cleaning()

    def _view(self, path: tuple[str, ...]) -> Self:
        view = super()._view(path)
        view._rows = self._rows_of(path)
        return view

    def bind(self, connection: Any) -> Self:
        """See `PostgresStore.bind`. Takes an asyncpg connection, also one of a pool."""
        from . import through_asyncpg

        view = self._view(self._path)
        view._db = through_asyncpg.bound(connection, self._db)
        return view

    async def _close(self) -> None:
        await self._db.close()

    async def __aenter__(self) -> Self:
        try:
            await self._db.open()
        except BaseException:
            if not self._is_view:
                await self._db.source.leave()
            raise
        return self

    # reading

    @overload
    async def get(self, key: str) -> bytes | None: ...
    @overload
    async def get(self, key: str, default: D) -> bytes | D: ...
    async def get(self, key: str, default: object = None) -> object:
        value = await self._db.get((self._sql.get, self._rows.one(key)))
        return default if value is None else value

    async def get_many(self, keys: Iterable[str]) -> dict[str, bytes]:
        asked = check_keys(keys)
        found = dict(await self._db.rows((self._sql.get_many, self._rows.many(self._rows.ordered(asked)))))
        return {key: found[key] for key in asked if key in found}

    async def exists(self, key: str) -> bool:
        return await self._db.value((self._sql.exists, self._rows.one(key))) is not None

    async def size(self, key: str) -> int | None:
        size: int | None = await self._db.value((self._sql.size, self._rows.one(key)))
        return size

    async def ttl(self, key: str) -> float | None:
        left: float | None = await self._db.value((self._sql.ttl, self._rows.one(key)))
        return left

    async def keys(
        self, prefix: str = "", *, match: str | None = None, after: str | None = None, limit: int | None = None
    ) -> list[str]:
        listing = Listing(prefix, match, after, limit)
        found: list[str] = []
        async for page in self._pages_of(listing):
            found += page if listing.matches is None else filter(listing.matches, page)
            if limit is not None and len(found) >= limit:
                break
        return found[:limit]

    async def _pages_of(self, listing: Listing) -> AsyncIterator[list[str]]:
        self._db.check_open()
        size, first = page_of(None if listing.matches else listing.limit), True
        while not listing.empty:
            bounds, args = self._rows.range(listing, first=first)
            page = inside(await self._db.rows((self._sql.keys(size, bounds), args)), listing)
            yield [key for (key,) in page]
            if len(page) < size:
                return
            listing.go_on_after(page[-1][0])
            first = False

    def scan(
        self, prefix: str = "", *, match: str | None = None, after: str | None = None, limit: int | None = None
    ) -> AsyncIterator[tuple[str, bytes]]:
        listing = Listing(prefix, match, after, limit)
        return leading(self._entries(listing), limit)

    async def _entries(self, listing: Listing) -> AsyncIterator[tuple[str, bytes]]:
        self._db.check_open()
        matches = listing.matches
        size, first = min(PAGE, page_of(None if matches else listing.limit)), True
        while not listing.empty:
            asked = time.monotonic()
            bounds, args = self._rows.range(listing, first=first)
            read = await self._db.rows((self._sql.scan(size, bounds), args))
            page = inside(read, listing)
            for key, value, left in page:
                if (left is None or left > (time.monotonic() - asked) * 1000) and (matches is None or matches(key)):
                    yield key, value
            if len(page) < len(read) or ended(page, size):
                return
            listing.go_on_after(page[-1][0])
            first = False

    async def count(self, prefix: str = "", *, match: str | None = None) -> int:
        listing = Listing(prefix, match)
        if matches := listing.matches:
            return sum([sum(map(matches, page)) async for page in self._pages_of(listing)])
        bounds, args = self._rows.range(listing)
        count: int = await self._db.value((self._sql.count(bounds), args))
        return count

    async def namespaces(self) -> list[str]:
        args = self._rows.namespaces()
        sql = self._sql.namespaces(listing=self._settings.table.listing, bounded=len(args) > 2)
        return self._rows.names(await self._db.rows((sql, args)))

    async def stats(self) -> Stats:
        return stats_of((await self._db.rows((self._sql.stats, (self._rows.namespace,))))[0])

    # writing

    async def set(self, key: str, value: Value, *, ttl: TTL = None) -> None:
        if await self._db.set(self._put(key, value, None if ttl is None else ttl_ms(ttl))) != 1:
            raise self._clash()

    async def set_many(self, items: Mapping[str, Value] | Iterable[tuple[str, Value]], *, ttl: TTL = None) -> None:
        await self._db.store(self._rows.stored(check_items(items), ttl_ms(ttl)))

    async def delete(self, key: str) -> bool:
        return said(await self._db.returned((self._sql.delete, self._rows.one(key))))

    async def delete_many(self, keys: Iterable[str]) -> int:
        return await self._db.write((self._sql.delete_many, self._rows.many(self._rows.ordered(check_keys(keys)))))

    async def add(self, key: str, value: Value, *, ttl: TTL = None) -> bool:
        return await self._db.write(self._addition(key, value, ttl_ms(ttl))) == 1

    async def compare_and_set(
        self, key: str, expected: Value | None, value: Value | None, *, ttl: TTL | Keep = KEEP_TTL
    ) -> bool:
        swap = self._swap(key, expected, value, ttl)
        if swap is None:
            return not await self.exists(key)
        return said(await self._db.returned(swap)) if value is None else await self._db.write(swap) == 1

    @overload
    async def pop(self, key: str) -> bytes | None: ...
    @overload
    async def pop(self, key: str, default: D) -> bytes | D: ...
    async def pop(self, key: str, default: object = None) -> object:
        row = await self._db.returned((self._sql.pop, self._rows.one(key)))
        return default if row is None or row[0] is None else row[0]

    async def increment(self, key: str, amount: int = 1, *, ttl: TTL | Keep = KEEP_TTL, ttl_if_new: TTL = None) -> int:
        step = self._addend(key, amount, ttl, ttl_if_new)
        add = self._db.increment if step[0] is self._sql.increment else self._db.returned
        while (row := await add(step)) is None:
            current = await self.get(key)
            if current is None and await self._db.value((self._sql.clash, step[1][:4])):
                raise self._clash()
            refuse(current, amount, key)
        return int(row[0])

    async def expire(self, key: str, ttl: TTL) -> bool:
        return await self._db.write((self._sql.expire, (*self._rows.one(key), ms(ttl_ms(ttl))))) == 1

    async def persist(self, key: str) -> bool:
        return await self._db.write((self._sql.persist, self._rows.one(key))) == 1

    async def _update(self, keys: list[str], fn: ManyFn, ages: Ages) -> dict[str, bytes]:
        return await self._db.update(self._rows, keys, fn, ages)

    async def clear(self, prefix: str = "") -> int:
        listing = Listing(prefix)
        bounds, args = self._rows.range(listing)
        step = self._sql.clear(bounds), args
        removed, seen = 0, BATCH
        while seen == BATCH:
            seen, live = await self._db.returned(step)
            removed += live
        return removed

    async def cleanup(self, *, limit: int | None = None) -> int:
        return await self._db.cleanup(check_limit(limit))

    async def compact(self) -> None:
        await self._db.vacuum(self._sql.compact)

    async def verify(self) -> list[str]:
        found: list[str] = []
        last = FIRST_ROW
        try:
            while page := await self._db.rows((self._sql.every, last)):
                found += filter(None, map(wrong, page))
                last = tuple(page[-1][:2])
        except CorruptData as e:
            found.append(str(e))
        return found

    # travelling, see kv.transfer

    async def _dump(self, after: str | None, limit: int) -> list[Record]:
        return records_of(await self._db.rows(self._dumping(after, limit)))

    async def _look(self, keys: list[str]) -> dict[str, Record]:
        return {record.key: record for record in records_of(await self._db.rows(self._looking(keys)))}

    async def _load(self, records: Iterable[Record]) -> None:
        await self._db.store(self._loading(records))


BACKEND: Final = Backend(PostgresStore, AsyncPostgresStore)
