"""The smallest backend, in both colours: nothing but the abstract methods. All the rest is derived."""

from __future__ import annotations

import asyncio
import math
import threading
import time
from typing import TYPE_CHECKING

from kv.base import AsyncBaseStore, BaseStore
from kv.errors import StoreClosed
from kv.expiry import KEEP_TTL, TTL, Ages, Keep, ttl_ms
from kv.keys import Listing, check_key, check_limit
from kv.values import check_value

if TYPE_CHECKING:
    from collections.abc import Iterable

    from kv.store import Value
    from kv.values import ManyFn

Path = tuple[str, ...]


class Table:
    """A dict of all entries, each a value and a deadline, and what is said of it under a lock."""

    def __init__(self) -> None:
        self.entries: dict[tuple[Path, str], tuple[bytes, float]] = {}
        self.lock = threading.RLock()
        self.closed = False

    def find(self, path: Path, key: str) -> tuple[bytes, float] | None:
        if self.closed:
            raise StoreClosed("this tiny store is closed")
        entry = self.entries.get((path, key))
        return entry if entry and time.monotonic() < entry[1] else None

    def put(self, path: Path, key: str, value: bytes | None, ms: int | Keep | None) -> bool:
        """Store, or delete where the value is None. Gives whether there was a live entry."""
        old = self.find(path, key)
        if value is None:
            self.entries.pop((path, key), None)
        elif ms is KEEP_TTL:
            self.entries[path, key] = (value, old[1] if old else math.inf)
        else:
            self.entries[path, key] = (value, math.inf if ms is None else time.monotonic() + ms / 1_000)
        return old is not None

    def live(self) -> list[tuple[Path, str]]:
        return [where for where in [*self.entries] if self.find(*where)]


class TinyStore(BaseStore):
    def __init__(self, *, namespace: str | Iterable[str] | None = None) -> None:
        super().__init__(namespace=namespace)
        self._table = Table()

    def get(self, key: str, default: object = None) -> object:  # type: ignore[override]
        entry = self._table.find(self._path, check_key(key))
        return entry[0] if entry else default

    def set(self, key: str, value: Value, *, ttl: TTL = None) -> None:
        key, value, ms = check_key(key), check_value(value, key), ttl_ms(ttl)
        with self._table.lock:
            self._table.put(self._path, key, value, ms)

    def delete(self, key: str) -> bool:
        key = check_key(key)
        with self._table.lock:
            return self._table.put(self._path, key, None, None)

    def _update(self, keys: list[str], fn: ManyFn, ages: Ages) -> dict[str, bytes]:
        there, created = ages
        with self._table.lock:
            self._table.find(self._path, "-")  # is it open?
            found = {key: entry[0] for key in keys if (entry := self._table.find(self._path, key))}
            answer = fn(found)
            for key in keys:
                self._table.put(self._path, key, answer.get(key), there if key in found else created)
            return answer

    def keys(
        self, prefix: str = "", *, match: str | None = None, after: str | None = None, limit: int | None = None
    ) -> list[str]:
        listing = Listing(prefix, match, after, limit)
        self._table.find(self._path, "-")
        with self._table.lock:
            keys = sorted(key for path, key in self._table.live() if path == self._path)
        return listing.pick(key for key in keys if listing.start <= key and (not listing.stop or key < listing.stop))

    def ttl(self, key: str) -> float | None:
        entry = self._table.find(self._path, check_key(key))
        return entry[1] - time.monotonic() if entry else None

    def persist(self, key: str) -> bool:
        key = check_key(key)
        with self._table.lock:
            entry = self._table.find(self._path, key)
            if entry is None or entry[1] == math.inf:
                return False
            return self._table.put(self._path, key, entry[0], None)

    def namespaces(self) -> list[str]:
        self._table.find(self._path, "-")
        depth = len(self._path)
        with self._table.lock:
            below = [path for path, _ in self._table.live() if len(path) > depth and path[:depth] == self._path]
        return sorted({path[depth] for path in below})

    def cleanup(self, *, limit: int | None = None) -> int:
        check_limit(limit)
        with self._table.lock:
            old = [where for where in self._table.entries if not self._table.find(*where)][:limit]
            for where in old:
                del self._table.entries[where]
        return len(old)

    def _close(self) -> None:
        self._table.closed = True


class AsyncTinyStore(AsyncBaseStore):
    def __init__(self, *, namespace: str | Iterable[str] | None = None) -> None:
        super().__init__(namespace=namespace)
        self._root = TinyStore()

    async def _at(self) -> TinyStore:
        await asyncio.sleep(0)  # as a network would: what is not atomic shows
        return self._root._view(self._path)

    async def get(self, key: str, default: object = None) -> object:  # type: ignore[override]
        return (await self._at()).get(key, default)

    async def set(self, key: str, value: Value, *, ttl: TTL = None) -> None:
        value = check_value(value, key)  # as it is now, whatever becomes of a buffer on the way
        (await self._at()).set(key, value, ttl=ttl)

    async def delete(self, key: str) -> bool:
        return (await self._at()).delete(key)

    async def _update(self, keys: list[str], fn: ManyFn, ages: Ages) -> dict[str, bytes]:
        return (await self._at())._update(keys, fn, ages)

    async def keys(
        self, prefix: str = "", *, match: str | None = None, after: str | None = None, limit: int | None = None
    ) -> list[str]:
        return (await self._at()).keys(prefix, match=match, after=after, limit=limit)

    async def ttl(self, key: str) -> float | None:
        return (await self._at()).ttl(key)

    async def persist(self, key: str) -> bool:
        return (await self._at()).persist(key)

    async def namespaces(self) -> list[str]:
        return (await self._at()).namespaces()

    async def cleanup(self, *, limit: int | None = None) -> int:
        return (await self._at()).cleanup(limit=limit)

    async def _close(self) -> None:
        self._root.close()
