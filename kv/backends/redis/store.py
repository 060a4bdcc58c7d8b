"""`redis://`: both colours side by side. A value flows from here through `commands.py` and `routing.py` to redis-py."""

from __future__ import annotations

import asyncio
import time
from typing import TYPE_CHECKING, Any, TypeVar, overload

from kv.base import PAGE, AsyncBaseStore, BaseStore, next_limit
from kv.errors import BackendError
from kv.expiry import KEEP_TTL, ttl_ms
from kv.keys import Listing, check_keys, check_limit
from kv.url import Backend

from . import commands
from .commands import done, seconds
from .names import literal
from .parts import Parts, found, not_counted, pause
from .refusals import conflict
from .server import Server, no_driver

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterable, Iterator, Mapping
    from typing import Self

    from kv.expiry import TTL, Ages, Keep
    from kv.store import Record, Stats, Value
    from kv.values import ManyFn

    from . import through_redis, through_redis_asyncio

__all__ = ["AsyncRedisStore", "RedisStore"]

D = TypeVar("D")


class RedisStore(Parts, BaseStore):
    """A store in Redis 7 or newer, in Valkey, or in a cluster of them, for many threads, processes and machines.

    Entries are plain strings under names like `kv:namespace:key`, with Redis' own deadlines. What else is in the same
    database is never listed, counted or changed. Listing has no index: `keys`, `scan`, `count`, `clear`, `namespaces` and
    `stats` go through all keys of the database, in steps that let others in between. While slots of a cluster move, they
    do so twice: an entry may be missed only if it moves more than once meanwhile.

    Args:
        server: a URL as redis-py reads it, `redis://user:password@host:6379/0`, `rediss://` for TLS, `unix://path`,
            `redis+cluster://host:6379,host:6379`; or a `Redis`, `RedisCluster` or `ConnectionPool` of redis-py, which is
            never closed here.
        prefix: the first word of all names.
        pool_max: how many connections to open at most, to each server.
        lock_timeout: seconds that an `update` is tried again while others are faster, before `Conflict`; and to wait for a
            free connection.
        socket_timeout: seconds that an answer may take, before the connection counts as lost. Of a client of yours its own
            settings apply.
        cleanup_interval: for the sake of other backends: Redis removes what has expired by itself.
        namespace: the namespace to be in, or the names of nested ones.

    Raises:
        ConfigError: the URL or an option is not right, the server is too old, or the driver is missing.
        Unavailable: the server cannot be reached, or refuses.
    """

    _db: through_redis.Database

    def __init__(
        self,
        server: Any,
        *,
        prefix: str = "kv",
        pool_max: int = 10,
        lock_timeout: float = 30,
        socket_timeout: float = 30,
        cleanup_interval: float | None = None,
        namespace: str | Iterable[str] | None = None,
    ) -> None:
        super().__init__(namespace=namespace)
        try:
            import redis

            from . import through_redis
        except ImportError as e:
            raise no_driver(e) from e
        told = Server(
            server,
            "RedisStore",
            redis,
            prefix=prefix,
            pool_max=pool_max,
            lock_timeout=lock_timeout,
            socket_timeout=socket_timeout,
            cleanup_interval=cleanup_interval,
        )
        self._use(told)
        self._db = through_redis.open_database(told)
        self._slots = self._db.slots
        try:
            self._db.start()
        except BaseException:
            self._db.close()
            raise

    def _view(self, path: tuple[str, ...]) -> Self:
        view = super()._view(path)
        view._use(self._server)
        return view

    def _close(self) -> None:
        self._db.close()

    # reading

    @overload
    def get(self, key: str) -> bytes | None: ...
    @overload
    def get(self, key: str, default: D) -> bytes | D: ...
    def get(self, key: str, default: object = None) -> object:
        value = self._db.call(commands.get(self._names.of(key)))
        return default if value is None else value

    def get_many(self, keys: Iterable[str]) -> dict[str, bytes]:
        asked = check_keys(keys)
        names = self._names.many(asked)
        groups = self._slots.spread(names)
        answers = self._db.calls([commands.get_many(group) for group in groups])
        return found(asked, names, groups, answers)

    def exists(self, key: str) -> bool:
        return bool(self._db.call(commands.exists(self._names.of(key))))

    def size(self, key: str) -> int | None:
        size: int | None = self._db.call(commands.size(self._names.of(key)))
        return size

    def ttl(self, key: str) -> float | None:
        return seconds(self._db.call(commands.ttl(self._names.of(key))))

    def keys(
        self, prefix: str = "", *, match: str | None = None, after: str | None = None, limit: int | None = None
    ) -> list[str]:
        return self._listed(Listing(prefix, match, after, limit))

    def _listed(self, listing: Listing) -> list[str]:
        if listing.empty:
            self._db.check_open()
            return []
        if self._gathered is not None:
            return self._sorted(self._gathered.get(self._names.way, ()), listing)
        return self._sorted(self._db.scan(self._within(listing)), listing)

    def scan(
        self, prefix: str = "", *, match: str | None = None, after: str | None = None, limit: int | None = None
    ) -> Iterator[tuple[str, bytes]]:
        listing, most = Listing(prefix, match, after), check_limit(limit)
        self._db.check_open()
        return self._entries(listing, most)

    def _entries(self, listing: Listing, most: int | None) -> Iterator[tuple[str, bytes]]:
        if most == 0:
            return
        given = 0
        for asked, page in self._read(self._listed(listing), "PTTL"):
            for key, value, left in page:
                if left is None or left > (time.monotonic() - asked) * 1000:
                    yield key, value
                    given += 1
                    if given == most:
                        return

    def _read(self, keys: list[str], deadline: str) -> Iterator[tuple[float, list[Record]]]:
        """Give the entries in pages that do not fill the memory, each with the time at which it was asked for."""
        begin, size = 0, 1  # nothing is known of how large the values are
        while some := keys[begin : begin + size]:
            asked = time.monotonic()
            page = self._entries_of(some, self._db.calls(commands.read(self._names.many(some), deadline)))
            yield asked, page
            begin, size = begin + size, next_limit(size, page)

    def count(self, prefix: str = "", *, match: str | None = None) -> int:
        return len(self._listed(Listing(prefix, match)))

    def namespaces(self) -> list[str]:
        if self._gathered is not None:
            return self._children_gathered(self._gathered)
        return self._children(self._db.scan(literal(self._names.below)))

    def stats(self) -> Stats:
        keys = self._listed(Listing())
        sizes: list[Any] = []
        for begin in range(0, len(keys), commands.PAGE):
            sizes += self._db.calls(commands.lengths(self._names.many(keys[begin : begin + commands.PAGE])))
        return self._stats(keys, sizes)

    # writing

    def set(self, key: str, value: Value, *, ttl: TTL = None) -> None:
        self._db.call(self._put(key, value, ttl))

    def set_many(self, items: Mapping[str, Value] | Iterable[tuple[str, Value]], *, ttl: TTL = None) -> None:
        self._db.calls(self._put_many(items, ttl))

    def delete(self, key: str) -> bool:
        return done(self._db.call(commands.delete([self._names.of(key)])))

    def delete_many(self, keys: Iterable[str]) -> int:
        asked = check_keys(keys)
        self._db.check_open()
        return sum(sum(self._db.calls(some)) for some in self._removals(asked))

    def add(self, key: str, value: Value, *, ttl: TTL = None) -> bool:
        return self._db.call(self._add(key, value, ttl)) is not None

    def compare_and_set(
        self, key: str, expected: Value | None, value: Value | None, *, ttl: TTL | Keep = KEEP_TTL
    ) -> bool:
        return done(self._db.call(self._compare(key, expected, value, ttl)))

    @overload
    def pop(self, key: str) -> bytes | None: ...
    @overload
    def pop(self, key: str, default: D) -> bytes | D: ...
    def pop(self, key: str, default: object = None) -> object:
        value = self._db.call(commands.pop(self._names.of(key)))
        return default if value is None else value

    def increment(self, key: str, amount: int = 1, *, ttl: TTL | Keep = KEEP_TTL, ttl_if_new: TTL = None) -> int:
        command = self._increment(key, amount, ttl, ttl_if_new)
        try:
            return int(self._db.call(command))
        except BackendError as e:
            raise not_counted(e, key) from e.__cause__

    def expire(self, key: str, ttl: TTL) -> bool:
        return done(self._db.call(commands.expire(self._names.of(key), ttl_ms(ttl))))

    def persist(self, key: str) -> bool:
        return done(self._db.call(commands.persist(self._names.of(key))))

    def _update(self, keys: list[str], fn: ManyFn, ages: Ages) -> dict[str, bytes]:
        names = self._names.many(keys)
        self._check_together(names)
        with self._db.turns.of(names):
            there, tries, end = self.get_many(keys), 0, time.monotonic() + self._server.timeout
            while True:
                answer = fn(there)
                if not keys or (said := self._db.call(self._swap(names, keys, there, answer, ages))) == 1:
                    return answer
                there = {key: value for key, value in zip(keys, said, strict=True) if value is not None}
                tries += 1
                if time.monotonic() > end:
                    raise conflict(self._server.shown, self._server.timeout)
                time.sleep(pause(tries))

    def clear(self, prefix: str = "") -> int:
        return self.delete_many(self._listed(Listing(prefix)))

    def cleanup(self, *, limit: int | None = None) -> int:
        check_limit(limit)
        self._db.check_open()
        return 0  # Redis does it

    def compact(self) -> None:
        self._db.everywhere("MEMORY", "PURGE")

    def verify(self) -> list[str]:
        names = sorted(self._db.scan(literal(f"{self._server.prefix}:"), strings=False))
        wrong: list[str] = []
        for begin in range(0, len(names), commands.PAGE):
            some = names[begin : begin + commands.PAGE]
            wrong += self._wrong(some, self._db.calls(commands.kinds(some)))
        return wrong

    # travelling, see kv.transfer

    def _gather(self) -> Self:
        return self._holding(self._db.scan(self._names.everything))

    def _records(self, after: str | None) -> Iterator[list[Record]]:
        for _, page in self._read(self._listed(Listing(after=after)), "PEXPIRETIME"):
            if page:
                yield page

    def _look(self, keys: list[str]) -> dict[str, Record]:
        answers = self._db.calls(commands.read(self._names.many(keys), "PEXPIRETIME"))
        return {record.key: record for record in self._entries_of(keys, answers)}

    def _load(self, records: Iterable[Record]) -> None:
        self._db.calls(self._loads(records))

    def _pages(self, prefix: str, match: str | None = None, after: str | None = None) -> Iterator[list[str]]:
        keys = self._listed(Listing(prefix, match, after))
        for begin in range(0, len(keys), PAGE):
            yield keys[begin : begin + PAGE]


