"""A cache in this process, near whoever reads, of what a store far away holds.

What is answered from it is as old as `ttl` at most, never past its own deadline, and never older than a write through
this wrapper that has ended: before a write its keys are forgotten, and nothing that is read while it runs is kept (a read
may have begun before it and end after it, with the value of before).

A deadline that a server has set is compared with the clock of this machine: where that is behind, what has expired may be
given for as much longer, but for `ttl` at most. A write that was cancelled or is an `OutcomeUnknown` may happen after that;
then it is seen as others' writes are.
"""

from __future__ import annotations

import threading
from collections import Counter, OrderedDict
from time import monotonic, time
from typing import TYPE_CHECKING, Any, Final, NamedTuple, ParamSpec, TypeVar, overload

from kv.backends.forking import concerns
from kv.errors import ConfigError
from kv.expiry import ttl_ms
from kv.keys import SEPARATOR, check_key

from .base import AsyncWrapper, Wrapper

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Iterable
    from typing import Self

    from kv.expiry import TTL
    from kv.store import AsyncStore, Record, Store

__all__ = ["AsyncNearCache", "NearCache", "NearCacheInfo"]

D = TypeVar("D")
T = TypeVar("T")
P = ParamSpec("P")

TTL_: Final = 5.0
MAX_ENTRIES: Final = 10_000
MAX_BYTES: Final = 64 << 20
_END: Final = "\x1e"
"""Between a path and a key, where they are one, and before the root's keys. No path and no key that is kept can hold it, so
that no key that is asked for, however it was made, names an entry of another namespace.
"""


class NearCacheInfo(NamedTuple):
    """What `near_info` gives: of all namespaces, since the wrapper was made in this process."""

    hits: int
    """Counted without a lock: threads that hit at one instant may count as one."""
    misses: int
    entries: int
    """How many are kept now, those that have become too old counted in."""
    bytes: int
    """Of their names and values."""


class _Lease:
    """A read under way. What it finds is kept if nobody has written meanwhile."""

    __slots__ = ("began",)

    def __init__(self) -> None:
        self.began = monotonic()


class _Memory:
    """What is kept, for all namespaces of a store: values by name, each with the instant until which it may be given.

    Reading needs no lock: each step of a hit is one operation of an `OrderedDict`, which is whole for other threads, also
    without the GIL.
    """

    def __init__(self, ttl: float, max_entries: int, max_bytes: int) -> None:
        self.ttl = ttl
        self.max_entries = max_entries
        self.max_bytes = max_bytes
        self._begin()
        concerns(self)

    def _begin(self) -> None:
        self.entries: OrderedDict[str, tuple[bytes | None, float]] = OrderedDict()
        self._lock = threading.RLock()
        """Protects what follows, and every change of `entries`."""
        self._filling: dict[str, _Lease] = {}
        self._writing: Counter[str] = Counter()
        self._writing_all = 0
        self._bytes = 0
        self.hits = self.misses = 0

    def reading(self, name: str) -> _Lease | None:
        """Give what has to be shown to keep what will be read; None where it will not be kept."""
        with self._lock:
            self.misses += 1
            if self._writing_all or name in self._writing:
                return None
            lease = self._filling[name] = _Lease()
            return lease

    def read(self, name: str, lease: _Lease | None, found: dict[str, Record] | None) -> None:
        """Keep what was read, if nobody has written to it since then; None: nothing was."""
        with self._lock:
            if lease is None or self._filling.get(name) is not lease:
                return
            del self._filling[name]
            if found is None:
                return
            record = next(iter(found.values()), None)
            value = record.value if record else None
            until = lease.began + self.ttl  # it was read at some instant since then
            if record and record.expires_at is not None:
                until = min(until, monotonic() + record.expires_at / 1000 - time())
            if until > monotonic():
                self._keep(name, value, until)

    def _keep(self, name: str, value: bytes | None, until: float) -> None:
        self._drop(name)
        size = _size(name, value)
        if size > self.max_bytes:
            return
        self.entries[name] = (value, until)
        self._bytes += size
        while len(self.entries) > self.max_entries or self._bytes > self.max_bytes:
            oldest, entry = self.entries.popitem(last=False)  # in one step: a hit may reorder them between two
            self._bytes -= _size(oldest, entry[0])

    def _drop(self, name: str) -> None:
        if (entry := self.entries.pop(name, None)) is not None:
            self._bytes -= _size(name, entry[0])

    def writing(self, names: list[str] | None) -> None:
        """Forget what is about to be written; None: everything."""
        with self._lock:
            if names is None:
                self._writing_all += 1
                self.entries.clear()
                self._filling.clear()
                self._bytes = 0
                return
            for name in names:
                self._writing[name] += 1
                self._filling.pop(name, None)
                self._drop(name)

    def written(self, names: list[str] | None) -> None:
        """Keep it again from now on."""
        with self._lock:
            if names is None:
                self._writing_all = max(0, self._writing_all - 1)  # it may have begun before a fork
                return
            for name in names:
                self._writing[name] -= 1
                if self._writing[name] <= 0:
                    del self._writing[name]

    def info(self) -> NearCacheInfo:
        with self._lock:
            return NearCacheInfo(self.hits, self.misses, len(self.entries), self._bytes)

    def before_fork(self) -> None:
        pass

    def after_fork(self, *, child: bool) -> None:
        if child:  # where nobody goes on with what was under way
            self._begin()


