"""The async colour of a store whose sync colour does the work: one line a method, and a subclass says where it runs."""

from __future__ import annotations

import copy
from abc import abstractmethod
from typing import TYPE_CHECKING, ParamSpec, TypeVar, overload

from .expiry import KEEP_TTL
from .keys import Listing, check_keys
from .store import AsyncStore, Stats
from .values import check_compared, check_items, check_value

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Iterable, Iterator, Mapping
    from types import TracebackType
    from typing import Self

    from .base import BaseStore
    from .expiry import TTL, Keep
    from .store import Record, UpdateFn, UpdateManyFn, Value

__all__ = ["AsyncFromSync"]

D = TypeVar("D")
T = TypeVar("T")
P = ParamSpec("P")


class AsyncFromSync(AsyncStore):
    """An `AsyncStore` that lets a sync store do the work; a subclass says where it runs."""

    def __init__(self, store: BaseStore) -> None:
        self._store = store

    @property
    def _path(self) -> tuple[str, ...]:
        return self._store._path

    @abstractmethod
    async def _read(self, method: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        """Run a method that only reads."""

    @abstractmethod
    async def _write(self, method: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        """Run a method that may write."""

    @abstractmethod
    async def _maintain(self, method: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        """Run a method that may take long, and makes its own steps."""

    @abstractmethod
    async def _close(self) -> None:
        """Close the store, and what runs it. A second call does nothing."""

    @overload
    async def get(self, key: str) -> bytes | None: ...
    @overload
    async def get(self, key: str, default: D) -> bytes | D: ...
    async def get(self, key: str, default: object = None) -> object:
        return await self._read(self._store.get, key, default)

    async def set(self, key: str, value: Value, *, ttl: TTL = None) -> None:
        return await self._write(self._store.set, key, check_value(value, key), ttl=ttl)

    async def delete(self, key: str) -> bool:
        return await self._write(self._store.delete, key)

    async def update(
        self, key: str, fn: UpdateFn, *, ttl: TTL | Keep = KEEP_TTL, ttl_if_new: TTL = None
    ) -> bytes | None:
        return await self._write(self._store.update, key, fn, ttl=ttl, ttl_if_new=ttl_if_new)

    async def keys(
        self, prefix: str = "", *, match: str | None = None, after: str | None = None, limit: int | None = None
    ) -> list[str]:
        return await self._read(self._store.keys, prefix, match=match, after=after, limit=limit)

    async def get_many(self, keys: Iterable[str]) -> dict[str, bytes]:
        return await self._read(self._store.get_many, check_keys(keys))

    async def set_many(self, items: Mapping[str, Value] | Iterable[tuple[str, Value]], *, ttl: TTL = None) -> None:
        return await self._write(self._store.set_many, check_items(items), ttl=ttl)

    async def delete_many(self, keys: Iterable[str]) -> int:
        return await self._write(self._store.delete_many, check_keys(keys))

    async def update_many(
        self, keys: Iterable[str], fn: UpdateManyFn, *, ttl: TTL | Keep = KEEP_TTL, ttl_if_new: TTL = None
    ) -> dict[str, bytes]:
        return await self._write(self._store.update_many, check_keys(keys), fn, ttl=ttl, ttl_if_new=ttl_if_new)

    async def add(self, key: str, value: Value, *, ttl: TTL = None) -> bool:
        return await self._write(self._store.add, key, check_value(value, key), ttl=ttl)

    async def compare_and_set(
        self, key: str, expected: Value | None, value: Value | None, *, ttl: TTL | Keep = KEEP_TTL
    ) -> bool:
        return await self._write(self._store.compare_and_set, key, *check_compared(expected, value, key), ttl=ttl)

    @overload
    async def pop(self, key: str) -> bytes | None: ...
    @overload
    async def pop(self, key: str, default: D) -> bytes | D: ...
    async def pop(self, key: str, default: object = None) -> object:
        return await self._write(self._store.pop, key, default)

    async def increment(self, key: str, amount: int = 1, *, ttl: TTL | Keep = KEEP_TTL, ttl_if_new: TTL = None) -> int:
        return await self._write(self._store.increment, key, amount, ttl=ttl, ttl_if_new=ttl_if_new)

    async def exists(self, key: str) -> bool:
        return await self._read(self._store.exists, key)

    async def size(self, key: str) -> int | None:
        return await self._read(self._store.size, key)

    async def ttl(self, key: str) -> float | None:
        return await self._read(self._store.ttl, key)

    async def expire(self, key: str, ttl: TTL) -> bool:
        return await self._write(self._store.expire, key, ttl)

    async def persist(self, key: str) -> bool:
        return await self._write(self._store.persist, key)

    def scan(
        self, prefix: str = "", *, match: str | None = None, after: str | None = None, limit: int | None = None
    ) -> AsyncIterator[tuple[str, bytes]]:
        Listing(prefix, match, after, limit)  # at the call, not at the first step

        async def entries() -> AsyncIterator[tuple[str, bytes]]:
            store = await self._read(self._store.scan, prefix, match=match, after=after, limit=limit)
            while entry := await self._read(next, store, None):  # one by one: a page would go on while it expires
                yield entry

        return entries()

    async def count(self, prefix: str = "", *, match: str | None = None) -> int:
        return await self._read(self._store.count, prefix, match=match)

    async def clear(self, prefix: str = "") -> int:
        return await self._maintain(self._store.clear, prefix)

    async def cleanup(self, *, limit: int | None = None) -> int:
        return await self._maintain(self._store.cleanup, limit=limit)

    async def stats(self) -> Stats:
        return await self._maintain(self._store.stats)

    async def compact(self) -> None:
        return await self._maintain(self._store.compact)

    async def verify(self) -> list[str]:
        return await self._maintain(self._store.verify)

    # travelling, see `BaseStore`

    async def _gather(self) -> Self:
        return self

    def _records(self, after: str | None) -> AsyncIterator[list[Record]]:
        return self._each(self._store._records(after))

    def _pages(self, prefix: str, match: str | None = None, after: str | None = None) -> AsyncIterator[list[str]]:
        return self._each(self._store._pages(prefix, match, after))

    async def _each(self, pages: Iterator[T]) -> AsyncIterator[T]:
        while (page := await self._read(next, pages, None)) is not None:
            yield page

    async def _dump(self, after: str | None, limit: int) -> list[Record]:
        return await self._read(self._store._dump, after, limit)

    async def _look(self, keys: list[str]) -> dict[str, Record]:
        return await self._read(self._store._look, keys)

    async def _load(self, records: Iterable[Record]) -> None:
        return await self._write(self._store._load, records)

    def namespace(self, name: str) -> Self:
        view = copy.copy(self)
        view._store = self._store.namespace(name)
        return view

    async def namespaces(self) -> list[str]:
        return await self._read(self._store.namespaces)

    async def aclose(self) -> None:
        if not self._store._is_view:
            await self._close()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.aclose()

    def __repr__(self) -> str:
        return self._store._shown(type(self).__name__)
