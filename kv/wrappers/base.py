"""A store around a store, in both colours: every method is handed on, by way of `_read` or `_write`.

A wrapper overrides what it is about. `Wrapper` and `AsyncWrapper` hand on bytes as they are; `Sealing` and `AsyncSealing`
are for what stores them in another form.
"""

from __future__ import annotations

import copy
from typing import TYPE_CHECKING, Any, ParamSpec, TypeVar, overload

from kv.base import AsyncBaseStore, BaseStore
from kv.errors import ConfigError
from kv.expiry import KEEP_TTL
from kv.keys import check_keys
from kv.values import check_items

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Iterator, Mapping
    from typing import Self

    from kv.expiry import TTL, Ages, Keep
    from kv.store import AsyncStore, Record, Stats, Store, UpdateFn, UpdateManyFn, Value
    from kv.transfer import Progress
    from kv.values import ManyFn

__all__ = ["AsyncWrapper", "Wrapper"]

D = TypeVar("D")
T = TypeVar("T")
P = ParamSpec("P")

EVERY: None = None
"""What `_write` is told where a call may touch any key of the namespace."""


class _Around:
    """What both colours share: the store inside, and where it is."""

    store: Any
    """The store that this one stands around."""
    _is_view: bool

    def _stand(self, store: Any) -> None:
        self.store = store
        self._path: tuple[str, ...] = getattr(store, "_path", ())
        self._first_page: int = getattr(store, "_first_page", 1)

    def namespace(self, name: str) -> Self:
        """See `Store.namespace`."""
        view = self._around(self.store.namespace(name))
        view._is_view = True
        return view

    def _around(self, store: Any) -> Self:
        """Give this wrapper around another store of the same kind."""
        other = copy.copy(self)
        other._stand(store)
        return other

    def bind(self, connection: Any) -> Self:
        """Give this wrapper around what the store inside binds to a connection: see `PostgresStore.bind`."""
        view = self._around(self._inner("bind")(connection))
        view._is_view = True
        return view

    def _inner(self, method: str) -> Any:
        """Give a method that only some stores have."""
        if not hasattr(self.store, method):
            raise ConfigError(f"{self.store!r} has no {method}()")
        return getattr(self.store, method)

    def __repr__(self) -> str:
        return f"<{type(self).__name__} {self.store!r}>"


