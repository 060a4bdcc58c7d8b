"""What stores in a file of this machine share: options, scans by pages, and an async colour on three threads."""

from __future__ import annotations

from abc import abstractmethod
from typing import TYPE_CHECKING, Any, ClassVar, Generic, ParamSpec, Protocol, TypeVar

from kv import options
from kv.base import BaseStore, leading
from kv.errors import ConfigError
from kv.expiry import wall_past
from kv.keys import Listing
from kv.lifted import AsyncFromSync
from kv.url import hide, unquoted_path

from .worker import Worker, one_by_one

if TYPE_CHECKING:
    import os
    from collections.abc import AsyncIterator, Callable, Iterator, Mapping
    from typing import Self

    from .worker import Runner

T = TypeVar("T")
P = ParamSpec("P")


class FileDatabase(Protocol):
    """What a store and all its views share."""

    name: str
    closed_message: str

    def open(self) -> object:
        """Open the file, where it is not open."""

    def close(self) -> None:
        """Close the file. A second call does nothing."""


DB = TypeVar("DB", bound=FileDatabase)


class FileStore(BaseStore, Generic[DB]):
    """A store in one file, for many threads and processes."""

    url_options: ClassVar[Mapping[str, options.Check]] = {
        "cleanup_interval": options.seconds_or_off,
        "durability": options.one_of("full", "normal"),
        "lock_timeout": options.seconds,
        "namespace": options.names,
    }
    _db: DB

    def _open(self) -> None:
        self._db.open()

    def _where(self) -> str:
        return self._db.name

    def _close(self) -> None:
        self._db.close()

    def scan(
        self, prefix: str = "", *, match: str | None = None, after: str | None = None, limit: int | None = None
    ) -> Iterator[tuple[str, bytes]]:
        listing = Listing(prefix, match, after, limit)
        self._db.open()
        return listing.pick_entries(
            (key, value) for page in self._pages_of(listing) for key, value, until in page if not wall_past(until)
        )

    @abstractmethod
    def _pages_of(self, listing: Listing) -> Iterator[list[tuple[str, bytes, int | None]]]:
        """Give the live rows of the range, a page at a time, holding nothing between two pages."""

    @abstractmethod
    def backup(self, path: str | os.PathLike[str]) -> None:
        """Copy the whole store, all namespaces, to a new file, while it is in use.

        The copy is one state of the store, and a store itself. Its file appears when it is whole and on disk.

        Raises:
            ConfigError: there is a file of that name.
            Unavailable: the disk is full, or the directory is not writable.
        """


S = TypeVar("S", bound=FileStore[Any])


class AsyncFileStore(AsyncFromSync, Generic[S]):
    """The async colour: connects at the first operation, or at `async with`.

    Reads, writes, and what takes long (`clear`, `cleanup`, `compact`, `stats`, `verify`, `backup`) run in a thread
    each, so none waits for the others. The writes that are waiting share one commit, and each returns after it.
    """

    _store: S

    url_options: ClassVar[Mapping[str, options.Check]] = FileStore.url_options

    def __init__(self, store: S, name: str, *, write: Runner, read: Runner = one_by_one) -> None:
        super().__init__(store)
        closed = store._db.closed_message
        self._reader = Worker(f"kv-{name}-reader", closed, read)
        self._writer = Worker(f"kv-{name}-writer", closed, write)
        self._keeper = Worker(f"kv-{name}-keeper", closed)

    async def _read(self, method: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        return await self._reader(lambda: method(*args, **kwargs))

    async def _write(self, method: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        return await self._writer(lambda: method(*args, **kwargs))

    async def _maintain(self, method: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        return await self._keeper(lambda: method(*args, **kwargs))

    async def backup(self, path: str | os.PathLike[str]) -> None:
        """See `FileStore.backup`."""
        await self._maintain(self._store.backup, path)

    def scan(
        self, prefix: str = "", *, match: str | None = None, after: str | None = None, limit: int | None = None
    ) -> AsyncIterator[tuple[str, bytes]]:
        listing = Listing(prefix, match, after, limit)
        pages = self._store._pages_of(listing)

        async def entries() -> AsyncIterator[tuple[str, bytes]]:
            while page := await self._read(next, pages, None):
                for key, value, until in page:
                    if (listing.matches is None or listing.matches(key)) and not wall_past(until):
                        yield key, value

        return leading(entries(), limit)

    async def _close(self) -> None:
        # what was asked before is done first, whoever is cancelled meanwhile
        for worker in (self._reader, self._keeper):
            worker.stop()
        self._writer.stop(self._end)
        await self._writer.ended()

    def _end(self) -> None:
        for worker in (self._reader, self._keeper):
            worker.join()
        self._store.close()

    async def __aenter__(self) -> Self:
        await self._write(self._store._db.open)
        return self


def path_of(url: str) -> str:
    """Give the path in a URL, by SQLAlchemy's convention: three slashes and a relative path, or four and an absolute."""
    scheme, _, rest = url.partition("://")
    if rest and not rest.startswith("/"):
        raise ConfigError(
            f"{hide(url)}: a relative path takes three slashes, {scheme}:///app.{_SUFFIXES.get(scheme, scheme)}, an "
            "absolute one four"
        )
    return unquoted_path(rest[1:])


_SUFFIXES = {"sqlite": "db"}
