"""The contract: what a store promises, written where each method is declared.

`Store` and `AsyncStore` have the same names, parameters and defaults; only `close` and `aclose` differ. To write a
backend, start from `kv.base`, which derives most of this from a few methods.

Every method raises `InvalidKey`, `InvalidValue` or `InvalidTTL` before any I/O, `StoreClosed` after close, and
`Unavailable`, `Conflict`, `OutcomeUnknown` or `CorruptData` for what the engine meets. An expired entry is a missing
one, from its deadline on, for every method.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, NamedTuple, Protocol, TypeAlias, TypeVar, overload

from .expiry import KEEP_TTL

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterable, Iterator
    from types import TracebackType
    from typing import Self

    from .expiry import TTL, Keep

__all__ = ["AsyncStore", "Stats", "Store", "Value"]

D = TypeVar("D")

Value: TypeAlias = bytes | bytearray | memoryview
"""What may be stored. What comes back is always `bytes`."""

UpdateFn: TypeAlias = Callable[[bytes | None], Value | None]
UpdateManyFn: TypeAlias = Callable[[dict[str, bytes]], Mapping[str, Value]]


class Stats(NamedTuple):
    """What `stats` gives: figures of one namespace, except `disk_bytes`, which is the whole store's."""

    keys: int
    """Live entries."""
    expired: int
    """Entries past their deadline that no cleanup has removed yet."""
    key_bytes: int
    """Bytes of the live keys, as UTF-8."""
    value_bytes: int
    """Bytes of the live values."""
    disk_bytes: int | None
    """Bytes that the whole store takes on disk; None where it takes none or the backend cannot tell."""
    backend: str
    """The backend's name: `"memory"`, `"sqlite"`, ..."""
    version: str
    """The engine's or the server's version."""


class Record(NamedTuple):
    """An entry as it travels between stores."""

    key: str
    value: bytes
    expires_at: int | None
    """The deadline, in milliseconds since 1970; None: never."""