class Wrapper(_Around, BaseStore):
    """A `Store` around a `Store`. Closing it closes the one inside."""

    store: BaseStore

    def __init__(self, store: Store) -> None:
        if not hasattr(store, "close"):
            raise TypeError(f"{type(self).__name__} stands around a kv.Store, not around {type(store).__name__}")
        self._stand(store)

    def _read(self, method: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        """Hand on a call that only reads."""
        return method(*args, **kwargs)

    def _write(self, keys: Iterable[str] | None, method: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        """Hand on a call that may write to these keys; None: to any."""
        return method(*args, **kwargs)

    def _iterate(self, method: Callable[P, Iterator[T]], *args: P.args, **kwargs: P.kwargs) -> Iterator[T]:
        """Hand on a call that reads step by step."""
        return method(*args, **kwargs)

    @overload
    def get(self, key: str) -> bytes | None: ...
    @overload
    def get(self, key: str, default: D) -> bytes | D: ...
    def get(self, key: str, default: object = None) -> object:
        return self._read(self.store.get, key, default)

    def set(self, key: str, value: Value, *, ttl: TTL = None) -> None:
        return self._write((key,), self.store.set, key, value, ttl=ttl)

    def delete(self, key: str) -> bool:
        return self._write((key,), self.store.delete, key)

    def update(self, key: str, fn: UpdateFn, *, ttl: TTL | Keep = KEEP_TTL, ttl_if_new: TTL = None) -> bytes | None:
        return self._write((key,), self.store.update, key, fn, ttl=ttl, ttl_if_new=ttl_if_new)

    def keys(
        self, prefix: str = "", *, match: str | None = None, after: str | None = None, limit: int | None = None
    ) -> list[str]:
        return self._read(self.store.keys, prefix, match=match, after=after, limit=limit)

    def get_many(self, keys: Iterable[str]) -> dict[str, bytes]:
        asked = check_keys(keys)
        return self._read(self.store.get_many, asked)

    def set_many(self, items: Mapping[str, Value] | Iterable[tuple[str, Value]], *, ttl: TTL = None) -> None:
        entries = check_items(items)
        return self._write(entries, self.store.set_many, entries, ttl=ttl)

    def delete_many(self, keys: Iterable[str]) -> int:
        asked = check_keys(keys)
        return self._write(asked, self.store.delete_many, asked)

    def update_many(
        self, keys: Iterable[str], fn: UpdateManyFn, *, ttl: TTL | Keep = KEEP_TTL, ttl_if_new: TTL = None
    ) -> dict[str, bytes]:
        asked = check_keys(keys)
        return self._write(asked, self.store.update_many, asked, fn, ttl=ttl, ttl_if_new=ttl_if_new)

    def _update(self, keys: list[str], fn: ManyFn, ages: Ages) -> dict[str, bytes]:
        raise NotImplementedError  # update and update_many are handed on themselves

    def add(self, key: str, value: Value, *, ttl: TTL = None) -> bool:
        return self._write((key,), self.store.add, key, value, ttl=ttl)

    def compare_and_set(
        self, key: str, expected: Value | None, value: Value | None, *, ttl: TTL | Keep = KEEP_TTL
    ) -> bool:
        return self._write((key,), self.store.compare_and_set, key, expected, value, ttl=ttl)

    @overload
    def pop(self, key: str) -> bytes | None: ...
    @overload
    def pop(self, key: str, default: D) -> bytes | D: ...
    def pop(self, key: str, default: object = None) -> object:
        return self._write((key,), self.store.pop, key, default)

    def increment(self, key: str, amount: int = 1, *, ttl: TTL | Keep = KEEP_TTL, ttl_if_new: TTL = None) -> int:
        return self._write((key,), self.store.increment, key, amount, ttl=ttl, ttl_if_new=ttl_if_new)

    def exists(self, key: str) -> bool:
        return self._read(self.store.exists, key)

    def size(self, key: str) -> int | None:
        return self._read(self.store.size, key)

    def ttl(self, key: str) -> float | None:
        return self._read(self.store.ttl, key)

    def expire(self, key: str, ttl: TTL) -> bool:
        return self._write((key,), self.store.expire, key, ttl=ttl)

    def persist(self, key: str) -> bool:
        return self._write((key,), self.store.persist, key)

    def scan(
        self, prefix: str = "", *, match: str | None = None, after: str | None = None, limit: int | None = None
    ) -> Iterator[tuple[str, bytes]]:
        return self._iterate(self.store.scan, prefix, match=match, after=after, limit=limit)

    def count(self, prefix: str = "", *, match: str | None = None) -> int:
        return self._read(self.store.count, prefix, match=match)

    def clear(self, prefix: str = "") -> int:
        return self._write(EVERY, self.store.clear, prefix)

    def cleanup(self, *, limit: int | None = None) -> int:
        return self._write((), self.store.cleanup, limit=limit)

    def stats(self) -> Stats:
        return self._read(self.store.stats)

    def compact(self) -> None:
        return self._write((), self.store.compact)

    def verify(self) -> list[str]:
        return self._read(self.store.verify)

    def namespaces(self) -> list[str]:
        return self._read(self.store.namespaces)

    def backup(self, path: Any, **options: Any) -> None:
        """Copy the file of the store inside, as it is stored: see `SQLiteStore.backup`."""
        self._read(self._inner("backup"), path, **options)

    def reencrypt(self, *, progress: Progress | None = None) -> int:
        """Have a store inside seal its values with its first key: see `Encrypted.reencrypt`."""
        return int(self._write(EVERY, self._inner("reencrypt"), progress=progress))

    def _close(self) -> None:
        self.store.close()

    def __enter__(self) -> Self:
        self.store.__enter__()
        return self

    # travelling, see `BaseStore`

    def _gather(self) -> Self:
        return self._around(self.store._gather())

    def _dump(self, after: str | None, limit: int) -> list[Record]:
        return self._read(self.store._dump, after, limit)

    def _records(self, after: str | None) -> Iterator[list[Record]]:
        return self._iterate(self.store._records, after)

    def _look(self, keys: list[str]) -> dict[str, Record]:
        return self._read(self.store._look, keys)

    def _load(self, records: Iterable[Record]) -> None:
        page = list(records)
        return self._write([record.key for record in page], self.store._load, page)

    def _pages(self, prefix: str, match: str | None = None, after: str | None = None) -> Iterator[list[str]]:
        return self._iterate(self.store._pages, prefix, match, after)


class AsyncWrapper(_Around, AsyncBaseStore):
    """See `Wrapper`."""

    store: AsyncBaseStore

    def __init__(self, store: AsyncStore) -> None:
        if not hasattr(store, "aclose"):
            raise TypeError(f"{type(self).__name__} stands around a kv.AsyncStore, not around {type(store).__name__}")
        self._stand(store)

    async def _read(self, method: Callable[P, Awaitable[T]], *args: P.args, **kwargs: P.kwargs) -> T:
        """See `Wrapper._read`."""
        return await method(*args, **kwargs)

    async def _write(
        self, keys: Iterable[str] | None, method: Callable[P, Awaitable[T]], *args: P.args, **kwargs: P.kwargs
    ) -> T:
        """See `Wrapper._write`."""
        return await method(*args, **kwargs)

    def _iterate(self, method: Callable[P, AsyncIterator[T]], *args: P.args, **kwargs: P.kwargs) -> AsyncIterator[T]:
        """See `Wrapper._iterate`."""
        return method(*args, **kwargs)

    @overload
    async def get(self, key: str) -> bytes | None: ...
    @overload
    async def get(self, key: str, default: D) -> bytes | D: ...
    async def get(self, key: str, default: object = None) -> object:
        return await self._read(self.store.get, key, default)

    async def set(self, key: str, value: Value, *, ttl: TTL = None) -> None:
        return await self._write((key,), self.store.set, key, value, ttl=ttl)

    async def delete(self, key: str) -> bool:
        return await self._write((key,), self.store.delete, key)

    async def update(
        self, key: str, fn: UpdateFn, *, ttl: TTL | Keep = KEEP_TTL, ttl_if_new: TTL = None
    ) -> bytes | None:
        return await self._write((key,), self.store.update, key, fn, ttl=ttl, ttl_if_new=ttl_if_new)

    async def keys(
        self, prefix: str = "", *, match: str | None = None, after: str | None = None, limit: int | None = None
    ) -> list[str]:
        return await self._read(self.store.keys, prefix, match=match, after=after, limit=limit)

    async def get_many(self, keys: Iterable[str]) -> dict[str, bytes]:
        asked = check_keys(keys)
        return await self._read(self.store.get_many, asked)

    async def set_many(self, items: Mapping[str, Value] | Iterable[tuple[str, Value]], *, ttl: TTL = None) -> None:
        entries = check_items(items)
        return await self._write(entries, self.store.set_many, entries, ttl=ttl)

    async def delete_many(self, keys: Iterable[str]) -> int:
        asked = check_keys(keys)
        return await self._write(asked, self.store.delete_many, asked)

    async def update_many(
        self, keys: Iterable[str], fn: UpdateManyFn, *, ttl: TTL | Keep = KEEP_TTL, ttl_if_new: TTL = None
    ) -> dict[str, bytes]:
        asked = check_keys(keys)
        return await self._write(asked, self.store.update_many, asked, fn, ttl=ttl, ttl_if_new=ttl_if_new)

    async def _update(self, keys: list[str], fn: ManyFn, ages: Ages) -> dict[str, bytes]:
        raise NotImplementedError  # update and update_many are handed on themselves

    async def add(self, key: str, value: Value, *, ttl: TTL = None) -> bool:
        return await self._write((key,), self.store.add, key, value, ttl=ttl)

    async def compare_and_set(
        self, key: str, expected: Value | None, value: Value | None, *, ttl: TTL | Keep = KEEP_TTL
    ) -> bool:
        return await self._write((key,), self.store.compare_and_set, key, expected, value, ttl=ttl)

    @overload
    async def pop(self, key: str) -> bytes | None: ...
    @overload
    async def pop(self, key: str, default: D) -> bytes | D: ...
    async def pop(self, key: str, default: object = None) -> object:
        return await self._write((key,), self.store.pop, key, default)

    async def increment(self, key: str, amount: int = 1, *, ttl: TTL | Keep = KEEP_TTL, ttl_if_new: TTL = None) -> int:
        return await self._write((key,), self.store.increment, key, amount, ttl=ttl, ttl_if_new=ttl_if_new)

    async def exists(self, key: str) -> bool:
        return await self._read(self.store.exists, key)

    async def size(self, key: str) -> int | None:
        return await self._read(self.store.size, key)

    async def ttl(self, key: str) -> float | None:
        return await self._read(self.store.ttl, key)

    async def expire(self, key: str, ttl: TTL) -> bool:
        return await self._write((key,), self.store.expire, key, ttl=ttl)

    async def persist(self, key: str) -> bool:
        return await self._write((key,), self.store.persist, key)

    def scan(
        self, prefix: str = "", *, match: str | None = None, after: str | None = None, limit: int | None = None
    ) -> AsyncIterator[tuple[str, bytes]]:
        return self._iterate(self.store.scan, prefix, match=match, after=after, limit=limit)

    async def count(self, prefix: str = "", *, match: str | None = None) -> int:
        return await self._read(self.store.count, prefix, match=match)

    async def clear(self, prefix: str = "") -> int:
        return await self._write(EVERY, self.store.clear, prefix)

    async def cleanup(self, *, limit: int | None = None) -> int:
        return await self._write((), self.store.cleanup, limit=limit)

    async def stats(self) -> Stats:
        return await self._read(self.store.stats)

    async def compact(self) -> None:
        return await self._write((), self.store.compact)

    async def verify(self) -> list[str]:
        return await self._read(self.store.verify)

    async def namespaces(self) -> list[str]:
        return await self._read(self.store.namespaces)

    async def backup(self, path: Any, **options: Any) -> None:
        """See `Wrapper.backup`."""
        await self._read(self._inner("backup"), path, **options)

    async def reencrypt(self, *, progress: Progress | None = None) -> int:
        """See `Wrapper.reencrypt`."""
        return int(await self._write(EVERY, self._inner("reencrypt"), progress=progress))

    async def _close(self) -> None:
        await self.store.aclose()

    async def __aenter__(self) -> Self:
        await self.store.__aenter__()
        return self

    # travelling, see `BaseStore`

    async def _gather(self) -> Self:
        return self._around(await self.store._gather())

    async def _dump(self, after: str | None, limit: int) -> list[Record]:
        return await self._read(self.store._dump, after, limit)

    def _records(self, after: str | None) -> AsyncIterator[list[Record]]:
        return self._iterate(self.store._records, after)

    async def _look(self, keys: list[str]) -> dict[str, Record]:
        return await self._read(self.store._look, keys)

    async def _load(self, records: Iterable[Record]) -> None:
        page = list(records)
        return await self._write([record.key for record in page], self.store._load, page)

    def _pages(self, prefix: str, match: str | None = None, after: str | None = None) -> AsyncIterator[list[str]]:
        return self._iterate(self.store._pages, prefix, match, after)