class AsyncRedisStore(Parts, AsyncBaseStore):
    """See `RedisStore`. Connects at the first operation, or at `async with`, in each event loop anew."""

    _db: through_redis_asyncio.Database

    def __init__(
        self,
        server: Any,
        *,
        prefix: str = "kv",
        pool_max: int = 10,
        lock_timeout: float = 30,
        socket_timeout: float = 30,
        cleanup_interval: float | None = None,
        namespace: str | Iterable[str] | None = None,
    ) -> None:
        super().__init__(namespace=namespace)
        try:
            import redis.asyncio

            from . import through_redis_asyncio
        except ImportError as e:
            raise no_driver(e) from e
        told = Server(
            server,
            "AsyncRedisStore",
            redis.asyncio,
            prefix=prefix,
            pool_max=pool_max,
            lock_timeout=lock_timeout,
            socket_timeout=socket_timeout,
            cleanup_interval=cleanup_interval,
        )
        self._use(told)
        self._db = through_redis_asyncio.open_database(told)
        self._slots = self._db.slots

    def _view(self, path: tuple[str, ...]) -> Self:
        view = super()._view(path)
        view._use(self._server)
        return view

    async def _close(self) -> None:
        await self._db.close()

    async def __aenter__(self) -> Self:
        try:
            await self._db.open()
        except BaseException:
            if not self._is_view:
                await self._db.leave()
            raise
        return self

    # reading

    @overload
    async def get(self, key: str) -> bytes | None: ...
    @overload
    async def get(self, key: str, default: D) -> bytes | D: ...
    async def get(self, key: str, default: object = None) -> object:
        value = await self._db.call(commands.get(self._names.of(key)))
        return default if value is None else value

    async def get_many(self, keys: Iterable[str]) -> dict[str, bytes]:
        asked = check_keys(keys)
        names = self._names.many(asked)
        groups = self._slots.spread(names)
        answers = await self._db.calls([commands.get_many(group) for group in groups])
        return found(asked, names, groups, answers)

    async def exists(self, key: str) -> bool:
        return bool(await self._db.call(commands.exists(self._names.of(key))))

    async def size(self, key: str) -> int | None:
        size: int | None = await self._db.call(commands.size(self._names.of(key)))
        return size

    async def ttl(self, key: str) -> float | None:
        return seconds(await self._db.call(commands.ttl(self._names.of(key))))

    async def keys(
        self, prefix: str = "", *, match: str | None = None, after: str | None = None, limit: int | None = None
    ) -> list[str]:
        return await self._listed(Listing(prefix, match, after, limit))

    async def _listed(self, listing: Listing) -> list[str]:
        if listing.empty:
            self._db.check_open()
            return []
        if self._gathered is not None:
            return self._sorted(self._gathered.get(self._names.way, ()), listing)
        return self._sorted(await self._db.scan(self._within(listing)), listing)

    def scan(
        self, prefix: str = "", *, match: str | None = None, after: str | None = None, limit: int | None = None
    ) -> AsyncIterator[tuple[str, bytes]]:
        listing, most = Listing(prefix, match, after), check_limit(limit)
        self._db.check_open()
        return self._entries(listing, most)

    async def _entries(self, listing: Listing, most: int | None) -> AsyncIterator[tuple[str, bytes]]:
        if most == 0:
            return
        given = 0
        async for asked, page in self._read(await self._listed(listing), "PTTL"):
            for key, value, left in page:
                if left is None or left > (time.monotonic() - asked) * 1000:
                    yield key, value
                    given += 1
                    if given == most:
                        return

    async def _read(self, keys: list[str], deadline: str) -> AsyncIterator[tuple[float, list[Record]]]:
        """Give the entries in pages that do not fill the memory, each with the time at which it was asked for."""
        begin, size = 0, 1  # nothing is known of how large the values are
        while some := keys[begin : begin + size]:
            asked = time.monotonic()
            page = self._entries_of(some, await self._db.calls(commands.read(self._names.many(some), deadline)))
            yield asked, page
            begin, size = begin + size, next_limit(size, page)

    async def count(self, prefix: str = "", *, match: str | None = None) -> int:
        return len(await self._listed(Listing(prefix, match)))

    async def namespaces(self) -> list[str]:
        if self._gathered is not None:
            return self._children_gathered(self._gathered)
        return self._children(await self._db.scan(literal(self._names.below)))

    async def stats(self) -> Stats:
        keys = await self._listed(Listing())
        sizes: list[Any] = []
        for begin in range(0, len(keys), commands.PAGE):
            sizes += await self._db.calls(commands.lengths(self._names.many(keys[begin : begin + commands.PAGE])))
        return self._stats(keys, sizes)

    # writing

    async def set(self, key: str, value: Value, *, ttl: TTL = None) -> None:
        await self._db.call(self._put(key, value, ttl))

    async def set_many(self, items: Mapping[str, Value] | Iterable[tuple[str, Value]], *, ttl: TTL = None) -> None:
        await self._db.calls(self._put_many(items, ttl))

    async def delete(self, key: str) -> bool:
        return done(await self._db.call(commands.delete([self._names.of(key)])))

    async def delete_many(self, keys: Iterable[str]) -> int:
        asked = check_keys(keys)
        self._db.check_open()
        return sum([sum(await self._db.calls(some)) for some in self._removals(asked)])

    async def add(self, key: str, value: Value, *, ttl: TTL = None) -> bool:
        return await self._db.call(self._add(key, value, ttl)) is not None

    async def compare_and_set(
        self, key: str, expected: Value | None, value: Value | None, *, ttl: TTL | Keep = KEEP_TTL
    ) -> bool:
        return done(await self._db.call(self._compare(key, expected, value, ttl)))

    @overload
    async def pop(self, key: str) -> bytes | None: ...
    @overload
    async def pop(self, key: str, default: D) -> bytes | D: ...
    async def pop(self, key: str, default: object = None) -> object:
        value = await self._db.call(commands.pop(self._names.of(key)))
        return default if value is None else value

    async def increment(self, key: str, amount: int = 1, *, ttl: TTL | Keep = KEEP_TTL, ttl_if_new: TTL = None) -> int:
        command = self._increment(key, amount, ttl, ttl_if_new)
        try:
            return int(await self._db.call(command))
        except BackendError as e:
            raise not_counted(e, key) from e.__cause__

    async def expire(self, key: str, ttl: TTL) -> bool:
        return done(await self._db.call(commands.expire(self._names.of(key), ttl_ms(ttl))))

    async def persist(self, key: str) -> bool:
        return done(await self._db.call(commands.persist(self._names.of(key))))

    async def _update(self, keys: list[str], fn: ManyFn, ages: Ages) -> dict[str, bytes]:
        names = self._names.many(keys)
        self._check_together(names)
        async with self._db.turns.of(names):
            there, tries, end = await self.get_many(keys), 0, time.monotonic() + self._server.timeout
            while True:
                answer = fn(there)
                if not keys or (said := await self._db.call(self._swap(names, keys, there, answer, ages))) == 1:
                    return answer
                there = {key: value for key, value in zip(keys, said, strict=True) if value is not None}
                tries += 1
                if time.monotonic() > end:
                    raise conflict(self._server.shown, self._server.timeout)
                await asyncio.sleep(pause(tries))

    async def clear(self, prefix: str = "") -> int:
        return await self.delete_many(await self._listed(Listing(prefix)))

    async def cleanup(self, *, limit: int | None = None) -> int:
        check_limit(limit)
        self._db.check_open()
        return 0  # Redis does it

    async def compact(self) -> None:
        await self._db.everywhere("MEMORY", "PURGE")

    async def verify(self) -> list[str]:
        names = sorted(await self._db.scan(literal(f"{self._server.prefix}:"), strings=False))
        wrong: list[str] = []
        for begin in range(0, len(names), commands.PAGE):
            some = names[begin : begin + commands.PAGE]
            wrong += self._wrong(some, await self._db.calls(commands.kinds(some)))
        return wrong

    # travelling, see kv.transfer

    async def _gather(self) -> Self:
        return self._holding(await self._db.scan(self._names.everything))

    async def _records(self, after: str | None) -> AsyncIterator[list[Record]]:
        async for _, page in self._read(await self._listed(Listing(after=after)), "PEXPIRETIME"):
            if page:
                yield page

    async def _look(self, keys: list[str]) -> dict[str, Record]:
        answers = await self._db.calls(commands.read(self._names.many(keys), "PEXPIRETIME"))
        return {record.key: record for record in self._entries_of(keys, answers)}

    async def _load(self, records: Iterable[Record]) -> None:
        await self._db.calls(self._loads(records))

    async def _pages(self, prefix: str, match: str | None = None, after: str | None = None) -> AsyncIterator[list[str]]:
        keys = await self._listed(Listing(prefix, match, after))
        for begin in range(0, len(keys), PAGE):
            yield keys[begin : begin + PAGE]


BACKEND = Backend(RedisStore, AsyncRedisStore)
