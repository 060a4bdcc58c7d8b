"""Wrappers that store values in another form: what goes in is sealed, what comes out is opened, in both colours.

A subclass of `Sealing` and one of `AsyncSealing` share the class that has `_seal` and `_open`, which are pure. What
compares or computes with a value (`compare_and_set`, `increment`, `pop`) is done by `update`, where the value is open.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from contextlib import suppress
from typing import TYPE_CHECKING, TypeVar, overload

from kv.base import AsyncBaseStore, BaseStore
from kv.errors import CorruptData
from kv.expiry import KEEP_TTL
from kv.keys import check_key, check_keys
from kv.values import check_fn, check_items, check_value, of_many, updated

from .base import AsyncWrapper, Wrapper

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterable, Iterator, Mapping

    from kv.expiry import TTL, Keep
    from kv.store import Record, Stats, UpdateFn, UpdateManyFn, Value

D = TypeVar("D")


class Sealed(ABC):
    """The form in which a wrapper stores values."""

    _path: tuple[str, ...]

    @abstractmethod
    def _seal(self, key: str, value: bytes) -> bytes:
        """Give what is stored for a value."""

    @abstractmethod
    def _open(self, key: str, stored: bytes) -> bytes:
        """Give the value that is stored, or raise `CorruptData`."""

    def _opened(self, entries: Mapping[str, bytes]) -> dict[str, bytes]:
        return {key: self._open(key, stored) for key, stored in entries.items()}

    def _sealed(self, entries: Mapping[str, bytes]) -> dict[str, bytes]:
        return {key: self._seal(key, value) for key, value in entries.items()}

    def _opened_page(self, page: Iterable[Record]) -> list[Record]:
        return [record._replace(value=self._open(record.key, record.value)) for record in page]

    def _sealed_page(self, page: Iterable[Record]) -> list[Record]:
        return [record._replace(value=self._seal(record.key, record.value)) for record in page]

    def _wrong(self, page: Iterable[Record]) -> Iterator[str]:
        """Name those that do not open."""
        for record in page:
            try:
                self._open(record.key, record.value)
            except CorruptData as e:
                yield str(e)


class _One:
    """The function given to `update`, as the store inside calls it, and its last answer."""

    def __init__(self, form: Sealed, fn: UpdateFn, key: str) -> None:
        self._form = form
        self._fn = fn
        self._key = key
        self.answer: bytes | None = None

    def __call__(self, stored: bytes | None) -> bytes | None:
        current = None if stored is None else self._form._open(self._key, stored)
        self.answer = updated(self._fn, current, self._key)
        return None if self.answer is None else self._form._seal(self._key, self.answer)


class _Many:
    """The function given to `update_many`, so too."""

    def __init__(self, form: Sealed, fn: UpdateManyFn, keys: Iterable[str]) -> None:
        self._form = form
        self._fn = of_many(fn, keys)
        self.answer: dict[str, bytes] = {}

    def __call__(self, found: dict[str, bytes]) -> dict[str, bytes]:
        self.answer = self._fn(self._form._opened(found))
        return self._form._sealed(self.answer)


class Sealing(Sealed, Wrapper):
    """A `Wrapper` whose values are stored in another form."""

    @overload
    def get(self, key: str) -> bytes | None: ...
    @overload
    def get(self, key: str, default: D) -> bytes | D: ...
    def get(self, key: str, default: object = None) -> object:
        stored = super().get(key)
        return default if stored is None else self._open(key, stored)

    def set(self, key: str, value: Value, *, ttl: TTL = None) -> None:
        key = check_key(key)
        super().set(key, self._seal(key, check_value(value, key)), ttl=ttl)

    def update(self, key: str, fn: UpdateFn, *, ttl: TTL | Keep = KEEP_TTL, ttl_if_new: TTL = None) -> bytes | None:
        key = check_key(key)
        check_fn(fn)
        one = _One(self, fn, key)
        super().update(key, one, ttl=ttl, ttl_if_new=ttl_if_new)
        return one.answer

    def get_many(self, keys: Iterable[str]) -> dict[str, bytes]:
        return self._opened(super().get_many(keys))

    def set_many(self, items: Mapping[str, Value] | Iterable[tuple[str, Value]], *, ttl: TTL = None) -> None:
        super().set_many(self._sealed(check_items(items)), ttl=ttl)

    def update_many(
        self, keys: Iterable[str], fn: UpdateManyFn, *, ttl: TTL | Keep = KEEP_TTL, ttl_if_new: TTL = None
    ) -> dict[str, bytes]:
        asked = check_keys(keys)
        check_fn(fn, "update_many")
        many = _Many(self, fn, asked)
        super().update_many(asked, many, ttl=ttl, ttl_if_new=ttl_if_new)
        return many.answer

    def add(self, key: str, value: Value, *, ttl: TTL = None) -> bool:
        key = check_key(key)
        return super().add(key, self._seal(key, check_value(value, key)), ttl=ttl)

    compare_and_set = BaseStore.compare_and_set
    pop = BaseStore.pop
    increment = BaseStore.increment
    size = BaseStore.size

    def scan(
        self, prefix: str = "", *, match: str | None = None, after: str | None = None, limit: int | None = None
    ) -> Iterator[tuple[str, bytes]]:
        entries = super().scan(prefix, match=match, after=after, limit=limit)
        return ((key, self._open(key, stored)) for key, stored in entries)

    def stats(self) -> Stats:
        return super().stats()._replace(value_bytes=sum(len(value) for _, value in self.scan()))

    def verify(self) -> list[str]:
        return [*super().verify(), *self._verify_below()]

    def _verify_below(self) -> Iterator[str]:
        last = None
        try:
            for page in Wrapper._records(self, None):
                yield from self._wrong(page)
                last = page[-1].key
        except CorruptData:  # a form further inside, which has named it: from here on each by itself
            for keys in self._pages("", after=last):
                for key in keys:
                    with suppress(CorruptData):
                        yield from self._wrong(Wrapper._look(self, [key]).values())
        for name in self.namespaces():
            yield from self.namespace(name)._verify_below()

    def _dump(self, after: str | None, limit: int) -> list[Record]:
        return self._opened_page(super()._dump(after, limit))

    def _records(self, after: str | None) -> Iterator[list[Record]]:
        return map(self._opened_page, super()._records(after))

    def _look(self, keys: list[str]) -> dict[str, Record]:
        return {record.key: record for record in self._opened_page(super()._look(keys).values())}

    def _load(self, records: Iterable[Record]) -> None:
        super()._load(self._sealed_page(records))


class AsyncSealing(Sealed, AsyncWrapper):
    """See `Sealing`."""

    @overload
    async def get(self, key: str) -> bytes | None: ...
    @overload
    async def get(self, key: str, default: D) -> bytes | D: ...
    async def get(self, key: str, default: object = None) -> object:
        stored = await super().get(key)
        return default if stored is None else self._open(key, stored)

    async def set(self, key: str, value: Value, *, ttl: TTL = None) -> None:
        key = check_key(key)
        await super().set(key, self._seal(key, check_value(value, key)), ttl=ttl)

    async def update(
        self, key: str, fn: UpdateFn, *, ttl: TTL | Keep = KEEP_TTL, ttl_if_new: TTL = None
    ) -> bytes | None:
        key = check_key(key)
        check_fn(fn)
        one = _One(self, fn, key)
        await super().update(key, one, ttl=ttl, ttl_if_new=ttl_if_new)
        return one.answer

    async def get_many(self, keys: Iterable[str]) -> dict[str, bytes]:
        return self._opened(await super().get_many(keys))

    async def set_many(self, items: Mapping[str, Value] | Iterable[tuple[str, Value]], *, ttl: TTL = None) -> None:
        await super().set_many(self._sealed(check_items(items)), ttl=ttl)

    async def update_many(
        self, keys: Iterable[str], fn: UpdateManyFn, *, ttl: TTL | Keep = KEEP_TTL, ttl_if_new: TTL = None
    ) -> dict[str, bytes]:
        asked = check_keys(keys)
        check_fn(fn, "update_many")
        many = _Many(self, fn, asked)
        await super().update_many(asked, many, ttl=ttl, ttl_if_new=ttl_if_new)
        return many.answer

    async def add(self, key: str, value: Value, *, ttl: TTL = None) -> bool:
        key = check_key(key)
        return await super().add(key, self._seal(key, check_value(value, key)), ttl=ttl)

    compare_and_set = AsyncBaseStore.compare_and_set
    pop = AsyncBaseStore.pop
    increment = AsyncBaseStore.increment
    size = AsyncBaseStore.size

    def scan(
        self, prefix: str = "", *, match: str | None = None, after: str | None = None, limit: int | None = None
    ) -> AsyncIterator[tuple[str, bytes]]:
        entries = super().scan(prefix, match=match, after=after, limit=limit)

        async def opened() -> AsyncIterator[tuple[str, bytes]]:
            async for key, stored in entries:
                yield key, self._open(key, stored)

        return opened()

    async def stats(self) -> Stats:
        return (await super().stats())._replace(value_bytes=sum([len(value) async for _, value in self.scan()]))

    async def verify(self) -> list[str]:
        return [*await super().verify(), *[wrong async for wrong in self._verify_below()]]

    async def _verify_below(self) -> AsyncIterator[str]:
        last = None
        try:
            async for page in AsyncWrapper._records(self, None):
                for wrong in self._wrong(page):
                    yield wrong
                last = page[-1].key
        except CorruptData:  # see the sync colour
            async for keys in self._pages("", after=last):
                for key in keys:
                    with suppress(CorruptData):
                        for wrong in self._wrong((await AsyncWrapper._look(self, [key])).values()):
                            yield wrong
        for name in await self.namespaces():
            async for wrong in self.namespace(name)._verify_below():
                yield wrong

    async def _dump(self, after: str | None, limit: int) -> list[Record]:
        return self._opened_page(await super()._dump(after, limit))

    async def _records(self, after: str | None) -> AsyncIterator[list[Record]]:
        async for page in super()._records(after):
            yield self._opened_page(page)

    async def _look(self, keys: list[str]) -> dict[str, Record]:
        return {record.key: record for record in self._opened_page((await super()._look(keys)).values())}

    async def _load(self, records: Iterable[Record]) -> None:
        await super()._load(self._sealed_page(records))
