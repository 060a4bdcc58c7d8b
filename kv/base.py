"""What a backend starts from: a few methods to write, and the rest of the contract derived from them.

A backend subclasses `BaseStore` or `AsyncBaseStore` and writes the abstract methods; every other method is then there,
and is as atomic as `_update` is. It overrides what its engine can do better. `CONTRIBUTING.md` shows it on one page.
`kv.lifted` makes the async colour of a sync store.
"""

from __future__ import annotations

import copy
import math
from abc import abstractmethod
from contextlib import suppress
from itertools import islice
from typing import TYPE_CHECKING, ClassVar, TypeVar, overload

from .expiry import KEEP_TTL, ttl_ms, update_ttl_ms, wall_ms
from .keys import Listing, check_key, check_keys, check_path
from .store import AsyncStore, Record, Stats, Store
from .values import (
    Look,
    Unchanged,
    check_amount,
    check_compared,
    check_fn,
    check_items,
    check_value,
    if_absent,
    if_equal,
    if_present,
    of_many,
    of_one,
    plus,
)

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterable, Iterator, Mapping
    from types import TracebackType
    from typing import Self

    from .expiry import TTL, Ages, Keep
    from .store import UpdateFn, UpdateManyFn, Value
    from .values import ManyFn, OwnFn

__all__ = ["AsyncBaseStore", "BaseStore"]

D = TypeVar("D")
T = TypeVar("T")

PAGE = 500
"""How many keys the derived methods read at a time, and how many entries travel together at most."""
TRAVEL_BYTES = 1 << 20
"""Fewer travel together where their values come to more bytes than this."""


def next_limit(limit: int, page: list[Record]) -> int:
    """Give how many entries to read next, so that large values do not fill the memory: few numbers, for few statements."""
    size = sum(len(record.value) for record in page)
    fit = len(page) * TRAVEL_BYTES // (2 * size or 1) or 1  # of such as these; half, as others may be larger
    return min(PAGE, limit * 8, 1 << (fit.bit_length() - 1) if page else PAGE)


def _record(key: str, value: bytes, now: int, left: float) -> Record:
    """Give an entry that had `left` seconds at `now`."""
    return Record(key, value, None if left == math.inf else now + round(left * 1000))


def _by_deadline(records: Iterable[Record]) -> Iterator[tuple[float | None, dict[str, bytes]]]:
    """Give together what has one deadline, with the seconds left when its turn comes, and not what is past it by then."""
    found: dict[int | None, dict[str, bytes]] = {}
    for key, value, expires_at in records:
        found.setdefault(expires_at, {})[key] = value
    for expires_at, entries in found.items():
        left = None if expires_at is None else (expires_at - wall_ms()) / 1000
        if left is None or left > 0:
            yield left, entries


class _Namespaced:
    """Where a store is in the tree of namespaces, and whether it owns what it is connected to."""

    _path: tuple[str, ...] = ()
    _is_view = False
    _first_page: ClassVar[int] = 1
    """How many entries `_dump` is asked for when nothing is known of how large they are: `PAGE`, where it ends a page at
    `TRAVEL_BYTES` of its own accord."""

    def __init__(self, *, namespace: str | Iterable[str] | None = None) -> None:
        names = () if namespace is None else (namespace,) if isinstance(namespace, str) else namespace
        self._path = check_path(names)

    def namespace(self, name: str) -> Self:
        """See `Store.namespace`."""
        return self._view(check_path((*self._path, name)))

    def _view(self, path: tuple[str, ...]) -> Self:
        """Give this store at another path. Override where more than `_path` depends on it."""
        view = copy.copy(self)
        view._path = path
        view._is_view = True
        return view

    def _where(self) -> str:
        """What `repr` shows: the file or URL, with no password."""
        return ""

    def __repr__(self) -> str:
        return self._shown(type(self).__name__)

    def _shown(self, name: str) -> str:
        parts = [
            name,
            self._where(),
            f"namespace={self._path[0] if len(self._path) == 1 else self._path!r}" if self._path else "",
        ]
        return f"<{' '.join(filter(None, parts))}>"


