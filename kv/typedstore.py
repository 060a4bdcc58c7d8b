"""Stores of values of a type, in both colours: the codec is pure, and the store of the bytes does what is atomic."""

from __future__ import annotations

from contextlib import suppress
from typing import TYPE_CHECKING, Any, TypeVar, overload

from .errors import CorruptData
from .expiry import KEEP_TTL
from .keys import check_key
from .typedvalues import Typed
from .values import Unchanged

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Iterable, Iterator
    from types import TracebackType
    from typing import Self

    from .codecs import Codec
    from .expiry import TTL, Keep
    from .store import AsyncStore, Stats, Store
    from .typedvalues import Items, ManyFn

__all__ = ["AsyncTypedStore", "TypedStore"]

T = TypeVar("T")
D = TypeVar("D")

_PAGE = 500
"""How many keys `verify` asks for at a time where it cannot scan."""


class TypedStore(Typed[T]):
    """The methods of `Store`, with values of a type instead of bytes, as atomic as there, and each one call on it.

    Besides what `Store` says, every method raises `InvalidValue` before any I/O for a value that would not come back as
    it is, and `CorruptData` for stored bytes that are no value of the type: they stay as they are.
    """

    store: Store

    def __init__(self, store: Store, codec: Codec[T]) -> None:
        self.store = store
        self.codec = codec

    @overload
    def get(self, key: str) -> T | None: ...
    @overload
    def get(self, key: str, default: D) -> T | D: ...
    def get(self, key: str, default: object = None) -> object:
        """Give the value, or `default` where the key is missing."""
        return self._or(self.store.get(key), key, default)

    def require(self, key: str) -> T:
        """Give the value, or raise `KeyNotFound`: so None is the value None."""
        return self._required(self.store.get(key), key)

    def set(self, key: str, value: T, *, ttl: TTL = None) -> None:
        """See `Store.set`."""
        key = check_key(key)
        self.store.set(key, self._encode(value, key), ttl=ttl)

    def delete(self, key: str) -> bool:
        """See `Store.delete`."""
        return self.store.delete(key)

    @overload
    def update(
        self, key: str, fn: Callable[[T | None], T | None], *, ttl: TTL | Keep = KEEP_TTL, ttl_if_new: TTL = None
    ) -> T | None: ...
    @overload
    def update(
        self,
        key: str,
        fn: Callable[[T | D], T | None],
        *,
        default: D,
        ttl: TTL | Keep = KEEP_TTL,
        ttl_if_new: TTL = None,
    ) -> T | None: ...
    def update(
        self,
        key: str,
        fn: Callable[[Any], T | None],
        *,
        default: object = None,
        ttl: TTL | Keep = KEEP_TTL,
        ttl_if_new: TTL = None,
    ) -> T | None:
        """Read, modify and write as one atomic step; see `Store.update`. Gives the new value, as it is stored.

        `fn` gets `default` where the key is missing, and an answer of None deletes, except that it changes nothing where
        `fn` got None.
        """
        key = check_key(key)
        return self._or(self.store.update(key, self._one(key, fn, default), ttl=ttl, ttl_if_new=ttl_if_new), key, None)  # type: ignore[no-any-return]

    def keys(
        self, prefix: str = "", *, match: str | None = None, after: str | None = None, limit: int | None = None
    ) -> list[str]:
        """See `Store.keys`."""
        return self.store.keys(prefix, match=match, after=after, limit=limit)

    def get_many(self, keys: Iterable[str]) -> dict[str, T]:
        """See `Store.get_many`."""
        return self._decode_all(self.store.get_many(keys))

    def set_many(self, items: Items[T], *, ttl: TTL = None) -> None:
        """See `Store.set_many`."""
        self.store.set_many(self._encode_all(items), ttl=ttl)

    def delete_many(self, keys: Iterable[str]) -> int:
        """See `Store.delete_many`."""
        return self.store.delete_many(keys)

    def update_many(
        self, keys: Iterable[str], fn: ManyFn[T], *, ttl: TTL | Keep = KEEP_TTL, ttl_if_new: TTL = None
    ) -> dict[str, T]:
        """See `Store.update_many`. A None in the answer of `fn` is a value; what it leaves out is deleted."""
        return self._decode_all(self.store.update_many(keys, self._many(fn), ttl=ttl, ttl_if_new=ttl_if_new))

    def add(self, key: str, value: T, *, ttl: TTL = None) -> bool:
        """See `Store.add`."""
        key = check_key(key)
        return self.store.add(key, self._encode(value, key), ttl=ttl)

    def compare_and_set(self, key: str, expected: T | None, value: T | None, *, ttl: TTL | Keep = KEEP_TTL) -> bool:
        """Store `value` where the entry is `expected`, by value and types. None: no entry. See `Store.compare_and_set`."""
        key = check_key(key)
        with suppress(Unchanged):
            self.store.update(key, self._if_equal(key, expected, value), ttl=ttl)
            return True
        return False

    @overload
    def pop(self, key: str) -> T | None: ...
    @overload
    def pop(self, key: str, default: D) -> T | D: ...
    def pop(self, key: str, default: object = None) -> object:
        """Give the value and delete it in one atomic step; see `Store.pop`. What does not decode is not deleted."""
        taken: list[object] = [default]
        with suppress(Unchanged):
            self.store.update(key, self._take(key, taken))
            return taken[0]
        return default

    def increment(self, key: str, amount: int = 1, *, ttl: TTL | Keep = KEEP_TTL, ttl_if_new: TTL = None) -> int:
        """See `Store.increment`. In JSON of no special type it is the store's own, else an `update`."""
        if getattr(self.codec, "decimal", False):
            return self.store.increment(key, amount, ttl=ttl, ttl_if_new=ttl_if_new)
        stored = self.store.update(key, self._plus(key, amount), ttl=ttl, ttl_if_new=ttl_if_new)
        return self._or(stored, key, 0)  # type: ignore[no-any-return]

    def exists(self, key: str) -> bool:
        """See `Store.exists`."""
        return self.store.exists(key)

    def size(self, key: str) -> int | None:
        """Give the bytes that are stored for the value, or None where the key is missing."""
        return self.store.size(key)

    def ttl(self, key: str) -> float | None:
        """See `Store.ttl`."""
        return self.store.ttl(key)

    def expire(self, key: str, ttl: TTL) -> bool:
        """See `Store.expire`."""
        return self.store.expire(key, ttl)

    def persist(self, key: str) -> bool:
        """See `Store.persist`."""
        return self.store.persist(key)

    def scan(
        self, prefix: str = "", *, match: str | None = None, after: str | None = None, limit: int | None = None
    ) -> Iterator[tuple[str, T]]:
        """See `Store.scan`."""
        entries = self.store.scan(prefix, match=match, after=after, limit=limit)
        return ((key, self._decode(data, key)) for key, data in entries)

    def count(self, prefix: str = "", *, match: str | None = None) -> int:
        """See `Store.count`."""
        return self.store.count(prefix, match=match)

    def clear(self, prefix: str = "") -> int:
        """See `Store.clear`."""
        return self.store.clear(prefix)

    def cleanup(self, *, limit: int | None = None) -> int:
        """See `Store.cleanup`."""
        return self.store.cleanup(limit=limit)

    def stats(self) -> Stats:
        """See `Store.stats`. Values are counted as they are stored."""
        return self.store.stats()

    def compact(self) -> None:
        """See `Store.compact`."""
        self.store.compact()

    def verify(self) -> list[str]:
        """See `Store.verify`. Also decodes every entry of this namespace, and names those that are no value of the type."""
        wrong, last = self.store.verify(), None
        try:
            for last, data in self.store.scan():
                wrong += self._wrong(data, last)
        except CorruptData:  # of a store that has named it itself: from here on each by itself
            while page := self.store.keys(after=last, limit=_PAGE):
                for last in page:
                    with suppress(CorruptData):
                        wrong += self._wrong(self.store.get(last), last)
        return wrong

    def namespace(self, name: str) -> Self:
        """See `Store.namespace`."""
        return type(self)(self.store.namespace(name), self.codec)

    def namespaces(self) -> list[str]:
        """See `Store.namespaces`."""
        return self.store.namespaces()

    def close(self) -> None:
        """Close the store of the bytes."""
        self.store.close()

    def __enter__(self) -> Self:
        self.store.__enter__()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.store.__exit__(kind, error, trace)