class Store(Protocol):
    """A key-value store: five methods, `get set delete update keys`, and what follows from them."""

    @overload
    def get(self, key: str) -> bytes | None: ...
    @overload
    def get(self, key: str, default: D) -> bytes | D: ...
    def get(self, key: str, default: object = None) -> object:
        """Give the value, or `default` where the key is missing. A read never writes."""
        ...

    def set(self, key: str, value: Value, *, ttl: TTL = None) -> None:
        """Store the value as it is at the call. Without a ttl the entry never expires, whatever it did before.

        Args:
            key: 1 to 2,048 bytes of UTF-8 with no control characters and no lone surrogates.
            value: bytes; the empty one is a value too.
            ttl: seconds or a `timedelta`, to the millisecond, rounded up; None and `math.inf` mean never.

        Raises:
            ValueTooLarge: the backend cannot hold it; nothing has changed.
        """
        ...

    def delete(self, key: str) -> bool:
        """Remove the entry. Gives whether there was a live one."""
        ...

    def update(self, key: str, fn: UpdateFn, *, ttl: TTL | Keep = KEEP_TTL, ttl_if_new: TTL = None) -> bytes | None:
        """Read, modify and write as one atomic step. Gives the new value.

        Between the value that `fn` gets and the one that is stored no other write to the key happens, from any thread,
        task, process or machine, also where the key is missing. If `fn` raises, nothing has changed and that same
        exception comes out.

        Args:
            key: the key; it may be missing.
            fn: a plain, pure function (in the async colour too) of the value, or of None where the key is missing. It
                gives the new value, or None to delete. A backend may call it again after a conflict, and from a thread
                of its own.
            ttl: counts from the write; `KEEP_TTL` keeps the deadline that the entry has.
            ttl_if_new: instead of `ttl` where this call creates the entry; None: nothing instead.

        Raises:
            TypeError: `fn` is a coroutine function, or not callable.
            Conflict: gave up after a bounded wait or bounded retries.
        """
        ...

    def keys(
        self, prefix: str = "", *, match: str | None = None, after: str | None = None, limit: int | None = None
    ) -> list[str]:
        """List the live keys, sorted by code point.

        Args:
            prefix: only keys that begin with it, literally.
            match: only keys that the glob matches as a whole: `*`, `?`, `[a-z]`, `[!a]`; a backslash escapes.
            after: only keys greater than it; it need not exist. With `limit`, this pages.
            limit: at most so many; 0 gives none, a negative one is a `ValueError`.
        """
        ...

    def get_many(self, keys: Iterable[str]) -> dict[str, bytes]:
        """Give the entries that are found, in the order asked."""
        ...

    def set_many(self, items: Mapping[str, Value] | Iterable[tuple[str, Value]], *, ttl: TTL = None) -> None:
        """Store all or nothing; no reader sees half of it. Of a key that comes twice, the last value is stored."""
        ...

    def delete_many(self, keys: Iterable[str]) -> int:
        """Remove the entries. Gives how many live ones there were."""
        ...

    def update_many(
        self, keys: Iterable[str], fn: UpdateManyFn, *, ttl: TTL | Keep = KEEP_TTL, ttl_if_new: TTL = None
    ) -> dict[str, bytes]:
        """Read, modify and write several keys as one atomic step. Gives what is stored under them now.

        Args:
            keys: every key that `fn` may read or write.
            fn: as for `update`, but of a dict of the entries that are found; it gives the dict to store. A key that it
                leaves out is deleted.
            ttl: as for `update`, for each key.
            ttl_if_new: as for `update`, for each key.

        Raises:
            InvalidKey: also for a key in the answer that is not in `keys`; nothing has changed.
        """
        ...

    def add(self, key: str, value: Value, *, ttl: TTL = None) -> bool:
        """Store only where there is no live entry. Of many callers exactly one gets True."""
        ...

    def compare_and_set(
        self, key: str, expected: Value | None, value: Value | None, *, ttl: TTL | Keep = KEEP_TTL
    ) -> bool:
        """Store `value` only where the entry is `expected`, in one atomic step. Gives whether it did.

        Args:
            key: the key.
            expected: what must be stored; None: there must be no live entry.
            value: what to store; None: delete.
            ttl: counts from the write; `KEEP_TTL` keeps the deadline that the entry has.
        """
        ...

    @overload
    def pop(self, key: str) -> bytes | None: ...
    @overload
    def pop(self, key: str, default: D) -> bytes | D: ...
    def pop(self, key: str, default: object = None) -> object:
        """Give the value and delete it in one atomic step. Of many callers one gets it."""
        ...

    def increment(self, key: str, amount: int = 1, *, ttl: TTL | Keep = KEEP_TTL, ttl_if_new: TTL = None) -> int:
        """Add to the integer that is stored, in one atomic step; a missing key counts as zero. Gives the sum.

        Args:
            key: the key.
            amount: any integer within 64 bits, signed.
            ttl: as for `update`.
            ttl_if_new: as for `update`.

        Raises:
            NotAnInteger: the value is not a canonical decimal integer within 64 bits, like `b"42"` or `b"-7"`.
            IntegerOverflow: the amount or the sum leaves 64 bits.
            TypeError: the amount is not an `int`.
        """
        ...

    def exists(self, key: str) -> bool:
        """Give whether there is a live entry. Does not read the value."""
        ...

    def size(self, key: str) -> int | None:
        """Give the bytes of the value, or None where the key is missing."""
        ...

    def ttl(self, key: str) -> float | None:
        """Give the seconds left, `math.inf` where the entry never expires, None where the key is missing."""
        ...

    def expire(self, key: str, ttl: TTL) -> bool:
        """Give a live entry a new deadline. Gives whether there was one."""
        ...

    def persist(self, key: str) -> bool:
        """Remove the deadline of a live entry. Gives whether there was a deadline."""
        ...

    def scan(
        self, prefix: str = "", *, match: str | None = None, after: str | None = None, limit: int | None = None
    ) -> Iterator[tuple[str, bytes]]:
        """Iterate over the live entries, sorted by key; parameters as for `keys`.

        Reads a page at a time, so memory does not grow with the store. It is no snapshot, but every entry that lives
        all along comes exactly once. An abandoned iterator holds no lock and no connection.
        """
        ...

    def count(self, prefix: str = "", *, match: str | None = None) -> int:
        """Count the live keys; parameters as for `keys`."""
        ...

    def clear(self, prefix: str = "") -> int:
        """Delete the entries of this namespace, and of no other, whose keys begin with `prefix`. Gives how many."""
        ...

    def cleanup(self, *, limit: int | None = None) -> int:
        """Remove expired entries of the whole store, in bounded batches. Gives how many.

        Whether it runs never shows in any other method. Safe beside any other call and beside itself.
        """
        ...

    def stats(self) -> Stats:
        """Give figures of this namespace. Reads every key of it."""
        ...

    def compact(self) -> None:
        """Give unused space back to the system. May take long, and as much free space as the store has."""
        ...

    def verify(self) -> list[str]:
        """Read the whole store and name what is wrong. Empty: all is well."""
        ...

    def namespace(self, name: str) -> Self:
        """Give a store of its own over the same connection; closing it closes nothing.

        Args:
            name: any key of up to 255 bytes. A name inside a name nests; the whole path is up to 1,024 bytes.
        """
        ...

    def namespaces(self) -> list[str]:
        """List the names directly under this one with live entries in or below them, sorted."""
        ...

    def close(self) -> None:
        """Close what this store has opened. A second call does nothing."""
        ...

    def __enter__(self) -> Self: ...
    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None: ...