def _size(name: str, value: bytes | None) -> int:
    return len(name) + len(value or b"")


class _Near:
    """What both colours share."""

    store: Any
    _memory: _Memory
    _prefix: str

    def _remember(self, ttl: TTL, max_entries: int, max_bytes: int) -> None:
        if not hasattr(self.store, "_look"):
            raise TypeError(f"{type(self).__name__} stands around stores of kv.base, not {type(self.store).__name__}")
        ms = ttl_ms(ttl)
        if ms is None:
            raise ConfigError("the ttl of a near cache must end: others' writes are seen after that")
        for bound in (max_entries, max_bytes):
            if not isinstance(bound, int) or isinstance(bound, bool) or bound < 1:
                raise ConfigError("max_entries and max_bytes of a near cache are whole numbers, 1 or more")
        self._memory = _Memory(ms / 1000, max_entries, max_bytes)

    def _stand(self, store: Any) -> None:
        super()._stand(store)  # type: ignore[misc]
        path = self._path  # type: ignore[attr-defined]
        self._prefix = SEPARATOR.join(path) + _END

    def _names(self, keys: Iterable[str] | None) -> list[str] | None:
        return None if keys is None else [self._prefix + check_key(key) for key in keys]

    def bind(self, connection: Any) -> Self:
        """See `Wrapper.bind`. Inside a transaction nothing is answered from memory, and what it writes is seen by other reads of
        this process as others' writes are: after `ttl` at most.
        """
        view: Self = super().bind(connection)  # type: ignore[misc]
        view._memory = _Memory(self._memory.ttl, 0, 0)
        return view

    def near_info(self) -> NearCacheInfo:
        """Give figures of what is kept, as `functools.lru_cache` does."""
        return self._memory.info()


class NearCache(_Near, Wrapper):
    """A `Store` whose `get` is answered from memory where it can be; everything else asks the store inside.

    Threads and tasks of this process see each other's writes at once; those of other processes after `ttl` at most. Missing
    keys are remembered too. Batches ask the store, so that they are of one instant.

    Args:
        store: what it stands around. Closing this closes it.
        ttl: seconds, to the millisecond, or a `timedelta`: how old what is given may be.
        max_entries: how many are kept; those not asked for the longest go first.
        max_bytes: of names and values. A larger value is not kept.

    Raises:
        ConfigError: a bound is not a positive whole number, or the ttl does not end.
    """

    def __init__(
        self, store: Store, *, ttl: TTL = TTL_, max_entries: int = MAX_ENTRIES, max_bytes: int = MAX_BYTES
    ) -> None:
        super().__init__(store)
        self._remember(ttl, max_entries, max_bytes)

    @overload
    def get(self, key: str) -> bytes | None: ...
    @overload
    def get(self, key: str, default: D) -> bytes | D: ...
    def get(self, key: str, default: object = None) -> object:
        memory = self._memory
        try:
            name = self._prefix + key
            value, until = memory.entries[name]
            if monotonic() < until:
                memory.entries.move_to_end(name)
                memory.hits += 1
                return default if value is None else value
        except (KeyError, TypeError):  # not kept, or not any more; or no key, which is said below
            pass
        key = check_key(key)
        name = self._prefix + key
        lease = memory.reading(name)
        found: dict[str, Record] | None = None
        try:
            found = self._read(self.store._look, [key])
        finally:
            memory.read(name, lease, found)
        return found[key].value if found else default

    def _write(self, keys: Iterable[str] | None, method: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        names = self._names(keys)
        self._memory.writing(names)
        try:
            return super()._write(keys, method, *args, **kwargs)
        finally:
            self._memory.written(names)

    def _close(self) -> None:
        self._memory.writing(None)  # for ever: nothing is answered any more
        super()._close()


class AsyncNearCache(_Near, AsyncWrapper):
    """See `NearCache`."""

    def __init__(
        self, store: AsyncStore, *, ttl: TTL = TTL_, max_entries: int = MAX_ENTRIES, max_bytes: int = MAX_BYTES
    ) -> None:
        super().__init__(store)
        self._remember(ttl, max_entries, max_bytes)

    @overload
    async def get(self, key: str) -> bytes | None: ...
    @overload
    async def get(self, key: str, default: D) -> bytes | D: ...
    async def get(self, key: str, default: object = None) -> object:
        memory = self._memory
        try:
            name = self._prefix + key
            value, until = memory.entries[name]
            if monotonic() < until:
                memory.entries.move_to_end(name)
                memory.hits += 1
                return default if value is None else value
        except (KeyError, TypeError):  # see the sync colour
            pass
        key = check_key(key)
        name = self._prefix + key
        lease = memory.reading(name)
        found: dict[str, Record] | None = None
        try:
            found = await self._read(self.store._look, [key])
        finally:
            memory.read(name, lease, found)
        return found[key].value if found else default

    async def _write(
        self, keys: Iterable[str] | None, method: Callable[P, Awaitable[T]], *args: P.args, **kwargs: P.kwargs
    ) -> T:
        names = self._names(keys)
        self._memory.writing(names)
        try:
            return await super()._write(keys, method, *args, **kwargs)
        finally:
            self._memory.written(names)

    async def _close(self) -> None:
        self._memory.writing(None)
        await super()._close()