class AsyncTypedStore(Typed[T]):
    """See `TypedStore`."""

    store: AsyncStore

    def __init__(self, store: AsyncStore, codec: Codec[T]) -> None:
        self.store = store
        self.codec = codec

    @overload
    async def get(self, key: str) -> T | None: ...
    @overload
    async def get(self, key: str, default: D) -> T | D: ...
    async def get(self, key: str, default: object = None) -> object:
        """See `TypedStore.get`."""
        return self._or(await self.store.get(key), key, default)

    async def require(self, key: str) -> T:
        """See `TypedStore.require`."""
        return self._required(await self.store.get(key), key)

    async def set(self, key: str, value: T, *, ttl: TTL = None) -> None:
        """See `TypedStore.set`."""
        key = check_key(key)
        await self.store.set(key, self._encode(value, key), ttl=ttl)

    async def delete(self, key: str) -> bool:
        """See `TypedStore.delete`."""
        return await self.store.delete(key)

    @overload
    async def update(
        self, key: str, fn: Callable[[T | None], T | None], *, ttl: TTL | Keep = KEEP_TTL, ttl_if_new: TTL = None
    ) -> T | None: ...
    @overload
    async def update(
        self,
        key: str,
        fn: Callable[[T | D], T | None],
        *,
        default: D,
        ttl: TTL | Keep = KEEP_TTL,
        ttl_if_new: TTL = None,
    ) -> T | None: ...
    async def update(
        self,
        key: str,
        fn: Callable[[Any], T | None],
        *,
        default: object = None,
        ttl: TTL | Keep = KEEP_TTL,
        ttl_if_new: TTL = None,
    ) -> T | None:
        """See `TypedStore.update`."""
        key = check_key(key)
        stored = await self.store.update(key, self._one(key, fn, default), ttl=ttl, ttl_if_new=ttl_if_new)
        return self._or(stored, key, None)  # type: ignore[no-any-return]

    async def keys(
        self, prefix: str = "", *, match: str | None = None, after: str | None = None, limit: int | None = None
    ) -> list[str]:
        """See `TypedStore.keys`."""
        return await self.store.keys(prefix, match=match, after=after, limit=limit)

    async def get_many(self, keys: Iterable[str]) -> dict[str, T]:
        """See `TypedStore.get_many`."""
        return self._decode_all(await self.store.get_many(keys))

    async def set_many(self, items: Items[T], *, ttl: TTL = None) -> None:
        """See `TypedStore.set_many`."""
        await self.store.set_many(self._encode_all(items), ttl=ttl)

    async def delete_many(self, keys: Iterable[str]) -> int:
        """See `TypedStore.delete_many`."""
        return await self.store.delete_many(keys)

    async def update_many(
        self, keys: Iterable[str], fn: ManyFn[T], *, ttl: TTL | Keep = KEEP_TTL, ttl_if_new: TTL = None
    ) -> dict[str, T]:
        """See `TypedStore.update_many`."""
        return self._decode_all(await self.store.update_many(keys, self._many(fn), ttl=ttl, ttl_if_new=ttl_if_new))

    async def add(self, key: str, value: T, *, ttl: TTL = None) -> bool:
        """See `TypedStore.add`."""
        key = check_key(key)
        return await self.store.add(key, self._encode(value, key), ttl=ttl)

    async def compare_and_set(
        self, key: str, expected: T | None, value: T | None, *, ttl: TTL | Keep = KEEP_TTL
    ) -> bool:
        """See `TypedStore.compare_and_set`."""
        key = check_key(key)
        with suppress(Unchanged):
            await self.store.update(key, self._if_equal(key, expected, value), ttl=ttl)
            return True
        return False

    @overload
    async def pop(self, key: str) -> T | None: ...
    @overload
    async def pop(self, key: str, default: D) -> T | D: ...
    async def pop(self, key: str, default: object = None) -> object:
        """See `TypedStore.pop`."""
        taken: list[object] = [default]
        with suppress(Unchanged):
            await self.store.update(key, self._take(key, taken))
            return taken[0]
        return default

    async def increment(self, key: str, amount: int = 1, *, ttl: TTL | Keep = KEEP_TTL, ttl_if_new: TTL = None) -> int:
        """See `TypedStore.increment`."""
        if getattr(self.codec, "decimal", False):
            return await self.store.increment(key, amount, ttl=ttl, ttl_if_new=ttl_if_new)
        stored = await self.store.update(key, self._plus(key, amount), ttl=ttl, ttl_if_new=ttl_if_new)
        return self._or(stored, key, 0)  # type: ignore[no-any-return]

    async def exists(self, key: str) -> bool:
        """See `TypedStore.exists`."""
        return await self.store.exists(key)

    async def size(self, key: str) -> int | None:
        """See `TypedStore.size`."""
        return await self.store.size(key)

    async def ttl(self, key: str) -> float | None:
        """See `TypedStore.ttl`."""
        return await self.store.ttl(key)

    async def expire(self, key: str, ttl: TTL) -> bool:
        """See `TypedStore.expire`."""
        return await self.store.expire(key, ttl)

    async def persist(self, key: str) -> bool:
        """See `TypedStore.persist`."""
        return await self.store.persist(key)

    def scan(
        self, prefix: str = "", *, match: str | None = None, after: str | None = None, limit: int | None = None
    ) -> AsyncIterator[tuple[str, T]]:
        """See `TypedStore.scan`."""
        entries = self.store.scan(prefix, match=match, after=after, limit=limit)
        return ((key, self._decode(data, key)) async for key, data in entries)

    async def count(self, prefix: str = "", *, match: str | None = None) -> int:
        """See `TypedStore.count`."""
        return await self.store.count(prefix, match=match)

    async def clear(self, prefix: str = "") -> int:
        """See `TypedStore.clear`."""
        return await self.store.clear(prefix)

    async def cleanup(self, *, limit: int | None = None) -> int:
        """See `TypedStore.cleanup`."""
        return await self.store.cleanup(limit=limit)

    async def stats(self) -> Stats:
        """See `TypedStore.stats`."""
        return await self.store.stats()

    async def compact(self) -> None:
        """See `TypedStore.compact`."""
        await self.store.compact()

    async def verify(self) -> list[str]:
        """See `TypedStore.verify`."""
        wrong, last = await self.store.verify(), None
        try:
            async for last, data in self.store.scan():
                wrong += self._wrong(data, last)
        except CorruptData:  # see the sync colour
            while page := await self.store.keys(after=last, limit=_PAGE):
                for last in page:
                    with suppress(CorruptData):
                        wrong += self._wrong(await self.store.get(last), last)
        return wrong

    def namespace(self, name: str) -> Self:
        """See `TypedStore.namespace`. Never awaited."""
        return type(self)(self.store.namespace(name), self.codec)

    async def namespaces(self) -> list[str]:
        """See `TypedStore.namespaces`."""
        return await self.store.namespaces()

    async def aclose(self) -> None:
        """See `TypedStore.close`."""
        await self.store.aclose()

    async def __aenter__(self) -> Self:
        await self.store.__aenter__()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.store.__aexit__(kind, error, trace)