class BaseStore(_Namespaced, Store):
    """A `Store` of which a backend writes what is abstract here.

    Every method works on the entries of `self._path`, a tuple of namespace names that is empty for the root.
    """

    @overload
    def get(self, key: str) -> bytes | None: ...
    @overload
    def get(self, key: str, default: D) -> bytes | D: ...
    @abstractmethod
    def get(self, key: str, default: object = None) -> object: ...

    @abstractmethod
    def set(self, key: str, value: Value, *, ttl: TTL = None) -> None: ...

    @abstractmethod
    def delete(self, key: str) -> bool: ...

    @abstractmethod
    def keys(
        self, prefix: str = "", *, match: str | None = None, after: str | None = None, limit: int | None = None
    ) -> list[str]: ...

    @abstractmethod
    def _update(self, keys: list[str], fn: ManyFn, ages: Ages) -> dict[str, bytes]:
        """Give `fn` the live values of the keys, store what it answers, delete what it leaves out: in one step.

        What `update` and `update_many` do, when everything has been checked: each key comes once, and so is what `fn`
        answers. Gives that answer.
        """

    @abstractmethod
    def ttl(self, key: str) -> float | None: ...

    @abstractmethod
    def persist(self, key: str) -> bool: ...

    @abstractmethod
    def namespaces(self) -> list[str]: ...

    @abstractmethod
    def cleanup(self, *, limit: int | None = None) -> int: ...

    @abstractmethod
    def _close(self) -> None:
        """Close what this store has opened. A second call does nothing."""

    # derived, and free to override

    def update(self, key: str, fn: UpdateFn, *, ttl: TTL | Keep = KEEP_TTL, ttl_if_new: TTL = None) -> bytes | None:
        key = check_key(key)
        check_fn(fn)
        return self._update([key], of_one(fn, key), update_ttl_ms(ttl, ttl_if_new)).get(key)

    def update_many(
        self, keys: Iterable[str], fn: UpdateManyFn, *, ttl: TTL | Keep = KEEP_TTL, ttl_if_new: TTL = None
    ) -> dict[str, bytes]:
        asked = check_keys(keys)
        check_fn(fn, "update_many")
        return self._update(asked, of_many(fn, asked), update_ttl_ms(ttl, ttl_if_new))

    def get_many(self, keys: Iterable[str]) -> dict[str, bytes]:
        asked, look = check_keys(keys), Look()
        with suppress(Unchanged):  # all at one instant, so that no half of a `set_many` is seen
            self.update_many(asked, look)
        return {key: look.found[key] for key in asked if key in look.found}

    def set_many(self, items: Mapping[str, Value] | Iterable[tuple[str, Value]], *, ttl: TTL = None) -> None:
        entries = check_items(items)
        ttl_ms(ttl)
        self.update_many(entries, lambda _: entries, ttl=ttl)

    def delete_many(self, keys: Iterable[str]) -> int:
        asked = check_keys(keys)
        self._check_open()
        return sum(map(self.delete, asked))

    def add(self, key: str, value: Value, *, ttl: TTL = None) -> bool:
        ttl_ms(ttl)  # before any I/O; KEEP_TTL is for `update` alone
        return self._changes(key, if_absent(check_value(value, key)), ttl)

    def compare_and_set(
        self, key: str, expected: Value | None, value: Value | None, *, ttl: TTL | Keep = KEEP_TTL
    ) -> bool:
        return self._changes(key, if_equal(*check_compared(expected, value, key)), ttl)

    @overload
    def pop(self, key: str) -> bytes | None: ...
    @overload
    def pop(self, key: str, default: D) -> bytes | D: ...
    def pop(self, key: str, default: object = None) -> object:
        taken: list[bytes | None] = []
        self._apply(key, taken.append)
        return default if taken[-1] is None else taken[-1]

    def increment(self, key: str, amount: int = 1, *, ttl: TTL | Keep = KEEP_TTL, ttl_if_new: TTL = None) -> int:
        total = self._apply(key, plus(check_amount(amount, key), key), ttl=ttl, ttl_if_new=ttl_if_new)
        return int(total or 0)

    def exists(self, key: str) -> bool:
        return self.ttl(key) is not None

    def size(self, key: str) -> int | None:
        value = self.get(key)
        return None if value is None else len(value)

    def expire(self, key: str, ttl: TTL) -> bool:
        ttl_ms(ttl)
        return self._changes(key, if_present, ttl)

    def scan(
        self, prefix: str = "", *, match: str | None = None, after: str | None = None, limit: int | None = None
    ) -> Iterator[tuple[str, bytes]]:
        Listing(prefix, match, after, limit)  # at the call, not at the first step

        def entries() -> Iterator[tuple[str, bytes]]:
            for page in self._pages(prefix, match, after):
                for key in page:  # each when its turn comes: by then it may have expired
                    if (value := self.get(key)) is not None:
                        yield key, value

        return islice(entries(), limit)

    def count(self, prefix: str = "", *, match: str | None = None) -> int:
        return sum(len(page) for page in self._pages(prefix, match))

    def clear(self, prefix: str = "") -> int:
        return sum(self.delete_many(page) for page in self._pages(prefix))

    def stats(self) -> Stats:
        keys = key_bytes = value_bytes = 0
        for key, value in self.scan():
            keys += 1
            key_bytes += len(key.encode())
            value_bytes += len(value)
        return Stats(keys, 0, key_bytes, value_bytes, None, type(self).__module__, "")

    def compact(self) -> None:
        self._check_open()  # most engines have nothing to give back

    def verify(self) -> list[str]:
        for _ in self.scan():
            pass
        return []

    # travelling, see kv.transfer

    def _gather(self) -> Self:
        """Give this store to list all of, and all namespaces below it. Override where each listing is one of all keys."""
        return self

    def _dump(self, after: str | None, limit: int) -> list[Record]:
        """Give a page of this namespace's entries, sorted, the deadlines with them; an empty one is the end.

        A step of `_records`, for an engine that has an order.
        """
        while keys := self.keys(after=after, limit=limit):
            found = self._look(keys)
            if found:
                return [found[key] for key in keys if key in found]
            after = keys[-1]  # all of them expired meanwhile: an empty page would mean the end
        return []

    def _records(self, after: str | None) -> Iterator[list[Record]]:
        """Give this namespace's entries, sorted, the deadlines with them, in pages that do not fill the memory.

        Override where there is no order: here each page is found by the last key of the one before.
        """
        limit = self._first_page
        while page := self._dump(after, limit):
            yield page
            after = page[-1].key
            limit = next_limit(limit, page)

    def _look(self, keys: list[str]) -> dict[str, Record]:
        """Give those of the keys that are found, with their deadlines, in any order."""
        found = {}
        for key, value in self.get_many(keys).items():
            now, left = wall_ms(), self.ttl(key)
            if left is not None:
                found[key] = _record(key, value, now, left)
        return found

    def _load(self, records: Iterable[Record]) -> None:
        """Store a page of entries, each with its deadline; those past theirs are left out."""
        for left, entries in _by_deadline(records):
            self.set_many(entries, ttl=left)

    def _pages(self, prefix: str, match: str | None = None, after: str | None = None) -> Iterator[list[str]]:
        while page := self.keys(prefix, match=match, after=after, limit=PAGE):
            yield page
            after = page[-1]

    def close(self) -> None:
        if not self._is_view:
            self._close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _apply(self, key: str, fn: OwnFn, *, ttl: TTL | Keep = KEEP_TTL, ttl_if_new: TTL = None) -> bytes | None:
        """`update` with a function of this package's own, which is short: an optimistic `update` may do better."""
        return self.update(key, fn, ttl=ttl, ttl_if_new=ttl_if_new)

    def _changes(self, key: str, fn: OwnFn, ttl: TTL | Keep) -> bool:
        try:
            self._apply(key, fn, ttl=ttl)
        except Unchanged:
            return False
        return True

    def _check_open(self) -> None:
        self.exists("-")  # any operation says it where the store is closed