class AsyncStore(Protocol):
    """`Store` for asyncio: the same names and the same promises.

    A cancelled call leaves the old value or the new one, and neither a lock nor a lost connection. A call begins when it
    is awaited, or when its task first runs; what its arguments hold then is what counts. A `StopIteration` of a user's
    function comes out as a `RuntimeError` that it is the cause of, as from any coroutine.
    """

    @overload
    async def get(self, key: str) -> bytes | None: ...
    @overload
    async def get(self, key: str, default: D) -> bytes | D: ...
    async def get(self, key: str, default: object = None) -> object:
        """See `Store.get`."""
        ...

    async def set(self, key: str, value: Value, *, ttl: TTL = None) -> None:
        """See `Store.set`."""
        ...

    async def delete(self, key: str) -> bool:
        """See `Store.delete`."""
        ...

    async def update(
        self, key: str, fn: UpdateFn, *, ttl: TTL | Keep = KEEP_TTL, ttl_if_new: TTL = None
    ) -> bytes | None:
        """See `Store.update`. `fn` is a plain function here too."""
        ...

    async def keys(
        self, prefix: str = "", *, match: str | None = None, after: str | None = None, limit: int | None = None
    ) -> list[str]:
        """See `Store.keys`."""
        ...

    async def get_many(self, keys: Iterable[str]) -> dict[str, bytes]:
        """See `Store.get_many`."""
        ...

    async def set_many(self, items: Mapping[str, Value] | Iterable[tuple[str, Value]], *, ttl: TTL = None) -> None:
        """See `Store.set_many`."""
        ...

    async def delete_many(self, keys: Iterable[str]) -> int:
        """See `Store.delete_many`."""
        ...

    async def update_many(
        self, keys: Iterable[str], fn: UpdateManyFn, *, ttl: TTL | Keep = KEEP_TTL, ttl_if_new: TTL = None
    ) -> dict[str, bytes]:
        """See `Store.update_many`."""
        ...

    async def add(self, key: str, value: Value, *, ttl: TTL = None) -> bool:
        """See `Store.add`."""
        ...

    async def compare_and_set(
        self, key: str, expected: Value | None, value: Value | None, *, ttl: TTL | Keep = KEEP_TTL
    ) -> bool:
        """See `Store.compare_and_set`."""
        ...

    @overload
    async def pop(self, key: str) -> bytes | None: ...
    @overload
    async def pop(self, key: str, default: D) -> bytes | D: ...
    async def pop(self, key: str, default: object = None) -> object:
        """See `Store.pop`."""
        ...

    async def increment(self, key: str, amount: int = 1, *, ttl: TTL | Keep = KEEP_TTL, ttl_if_new: TTL = None) -> int:
        """See `Store.increment`."""
        ...

    async def exists(self, key: str) -> bool:
        """See `Store.exists`."""
        ...

    async def size(self, key: str) -> int | None:
        """See `Store.size`."""
        ...

    async def ttl(self, key: str) -> float | None:
        """See `Store.ttl`."""
        ...

    async def expire(self, key: str, ttl: TTL) -> bool:
        """See `Store.expire`."""
        ...

    async def persist(self, key: str) -> bool:
        """See `Store.persist`."""
        ...

    def scan(
        self, prefix: str = "", *, match: str | None = None, after: str | None = None, limit: int | None = None
    ) -> AsyncIterator[tuple[str, bytes]]:
        """See `Store.scan`."""
        ...

    async def count(self, prefix: str = "", *, match: str | None = None) -> int:
        """See `Store.count`."""
        ...

    async def clear(self, prefix: str = "") -> int:
        """See `Store.clear`."""
        ...

    async def cleanup(self, *, limit: int | None = None) -> int:
        """See `Store.cleanup`."""
        ...

    async def stats(self) -> Stats:
        """See `Store.stats`."""
        ...

    async def compact(self) -> None:
        """See `Store.compact`."""
        ...

    async def verify(self) -> list[str]:
        """See `Store.verify`."""
        ...

    def namespace(self, name: str) -> Self:
        """See `Store.namespace`. Never awaited."""
        ...

    async def namespaces(self) -> list[str]:
        """See `Store.namespaces`."""
        ...

    async def aclose(self) -> None:
        """See `Store.close`."""
        ...

    async def __aenter__(self) -> Self: ...
    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None: ...