class AsyncBaseStore(_Namespaced, AsyncStore):
    """`BaseStore` for an engine whose driver is asynchronous."""

    @overload
    async def get(self, key: str) -> bytes | None: ...
    @overload
    async def get(self, key: str, default: D) -> bytes | D: ...
    @abstractmethod
    async def get(self, key: str, default: object = None) -> object: ...

    @abstractmethod
    async def set(self, key: str, value: Value, *, ttl: TTL = None) -> None: ...

    @abstractmethod
    async def delete(self, key: str) -> bool: ...

    @abstractmethod
    async def keys(
        self, prefix: str = "", *, match: str | None = None, after: str | None = None, limit: int | None = None
    ) -> list[str]: ...

    @abstractmethod
    async def _update(self, keys: list[str], fn: ManyFn, ages: Ages) -> dict[str, bytes]:
        """See `BaseStore._update`."""

    @abstractmethod
    async def ttl(self, key: str) -> float | None: ...

    @abstractmethod
    async def persist(self, key: str) -> bool: ...

    @abstractmethod
    async def namespaces(self) -> list[str]: ...

    @abstractmethod
    async def cleanup(self, *, limit: int | None = None) -> int: ...

    @abstractmethod
    async def _close(self) -> None:
        """Close what this store has opened. A second call does nothing."""

    # derived, and free to override

    async def update(
        self, key: str, fn: UpdateFn, *, ttl: TTL | Keep = KEEP_TTL, ttl_if_new: TTL = None
    ) -> bytes | None:
        key = check_key(key)
        check_fn(fn)
        return (await self._update([key], of_one(fn, key), update_ttl_ms(ttl, ttl_if_new))).get(key)

    async def update_many(
        self, keys: Iterable[str], fn: UpdateManyFn, *, ttl: TTL | Keep = KEEP_TTL, ttl_if_new: TTL = None
    ) -> dict[str, bytes]:
        asked = check_keys(keys)
        check_fn(fn, "update_many")
        return await self._update(asked, of_many(fn, asked), update_ttl_ms(ttl, ttl_if_new))

    async def get_many(self, keys: Iterable[str]) -> dict[str, bytes]:
        asked, look = check_keys(keys), Look()
        with suppress(Unchanged):  # all at one instant, so that no half of a `set_many` is seen
            await self.update_many(asked, look)
        return {key: look.found[key] for key in asked if key in look.found}

    async def set_many(self, items: Mapping[str, Value] | Iterable[tuple[str, Value]], *, ttl: TTL = None) -> None:
        entries = check_items(items)
        ttl_ms(ttl)
        await self.update_many(entries, lambda _: entries, ttl=ttl)

    async def delete_many(self, keys: Iterable[str]) -> int:
        asked = check_keys(keys)
        await self._check_open()
        return sum([await self.delete(key) for key in asked])

    async def add(self, key: str, value: Value, *, ttl: TTL = None) -> bool:
        ttl_ms(ttl)  # before any I/O; KEEP_TTL is for `update` alone
        return await self._changes(key, if_absent(check_value(value, key)), ttl)

    async def compare_and_set(
        self, key: str, expected: Value | None, value: Value | None, *, ttl: TTL | Keep = KEEP_TTL
    ) -> bool:
        return await self._changes(key, if_equal(*check_compared(expected, value, key)), ttl)

    @overload
    async def pop(self, key: str) -> bytes | None: ...
    @overload
    async def pop(self, key: str, default: D) -> bytes | D: ...
    async def pop(self, key: str, default: object = None) -> object:
        taken: list[bytes | None] = []
        await self._apply(key, taken.append)
        return default if taken[-1] is None else taken[-1]

    async def increment(self, key: str, amount: int = 1, *, ttl: TTL | Keep = KEEP_TTL, ttl_if_new: TTL = None) -> int:
        total = await self._apply(key, plus(check_amount(amount, key), key), ttl=ttl, ttl_if_new=ttl_if_new)
        return int(total or 0)

    async def exists(self, key: str) -> bool:
        return await self.ttl(key) is not None

    async def size(self, key: str) -> int | None:
        value = await self.get(key)
        return None if value is None else len(value)

    async def expire(self, key: str, ttl: TTL) -> bool:
        ttl_ms(ttl)
        return await self._changes(key, if_present, ttl)

    def scan(
        self, prefix: str = "", *, match: str | None = None, after: str | None = None, limit: int | None = None
    ) -> AsyncIterator[tuple[str, bytes]]:
        Listing(prefix, match, after, limit)  # at the call, not at the first step

        async def entries() -> AsyncIterator[tuple[str, bytes]]:
            async for page in self._pages(prefix, match, after):
                for key in page:  # each when its turn comes: by then it may have expired
                    if (value := await self.get(key)) is not None:
                        yield key, value

        return leading(entries(), limit)

    async def count(self, prefix: str = "", *, match: str | None = None) -> int:
        return sum([len(page) async for page in self._pages(prefix, match)])

    async def clear(self, prefix: str = "") -> int:
        return sum([await self.delete_many(page) async for page in self._pages(prefix)])

    async def stats(self) -> Stats:
        keys = key_bytes = value_bytes = 0
        async for key, value in self.scan():
            keys += 1
            key_bytes += len(key.encode())
            value_bytes += len(value)
        return Stats(keys, 0, key_bytes, value_bytes, None, type(self).__module__, "")

    async def compact(self) -> None:
        await self._check_open()  # most engines have nothing to give back

    async def verify(self) -> list[str]:
        async for _ in self.scan():
            pass
        return []

    # travelling, see `BaseStore`

    async def _gather(self) -> Self:
        return self

    async def _dump(self, after: str | None, limit: int) -> list[Record]:
        while keys := await self.keys(after=after, limit=limit):
            found = await self._look(keys)
            if found:
                return [found[key] for key in keys if key in found]
            after = keys[-1]  # all of them expired meanwhile: an empty page would mean the end
        return []

    async def _records(self, after: str | None) -> AsyncIterator[list[Record]]:
        limit = self._first_page
        while page := await self._dump(after, limit):
            yield page
            after = page[-1].key
            limit = next_limit(limit, page)

    async def _look(self, keys: list[str]) -> dict[str, Record]:
        found = {}
        for key, value in (await self.get_many(keys)).items():
            now, left = wall_ms(), await self.ttl(key)
            if left is not None:
                found[key] = _record(key, value, now, left)
        return found

    async def _load(self, records: Iterable[Record]) -> None:
        for left, entries in _by_deadline(records):
            await self.set_many(entries, ttl=left)

    async def _pages(self, prefix: str, match: str | None = None, after: str | None = None) -> AsyncIterator[list[str]]:
        while page := await self.keys(prefix, match=match, after=after, limit=PAGE):
            yield page
            after = page[-1]

    async def aclose(self) -> None:
        if not self._is_view:
            await self._close()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.aclose()

    async def _apply(self, key: str, fn: OwnFn, *, ttl: TTL | Keep = KEEP_TTL, ttl_if_new: TTL = None) -> bytes | None:
        """`update` with a function of this package's own, which is short: an optimistic `update` may do better."""
        return await self.update(key, fn, ttl=ttl, ttl_if_new=ttl_if_new)

    async def _changes(self, key: str, fn: OwnFn, ttl: TTL | Keep) -> bool:
        try:
            await self._apply(key, fn, ttl=ttl)
        except Unchanged:
            return False
        return True

    async def _check_open(self) -> None:
        await self.exists("-")  # any operation says it where the store is closed


async def leading(entries: AsyncIterator[T], limit: int | None) -> AsyncIterator[T]:
    """Give the first entries, as many as the limit says."""
    if limit == 0:
        return
    async for entry in entries:
        yield entry
        if limit is not None and (limit := limit - 1) == 0:
            return
